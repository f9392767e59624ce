"""/api/v1/notifications and /mailbox: what customers were told, and what the built-in mailbox received."""

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Response

from forewarn_cloud import views
from forewarn_cloud.api import answers
from forewarn_cloud.api.access import Deps, Desk, Reader
from forewarn_cloud.api.changes import Changing
from forewarn_cloud.api.fields import IdInPath, IdInQuery
from forewarn_cloud.api.pagination import Listing, Pages
from forewarn_cloud.errors import NotFound
from forewarn_cloud.service import messages as service

router = APIRouter(tags=["messages"])

MessageId = Annotated[str, Path(pattern=r"^[\x21-\x7e]{1,300}$", description="The Message-ID, URL-encoded.")]
Address = Annotated[str | None, Query(pattern=r"^[^\s\x00-\x1f\x7f]{1,254}$")]


@router.get("/notifications", response_model=Listing[answers.Notification])
def list_notifications(
    deps: Deps,
    principal: Reader,
    pages: Pages,
    state: Literal["PENDING", "SENT", "DEAD"] | None = None,
    order_id: IdInQuery = None,
) -> Listing[views.Notification]:
    """The outbox, the latest first. DEAD ones were tried for a day; they can be replayed."""
    with deps.reading() as connection:
        page = views.list_notifications(
            connection, principal.tenant, state=state, order_id=order_id, after=pages.after, limit=pages.limit
        )
    return pages.listing(page)


@router.get("/notifications/{notification_id}", response_model=answers.Notification)
def get_notification(deps: Deps, principal: Reader, notification_id: IdInPath) -> views.Notification:
    with deps.reading() as connection:
        found = views.get_notification(connection, principal.tenant, notification_id)
    if found is None:
        raise NotFound("notification", notification_id)
    return found


@router.post("/notifications/{notification_id}/replay", response_model=answers.Notification)
def replay_notification(deps: Deps, principal: Desk, change: Changing, notification_id: IdInPath) -> Response:
    """Try a DEAD one again, with all its tries before it."""
    return change.run(
        principal,
        lambda uow: service.replay(uow, principal, deps.clock, notification_id),
        lambda connection: answers.Notification.model_validate(
            views.get_notification(connection, principal.tenant, notification_id)
        ),
    )


@router.get("/mailbox", response_model=Listing[answers.MailSummary])
def list_mailbox(deps: Deps, principal: Reader, pages: Pages, recipient: Address = None) -> Listing[views.MailSummary]:
    """What the built-in SMTP server received, the latest first. Empty where a real mail server is configured."""
    with deps.reading() as connection:
        page = views.list_mailbox(
            connection, principal.tenant, recipient=recipient, after=pages.after, limit=pages.limit
        )
    return pages.listing(page)


@router.get("/mailbox/{message_id}", response_model=answers.Mail)
def get_mail(deps: Deps, principal: Reader, message_id: MessageId) -> views.Mail:
    with deps.reading() as connection:
        found = views.get_mail(connection, principal.tenant, message_id)
    if found is None:
        raise NotFound("mail", message_id)
    return found

"""/api/v1/quarantine, /gaps, /audit: what was refused, what agents had to drop, and who did what."""

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Response
from sqlalchemy import Connection

from forewarn_cloud import views
from forewarn_cloud.api import answers
from forewarn_cloud.api.access import Deps, Desk, Reader
from forewarn_cloud.api.changes import Changing
from forewarn_cloud.api.fields import IdentifierInQuery, IdInQuery
from forewarn_cloud.api.pagination import Listing, Pages
from forewarn_cloud.errors import NotFound
from forewarn_cloud.ingest.replay import replay
from forewarn_cloud.ports import UnitOfWork

router = APIRouter(tags=["records"])

RefusedId = Annotated[int, Path(ge=1, le=2**53)]


@router.get("/quarantine", response_model=Listing[answers.Refused])
def list_quarantine(
    deps: Deps, principal: Reader, pages: Pages, node: IdentifierInQuery = None, security: bool | None = None
) -> Listing[views.Refused]:
    """Messages and records that were refused, with the reason, the latest first."""
    with deps.reading() as connection:
        page = views.list_quarantine(
            connection, principal.tenant, node=node, security=security, after=pages.after, limit=pages.limit
        )
    return pages.listing(page)


@router.get("/quarantine/{refused_id}", response_model=answers.Refused)
def get_refused(deps: Deps, principal: Reader, refused_id: RefusedId) -> views.Refused:
    with deps.reading() as connection:
        found = views.get_refused(connection, principal.tenant, refused_id)
    if found is None:
        raise NotFound("quarantined message", str(refused_id))
    return found


@router.post("/quarantine/{refused_id}/replay", response_model=answers.Replayed)
def replay_refused(deps: Deps, principal: Desk, change: Changing, refused_id: RefusedId) -> Response:
    """Judge it anew, as if it were delivered now. What is taken leaves the quarantine; what is refused again stays
    there, with the reason it has now."""
    outcome = list[answers.Replayed]()

    def act(uow: UnitOfWork, connection: Connection) -> None:
        found = replay(uow, deps.ledger(connection), principal, deps.clock, refused_id)
        outcome[:] = [answers.Replayed.model_validate(found)]

    return change.run_on(principal, act, lambda _: outcome[0])


@router.get("/gaps", response_model=Listing[answers.Gap])
def list_gaps(deps: Deps, principal: Reader, pages: Pages, node: IdentifierInQuery = None) -> Listing[views.Gap]:
    """Records that agents reported as dropped, or that are known to be lost, and whether they have come after all."""
    with deps.reading() as connection:
        page = views.list_gaps(connection, principal.tenant, node=node, after=pages.after, limit=pages.limit)
    return pages.listing(page)


@router.get("/audit", response_model=Listing[answers.AuditEntry])
def list_audit(
    deps: Deps,
    principal: Reader,
    pages: Pages,
    subject: Literal["order", "episode", "part", "asset", "node", "diagnosis", "database", "quarantine"] | None = None,
    subject_id: IdInQuery = None,
) -> Listing[views.AuditEntry]:
    """Who did what to which thing, the latest first."""
    with deps.reading() as connection:
        page = views.list_audit(
            connection,
            principal.tenant,
            subject=subject,
            subject_id=subject_id,
            after=pages.after,
            limit=pages.limit,
        )
    return pages.listing(page)

"""/api/v1/orders: the queue, one order with everything behind it, and what people do with it."""

from collections.abc import Callable
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response
from pydantic import Field

from forewarn_cloud import entities, views
from forewarn_cloud.api import answers
from forewarn_cloud.api.access import Deps, Desk, Reader, Technician
from forewarn_cloud.api.changes import Change, Changing
from forewarn_cloud.api.fields import Identifier, IdentifierInQuery, IdInPath, InstantIn, Line, Prose, RequestBody
from forewarn_cloud.api.pagination import Listing, Pages
from forewarn_cloud.api.versions import ExpectedVersion, etag
from forewarn_cloud.entities import OrderState, Outcome
from forewarn_cloud.errors import NotFound
from forewarn_cloud.ports import UnitOfWork
from forewarn_cloud.principal import Principal
from forewarn_cloud.service import desk

router = APIRouter(prefix="/orders", tags=["orders"])

Sort = Literal["needed_by", "-opened", "opened", "-priority", "number"]


@router.get("", response_model=Listing[answers.Order])
def list_orders(
    deps: Deps,
    principal: Reader,
    pages: Pages,
    state: Annotated[list[OrderState] | None, Query(description="Any of these; may be repeated.")] = None,
    sort: Sort = "needed_by",
    asset: IdentifierInQuery = None,
    site: IdentifierInQuery = None,
    customer: IdentifierInQuery = None,
    failure_mode: IdentifierInQuery = None,
) -> Listing[views.Order]:
    with deps.reading() as connection:
        page = views.list_orders(
            connection,
            principal.tenant,
            states=state or (),
            sort=sort,
            after=pages.after,
            limit=pages.limit,
            asset=asset,
            site=site,
            customer=customer,
            failure_mode=failure_mode,
        )
    return pages.listing(page)


@router.get("/{order_id}", response_model=answers.OrderDetail)
def get_order(deps: Deps, principal: Reader, response: Response, order_id: IdInPath) -> views.OrderDetail:
    """An order with its episode, decision, parts, finding, timeline and the messages sent."""
    with deps.reading() as connection:
        found = views.get_order_detail(connection, principal.tenant, order_id)
    if found is None:
        raise NotFound("order", order_id)
    response.headers["ETag"] = etag(found.order.version)
    return found


class Acknowledgement(RequestBody):
    """Nothing to say."""


class Visit(RequestBody):
    at: InstantIn = Field(description="When the technician comes.")
    assignee: Line = Field(description="Who comes.")


class Start(RequestBody):
    """Nothing to say."""


class Finding(RequestBody):
    """What the technician found."""

    outcome: Outcome
    failure_mode: Identifier | None = Field(
        None, description="The order's own if left out; none where no fault was found."
    )
    note: Prose = ""


class Cancellation(RequestBody):
    reason: Line = Field(description="The customer reads it.")


@router.post("/{order_id}/acknowledge", response_model=answers.Order)
def acknowledge(
    deps: Deps,
    principal: Technician,
    change: Changing,
    version: ExpectedVersion,
    order_id: IdInPath,
    body: Acknowledgement,  # noqa: ARG001 - its being empty is checked
) -> Response:
    """Someone looks after it. A proposal becomes an order."""
    return _change(
        principal, change, order_id, lambda uow: desk.acknowledge(uow, principal, deps.clock, order_id, version)
    )


@router.post("/{order_id}/schedule", response_model=answers.Order)
def schedule(
    deps: Deps, principal: Technician, change: Changing, version: ExpectedVersion, order_id: IdInPath, body: Visit
) -> Response:
    """Agree on a visit, or move it; the customer is told."""

    def act(uow: UnitOfWork) -> None:
        desk.schedule(uow, principal, deps.clock, order_id, version, visit_at=body.at, assignee=body.assignee)

    return _change(principal, change, order_id, act)


@router.post("/{order_id}/start", response_model=answers.Order)
def start(
    deps: Deps,
    principal: Technician,
    change: Changing,
    version: ExpectedVersion,
    order_id: IdInPath,
    body: Start,  # noqa: ARG001 - its being empty is checked
) -> Response:
    """Work begins; all parts have to be there."""
    return _change(principal, change, order_id, lambda uow: desk.start(uow, principal, deps.clock, order_id, version))


@router.post("/{order_id}/complete", response_model=answers.Order)
def complete(
    deps: Deps, principal: Technician, change: Changing, version: ExpectedVersion, order_id: IdInPath, body: Finding
) -> Response:
    """Work is done. The parts are used up, the customer is told, and the machine is learned anew."""
    finding = entities.Finding(outcome=body.outcome, failure_mode=body.failure_mode, note=body.note)

    def act(uow: UnitOfWork) -> None:
        desk.complete(uow, principal, deps.clock, order_id, version, finding=finding)

    return _change(principal, change, order_id, act)


@router.post("/{order_id}/cancel", response_model=answers.Order)
def cancel(
    deps: Deps, principal: Desk, change: Changing, version: ExpectedVersion, order_id: IdInPath, body: Cancellation
) -> Response:
    """Decide against it; the parts are free again."""

    def act(uow: UnitOfWork) -> None:
        desk.cancel(uow, principal, deps.clock, order_id, version, reason=body.reason)

    return _change(principal, change, order_id, act)


def _change(principal: Principal, change: Change, order_id: str, act: Callable[[UnitOfWork], object]) -> Response:
    return change.run(
        principal,
        act,
        lambda connection: answers.Order.model_validate(views.get_order(connection, principal.tenant, order_id)),
    )

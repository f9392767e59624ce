"""/api/v1/parts: stock per depot, who holds it, and goods received."""

from fastapi import APIRouter, Response
from pydantic import Field

from forewarn_cloud import views
from forewarn_cloud.api import answers
from forewarn_cloud.api.access import Deps, Reader, Technician
from forewarn_cloud.api.changes import Changing
from forewarn_cloud.api.fields import Identifier, IdentifierInPath, Quantity, RequestBody
from forewarn_cloud.api.pagination import Listing, Pages
from forewarn_cloud.api.versions import ExpectedVersion, etag
from forewarn_cloud.errors import NotFound, VersionConflict
from forewarn_cloud.ports import UnitOfWork
from forewarn_cloud.service import parts as service

router = APIRouter(prefix="/parts", tags=["parts"])


@router.get("", response_model=Listing[answers.Part])
def list_parts(deps: Deps, principal: Reader, pages: Pages) -> Listing[views.Part]:
    with deps.reading() as connection:
        page = views.list_parts(connection, principal.tenant, after=pages.after, limit=pages.limit)
    return pages.listing(page)


@router.get("/{part_no}", response_model=answers.Part)
def get_part(deps: Deps, principal: Reader, response: Response, part_no: IdentifierInPath) -> views.Part:
    with deps.reading() as connection:
        found = views.get_part(connection, principal.tenant, part_no)
    if found is None:
        raise NotFound("part", part_no)
    response.headers["ETag"] = etag(found.version)
    return found


class Receipt(RequestBody):
    """Goods that came in."""

    depot: Identifier
    quantity: Quantity = Field(description="How many came.")


@router.post("/{part_no}/receipts", response_model=answers.Part)
def receive(
    deps: Deps,
    principal: Technician,
    change: Changing,
    version: ExpectedVersion,
    part_no: IdentifierInPath,
    body: Receipt,
) -> Response:
    """More is on hand; the orders that wait for it get theirs, the most urgent first."""

    def act(uow: UnitOfWork) -> None:
        found = uow.parts.lock(principal.tenant, [part_no]).get(part_no)
        if found is None:
            raise NotFound("part", part_no)
        if version is not None and version != found.version:
            raise VersionConflict("part", part_no, expected=version, found=found.version)
        service.receive_goods(uow, principal, deps.clock, part_no, body.depot, body.quantity)

    return change.run(
        principal,
        act,
        lambda connection: answers.Part.model_validate(views.get_part(connection, principal.tenant, part_no)),
    )

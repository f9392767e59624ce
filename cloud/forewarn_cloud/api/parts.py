"""/api/v1/parts: stock per depot, who holds it, and goods received."""

from fastapi import APIRouter, Response

from forewarn_cloud import views
from forewarn_cloud.api import answers
from forewarn_cloud.api.access import Deps, Reader
from forewarn_cloud.api.fields import IdentifierInPath
from forewarn_cloud.api.pagination import Listing, Pages
from forewarn_cloud.api.versions import etag
from forewarn_cloud.errors import NotFound

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

"""/api/v1/depots, /customers, /sites: the master data that orders refer to. It is seeded from a file."""

from fastapi import APIRouter

from forewarn_cloud import views
from forewarn_cloud.api import answers
from forewarn_cloud.api.access import Deps, Reader
from forewarn_cloud.api.pagination import Listing, Pages

router = APIRouter(tags=["places"])


@router.get("/depots", response_model=Listing[answers.Depot])
def list_depots(deps: Deps, principal: Reader, pages: Pages) -> Listing[views.Depot]:
    with deps.reading() as connection:
        page = views.list_depots(connection, principal.tenant, after=pages.after, limit=pages.limit)
    return pages.listing(page)


@router.get("/customers", response_model=Listing[answers.Customer])
def list_customers(deps: Deps, principal: Reader, pages: Pages) -> Listing[views.Customer]:
    with deps.reading() as connection:
        page = views.list_customers(connection, principal.tenant, after=pages.after, limit=pages.limit)
    return pages.listing(page)


@router.get("/sites", response_model=Listing[answers.Site])
def list_sites(deps: Deps, principal: Reader, pages: Pages) -> Listing[views.Site]:
    with deps.reading() as connection:
        page = views.list_sites(connection, principal.tenant, after=pages.after, limit=pages.limit)
    return pages.listing(page)

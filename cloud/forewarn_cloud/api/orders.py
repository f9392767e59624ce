"""/api/v1/orders: the queue, one order with everything behind it, and what people do with it."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response

from forewarn_cloud import views
from forewarn_cloud.api import answers
from forewarn_cloud.api.access import Deps, Reader
from forewarn_cloud.api.fields import IdentifierInQuery, IdInPath
from forewarn_cloud.api.pagination import Listing, Pages
from forewarn_cloud.api.versions import etag
from forewarn_cloud.entities import OrderState
from forewarn_cloud.errors import NotFound

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

"""/api/v1/nodes: the edge nodes and how far their records are stored."""

from fastapi import APIRouter

from forewarn_cloud import views
from forewarn_cloud.api import answers
from forewarn_cloud.api.access import Deps, Reader
from forewarn_cloud.api.fields import IdentifierInPath
from forewarn_cloud.api.pagination import Listing, Pages
from forewarn_cloud.errors import NotFound

router = APIRouter(prefix="/nodes", tags=["nodes"])


@router.get("", response_model=Listing[answers.Node])
def list_nodes(deps: Deps, principal: Reader, pages: Pages) -> Listing[views.Node]:
    with deps.reading() as connection:
        page = views.list_nodes(connection, principal.tenant, after=pages.after, limit=pages.limit)
    return pages.listing(page)


@router.get("/{node}", response_model=answers.Node)
def get_node(deps: Deps, principal: Reader, node: IdentifierInPath) -> views.Node:
    """A node with its lanes: records stored and quarantined per lane and spool file."""
    with deps.reading() as connection:
        found = views.get_node(connection, principal.tenant, node)
    if found is None:
        raise NotFound("node", node)
    return found

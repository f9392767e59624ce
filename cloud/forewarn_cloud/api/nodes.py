"""/api/v1/nodes: the edge nodes and how far their records are stored."""

from http import HTTPStatus

from fastapi import APIRouter, Response
from pydantic import Field

from forewarn_cloud import views
from forewarn_cloud.api import answers
from forewarn_cloud.api.access import Admin, Deps, Reader
from forewarn_cloud.api.changes import Changing
from forewarn_cloud.api.fields import Identifier, IdentifierInPath, RequestBody
from forewarn_cloud.api.pagination import Listing, Pages
from forewarn_cloud.errors import NotFound
from forewarn_cloud.service import registry

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


class Enrolment(RequestBody):
    node: Identifier
    declares_assets: bool = Field(True, description="Whether its birth message may register machines.")


@router.post("", status_code=HTTPStatus.CREATED, response_model=answers.Node)
def enrol(deps: Deps, principal: Admin, change: Changing, body: Enrolment) -> Response:
    """Let a node send."""
    return change.run(
        principal,
        lambda uow: registry.enrol_node(uow, principal, deps.clock, body.node, declares_assets=body.declares_assets),
        lambda connection: answers.Node.model_validate(views.get_node(connection, principal.tenant, body.node)),
        status=HTTPStatus.CREATED,
    )


@router.delete("/{node}", status_code=HTTPStatus.NO_CONTENT)
def delete(deps: Deps, principal: Admin, change: Changing, node: IdentifierInPath) -> Response:
    """Refuse whatever it sends from now on. Its machines and their history stay."""
    return change.run(principal, lambda uow: registry.delete_node(uow, principal, deps.clock, node))

"""/api/v1/nodes: the edge nodes, how far their records are stored, and what they are asked for again."""

from http import HTTPStatus
from typing import Self

from fastapi import APIRouter, Response
from pydantic import Field, model_validator
from sqlalchemy import Connection

from forewarn_cloud import views
from forewarn_cloud.api import answers
from forewarn_cloud.api.access import Admin, Deps, Desk, Reader
from forewarn_cloud.api.changes import Changing
from forewarn_cloud.api.fields import Identifier, IdentifierInPath, InstantIn, RequestBody
from forewarn_cloud.api.pagination import Listing, Pages
from forewarn_cloud.errors import NotFound
from forewarn_cloud.ports import UnitOfWork
from forewarn_cloud.service import registry
from forewarn_cloud.service.resend import resend_records, resend_time
from forewarn_models.wire import MAX_SEQ, Lane

router = APIRouter(prefix="/nodes", tags=["nodes"])


@router.get("", response_model=Listing[answers.Node])
def list_nodes(deps: Deps, principal: Reader, pages: Pages) -> Listing[views.Node]:
    with deps.reading() as connection:
        page = views.list_nodes(
            connection,
            principal.tenant,
            silent_before=deps.silent_before(),
            now_ms=deps.clock.now_ms(),
            after=pages.after,
            limit=pages.limit,
        )
    return pages.listing(page)


@router.get("/{node}", response_model=answers.Node)
def get_node(deps: Deps, principal: Reader, node: IdentifierInPath) -> views.Node:
    """A node with its lanes: records stored and quarantined per lane and spool file."""
    with deps.reading() as connection:
        found = views.get_node(
            connection, principal.tenant, node, silent_before=deps.silent_before(), now_ms=deps.clock.now_ms()
        )
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


@router.get("/{node}/commands", response_model=Listing[answers.Command])
def list_commands(deps: Deps, principal: Reader, pages: Pages, node: IdentifierInPath) -> Listing[views.Command]:
    """What the node was told to do, the latest first, and whether it has answered."""
    with deps.reading() as connection:
        if views.get_node(connection, principal.tenant, node) is None:
            raise NotFound("node", node)
        page = views.list_commands(connection, principal.tenant, node=node, after=pages.after, limit=pages.limit)
    return pages.listing(page)


class ResendRequest(RequestBody):
    """Either records by number, or a time of the machine's."""

    lane: Lane = "telemetry"
    epoch: Identifier | None = Field(None, description="The spool file; the latest if left out.")
    first_seq: int | None = Field(None, ge=1, le=MAX_SEQ)
    last_seq: int | None = Field(None, ge=1, le=MAX_SEQ, description="To the end if left out.")
    from_: InstantIn | None = Field(None, alias="from")
    to: InstantIn | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        by_number = self.first_seq is not None and self.from_ is None and self.to is None
        by_time = (
            None not in (self.from_, self.to)
            and self.first_seq is None
            and self.last_seq is None
            and self.epoch is None
        )
        if by_number == by_time:
            raise ValueError("give first_seq (and last_seq), or from and to")
        return self


@router.post("/{node}/resend", response_model=answers.Resend)
def resend(deps: Deps, principal: Desk, change: Changing, node: IdentifierInPath, body: ResendRequest) -> Response:
    """Ask the node for records that never came; what its spool or archive still has of them, it sends again."""

    asked = list[str]()

    def act(uow: UnitOfWork) -> None:
        if body.first_seq is not None:
            last_seq = MAX_SEQ if body.last_seq is None else body.last_seq
            made = resend_records(
                uow,
                principal,
                deps.clock,
                node,
                body.lane,
                first_seq=body.first_seq,
                last_seq=last_seq,
                epoch=body.epoch,
            )
        else:
            assert body.from_ is not None
            assert body.to is not None
            made = resend_time(uow, principal, deps.clock, node, body.lane, from_ms=body.from_, to_ms=body.to)
        asked[:] = [command.id for command in made]

    def answer(connection: Connection) -> answers.Resend:
        found = views.commands_by_id(connection, principal.tenant, asked)
        return answers.Resend(requests=[answers.Command.model_validate(command) for command in found])

    return change.run(principal, act, answer)

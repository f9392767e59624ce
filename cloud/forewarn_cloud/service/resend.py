"""Records that never came are asked for again: a node may still hold them, in its spool or its archive."""

from collections.abc import Sequence

from forewarn_cloud.clock import Clock
from forewarn_cloud.entities import AuditNote, NodeCommand
from forewarn_cloud.errors import Conflict, Invalid, NotFound
from forewarn_cloud.ports import UnitOfWork
from forewarn_cloud.principal import Principal
from forewarn_cloud.service.episodes import new_id
from forewarn_models.wire import MAX_SEQ, Lane

_Range = tuple[int, int]


def resend_records(
    uow: UnitOfWork,
    principal: Principal,
    clock: Clock,
    node: str,
    lane: Lane,
    *,
    first_seq: int,
    last_seq: int = MAX_SEQ,
    epoch: str | None = None,
) -> Sequence[NodeCommand]:
    """Ask for what is missing within [first_seq, last_seq] of a spool file, the latest if none is named.

    Raises:
        NotFound: no such node, or nothing is known of that spool file.
        Invalid: the range is none.
        Conflict: nothing of it is missing, or it is being asked for already.
    """
    _check_node(uow, principal, node)
    if not 1 <= first_seq <= last_seq <= MAX_SEQ:
        raise Invalid("first_seq", "give 1 <= first_seq <= last_seq")
    of = epoch or uow.lanes.latest_epoch(principal.tenant, node, lane)
    if of is None:
        raise NotFound("lane", f"{node}/{lane}")
    missing = uow.lanes.missing(principal.tenant, node, lane, of)
    clipped = [(max(first, first_seq), min(last, last_seq)) for first, last in missing]
    wanted = [(of, span) for span in clipped if span[0] <= span[1]]
    return _ask(uow, principal, clock, node, lane, wanted, f"records {first_seq} to {last_seq}")


def resend_time(
    uow: UnitOfWork, principal: Principal, clock: Clock, node: str, lane: Lane, *, from_ms: int, to_ms: int
) -> Sequence[NodeCommand]:
    """Ask for the gaps that may be of a time of the machine's; raises as `resend_records` does."""
    _check_node(uow, principal, node)
    if from_ms > to_ms:
        raise Invalid("from", "give a time that is not after `to`")
    wanted = uow.lanes.missing_between(principal.tenant, node, lane, from_ms, to_ms)
    return _ask(uow, principal, clock, node, lane, wanted, "that time")


def _check_node(uow: UnitOfWork, principal: Principal, node: str) -> None:
    found = uow.assets.node(principal.tenant, node)
    if found is None or found.deleted_at is not None:
        raise NotFound("node", node)


def _ask(
    uow: UnitOfWork,
    principal: Principal,
    clock: Clock,
    node: str,
    lane: Lane,
    wanted: Sequence[tuple[str, _Range]],
    what: str,
) -> Sequence[NodeCommand]:
    if not wanted:
        raise Conflict(f"nothing of {what} is missing in the {lane} lane of node {node!r}")
    now_ms = clock.now_ms()
    commands = [
        NodeCommand(
            id=new_id(),
            tenant=principal.tenant,
            node=node,
            asset="",
            command="resend",
            at=now_ms,
            created_at=now_ms,
            lane=lane,
            epoch=epoch,
            first_seq=first,
            last_seq=last,
        )
        for epoch, (first, last) in wanted
    ]
    asked = [command for command in commands if uow.lanes.ask_again(command)]
    if not asked:
        raise Conflict(f"{what} of node {node!r} is being asked for already")
    uow.records.add_audit(
        AuditNote(
            tenant=principal.tenant,
            at=now_ms,
            actor=principal.name,
            subject="node",
            subject_id=node,
            action="resend_requested",
            detail={"lane": lane, "ranges": [[one.epoch, one.first_seq, one.last_seq] for one in asked[:50]]},
        )
    )
    return asked

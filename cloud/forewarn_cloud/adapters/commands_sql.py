"""Commands that wait for a reply, and requests to send records again, in the relational database."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Engine, Row, and_, exists, func, select, update

from forewarn_cloud.adapters.sql.engine import reading, retrying, writing
from forewarn_cloud.adapters.sql.lanes import SqlLanes, holes_of
from forewarn_cloud.adapters.sql.schema import commands, gaps, lane_progress, nodes
from forewarn_cloud.entities import NodeCommand
from forewarn_cloud.workers.downlink import PendingCommand
from forewarn_cloud.workers.resends import Hole

_LANES_AT_ONCE: Final = 500
_LANE: Final = ("tenant", "node", "lane", "epoch")


@dataclass(frozen=True)
class SqlCommands:
    """`Commands` over SQLite or PostgreSQL."""

    engine: Engine

    def pending(self) -> Sequence[PendingCommand]:
        of_node = (nodes.c.tenant == commands.c.tenant) & (nodes.c.node == commands.c.node)
        query = (
            select(commands, nodes.c.online, nodes.c.presence_at)
            .join(nodes, of_node)
            .where(commands.c.state == "PENDING", nodes.c.deleted_at.is_(None))
            .order_by(commands.c.created_at, commands.c.id)
        )
        with reading(self.engine) as connection:
            return [_pending(row) for row in connection.execute(query)]


def _pending(row: Row[tuple[object, ...]]) -> PendingCommand:
    command = NodeCommand(**{name: row._mapping[name] for name in NodeCommand.__dataclass_fields__})
    return PendingCommand(command=command, online=row.online, presence_at=row.presence_at)


@dataclass(frozen=True)
class SqlResends:
    """`Resends` over SQLite or PostgreSQL."""

    engine: Engine

    def holes(self, opened_before: int) -> Sequence[Hole]:
        of_node = and_(nodes.c.tenant == lane_progress.c.tenant, nodes.c.node == lane_progress.c.node)
        query = (
            select(lane_progress)
            .join(nodes, of_node)
            .where(lane_progress.c.hole_since <= opened_before, nodes.c.deleted_at.is_(None))
            .order_by(lane_progress.c.hole_since)
            .limit(_LANES_AT_ONCE)
        )
        with reading(self.engine) as connection:
            return [_hole(connection, row) for row in connection.execute(query).all() if row.ahead]

    def request(self, hole: Hole, ranges: Sequence[tuple[int, int]], at: int) -> int:
        asked = [_resend(hole, first, last, at) for first, last in ranges]

        def work() -> int:
            with writing(self.engine) as connection:
                return sum(SqlLanes(connection).ask_again(command) for command in asked)

        return retrying(work)

    def settle(self, asked_before: int) -> int:
        open_ones = and_(commands.c.command == "resend", commands.c.state == "PENDING")
        with reading(self.engine) as connection:
            if connection.execute(select(commands.c.id).where(open_ones).limit(1)).first() is None:
                return 0

        def work() -> int:
            with writing(self.engine) as connection:
                come = select(commands.c.id).where(open_ones, _all_received(), ~_some_in_gap())
                done = update(commands).where(commands.c.id.in_(come)).values(state="DONE", detail="received")
                late = update(commands).where(open_ones, commands.c.created_at < asked_before)
                failed = late.values(state="FAILED", detail="no reply")
                return connection.execute(done).rowcount + connection.execute(failed).rowcount

        return retrying(work)


def _all_received() -> Any:
    progress = lane_progress.c
    same = and_(*(progress[name] == commands.c[name] for name in _LANE))
    return exists().where(same, progress.contiguous_seq >= commands.c.last_seq)


def _some_in_gap() -> Any:
    same = and_(*(gaps.c[name] == commands.c[name] for name in _LANE))
    overlap = and_(gaps.c.first_seq <= commands.c.last_seq, gaps.c.last_seq >= commands.c.first_seq)
    return exists().where(same, overlap, gaps.c.filled_at.is_(None))


def _hole(connection: Connection, row: Row[Any]) -> Hole:
    ranges = holes_of(row)
    same = and_(*(commands.c[name] == getattr(row, name) for name in _LANE), commands.c.command == "resend")
    at_first = and_(same, commands.c.first_seq <= ranges[0][0], commands.c.last_seq >= ranges[0][0])
    pending = func.count().filter(commands.c.state == "PENDING")
    asked = connection.execute(select(func.count(), func.max(commands.c.created_at), pending).where(at_first)).one()
    return Hole(
        tenant=row.tenant,
        node=row.node,
        lane=row.lane,
        epoch=row.epoch,
        ranges=ranges,
        requests=asked[0],
        last_request_at=asked[1],
        request_open=bool(asked[2]),
    )


def _resend(hole: Hole, first: int, last: int, at: int) -> NodeCommand:
    return NodeCommand(
        id=str(uuid.uuid4()),
        tenant=hole.tenant,
        node=hole.node,
        asset="",
        command="resend",
        at=at,
        created_at=at,
        lane=hole.lane,
        epoch=hole.epoch,
        first_seq=first,
        last_seq=last,
    )

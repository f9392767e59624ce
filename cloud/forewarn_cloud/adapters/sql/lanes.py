"""What has and has not come over the lanes of the nodes, and what is asked for again."""

from bisect import bisect_left
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, Select, select
from sqlalchemy.dialects import postgresql, sqlite

from forewarn_cloud.adapters.sql.repositories import values_of
from forewarn_cloud.adapters.sql.schema import advisories, commands, gaps, lane_progress, telemetry_blocks
from forewarn_cloud.adapters.telemetry_shards import of_lane
from forewarn_cloud.entities import NodeCommand
from forewarn_cloud.ingest.progress import Progress, Range, missing_below, union
from forewarn_models.wire import Lane

MAX_RANGES = 1000
"""Given at once; of more, the first."""


Block = tuple[int, int, int]
"""Sequence number, first and last time."""


@dataclass(frozen=True)
class SqlLanes:
    """`ports.Lanes` over one connection."""

    connection: Connection

    def latest_epoch(self, tenant: str, node: str, lane: Lane) -> str | None:
        query = _of_lane(select(lane_progress.c.epoch), lane_progress, tenant, node, lane)
        epoch: str | None = self.connection.execute(query.order_by(lane_progress.c.first_at.desc()).limit(1)).scalar()
        return epoch

    def missing(self, tenant: str, node: str, lane: Lane, epoch: str) -> Sequence[Range]:
        progress = _of_lane(select(lane_progress), lane_progress, tenant, node, lane)
        row = self.connection.execute(progress.where(lane_progress.c.epoch == epoch)).one_or_none()
        holes = () if row is None else holes_of(row)
        unfilled = [gap for gap in self._unfilled(tenant, node, lane) if gap.epoch == epoch]
        return union([*holes, *(span for gap in unfilled for span in missing_of(gap))])[:MAX_RANGES]

    def missing_between(
        self, tenant: str, node: str, lane: Lane, from_ms: int, to_ms: int
    ) -> Sequence[tuple[str, Range]]:
        unfilled = self._unfilled(tenant, node, lane)
        measured = self._measured({gap.epoch for gap in unfilled}, tenant, node) if lane == "telemetry" else None

        def may_be_of_it(gap: Row[Any]) -> bool:
            """Between what was measured last before it and first after it; until it was told, where nothing was."""
            before, after = self._neighbours(gap) if measured is None else _neighbours_among(measured[gap.epoch], gap)
            return (before is None or before <= to_ms) and from_ms <= (gap.received_at if after is None else after)

        return [(gap.epoch, span) for gap in filter(may_be_of_it, unfilled) for span in missing_of(gap)][:MAX_RANGES]

    def ask_again(self, command: NodeCommand) -> bool:
        dialect = sqlite if self.connection.dialect.name == "sqlite" else postgresql
        added = dialect.insert(commands).values(values_of(command)).on_conflict_do_nothing().returning(commands.c.id)
        return self.connection.execute(added).first() is not None

    def _unfilled(self, tenant: str, node: str, lane: Lane) -> Sequence[Row[Any]]:
        query = _of_lane(select(gaps), gaps, tenant, node, lane).where(gaps.c.filled_at.is_(None))
        return self.connection.execute(query.order_by(gaps.c.epoch, gaps.c.first_seq)).all()

    def _measured(self, epochs: Collection[str], tenant: str, node: str) -> dict[str, list[Block]]:
        """The blocks of each epoch, in the order of their sequence numbers: found among all there are, once for all."""
        query = select(telemetry_blocks.c.seq, telemetry_blocks.c.first_ms, telemetry_blocks.c.last_ms)
        return {
            epoch: sorted(map(tuple, self.connection.execute(query.where(of_lane((tenant, node, epoch))))))
            for epoch in epochs
        }

    def _neighbours(self, gap: Row[Any]) -> tuple[int | None, int | None]:
        table = advisories.c
        mine = (table.tenant == gap.tenant, table.node == gap.node, table.epoch == gap.epoch)
        before = select(table.observed_at).where(*mine, table.seq < gap.first_seq).order_by(table.seq.desc())
        after = select(table.observed_at).where(*mine, table.seq > gap.last_seq).order_by(table.seq)
        return (
            self.connection.execute(before.limit(1)).scalar(),
            self.connection.execute(after.limit(1)).scalar(),
        )


def _neighbours_among(blocks: Sequence[Block], gap: Row[Any]) -> tuple[int | None, int | None]:
    before = bisect_left(blocks, (gap.first_seq,))
    after = bisect_left(blocks, (gap.last_seq + 1,))
    return (blocks[before - 1][2] if before else None, blocks[after][1] if after < len(blocks) else None)


def missing_of(gap: Row[Any]) -> tuple[Range, ...]:
    """What of a gap has not come."""
    if gap.missing is None:
        return ((gap.first_seq, gap.last_seq),)
    return tuple((first, last) for first, last in gap.missing)


def holes_of(progress: Row[Any]) -> tuple[Range, ...]:
    """What has not come below the last record that has."""
    ahead = tuple((first, last) for first, last in progress.ahead)
    return missing_below(Progress(contiguous=progress.contiguous_seq, ahead=ahead), ahead[-1][1]) if ahead else ()


def _of_lane(query: Select[Any], table: Any, tenant: str, node: str, lane: Lane) -> Select[Any]:
    return query.where(table.c.tenant == tenant, table.c.node == node, table.c.lane == lane)

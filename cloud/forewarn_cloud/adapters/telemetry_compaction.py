"""Upkeep of telemetry in the relational database: small blocks become large leaves with summaries.

A step plans outside of any transaction that writes (reading, merging, packing), and then puts its plan into effect in
one short one: the blocks and leaves it read are removed, or, if one of them is gone, nothing happens. So a crash leaves
the old state or the new one, ingest waits for a few inserts at most, and any number of these may work side by side.

What is added to the end of an asset's time becomes a leaf, together with those before it that are less than four times
as large: a sample is rewritten a few times, not each time a sample comes. What comes late is merged into the leaves it
belongs to. Whenever samples of full leaves change, the buckets they touch are summarised anew, level by level.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from sqlalchemy import ColumnElement, Connection, Engine, Row, Table, delete, func, insert, select

from forewarn_cloud.adapters.sql.engine import reading, retrying, writing
from forewarn_cloud.adapters.sql.schema import telemetry_blocks as blocks
from forewarn_cloud.adapters.sql.schema import telemetry_leaves as leaves
from forewarn_cloud.adapters.telemetry_codec import decode_all, decode_columns
from forewarn_cloud.adapters.telemetry_digests import add_digests
from forewarn_cloud.adapters.telemetry_leaves import (
    NOT_ROLLED,
    ROLLED_STATES,
    SAMPLES,
    Leaf,
    buckets_of_leaf,
    capacity,
    leaves_of_buckets,
    leaves_of_samples,
    placed,
)
from forewarn_cloud.errors import Contended
from forewarn_cloud.series import HOUR_MS, LEVELS_MS, Buckets, Columns, combine, cut, merge, summarise

ROWS_WORTH_A_STEP: Final = 64
AGE_WORTH_A_STEP_MS: Final = HOUR_MS
"""Whichever is reached first by an asset's blocks; the age of what they measured, so late ones do not wait."""
_ROWS_A_STEP: Final = 512
_BYTES_A_STEP: Final = 512 * 1024
_LEAVES_A_STEP: Final = 4
_GROWTH: Final = 4
_KEYS_A_QUERY: Final = 400
_EVER: Final = 2**62


@dataclass(kw_only=True)
class SqlCompaction:
    """`step` is repeated by a worker."""

    engine: Engine
    rows_worth_a_step: int = ROWS_WORTH_A_STEP
    _waiting: list[tuple[str, str]] = field(default_factory=list)

    def step(self, now_ms: int) -> bool:
        """Compact some blocks of one asset; whether there were any.

        Raises:
            Unavailable: the database cannot serve.
        """
        if not self._waiting:
            self._waiting = self._assets(now_ms)
        if not self._waiting:
            return False
        tenant, asset = self._waiting.pop()
        retrying(lambda: self._compact(tenant, asset, now_ms))
        return True

    def _assets(self, now_ms: int) -> list[tuple[str, str]]:
        """Those with enough to do. An index has all that is asked for."""
        many = func.count() >= self.rows_worth_a_step
        old = func.min(blocks.c.last_ms) < now_ms - AGE_WORTH_A_STEP_MS
        query = select(blocks.c.tenant, blocks.c.asset).group_by(blocks.c.tenant, blocks.c.asset).having(many | old)
        with reading(self.engine) as connection:
            return [(row.tenant, row.asset) for row in connection.execute(query)]

    def _compact(self, tenant: str, asset: str, now_ms: int) -> None:
        with reading(self.engine) as connection:
            plan = _Planning(connection=connection, tenant=tenant, asset=asset).plan()
        with writing(self.engine) as connection:
            plan.carry_out(connection, tenant, asset, now_ms)


@dataclass(frozen=True, kw_only=True)
class _Plan:
    rows: Sequence[Row[Any]]
    """Blocks to be removed."""
    removed: Sequence[int]
    added: Sequence[Leaf]

    def carry_out(self, connection: Connection, tenant: str, asset: str, now_ms: int) -> None:
        """Raises: Contended: something that was to be removed is gone, so the plan is outdated."""
        remove_blocks(connection, tenant, self.rows, now_ms=now_ms)
        _remove(connection, leaves, self.removed)
        if self.added:
            connection.execute(insert(leaves), [leaf.row(tenant, asset) for leaf in self.added])


def remove_blocks(connection: Connection, tenant: str, rows: Sequence[Row[Any]], *, now_ms: int) -> None:
    """Blocks, of which the digests are kept. Raises: Contended: one of them is gone."""
    lanes = dict[tuple[str, str], dict[int, bytes]]()
    for row in rows:
        lanes.setdefault((row.node, row.epoch), {})[row.seq] = bytes(row.digest)
    for (node, epoch), digests in sorted(lanes.items()):
        seqs = sorted(digests)
        of_lane = (blocks.c.tenant == tenant) & (blocks.c.node == node) & (blocks.c.epoch == epoch)
        gone = 0
        for start in range(0, len(seqs), _KEYS_A_QUERY):
            some = blocks.c.seq.in_(seqs[start : start + _KEYS_A_QUERY])
            gone += connection.execute(delete(blocks).where(of_lane, some)).rowcount
        if gone != len(seqs):
            raise Contended("blocks were compacted by another meanwhile")
        add_digests(connection, (tenant, node, epoch), digests, now_ms=now_ms)


def _remove(connection: Connection, table: Table, ids: Sequence[int]) -> None:
    for start in range(0, len(ids), _KEYS_A_QUERY):
        some = ids[start : start + _KEYS_A_QUERY]
        if connection.execute(delete(table).where(table.c.id.in_(some))).rowcount != len(some):
            raise Contended("leaves were rewritten by another meanwhile")


@dataclass(kw_only=True)
class _Planning:
    """What to do about the oldest blocks of one asset."""

    connection: Connection
    tenant: str
    asset: str

    def plan(self) -> _Plan:
        rows, new = self._blocks()
        samples = merge(new)
        if not len(samples[0]):
            return _Plan(rows=rows, removed=[], added=[])
        absorbed = self._touched(SAMPLES, int(samples[0][0]), int(samples[0][-1]))
        absorbed += self._smaller_before(SAMPLES, absorbed, samples)
        samples = merge([*(decode_columns(leaf.columns) for leaf in absorbed), samples])
        is_tail = not self._has_later(SAMPLES, int(samples[0][-1]))
        made = leaves_of_samples(samples, is_tail=is_tail)
        removed, added = [_id(leaf) for leaf in absorbed], list(made)
        below = _Level(level_ms=SAMPLES, removed=absorbed, added=made)
        for level_ms in LEVELS_MS:
            level = self._level(level_ms, samples_of=(absorbed, made), below=below)
            removed += [_id(leaf) for leaf in level.removed]
            added += level.added
            below = level
        return _Plan(rows=rows, removed=removed, added=added)

    # --- samples ----------------------------------------------------------------------------------------------------

    def _blocks(self) -> tuple[Sequence[Row[Any]], list[Columns]]:
        """The earliest, as many as touch few leaves and have not too many bytes."""
        of_asset = (blocks.c.tenant == self.tenant) & (blocks.c.asset == self.asset)
        query = select(blocks).where(of_asset).order_by(blocks.c.last_ms).limit(_ROWS_A_STEP)
        rows = self.connection.execute(query).all()
        rows = rows[: self._touching_few(rows)]
        sizes = np.cumsum([len(row.columns) for row in rows])
        rows = rows[: int(np.searchsorted(sizes, _BYTES_A_STEP)) + 1]
        return rows, decode_all(bytes(row.columns) for row in rows)

    def _touching_few(self, rows: Sequence[Row[Any]]) -> int:
        """How many of the rows, in order of their end, lie before the first leaf that is one too many; at least one."""
        if not rows:
            return 0
        touched = self._touched(SAMPLES, min(row.first_ms for row in rows), rows[-1].last_ms, with_columns=False)
        if len(touched) <= _LEAVES_A_STEP:
            return len(rows)
        until = touched[_LEAVES_A_STEP].first_ms
        return max(1, len([row for row in rows if row.last_ms < until]))

    def _smaller_before(self, level_ms: int, absorbed: Sequence[Leaf], block: Columns | Buckets) -> list[Leaf]:
        """Leaves next before what is added that are too small, beside it, to stay alone; one after the other."""
        before, size = list[Leaf](), len(block[0]) + sum(leaf.samples for leaf in absorbed)
        first_ms = min([int(block[0][0]), *(leaf.first_ms for leaf in absorbed)])
        most = capacity(len(block[1]) * (1 if level_ms == SAMPLES else 4))
        while (leaf := self._last_before(level_ms, first_ms)) is not None:
            if leaf.samples >= most or leaf.samples >= _GROWTH * size:
                break
            before.append(leaf)
            size, first_ms = size + leaf.samples, leaf.first_ms
        return before

    # --- levels -----------------------------------------------------------------------------------------------------

    def _level(self, level_ms: int, *, samples_of: tuple[Sequence[Leaf], Sequence[Leaf]], below: "_Level") -> "_Level":
        """The buckets of this width that hold a sample that changed, summarised anew."""
        absorbed, made = samples_of
        changed = [leaf for leaf in (*absorbed, *made) if NOT_ROLLED < leaf.rolled_ms <= level_ms]
        if not changed:
            return _Level(level_ms=level_ms, removed=[], added=[])
        from_ms = min(leaf.first_ms for leaf in changed) // level_ms * level_ms
        to_ms = max(leaf.last_ms for leaf in changed) // level_ms * level_ms + level_ms - 1
        fresh = combine(
            [*self._summaries(level_ms, from_ms, to_ms, samples_of), *self._finer(below, from_ms, to_ms)], level_ms
        )
        replaced = self._touched(level_ms, from_ms, to_ms)
        if len(fresh[0]):
            replaced += self._smaller_before(level_ms, replaced, fresh)
        kept = [
            buckets_of_leaf(leaf.columns, None, *outside)
            for leaf in replaced
            for outside in ((-_EVER, from_ms - 1), (to_ms + 1, _EVER))
        ]
        buckets = combine([*kept, fresh], level_ms)
        is_tail = not len(buckets[0]) or not self._has_later(level_ms, int(buckets[0][-1]) + level_ms - 1)
        return _Level(level_ms=level_ms, removed=replaced, added=leaves_of_buckets(buckets, level_ms, is_tail=is_tail))

    def _summaries(
        self, level_ms: int, from_ms: int, to_ms: int, samples_of: tuple[Sequence[Leaf], Sequence[Leaf]]
    ) -> list[Buckets]:
        """Of the samples for which this is the narrowest level: after the change, in a range of whole buckets."""
        absorbed, made = samples_of
        gone = {leaf.stored_id for leaf in absorbed}
        stored = self._stored(placed(self.tenant, self.asset, SAMPLES, (level_ms,), from_ms, to_ms))
        of_level = [leaf for leaf in stored if leaf.stored_id not in gone]
        of_level += [leaf for leaf in made if leaf.rolled_ms == level_ms]
        return [summarise(cut(decode_columns(leaf.columns), None, from_ms, to_ms), level_ms) for leaf in of_level]

    def _finer(self, below: "_Level", from_ms: int, to_ms: int) -> list[Buckets]:
        """The buckets of the level below, after its change."""
        if below.level_ms == SAMPLES:
            return []
        gone = {leaf.stored_id for leaf in below.removed}
        stored = [leaf for leaf in self._touched(below.level_ms, from_ms, to_ms) if leaf.stored_id not in gone]
        return [buckets_of_leaf(leaf.columns, None, from_ms, to_ms) for leaf in (*stored, *below.added)]

    # --- what is stored ---------------------------------------------------------------------------------------------

    def _touched(self, level_ms: int, from_ms: int, to_ms: int, *, with_columns: bool = True) -> list[Leaf]:
        """Leaves of a level that overlap a range, in order of time."""
        where = placed(self.tenant, self.asset, level_ms, ROLLED_STATES, from_ms, to_ms)
        return sorted(self._stored(where, with_columns=with_columns), key=lambda leaf: leaf.first_ms)

    def _last_before(self, level_ms: int, first_ms: int) -> Leaf | None:
        latest = self._latest(level_ms, leaves.c.last_ms < first_ms)
        found = [] if latest is None else self._touched(level_ms, latest, latest)
        return found[-1] if found else None

    def _has_later(self, level_ms: int, last_ms: int) -> bool:
        return self._latest(level_ms, leaves.c.last_ms > last_ms) is not None

    def _latest(self, level_ms: int, condition: ColumnElement[bool]) -> int | None:
        of_level = placed(self.tenant, self.asset, level_ms, ROLLED_STATES, -_EVER, _EVER)
        latest: int | None = self.connection.execute(
            select(func.max(leaves.c.last_ms)).where(of_level, condition)
        ).scalar()
        return latest

    def _stored(self, where: ColumnElement[bool], *, with_columns: bool = True) -> list[Leaf]:
        names = [
            "id",
            "level_ms",
            "rolled_ms",
            "first_ms",
            "last_ms",
            *(["samples", "columns"] if with_columns else []),
        ]
        query = select(*(leaves.c[name] for name in names)).where(where)
        return [_leaf(row._asdict()) for row in self.connection.execute(query)]


@dataclass(frozen=True, kw_only=True)
class _Level:
    """How the leaves of a level change."""

    level_ms: int
    removed: Sequence[Leaf]
    added: Sequence[Leaf]


def _leaf(row: Mapping[str, Any]) -> Leaf:
    return Leaf(
        level_ms=row["level_ms"],
        rolled_ms=row["rolled_ms"],
        first_ms=row["first_ms"],
        last_ms=row["last_ms"],
        samples=row.get("samples", 0),
        columns=bytes(row.get("columns", b"")),
        stored_id=row["id"],
    )


def _id(leaf: Leaf) -> int:
    assert leaf.stored_id is not None
    return leaf.stored_id

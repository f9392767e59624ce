"""Upkeep of telemetry in the relational database: small blocks become large leaves with summaries.

A step plans outside of any transaction that writes (reading, merging, packing), for as many assets as make a few
hundred blocks, and then puts its plans into effect in one short one: the blocks and leaves it read are removed, or, if
one of them is gone, nothing happens. So a crash leaves the old state or the new one, ingest waits for a few hundred
deletes and a few inserts at most, and any number of these may work side by side.

What is added to the end of an asset's time becomes a leaf, together with those before it that are less than twice as
large: a sample is rewritten a few times, not each time a sample comes. What comes late is merged into the leaves it
belongs to. Whenever samples of full leaves change, the buckets they touch are summarised anew, level by level.

Statements are made once: to put one together takes several times as long as to run it.
"""

import math
import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from operator import itemgetter
from typing import Any, Final

import numpy as np
from sqlalchemy import (
    BigInteger,
    CompoundSelect,
    Connection,
    Engine,
    Integer,
    Select,
    SelectBase,
    bindparam,
    delete,
    desc,
    func,
    insert,
    literal_column,
    select,
    union_all,
)

from forewarn_cloud.adapters.sql.bulk import fetch_all, has_pair, pairs_of, run_many
from forewarn_cloud.adapters.sql.engine import reading, retrying, writing
from forewarn_cloud.adapters.sql.schema import telemetry_blocks as blocks
from forewarn_cloud.adapters.sql.schema import telemetry_leaves as leaves
from forewarn_cloud.adapters.telemetry_codec import decode_all, decode_columns
from forewarn_cloud.adapters.telemetry_digests import Lane, add_digests
from forewarn_cloud.adapters.telemetry_leaves import (
    FROM_MS,
    NOT_ROLLED,
    ROLLED_STATES,
    SAMPLES,
    SHARD,
    Leaf,
    buckets_of_leaf,
    capacity,
    leaves_of_buckets,
    leaves_of_samples,
    of_level,
    overlapping,
)
from forewarn_cloud.adapters.telemetry_shards import SHARDS
from forewarn_cloud.errors import Contended
from forewarn_cloud.series import HOUR_MS, LEVELS_MS, Buckets, Columns, combine, cut, merge, summarise

ROWS_WORTH_A_STEP: Final = 128
AGE_WORTH_A_STEP_MS: Final = HOUR_MS
"""Whichever is reached first by an asset's blocks; the age of what they measured, so late ones do not wait. In later
shards it takes up to twice as many: machines that begin together are not all due together."""
LOOK_SECONDS: Final = 30.0
"""Between two looks at all that is waiting. A look reads it all."""
_SHARDS_A_LOOK: Final = 16
_ROWS_A_STEP: Final = 2048
_BYTES_A_STEP: Final = 512 * 1024
"""A step takes so many blocks, or so many bytes of them. Those of a shard are in the same pages, which are then written
once; ingest waits for some 20 ms at most."""
_LEAVES_A_STEP: Final = 4
_LEAVES_BEFORE: Final = 8
_GROWTH: Final = 2
_EVER: Final = 2**62

RECORD: Final = tuple(blocks.c[name] for name in ("tenant", "node", "epoch", "seq", "digest", "shard", "id"))
StoredRecord = tuple[str, str, str, int, bytes, int, int]
"""Values of `RECORD`."""


@dataclass(frozen=True, kw_only=True)
class _Due:
    """An asset with enough to do: so many blocks, of so many bytes."""

    shard: int
    tenant: str
    asset: str
    blocks: int
    size: int


@dataclass(kw_only=True)
class SqlCompaction:
    """`step` is repeated by a worker."""

    engine: Engine
    rows_worth_a_step: int = ROWS_WORTH_A_STEP
    look_seconds: float = LOOK_SECONDS
    _looked_at: float = -math.inf
    _unseen: list[int] = field(default_factory=list)
    """The first of some shards each, that this look has not come to."""
    _waiting: list[_Due] = field(default_factory=list)
    """Those of a shard one after the other."""

    def step(self, now_ms: int) -> bool:
        """Compact some blocks of some assets; whether there is more to do.

        Raises:
            Unavailable: the database cannot serve.
        """
        if not self._waiting and not self._unseen and time.monotonic() - self._looked_at >= self.look_seconds:
            self._unseen, self._looked_at = list(range(0, SHARDS, _SHARDS_A_LOOK)), time.monotonic()
        if self._unseen:
            self._look(now_ms)
        if self._waiting:
            retrying(lambda: self._compact(now_ms))
        return bool(self._waiting or self._unseen)

    def _look(self, now_ms: int) -> None:
        """From some shards to the next, until there is enough for a step."""
        with reading(self.engine) as connection:
            while self._unseen and sum(due.blocks for due in self._waiting) < _ROWS_A_STEP:
                self._waiting += self._due(connection, self._unseen.pop(), now_ms)

    def _due(self, connection: Connection, shard: int, now_ms: int) -> list[_Due]:
        """Of this shard and the next few."""
        bound = {"first": shard, "last": shard + _SHARDS_A_LOOK - 1, "rows": self.rows_worth_a_step}
        bound["before_ms"] = now_ms - AGE_WORTH_A_STEP_MS
        return [_Due(**row._mapping) for row in connection.execute(_DUE, bound)]

    def _compact(self, now_ms: int) -> None:
        """One asset after the other until there is enough for a transaction.

        Those of a plan that turns out to be outdated come again when blocks are looked for the next time.
        """
        plans, left = list[_Plan](), list[_Due]()
        with reading(self.engine) as connection:
            while self._waiting and not _is_enough(plans):
                together = self._next(_ROWS_A_STEP - sum(len(plan.records) for plan in plans))
                of_shard = _plans(connection, together)
                plans += of_shard
                taken = {(plan.tenant, plan.asset): len(plan.records) for plan in of_shard}
                left += [
                    replace(due, blocks=due.blocks - done, size=due.size * (due.blocks - done) // due.blocks)
                    for due in together
                    if 0 < (done := taken.get((due.tenant, due.asset), 0)) < due.blocks
                ]
        with writing(self.engine) as connection:
            _carry_out(connection, plans, now_ms)
        self._waiting[:0] = left

    def _next(self, most_blocks: int) -> list[_Due]:
        """Some of one shard that have no more blocks than that together, or one that may have."""
        some, blocks, size = [self._waiting.pop()], 0, 0
        while self._waiting and self._waiting[-1].shard == some[0].shard:
            blocks, size = blocks + some[-1].blocks, size + some[-1].size
            if blocks + self._waiting[-1].blocks > most_blocks or size + self._waiting[-1].size > _BYTES_A_STEP:
                break
            some.append(self._waiting.pop())
        return some


_KEY: Final = (blocks.c.shard, blocks.c.tenant, blocks.c.asset)
_BLOCKS: Final = func.count()
_ARE_MANY: Final = bindparam("rows", type_=BigInteger) * (SHARDS + blocks.c.shard) < (_BLOCKS + 1) * SHARDS
"""Where the whole part of rows * (1 + shard / SHARDS) is reached."""
_DUE: Final = (
    select(*_KEY, _BLOCKS.label("blocks"), func.sum(func.length(blocks.c.columns)).label("size"))
    .where(blocks.c.shard.between(bindparam("first"), bindparam("last")))
    .group_by(*_KEY)
    .having(_ARE_MANY | (func.min(blocks.c.last_ms) < bindparam("before_ms", type_=BigInteger)))
    .order_by(blocks.c.shard)
)


def _is_enough(plans: "Sequence[_Plan]") -> bool:
    blocks = sum(len(plan.records) for plan in plans)
    return blocks >= _ROWS_A_STEP or sum(plan.size for plan in plans) >= _BYTES_A_STEP


def _plans(connection: Connection, together: Sequence[_Due]) -> "list[_Plan]":
    """For the oldest blocks of these assets of a shard: as many as make a step."""
    count, size = sum(due.blocks for due in together), sum(due.size for due in together)
    most = max(1, min(count, _ROWS_A_STEP, _BYTES_A_STEP * count // max(1, size)))
    dialect = connection.dialect.name
    bound = {"of_shard": together[0].shard, "most_rows": most}
    bound |= pairs_of(dialect, [(due.tenant, due.asset) for due in together])
    by_asset = dict[tuple[str, str], list[Any]]()
    for row in fetch_all(connection, _oldest(dialect), bound):
        by_asset.setdefault((row[0], row[1]), []).append(row[2:])
    return [
        _Planning(connection=connection, tenant=tenant, asset=asset).plan(rows)
        for (tenant, asset), rows in by_asset.items()
    ]


@dataclass(frozen=True, kw_only=True)
class _Plan:
    tenant: str
    asset: str
    records: Sequence[StoredRecord] = ()
    """Blocks to be removed."""
    removed: Sequence[Leaf] = ()
    added: Sequence[Leaf] = ()

    @property
    def size(self) -> int:
        """Bytes that are written."""
        return sum(len(leaf.columns) for leaf in self.added)


def _carry_out(connection: Connection, plans: Sequence[_Plan], now_ms: int) -> None:
    """Raises: Contended: something that was to be removed is gone, so its plan is outdated."""
    remove_blocks(connection, [record for plan in plans for record in plan.records], now_ms=now_ms)
    _remove_leaves(connection, [{"of_id": leaf.stored_id} for plan in plans for leaf in plan.removed])
    added = [leaf.row(plan.tenant, plan.asset) for plan in plans for leaf in plan.added]
    if added:
        connection.execute(insert(leaves), added)


def remove_blocks(connection: Connection, records: Sequence[StoredRecord], *, now_ms: int) -> None:
    """Blocks, of which the digests are kept. Raises: Contended: one of them is gone."""
    gone = [(shard, stored_ns) for *_, shard, stored_ns in records]
    if gone and run_many(connection, _REMOVE_BLOCK, ("of_shard", "of_id"), gone) != len(records):
        raise Contended("blocks were compacted by another meanwhile")
    lanes = dict[Lane, dict[int, bytes]]()
    for tenant, node, epoch, seq, digest, _, _ in records:
        lanes.setdefault((tenant, node, epoch), {})[seq] = bytes(digest)
    add_digests(connection, lanes, now_ms=now_ms)


def _remove_leaves(connection: Connection, ids: Sequence[dict[str, int | None]]) -> None:
    if ids and connection.execute(_REMOVE_LEAF, ids).rowcount != len(ids):
        raise Contended("leaves were rewritten by another meanwhile")


_REMOVE_BLOCK: Final = delete(blocks).where(blocks.c.shard == SHARD, blocks.c.id == bindparam("of_id"))
_REMOVE_LEAF: Final = delete(leaves).where(leaves.c.id == bindparam("of_id"))


@dataclass(kw_only=True)
class _Planning:
    """What to do about the oldest blocks of one asset."""

    connection: Connection
    tenant: str
    asset: str

    def plan(self, rows: Sequence[Any]) -> _Plan:
        """`rows`: first and last time, columns and `RECORD` of each block."""
        oldest = self._oldest(rows)
        absorbed = self._with_smaller_before(SAMPLES, oldest.touched, oldest.samples)
        made = self._leaves_of_samples(merge([*(decode_columns(leaf.columns) for leaf in absorbed), *oldest.samples]))
        removed, added = [*absorbed], [*made]
        below = _Level(level_ms=SAMPLES, removed=absorbed, added=made)
        for level_ms in LEVELS_MS:
            below = self._level(level_ms, samples_of=(absorbed, made), below=below)
            removed += below.removed
            added += below.added
        return _Plan(
            tenant=self.tenant,
            asset=self.asset,
            records=oldest.records,
            removed=removed,
            added=added,
        )

    # --- samples ----------------------------------------------------------------------------------------------------

    def _oldest(self, rows: Sequence[Any]) -> "_Oldest":
        """As many as touch few leaves and have not too many bytes."""
        firsts_ms, lasts_ms, columns, *record = zip(*sorted(rows, key=itemgetter(1)), strict=True)
        touched = self._touched(SAMPLES, min(firsts_ms), lasts_ms[-1], with_columns=False)
        most = int(np.searchsorted(np.cumsum(list(map(len, columns))), _BYTES_A_STEP)) + 1
        if len(touched) > _LEAVES_A_STEP:
            most = min(most, max(1, bisect_left(lasts_ms, touched[_LEAVES_A_STEP].first_ms)))
        first_ms, last_ms = min(firsts_ms[:most]), lasts_ms[:most][-1]
        return _Oldest(
            records=list(zip(*record, strict=True))[:most],
            samples=decode_all(map(bytes, columns[:most])),
            touched=[leaf for leaf in touched if leaf.last_ms >= first_ms and leaf.first_ms <= last_ms],
        )

    def _leaves_of_samples(self, samples: Columns) -> list[Leaf]:
        t_ms, columns = samples
        is_tail = len(t_ms) > capacity(len(columns)) and not self._has_later(SAMPLES, int(t_ms[-1]))
        return leaves_of_samples(samples, is_tail=is_tail)

    def _with_smaller_before(
        self, level_ms: int, touched: Sequence[Leaf], added: Sequence[Columns | Buckets]
    ) -> list[Leaf]:
        """Also leaves next before what is added that are too small, beside it, to stay alone; one after the other."""
        size = sum(len(t_ms) for t_ms, _ in added) + sum(leaf.samples for leaf in touched)
        first_ms = min([*(int(t_ms[0]) for t_ms, _ in added), *(leaf.first_ms for leaf in touched)])
        signals = len({name for _, columns in added for name in columns})
        most = capacity(signals * (1 if level_ms == SAMPLES else 4))
        for leaf in self._before(level_ms, first_ms):
            if leaf.samples >= most or leaf.samples >= _GROWTH * size:
                break
            size, first_ms = size + leaf.samples, leaf.first_ms
            touched = [leaf, *touched]
        return self._touched(level_ms, touched[0].first_ms, touched[-1].last_ms) if touched else []

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
            replaced = self._with_smaller_before(level_ms, replaced, [fresh])
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
        stored = self._stored(_touched(SAMPLES, (level_ms,)), from_ms=from_ms, to_ms=to_ms)
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
        return self._stored(_touched(level_ms, with_columns=with_columns), from_ms=from_ms, to_ms=to_ms)

    def _before(self, level_ms: int, first_ms: int) -> list[Leaf]:
        """Some that end before, without their columns, the latest first."""
        return self._stored(_before(level_ms), from_ms=first_ms)[:_LEAVES_BEFORE]

    def _has_later(self, level_ms: int, last_ms: int) -> bool:
        return self._fetch(_later(level_ms), from_ms=last_ms)[0][0] is not None

    def _stored(self, query: SelectBase, **instants: int) -> list[Leaf]:
        return [_leaf(row._asdict()) for row in self._fetch(query, **instants)]

    def _fetch(self, query: SelectBase, **instants: int) -> Sequence[Any]:
        return fetch_all(self.connection, query, {"of_tenant": self.tenant, "of_asset": self.asset} | instants)


_PLACE: Final = ("id", "level_ms", "rolled_ms", "first_ms", "last_ms", "samples")


@cache
def _oldest(dialect: str) -> Select[Any]:
    """In the order in which they came, which is that of their pages."""
    place = (blocks.c.tenant, blocks.c.asset, blocks.c.first_ms, blocks.c.last_ms, blocks.c.columns)
    due = has_pair(dialect, blocks.c.tenant, blocks.c.asset)
    of_shard = select(*place, *RECORD).where(blocks.c.shard == SHARD, due).order_by(blocks.c.id)
    return of_shard.limit(bindparam("most_rows", type_=Integer))


@cache
def _touched(level_ms: int, rolled_ms: tuple[int, ...] | None = None, *, with_columns: bool = True) -> Select[Any]:
    names = (*_PLACE, "columns") if with_columns else _PLACE
    where = (of_level(level_ms, rolled_ms), overlapping(leaves))
    return select(*(leaves.c[name] for name in names)).where(*where).order_by(leaves.c.first_ms)


@cache
def _before(level_ms: int) -> CompoundSelect[Any]:
    """State by state, so that an index has the latest of each."""
    place = [leaves.c[name] for name in _PLACE]
    each = (
        select(*place)
        .where(of_level(level_ms, (state,)), leaves.c.last_ms < FROM_MS)
        .order_by(leaves.c.last_ms.desc())
        .limit(literal_column(str(_LEAVES_BEFORE)))
        for state in ROLLED_STATES
    )
    return union_all(*(select(latest.subquery()) for latest in each)).order_by(desc("first_ms"))


@cache
def _later(level_ms: int) -> Select[Any]:
    return select(func.max(leaves.c.last_ms)).where(of_level(level_ms), leaves.c.last_ms > FROM_MS)


@dataclass(frozen=True, kw_only=True)
class _Oldest:
    """The blocks of an asset that are to be compacted next."""

    records: Sequence[StoredRecord]
    samples: Sequence[Columns]
    touched: Sequence[Leaf]
    """The leaves in their time."""


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

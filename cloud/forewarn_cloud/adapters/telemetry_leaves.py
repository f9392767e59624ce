"""Telemetry in large blocks: how they are found, decoded and cut.

A leaf holds samples of one asset, or summaries of them in buckets of one width. Leaves of one kind do not overlap.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    CompoundSelect,
    Connection,
    Integer,
    Row,
    Select,
    String,
    Table,
    and_,
    bindparam,
    literal,
    literal_column,
    select,
    union_all,
)

from forewarn_cloud.adapters.sql.schema import telemetry_blocks as blocks
from forewarn_cloud.adapters.sql.schema import telemetry_leaves as leaves
from forewarn_cloud.adapters.telemetry_codec import decode_columns
from forewarn_cloud.adapters.telemetry_packing import pack_columns
from forewarn_cloud.adapters.telemetry_shards import shard_of
from forewarn_cloud.series import LEVELS_MS, NO_BUCKETS, Buckets, Columns, Summary

SAMPLES: Final = 0
"""The level of the samples themselves."""
NOT_ROLLED: Final = 0
ROLLED_STATES: Final = (NOT_ROLLED, *LEVELS_MS)
BLOCK: Final = -1
"""What a row of `telemetry_blocks` has for a level where it is read together with leaves."""
Kind = tuple[int, tuple[int, ...]]
"""A level, and the states of its leaves."""
VALUES_A_LEAF: Final = 65_536
MOST_SAMPLES: Final = 8_192
LEAST_SAMPLES: Final = 512
"""Of a full leaf, however many signals."""
_FIELDS: Final = ("count", "low", "high", "mean")


@dataclass(frozen=True, kw_only=True, eq=False)
class Leaf:
    """`stored_id` None: not stored yet."""

    level_ms: int
    rolled_ms: int
    first_ms: int
    last_ms: int
    samples: int
    columns: bytes = field(repr=False)
    stored_id: int | None = None

    def row(self, tenant: str, asset: str) -> dict[str, object]:
        names = ("level_ms", "rolled_ms", "first_ms", "last_ms", "samples", "columns")
        return {"tenant": tenant, "asset": asset} | {name: getattr(self, name) for name in names}


def capacity(signals: int) -> int:
    """How many samples, or buckets, a leaf holds."""
    return min(MOST_SAMPLES, max(LEAST_SAMPLES, VALUES_A_LEAF // max(signals, 1)))


# --- finding ----------------------------------------------------------------------------------------------------------


TENANT: Final = bindparam("of_tenant", type_=String)
ASSET: Final = bindparam("of_asset", type_=String)
SHARD: Final = bindparam("of_shard", type_=Integer)
FROM_MS: Final = bindparam("from_ms", type_=BigInteger)
TO_MS: Final = bindparam("to_ms", type_=BigInteger)
"""For statements that are made once: to put one together takes several times as long as to run it."""


def of_level(level_ms: int, rolled_ms: Iterable[int] | None = None) -> ColumnElement[bool]:
    """Leaves of ASSET, in these or all states: with the states named an index finds those of a time."""
    if rolled_ms is None:
        rolled_ms = ROLLED_STATES if level_ms == SAMPLES else (NOT_ROLLED,)
    return and_(
        leaves.c.tenant == TENANT,
        leaves.c.asset == ASSET,
        leaves.c.level_ms == literal_column(str(level_ms)),
        leaves.c.rolled_ms.in_([literal_column(str(state)) for state in rolled_ms]),
    )


def overlapping(table: Table) -> ColumnElement[bool]:
    """Rows that have a part of the time from FROM_MS to TO_MS."""
    return (table.c.last_ms >= FROM_MS) & (table.c.first_ms <= TO_MS)


def stored_parts(
    connection: Connection, tenant: str, asset: str, kinds: tuple[Kind, ...], from_ms: int, to_ms: int
) -> Sequence[Row[Any]]:
    """(level_ms, columns) of the leaves of these kinds, and of the blocks, that overlap a range.

    One statement, that is one look at the database: what is moved from blocks to leaves meanwhile is seen once.
    """
    bound = {"of_tenant": tenant, "of_asset": asset, "from_ms": from_ms, "to_ms": to_ms}
    bound["of_shard"] = shard_of(tenant, asset)
    return connection.execute(_parts(kinds), bound).all()


@cache
def _parts(kinds: tuple[Kind, ...]) -> CompoundSelect[Any]:
    of_asset = select(literal(BLOCK).label("level_ms"), blocks.c.columns)
    parts: list[Select[Any]] = [
        of_asset.where(
            blocks.c.shard == SHARD, blocks.c.tenant == TENANT, blocks.c.asset == ASSET, overlapping(blocks)
        ),
        *(
            select(leaves.c.level_ms, leaves.c.columns).where(of_level(level_ms, rolled_ms), overlapping(leaves))
            for level_ms, rolled_ms in kinds
        ),
    ]
    return union_all(*parts)


def kinds_of_samples() -> tuple[Kind, ...]:
    return ((SAMPLES, ROLLED_STATES),)


def kinds_of_level(level_ms: int) -> tuple[Kind, ...]:
    """The level, and the samples that are too few to be in it."""
    coarser = [level for level in LEVELS_MS if level > level_ms]
    return ((level_ms, (NOT_ROLLED,)), (SAMPLES, (NOT_ROLLED, *coarser)))


# --- making -----------------------------------------------------------------------------------------------------------


def leaves_of_samples(block: Columns, *, is_tail: bool) -> list[Leaf]:
    """Samples cut into leaves. At the end of time (`is_tail`) full ones and a rest, elsewhere even ones."""
    t_ms, columns = block
    made = list[Leaf]()
    for start, end in _cuts(len(t_ms), capacity(len(columns)), is_tail=is_tail):
        times, readings = t_ms[start:end], {name: column[start:end] for name, column in columns.items()}
        known = {name: column for name, column in readings.items() if not np.isnan(column).all()}
        is_full = end - start >= capacity(len(columns)) // 2
        made.append(
            Leaf(
                level_ms=SAMPLES,
                rolled_ms=_narrowest_level(times) if is_full else NOT_ROLLED,
                first_ms=int(times[0]),
                last_ms=int(times[-1]),
                samples=len(times),
                columns=pack_columns(times, known),
            )
        )
    return made


SAMPLES_A_BUCKET: Final = 8
"""So many, on average, make a level worth its space."""


def _narrowest_level(t_ms: NDArray[np.int64]) -> int:
    worth = (level for level in LEVELS_MS if len(t_ms) >= SAMPLES_A_BUCKET * len(np.unique(t_ms // level)))
    return next(worth, NOT_ROLLED)


def leaves_of_buckets(buckets: Buckets, level_ms: int, *, is_tail: bool) -> list[Leaf]:
    starts, summaries = buckets
    made = list[Leaf]()
    for start, end in _cuts(len(starts), capacity(len(_FIELDS) * len(summaries)), is_tail=is_tail):
        made.append(
            Leaf(
                level_ms=level_ms,
                rolled_ms=NOT_ROLLED,
                first_ms=int(starts[start]),
                last_ms=int(starts[end - 1]) + level_ms - 1,
                samples=end - start,
                columns=pack_columns(starts[start:end], _columns_of(summaries.items(), slice(start, end))),
            )
        )
    return made


def _columns_of(summaries: Iterable[tuple[str, Summary]], part: slice) -> dict[str, NDArray[np.float32]]:
    return {
        f"{name}.{of}": getattr(summary, of)[part].astype(np.float32)
        for name, summary in summaries
        if summary.count[part].any()
        for of in _FIELDS
    }


def buckets_of_leaf(columns: bytes, signals: Collection[str] | None, from_ms: int, to_ms: int) -> Buckets:
    """Those that begin in a range."""
    wanted = None if signals is None else {f"{name}.{of}" for name in signals for of in _FIELDS}
    starts, found = decode_columns(columns, wanted)
    part = slice(np.searchsorted(starts, from_ms, "left"), np.searchsorted(starts, to_ms, "right"))
    names = sorted({name.rpartition(".")[0] for name in found})
    if not names or part.start >= part.stop:
        return NO_BUCKETS
    return starts[part], {
        name: Summary(
            count=found[f"{name}.count"][part].astype(np.float64),
            low=found[f"{name}.low"][part],
            high=found[f"{name}.high"][part],
            mean=found[f"{name}.mean"][part].astype(np.float64),
        )
        for name in names
    }


def _cuts(length: int, most: int, *, is_tail: bool) -> list[tuple[int, int]]:
    if not length:
        return []
    pieces = -(-length // most)
    each = most if is_tail else -(-length // pieces)
    return [(start, min(start + each, length)) for start in range(0, length, each)]

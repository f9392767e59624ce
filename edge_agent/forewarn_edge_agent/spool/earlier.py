"""Records of earlier epochs: they keep their identity, so that the cloud takes none of them twice."""

# ruff: noqa: S608 - nothing but constants is put into statements
import sqlite3
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from forewarn_edge_agent.spool.identity import Outstanding
from forewarn_edge_agent.spool.records import Chunk
from forewarn_models import wire

WINDOW_RECORDS: Final = 2000
"""So many are offered at once, until some of them are acknowledged."""
DROPPED_AT_ONCE: Final = 500


@dataclass(frozen=True, kw_only=True)
class Row:
    seq: int
    spooled_at_ms: int
    is_gap: bool
    crc: int | None
    body: bytes

    @property
    def is_whole(self) -> bool:
        return isinstance(self.body, bytes) and self.crc in (None, checksum(self.seq, self.body))


def checksum(seq: int, body: bytes) -> int:
    return zlib.crc32(body, seq & 0xFFFFFFFF)


def add(connection: sqlite3.Connection, lane: wire.Lane, epoch: str, rows: Iterable[Row]) -> None:
    """Gap records first: without them the cloud acknowledges nothing beyond what they tell of."""
    connection.executemany(
        "INSERT OR IGNORE INTO earlier (epoch, lane, seq, spooled_at_ms, is_gap, crc, body)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (epoch, lane, row.seq, row.spooled_at_ms, row.is_gap, row.crc, row.body)
            for row in sorted(rows, key=lambda row: not row.is_gap)
        ],
    )


def read(
    connection: sqlite3.Connection, lane: wire.Lane, after: int, *, max_records: int, max_bytes: int
) -> Chunk | None:
    """Consecutive records of one epoch behind the mark `after`; 0 is before all."""
    (first,) = connection.execute("SELECT min(number) FROM earlier WHERE lane = ?", (lane,)).fetchone()
    if first is None:
        return None
    rows = connection.execute(
        "SELECT number, epoch, seq, spooled_at_ms, body FROM earlier"
        " WHERE lane = ? AND number > ? AND number < ? ORDER BY number LIMIT ?",
        (lane, after, first + WINDOW_RECORDS, max_records),
    )
    found: tuple[str, int] | None = None
    size, at_ms, bodies = 0, 0, list[bytes]()
    for number, epoch, seq, spooled_at_ms, body in rows:
        found, size = found or (epoch, seq), size + len(body)
        if bodies and ((epoch, seq) != (found[0], found[1] + len(bodies)) or size > max_bytes):
            break
        after, at_ms = number, spooled_at_ms
        bodies.append(body)
    if found is None:
        return None
    return Chunk(epoch=found[0], seq=found[1], bodies=tuple(bodies), spooled_at_ms=at_ms, mark=after)


def is_short(connection: sqlite3.Connection, lane: wire.Lane, records: int) -> bool:
    """Whether fewer than so many wait."""
    some = "SELECT count(*) FROM (SELECT 1 FROM earlier WHERE lane = ? LIMIT ?)"
    return bool(connection.execute(some, (lane, records)).fetchone()[0] < records)


def acknowledge(connection: sqlite3.Connection, lane: wire.Lane, epoch: str, seq: int) -> bool:
    """Whether that was news."""
    acknowledged = "DELETE FROM earlier WHERE epoch = ? AND lane = ? AND seq <= ?"
    return connection.execute(acknowledged, (epoch, lane, seq)).rowcount > 0


def drop_oldest(connection: sqlite3.Connection, lane: wire.Lane) -> tuple[str, int, int] | None:
    """Drop some; of which epoch, the first and the last of them. None if there is nothing left to drop."""
    oldest = "SELECT epoch FROM earlier WHERE lane = ? AND is_gap = 0 ORDER BY number LIMIT 1"
    row = connection.execute(oldest, (lane,)).fetchone()
    if row is None:
        return None
    some = (
        "SELECT number, seq FROM earlier WHERE lane = ? AND is_gap = 0 AND epoch = ?"
        f" ORDER BY number LIMIT {DROPPED_AT_ONCE}"
    )
    found = f"SELECT min(seq), max(seq), max(number) FROM ({some})"
    first, last, number = connection.execute(found, (lane, row[0])).fetchone()
    gone = "DELETE FROM earlier WHERE lane = ? AND is_gap = 0 AND epoch = ? AND number <= ?"
    connection.execute(gone, (lane, row[0], number))
    return row[0], first, last


def outstanding(connection: sqlite3.Connection) -> tuple[Outstanding, ...]:
    held = "SELECT lane, epoch, min(seq) FROM earlier GROUP BY lane, epoch"
    salvage = "SELECT lane, epoch, next_seq FROM salvage"
    return tuple(
        Outstanding(lane=lane, epoch=epoch, first_seq=seq)
        for query in (held, salvage)
        for lane, epoch, seq in connection.execute(query)
    )


def is_outstanding(connection: sqlite3.Connection) -> bool:
    exists = "SELECT EXISTS (SELECT 1 FROM earlier) OR EXISTS (SELECT 1 FROM salvage)"
    return bool(connection.execute(exists).fetchone()[0])

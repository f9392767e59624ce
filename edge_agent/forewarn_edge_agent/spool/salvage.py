"""What can be had from a damaged spool file that is kept aside.

At once only what is small: what the models learned, positions, answers, digests. The records are read as they are sent,
so that opening takes no longer for a large file; what of them cannot be read is told as a gap of their epoch.
"""

# ruff: noqa: S608 - the only names put into statements are those of our tables
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from forewarn_edge_agent.spool import earlier
from forewarn_edge_agent.spool.damage import SpoolDamagedError
from forewarn_edge_agent.spool.earlier import Row
from forewarn_edge_agent.spool.identity import Identity
from forewarn_edge_agent.spool.records import Range
from forewarn_models import wire
from forewarn_models.asset_type import IDENTIFIER

_SMALL_TABLES: Final = {"asset": 11, "position": 3, "command": 3, "counter": 2, "recent": 2}
_LONGEST_STEP: Final = 2**40
_MOST_TRIES: Final = 200
_AT_ONCE_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Records of an epoch that cannot be had any more, still to be told."""

    lane: wire.Lane
    epoch: str
    first_seq: int
    last_seq: int


def epoch(damaged: sqlite3.Connection) -> str | None:
    try:
        (found,) = damaged.execute("SELECT epoch FROM spool").fetchone() or (None,)
    except sqlite3.Error:
        return None
    return found if isinstance(found, str) and IDENTIFIER.fullmatch(found) else None


def still_known(damaged: sqlite3.Connection, known: Identity | None) -> Identity | None:
    """None if the identity is of the file that the damaged one had replaced."""
    try:
        (replaced,) = damaged.execute("SELECT replaced FROM spool").fetchone() or (None,)
    except sqlite3.Error:
        return known
    return None if known is not None and replaced == known.epoch else known


def begin(
    damaged: sqlite3.Connection, connection: sqlite3.Connection, epoch: str | None, known: Identity | None
) -> Iterator[Loss]:
    """Take over what is small and note what is to be read later; what is known to be lost."""
    _copy_small_tables(damaged, connection)
    if known is not None:
        yield from _outstanding(damaged, connection, known)
    if epoch is None:
        return
    is_readable = _is_readable(damaged)
    for lane in wire.LANES:
        first = 1 + (_acknowledged_seq(damaged, lane) if known is None else known.acknowledged.get(lane, 0))
        if is_readable:
            connection.execute("INSERT INTO salvage (lane, epoch, next_seq) VALUES (?, ?, ?)", (lane, epoch, first))
        else:
            yield Loss(lane=lane, epoch=epoch, first_seq=first, last_seq=wire.MAX_SEQ)


def _outstanding(damaged: sqlite3.Connection, connection: sqlite3.Connection, known: Identity) -> Iterator[Loss]:
    """What the damaged file held of epochs before its own."""
    held: dict[tuple[str, str], list[int]] = {(each.lane, each.epoch): [] for each in known.outstanding}
    is_whole = True
    try:
        unread = set(damaged.execute("SELECT lane, epoch FROM salvage"))
        query = "SELECT lane, epoch, seq, spooled_at_ms, is_gap, crc, body FROM earlier ORDER BY number"
        for lane, of_epoch, *values in damaged.execute(query):
            row = _row(tuple(values), 0)
            is_whole &= row.is_whole
            if row.is_whole:
                earlier.add(connection, lane, of_epoch, [row])
                held.setdefault((lane, of_epoch), []).append(row.seq)
    except sqlite3.Error:
        unread, is_whole = set(held), False
    for each in known.outstanding:
        if not is_whole or (each.lane, each.epoch) in unread:
            lost = holes(each.first_seq, sorted(held[each.lane, each.epoch]), wire.MAX_SEQ)
            for first, last in lost:
                yield Loss(lane=each.lane, epoch=each.epoch, first_seq=first, last_seq=last)


def _copy_small_tables(damaged: sqlite3.Connection, connection: sqlite3.Connection) -> None:
    for table, columns in _SMALL_TABLES.items():
        insert = f"INSERT OR IGNORE INTO {table} VALUES ({', '.join('?' * columns)})"
        try:
            for row in damaged.execute(f"SELECT * FROM {table}"):
                connection.execute(insert, row)
        except sqlite3.Error:
            continue  # of the damaged file, or a value that fits no column: what came before it is kept


def _is_readable(damaged: sqlite3.Connection) -> bool:
    try:
        names = {name for (name,) in damaged.execute("SELECT name FROM sqlite_master")}
    except sqlite3.Error:
        return False
    return names >= set(wire.LANES)


def _acknowledged_seq(damaged: sqlite3.Connection, lane: wire.Lane) -> int:
    try:
        return int(damaged.execute("SELECT acknowledged_seq FROM lane WHERE lane = ?", (lane,)).fetchone()[0])
    except (sqlite3.Error, TypeError, ValueError):
        return 0


def scan(damaged: sqlite3.Connection, lane: wire.Lane, first_seq: int, at_most: int) -> tuple[list[Row], int | None]:
    """Readable records from `first_seq` on, in order, and from where to go on; None if there are no more.

    Where a page cannot be read it tries again behind it, in steps that double.
    """
    query = f"SELECT seq, spooled_at_ms, is_gap, crc, body FROM {lane} WHERE seq > ? ORDER BY seq LIMIT ?"
    after, step, size, found = first_seq - 1, 1, 0, list[Row]()
    for _ in range(_MOST_TRIES):
        asked, seen = at_most - len(found), 0
        try:
            for values in damaged.execute(query, (after, asked)):
                row = _row(values, after)
                after, step, seen = row.seq, 1, seen + 1
                if row.is_whole:
                    found.append(row)
                    size += len(row.body)
                if size >= _AT_ONCE_BYTES:
                    return found, after + 1
        except sqlite3.Error:
            after, step = after + step, step * 2
            if step > _LONGEST_STEP:
                return found, None
        else:
            if seen < asked:
                return found, None
            if len(found) >= at_most:
                return found, after + 1
    return found, after + 1


def holes(first_seq: int, held: Iterable[int], last_seq: int) -> list[Range]:
    """What of a range is not held; `held` is sorted."""
    missing, next_seq = list[Range](), first_seq
    for seq in (*held, last_seq + 1):
        if next_seq < seq:
            missing.append((next_seq, seq - 1))
        next_seq = seq + 1
    return missing


def _row(values: tuple[Any, ...], after: int) -> Row:
    seq, at_ms, is_gap, crc, body = values
    if not (isinstance(seq, int) and seq > after):
        raise SpoolDamagedError("out of order")
    return Row(seq=seq, spooled_at_ms=at_ms, is_gap=bool(is_gap), crc=crc, body=body)

"""The two lanes of the file: sequences, reading, gaps, and how old records are."""

# ruff: noqa: S608 - the only names put into statements are those of the two lanes
import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from zlib import crc32

import msgspec

from forewarn_edge_agent.log import event
from forewarn_edge_agent.spool.damage import SpoolDamagedError
from forewarn_edge_agent.spool.earlier import checksum
from forewarn_edge_agent.spool.records import Chunk, Range
from forewarn_models import wire

log = logging.getLogger(__name__)

UNREADABLE = "unreadable in the spool"


def monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000


class Lanes:
    """One thread at a time; `epoch` names the file."""

    def __init__(self, connection: sqlite3.Connection, running_ms: Callable[[], int]) -> None:
        self._connection = connection
        self._running_ms = running_ms
        self._dropped: dict[wire.Lane, int] = {}
        """Up to where each lane lost records in the present transaction."""
        self.epoch: str = self._value("SELECT epoch FROM spool")
        newest = (f"SELECT lived_ms FROM {lane} ORDER BY seq DESC LIMIT 1" for lane in wire.LANES)
        lived_ms = max((row[0] for query in newest for row in self._connection.execute(query)), default=0)
        self._lived_before_ms = lived_ms - running_ms()

    # --- sequences --------------------------------------------------------------------------------------------------

    def last_seq(self, lane: wire.Lane) -> int:
        row = self._connection.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (lane,)).fetchone()
        return int(row[0]) if row else 0

    def first_seq(self, lane: wire.Lane) -> int:
        """The first sequence that can still be sent, acknowledged or not, or the one that will be given next."""
        first = self._value(f"SELECT min(seq) FROM {lane}")
        return self.last_seq(lane) + 1 if first is None else int(first)

    def acknowledged_seq(self, lane: wire.Lane) -> int:
        return int(self._value("SELECT acknowledged_seq FROM lane WHERE lane = ?", (lane,)))

    def held_ranges(self, lane: wire.Lane, first_seq: int, last_seq: int) -> list[Range]:
        """What of a range can still be sent, acknowledged or not."""
        within = f"FROM {lane} WHERE seq BETWEEN ? AND ?"
        first, last, count = self._row(f"SELECT min(seq), max(seq), count(*) {within}", (first_seq, last_seq))
        if count == 0:
            return []
        if count == last + 1 - first:
            return [(first, last)]
        runs = f"SELECT seq, seq - row_number() OVER (ORDER BY seq) AS run {within}"
        query = f"SELECT min(seq), max(seq) FROM ({runs}) GROUP BY run ORDER BY run"
        return list(self._connection.execute(query, (first_seq, last_seq)))

    def _missing(self, lane: wire.Lane, first_seq: int, last_seq: int) -> list[Range]:
        missing, next_seq = list[Range](), max(1, first_seq)
        for first, last in [*self.held_ranges(lane, first_seq, last_seq), (last_seq + 1, last_seq + 1)]:
            if next_seq < first:
                missing.append((next_seq, first - 1))
            next_seq = last + 1
        return missing

    # --- reading ----------------------------------------------------------------------------------------------------

    def read(self, lane: wire.Lane, after_seq: int, *, max_records: int, max_bytes: int) -> Chunk | None:
        """The next consecutive unacknowledged records after `after_seq`, at least one, or None at the lane's end."""
        first_seq = max(after_seq, self.acknowledged_seq(lane)) + 1
        return self.read_range(lane, first_seq, wire.MAX_SEQ, max_records=max_records, max_bytes=max_bytes)

    def read_range(
        self,
        lane: wire.Lane,
        first_seq: int,
        last_seq: int,
        *,
        max_records: int,
        max_bytes: int,
        old_before_ms: int = 0,
    ) -> Chunk | None:
        """The next consecutive records held within a range, acknowledged or not, at least one, or None if none is.

        Those spooled before `old_before_ms` do not come together with newer ones. One that is found to be unreadable is
        told as a gap and left out.
        """
        held = f"SELECT seq, spooled_at_ms, is_gap, crc, body FROM {lane} WHERE seq BETWEEN ? AND ?"
        rows = self._connection.execute(f"{held} ORDER BY seq LIMIT ?", (first_seq, last_seq, max_records))
        first, size, at_ms, bodies = 0, 0, 0, list[bytes]()
        for seq, spooled_at_ms, is_gap, crc, body in rows:
            first, size = first or seq, size + len(body)
            if bodies and (seq != first + len(bodies) or size > max_bytes):
                break
            if crc is not None and crc != crc32(body, seq & 0xFFFFFFFF):
                if bodies:
                    break
                rows.close()
                self._give_up(lane, seq, is_gap)
                limits = {"max_records": max_records, "max_bytes": max_bytes, "old_before_ms": old_before_ms}
                return self.read_range(lane, seq + 1, last_seq, **limits)
            if bodies and (spooled_at_ms < old_before_ms) != (at_ms < old_before_ms):
                break
            at_ms = spooled_at_ms
            bodies.append(body)
        return Chunk(epoch=self.epoch, seq=first, bodies=tuple(bodies), spooled_at_ms=at_ms) if bodies else None

    def read_gaps(self, lane: wire.Lane, after_seq: int) -> list[Chunk]:
        """The gap records after `after_seq`. They go first: the cloud acknowledges nothing beyond an untold hole."""
        rows = self._connection.execute(
            f"SELECT seq, spooled_at_ms, body FROM {lane} WHERE is_gap = 1 AND seq > ? ORDER BY seq",
            (max(after_seq, self.acknowledged_seq(lane)),),
        )
        return [Chunk(epoch=self.epoch, seq=seq, bodies=(body,), spooled_at_ms=at_ms) for seq, at_ms, body in rows]

    def _give_up(self, lane: wire.Lane, seq: int, is_gap: int) -> None:
        if is_gap:
            raise SpoolDamagedError(f"{lane}: gap record {seq} cannot be read")
        with self._transaction():
            at_ms = self._value(f"SELECT spooled_at_ms FROM {lane} WHERE seq = ?", (seq,))
            self._connection.execute(f"DELETE FROM {lane} WHERE seq = ?", (seq,))
            self._tell_gap(lane, seq, seq, at_ms, UNREADABLE)

    # --- writing, within a transaction ------------------------------------------------------------------------------

    def _insert(self, lane: wire.Lane, bodies: Iterable[bytes], now_ms: int, *, is_gap: bool = False) -> None:
        lived_ms = self._lived_ms()
        self._connection.executemany(
            f"INSERT INTO {lane} (seq, spooled_at_ms, lived_ms, is_gap, crc, body) VALUES (?, ?, ?, ?, ?, ?)",
            [
                (seq, now_ms, lived_ms, is_gap, checksum(seq, body), body)
                for seq, body in enumerate(bodies, self.last_seq(lane) + 1)
            ],
        )

    def _tell_gap(
        self, lane: wire.Lane, first_seq: int, last_seq: int, now_ms: int, reason: str, *, epoch: str | None = None
    ) -> None:
        gap = wire.Gap(first_seq=first_seq, last_seq=last_seq, reason=reason, epoch=epoch)
        self._insert(lane, [wire.encode_gap(gap)], now_ms, is_gap=True)
        told = {"lane": lane, "epoch": epoch or self.epoch, "first_seq": first_seq, "last_seq": last_seq}
        event(log, logging.WARNING, "dropped", **told, reason=reason)

    def _tell_again(self, lane: wire.Lane, first_seq: int, last_seq: int, now_ms: int) -> None:
        """Of what is about to be dropped: the gap records about earlier epochs."""
        told = f"SELECT body FROM {lane} WHERE is_gap = 1 AND seq >= ? AND seq <= ? ORDER BY seq"
        for (body,) in self._connection.execute(told, (first_seq, last_seq)).fetchall():
            if "epoch" in msgspec.msgpack.decode(body):
                self._insert(lane, [body], now_ms, is_gap=True)

    # --- how old things are -----------------------------------------------------------------------------------------

    def _lived_ms(self) -> int:
        """How long agents have run on this file. Time switched off does not count: no clock could be trusted for it.

        Records are therefore kept longer than asked, never shorter, and no jump of the wall clock ages any.
        """
        return self._lived_before_ms + self._running_ms()

    def _last_older(self, lane: wire.Lane, after: int, upto: int, lived_ms: int, at_most: int) -> int | None:
        """The last of the first `at_most` records within (after, upto] that were spooled by `lived_ms`, or None."""
        oldest = f"SELECT seq, lived_ms FROM {lane} WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?"
        found = self._value(f"SELECT max(seq) FROM ({oldest}) WHERE lived_ms <= ?", (after, upto, at_most, lived_ms))
        return None if found is None else int(found)

    # --- statements -------------------------------------------------------------------------------------------------

    def _row(self, query: str, parameters: tuple[Any, ...] = ()) -> tuple[Any, ...]:
        row: tuple[Any, ...] = self._connection.execute(query, parameters).fetchone()
        return row

    def _value(self, query: str, parameters: tuple[Any, ...] = ()) -> Any:
        return self._row(query, parameters)[0]

    def _check_log(self) -> None:
        """Called before each transaction."""

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._check_log()
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            self._dropped.clear()
            # SQLite has already rolled back by itself after some errors, such as a full disk.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

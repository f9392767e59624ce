"""The spool itself: appending, acknowledging, reading, and the cap."""

# ruff: noqa: S608 - the only names put into statements are those of the two lanes
import logging
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, Self

from forewarn_edge_agent.log import event
from forewarn_edge_agent.sources import Position
from forewarn_edge_agent.spool import opening, schema
from forewarn_edge_agent.spool.inspection import asset_rows
from forewarn_edge_agent.spool.records import AssetRow, Batch, Chunk, Limits, Range
from forewarn_models import wire

log = logging.getLogger(__name__)

KEPT_DIGESTS: Final = 4096
KEPT_COMMANDS: Final = 1000
TRIMMED_AT_ONCE: Final = 2000
"""At most so many records leave the archive with one commit, so that none takes long."""
AGED_AT_ONCE: Final = 20_000
HOUR_MS: Final = 3_600_000

NO_LONGER_HELD: Final = "no longer held"


def monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000


class Spool:
    """Open with `Spool.open`; one thread at a time."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        limits: Limits,
        *,
        lock: IO[str] | None = None,
        running_ms: Callable[[], int] = monotonic_ms,
    ) -> None:
        self._connection = connection
        self._limits = limits
        self._lock = lock
        self._running_ms = running_ms
        self._max_pages = schema.max_pages(limits)
        self.epoch: str = self._value("SELECT epoch FROM spool")
        self._lived_before_ms = self._lived_by_last_record() - running_ms()

    @classmethod
    def open(
        cls,
        state_dir: Path,
        *,
        max_bytes: int,
        now_ms: int,
        max_days: float = 7.0,
        keep_acknowledged_hours: float = 24.0,
        running_ms: Callable[[], int] = monotonic_ms,
    ) -> Self:
        """Open the spool of a state directory, or create it.

        A damaged file is kept aside (the newest such file only, the disk must not fill) and a new one, with a new
        epoch, takes its place. `running_ms` is a clock that only counts how long the process has run.

        Raises:
            SpoolInUseError: another process has it open.
            SpoolVersionError: a newer agent wrote it.
            OSError, sqlite3.OperationalError: the disk does not allow it.
        """
        limits = Limits(
            max_bytes=max_bytes,
            max_age_ms=round(max_days * 24 * HOUR_MS),
            keep_acknowledged_ms=round(keep_acknowledged_hours * HOUR_MS),
        )
        state_dir.mkdir(parents=True, exist_ok=True)
        lock = opening.take_lock(state_dir / opening.LOCK_NAME)
        try:
            connection = opening.open_or_replace(state_dir / opening.FILE_NAME, limits, now_ms=now_ms)
            return cls(connection, limits, lock=lock, running_ms=running_ms)
        except BaseException:
            lock.close()
            raise

    def close(self) -> None:
        self._connection.close()
        if self._lock is not None:
            self._lock.close()

    # --- writing ----------------------------------------------------------------------------------------------------

    def append(self, batch: Batch, *, now_ms: int) -> None:
        """Commit a batch; it is on the disk when this returns. Where the cap is reached, the oldest telemetry goes.

        Raises:
            sqlite3.OperationalError: the disk is full or failing; nothing of the batch was written.
        """
        dropped: dict[wire.Lane, int] = {}
        with self._transaction():
            self._trim("telemetry")
            self._trim("advisory")
            for body in batch.telemetry:
                self._make_room(len(body), dropped)
                seq = self._insert("telemetry", body, now_ms)
                self._connection.execute("INSERT INTO recent VALUES (?, ?)", (seq, wire.digest(body)))
            for body in batch.advisories:
                self._make_room(len(body), dropped)
                self._insert("advisory", body, now_ms)
            if batch.assets is not None:
                self._make_room(sum(len(row.state) for row in batch.assets), dropped)
                self._checkpoint(batch.assets)
            for position in batch.positions:
                self._connection.execute(
                    "INSERT OR REPLACE INTO position (source, row, shift_ms) VALUES (?, ?, ?)",
                    (position.source, position.row, position.shift_ms),
                )
            if batch.reply is not None:
                self._remember(batch.reply)
            for name, value in batch.counters.items():
                self._count(name, value)
            self._connection.execute("DELETE FROM recent WHERE seq <= ?", (self.last_seq("telemetry") - KEPT_DIGESTS,))
            for lane, last_seq in dropped.items():
                self._tell_dropped(lane, last_seq, now_ms, "the spool is full")
            self._drop_aged(now_ms)

    def acknowledge(self, lane: wire.Lane, epoch: str, seq: int) -> bool:
        """The cloud has committed everything up to `seq`. False if that is no news, or not about this spool."""
        with self._transaction():
            before = self.acknowledged_seq(lane)
            if epoch != self.epoch or not before < seq <= self.last_seq(lane):
                return False
            self._connection.execute("UPDATE lane SET acknowledged_seq = ? WHERE lane = ?", (seq, lane))
            self._trim(lane)
            return True

    def tell_missing(self, lane: wire.Lane, first_seq: int, last_seq: int, *, now_ms: int) -> list[Range]:
        """Spool gap records, on the disk when this returns, for what of a range is held no longer; which that is.

        Only sequences that were given already are considered.
        """
        with self._transaction():
            missing = self._missing(lane, first_seq, min(last_seq, self.last_seq(lane)))
            for first, last in missing:
                self._tell_gap(lane, first, last, now_ms, NO_LONGER_HELD)
            return missing

    def _insert(self, lane: wire.Lane, body: bytes, now_ms: int, *, is_gap: bool = False) -> int:
        seq = self.last_seq(lane) + 1
        self._connection.execute(
            f"INSERT INTO {lane} (seq, spooled_at_ms, lived_ms, is_gap, crc, body) VALUES (?, ?, ?, ?, ?, ?)",
            (seq, now_ms, self._lived_ms(), is_gap, checksum(seq, body), body),
        )
        return seq

    def _checkpoint(self, assets: tuple[AssetRow, ...]) -> None:
        self._connection.executemany(
            "INSERT OR REPLACE INTO asset VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    row.asset,
                    row.asset_type,
                    " ".join(row.signals),
                    row.state,
                    row.memory,
                    row.condition,
                    row.maturity,
                    row.health_index,
                    row.observed_at_ms,
                    row.samples,
                )
                for row in assets
            ],
        )
        self._connection.execute("UPDATE spool SET checkpoint_seq = ?", (self.last_seq("telemetry"),))

    def _remember(self, reply: wire.Reply) -> None:
        blob = wire.encode_control(reply)
        self._connection.execute("INSERT INTO command (id, reply) VALUES (?, ?)", (reply.id, blob))
        oldest = "SELECT number FROM command ORDER BY number DESC LIMIT 1 OFFSET ?"
        self._connection.execute(f"DELETE FROM command WHERE number <= ({oldest})", (KEPT_COMMANDS,))

    def _count(self, name: str, value: int) -> None:
        self._connection.execute(
            "INSERT INTO counter VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
            (name, value),
        )

    # --- how old things are -----------------------------------------------------------------------------------------

    def _lived_ms(self) -> int:
        """How long agents have run on this file. Time switched off does not count: no clock could be trusted for it.

        Records are therefore kept longer than asked, never shorter, and no jump of the wall clock ages any.
        """
        return self._lived_before_ms + self._running_ms()

    def _lived_by_last_record(self) -> int:
        newest = (f"SELECT lived_ms FROM {lane} ORDER BY seq DESC LIMIT 1" for lane in wire.LANES)
        return max((row[0] for query in newest for row in self._connection.execute(query)), default=0)

    def _trim(self, lane: wire.Lane) -> None:
        """Let go of acknowledged records that were kept long enough, some at a time."""
        too_old = self._lived_ms() - self._limits.keep_acknowledged_ms
        last = self._last_older(lane, 0, self._archive_end(lane), too_old, TRIMMED_AT_ONCE)
        if last is not None:
            self._connection.execute(f"DELETE FROM {lane} WHERE seq <= ?", (last,))

    def _drop_aged(self, now_ms: int) -> None:
        """Drop telemetry that has waited too long, an hour or so at a time: each time costs a gap record."""
        too_old, step = self._lived_ms() - self._limits.max_age_ms, self._limits.max_age_ms // 100
        acknowledged, last_seq = self.acknowledged_seq("telemetry"), self.last_seq("telemetry")
        if self._last_older("telemetry", acknowledged, last_seq, too_old, 1) is None:
            return
        last = self._last_older("telemetry", acknowledged, last_seq, too_old + step, AGED_AT_ONCE)
        if last is not None:
            self._drop("telemetry", last)
            self._tell_dropped("telemetry", last, now_ms, "waited too long")

    def _last_older(self, lane: wire.Lane, after: int, upto: int, lived_ms: int, at_most: int) -> int | None:
        """The last of the first `at_most` records within (after, upto] that were spooled by `lived_ms`, or None."""
        oldest = f"SELECT seq, lived_ms FROM {lane} WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?"
        found = self._value(f"SELECT max(seq) FROM ({oldest}) WHERE lived_ms <= ?", (after, upto, at_most, lived_ms))
        return None if found is None else int(found)

    # --- the cap ----------------------------------------------------------------------------------------------------

    def _make_room(self, size: int, dropped: dict[wire.Lane, int]) -> None:
        """Drop until `size` bytes fit: the archive, then the oldest telemetry, then advisories.

        `dropped` notes up to where.
        """
        lane: wire.Lane
        for lane in wire.LANES:
            while not self._has_room(size) and (cutoff := self._next_of_archive(lane)) is not None:
                self._connection.execute(f"DELETE FROM {lane} WHERE seq <= ?", (cutoff,))
        for lane in wire.LANES:
            while not self._has_room(size) and (cutoff := self._next_to_drop(lane)) is not None:
                self._drop(lane, cutoff)
                dropped[lane] = cutoff

    def _has_room(self, size: int) -> bool:
        used = self._value("PRAGMA page_count") - self._value("PRAGMA freelist_count")
        # What is left free below the cap lets a delete and a checkpoint always have room.
        margin = min(64, self._max_pages // 8)
        return bool(used + size // schema.PAGE_BYTES <= self._max_pages - margin)

    def _archive_end(self, lane: wire.Lane) -> int:
        """Up to where records are acknowledged, and the models need them no more."""
        acknowledged = self.acknowledged_seq(lane)
        return (
            acknowledged if lane == "advisory" else min(acknowledged, self._value("SELECT checkpoint_seq FROM spool"))
        )

    def _next_of_archive(self, lane: wire.Lane) -> int | None:
        first, end = self._value(f"SELECT min(seq) FROM {lane}"), self._archive_end(lane)
        return None if first is None or first > end else int(min(end, first + max(100, (end - first) // 100)))

    def _next_to_drop(self, lane: wire.Lane) -> int | None:
        """Up to where to drop: a twentieth of the lane, but never its last record; None if nothing is left to drop."""
        first, last = self._row(f"SELECT min(seq), max(seq) FROM {lane}")
        return None if first is None or first == last else int(first + (last - first) // 20)

    def _drop(self, lane: wire.Lane, cutoff: int) -> None:
        lost = f"SELECT count(*) FROM {lane} WHERE is_gap = 0 AND seq > ? AND seq <= ?"
        dropped = self._value(lost, (self.acknowledged_seq(lane), cutoff))
        self._connection.execute("UPDATE lane SET dropped = dropped + ? WHERE lane = ?", (dropped, lane))
        self._connection.execute(f"DELETE FROM {lane} WHERE seq <= ?", (cutoff,))

    def _tell_dropped(self, lane: wire.Lane, last_seq: int, now_ms: int, reason: str) -> None:
        # From the last acknowledgement on: among what was dropped there may be gap records.
        first_seq = self.acknowledged_seq(lane) + 1
        if last_seq >= first_seq:  # else the cloud has all that was dropped
            self._tell_gap(lane, first_seq, last_seq, now_ms, reason)

    def _tell_gap(self, lane: wire.Lane, first_seq: int, last_seq: int, now_ms: int, reason: str) -> None:
        gap = wire.Gap(first_seq=first_seq, last_seq=last_seq, reason=reason)
        self._insert(lane, wire.encode_gap(gap), now_ms, is_gap=True)
        event(log, logging.WARNING, "dropped", lane=lane, first_seq=first_seq, last_seq=last_seq, reason=reason)

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

        Those spooled before `old_before_ms` do not come together with newer ones.
        """
        rows = self._connection.execute(
            f"SELECT seq, spooled_at_ms, body FROM {lane} WHERE seq >= ? AND seq <= ? ORDER BY seq LIMIT ?",
            (first_seq, last_seq, max_records),
        )
        first, size, at_ms, bodies = 0, 0, 0, list[bytes]()
        for seq, spooled_at_ms, body in rows:
            first, size = first or seq, size + len(body)
            if bodies and (seq != first + len(bodies) or size > max_bytes):
                break
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

    def last_seq(self, lane: wire.Lane) -> int:
        row = self._connection.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (lane,)).fetchone()
        return int(row[0]) if row else 0

    def first_seq(self, lane: wire.Lane) -> int:
        """The first sequence that can still be sent, acknowledged or not, or the one that will be given next."""
        first = self._value(f"SELECT min(seq) FROM {lane}")
        return self.last_seq(lane) + 1 if first is None else int(first)

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
        missing, next_seq = [], max(1, first_seq)
        for first, last in [*self.held_ranges(lane, first_seq, last_seq), (last_seq + 1, last_seq + 1)]:
            if next_seq < first:
                missing.append((next_seq, first - 1))
            next_seq = last + 1
        return missing

    def acknowledged_seq(self, lane: wire.Lane) -> int:
        return int(self._value("SELECT acknowledged_seq FROM lane WHERE lane = ?", (lane,)))

    def recent_digests(self) -> list[bytes]:
        """`wire.digest` of the last telemetry records, sent or not, oldest first."""
        return [row[0] for row in self._connection.execute("SELECT digest FROM recent ORDER BY seq")]

    def records_since_checkpoint(self) -> Iterator[bytes]:
        """Telemetry that the model states have not seen, oldest first. Not to be mixed with writing."""
        since = "seq > (SELECT checkpoint_seq FROM spool)"
        rows = self._connection.execute(f"SELECT body FROM telemetry WHERE is_gap = 0 AND {since} ORDER BY seq")
        return (row[0] for row in rows)

    def assets(self) -> list[AssetRow]:
        return asset_rows(self._connection)

    def position(self, source: str) -> Position | None:
        row = self._connection.execute("SELECT row, shift_ms FROM position WHERE source = ?", (source,)).fetchone()
        return Position(source=source, row=row[0], shift_ms=row[1]) if row else None

    def reply(self, command_id: str) -> wire.Reply | None:
        """The answer that was given to a command, if it was already done."""
        row = self._connection.execute("SELECT reply FROM command WHERE id = ?", (command_id,)).fetchone()
        return wire.decode_control(row[0], wire.Reply) if row else None

    def _row(self, query: str, parameters: tuple[Any, ...] = ()) -> tuple[Any, ...]:
        row: tuple[Any, ...] = self._connection.execute(query, parameters).fetchone()
        return row

    def _value(self, query: str, parameters: tuple[Any, ...] = ()) -> Any:
        return self._row(query, parameters)[0]

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            # SQLite has already rolled back by itself after some errors, such as a full disk.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise


def checksum(seq: int, body: bytes) -> int:
    return zlib.crc32(body, seq & 0xFFFFFFFF)

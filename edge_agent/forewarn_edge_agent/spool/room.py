"""The cap of the spool: what goes when it is reached, or when it is too old, and that the cloud is told."""

# ruff: noqa: S608 - the only names put into statements are those of the two lanes
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from forewarn_edge_agent.spool import earlier, opening, schema
from forewarn_edge_agent.spool.damage import SpoolBusyError
from forewarn_edge_agent.spool.lanes import Lanes
from forewarn_edge_agent.spool.records import Limits
from forewarn_models import wire

FULL: Final = "the spool is full"
TOO_OLD: Final = "waited too long"
TRIMMED_AT_ONCE: Final = 2000
"""At most so many records leave the archive with one commit, so that none takes long."""
AGED_AT_ONCE: Final = 20_000


class Room(Lanes):
    """All of it works within a transaction."""

    def __init__(
        self, connection: sqlite3.Connection, limits: Limits, path: Path | None, running_ms: Callable[[], int]
    ) -> None:
        super().__init__(connection, running_ms)
        self._limits = limits
        self._path = path
        self._max_pages = schema.max_pages(limits)
        self._aside_pages = self._pages_aside()
        self._log = None if path is None else path.with_name(f"{path.name}-wal")

    def _check_log(self) -> None:
        """A reader that never ends keeps the write-ahead log from being written back, and it would grow for ever.

        Raises:
            SpoolBusyError: there is one.
        """
        if self._log_bytes() > schema.wal_bytes(self._limits):
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if self._log_bytes() > schema.wal_bytes(self._limits):
                raise SpoolBusyError("another process reads the spool and does not end")

    def _log_bytes(self) -> int:
        try:
            return 0 if self._log is None else self._log.stat().st_size
        except FileNotFoundError:
            return 0

    def _make_room(self, size: int, now_ms: int, *, records: int = 0) -> None:
        """Drop until `size` bytes fit: what the cloud has, the oldest telemetry, and last of all advisories."""
        if not self._has_room(size, records):
            any(self._has_room(size, records) for _ in self._drop_piecemeal(now_ms))

    def _tell_of_drops(self, now_ms: int) -> None:
        """Once at the end of a transaction, however often room was made in it."""
        for lane, last_seq in self._dropped.items():
            self._tell_dropped(lane, last_seq, now_ms, FULL)
        self._dropped.clear()

    def _make_room_in_archive(self, size: int) -> bool:
        """Whether `size` bytes fit, at the cost of what the cloud has only."""
        return self._has_room(size) or any(self._has_room(size) for _ in self._drop_archive())

    def _drop_piecemeal(self, now_ms: int) -> Iterator[None]:
        """Drop the least precious thing at each step."""
        yield from self._drop_archive()
        for lane in wire.LANES:
            while (lost := earlier.drop_oldest(self._connection, lane)) is not None:
                epoch, first, last = lost
                self._tell_gap(lane, first, last, now_ms, FULL, epoch=epoch)
                yield
            while (cutoff := self._next_to_drop(lane)) is not None:
                self._drop(lane, cutoff, now_ms)
                self._dropped[lane] = cutoff
                yield

    def _has_room(self, size: int, records: int = 0) -> bool:
        if self._limits.max_records is not None and self._held_records() + records > self._limits.max_records:
            return False
        used = self._value("PRAGMA page_count") - self._value("PRAGMA freelist_count")
        if self._is_aside_done():
            used += self._aside_pages
        # What is left free below the cap lets a delete and a checkpoint always have room.
        margin = min(64, self._max_pages // 8)
        return bool(used + size // schema.PAGE_BYTES <= self._max_pages - margin)

    def _held_records(self) -> int:
        return sum(self.last_seq(lane) + 1 - self.first_seq(lane) for lane in wire.LANES)

    def _drop_archive(self) -> Iterator[None]:
        if self._is_aside_done():
            self._remove_aside()
            yield
        for lane in wire.LANES:
            while (cutoff := self._next_of_archive(lane)) is not None:
                self._connection.execute(f"DELETE FROM {lane} WHERE seq <= ?", (cutoff,))
                yield

    # --- what the cloud has -----------------------------------------------------------------------------------------

    def _trim(self, lane: wire.Lane) -> None:
        """Let go of acknowledged records that were kept long enough, some at a time."""
        too_old, end = self._lived_ms() - self._limits.keep_acknowledged_ms, self._archive_end(lane)
        if self._last_older(lane, 0, end, too_old, 1) is not None:
            last = self._last_older(lane, 0, end, too_old, TRIMMED_AT_ONCE)
            self._connection.execute(f"DELETE FROM {lane} WHERE seq <= ?", (last,))

    def _archive_end(self, lane: wire.Lane) -> int:
        """Up to where records are acknowledged, and the models need them no more."""
        end = self.acknowledged_seq(lane)
        return end if lane == "advisory" else min(end, self._value("SELECT checkpoint_seq FROM spool"))

    def _next_of_archive(self, lane: wire.Lane) -> int | None:
        first, end = self._value(f"SELECT min(seq) FROM {lane}"), self._archive_end(lane)
        return None if first is None or first > end else int(min(end, first + max(100, (end - first) // 100)))

    def _is_aside_done(self) -> bool:
        """Whether a damaged file is kept from which nothing is to be had any more. Until then it is beyond the cap."""
        return bool(self._aside_pages) and not self._value("SELECT count(*) FROM salvage")

    def _pages_aside(self) -> int:
        if self._path is None:
            return 0
        aside = opening.aside(self._path)
        return aside.stat().st_size // schema.PAGE_BYTES if aside.is_file() else 0

    def _remove_aside(self) -> None:
        assert self._path is not None
        opening.remove(opening.aside(self._path))
        self._aside_pages = 0

    # --- what it does not have --------------------------------------------------------------------------------------

    def _drop_aged(self, now_ms: int) -> None:
        """Drop telemetry that has waited too long, an hour or so at a time: each time costs a gap record."""
        too_old, step = self._lived_ms() - self._limits.max_age_ms, self._limits.max_age_ms // 100
        acknowledged, last_seq = self.acknowledged_seq("telemetry"), self.last_seq("telemetry")
        if self._last_older("telemetry", acknowledged, last_seq, too_old, 1) is None:
            return
        last = self._last_older("telemetry", acknowledged, last_seq, too_old + step, AGED_AT_ONCE)
        assert last is not None
        self._drop("telemetry", last, now_ms)
        self._tell_dropped("telemetry", last, now_ms, TOO_OLD)

    def _next_to_drop(self, lane: wire.Lane) -> int | None:
        """Up to where to drop: a twentieth of the lane, but never its last record; None if nothing is left to drop."""
        first, last = self._row(f"SELECT min(seq), max(seq) FROM {lane}")
        return None if first is None or first == last else int(first + (last - first) // 20)

    def _drop(self, lane: wire.Lane, cutoff: int, now_ms: int) -> None:
        first = self.acknowledged_seq(lane) + 1
        self._tell_again(lane, first, cutoff, now_ms)
        lost = f"SELECT count(*) FROM {lane} WHERE is_gap = 0 AND seq >= ? AND seq <= ?"
        dropped = self._value(lost, (first, cutoff))
        self._connection.execute("UPDATE lane SET dropped = dropped + ? WHERE lane = ?", (dropped, lane))
        self._connection.execute(f"DELETE FROM {lane} WHERE seq <= ?", (cutoff,))

    def _tell_dropped(self, lane: wire.Lane, last_seq: int, now_ms: int, reason: str) -> None:
        # From the last acknowledgement on: among what was dropped there may be gap records.
        first_seq = self.acknowledged_seq(lane) + 1
        if last_seq >= first_seq:  # else the cloud has all that was dropped
            self._tell_gap(lane, first_seq, last_seq, now_ms, reason)

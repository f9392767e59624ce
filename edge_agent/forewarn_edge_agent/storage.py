"""Where the agent keeps things: the spool on the disk and, while the disk fails, a small one in memory.

An agent never stops watching machines because of its disk. While it cannot be written, the last `MEMORY_RECORDS`
records are kept in memory under an epoch of their own, sent, and acknowledged like any others; when the disk is back,
what of them the cloud still lacks moves to the file with its identity, so that nothing is ever given twice. What a
kill of the process would lose is then no more than those records.

A file that turns out to be damaged is replaced at once, without a restart.
"""

import logging
import sqlite3
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Final, TypeVar

from forewarn_edge_agent.log import event
from forewarn_edge_agent.sources import Position
from forewarn_edge_agent.spool import (
    FILE_NAME,
    LOCK_NAME,
    AssetRow,
    Batch,
    Chunk,
    Identity,
    Range,
    Spool,
    SpoolInUseError,
    is_of_the_disk,
    take_lock,
)
from forewarn_edge_agent.spool.inspection import read_assets
from forewarn_models import wire

log = logging.getLogger(__name__)

MEMORY_RECORDS: Final = 10_000
MEMORY_BYTES: Final = 8 * 1024 * 1024
TRY_DISK_SECONDS: Final = 5.0

T = TypeVar("T")
_DISK_ERRORS: Final = (sqlite3.Error, OSError, SpoolInUseError)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the spool is and what it may hold; see `Spool.open`."""

    state_dir: Path
    max_bytes: int
    max_days: float = 7.0
    keep_acknowledged_hours: float = 24.0


class Storage:
    """Use it like a `Spool`, from one thread at a time. No error of the disk comes out of it."""

    def __init__(self, place: Place, now_ms: Callable[[], int]) -> None:
        """
        Raises:
            SpoolInUseError: another process uses the state directory.
            SpoolVersionError: a newer agent wrote the file.
        """
        self._place = place
        self._now_ms = now_ms
        self._lock = _lock(place.state_dir)
        self._known: Identity | None = None
        self._try_disk_at = 0.0
        self.in_memory = False
        self.failures = 0
        """How often the disk or the file failed since the start."""
        self.states: Callable[[], Iterable[AssetRow]] = tuple
        """The present states of all models, for when they have to be written anew."""
        self.restore: Callable[[Iterable[AssetRow]], None] = lambda _: None
        """The models go on from these states: those of a file that could not be read when the agent started."""
        self._is_blank = False
        try:
            self._spool = self._open()
        except (sqlite3.Error, OSError) as error:
            self._is_blank = (place.state_dir / FILE_NAME).is_file()
            self._spool = self._to_memory(error)

    @property
    def epoch(self) -> str:
        return self._spool.epoch

    @property
    def has_earlier(self) -> bool:
        """Whether `read_earlier` may find something. Reads nothing."""
        return self._spool.has_earlier

    def close(self) -> None:
        if self.in_memory:
            self._try_disk()
        if self.in_memory:
            waiting = {lane: self._spool.last_seq(lane) - self._spool.acknowledged_seq(lane) for lane in wire.LANES}
            event(log, logging.ERROR, "memory_given_up", **waiting)
        self._spool.close()
        if self._lock is not None:
            self._lock.close()

    # --- as the spool -----------------------------------------------------------------------------------------------

    def append(self, batch: Batch, *, now_ms: int) -> None:
        """In pieces that the write-ahead log has room for; whatever fails between them, none is kept twice."""
        for part in batch.parts(self._spool.commit_bytes):
            self._do(partial(Spool.append, batch=part, now_ms=now_ms))

    def acknowledge(self, lane: wire.Lane, epoch: str, seq: int) -> bool:
        return self._do(lambda spool: spool.acknowledge(lane, epoch, seq))

    def tell_missing(self, lane: wire.Lane, first_seq: int, last_seq: int, *, now_ms: int) -> list[Range]:
        return self._do(lambda spool: spool.tell_missing(lane, first_seq, last_seq, now_ms=now_ms))

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
        limits = {"max_records": max_records, "max_bytes": max_bytes, "old_before_ms": old_before_ms}
        return self._do(lambda spool: spool.read_range(lane, first_seq, last_seq, **limits))

    def read_gaps(self, lane: wire.Lane, after_seq: int) -> list[Chunk]:
        return self._do(lambda spool: spool.read_gaps(lane, after_seq))

    def read_earlier(self, lane: wire.Lane, after: int, *, max_records: int, max_bytes: int) -> Chunk | None:
        limits = {"max_records": max_records, "max_bytes": max_bytes, "now_ms": self._now_ms()}
        return self._do(lambda spool: spool.read_earlier(lane, after, **limits))

    def holds(self, epoch: str) -> bool:
        return self._do(lambda spool: spool.holds(epoch))

    def last_seq(self, lane: wire.Lane) -> int:
        return self._do(lambda spool: spool.last_seq(lane))

    def first_seq(self, lane: wire.Lane) -> int:
        return self._do(lambda spool: spool.first_seq(lane))

    def acknowledged_seq(self, lane: wire.Lane) -> int:
        return self._do(lambda spool: spool.acknowledged_seq(lane))

    def recent_digests(self) -> list[bytes]:
        return self._do(lambda spool: spool.recent_digests())

    def records_since_checkpoint(self) -> list[bytes]:
        return self._do(lambda spool: list(spool.records_since_checkpoint()))

    def assets(self) -> list[AssetRow]:
        if not self.in_memory:
            return self._do(lambda spool: spool.assets())
        rows = read_assets(self._place.state_dir / FILE_NAME)
        self._is_blank = self._is_blank and rows is None
        return rows or []

    def position(self, source: str) -> Position | None:
        return self._do(lambda spool: spool.position(source))

    def reply(self, command_id: str) -> wire.Reply | None:
        return self._do(lambda spool: spool.reply(command_id))

    # --- when something fails ---------------------------------------------------------------------------------------

    def _do(self, work: Callable[[Spool], T]) -> T:
        if self.in_memory and time.monotonic() >= self._try_disk_at:
            self._try_disk()
        try:
            return work(self._spool)
        except (sqlite3.ProgrammingError, sqlite3.InterfaceError):
            raise  # an error of ours
        except sqlite3.Error as error:
            if self.in_memory:
                raise
            self._give_way(error)
        return work(self._spool)

    def _give_way(self, error: sqlite3.Error) -> None:
        failed = self._spool
        self._known = failed.known()
        if not is_of_the_disk(error):
            failed.release()
            try:
                self._spool = self._open(found=str(error))
                self._spool.append(Batch(assets=tuple(self.states())), now_ms=self._now_ms())
            except (sqlite3.Error, OSError) as further:
                self._spool = self._to_memory(further)
            return
        self._spool = self._to_memory(error)
        with suppress(sqlite3.Error):  # without it, commands that were done before may be done again
            self._spool.answer_as(failed)
        failed.release()

    def _open(self, found: str | None = None) -> Spool:
        place = self._place
        if self._lock is None:
            self._lock = _lock(place.state_dir)
        return Spool.open(
            place.state_dir,
            max_bytes=place.max_bytes,
            max_days=place.max_days,
            keep_acknowledged_hours=place.keep_acknowledged_hours,
            now_ms=self._now_ms(),
            lock=self._lock,
            found=found,
            known=self._known,
        )

    def _to_memory(self, error: BaseException) -> Spool:
        event(log, logging.ERROR, "spool_in_memory", reason=error, records=MEMORY_RECORDS, retry_in_s=TRY_DISK_SECONDS)
        self.in_memory = True
        self.failures += 1
        self._try_disk_at = time.monotonic() + TRY_DISK_SECONDS
        return Spool.in_memory(max_bytes=MEMORY_BYTES, max_records=MEMORY_RECORDS, now_ms=self._now_ms())

    def _try_disk(self) -> None:
        """Go back to the disk if it can be written again, with all that is in memory."""
        self._try_disk_at = time.monotonic() + TRY_DISK_SECONDS
        try:
            disk = self._open()
        except _DISK_ERRORS as error:
            event(log, logging.DEBUG, "disk_still_fails", reason=error)
            return
        try:
            learned = {} if self._is_blank else {row.asset: row for row in self.states()}
            known = {row.asset: row for row in disk.assets()}
            disk.adopt(self._spool, (known | learned).values(), now_ms=self._now_ms())
        except _DISK_ERRORS as error:
            event(log, logging.DEBUG, "disk_still_fails", reason=error)
            self._known = disk.known()
            disk.release()
            return
        self._spool.close()
        self._spool, self.in_memory = disk, False
        if self._is_blank:
            self.restore(known.values())
        event(log, logging.WARNING, "spool_on_disk_again", epoch=disk.epoch)


def _lock(state_dir: Path) -> IO[str] | None:
    """None where the disk does not even allow that."""
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        return take_lock(state_dir / LOCK_NAME)
    except OSError:
        return None

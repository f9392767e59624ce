"""Opening the file of the spool, whatever has become of it, for one process at a time."""

import fcntl
import logging
import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from forewarn_edge_agent.log import event
from forewarn_edge_agent.spool import damage, salvage, schema
from forewarn_edge_agent.spool.identity import Identity
from forewarn_edge_agent.spool.records import Limits
from forewarn_edge_agent.spool.salvage import Loss

log = logging.getLogger(__name__)

FILE_NAME: Final = "spool.db"
LOCK_NAME: Final = "lock"
LOCK_SECONDS: Final = 2.0
BUSY_SECONDS: Final = 1.0
MOST_PAGES: Final = 2**22
"""No spool has more: a page count beyond it is damage itself."""
_SUFFIXES: Final = ("", "-wal", "-shm", "-journal")

Connect = Callable[[Path], sqlite3.Connection]
"""Opens a database in autocommit mode."""


class SpoolInUseError(Exception):
    """Another agent uses this state directory."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    connection: sqlite3.Connection
    losses: tuple[Loss, ...] = ()
    """To be told within the transaction that is open; without losses none is."""
    is_torn: bool = False
    """Whether the last commit may have been lost."""


def plain_connection(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)


def take_lock(path: Path) -> IO[str]:
    """
    Raises:
        SpoolInUseError: another process has it.
        OSError: the disk does not allow it.
    """
    try:
        file = path.open("a")
    except OSError:
        file = path.open("r")  # on a disk that can only be read, a lock that is there can be taken all the same
    # `status` holds the lock for a moment, and an agent that is just ending holds it a little longer.
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            if time.monotonic() > deadline:
                file.close()
                raise SpoolInUseError(f"{path.parent}: another agent uses this state directory") from None
            time.sleep(0.05)


def is_locked(path: Path) -> bool:
    with path.open("r") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def aside(path: Path) -> Path:
    """Where a damaged file is kept."""
    return path.with_name(f"{path.name}.damaged")


def open_or_replace(
    path: Path, limits: Limits, *, now_ms: int, connect: Connect, found: str | None = None, known: Identity | None
) -> Opened:
    """Open the file, or put a new one in its place if it is damaged, or if it was `found` to be.

    Raises:
        SpoolVersionError: a newer agent wrote it.
        OSError, sqlite3.Error: the disk does not allow it.
    """
    wrong = found or damage.seen_from_outside(path, known)
    if wrong is None:
        try:
            return _open(path, limits, now_ms, connect, known)
        except sqlite3.Error as error:
            if damage.is_of_the_disk(error):
                raise
            wrong = str(error)
    event(log, logging.ERROR, "spool_damaged", file=path.name, reason=wrong, consequence="a new epoch begins")
    is_aside_already = wrong in damage.OF_NOTHING and known is not None and _is_aside(path, known.epoch, connect)
    if is_aside_already:
        remove(path)  # the power went before the new file was whole
    else:
        remove(aside(path))  # only the newest is kept: the disk must not fill
        _move(path, aside(path))
        _pad(aside(path))
    return _replace(path, limits, now_ms, connect, known)


def open_aside(path: Path, connect: Connect) -> sqlite3.Connection:
    """The damaged file; an empty database where there is none that could be opened."""
    return connect(aside(path)) if aside(path).is_file() else sqlite3.connect(":memory:", isolation_level=None)


def _open(path: Path, limits: Limits, now_ms: int, connect: Connect, known: Identity | None) -> Opened:
    connection = connect(path)
    try:
        schema.set_up(connection, limits)
        is_torn = damage.check(connection, path, known)
        connection.execute("BEGIN IMMEDIATE")
        if schema.is_empty(connection):
            schema.create(connection, now_ms=now_ms)
        schema.upgrade(connection)
        connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    return Opened(connection=connection, is_torn=is_torn)


def _replace(path: Path, limits: Limits, now_ms: int, connect: Connect, known: Identity | None) -> Opened:
    connection = connect(path)
    try:
        schema.set_up(connection, limits)
        connection.execute("BEGIN IMMEDIATE")
        with closing(open_aside(path, connect)) as damaged:
            known = salvage.still_known(damaged, known)
            epoch = salvage.epoch(damaged) if known is None else known.epoch
            schema.create(connection, now_ms=now_ms, replaced=epoch)
            losses = tuple(salvage.begin(damaged, connection, epoch, known))
        connection.execute(
            "INSERT INTO counter VALUES ('spool_damaged', 1) ON CONFLICT (name) DO UPDATE SET value = value + 1"
        )
    except BaseException:
        connection.close()
        raise
    return Opened(connection=connection, losses=losses)


def _is_aside(path: Path, epoch: str, connect: Connect) -> bool:
    with closing(open_aside(path, connect)) as damaged:
        return salvage.epoch(damaged) == epoch


def _move(path: Path, to: Path) -> None:
    for suffix in _SUFFIXES:
        file = path.with_name(path.name + suffix)
        if file.exists():
            file.replace(to.with_name(to.name + suffix))


def _pad(path: Path) -> None:
    """Give a file that was cut short its length again: SQLite refuses one that is shorter than its header says."""
    if path.is_file():
        with path.open("rb") as file:
            pages = int.from_bytes(file.read(32)[28:], "big")
        if path.stat().st_size < pages * schema.PAGE_BYTES <= schema.PAGE_BYTES * MOST_PAGES:
            os.truncate(path, pages * schema.PAGE_BYTES)


def remove(path: Path) -> None:
    for suffix in _SUFFIXES:
        file = path.with_name(path.name + suffix)
        if file.is_dir() and not file.is_symlink():
            shutil.rmtree(file)
        else:
            file.unlink(missing_ok=True)

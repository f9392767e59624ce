"""Opening the file of the spool, whatever has become of it, for one process at a time."""

import fcntl
import logging
import sqlite3
import time
from pathlib import Path
from typing import IO, Final

from forewarn_edge_agent.log import event
from forewarn_edge_agent.spool import schema
from forewarn_edge_agent.spool.records import Limits

log = logging.getLogger(__name__)

FILE_NAME: Final = "spool.db"
LOCK_NAME: Final = "lock"
LOCK_SECONDS: Final = 2.0


class SpoolInUseError(Exception):
    """Another agent uses this state directory."""


class SpoolVersionError(Exception):
    """The spool was written by a newer version of the agent."""


def take_lock(path: Path) -> IO[str]:
    """
    Raises:
        SpoolInUseError: another process has it.
    """
    file = path.open("a")
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


def open_or_replace(path: Path, limits: Limits, *, now_ms: int) -> sqlite3.Connection:
    damage = _damage(path)
    if damage is not None:
        _keep_aside(path)
        event(log, logging.ERROR, "spool_damaged", file=path.name, reason=damage, consequence="a new epoch begins")
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    schema.set_up(connection, limits)
    schema.create_or_upgrade(connection, now_ms=now_ms)
    if damage is not None:
        connection.execute("INSERT INTO counter VALUES ('spool_damaged', 1)")
    return connection


def _damage(path: Path) -> str | None:
    """What is wrong with the file, or None if it is good, absent, or was never finished.

    Raises:
        SpoolVersionError: a newer agent wrote it.
    """
    if not path.exists():
        return None
    if path.stat().st_size == 0 and not path.with_name(f"{path.name}-wal").exists():
        return "empty"
    try:
        connection = sqlite3.connect(path, isolation_level=None)
        try:
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            version = connection.execute("PRAGMA user_version").fetchone()[0]
        finally:
            connection.close()
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            raise  # the disk, not the file
        return str(error)
    if found != "ok":
        return str(found)
    if version > schema.SCHEMA_VERSION:
        raise SpoolVersionError(
            f"{path}: written by a newer agent (version {version}); this one knows {schema.SCHEMA_VERSION}"
        )
    return None


def _keep_aside(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        file = path.with_name(path.name + suffix)
        if file.exists():
            file.replace(path.with_name(f"{path.name}.damaged{suffix}"))

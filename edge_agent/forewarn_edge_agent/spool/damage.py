"""How a damaged spool file shows, and how its errors differ from those of the disk it is on."""

import sqlite3
import struct
from pathlib import Path
from typing import Final

from forewarn_edge_agent.spool import schema
from forewarn_edge_agent.spool.identity import Identity
from forewarn_models import wire
from forewarn_models.asset_type import IDENTIFIER

_OF_THE_DISK: Final = {
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_NOLFS,
    sqlite3.SQLITE_PROTOCOL,
}
MISSING: Final = "missing"
EMPTY: Final = "empty"
UNFINISHED: Final = "never finished"
OF_NOTHING: Final = (MISSING, EMPTY, UNFINISHED)
"""So it also looks when the power goes between keeping a damaged file aside and the first commit of the new one."""
_SMALL_TABLES: Final = ("spool", "lane", "recent", "asset", "position", "command", "counter", "salvage")
_HEADER: Final = struct.Struct(">16sHBBBBBB20xI8xI")
_MAGIC: Final = b"SQLite format 3\0"
_WAL_HEADER_BYTES: Final = 32
_FRAME_BYTES: Final = 24 + schema.PAGE_BYTES


class SpoolDamagedError(sqlite3.DatabaseError):
    """The file does not hold what was written."""


class SpoolBusyError(sqlite3.OperationalError):
    """Nothing can be written now without going beyond the cap."""

    sqlite_errorcode = sqlite3.SQLITE_BUSY


class SpoolVersionError(Exception):
    """The spool was written by a newer version of the agent."""


def is_of_the_disk(error: sqlite3.Error) -> bool:
    """Whether the disk is to blame, and the file may be good once the disk is."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    # A read beyond the end of the file: it was cut short.
    return code is not None and code & 0xFF in _OF_THE_DISK and code != sqlite3.SQLITE_IOERR_SHORT_READ


def seen_from_outside(path: Path, known: Identity | None) -> str | None:
    """What is wrong with the file before SQLite touches it; None if nothing is, or it was never finished.

    Raises:
        OSError: the disk does not allow to look.
    """
    if not path.exists():
        return None if known is None else MISSING
    if not path.is_file():
        return "not a file"
    with path.open("rb") as file:
        header = file.read(_HEADER.size)
    if not header:
        return None if known is None or _size(_beside(path, "-wal")) else EMPTY
    if len(header) < _HEADER.size:
        return "cut short"
    magic, page, written, read, reserved, *shares, layout, encoding = _HEADER.unpack(header)
    good = magic == _MAGIC and page == schema.PAGE_BYTES and written == read in (1, 2) and reserved == 0
    return None if good and shares == [64, 32, 32] and layout in (0, 4) and encoding in (0, 1) else "not a spool"


def check(connection: sqlite3.Connection, path: Path, known: Identity | None) -> bool:
    """Look at all that is small, in bounded time; what is wrong among the records shows when they are read.

    Returns whether the last commit is torn: it was being written when the power went, or was damaged since.

    Raises:
        SpoolDamagedError: what is wrong.
        SpoolVersionError: a newer agent wrote it.
        sqlite3.DatabaseError: it cannot be read.
    """
    names = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    # The shared-memory file must not be looked at: to close it would let go of SQLite's own locks on it.
    _, readable, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    lost = _lost_commits(path, readable)
    _require(lost <= 1, "the write-ahead log is damaged")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        _require(not names, "tables without a version")
        _require(known is None, UNFINISHED)
        return False
    _check_version(version, known)
    _require(set(_SMALL_TABLES[:-1]) <= names and set(wire.LANES) <= names, "tables are missing")
    if version < schema.SCHEMA_VERSION:
        return False
    for table in _SMALL_TABLES:
        found = connection.execute(f"PRAGMA quick_check({table})").fetchone()[0]
        _require(found == "ok", found)
    epoch, replaced = connection.execute("SELECT epoch, replaced FROM spool").fetchone() or (None, None)
    _require(isinstance(epoch, str) and bool(IDENTIFIER.fullmatch(epoch)), "no epoch")
    if known is not None and known.epoch == replaced:
        known = None  # the power went before the new identity was noted
    _require(known is None or epoch == known.epoch, "the epoch is another")
    for lane in wire.LANES:
        _check_lane(connection, lane, known)
    return lost > 0


def _check_lane(connection: sqlite3.Connection, lane: wire.Lane, known: Identity | None) -> None:
    (acknowledged,) = connection.execute("SELECT acknowledged_seq FROM lane WHERE lane = ?", (lane,)).fetchone() or (
        -1,
    )
    (last,) = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (lane,)).fetchone() or (0,)
    _require(0 <= acknowledged <= last, f"{lane}: an impossible acknowledgement")
    if known is not None:
        _require(last >= known.last.get(lane, 0), f"{lane}: the last records are gone")
        _require(acknowledged >= known.acknowledged.get(lane, 0), f"{lane}: the acknowledgement went back")


def _check_version(version: int, known: Identity | None) -> None:
    if version > schema.SCHEMA_VERSION:
        flipped = known is not None and known.version != version and (version ^ known.version).bit_count() == 1
        _require(not flipped, "the version is another")
        raise SpoolVersionError(
            f"the spool was written by a newer agent (version {version}); this one knows {schema.SCHEMA_VERSION}"
        )
    _require(known is None or version == known.version, "the version is another")


def _lost_commits(path: Path, readable: int) -> int:
    """How many commits the write-ahead log holds behind the frames up to which SQLite could read it; 2: two or more.

    SQLite takes a damaged frame for the end of the log and says nothing. What was committed behind it would be gone,
    and its sequences given again. One such commit may be the last, torn; before another it was whole once.
    """
    wal = _beside(path, "-wal")
    frames = (_size(wal) - _WAL_HEADER_BYTES) // _FRAME_BYTES
    if frames <= 0:
        return 0
    lost = 0
    with wal.open("rb") as file:
        header = file.read(_WAL_HEADER_BYTES)
        for number in range(max(0, readable), frames):
            file.seek(_WAL_HEADER_BYTES + number * _FRAME_BYTES)
            frame = file.read(16)
            # Of older rounds of the log both differ; a damaged one may have lost either.
            is_of_this_round = frame[8:12] == header[16:20] or frame[12:16] == header[20:24]
            if is_of_this_round and lost:
                return 2
            lost += is_of_this_round and frame[4:8] != bytes(4)
    return lost


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _require(right: bool, problem: str) -> None:
    if not right:
        raise SpoolDamagedError(problem)

"""The tables of the spool, and how SQLite is set up for them."""

import secrets
import sqlite3
from typing import Final

from forewarn_edge_agent.spool.records import Limits

SCHEMA_VERSION: Final = 2
PAGE_BYTES: Final = 4096
_WAL_BYTES: Final = 8 * 1024 * 1024
_SIDE_BYTES: Final = 64 * 1024
"""The shared-memory file of the write-ahead log, the lock and the identity file."""

_OF_EARLIER_EPOCHS: Final = """
-- What waits to be acknowledged of other epochs: of a damaged file, or of the time when only memory was left.
CREATE TABLE earlier (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    epoch TEXT NOT NULL,
    lane TEXT NOT NULL CHECK (lane IN ('telemetry', 'advisory')),
    seq INTEGER NOT NULL,
    spooled_at_ms INTEGER NOT NULL,
    is_gap INTEGER NOT NULL CHECK (is_gap IN (0, 1)),
    crc INTEGER,
    body BLOB NOT NULL,
    UNIQUE (epoch, lane, seq)
) STRICT;
CREATE INDEX earlier_lane ON earlier (lane, number);
-- How far a damaged file was read.
CREATE TABLE salvage (
    lane TEXT PRIMARY KEY CHECK (lane IN ('telemetry', 'advisory')),
    epoch TEXT NOT NULL,
    next_seq INTEGER NOT NULL
) STRICT;
"""
_TABLES: Final = (
    """
CREATE TABLE spool (
    epoch TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    checkpoint_seq INTEGER NOT NULL DEFAULT 0,
    replaced TEXT
) STRICT;
CREATE TABLE lane (
    lane TEXT PRIMARY KEY CHECK (lane IN ('telemetry', 'advisory')),
    acknowledged_seq INTEGER NOT NULL DEFAULT 0,
    dropped INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO lane (lane) VALUES ('telemetry'), ('advisory');
-- replaced: the epoch of the damaged file that this one took the place of.
-- AUTOINCREMENT: without it a lane that runs empty would start again at 1, and the cloud would take news for repeats.
-- lived_ms: how long agents had run on this file by then; unlike the wall clock it cannot jump.
-- crc: of sequence and body; null in rows of version 1.
CREATE TABLE telemetry (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    spooled_at_ms INTEGER NOT NULL,
    lived_ms INTEGER NOT NULL DEFAULT 0,
    is_gap INTEGER NOT NULL DEFAULT 0 CHECK (is_gap IN (0, 1)),
    crc INTEGER,
    body BLOB NOT NULL
) STRICT;
CREATE TABLE advisory (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    spooled_at_ms INTEGER NOT NULL,
    lived_ms INTEGER NOT NULL DEFAULT 0,
    is_gap INTEGER NOT NULL DEFAULT 0 CHECK (is_gap IN (0, 1)),
    crc INTEGER,
    body BLOB NOT NULL
) STRICT;
CREATE TABLE recent (number INTEGER PRIMARY KEY, digest BLOB NOT NULL) STRICT;
CREATE INDEX telemetry_gaps ON telemetry (seq) WHERE is_gap = 1;
CREATE INDEX advisory_gaps ON advisory (seq) WHERE is_gap = 1;
CREATE TABLE asset (
    asset TEXT PRIMARY KEY,
    asset_type TEXT NOT NULL,
    signals TEXT NOT NULL,
    state BLOB NOT NULL,
    memory BLOB,
    condition TEXT NOT NULL,
    maturity TEXT NOT NULL,
    health_index REAL,
    observed_at_ms INTEGER NOT NULL,
    samples INTEGER NOT NULL,
    crc INTEGER
) STRICT;
CREATE TABLE position (source TEXT PRIMARY KEY, row INTEGER NOT NULL, shift_ms INTEGER NOT NULL) STRICT;
CREATE TABLE command (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    reply BLOB NOT NULL
) STRICT;
CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
"""
    + _OF_EARLIER_EPOCHS
)

_FROM_1_TO_2: Final = f"""
ALTER TABLE spool ADD COLUMN replaced TEXT;
ALTER TABLE telemetry ADD COLUMN lived_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE telemetry ADD COLUMN crc INTEGER;
ALTER TABLE advisory ADD COLUMN lived_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE advisory ADD COLUMN crc INTEGER;
ALTER TABLE recent RENAME COLUMN seq TO number;
ALTER TABLE asset ADD COLUMN crc INTEGER;
{_OF_EARLIER_EPOCHS}"""


def wal_bytes(limits: Limits) -> int:
    """What the write-ahead log may take of the cap: half is written back, half is left for one more commit."""
    return min(_WAL_BYTES, limits.max_bytes // 4)


def max_pages(limits: Limits) -> int:
    return (limits.max_bytes - wal_bytes(limits) - _SIDE_BYTES) // PAGE_BYTES


def set_up(connection: sqlite3.Connection, limits: Limits) -> None:
    connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {wal_bytes(limits) // 2 // PAGE_BYTES}")
    connection.execute(f"PRAGMA journal_size_limit = {wal_bytes(limits) // 2}")
    connection.execute(f"PRAGMA max_page_count = {max_pages(limits)}")


def is_empty(connection: sqlite3.Connection) -> bool:
    return bool(connection.execute("PRAGMA user_version").fetchone()[0] == 0)


def create(connection: sqlite3.Connection, *, now_ms: int, replaced: str | None = None) -> None:
    """Within a transaction, so that nobody ever finds half of it."""
    for statement in _TABLES.split(";\n"):
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    row = (secrets.token_hex(8), now_ms, replaced)
    connection.execute("INSERT INTO spool (epoch, created_at_ms, replaced) VALUES (?, ?, ?)", row)


def upgrade(connection: sqlite3.Connection) -> None:
    """Within a transaction, too."""
    if connection.execute("PRAGMA user_version").fetchone()[0] == 1:
        for statement in _FROM_1_TO_2.split(";\n"):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

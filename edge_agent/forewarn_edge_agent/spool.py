"""The spool: everything the agent must not forget, in one SQLite file.

Two lanes of encoded records, each with its own sequence; the model states with the advisory memories; replay positions,
answered commands and counters. All of one `append` is one transaction on disk (WAL, `synchronous=FULL`) when it
returns, so samples, advisories and model states can never disagree. One thread uses a `Spool`; a file lock keeps a
second process out.

The model states are written at a checkpoint, not with every sample (cheap disks wear out). A crash costs nothing all
the same: telemetry is kept until it is acknowledged *and* older than the checkpoint, so the states are brought up to
date from it. The digests of the last records are kept to recognise what a source delivers again after a crash.
"""

# ruff: noqa: S608 - the only names put into statements are those of the two lanes
import fcntl
import logging
import secrets
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final, Self

import msgspec

from forewarn_edge_agent.log import event
from forewarn_edge_agent.sources import Position
from forewarn_models import wire

log = logging.getLogger(__name__)

FILE_NAME: Final = "spool.db"
LOCK_NAME: Final = "lock"
LOCK_SECONDS: Final = 2.0
KEPT_DIGESTS: Final = 4096
KEPT_COMMANDS: Final = 1000
SCHEMA_VERSION: Final = 1
_PAGE_BYTES: Final = 4096
_MARGIN_PAGES: Final = 64
"""Free pages that are left below the cap, so that a delete and a checkpoint always have room."""

_SCHEMA: Final = """
CREATE TABLE spool (
    epoch TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    checkpoint_seq INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE lane (
    lane TEXT PRIMARY KEY CHECK (lane IN ('telemetry', 'advisory')),
    acknowledged_seq INTEGER NOT NULL DEFAULT 0,
    dropped INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO lane (lane) VALUES ('telemetry'), ('advisory');
-- AUTOINCREMENT: without it a lane that runs empty would start again at 1, and the cloud would take news for repeats.
CREATE TABLE telemetry (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    spooled_at_ms INTEGER NOT NULL,
    is_gap INTEGER NOT NULL DEFAULT 0 CHECK (is_gap IN (0, 1)),
    body BLOB NOT NULL
) STRICT;
CREATE TABLE advisory (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    spooled_at_ms INTEGER NOT NULL,
    is_gap INTEGER NOT NULL DEFAULT 0 CHECK (is_gap IN (0, 1)),
    body BLOB NOT NULL
) STRICT;
CREATE TABLE recent (seq INTEGER PRIMARY KEY, digest BLOB NOT NULL) STRICT;
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
    samples INTEGER NOT NULL
) STRICT;
CREATE TABLE position (source TEXT PRIMARY KEY, row INTEGER NOT NULL, shift_ms INTEGER NOT NULL) STRICT;
CREATE TABLE command (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    reply BLOB NOT NULL
) STRICT;
CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
"""


class SpoolInUseError(Exception):
    """Another agent uses this state directory."""


class SpoolVersionError(Exception):
    """The spool was written by a newer version of the agent."""


@dataclass(frozen=True, kw_only=True)
class AssetRow:
    """What is kept of one asset at a checkpoint. `state` and `memory` are what the models wrote."""

    asset: str
    asset_type: str
    signals: tuple[str, ...]
    state: bytes
    memory: bytes | None
    condition: str
    maturity: str
    health_index: float | None
    observed_at_ms: int
    samples: int


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Everything of one commit."""

    telemetry: list[bytes] = field(default_factory=list)
    advisories: list[bytes] = field(default_factory=list)
    assets: tuple[AssetRow, ...] | None = None
    """The states that changed since the last checkpoint, if this is one; they include this batch's telemetry."""
    positions: tuple[Position, ...] = ()
    reply: wire.Reply | None = None
    counters: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Consecutive records of a lane; the first has the sequence `seq`."""

    seq: int
    bodies: tuple[bytes, ...]

    @property
    def last_seq(self) -> int:
        return self.seq + len(self.bodies) - 1


@dataclass(frozen=True, kw_only=True)
class LaneState:
    """`last_seq` is the highest sequence ever given; `depth` counts what the cloud has not acknowledged."""

    last_seq: int
    acknowledged_seq: int
    depth: int
    dropped: int
    oldest_at_ms: int | None


class Spool:
    """Open with `Spool.open`; one thread at a time."""

    def __init__(self, connection: sqlite3.Connection, lock: IO[str], max_bytes: int) -> None:
        self._connection = connection
        self._lock = lock
        self._max_pages = max_bytes // _PAGE_BYTES
        connection.execute(f"PRAGMA max_page_count = {self._max_pages}")
        self.epoch: str = self._value("SELECT epoch FROM spool")

    @classmethod
    def open(cls, state_dir: Path, *, max_bytes: int, now_ms: int) -> Self:
        """Open the spool of a state directory, or create it.

        A damaged file is kept aside (the newest such file only, the disk must not fill) and a new one, with a new
        epoch, takes its place.

        Raises:
            SpoolInUseError: another process has it open.
        SpoolVersionError: a newer agent wrote it.
            OSError, sqlite3.OperationalError: the disk does not allow it.
        """
        state_dir.mkdir(parents=True, exist_ok=True)
        lock = _lock(state_dir / LOCK_NAME)
        try:
            return cls(_open_or_replace(state_dir / FILE_NAME, now_ms), lock, max_bytes)
        except BaseException:
            lock.close()
            raise

    def close(self) -> None:
        self._connection.close()
        self._lock.close()

    # --- writing ----------------------------------------------------------------------------------------------------

    def append(self, batch: Batch, *, now_ms: int) -> None:
        """Commit a batch; it is on the disk when this returns. Where the cap is reached, the oldest telemetry goes.

        Raises:
            sqlite3.OperationalError: the disk is full or failing; nothing of the batch was written.
        """
        dropped: dict[wire.Lane, int] = {}
        with self._transaction():
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
                self._tell_gap(lane, last_seq, now_ms)

    def acknowledge(self, lane: wire.Lane, epoch: str, seq: int) -> bool:
        """The cloud has committed everything up to `seq`. False if that is no news, or not about this spool."""
        with self._transaction():
            before = self.acknowledged_seq(lane)
            if epoch != self.epoch or not before < seq <= self.last_seq(lane):
                return False
            self._connection.execute("UPDATE lane SET acknowledged_seq = ? WHERE lane = ?", (seq, lane))
            self._forget_acknowledged(lane)
            return True

    def _insert(self, lane: wire.Lane, body: bytes, now_ms: int, *, is_gap: bool = False) -> int:
        statement = f"INSERT INTO {lane} (spooled_at_ms, is_gap, body) VALUES (?, ?, ?)"
        return int(self._connection.execute(statement, (now_ms, is_gap, body)).lastrowid or 0)

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
        self._forget_acknowledged("telemetry")

    def _forget_acknowledged(self, lane: wire.Lane) -> None:
        last = self.acknowledged_seq(lane)
        if lane == "telemetry":
            last = min(last, self._value("SELECT checkpoint_seq FROM spool"))
        self._connection.execute(f"DELETE FROM {lane} WHERE seq <= ?", (last,))

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

    # --- the cap ----------------------------------------------------------------------------------------------------

    def _make_room(self, size: int, dropped: dict[wire.Lane, int]) -> None:
        """Drop until `size` bytes fit: the oldest telemetry, then advisories; `dropped` notes up to where."""
        lane: wire.Lane
        for lane in ("telemetry", "advisory"):
            while not self._has_room(size) and (cutoff := self._next_to_drop(lane)) is not None:
                self._drop(lane, cutoff)
                dropped[lane] = cutoff

    def _has_room(self, size: int) -> bool:
        used = self._value("PRAGMA page_count") - self._value("PRAGMA freelist_count")
        return bool(used + size // _PAGE_BYTES <= self._max_pages - _MARGIN_PAGES)

    def _tell_gap(self, lane: wire.Lane, last_seq: int, now_ms: int) -> None:
        first_seq = self.acknowledged_seq(lane) + 1
        if last_seq < first_seq:
            return  # the cloud has all that was dropped
        gap = wire.Gap(first_seq=first_seq, last_seq=last_seq, reason="the spool is full")
        self._insert(lane, wire.encode_gap(gap), now_ms, is_gap=True)
        event(log, logging.WARNING, "dropped", lane=lane, first_seq=first_seq, last_seq=last_seq)

    def _next_to_drop(self, lane: wire.Lane) -> int | None:
        """Up to where to drop: a twentieth of the lane, but never its last record; None if nothing is left to drop."""
        first, last = self._row(f"SELECT min(seq), max(seq) FROM {lane}")
        return None if first is None or first == last else int(first + (last - first) // 20)

    def _drop(self, lane: wire.Lane, cutoff: int) -> None:
        lost = f"SELECT count(*) FROM {lane} WHERE is_gap = 0 AND seq > ? AND seq <= ?"
        dropped = self._value(lost, (self.acknowledged_seq(lane), cutoff))
        self._connection.execute("UPDATE lane SET dropped = dropped + ? WHERE lane = ?", (dropped, lane))
        self._connection.execute(f"DELETE FROM {lane} WHERE seq <= ?", (cutoff,))

    # --- reading ----------------------------------------------------------------------------------------------------

    def read(self, lane: wire.Lane, after_seq: int, *, max_records: int, max_bytes: int) -> Chunk | None:
        """The next consecutive records after `after_seq`, at least one of them, or None at the end of the lane."""
        rows = self._connection.execute(
            f"SELECT seq, body FROM {lane} WHERE seq > ? ORDER BY seq LIMIT ?",
            (max(after_seq, self.acknowledged_seq(lane)), max_records),
        )
        first, size, bodies = 0, 0, list[bytes]()
        for seq, body in rows:
            first, size = first or seq, size + len(body)
            if bodies and (seq != first + len(bodies) or size > max_bytes):
                break
            bodies.append(body)
        return Chunk(seq=first, bodies=tuple(bodies)) if bodies else None

    def read_gaps(self, lane: wire.Lane, after_seq: int) -> list[Chunk]:
        """The gap records after `after_seq`. They go first: the cloud acknowledges nothing beyond an untold hole."""
        rows = self._connection.execute(
            f"SELECT seq, body FROM {lane} WHERE is_gap = 1 AND seq > ? ORDER BY seq",
            (max(after_seq, self.acknowledged_seq(lane)),),
        )
        return [Chunk(seq=seq, bodies=(body,)) for seq, body in rows]

    def last_seq(self, lane: wire.Lane) -> int:
        row = self._connection.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (lane,)).fetchone()
        return int(row[0]) if row else 0

    def first_seq(self, lane: wire.Lane) -> int:
        """The first sequence that can still be sent, or the one that will be given next."""
        pending = f"SELECT min(seq) FROM {lane} WHERE seq > ?"
        first = self._value(pending, (self.acknowledged_seq(lane),))
        return self.last_seq(lane) + 1 if first is None else int(first)

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
        return _asset_rows(self._connection)

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


# --- looking in from outside -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What the spool holds, read while the agent may be running."""

    epoch: str
    lanes: dict[str, LaneState]
    gaps: dict[str, list[tuple[int, int]]]
    """First and last sequence of what was dropped and not yet told to the cloud."""
    counters: dict[str, int]
    assets: list[AssetRow]
    in_use: bool


def inspect(state_dir: Path) -> Inspection | None:
    """Read a spool without changing it; None if there is none yet.

    Raises:
        sqlite3.DatabaseError: the file is damaged.
    """
    path = state_dir / FILE_NAME
    if not path.is_file():
        return None
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)
    try:
        connection.execute("BEGIN")  # one snapshot for all that follows
        if connection.execute("PRAGMA user_version").fetchone()[0] != SCHEMA_VERSION:
            return None
        lanes: tuple[wire.Lane, ...] = wire.LANES
        return Inspection(
            epoch=connection.execute("SELECT epoch FROM spool").fetchone()[0],
            lanes={lane: _lane_state(connection, lane) for lane in lanes},
            gaps={lane: _gaps(connection, lane) for lane in lanes},
            counters=dict(connection.execute("SELECT name, value FROM counter ORDER BY name").fetchall()),
            assets=_asset_rows(connection),
            in_use=_is_locked(state_dir / LOCK_NAME),
        )
    finally:
        connection.close()


def _lane_state(connection: sqlite3.Connection, lane: wire.Lane) -> LaneState:
    acknowledged, dropped = connection.execute(
        "SELECT acknowledged_seq, dropped FROM lane WHERE lane = ?", (lane,)
    ).fetchone()
    pending = f"SELECT count(*), min(spooled_at_ms) FROM {lane} WHERE seq > ?"
    depth, oldest = connection.execute(pending, (acknowledged,)).fetchone()
    sequence = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (lane,)).fetchone()
    return LaneState(
        last_seq=sequence[0] if sequence else 0,
        acknowledged_seq=acknowledged,
        depth=depth,
        dropped=dropped,
        oldest_at_ms=oldest,
    )


def _gaps(connection: sqlite3.Connection, lane: wire.Lane) -> list[tuple[int, int]]:
    rows = connection.execute(f"SELECT body FROM {lane} WHERE is_gap = 1 ORDER BY seq")
    return [tuple(msgspec.msgpack.decode(row[0])["gap"]) for row in rows]


def _asset_rows(connection: sqlite3.Connection) -> list[AssetRow]:
    rows = connection.execute("SELECT * FROM asset ORDER BY asset")
    return [
        AssetRow(
            asset=row[0],
            asset_type=row[1],
            signals=tuple(row[2].split()),
            state=row[3],
            memory=row[4],
            condition=row[5],
            maturity=row[6],
            health_index=row[7],
            observed_at_ms=row[8],
            samples=row[9],
        )
        for row in rows
    ]


# --- opening ---------------------------------------------------------------------------------------------------------


def _lock(path: Path) -> IO[str]:
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


def _is_locked(path: Path) -> bool:
    with path.open("r") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _open_or_replace(path: Path, now_ms: int) -> sqlite3.Connection:
    damage = _damage(path)
    if damage is not None:
        _keep_aside(path)
        event(log, logging.ERROR, "spool_damaged", file=path.name, reason=damage, consequence="a new epoch begins")
    connection = _connect(path)
    if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
        _create(connection, now_ms, was_damaged=damage is not None)
    return connection


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA journal_size_limit = {4 * 1024 * 1024}")
    return connection


def _create(connection: sqlite3.Connection, now_ms: int, *, was_damaged: bool) -> None:
    connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION};")
    connection.execute("INSERT INTO spool (epoch, created_at_ms) VALUES (?, ?)", (secrets.token_hex(8), now_ms))
    if was_damaged:
        connection.execute("INSERT INTO counter VALUES ('spool_damaged', 1)")
    connection.execute("COMMIT")


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
    if version > SCHEMA_VERSION:
        raise SpoolVersionError(
            f"{path}: written by a newer agent (version {version}); this one knows {SCHEMA_VERSION}"
        )
    return None


def _keep_aside(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        file = path.with_name(path.name + suffix)
        if file.exists():
            file.replace(path.with_name(f"{path.name}.damaged{suffix}"))

"""The spool as it is seen from outside, while the agent may be running."""

# ruff: noqa: S608 - the only names put into statements are those of the two lanes
import logging
import sqlite3
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from forewarn_edge_agent.log import event
from forewarn_edge_agent.spool.opening import FILE_NAME, LOCK_NAME, is_locked
from forewarn_edge_agent.spool.records import AssetRow, LaneState, Range
from forewarn_edge_agent.spool.schema import SCHEMA_VERSION
from forewarn_models import wire

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What the spool holds, read while the agent may be running."""

    epoch: str
    lanes: dict[str, LaneState]
    gaps: dict[str, list[Range]]
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
            assets=asset_rows(connection),
            in_use=is_locked(state_dir / LOCK_NAME),
        )
    finally:
        connection.close()


def _lane_state(connection: sqlite3.Connection, lane: wire.Lane) -> LaneState:
    acknowledged, dropped = connection.execute(
        "SELECT acknowledged_seq, dropped FROM lane WHERE lane = ?", (lane,)
    ).fetchone()
    sequence = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (lane,)).fetchone()
    oldest = f"SELECT seq, spooled_at_ms FROM {lane} WHERE seq > ? ORDER BY seq LIMIT 1"
    waiting = connection.execute(oldest, (acknowledged,)).fetchone()
    first = connection.execute(f"SELECT min(seq) FROM {lane}").fetchone()[0]
    last = sequence[0] if sequence else 0
    # By subtraction: counting the rows of a full spool takes long, and a lane loses records at its front only.
    return LaneState(
        last_seq=last,
        acknowledged_seq=acknowledged,
        depth=last + 1 - waiting[0] if waiting else 0,
        archived=max(0, acknowledged + 1 - first) if first is not None else 0,
        dropped=dropped,
        oldest_at_ms=waiting[1] if waiting else None,
    )


def _gaps(connection: sqlite3.Connection, lane: wire.Lane) -> list[Range]:
    acknowledged = "(SELECT acknowledged_seq FROM lane WHERE lane = ?)"
    waiting = f"SELECT body FROM {lane} WHERE is_gap = 1 AND seq > {acknowledged} ORDER BY seq"
    return [tuple(msgspec.msgpack.decode(row[0])["gap"]) for row in connection.execute(waiting, (lane,))]


def read_assets(path: Path) -> list[AssetRow] | None:
    """What the models learned, from a file on a disk that can only be read; None if that does not work, either.

    The write-ahead log is passed over: without writing beside the file SQLite can only read what is in it.
    """
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?immutable=1", uri=True, isolation_level=None)
        try:
            return asset_rows(connection)
        finally:
            connection.close()
    except sqlite3.Error:
        return None


def asset_rows(connection: sqlite3.Connection) -> list[AssetRow]:
    """Those that can be read: of a damaged one what was learned is lost, and said so."""
    columns = "asset, asset_type, signals, state, memory, condition, maturity, health_index, observed_at_ms, samples"
    found = []
    for *values, crc in connection.execute(f"SELECT {columns}, crc FROM asset ORDER BY asset"):
        if crc not in (None, asset_crc(values)):
            event(log, logging.WARNING, "baseline_lost", asset=values[0], reason="the spool file is damaged")
            continue
        found.append(
            AssetRow(
                asset=values[0],
                asset_type=values[1],
                signals=tuple(values[2].split()),
                state=values[3],
                memory=values[4],
                condition=values[5],
                maturity=values[6],
                health_index=values[7],
                observed_at_ms=values[8],
                samples=values[9],
            )
        )
    return found


def asset_values(row: AssetRow) -> list[object]:
    """The row as it is stored, without its checksum."""
    return [
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
    ]


def asset_crc(values: Sequence[object]) -> int:
    return zlib.crc32(msgspec.msgpack.encode(values))

"""The spool as it is seen from outside, while the agent may be running."""

# ruff: noqa: S608 - the only names put into statements are those of the two lanes
import sqlite3
from dataclasses import dataclass
from pathlib import Path

import msgspec

from forewarn_edge_agent.spool.opening import FILE_NAME, LOCK_NAME, is_locked
from forewarn_edge_agent.spool.records import AssetRow, LaneState, Range
from forewarn_edge_agent.spool.schema import SCHEMA_VERSION
from forewarn_models import wire


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


def asset_rows(connection: sqlite3.Connection) -> list[AssetRow]:
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

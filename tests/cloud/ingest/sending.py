"""What nodes send, and a database that knows them."""

import json
from typing import Any

import msgspec
import numpy as np
from sqlalchemy import Engine, insert, select

from forewarn_cloud.adapters.sql import schema
from forewarn_cloud.adapters.sql.engine import reading, writing
from forewarn_cloud.ingest.messages import Delivery
from forewarn_models import wire

NOW = 1_700_000_000_000
TENANT = "local"


def enrol(engine: Engine, node: str, *assets: str, declares_assets: bool = True) -> None:
    with writing(engine) as connection:
        row = {"tenant": TENANT, "node": node, "enrolled_at": NOW, "declares_assets": declares_assets}
        connection.execute(insert(schema.nodes), [row])
        for asset in assets:
            found = {"tenant": TENANT, "asset": asset, "node": node, "asset_type": "generic", "name": asset}
            connection.execute(insert(schema.assets), [found | {"created_at": NOW}])


def telemetry(asset: str = "pump-1", *, t: int = NOW, value: float = 1.0, signal: str = "flow") -> bytes:
    return wire.encode_telemetry(
        wire.Telemetry(
            asset=asset,
            asset_type="generic",
            t_ms=np.array([t], dtype=np.int64),
            signals={signal: np.array([value], dtype=np.float32)},
        )
    )


def advisory(asset: str = "pump-1", **changes: Any) -> bytes:
    fields: dict[str, Any] = {
        "asset": asset,
        "asset_type": "generic",
        "observed_at": NOW,
        "condition": "ALARM",
        "health_index": 0.4,
        "anomaly_score": 9.0,
        "contributions": {"flow": 9.0},
        "failure_modes": {},
        "rul_hours": None,
        "maturity": "MATURE",
        "model": wire.ModelRef(id="kernel", hash="ab"),
    }
    return wire.encode_advisory(wire.Advisory(**(fields | changes)))


def gap(first: int, last: int, reason: str = "full", epoch: str | None = None) -> bytes:
    return wire.encode_gap(wire.Gap(first_seq=first, last_seq=last, reason=reason, epoch=epoch))


def message(seq: int, *records: bytes, lane: wire.Lane = "telemetry", node: str = "n1", epoch: str = "e1") -> Delivery:
    return Delivery(topic=wire.topic(TENANT, node, lane), payload=wire.encode_message(epoch, seq, records))


def by_hand(*records: Any, node: str = "n1", **changes: Any) -> Delivery:
    """A JSON message as a person would write it."""
    body: dict[str, Any] = {"schema": 1, "epoch": "e1", "seq": 1, "records": list(records)}
    return Delivery(topic=wire.topic(TENANT, node, "telemetry"), payload=json.dumps(body | changes).encode())


def birth(node: str = "n1", assets: dict[str, str] | None = None, **changes: Any) -> Delivery:
    presence = wire.Presence(schema=1, state="online", at=NOW, version="0.1", assets=assets or {})
    return Delivery(
        topic=wire.topic(TENANT, node, "presence"),
        payload=wire.encode_control(msgspec.structs.replace(presence, **changes)),
    )


def rows(engine: Engine, table: str, *columns: str) -> list[tuple[Any, ...]]:
    found = schema.metadata.tables[table]
    with reading(engine) as connection:
        selected = connection.execute(select(*(found.c[column] for column in columns)))
        return sorted((tuple(row) for row in selected), key=_sortable)


def _sortable(row: tuple[Any, ...]) -> list[tuple[str, Any]]:
    return [(type(value).__name__, value) for value in row]

"""Outbox rows and their facts, as the service chain writes them."""

import uuid
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Engine, insert, select

from forewarn_cloud.adapters.sql.engine import reading, writing
from forewarn_cloud.adapters.sql.schema import (
    assets,
    customers,
    decisions,
    depots,
    episodes,
    mailbox,
    nodes,
    orders,
    outbox,
    sites,
)
from forewarn_cloud.notifications.delivery import Delivery

SINCE_MS = 1_772_000_000_000  # 2026-02-25T06:13:20Z
HOUR_MS = 3_600_000
TENANT = "local"


def facts(**changes: Any) -> dict[str, Any]:
    part = {"part_no": "PMP-IMP-200", "name": "Impeller", "quantity": 1, "sourcing": "stock", "state": "RESERVED"}
    awaited = {
        "part_no": "PMP-GSK-01",
        "name": "Gasket",
        "quantity": 2,
        "sourcing": "purchase",
        "state": "BACK_ORDERED",
    }
    return {
        "order": "o-1",
        "number": "SO-000001",
        "state": "OPEN",
        "asset": "pump-7",
        "asset_name": "Feed pump 7",
        "asset_type_title": "Centrifugal pump",
        "site_name": "Plant North",
        "time_zone": "Asia/Shanghai",
        "customer": "acme",
        "customer_name": "Acme",
        "failure_mode": "impeller_wear",
        "failure_mode_title": "Impeller wear",
        "action": "Replace the impeller.",
        "since_ms": SINCE_MS,
        "health_index": 0.6,
        "rul_hours": {"p10": 90.0, "p50": 140.0, "p90": 260.0},
        "visit_by_ms": SINCE_MS + 90 * HOUR_MS,
        "needed_by_ms": SINCE_MS + 90 * HOUR_MS,
        "ready_ms": SINCE_MS + 20 * HOUR_MS,
        "scheduled_ms": SINCE_MS + 30 * HOUR_MS,
        "assignee": "Wei",
        "parts": [
            part | {"expected_ms": SINCE_MS},
            awaited | {"state": "BACK_ORDERED", "expected_ms": SINCE_MS + 20 * HOUR_MS},
        ],
        "close_reason": None,
        "finding": None,
        **changes,
    }


def delivery(**changes: Any) -> Delivery:
    given: dict[str, Any] = {
        "id": str(uuid.uuid4()),
        "tenant": TENANT,
        "channel": "email",
        "recipient": "plant@example.com",
        "kind": "order_opened",
        "language": "en",
        "payload": facts(),
        "order_id": "o-1",
        "created_at": SINCE_MS,
        "attempt": 1,
        "lease": "l",
    }
    return Delivery(**(given | changes))


def queue(engine: Engine, *, count: int = 1, **changes: Any) -> list[str]:
    """Put messages into the outbox; their ids."""
    rows = [
        {
            "id": str(uuid.uuid4()),
            "tenant": TENANT,
            "news": f"order:{i}:opened",
            "channel": "email",
            "recipient": f"plant{i}@example.com",
            "kind": "order_opened",
            "language": "en",
            "payload": facts(),
            "order_id": None,
            "created_at": SINCE_MS + i,
            **changes,
        }
        for i in range(count)
    ]
    with writing(engine) as connection:
        connection.execute(insert(outbox), rows)
    return [str(row["id"]) for row in rows]


def outbox_row(engine: Engine, identity: str) -> Any:
    with reading(engine) as connection:
        return connection.execute(select(outbox).where(outbox.c.id == identity)).one()


def mails(engine: Engine) -> Sequence[Any]:
    with reading(engine) as connection:
        return connection.execute(select(mailbox).order_by(mailbox.c.message_id)).all()


def add_order(engine: Engine, *, order_id: str, webhook_url: str | None, webhook_secret: str | None) -> None:
    """An order of a customer with a webhook, and all it hangs on."""
    own = {"tenant": TENANT}
    row = {"failure_mode": "impeller_wear", "asset": "pump-7"}
    with writing(engine) as connection:
        connection.execute(
            insert(customers).values(
                own | {"customer": "acme", "name": "Acme", "webhook_url": webhook_url, "webhook_secret": webhook_secret}
            )
        )
        connection.execute(insert(depots).values(own | {"depot": "north", "name": "North"}))
        connection.execute(
            insert(sites).values(own | {"site": "plant", "name": "Plant", "customer": "acme", "depot": "north"})
        )
        connection.execute(insert(nodes).values(own | {"node": "edge-1", "enrolled_at": 1}))
        connection.execute(
            insert(assets).values(
                own
                | {"asset": "pump-7", "node": "edge-1", "asset_type": "centrifugal_pump"}
                | {"name": "Feed pump 7", "site": "plant", "created_at": 1}
            )
        )
        connection.execute(
            insert(episodes).values(
                own
                | row
                | {"id": f"e-{order_id}", "state": "OPEN", "advisory": {}}
                | {"started_at": 1, "opened_at": 1, "last_evidence_at": 1}
            )
        )
        connection.execute(
            insert(decisions).values(
                own
                | {"id": f"d-{order_id}", "episode_id": f"e-{order_id}", "decided_at": 1, "action": "order"}
                | {"inputs": {}, "outcome": {}, "model_hash": "", "policy_hash": ""}
            )
        )
        connection.execute(
            insert(orders).values(
                own
                | row
                | {"id": order_id, "number": "SO-000001", "episode_id": f"e-{order_id}", "state": "OPEN"}
                | {"decision_id": f"d-{order_id}", "priority": 1, "opened_at": 1, "needed_by_at": 2}
            )
        )

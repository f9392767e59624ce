"""The outbox in the relational database: leases fenced by a token, so that a late worker cannot undo a later one."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Row, and_, or_, select, update

from forewarn_cloud.adapters.sql.engine import reading, retrying, writing
from forewarn_cloud.adapters.sql.schema import assets, customers, orders, outbox, sites
from forewarn_cloud.notifications.delivery import Delivery

_LOOK_AHEAD = 8
"""Due rows looked at per row wanted, to find different recipients."""
_MAX_ERROR = 500


@dataclass(frozen=True)
class SqlOutbox:
    """`Outbox` over `engine`."""

    engine: Engine

    def is_due(self, wall_ms: int) -> bool:
        with reading(self.engine) as connection:
            return connection.execute(select(outbox.c.id).where(_due(wall_ms)).limit(1)).first() is not None

    def lease(self, wall_ms: int, *, until_wall_ms: int, limit: int) -> list[Delivery]:
        def work() -> list[Delivery]:
            with writing(self.engine) as connection:
                return _lease(connection, wall_ms, until_wall_ms, limit)

        return retrying(work)

    def mark_sent(self, delivery: Delivery, *, at: int) -> bool:
        return self._finish(delivery, state="SENT", sent_at=at, last_error=None)

    def mark_failed(self, delivery: Delivery, *, error: str, retry_wall_ms: int | None) -> bool:
        if retry_wall_ms is None:
            return self._finish(delivery, state="DEAD", last_error=error[:_MAX_ERROR])
        return self._finish(delivery, next_attempt_wall_ms=retry_wall_ms, last_error=error[:_MAX_ERROR])

    def _finish(self, delivery: Delivery, **values: Any) -> bool:
        query = (
            update(outbox)
            .where(outbox.c.id == delivery.id, outbox.c.lease == delivery.lease, outbox.c.state == "PENDING")
            .values(lease=None, lease_until_wall_ms=None, **values)
        )

        def work() -> bool:
            with writing(self.engine) as connection:
                return connection.execute(query).rowcount == 1

        return retrying(work)


def _due(wall_ms: int) -> ColumnElement[bool]:
    return and_(
        outbox.c.state == "PENDING",
        outbox.c.next_attempt_wall_ms <= wall_ms,
        or_(outbox.c.lease.is_(None), outbox.c.lease_until_wall_ms <= wall_ms),
    )


def _lease(connection: Connection, wall_ms: int, until_wall_ms: int, limit: int) -> list[Delivery]:
    query = (
        select(outbox)
        .where(_due(wall_ms))
        .order_by(outbox.c.next_attempt_wall_ms, outbox.c.created_at, outbox.c.id)
        .limit(limit * _LOOK_AHEAD)
        .with_for_update(skip_locked=True)
    )
    rows = _one_per_recipient(connection.execute(query).all())[:limit]
    if not rows:
        return []
    token = str(uuid.uuid4())
    taken = (
        update(outbox)
        .where(outbox.c.id.in_([row.id for row in rows]))
        .values(lease=token, lease_until_wall_ms=until_wall_ms, attempts=outbox.c.attempts + 1)
    )
    connection.execute(taken)
    secrets = _webhook_secrets(connection, rows)
    return [_delivery(row, token, secrets.get(row.id)) for row in rows]


def _one_per_recipient(rows: Sequence[Row[Any]]) -> list[Row[Any]]:
    """The first for each recipient: their messages go out one after the other, in order."""
    first = {(row.tenant, row.channel, row.recipient): row for row in reversed(rows)}
    return [row for row in rows if first[(row.tenant, row.channel, row.recipient)] is row]


def _webhook_secrets(connection: Connection, rows: Sequence[Row[Any]]) -> dict[str, str]:
    """Outbox id -> the secret of the customer whose order it tells of. Read at each attempt, so it can be renewed."""
    query = (
        select(outbox.c.id, customers.c.webhook_secret)
        .join(orders, and_(orders.c.tenant == outbox.c.tenant, orders.c.id == outbox.c.order_id))
        .join(assets, and_(assets.c.tenant == orders.c.tenant, assets.c.asset == orders.c.asset))
        .join(sites, and_(sites.c.tenant == assets.c.tenant, sites.c.site == assets.c.site))
        .join(customers, and_(customers.c.tenant == sites.c.tenant, customers.c.customer == sites.c.customer))
        .where(outbox.c.id.in_([row.id for row in rows if row.channel == "webhook"]))
    )
    return {identity: secret for identity, secret in connection.execute(query) if secret}


def _delivery(row: Row[Any], token: str, secret: str | None) -> Delivery:
    return Delivery(
        id=row.id,
        tenant=row.tenant,
        channel=row.channel,
        recipient=row.recipient,
        kind=row.kind,
        language=row.language,
        payload=row.payload,
        order_id=row.order_id,
        created_at=row.created_at,
        attempt=row.attempts + 1,
        lease=token,
        secret=secret,
    )

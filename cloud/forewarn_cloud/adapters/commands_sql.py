"""Commands that wait for a reply, in the relational database."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Engine, Row, select

from forewarn_cloud.adapters.sql.engine import reading
from forewarn_cloud.adapters.sql.schema import commands, nodes
from forewarn_cloud.entities import NodeCommand
from forewarn_cloud.workers.downlink import PendingCommand


@dataclass(frozen=True)
class SqlCommands:
    """`Commands` over SQLite or PostgreSQL."""

    engine: Engine

    def pending(self) -> Sequence[PendingCommand]:
        of_node = (nodes.c.tenant == commands.c.tenant) & (nodes.c.node == commands.c.node)
        query = (
            select(commands, nodes.c.online, nodes.c.presence_at)
            .join(nodes, of_node)
            .where(commands.c.state == "PENDING", nodes.c.deleted_at.is_(None))
            .order_by(commands.c.created_at, commands.c.id)
        )
        with reading(self.engine) as connection:
            return [_pending(row) for row in connection.execute(query)]


def _pending(row: Row[tuple[object, ...]]) -> PendingCommand:
    command = NodeCommand(
        id=row.id,
        tenant=row.tenant,
        node=row.node,
        asset=row.asset,
        command=row.command,
        at=row.at,
        created_at=row.created_at,
    )
    return PendingCommand(command=command, online=row.online, presence_at=row.presence_at)

"""Changes through the API in the relational database, with the answers that were given to them."""

from dataclasses import dataclass
from typing import Final

from sqlalchemy import ColumnElement, Connection, Engine, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from forewarn_cloud.adapters.sql.schema import idempotency
from forewarn_cloud.adapters.sql.unit_of_work import SqlUnitOfWork, run_in_transaction
from forewarn_cloud.errors import Invalid
from forewarn_cloud.idempotency import KEPT_HOURS, Answered, Claim, Work

_HOUR_MS: Final = 3_600_000


@dataclass(frozen=True)
class SqlChanges:
    """`Changes` over `engine`."""

    engine: Engine

    def run(self, work: Work, claim: Claim | None) -> Answered:
        def once(uow: SqlUnitOfWork) -> Answered:
            earlier = None if claim is None else _take(uow.connection, claim)
            if earlier is not None:
                return earlier
            answered = work(uow, uow.connection)
            if claim is not None:
                _keep(uow.connection, claim, answered)
            return answered

        return run_in_transaction(self.engine, once)


def _take(connection: Connection, claim: Claim) -> Answered | None:
    """The answer that was given under this key; None if there was none, and the key is ours now."""
    forgotten = idempotency.c.created_at < claim.wall_ms - round(KEPT_HOURS * _HOUR_MS)
    connection.execute(delete(idempotency).where(idempotency.c.tenant == claim.tenant, forgotten))
    row = {"tenant": claim.tenant, "key": claim.key, "request": claim.request, "digest": claim.digest}
    insert = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(idempotency)
    taken = insert.values(row | {"created_at": claim.wall_ms}).on_conflict_do_nothing().returning(idempotency.c.key)
    if connection.execute(taken).first() is not None:
        return None
    found = connection.execute(select(idempotency).where(*_this(claim))).one()
    if bytes(found.digest) != claim.digest:
        raise Invalid("Idempotency-Key", f"it was used for another request ({found.request}); take a new one")
    return Answered(status=found.status, body=found.response)


def _keep(connection: Connection, claim: Claim, answered: Answered) -> None:
    kept = update(idempotency).where(*_this(claim)).values(status=answered.status, response=answered.body)
    connection.execute(kept)


def _this(claim: Claim) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return idempotency.c.tenant == claim.tenant, idempotency.c.key == claim.key

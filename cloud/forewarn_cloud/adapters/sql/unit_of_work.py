"""`ports.UnitOfWork` and `ports.Transactions` over SQLite or PostgreSQL."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar

from sqlalchemy import Connection, Engine

from forewarn_cloud.adapters.sql.engine import retrying, writing
from forewarn_cloud.adapters.sql.lanes import SqlLanes
from forewarn_cloud.adapters.sql.repositories import (
    SqlAssets,
    SqlDiagnoses,
    SqlEpisodes,
    SqlInbox,
    SqlOrders,
    SqlParts,
    SqlRecords,
)
from forewarn_cloud.ports import UnitOfWork

T = TypeVar("T")


class SqlUnitOfWork:
    """One transaction. `connection` is for adapters that write beside the repositories, in the same transaction."""

    connection: Connection
    assets: SqlAssets
    inbox: SqlInbox
    episodes: SqlEpisodes
    orders: SqlOrders
    diagnoses: SqlDiagnoses
    parts: SqlParts
    lanes: SqlLanes
    records: SqlRecords

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._open = ExitStack()

    def __enter__(self) -> Self:
        self.connection = connection = self._open.enter_context(writing(self._engine))
        self.assets = SqlAssets(connection)
        self.inbox = SqlInbox(connection)
        self.episodes = SqlEpisodes(connection)
        self.orders = SqlOrders(connection)
        self.diagnoses = SqlDiagnoses(connection)
        self.parts = SqlParts(connection)
        self.lanes = SqlLanes(connection)
        self.records = SqlRecords(connection)
        self._open.push(self._before_commit)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)

    def _before_commit(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.records.chain_audit()


@dataclass(frozen=True)
class SqlTransactions:
    """Runs use-cases, each in a transaction of its own, again while it is contended."""

    engine: Engine

    def run(self, work: Callable[[UnitOfWork], T]) -> T:
        return run_in_transaction(self.engine, work)


def run_in_transaction(engine: Engine, work: Callable[[SqlUnitOfWork], T]) -> T:
    """Run `work` in a transaction and commit; again from the start while it is contended.

    Raises:
        Unavailable: the database cannot serve, or is contended still after some seconds. Nothing was changed.
    """

    def once() -> T:
        with SqlUnitOfWork(engine) as uow:
            return work(uow)

    return retrying(once)

"""Engines for SQLite and PostgreSQL that behave alike: durable commits, writers that wait, named errors.

SQLite: WAL, synchronous=FULL, foreign keys on. A transaction that will write takes the write lock at its start
(`writing`), so that it never has to give up half way because what it read has changed. PostgreSQL: READ COMMITTED with
row locks, which are not waited for without end.
"""

import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final, TypeVar

import psycopg
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError

from forewarn_cloud.errors import Contended, Unavailable

T = TypeVar("T")

BUSY_TIMEOUT_MS: Final = 5_000
RETRY_SECONDS: Final = 15.0
_FIRST_PAUSE_SECONDS: Final = 0.005
_LONGEST_PAUSE_SECONDS: Final = 0.2
_WRITES: Final = "forewarn_writes"
_PROGRAM: Final = "forewarn-cloud"
"""What PostgreSQL calls our connections."""
_POSTGRES: Final = {"application_name": _PROGRAM, "connect_timeout": 10, "tcp_user_timeout": 30_000}
LOCK_TIMEOUT_MS: Final = 5_000
IDLE_TIMEOUT_MS: Final = 60_000
"""A transaction whose program does nothing for so long is ended by PostgreSQL, and with it the locks it holds."""
_CONTENDED_SQLSTATES: Final = ("40001", "40P01", "55P03", "23505")
"""Serialization failure, deadlock, lock not available, and a unique key that another transaction was first to take."""


def make_engine(url: str) -> Engine:
    """An engine for a `sqlite:///` or `postgresql+psycopg://` URL."""
    if not url.startswith("sqlite"):
        engine = create_engine(url, pool_size=10, max_overflow=30, pool_pre_ping=True, connect_args=_POSTGRES)
        event.listen(engine, "connect", _set_up_postgres)
        return engine
    engine = create_engine(url, pool_size=10, max_overflow=30)
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A consistent view of the database; blocks nobody."""
    with translated(), engine.connect() as connection:
        yield connection


@contextmanager
def snapshot(engine: Engine) -> Iterator[Connection]:
    """One view of a PostgreSQL database for many queries, whatever others commit meanwhile; blocks nobody."""
    options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    with translated(), engine.connect().execution_options(**options) as connection, connection.begin():
        yield connection


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that may write: committed when the block ends well, rolled back when it raises.

    Raises:
        Contended: another transaction was faster; the block is worth running again.
        Unavailable: the database cannot serve. Nothing was changed.
    """
    with translated(), engine.connect().execution_options(**{_WRITES: True}) as connection, connection.begin():
        yield connection


def rehearsing(connection: Connection) -> Callable[[], AbstractContextManager[None]]:
    """For blocks of which all that they write is undone, whether they succeed or fail, while the transaction goes on.

    In them, a unique key that is taken raises IntegrityError, whoever took it.

    Raises:
        Unavailable: the transaction cannot go on; also Contended, where another one was faster.
    """
    with translated():
        connection.exec_driver_sql("SAVEPOINT rehearsal")

    @contextmanager
    def undone() -> Iterator[None]:
        try:
            with translated():
                yield
        except Exception as error:
            taken = error.__cause__ if is_unique_violation(error) else None
            if isinstance(error, Unavailable) and taken is None:
                raise
            _return_to_savepoint(connection)
            if taken is not None:
                raise taken from None
            raise
        _return_to_savepoint(connection)

    return undone


def _return_to_savepoint(connection: Connection) -> None:
    try:
        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT rehearsal")
    except DBAPIError as error:
        raise Unavailable(f"the transaction is lost: {error.orig}", is_outage=False) from error


def retrying(work: Callable[[], T], *, seconds: float = RETRY_SECONDS) -> T:
    """Run `work`, again while it is contended, with growing pauses, for at most about `seconds`.

    Raises:
        Unavailable: still contended at the end.
    """
    deadline = time.monotonic() + seconds
    pause = _FIRST_PAUSE_SECONDS
    while True:
        try:
            return work()
        except Contended as error:
            if time.monotonic() + pause > deadline:
                raise Unavailable(f"the database is busy: {error}", is_outage=False) from error
        time.sleep(pause * random.uniform(0.5, 1.5))
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


def other_programs(connection: Connection) -> int:
    """How many connections to this PostgreSQL database are those of a forewarn-cloud other than this one."""
    query = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = :name AND pid <> pg_backend_pid()"
    )
    return int(connection.execute(text(query), {"name": _PROGRAM}).scalar_one())


@contextmanager
def translated() -> Iterator[None]:
    """Database errors by their consequence. What is a mistake of ours (a broken constraint, bad SQL) stays as it is."""
    try:
        yield
    except DBAPIError as error:
        if _is_contention(error.orig):
            raise Contended(str(error.orig)) from error
        if _is_outage(error):
            is_outage = _concerns_everything(error.orig)
            raise Unavailable(f"the database cannot serve: {error.orig}", is_outage=is_outage) from error
        raise


def _is_contention(cause: BaseException | None) -> bool:
    if isinstance(cause, sqlite3.OperationalError):
        return cause.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    return isinstance(cause, psycopg.Error) and cause.sqlstate in _CONTENDED_SQLSTATES


def _is_outage(error: DBAPIError) -> bool:
    """The disk is full or gone, the server is stopping or not there."""
    cause = error.orig
    if isinstance(cause, sqlite3.OperationalError):
        return cause.sqlite_errorcode & 0xFF != sqlite3.SQLITE_ERROR
    return error.connection_invalidated or (
        isinstance(cause, psycopg.OperationalError) and (cause.sqlstate or "08")[:2] in ("08", "53", "57", "58")
    )


def _concerns_everything(cause: BaseException | None) -> bool:
    """Not of a connection that was lost or memory that ran out: it may be what was asked that did it."""
    if isinstance(cause, sqlite3.OperationalError):
        return cause.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_TOOBIG)
    sqlstate = cause.sqlstate if isinstance(cause, psycopg.Error) else None
    return sqlstate is not None and sqlstate[:2] in ("53", "57", "58") and sqlstate != "53200"


def is_unique_violation(error: BaseException) -> bool:
    """Whether PostgreSQL says that a unique key is taken: by another transaction, or by ourselves each time."""
    cause = getattr(error.__cause__, "orig", None)
    return isinstance(cause, psycopg.Error) and cause.sqlstate == "23505"


def _set_up_sqlite(connection: DBAPIConnection, _record: Any) -> None:
    connection.isolation_level = None  # transactions are begun below, not by the driver
    cursor = connection.cursor()
    for pragma in (
        f"busy_timeout = {BUSY_TIMEOUT_MS}",
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _set_up_postgres(connection: DBAPIConnection, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute(f"SET lock_timeout = {LOCK_TIMEOUT_MS}")
    cursor.execute(f"SET idle_in_transaction_session_timeout = {IDLE_TIMEOUT_MS}")
    cursor.close()
    connection.commit()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

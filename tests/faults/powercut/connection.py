"""An apsw connection that looks like one of `sqlite3` to the spool, so that its own code runs over another disk."""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import apsw

Connect = Callable[[Path], sqlite3.Connection]


class Cursor:
    def __init__(self, connection: apsw.Connection, cursor: apsw.Cursor) -> None:
        self._cursor = cursor
        self.rowcount = connection.changes()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._cursor)

    def fetchone(self) -> Any:
        return self._cursor.fetchone()

    def fetchall(self) -> list[Any]:
        return self._cursor.fetchall()

    def close(self) -> None:
        self._cursor.close()


class Connection:
    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    @property
    def in_transaction(self) -> bool:
        return self._connection.in_transaction

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> Cursor:
        try:
            return Cursor(self._connection, self._connection.execute(statement, tuple(parameters)))
        except apsw.Error as error:
            raise as_of_sqlite3(error) from error

    def executemany(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        for row in rows:
            self.execute(statement, row)

    def close(self) -> None:
        self._connection.close(True)


def as_of_sqlite3(error: apsw.Error) -> sqlite3.DatabaseError:
    found = sqlite3.DatabaseError(str(error))
    found.sqlite_errorcode = getattr(error, "extendedresult", 0)
    return found


def connector(name: str, *, synchronous: str | None = None) -> Connect:
    """Opens databases on that disk. `synchronous` overrides what the spool asks for."""

    def connect(path: Path) -> sqlite3.Connection:
        connection = apsw.Connection(str(path), vfs=name)
        # Without it the write-ahead log needs shared memory, which this disk has not.
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        found = Connection(connection)
        return cast(sqlite3.Connection, found if synchronous is None else _Careless(connection, synchronous))

    return connect


class _Careless(Connection):
    """Syncs less than the spool asks for."""

    def __init__(self, connection: apsw.Connection, synchronous: str) -> None:
        super().__init__(connection)
        self._synchronous = synchronous

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> Cursor:
        if statement.startswith("PRAGMA synchronous"):
            statement = f"PRAGMA synchronous = {self._synchronous}"
        return super().execute(statement, parameters)

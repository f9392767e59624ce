"""Copies of a whole database while others write to it: a snapshot of SQLite's pages, or rows between the two kinds."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, MetaData, Table, func, insert, inspect, select, text

PAGES_A_STEP: Final = 1024
_ROWS_A_STEP: Final = 200
_BUSY_SECONDS: Final = 10.0
_BOOKKEEPING: Final = "alembic_version"

Copied = Callable[[int, int], None]
"""Told how much is copied, and of how much."""


def copy_sqlite(source: Path, target: Path, copied: Copied) -> None:
    """The database as it is now, with SQLite's own backup, into a new file.

    One read transaction is held throughout: without it the copy would begin anew with each commit of ingest, and never
    end. It holds up nobody; only the write-ahead log grows meanwhile, by what is written.
    """
    address = f"{source.resolve().as_uri()}?mode=rw"
    with (
        closing(sqlite3.connect(address, uri=True, timeout=_BUSY_SECONDS, isolation_level=None)) as read,
        closing(sqlite3.connect(target, isolation_level=None)) as written,
    ):
        read.execute("BEGIN")
        read.execute("SELECT count(*) FROM sqlite_master").fetchone()
        written.execute("PRAGMA synchronous = OFF")  # the archive it goes into is synchronised
        read.backup(written, pages=PAGES_A_STEP, progress=lambda _, left, total: copied(total - left, total))
        read.execute("COMMIT")


def copy_rows(source: Connection, target: Connection, copied: Copied) -> None:
    """All rows of all tables but Alembic's, into tables of the same revision that are empty."""
    tables, there = _tables(target), _reflected(source)
    total, done = sum(count_rows(source).values()), 0
    for table in tables:
        query = select(there.tables[table.name]).execution_options(yield_per=_ROWS_A_STEP)
        for rows in source.execute(query).mappings().partitions():
            target.execute(insert(table), [dict(row) for row in rows])
            done += len(rows)
            copied(done, total)
    _count_on(target, tables)


def count_rows(connection: Connection) -> dict[str, int]:
    """Table -> rows, of all tables but Alembic's."""
    return {
        table.name: connection.execute(select(func.count()).select_from(table)).scalar_one()
        for table in _tables(connection)
    }


def has_rows(connection: Connection) -> bool:
    return any(connection.execute(select(table).limit(1)).first() is not None for table in _tables(connection))


def has_tables(connection: Connection) -> bool:
    return bool(inspect(connection).get_table_names())


def set_aside(connection: Connection, name: str) -> None:
    """Move all tables of PostgreSQL's present schema into a new one called `name`."""
    quote = connection.dialect.identifier_preparer.quote
    connection.execute(text(f"CREATE SCHEMA {quote(name)}"))
    for table in inspect(connection).get_table_names():
        connection.execute(text(f"ALTER TABLE {quote(table)} SET SCHEMA {quote(name)}"))


def drop_aside(connection: Connection, name: str) -> None:
    quote = connection.dialect.identifier_preparer.quote
    connection.execute(text(f"DROP SCHEMA IF EXISTS {quote(name)} CASCADE"))


def as_one_file(database: Path) -> None:
    """Bring what lies in the write-ahead log into the file itself.

    Raises:
        sqlite3.OperationalError: another program has it open.
    """
    with closing(sqlite3.connect(database, timeout=1.0, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE").fetchone()


def remove_database(database: Path) -> None:
    """A SQLite file and what may lie beside it."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        database.with_name(database.name + suffix).unlink(missing_ok=True)


def _tables(connection: Connection) -> list[Table]:
    """In the order in which rows can be put in."""
    return [table for table in _reflected(connection).sorted_tables if table.name != _BOOKKEEPING]


def _reflected(connection: Connection) -> MetaData:
    """As they are, not as the present schema has them: the revision may be an older one."""
    found = MetaData()
    found.reflect(bind=connection)
    return found


def _count_on(connection: Connection, tables: list[Table]) -> None:
    """PostgreSQL's sequences know nothing of rows that brought their number along."""
    if connection.dialect.name != "postgresql":
        return
    for table in tables:
        for column in table.primary_key.columns:
            named = {"table": f'"{table.name}"', "column": column.name}
            sequence = connection.execute(text("SELECT pg_get_serial_sequence(:table, :column)"), named).scalar()
            last = connection.execute(select(func.max(column))).scalar() if sequence else None
            if last is not None:
                connection.execute(text("SELECT setval(:sequence, :last)"), {"sequence": sequence, "last": last})

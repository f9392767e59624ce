"""A database that refuses certain records, in different ways."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Literal

from sqlalchemy import Engine

from forewarn_cloud.adapters.sql.engine import writing
from tests.cloud.ingest.sending import NOW

BAD: Final = NOW - 777
"""When the records were measured that are refused."""
Kind = Literal["at the row", "with the whole transaction", "at the commit"]
_SQLITE: Final[dict[Kind, Sequence[str]]] = {
    "at the row": ["BEFORE INSERT", "SELECT RAISE(ABORT, 'poison')"],
    "with the whole transaction": ["BEFORE INSERT", "SELECT RAISE(ROLLBACK, 'poison')"],
    "at the commit": ["AFTER INSERT", "INSERT INTO orphans VALUES (1)"],
}


@contextmanager
def refusing(engine: Engine, kind: Kind = "at the row") -> Iterator[None]:
    """The database refuses records that were measured at `BAD`."""
    if engine.dialect.name == "sqlite":
        when, then = _SQLITE[kind]
        made = [
            "CREATE TABLE parents (id INTEGER PRIMARY KEY)",
            "CREATE TABLE orphans (id REFERENCES parents DEFERRABLE INITIALLY DEFERRED)",
            f"CREATE TRIGGER poison {when} ON telemetry_blocks WHEN NEW.first_ms = {BAD} BEGIN {then}; END",
        ]
        undone = ["DROP TRIGGER poison", "DROP TABLE orphans", "DROP TABLE parents"]
    else:
        deferred = kind == "at the commit"
        what = "CONSTRAINT TRIGGER poison AFTER INSERT" if deferred else "TRIGGER poison BEFORE INSERT"
        how = "DEFERRABLE INITIALLY DEFERRED" if deferred else ""
        made = [
            "CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'poison' USING ERRCODE = 'XX000'; END $$",
            f"CREATE {what} ON telemetry_blocks {how} FOR EACH ROW WHEN (NEW.first_ms = {BAD})"
            " EXECUTE FUNCTION poison()",
        ]
        undone = ["DROP TRIGGER poison ON telemetry_blocks", "DROP FUNCTION poison"]
    execute(engine, made)
    try:
        yield
    finally:
        execute(engine, undone)


def execute(engine: Engine, statements: Sequence[str]) -> None:
    with writing(engine) as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)

"""Many rows, or many times a few, for the tables that every batch of ingest reads and writes.

SQLAlchemy's Core spends several times as long on the values of a small row as the database does.
"""

from collections.abc import Collection, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any, Final

import msgspec
from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Delete,
    Dialect,
    Insert,
    SelectBase,
    TableValuedAlias,
    Text,
    any_,
    bindparam,
    func,
    select,
    tuple_,
)
from sqlalchemy.dialects.postgresql import ARRAY


def run_many(
    connection: Connection, statement: Insert | Delete, names: tuple[str, ...], rows: Sequence[tuple[Any, ...]]
) -> int:
    """Run a statement for each of the rows, which are one or more; how many rows of the table it met in all.

    A row has values in the order of `names`, two or more columns of an insert or parameters. They go to the driver as
    they are: JSON as text. A statement that is the same object is compiled once.
    """
    compiled, wanted, _ = _compiled(statement, connection.dialect, names if isinstance(statement, Insert) else None)
    if wanted is None:
        values: list[Any] = [dict(zip(names, row, strict=True)) for row in rows]
    else:
        values = list(map(itemgetter(*map(names.index, wanted)), rows))
    return connection.exec_driver_sql(compiled, values).rowcount


def fetch_all(connection: Connection, statement: SelectBase, bound: dict[str, Any]) -> Sequence[Any]:
    """All rows of a query, for one that is made once and run thousands of times. The values go to the driver as they
    are."""
    compiled, wanted, constants = _compiled(statement, connection.dialect)
    values = constants | bound
    return connection.exec_driver_sql(compiled, values if wanted is None else tuple(map(values.get, wanted))).all()


@lru_cache(maxsize=64)
def _compiled(
    statement: Insert | Delete | SelectBase, dialect: Dialect, columns: tuple[str, ...] | None = None
) -> tuple[str, list[str] | None, dict[str, Any]]:
    """The text; for a driver that wants values by their place the names of its parameters; those it has by itself."""
    compiled: Any = statement.compile(dialect=dialect, column_keys=columns)
    constants = {name: value for name, value in compiled.params.items() if value is not None}
    return str(compiled), compiled.positiontup if compiled.positional else None, constants


def has_name(dialect: str, column: Column[Any]) -> ColumnElement[bool]:
    """Whether a column of text has one of `names_of`, for a statement that is put together once."""
    if dialect == "sqlite":
        return column.in_(select(_each().c.value))
    return column == any_(bindparam(_SOME, type_=ARRAY(Text)))


def names_of(dialect: str, names: Collection[str]) -> dict[str, Any]:
    """What a statement with `has_name` is run with."""
    return {_SOME: msgspec.json.encode(list(names)).decode() if dialect == "sqlite" else list(names)}


def has_pair(dialect: str, first: Column[Any], second: Column[Any]) -> ColumnElement[bool]:
    """Whether two columns of text have one of `pairs_of` between them.

    SQLite reads the pairs as the members of one object, which takes it a quarter of the time of a list of lists.
    """
    if dialect == "sqlite":
        each = _each()
        return tuple_(first, second).in_(select(each.c.key, each.c.value))
    halves = [bindparam(name, type_=ARRAY(Text)) for name in (_SOME, _OTHERS)]
    return tuple_(first, second).in_(select(*func.unnest(*halves).table_valued("a", "b").render_derived().c))


def pairs_of(dialect: str, pairs: Collection[tuple[str, str]]) -> dict[str, Any]:
    """What a statement with `has_pair` is run with; one or more."""
    if dialect == "sqlite":
        members = b",".join([_encoded(first) + b":" + _encoded(second) for first, second in pairs])
        return {_SOME: f"{{{members.decode()}}}"}
    firsts, seconds = zip(*pairs, strict=True)
    return {_SOME: list(firsts), _OTHERS: list(seconds)}


def _each() -> TableValuedAlias:
    return func.json_each(bindparam(_SOME, type_=Text)).table_valued("key", "value")


_SOME: Final = "some"
_OTHERS: Final = "others"
_encoded: Final = msgspec.json.Encoder().encode

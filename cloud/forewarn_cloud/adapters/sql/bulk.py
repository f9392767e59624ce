"""Many rows at once, for the tables that every batch of ingest reads and writes.

SQLAlchemy's Core spends several times as long on the values of a small row as the database does.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any

import msgspec
from sqlalchemy import Column, ColumnElement, Connection, Dialect, Insert, Text, cast, func, select, tuple_
from sqlalchemy.dialects.postgresql import ARRAY


def insert_many(connection: Connection, statement: Insert, rows: Sequence[Mapping[str, Any]]) -> None:
    """Run an insert for each of the rows, which are one or more, all with the same columns.

    The values go to the driver as they are: JSON as text. A statement that is the same object is compiled once.
    """
    compiled = _compiled(statement, connection.dialect, tuple(rows[0]))
    if compiled.positional:
        connection.exec_driver_sql(str(compiled), list(map(itemgetter(*compiled.positiontup), rows)))
    else:
        connection.exec_driver_sql(str(compiled), list(rows))


@lru_cache(maxsize=64)
def _compiled(statement: Insert, dialect: Dialect, columns: tuple[str, ...]) -> Any:
    return statement.compile(dialect=dialect, column_keys=list(columns))


def has_key(dialect: str, columns: Sequence[Column[Any]], keys: Collection[tuple[str, ...]]) -> ColumnElement[bool]:
    """Whether columns of text have one of these keys. A parameter or two, however many the keys are."""
    if dialect == "sqlite":
        each = func.json_each(msgspec.json.encode(list(keys)).decode()).table_valued("value")
        wanted = select(*(func.json_extract(each.c.value, f"$[{place}]") for place in range(len(columns))))
    else:
        names = [column.name for column in columns]
        values = [cast(list(column), ARRAY(Text)) for column in zip(*keys, strict=True)]
        wanted = select(*func.unnest(*values).table_valued(*names).render_derived().c)
    return tuple_(*columns).in_(wanted)

"""CSV files that people write: every cell is checked, and every error names file, line, column and the fix."""

import csv
import gzip
import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, TextIO

from forewarn_models.asset_type import IDENTIFIER

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MS: Final = timedelta(milliseconds=1)
_SHOWN: Final = 40


class DatasetError(ValueError):
    """A dataset folder cannot be used; the message names file, line, column and the fix."""


def instant_ms(text: str) -> int:
    """Epoch milliseconds of an ISO 8601 instant with its zone; what is finer than a millisecond is cut off.

    Raises:
        ValueError: it is no instant, or has no zone.
    """
    try:
        instant = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(f"{shown(text)} is no ISO 8601 time; write 2026-01-31T08:00:00Z") from None
    if instant.tzinfo is None:
        raise ValueError(f"{shown(text)} has no time zone; write UTC with a Z at the end, 2026-01-31T08:00:00Z")
    at_ms = (instant - _EPOCH) // _MS
    if at_ms < 0:
        raise ValueError(f"{shown(text)} is before 1970")
    return at_ms


def number(text: str) -> float:
    """A finite number; NaN for an empty cell or `nan`, which say that the reading is missing.

    Raises:
        ValueError: it is text, or infinite.
    """
    stripped = text.strip()
    if not stripped:
        return math.nan
    try:
        value = float(stripped)
    except ValueError:
        raise ValueError(f"{shown(text)} is not a number; leave the cell empty if it is missing") from None
    if math.isinf(value) or "_" in stripped:
        raise ValueError(f"{shown(text)} is not a finite number; leave the cell empty if it is missing")
    return value


def hours(text: str) -> float:
    value = number(text)
    if not value >= 0:
        raise ValueError(f"{shown(text)} is no number of hours; give 0 or more")
    return value


def identifier(text: str) -> str:
    if not IDENTIFIER.fullmatch(text):
        raise ValueError(f"{shown(text)} cannot be a name; use letters, digits, _ and -, 1 to 64 of them")
    return text


def optional_identifier(text: str) -> str:
    return identifier(text) if text else ""


def plain(text: str) -> str:
    return text


def shown(text: str) -> str:
    """A cell as an error message shows it: quoted, without control characters, cut to a sensible length."""
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a file: its name and how a cell is read."""

    name: str
    read: Callable[[str], Any]
    required: bool = True


@dataclass(frozen=True, kw_only=True)
class Row:
    line: int
    cells: tuple[Any, ...]
    """In the order of the columns asked for; None for an optional column that the file does not have."""


def read_rows(path: Path, columns: tuple[Column, ...]) -> Iterator[Row]:
    """The rows of a CSV file (also gzipped), in order.

    Raises:
        DatasetError: a column is missing, unknown or doubled, a row is too short or long, or a cell cannot be read.
    """
    with _open(path) as stream:
        reader = csv.reader(stream, strict=True)
        try:
            header = next(reader, [])
            where = places(path.name, tuple(header), columns)
            for cells in reader:
                if cells:
                    yield _row(path.name, reader.line_num, len(header), cells, where)
        except csv.Error as error:
            raise DatasetError(f"{path.name}, line {reader.line_num}: {error}; check the quotes") from None
        except UnicodeDecodeError:
            raise DatasetError(f"{path.name}, near line {reader.line_num + 1}: save the file as UTF-8") from None
        except (EOFError, gzip.BadGzipFile, zlib.error):
            raise DatasetError(f"{path.name}: damaged or cut off; compress it again with gzip") from None


def places(file: str, header: tuple[str, ...], columns: tuple[Column, ...]) -> tuple[tuple[Column, int | None], ...]:
    """Where in the header each column stands.

    Raises:
        DatasetError: one is missing, doubled or unknown.
    """
    if not header:
        raise DatasetError(f"{file}: empty; the first line must name the columns {', '.join(c.name for c in columns)}")
    known = [column.name for column in columns]
    for name in header:
        if header.count(name) > 1:
            raise DatasetError(f"{file}, line 1: column {shown(name)} appears twice; keep one")
        if name not in known:
            raise DatasetError(
                f"{file}, line 1: column {shown(name)} is unknown; remove it, or use one of {', '.join(known)}"
            )
    for column in columns:
        if column.required and column.name not in header:
            raise DatasetError(f"{file}, line 1: column {column.name} is missing; add it")
    return tuple((column, header.index(column.name) if column.name in header else None) for column in columns)


def _row(file: str, line: int, width: int, cells: list[str], where: tuple[tuple[Column, int | None], ...]) -> Row:
    if len(cells) != width:
        raise DatasetError(f"{file}, line {line}: {len(cells)} cells, but the header has {width} columns")
    return Row(
        line=line,
        cells=tuple(None if at is None else _cell(file, line, column, cells[at]) for column, at in where),
    )


def _cell(file: str, line: int, column: Column, text: str) -> Any:
    try:
        return column.read(text)
    except ValueError as error:
        raise DatasetError(f"{file}, line {line}, column {column.name}: {error}") from None


def _open(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")

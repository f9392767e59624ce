"""CSV files that people write: every cell is checked, and every error names file, line, column and the fix."""

import csv
import difflib
import gzip
import io
import math
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, Final, TextIO

from forewarn_models.asset_type import IDENTIFIER

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MS: Final = timedelta(milliseconds=1)
_US: Final = timedelta(microseconds=1)
US_PER_MS: Final = 1000
END_MS: Final = (datetime(2200, 1, 1, tzinfo=UTC) - _EPOCH) // _MS
"""No time is this late; a year that is must be a slip of the pen."""
MAX_READING: Final = 3.4e38
"""What float32 on the wire can hold; no sensor tells more."""
_SHOWN: Final = 40
_GZIP: Final = b"\x1f\x8b"
_ZIP: Final = b"PK\x03\x04"
_EXAMPLE: Final = "write it like 2026-01-31T08:00:00Z"
Advance = Callable[[int], None]
"""Told how many more bytes of a file are read."""


class DatasetError(ValueError):
    """A dataset folder cannot be used; the message names file, line, column and the fix."""


def instant_ms(text: str) -> int:
    """As `instant_us`, in milliseconds; what is finer is cut off."""
    return instant_us(text) // US_PER_MS


def instant_us(text: str) -> int:
    """Epoch microseconds of an ISO 8601 instant with its zone; what is finer is cut off.

    Raises:
        ValueError: it is no instant, or has no zone.
    """
    try:
        instant = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(f"{shown(text)} is no ISO 8601 time{_seconds_hint(text)}; {_EXAMPLE}") from None
    if instant.tzinfo is None:
        raise ValueError(f"{shown(text)} has no time zone; give UTC with a Z at the end; {_EXAMPLE}")
    at_us = (instant - _EPOCH) // _US
    if not 0 <= at_us < END_MS * US_PER_MS:
        raise ValueError(f"{shown(text)} is {'before 1970' if at_us < 0 else 'after 2199'}; correct the year")
    return at_us


def _seconds_hint(text: str) -> str:
    if not re.fullmatch(r"\s*[0-9]+(\.[0-9]+)?\s*", text):
        return ""
    return " (a number of seconds or milliseconds? that is never guessed)"


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
        comma = "write the decimals with a point, or " if re.fullmatch(r"[+-]?[0-9]+,[0-9]+", stripped) else ""
        raise ValueError(f"{shown(text)} is not a number; {comma}leave the cell empty if it is missing") from None
    if "_" in stripped or not stripped.isascii():
        raise ValueError(
            f"{shown(text)} is not a number as written here; use the digits 0 to 9 without _, "
            "or leave the cell empty if it is missing"
        )
    if math.isinf(value):
        raise ValueError(f"{shown(text)} is not a finite number; leave the cell empty if it is missing")
    if abs(value) > MAX_READING:
        raise ValueError(f"{shown(text)} is more than a sensor can tell; leave the cell empty if it is missing")
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


def wording(text: str) -> str:
    if not text.strip():
        raise ValueError("empty; say it in a word")
    return text


def shown(text: str) -> str:
    """A cell as an error message shows it: quoted, without control characters, cut to a sensible length."""
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")


def counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a file: its name and how a cell is read."""

    name: str
    read: Callable[[str], Any]
    required: bool = True
    signal: bool = False
    """It is a signal, which dataset.toml declares."""


@dataclass(frozen=True, kw_only=True)
class Row:
    line: int
    cells: tuple[Any, ...]
    """In the order of the columns asked for; None for an optional column that the file does not have."""


def read_rows(path: Path, columns: tuple[Column, ...], advance: Advance = lambda _: None) -> Iterator[Row]:
    """The rows of a CSV file (also gzipped), in order; `advance` hears of the bytes.

    Raises:
        DatasetError: a column is missing, unknown or doubled, a row is too short or long, or a cell cannot be read.
    """
    begun = 1
    _refuse_other_kinds(path)
    with open_binary(path, advance) as packed, _text(path, packed) as stream:
        reader = csv.reader(stream, strict=True)
        try:
            header = next((cells for cells in reader if cells), [])
            if any("\0" in name for name in header):
                raise DatasetError(f"{path.name}: not UTF-8 text (it holds NUL bytes); save the file as UTF-8")
            where = places(f"{path.name}, line {max(reader.line_num, 1)}", tuple(header), columns)
            begun = reader.line_num + 1
            for cells in reader:
                if cells:
                    yield _row(f"{path.name}, line {begun}", begun, len(header), cells, where)
                begun = reader.line_num + 1
        except csv.Error as error:
            raise DatasetError(f"{path.name}, line {begun}: {error}; check the quotes") from None
        except UnicodeDecodeError:
            raise DatasetError(f"{path.name}{_undecodable(path)}: not UTF-8; save the file as UTF-8") from None
        except (gzip.BadGzipFile, EOFError, zlib.error):
            raise DatasetError(f"{path.name}{_after(begun)}: damaged or cut off; copy or compress it again") from None


def _after(begun: int) -> str:
    return f", after line {begun - 1}" if begun > 1 else ""


def places(where: str, header: tuple[str, ...], columns: tuple[Column, ...]) -> tuple[tuple[Column, int | None], ...]:
    """Where in the header each column stands; `where` tells in errors what header that is.

    Raises:
        DatasetError: one is missing, doubled or unknown.
    """
    known = [column.name for column in columns]
    if not header:
        raise DatasetError(f"{where}: empty; the first line must name the columns {', '.join(known)}")
    for name in header:
        if header.count(name) > 1:
            raise DatasetError(f"{where}: column {shown(name)} appears twice; keep one")
        if name not in known:
            raise DatasetError(f"{where}: {_unknown(name, header, columns)}")
    for column in columns:
        if column.required and column.name not in header:
            take_out = ", or take the signal out of dataset.toml" if column.signal else ""
            raise DatasetError(f"{where}: column {column.name} is missing; add it{take_out}")
    return tuple((column, header.index(column.name) if column.name in header else None) for column in columns)


def _unknown(name: str, header: tuple[str, ...], columns: tuple[Column, ...]) -> str:
    """What is wrong with a column nobody asked for, and what was probably meant."""
    if len(header) == 1 and (separator := re.search(r"[;\t|]", name)):
        return f"the columns are separated by {separator[0]!r}; put commas between them, and a point before decimals"
    if not name.strip():
        return "a column has no name; name it, or remove the comma at the end of the lines"
    known = [column.name for column in columns]
    nearest = difflib.get_close_matches(name.strip().lower(), known, n=1, cutoff=0.8)
    if nearest and nearest[0] not in header:
        return f"column {shown(name)} is unknown; call it {nearest[0]} if that is meant"
    declare = ", or declare it as a signal in dataset.toml" if columns[-1].signal else ""
    return f"column {shown(name)} is unknown; remove it{declare} (known: {', '.join(known)})"


def _row(place: str, line: int, width: int, cells: list[str], where: tuple[tuple[Column, int | None], ...]) -> Row:
    if not any(cells):
        raise DatasetError(f"{place}: all cells are empty; remove the line")
    if len(cells) != width:
        raise DatasetError(
            f"{place}: {counted(len(cells), 'cell')}, but the header has {width} columns; leave missing cells empty "
            "between their commas, and write decimals with a point"
        )
    return Row(
        line=line,
        cells=tuple(None if at is None else _cell(place, column, cells[at]) for column, at in where),
    )


def _cell(place: str, column: Column, text: str) -> Any:
    try:
        return column.read(text)
    except ValueError as error:
        raise DatasetError(f"{place}, column {column.name}: {error}") from None


# --- files ----------------------------------------------------------------------------------------------------------


class _Counted(io.FileIO):
    """A file that tells how much of it was read."""

    def __init__(self, path: Path, advance: Advance) -> None:
        super().__init__(path)
        self._advance = advance

    def readinto(self, buffer: Any, /) -> int | None:
        count = super().readinto(buffer)
        self._advance(count or 0)
        return count


def open_binary(path: Path, advance: Advance = lambda _: None) -> BinaryIO:
    """A file of a dataset folder as it is on the disk; `advance` hears of the bytes.

    Raises:
        DatasetError: it is a folder.
        OSError: it is not there, or must not be read.
    """
    if path.is_dir():
        raise DatasetError(f"{path.name}: is a folder; put a file of that name in its place")
    return io.BufferedReader(_Counted(path, advance), 1 << 20)


def _refuse_other_kinds(path: Path) -> None:
    """
    Raises:
        DatasetError: it is compressed though its name says no, or is not though it says yes.
    """
    with open_binary(path) as file:
        first = file.read(4)
    if path.suffix == ".gz":
        if first and not first.startswith(_GZIP):
            raise DatasetError(f"{path.name}: not compressed; compress the file with gzip")
    elif first.startswith(_GZIP):
        name_it = f"name it {path.name}.gz" if path.name == "telemetry.csv" else "unpack it"
        raise DatasetError(f"{path.name}: compressed with gzip; {name_it}")
    elif first == _ZIP:
        raise DatasetError(f"{path.name}: a zip archive or a spreadsheet; unpack it, or save it as CSV")


def _text(path: Path, packed: BinaryIO) -> TextIO:
    content: Any = gzip.GzipFile(fileobj=packed) if path.suffix == ".gz" else packed
    return io.TextIOWrapper(content, encoding="utf-8-sig", newline="")


def _undecodable(path: Path) -> str:
    """Which line is not UTF-8, as an error message says it."""
    with open_binary(path) as packed:
        for line, content in enumerate(gzip.GzipFile(fileobj=packed) if path.suffix == ".gz" else packed, start=1):
            try:
                content.decode("utf-8")
            except UnicodeDecodeError as error:
                utf16 = line == 1 and content[:2] in (b"\xff\xfe", b"\xfe\xff")
                return " (it looks like UTF-16)" if utf16 else f", line {line}, byte {error.start + 1}"
    return ""

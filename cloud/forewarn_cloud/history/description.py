"""dataset.toml: what a dataset is, its signals and how the models are set. Every mistake is told with its line."""

import math
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec

from forewarn_cloud.history.cells import DatasetError, open_binary
from forewarn_models.asset_type import (
    NUMBERS,
    AssetType,
    AssetTypeError,
    Signal,
    builtin_asset_type,
    builtin_names,
    generic_asset_type,
)
from forewarn_models.kernel import Settings

DESCRIPTION: Final = "dataset.toml"
GENERIC: Final = "generic"
_RESERVED: Final = frozenset({"asset_id", "observed_at"})
_TABLE: Final = re.compile(r"\s*(\[\[?)\s*([A-Za-z0-9_-]+)\s*\]\]?\s*(?:#.*)?")
_KEY: Final = re.compile(r"\s*[\"']?([A-Za-z0-9_-]+)[\"']?\s*=")


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the models are set for this dataset; None leaves the default."""

    baseline_samples: int | None = None
    false_alarms_per_asset_month: Annotated[float, msgspec.Meta(gt=0)] | None = None

    def given(self) -> dict[str, Any]:
        """What is set, as `Settings` of the kernel take it."""
        return {key: value for key, value in msgspec.structs.asdict(self).items() if value is not None}


class Description(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """dataset.toml."""

    name: str
    signals: tuple[Signal, ...]
    asset_type: str = GENERIC
    about: str = ""
    licence: str = ""
    calibration: Calibration = Calibration()


def read_description(path: Path) -> tuple[Description, AssetType]:
    """What dataset.toml says, and the asset type that follows from it.

    Raises:
        DatasetError: the file is missing, is no TOML, or says something impossible; the message names line and key.
    """
    text = _read(path)
    try:
        description = msgspec.convert(tomllib.loads(text), Description)
        for where, fix in _problems(description):
            raise DatasetError(_told(text, where, fix))
        return description, resolve_asset_type(description)
    except tomllib.TOMLDecodeError as error:
        raise DatasetError(_syntax(str(error))) from None
    except msgspec.ValidationError as error:
        raise DatasetError(_told(text, *_place_and_fix(str(error)))) from None
    except AssetTypeError as error:
        raise DatasetError(_told(text, *_located(str(error), description))) from None


def resolve_asset_type(description: Description) -> AssetType:
    """The built-in asset type of that name if it has these very signals; else a generic one with the signals declared.

    A generic type has no failure modes and no limits other than those declared.

    Raises:
        AssetTypeError: the signals contradict each other, or a name cannot be one.
    """
    if description.asset_type in builtin_names():
        builtin = builtin_asset_type(description.asset_type)
        if _measuring_points(builtin.signals) == _measuring_points(description.signals):
            return builtin
    return generic_asset_type(description.signals, description.asset_type)


def _measuring_points(signals: tuple[Signal, ...]) -> set[tuple[str, str, str]]:
    return {(signal.name, signal.unit, signal.role) for signal in signals}


def _read(path: Path) -> str:
    try:
        with open_binary(path) as file:
            return file.read().decode("utf-8-sig")
    except FileNotFoundError:
        raise DatasetError(
            f"{path.name}: missing in {path.parent}; write one with name and, for each signal, [[signals]] name, unit"
        ) from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DatasetError(f"{path.name}, line {line}: not UTF-8; save the file as UTF-8") from None


def _problems(description: Description) -> Iterator[tuple[str, str]]:
    """Where, as a path such as `signals[0].unit`, and what to do; what the types cannot say."""
    for i, signal in enumerate(description.signals):
        if signal.name in _RESERVED:
            yield f"signals[{i}].name", f"{signal.name} is a column of its own; call the signal something else"
        for key in (*NUMBERS, "sentinels"):
            if not _finite(getattr(signal, key)):
                yield f"signals[{i}].{key}", "not a finite number; give one, or remove the key"
    if description.signals and all(signal.role == "regime" for signal in description.signals):
        yield "signals", 'every signal has role = "regime", so none is watched; give at least one role = "condition"'
    if not _finite(description.calibration.false_alarms_per_asset_month):
        yield "calibration.false_alarms_per_asset_month", "not a finite number; give one, or remove the key"
    try:
        Settings(**description.calibration.given())
    except ValueError as error:
        where, _, fix = str(error).partition(": ")
        yield f"calibration.{where}", fix


def _finite(value: float | tuple[float, ...] | None) -> bool:
    return all(map(math.isfinite, value if isinstance(value, tuple) else (value or 0.0,)))


# --- how mistakes are told ------------------------------------------------------------------------------------------


def _told(text: str, where: str, fix: str) -> str:
    """A mistake with its line; where that is not found, with the line of the table around it."""
    lines, place = _lines(text), where
    while place and place not in lines:
        place = re.sub(r"(?:\.|^)[^.\[]+$|\[\d+\]$", "", place)
    line = f", line {lines[place]}" if place else ""
    return f"{DESCRIPTION}{line}{', ' + where if where else ''}: {fix}"


def _lines(text: str) -> dict[str, int]:
    """The line of each key and table under its path, such as `calibration` or `signals[0].unit`; no nested tables."""
    lines, tables, table = dict[str, int](), dict[str, int](), ""
    for line, content in enumerate(text.splitlines(), start=1):
        if header := _TABLE.fullmatch(content):
            table = header[2]
            lines.setdefault(table, line)
            if header[1] == "[[":
                tables[table] = tables.get(table, -1) + 1
                table = f"{table}[{tables[table]}]"
            lines.setdefault(table, line)
        elif key := _KEY.match(content):
            lines.setdefault(f"{table}.{key[1]}" if table else key[1], line)
    return lines


def _syntax(message: str) -> str:
    """What tomllib says: "Invalid value (at line 3, column 8)"."""
    problem, _, place = message.removesuffix(")").partition(" (at ")
    where = re.sub(r"^end of document$", "at its end", place)
    return f'{DESCRIPTION}, {where}: no TOML: {problem}; write key = "text" or key = 1.5, one a line'


def _place_and_fix(message: str) -> tuple[str, str]:
    """Where and what to do, from what msgspec says: "Expected `str`, got `int` - at `$.signals[0].unit`"."""
    problem, _, place = message.partition(" - at ")
    path = place.strip("`").removeprefix("$").removeprefix(".")
    if unknown := re.search(r"unknown field `(.+)`", problem):
        known = ", ".join(_keys(path))
        return f"{path}.{unknown[1]}".strip("."), f"unknown key; remove it, or use one of {known}"
    if missing := re.search(r"missing required field `(.+)`", problem):
        return path, f"{missing[1]} is missing; add {_EXAMPLES.get(missing[1], missing[1] + ' = ...')}"
    if "enum" in problem:
        return path, f"{problem}; use {_CHOICES.get(path.rpartition('.')[2], 'one of the known values')}"
    expected = re.search(r"Expected `(\w+).*got", problem)
    return path, f"{problem}; {_WRITTEN.get(expected[1] if expected else '', 'correct the value')}"


_EXAMPLES: Final = {
    "name": 'name = "..."',
    "unit": 'unit = "..." ("1" for a number without a unit)',
    "signals": "a [[signals]] with name and unit for each signal",
}
_CHOICES: Final = {"role": '"condition" or "regime"', "worse": '"up", "down" or "both"'}
_WRITTEN: Final = {
    "str": "write text in quotes",
    "int": "write a whole number without quotes",
    "float": "write a number without quotes",
    "array": "write one [[signals]] for each signal",
    "object": "write a table",
}


def _keys(path: str) -> tuple[str, ...]:
    """The keys that may stand in the table at a path."""
    if path.startswith("signals"):
        return Signal.__struct_fields__
    return (Calibration if path.startswith("calibration") else Description).__struct_fields__


def _located(message: str, description: Description) -> tuple[str, str]:
    """Where and what to do, from an AssetTypeError, which names a signal by its name; the last signal of that name."""
    where, _, fix = message.partition(": ")
    for i, signal in reversed(list(enumerate(description.signals))):
        named = f"signals.{signal.name}"
        if where == named or where.startswith(f"{named}."):
            key = where.removeprefix(named).removeprefix(".")
            return f"signals[{i}].{key or 'name'}", f"{signal.name}: {fix}"
    return where, fix

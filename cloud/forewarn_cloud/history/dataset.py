"""A dataset folder: what machines measured, when they failed, and what was done to them.

dataset.toml names the signals; telemetry.csv, telemetry.csv.gz or telemetry.parquet holds the samples; failures.csv,
faults.csv, remaining_life.csv and maintenance.csv are optional. Everything is checked before anything is used.
"""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import msgspec

from forewarn_cloud.history.cells import (
    Column,
    DatasetError,
    Row,
    hours,
    identifier,
    instant_ms,
    optional_identifier,
    plain,
    read_rows,
)
from forewarn_cloud.history.telemetry import Telemetry, read_telemetry
from forewarn_models.asset_type import (
    AssetType,
    AssetTypeError,
    Signal,
    builtin_asset_type,
    builtin_names,
    generic_asset_type,
)

DESCRIPTION: Final = "dataset.toml"


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the models are set for this dataset; None leaves the default."""

    baseline_samples: Annotated[int, msgspec.Meta(ge=2)] | None = None
    false_alarms_per_asset_month: Annotated[float, msgspec.Meta(gt=0)] | None = None


class Description(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """dataset.toml."""

    name: str
    asset_type: str
    signals: tuple[Signal, ...]
    about: str = ""
    licence: str = ""
    calibration: Calibration = Calibration()


@dataclass(frozen=True, kw_only=True)
class Failure:
    """The asset failed: the end of one life."""

    asset: str
    failed_ms: int
    failure_mode: str
    """Empty where unknown."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A labelled interval in which the asset had a fault."""

    asset: str
    started_ms: int
    ended_ms: int
    failure_mode: str


@dataclass(frozen=True, kw_only=True)
class RemainingLife:
    """The truth about a history that was cut off: at `as_of_ms` the asset had `rul_hours` left."""

    asset: str
    as_of_ms: int
    rul_hours: float


@dataclass(frozen=True, kw_only=True)
class Maintenance:
    asset: str
    at_ms: int
    kind: str
    part_no: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """A dataset folder, read and checked. Events are in time order."""

    description: Description
    asset_type: AssetType
    telemetry: Telemetry
    failures: tuple[Failure, ...] | None
    """None where there is no failures.csv: it is not known what failed."""
    faults: tuple[Fault, ...] | None
    remaining_lives: tuple[RemainingLife, ...]
    maintenance: tuple[Maintenance, ...]


def read_dataset(folder: Path) -> Dataset:
    """Everything in a dataset folder.

    Raises:
        DatasetError: something is missing or cannot be read; the message names file, line, column and the fix.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder; give a folder with {DESCRIPTION} and telemetry.csv")
    description = read_description(folder / DESCRIPTION)
    asset_type = resolve_asset_type(description)
    telemetry = read_telemetry(folder, asset_type.signal_names)
    assets = frozenset(telemetry.assets)
    return Dataset(
        description=description,
        asset_type=asset_type,
        telemetry=telemetry,
        failures=_read_failures(folder / "failures.csv", assets),
        faults=_read_faults(folder / "faults.csv", assets),
        remaining_lives=_read_remaining_lives(folder / "remaining_life.csv", assets),
        maintenance=_read_maintenance(folder / "maintenance.csv", assets),
    )


def read_description(path: Path) -> Description:
    try:
        return msgspec.convert(tomllib.loads(path.read_text("utf-8")), Description)
    except FileNotFoundError:
        raise DatasetError(
            f"{path.name}: missing in {path.parent}; describe the dataset with name, asset_type and [[signals]]"
        ) from None
    except UnicodeDecodeError:
        raise DatasetError(f"{path.name}: save the file as UTF-8") from None
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise DatasetError(f"{path.name}: {error}") from None


def resolve_asset_type(description: Description) -> AssetType:
    """The built-in asset type of that name if it has these very signals; else a generic one with the signals declared.

    A generic type has no failure modes and no limits other than those declared.
    """
    try:
        if description.asset_type in builtin_names():
            builtin = builtin_asset_type(description.asset_type)
            if _measuring_points(builtin.signals) == _measuring_points(description.signals):
                return builtin
        return generic_asset_type(description.signals, description.asset_type)
    except AssetTypeError as error:
        raise DatasetError(f"{DESCRIPTION}: {error}") from None


def _measuring_points(signals: tuple[Signal, ...]) -> set[tuple[str, str, str]]:
    return {(signal.name, signal.unit, signal.role) for signal in signals}


_ASSET: Final = Column(name="asset_id", read=identifier)
_MODE: Final = Column(name="failure_mode", read=optional_identifier, required=False)


def _read_failures(path: Path, assets: frozenset[str]) -> tuple[Failure, ...] | None:
    if not path.exists():
        return None
    columns = (_ASSET, Column(name="failed_at", read=instant_ms), _MODE)
    found = dict[tuple[str, int], Failure]()
    for row in _rows(path, columns, assets):
        asset, failed_ms, mode = row.cells
        if (asset, failed_ms) in found:
            raise DatasetError(f"{path.name}, line {row.line}: {asset} failed at this time before; keep one row")
        found[asset, failed_ms] = Failure(asset=asset, failed_ms=failed_ms, failure_mode=mode or "")
    return tuple(sorted(found.values(), key=lambda failure: (failure.failed_ms, failure.asset)))


def _read_faults(path: Path, assets: frozenset[str]) -> tuple[Fault, ...] | None:
    if not path.exists():
        return None
    columns = (_ASSET, Column(name="started_at", read=instant_ms), Column(name="ended_at", read=instant_ms), _MODE)
    faults = list[Fault]()
    for row in _rows(path, columns, assets):
        asset, started_ms, ended_ms, mode = row.cells
        if ended_ms < started_ms:
            raise DatasetError(f"{path.name}, line {row.line}, column ended_at: before started_at; swap them")
        faults.append(Fault(asset=asset, started_ms=started_ms, ended_ms=ended_ms, failure_mode=mode or ""))
    return tuple(sorted(faults, key=lambda fault: (fault.started_ms, fault.asset)))


def _read_remaining_lives(path: Path, assets: frozenset[str]) -> tuple[RemainingLife, ...]:
    columns = (_ASSET, Column(name="as_of", read=instant_ms), Column(name="rul_hours", read=hours))
    lives = dict[str, RemainingLife]()
    for row in _rows(path, columns, assets):
        asset, as_of_ms, rul_hours = row.cells
        if asset in lives:
            raise DatasetError(f"{path.name}, line {row.line}: a second row for {asset}; keep the last one only")
        lives[asset] = RemainingLife(asset=asset, as_of_ms=as_of_ms, rul_hours=rul_hours)
    return tuple(lives.values())


def _read_maintenance(path: Path, assets: frozenset[str]) -> tuple[Maintenance, ...]:
    columns = (
        _ASSET,
        Column(name="at", read=instant_ms),
        Column(name="kind", read=plain),
        Column(name="part_no", read=plain, required=False),
    )
    found = [
        Maintenance(asset=asset, at_ms=at_ms, kind=kind, part_no=part_no or "")
        for asset, at_ms, kind, part_no in (row.cells for row in _rows(path, columns, assets))
    ]
    return tuple(sorted(found, key=lambda work: (work.at_ms, work.asset)))


def _rows(path: Path, columns: tuple[Column, ...], assets: frozenset[str]) -> Iterator[Row]:
    """The rows of an optional file; each names an asset that has telemetry in its first column."""
    if not path.exists():
        return
    for row in read_rows(path, columns):
        if row.cells[0] not in assets:
            raise DatasetError(
                f"{path.name}, line {row.line}, column asset_id: {row.cells[0]} has no telemetry; "
                "correct the name or remove the row"
            )
        yield row

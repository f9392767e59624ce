"""A dataset folder: what machines measured, when they failed, and what was done to them.

dataset.toml names the signals; telemetry.csv, telemetry.csv.gz or telemetry.parquet holds the samples; failures.csv,
faults.csv, remaining_life.csv and maintenance.csv are optional. Everything is checked before anything is used.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from forewarn_cloud.history.cells import (
    Advance,
    Column,
    DatasetError,
    Row,
    hours,
    identifier,
    instant_ms,
    optional_identifier,
    plain,
    read_rows,
    wording,
)
from forewarn_cloud.history.description import DESCRIPTION, Description, read_description
from forewarn_cloud.history.remarks import KNOWN, remarks
from forewarn_cloud.history.telemetry import Telemetry, read_telemetry
from forewarn_models.asset_type import AssetType


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
    remarks: tuple[str, ...] = ()
    """What is allowed, and yet probably not meant; each names file, line or column, and what to do."""


def read_dataset(folder: Path, advance: Advance = lambda _: None) -> Dataset:
    """Everything in a dataset folder; `advance` hears of the bytes of the telemetry.

    Raises:
        DatasetError: something is missing or cannot be read; the message names file, line, column and the fix.
    """
    if not folder.is_dir():
        problem = "is a file" if folder.exists() else "no such folder"
        raise DatasetError(f"{folder}: {problem}; give a folder with {DESCRIPTION} and telemetry.csv")
    for link in (folder / name for name in KNOWN):
        if link.is_symlink() and not link.exists():
            raise DatasetError(f"{link.name}: a link to {link.readlink()}, which is not there; correct or remove it")
    description, asset_type = read_description(folder / DESCRIPTION)
    telemetry = read_telemetry(folder, asset_type.signal_names, advance)
    recorded = _recorded(telemetry)
    told = list[str]()
    return Dataset(
        description=description,
        asset_type=asset_type,
        telemetry=telemetry,
        failures=_read_failures(folder / "failures.csv", recorded, told),
        faults=_read_faults(folder / "faults.csv", recorded, told),
        remaining_lives=_read_remaining_lives(folder / "remaining_life.csv", recorded),
        maintenance=_read_maintenance(folder / "maintenance.csv", recorded),
        remarks=(*remarks(folder, description, asset_type, telemetry), *told),
    )


Recorded = Mapping[str, tuple[int, int]]
"""Asset -> epoch milliseconds of its first and its last sample."""


def _recorded(telemetry: Telemetry) -> Recorded:
    times = (telemetry.t_ms[rows] for rows in telemetry.rows_by_asset())
    return {asset: (int(t[0]), int(t[-1])) for asset, t in zip(telemetry.assets, times, strict=True)}


_HOUR_MS: Final = 3_600_000
_DAY_MS: Final = 24 * _HOUR_MS
_ASSET: Final = Column(name="asset_id", read=identifier)
_MODE: Final = Column(name="failure_mode", read=optional_identifier, required=False)


def _read_failures(path: Path, recorded: Recorded, told: list[str]) -> tuple[Failure, ...] | None:
    if not path.exists():
        return None
    columns = (_ASSET, Column(name="failed_at", read=instant_ms), _MODE)
    found = dict[tuple[str, int], Failure]()
    lines = dict[tuple[str, int], int]()
    early, late = list[str](), list[str]()
    for row in _rows(path, columns, recorded):
        asset, failed_ms, mode = row.cells
        if (asset, failed_ms) in found:
            raise DatasetError(
                f"{path.name}, line {row.line}, column failed_at: {asset} failed at this time in line "
                f"{lines[asset, failed_ms]} already; keep one row"
            )
        found[asset, failed_ms] = Failure(asset=asset, failed_ms=failed_ms, failure_mode=mode or "")
        lines[asset, failed_ms] = row.line
        first_ms, last_ms = recorded[asset]
        where = f"{path.name}, line {row.line}, column failed_at: {asset}"
        if failed_ms <= first_ms:
            when = "before" if failed_ms < first_ms else "at"
            early.append(f"{where} failed {when} its first sample, so nothing is learned from it; check the time")
        elif failed_ms - last_ms > max(last_ms - first_ms, _DAY_MS):
            late.append(f"{where} failed long after its last sample; check the time")
    told.extend((*_in_one(early), *_in_one(late)))
    return tuple(sorted(found.values(), key=lambda failure: (failure.failed_ms, failure.asset)))


def _read_faults(path: Path, recorded: Recorded, told: list[str]) -> tuple[Fault, ...] | None:
    if not path.exists():
        return None
    columns = (_ASSET, Column(name="started_at", read=instant_ms), Column(name="ended_at", read=instant_ms), _MODE)
    faults, outside = list[Fault](), list[str]()
    for row in _rows(path, columns, recorded):
        asset, started_ms, ended_ms, mode = row.cells
        if ended_ms < started_ms:
            raise DatasetError(f"{path.name}, line {row.line}, column ended_at: before started_at; swap them")
        faults.append(Fault(asset=asset, started_ms=started_ms, ended_ms=ended_ms, failure_mode=mode or ""))
        first_ms, last_ms = recorded[asset]
        if ended_ms < first_ms or started_ms > last_ms:
            where = f"{path.name}, line {row.line}, columns started_at and ended_at"
            outside.append(f"{where}: {asset} has no sample in this interval; check the times")
    told.extend(_in_one(outside))
    return tuple(sorted(faults, key=lambda fault: (fault.started_ms, fault.asset)))


def _read_remaining_lives(path: Path, recorded: Recorded) -> tuple[RemainingLife, ...]:
    columns = (_ASSET, Column(name="as_of", read=instant_ms), Column(name="rul_hours", read=hours))
    lives = dict[str, RemainingLife]()
    for row in _rows(path, columns, recorded):
        asset, as_of_ms, rul_hours = row.cells
        if asset in lives:
            raise DatasetError(f"{path.name}, line {row.line}: a second row for {asset}; keep the last one only")
        if as_of_ms + rul_hours * _HOUR_MS < recorded[asset][1]:
            raise DatasetError(
                f"{path.name}, line {row.line}, column rul_hours: {asset} has samples after its life is said to end; "
                "correct as_of or rul_hours, or put the failure into failures.csv"
            )
        lives[asset] = RemainingLife(asset=asset, as_of_ms=as_of_ms, rul_hours=rul_hours)
    return tuple(lives.values())


def _read_maintenance(path: Path, recorded: Recorded) -> tuple[Maintenance, ...]:
    columns = (
        _ASSET,
        Column(name="at", read=instant_ms),
        Column(name="kind", read=wording),
        Column(name="part_no", read=plain, required=False),
    )
    found = [
        Maintenance(asset=asset, at_ms=at_ms, kind=kind, part_no=part_no or "")
        for asset, at_ms, kind, part_no in (row.cells for row in _rows(path, columns, recorded))
    ]
    return tuple(sorted(found, key=lambda work: (work.at_ms, work.asset)))


def _rows(path: Path, columns: tuple[Column, ...], recorded: Recorded) -> Iterator[Row]:
    """The rows of an optional file; each names an asset that has telemetry in its first column."""
    if not path.exists():
        return
    for row in read_rows(path, columns):
        if row.cells[0] not in recorded:
            known = ", ".join(list(recorded)[:3])
            raise DatasetError(
                f"{path.name}, line {row.line}, column asset_id: {row.cells[0]} has no telemetry; "
                f"correct the name or remove the row (with telemetry: {known}{' ...' if len(recorded) > 3 else ''})"
            )
        yield row


def _in_one(messages: list[str]) -> Iterable[str]:
    """The first of many messages of the same kind, and how many more there are."""
    if messages:
        more = len(messages) - 1
        yield messages[0] + (f" ({more:,} more {'row' if more == 1 else 'rows'} like this)" if more else "")

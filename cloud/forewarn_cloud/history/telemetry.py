"""The samples of a dataset folder as arrays.

pyarrow reads the file fast. Whatever it refuses, or whatever is wrong in what it read, is read again row by row: that
reading is the reference, and it knows the line and the column of the first mistake.

Rows that go back in time are refused rather than sorted, and rows that come twice rather than dropped: an hour that
comes twice is how local time looks that was called UTC, and sorting would weave the two hours into one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from forewarn_cloud.history.cells import (
    END_MS,
    MAX_READING,
    US_PER_MS,
    Advance,
    Column,
    DatasetError,
    identifier,
    instant_us,
    number,
    open_binary,
    places,
    read_rows,
    shown,
)
from forewarn_models.asset_type import IDENTIFIER

FILES: Final = ("telemetry.csv", "telemetry.csv.gz", "telemetry.parquet")
_NS_PER_MS: Final = 1_000_000
_MISSING: Final = ["", "nan", "NaN"]
_BLOCK_BYTES: Final = 1 << 22


@dataclass(frozen=True, kw_only=True, eq=False)
class Telemetry:
    """n samples in the order of the file; each asset's own samples are in strictly increasing time.

    `asset_index` int32 (n,) into `assets`; `t_ms` int64 (n,) epoch milliseconds; `values` float64 (n, signals),
    NaN where missing.
    """

    assets: tuple[str, ...]
    """In the order of their first sample in the file."""
    asset_index: NDArray[np.int32]
    t_ms: NDArray[np.int64]
    values: NDArray[np.float64]

    def rows_by_asset(self) -> list[NDArray[np.int64]]:
        """For each asset the numbers of its rows, in time order."""
        order = np.argsort(self.asset_index, kind="stable")
        counts = np.bincount(self.asset_index, minlength=len(self.assets))
        return np.split(order, np.cumsum(counts)[:-1])


def telemetry_path(folder: Path) -> Path:
    """The telemetry file of a dataset folder.

    Raises:
        DatasetError: there is none, or more than one.
    """
    present = [folder / name for name in FILES if (folder / name).exists()]
    if not present:
        near = [path.name for path in folder.iterdir() if path.name.lower().startswith("telemetry")]
        rename = f" (is {near[0]} meant? rename it)" if near else ""
        raise DatasetError(f"telemetry.csv: missing in {folder}; add it, or {' or '.join(FILES[1:])}{rename}")
    if len(present) > 1:
        raise DatasetError(f"{' and '.join(path.name for path in present)}: both are in {folder}; keep one")
    return present[0]


def size_bytes(folder: Path) -> int | None:
    """How large the telemetry of a folder is on the disk; None if there is not exactly one file."""
    present = [path for name in FILES if (path := folder / name).is_file()]
    return present[0].stat().st_size if len(present) == 1 else None


def read_telemetry(folder: Path, signals: tuple[str, ...], advance: Advance = lambda _: None) -> Telemetry:
    """The telemetry file of a dataset folder; `signals` are its value columns, in the order wanted.

    Raises:
        DatasetError: there is no such file or more than one, a column or a cell is wrong, an asset's samples are not
            in time order, or there is no sample at all.
    """
    path = telemetry_path(folder)
    read = _read_parquet if path.suffix == ".parquet" else _read_csv
    telemetry = read(path, signals, advance)
    if len(telemetry.t_ms) == 0:
        raise DatasetError(f"{path.name}: no samples after the header; a dataset needs at least one row")
    return telemetry


def _columns(signals: tuple[str, ...]) -> tuple[Column, ...]:
    return (
        Column(name="asset_id", read=identifier),
        Column(name="observed_at", read=instant_us),
        *(Column(name=signal, read=number, signal=True) for signal in signals),
    )


# --- CSV ------------------------------------------------------------------------------------------------------------


def _read_csv(path: Path, signals: tuple[str, ...], advance: Advance) -> Telemetry:
    fast = _read_csv_fast(path, signals, advance)
    if fast is None or next(_faults(fast, signals, str, lambda *_: False), None):
        return read_csv_by_row(path, signals)
    return fast


def _read_csv_fast(path: Path, signals: tuple[str, ...], advance: Advance) -> Telemetry | None:
    """The file as pyarrow reads it, block by block, not yet checked; None if it cannot."""
    import pyarrow as pa
    from pyarrow import csv

    types = {
        "asset_id": pa.string(),
        "observed_at": pa.timestamp("ns", "UTC"),
        **dict.fromkeys(signals, pa.float64()),
    }
    convert = csv.ConvertOptions(column_types=types, null_values=_MISSING, strings_can_be_null=False)
    with open_binary(path, advance) as packed:
        stream = pa.CompressedInputStream(packed, "gzip") if path.suffix == ".gz" else packed
        try:
            reader = csv.open_csv(stream, csv.ReadOptions(block_size=_BLOCK_BYTES), convert_options=convert)
            if sorted(reader.schema.names) != sorted(types):
                return None
            return _gather(reader, signals)
        except (pa.ArrowInvalid, OSError, _Refused):
            return None


def read_csv_by_row(path: Path, signals: tuple[str, ...], advance: Advance = lambda _: None) -> Telemetry:
    """The reference reading: slow, and every mistake is told with its line and column."""
    index = dict[str, int]()
    asset_index, t_us, values, lines = list[int](), list[int](), list[tuple[float, ...]](), list[int]()
    for row in read_rows(path, _columns(signals), advance):
        asset, at_us, *readings = row.cells
        asset_index.append(index.setdefault(asset, len(index)))
        t_us.append(at_us)
        values.append(tuple(readings))
        lines.append(row.line)
    telemetry = Telemetry(
        assets=tuple(index),
        asset_index=np.array(asset_index, np.int32),
        t_ms=np.array(t_us, np.int64) // US_PER_MS,
        values=np.array(values, np.float64).reshape(len(t_us), len(signals)),
    )
    _check(path.name, telemetry, signals, lambda row: f"line {lines[row]}", lambda a, b: t_us[a] != t_us[b])
    return telemetry


# --- Parquet --------------------------------------------------------------------------------------------------------


def _read_parquet(path: Path, signals: tuple[str, ...], advance: Advance) -> Telemetry:
    import pyarrow as pa
    from pyarrow import parquet

    with open_binary(path, advance) as packed:
        try:
            file = parquet.ParquetFile(packed)
            places(path.name, tuple(file.schema_arrow.names), _columns(signals))
            _check_types(path.name, file.schema_arrow, signals)
            telemetry = _gather(file.iter_batches(), signals)
            _check(path.name, telemetry, signals, lambda row: f"row {row + 1}", lambda a, b: _apart(file, a, b))
        except _Refused as error:
            raise DatasetError(f"{path.name}, {error}") from None
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
            raise DatasetError(f"{path.name}: cannot be read ({error}); write the file again") from None
    return telemetry


def _apart(file: Any, row: int, other: int) -> bool:
    times = file.read(["observed_at"]).column(0)
    return bool(times[row] != times[other])


def _check_types(file: str, schema: Any, signals: tuple[str, ...]) -> None:
    """Whether the columns can be told as what they should be without a guess."""
    from pyarrow import types

    kind = schema.field("observed_at").type
    if not types.is_timestamp(kind) or kind.tz is None:
        raise DatasetError(
            f"{file}, column observed_at: {kind} is no timestamp with a time zone; write timestamp[ms, UTC]"
        )
    for name in signals:
        kind = schema.field(name).type
        if not (types.is_floating(kind) or types.is_integer(kind)):
            raise DatasetError(f"{file}, column {name}: {kind} is not a number; write float64")


# --- both -----------------------------------------------------------------------------------------------------------


class _Refused(ValueError):
    """A batch holds what cannot be told as an array: an empty name or time, or a time out of reach."""


def _gather(batches: Iterator[Any], signals: tuple[str, ...]) -> Telemetry:
    """Telemetry from record batches with the columns asset_id, observed_at and the signals."""
    index = dict[str, int]()
    parts = [(np.empty(0, np.int32), np.empty(0, np.int64), np.empty((0, len(signals))))]
    done = 0
    for batch in batches:
        parts.append(_arrays(batch, signals, index, done))
        done += batch.num_rows
    asset_index, t_ms, values = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Telemetry(assets=tuple(index), asset_index=asset_index, t_ms=t_ms, values=values)


def _arrays(
    batch: Any, signals: tuple[str, ...], index: dict[str, int], before: int
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.float64]]:
    """asset_index, t_ms and values of a batch, which `before` rows come before; new assets are added to `index`."""
    import pyarrow as pa

    for name in ("asset_id", "observed_at"):
        if batch.column(name).null_count:
            row = before + batch.column(name).is_null().index(True).as_py()
            raise _Refused(f"row {row + 1}, column {name}: empty; fill it or remove the row")
    try:
        times = batch.column("observed_at").cast(pa.timestamp("ns", "UTC"))
    except pa.ArrowInvalid as error:
        raise _Refused(f"column observed_at: {error}; correct the year") from None
    names = batch.column("asset_id").cast(pa.string()).dictionary_encode()
    known = np.array([index.setdefault(name, len(index)) for name in names.dictionary.to_pylist()], np.int32)
    values = np.empty((batch.num_rows, len(signals)))
    for i, signal in enumerate(signals):
        values[:, i] = batch.column(signal).cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return known[names.indices.to_numpy()], times.cast(pa.int64()).to_numpy() // _NS_PER_MS, values


def _check(
    file: str,
    telemetry: Telemetry,
    signals: tuple[str, ...],
    place: Callable[[int], str],
    apart: Callable[[int, int], bool],
) -> None:
    fault = next(_faults(telemetry, signals, place, apart), None)
    if fault is not None:
        raise DatasetError(f"{file}, {fault}")


def _faults(
    telemetry: Telemetry, signals: tuple[str, ...], place: Callable[[int], str], apart: Callable[[int, int], bool]
) -> Iterator[str]:
    """The first row that breaks each rule, and how.

    `place` says where the row of a number stands, `apart` whether two rows of one millisecond were not of one time.
    """
    for i, name in enumerate(telemetry.assets):
        if not IDENTIFIER.fullmatch(name):
            row = int(np.argmax(telemetry.asset_index == i))
            yield f"{place(row)}, column asset_id: {shown(name)} cannot be a name; use letters, digits, _ and -"
    impossible = np.abs(telemetry.values) > MAX_READING
    if impossible.any():
        row = int(np.argmax(impossible.any(axis=1)))
        signal = int(np.argmax(impossible[row]))
        value = telemetry.values[row, signal]
        yield f"{place(row)}, column {signals[signal]}: {value:g} is not a finite number; leave it empty if missing"
    unlikely = (telemetry.t_ms < 0) | (telemetry.t_ms >= END_MS)
    if unlikely.any():
        yield f"{place(int(np.argmax(unlikely)))}, column observed_at: before 1970 or after 2199; correct the year"
    yield from _repeats(telemetry, place, apart)
    yield from _steps_back(telemetry, place)


def _repeats(telemetry: Telemetry, place: Callable[[int], str], apart: Callable[[int, int], bool]) -> Iterator[str]:
    """The first row with the asset and the time of an earlier one."""
    order = np.lexsort((telemetry.t_ms, telemetry.asset_index))
    found, before, count = _first_pair(telemetry, order, np.diff(telemetry.t_ms[order]) == 0)
    if found is not None:
        same = np.array_equal(telemetry.values[found], telemetry.values[before], equal_nan=True)
        fix = "the same values; remove one of the two" if same else "other values; keep the right one of the two"
        what = "rows are there twice"
        if apart(found, before):
            fix = "times kept to the millisecond; give features of such fast data, or fewer samples"
            what = "rows follow so fast"
        asset = telemetry.assets[telemetry.asset_index[found]]
        yield (
            f"{place(found)}, column observed_at: {asset} has a row for this time already, {place(before)}, with {fix}"
            f"{_all(count, what)}"
        )


def _steps_back(telemetry: Telemetry, place: Callable[[int], str]) -> Iterator[str]:
    """The first row that is earlier than the row of the same asset before it."""
    order = np.argsort(telemetry.asset_index, kind="stable")
    found, before, count = _first_pair(telemetry, order, np.diff(telemetry.t_ms[order]) < 0)
    if found is not None:
        asset = telemetry.assets[telemetry.asset_index[found]]
        yield (
            f"{place(found)}, column observed_at: {asset} is earlier than in {place(before)}; sort the rows "
            f"of each asset by time{_all(count, 'rows step back')}"
        )


def _first_pair(
    telemetry: Telemetry, order: NDArray[np.int64], wrong: NDArray[np.bool_]
) -> tuple[int | None, int, int]:
    """Of neighbours in `order`, of one asset and `wrong`: the later row first in the file, its neighbour; how many."""
    wrong = wrong & (np.diff(telemetry.asset_index[order]) == 0)
    if not wrong.any():
        return None, 0, 0
    later = order[1:][wrong]
    first = int(np.argmin(later))
    return int(later[first]), int(order[:-1][wrong][first]), int(wrong.sum())


def _all(count: int, what: str) -> str:
    return f" ({count:,} {what})" if count > 1 else ""

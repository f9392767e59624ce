"""The samples of a dataset folder as arrays.

pyarrow reads the file fast. Whatever it refuses, or whatever is wrong in what it read, is read again row by row: that
reading is the reference, and it knows the line and the column of the first mistake.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from forewarn_cloud.history.cells import Column, DatasetError, identifier, instant_ms, number, places, read_rows
from forewarn_models.asset_type import IDENTIFIER

FILES: Final = ("telemetry.csv", "telemetry.csv.gz", "telemetry.parquet")
_NS_PER_MS: Final = 1_000_000
_MISSING: Final = ["", "nan", "NaN"]


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


def read_telemetry(folder: Path, signals: tuple[str, ...]) -> Telemetry:
    """The telemetry file of a dataset folder; `signals` are its value columns, in the order wanted.

    Raises:
        DatasetError: there is no such file or more than one, a column or a cell is wrong, an asset's samples are not
            in time order, or there is no sample at all.
    """
    present = [folder / name for name in FILES if (folder / name).exists()]
    if not present:
        raise DatasetError(f"telemetry: none of {', '.join(FILES)} is in {folder}; add one")
    if len(present) > 1:
        raise DatasetError(f"telemetry: {' and '.join(path.name for path in present)} are both there; keep one")
    path = present[0]
    telemetry = _read_parquet(path, signals) if path.suffix == ".parquet" else _read_csv(path, signals)
    if len(telemetry.t_ms) == 0:
        raise DatasetError(f"{path.name}: no samples; a dataset needs at least one row")
    return telemetry


def _columns(signals: tuple[str, ...]) -> tuple[Column, ...]:
    return (
        Column(name="asset_id", read=identifier),
        Column(name="observed_at", read=instant_ms),
        *(Column(name=signal, read=number) for signal in signals),
    )


# --- CSV ------------------------------------------------------------------------------------------------------------


def _read_csv(path: Path, signals: tuple[str, ...]) -> Telemetry:
    fast = _read_csv_fast(path, signals)
    return fast if fast is not None and _first_fault(fast) is None else read_csv_by_row(path, signals)


def _read_csv_fast(path: Path, signals: tuple[str, ...]) -> Telemetry | None:
    """The file as pyarrow reads it, not yet checked; None if it cannot."""
    import pyarrow as pa
    from pyarrow import csv

    types = {
        "asset_id": pa.dictionary(pa.int32(), pa.string()),
        "observed_at": pa.timestamp("ns", "UTC"),
        **dict.fromkeys(signals, pa.float64()),
    }
    options = csv.ConvertOptions(column_types=types, null_values=_MISSING, strings_can_be_null=False)
    try:
        table = csv.read_csv(path, convert_options=options)
    except (pa.ArrowInvalid, OSError):
        return None
    if sorted(table.column_names) != sorted(types) or table.column("observed_at").null_count:
        return None
    return _from_table(table, signals)


def read_csv_by_row(path: Path, signals: tuple[str, ...]) -> Telemetry:
    """The reference reading: slow, and every mistake is told with its line and column."""
    index = dict[str, int]()
    last = dict[str, tuple[int, int]]()
    asset_index, t_ms, values = list[int](), list[int](), list[tuple[float, ...]]()
    for row in read_rows(path, _columns(signals)):
        asset, at_ms, *readings = row.cells
        _check_order(path.name, row.line, asset, at_ms, last.get(asset))
        last[asset] = at_ms, row.line
        asset_index.append(index.setdefault(asset, len(index)))
        t_ms.append(at_ms)
        values.append(tuple(readings))
    return Telemetry(
        assets=tuple(index),
        asset_index=np.array(asset_index, np.int32),
        t_ms=np.array(t_ms, np.int64),
        values=np.array(values, np.float64).reshape(len(t_ms), len(signals)),
    )


def _check_order(file: str, line: int, asset: str, at_ms: int, last: tuple[int, int] | None) -> None:
    if last is None or at_ms > last[0]:
        return
    where = f"{file}, line {line}, column observed_at"
    if at_ms == last[0]:
        raise DatasetError(f"{where}: {asset} has the same time as in line {last[1]}; keep one of the two rows")
    raise DatasetError(f"{where}: {asset} is earlier than in line {last[1]}; sort the rows of each asset by time")


# --- Parquet --------------------------------------------------------------------------------------------------------


def _read_parquet(path: Path, signals: tuple[str, ...]) -> Telemetry:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DatasetError(f"{path.name}: cannot be read: {error}") from None
    places(path.name, tuple(table.column_names), _columns(signals))
    telemetry = _from_table(_cast(path.name, table, signals), signals)
    fault = _first_fault(telemetry)
    if fault is not None:
        raise DatasetError(f"{path.name}, row {fault[0] + 1}, {fault[1]}")
    return telemetry


def _cast(file: str, table: Any, signals: tuple[str, ...]) -> Any:
    """The table with the column types of a telemetry file."""
    import pyarrow as pa

    kind = table.schema.field("observed_at").type
    if not pa.types.is_timestamp(kind) or kind.tz is None:
        raise DatasetError(
            f"{file}, column observed_at: {kind} is no timestamp with a time zone; write timestamp[ms, UTC]"
        )
    wanted = {"asset_id": pa.string(), "observed_at": pa.timestamp("ns", "UTC"), **dict.fromkeys(signals, pa.float64())}
    columns = {}
    for name, to in wanted.items():
        column = table.column(name)
        if to == pa.float64() and not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
            raise DatasetError(f"{file}, column {name}: {column.type} is not a number; write float64")
        if to != pa.float64() and column.null_count:
            raise DatasetError(f"{file}, column {name}: {column.null_count} rows are empty; fill them")
        try:
            columns[name] = column.cast(to)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise DatasetError(f"{file}, column {name}: {error}") from None
    columns["asset_id"] = columns["asset_id"].dictionary_encode()
    return pa.table(columns)


# --- both -----------------------------------------------------------------------------------------------------------


def _from_table(table: Any, signals: tuple[str, ...]) -> Telemetry:
    assets = table.column("asset_id").unify_dictionaries().combine_chunks()
    if not table.num_rows:
        return _nothing(len(signals))
    names = tuple(assets.dictionary.to_pylist())
    values = np.empty((table.num_rows, len(signals)))
    for i, signal in enumerate(signals):
        values[:, i] = table.column(signal).to_numpy()
    return Telemetry(
        assets=names,
        asset_index=assets.indices.to_numpy().astype(np.int32),
        t_ms=table.column("observed_at").to_numpy().astype(np.int64) // _NS_PER_MS,
        values=values,
    )


def _nothing(signals: int) -> Telemetry:
    return Telemetry(
        assets=(),
        asset_index=np.empty(0, np.int32),
        t_ms=np.empty(0, np.int64),
        values=np.empty((0, signals)),
    )


def _first_fault(telemetry: Telemetry) -> tuple[int, str] | None:
    """The first row that breaks a rule, and which; None if all is well."""
    if not all(IDENTIFIER.fullmatch(name) for name in telemetry.assets):
        bad = next(i for i, name in enumerate(telemetry.assets) if not IDENTIFIER.fullmatch(name))
        return int(np.argmax(telemetry.asset_index == bad)), "column asset_id: use letters, digits, _ and -"
    if np.isinf(telemetry.values).any():
        return int(np.argmax(np.isinf(telemetry.values).any(axis=1))), "an infinite value; leave it empty if missing"
    if (telemetry.t_ms < 0).any():
        return int(np.argmax(telemetry.t_ms < 0)), "column observed_at: before 1970"
    late = [rows[1:][np.diff(telemetry.t_ms[rows]) <= 0] for rows in telemetry.rows_by_asset()]
    wrong = np.concatenate(late) if late else np.empty(0, np.int64)
    if len(wrong):
        return int(
            wrong.min()
        ), "column observed_at: not after the asset's sample before; sort, and keep one row a time"
    return None

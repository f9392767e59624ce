"""Dataset folders with ground truth, as forewarn-cloud's fit, assess and backtest read them.

A folder appears whole or not at all: it is written beside its place and moved there when complete. The same
scenario and seed give the same bytes.
"""

import csv
import gzip
import io
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet
from numpy.typing import NDArray

from forewarn_device_simulator.duty import DAY_MS, HOUR_MS
from forewarn_device_simulator.fleet import Recording, instants, simulate, units_of
from forewarn_device_simulator.machines import MACHINES
from forewarn_device_simulator.scenario import Scenario
from forewarn_device_simulator.wear import Life, Unit

Form = Literal["csv.gz", "csv", "parquet"]
CHUNK_UNITS: Final = 8
"""Units simulated together; bounds the memory and is the step of the progress bar."""
AHEAD_DAYS: Final = 120.0
"""How far beyond the end of the recording the remaining life is known."""
GZIP_LEVEL: Final = 4


class DatasetError(RuntimeError):
    """The dataset cannot be written; the message says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class _Truth:
    """Rows of the truth files of some units."""

    failures: list[list[str]]
    faults: list[list[str]]
    remaining_life: list[list[str]]
    maintenance: list[list[str]]


def generate(
    scenario: Scenario, out: Path, *, seed: int, form: Form = "csv.gz", advance: Callable[[int], None] = lambda _: None
) -> list[Path]:
    """Write the scenario as dataset folders and return them: `out` itself, or one folder in it per asset type.

    `advance` is told how many machines have been done since it was last called.

    Raises:
        DatasetError: `out` exists and is not empty.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DatasetError(f"{out} exists and is not empty; choose another folder or remove it")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    types = [name for name in MACHINES if any(group.asset_type == name for group in scenario.fleet)]
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        for name in types:
            units = [unit for unit in units_of(scenario, seed) if unit.group.asset_type == name]
            _write_folder(scenario, units, partial if len(types) == 1 else partial / name, form, pool, advance)
    if out.exists():
        out.rmdir()
    partial.rename(out)
    return [out] if len(types) == 1 else [out / name for name in types]


def _write_folder(
    scenario: Scenario,
    units: Sequence[Unit],
    folder: Path,
    form: Form,
    pool: ProcessPoolExecutor,
    advance: Callable[[int], None],
) -> None:
    folder.mkdir(parents=True)
    (folder / "dataset.toml").write_text(_dataset_toml(scenario, units), encoding="utf-8")
    chunks = [units[i : i + CHUNK_UNITS] for i in range(0, len(units), CHUNK_UNITS)]
    work = pool.map(_chunk, [scenario] * len(chunks), chunks, [form] * len(chunks))
    truths = list[_Truth]()
    with _TelemetryFile(folder / f"telemetry.{form}", form, units[0]) as write:
        for chunk, (telemetry, truth) in zip(chunks, work, strict=True):
            write(telemetry)
            truths.append(truth)
            advance(len(chunk))
    _write_truth(folder, truths)


class _TelemetryFile:
    """Takes the telemetry of one chunk after the other, as `_chunk` encoded it."""

    def __init__(self, path: Path, form: Form, unit: Unit) -> None:
        self._file = path.open("wb")
        self._form = form
        self._parquet: Any = None
        if form != "parquet":
            header = ",".join(("asset_id", "observed_at", *_signal_names(unit))) + "\n"
            self._file.write(_pack(header.encode(), form))

    def __enter__(self) -> Callable[[bytes], None]:
        return self._write

    def __exit__(self, *_: object) -> None:
        if self._parquet is not None:
            self._parquet.close()
        self._file.close()

    def _write(self, telemetry: bytes) -> None:
        if self._form != "parquet":
            self._file.write(telemetry)
            return
        table = pa.ipc.open_stream(telemetry).read_all()
        if self._parquet is None:
            self._parquet = pa_parquet.ParquetWriter(self._file, table.schema, compression="zstd")
        self._parquet.write_table(table)


def _chunk(scenario: Scenario, units: Sequence[Unit], form: Form) -> tuple[bytes, _Truth]:
    """Simulate some units: their telemetry, encoded, and the truth. Runs in a process of its own."""
    ahead = int(AHEAD_DAYS * DAY_MS // scenario.interval_ms)
    t_ms = instants(scenario, scenario.start_ms, AHEAD_DAYS)
    delay = scenario.repair_delay_hours if scenario.after_failure == "repair" else None
    recording = simulate(scenario, units, t_ms, ahead=ahead, repair_delay_hours=delay)
    return _encode(scenario, recording, form), _truth_of(scenario, recording, int(recording.t_ms[-1]))


def _encode(scenario: Scenario, recording: Recording, form: Form) -> bytes:
    times = np.array([iso(t) for t in recording.t_ms.tolist()])
    tables = [_table(scenario, recording, column, times, form) for column in range(len(recording.units))]
    sink = io.BytesIO()
    if form == "parquet":
        with pa.ipc.new_stream(sink, tables[0].schema) as stream:
            for table in tables:
                stream.write_table(table)
        return sink.getvalue()
    options = pa_csv.WriteOptions(include_header=False, quoting_style="none")
    for table in tables:
        pa_csv.write_csv(table, sink, options)
    return _pack(sink.getvalue(), form)


def _pack(text: bytes, form: Form) -> bytes:
    """Compressed parts written one after the other are one gzip file."""
    return gzip.compress(text, compresslevel=GZIP_LEVEL, mtime=0) if form == "csv.gz" else text


def _table(
    scenario: Scenario, recording: Recording, column: int, times: NDArray[np.str_], form: Form
) -> Any:  # pyarrow has no types
    """One unit's samples; up to its failure if its recording ends there."""
    n = _recorded(scenario, recording.lives[column], recording.t_ms)
    stamps = pa.array(recording.t_ms[:n], pa.timestamp("ms", "UTC")) if form == "parquet" else pa.array(times[:n])
    asset = pa.array(np.full(n, recording.units[column].asset))
    values = [pa.array(np.ascontiguousarray(v[:n, column]), from_pandas=True) for v in recording.signals.values()]
    return pa.table([asset, stamps, *values], names=["asset_id", "observed_at", *recording.signals])


def _recorded(scenario: Scenario, life: Life, t_ms: NDArray[np.int64]) -> int:
    if scenario.after_failure == "end" and life.failures:
        return int(np.searchsorted(t_ms, life.failures[0].failed_at_ms, side="right"))
    return len(t_ms)


def _truth_of(scenario: Scenario, recording: Recording, end_ms: int) -> _Truth:
    truth = _Truth(failures=[], faults=[], remaining_life=[], maintenance=[])
    for unit, life in zip(recording.units, recording.lives, strict=True):
        _add_truth(truth, scenario, unit, life, end_ms)
    return truth


def _add_truth(truth: _Truth, scenario: Scenario, unit: Unit, life: Life, end_ms: int) -> None:
    seen = [failure for failure in life.failures if failure.failed_at_ms <= end_ms]
    coming = next((failure for failure in life.failures if failure.failed_at_ms > end_ms), None)
    for failure in seen:
        truth.failures.append([unit.asset, iso(failure.failed_at_ms), failure.failure_mode])
    for failure in life.failures:
        if failure.started_at_ms < end_ms:
            ended = iso(min(failure.failed_at_ms, end_ms))
            truth.faults.append([unit.asset, iso(failure.started_at_ms), ended, failure.failure_mode])
    for repair in life.repairs:
        back_ms = repair.at_ms + round(repair.hours * HOUR_MS)
        if back_ms <= end_ms:
            truth.maintenance.extend(_maintenance_rows(unit, repair.failure_mode, back_ms))
    still_running = not (seen and scenario.after_failure == "end")
    if coming is not None and still_running:
        rul_hours = (coming.failed_at_ms - end_ms) / HOUR_MS
        truth.remaining_life.append([unit.asset, iso(end_ms), f"{rul_hours:.2f}"])


def _maintenance_rows(unit: Unit, mode: str | None, at_ms: int) -> Iterator[list[str]]:
    asset_type = MACHINES[unit.group.asset_type].asset_type
    for failure_mode in asset_type.failure_modes:
        if mode in (None, failure_mode.code):
            for need in failure_mode.parts:
                yield [unit.asset, iso(at_ms), "repair", need.part_no]


def _write_truth(folder: Path, truths: Sequence[_Truth]) -> None:
    files = {
        "failures": ["asset_id", "failed_at", "failure_mode"],
        "faults": ["asset_id", "started_at", "ended_at", "failure_mode"],
        "remaining_life": ["asset_id", "as_of", "rul_hours"],
        "maintenance": ["asset_id", "at", "kind", "part_no"],
    }
    for name, header in files.items():
        _write_csv(folder / f"{name}.csv", header, (row for truth in truths for row in getattr(truth, name)))


def _write_csv(path: Path, header: list[str], rows: Iterable[list[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _dataset_toml(scenario: Scenario, units: Sequence[Unit]) -> str:
    asset_type = MACHINES[units[0].group.asset_type].asset_type
    about = f"{scenario.about or scenario.name}; simulated, scenario {scenario.name}, seed {units[0].seed}"
    lines = [
        f"name = {_quoted(scenario.name)}",
        f"about = {_quoted(about)}",
        'licence = "simulated by forewarn; free to use"',
        f"asset_type = {_quoted(asset_type.asset_type)}",
    ]
    for signal in asset_type.signals:
        lines += ["", "[[signals]]", f"name = {_quoted(signal.name)}", f"unit = {_quoted(signal.unit)}"]
        lines.append(f"role = {_quoted(signal.role)}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """A TOML basic string; JSON's escapes are among TOML's."""
    return json.dumps(text, ensure_ascii=False)


def _signal_names(unit: Unit) -> tuple[str, ...]:
    return MACHINES[unit.group.asset_type].asset_type.signal_names


def iso(t_ms: int) -> str:
    """An instant in ISO 8601, to the millisecond only where it is not a whole second."""
    unit: Literal["s", "ms"] = "ms" if t_ms % 1000 else "s"
    return f"{np.datetime_as_string(np.datetime64(t_ms, 'ms'), unit=unit)}Z"

"""Replay of recorded telemetry: a CSV file or a dataset folder, for trials and for bringing in history.

Columns: `asset_id` (unless the file holds one asset), `observed_at` (ISO 8601 with a time zone), one per signal; an
empty field is a missing reading. Rows are played in the order of time, each when its time has come: history at once,
the future as it happens. `align` moves all times: "first" puts the first sample at the moment the replay began, "last"
puts the last one there. The cloud refuses what is older than 30 days.

The whole file is held in memory. How far the replay has come is committed with the records, so that it goes on there.
"""

import asyncio
import csv
import gzip
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Final, Literal

import numpy as np
from numpy.typing import NDArray

from forewarn_edge_agent.clock import Clock
from forewarn_edge_agent.log import event
from forewarn_edge_agent.machine_message import Declared, telemetry, to_float32
from forewarn_edge_agent.sources import Deliveries, Delivery, Position, Refusal
from forewarn_models import wire

log = logging.getLogger(__name__)

ROWS_AT_ONCE: Final = 500
_WAIT_SECONDS: Final = 0.2


class RecordingError(Exception):
    """The file cannot be replayed; the message names the place and the fix."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Recording:
    """Rows in the order of time: `t_ms` (n,), `asset` (n,) indices into `assets`, `values` float32 (n, signals)."""

    assets: tuple[str, ...]
    signals: tuple[str, ...]
    t_ms: NDArray[np.int64]
    asset: NDArray[np.int32]
    values: NDArray[np.float32]


class ReplaySource:
    """`start` is where the last run came to, if there was one; a replay that never ran starts at its first row."""

    def __init__(
        self,
        path: Path,
        asset: str | None,
        align: Literal["none", "first", "last"],
        assets: Mapping[str, Declared],
        clock: Clock,
        start: Position | None,
    ) -> None:
        self._path = path
        self._asset = asset
        self._align = align
        self._assets = assets
        self._clock = clock
        self._start = start

    async def run(self, deliveries: Deliveries) -> None:
        recording = await asyncio.to_thread(read_recording, self._path, self._asset)
        start = self._start or Position(source=str(self._path), row=0, shift_ms=self._shift_ms(recording))
        total, row = len(recording.t_ms), start.row
        t_ms = recording.t_ms + start.shift_ms
        event(log, logging.INFO, "replay", path=self._path, rows=total, next_row=row)
        while row < total:
            due = int(np.searchsorted(t_ms, self._clock.now_ms(), side="right"))
            end = min(due, row + ROWS_AT_ONCE)
            if end <= row:
                await asyncio.sleep(min(_WAIT_SECONDS, self._clock.wall_seconds_until(int(t_ms[row]))))
                continue
            await deliveries.put(self._delivery(recording, t_ms, row, end, start.shift_ms))
            row = end
        event(log, logging.INFO, "replay_ended", path=self._path, rows=total)

    def _shift_ms(self, recording: Recording) -> int:
        if self._align == "none":
            return 0
        return self._clock.now_ms() - int(recording.t_ms[0 if self._align == "first" else -1])

    def _delivery(self, recording: Recording, t_ms: NDArray[np.int64], row: int, end: int, shift_ms: int) -> Delivery:
        records: list[wire.Telemetry] = []
        refusals: list[Refusal] = []
        oldest_ms = self._clock.now_ms() - wire.MAX_AGE_MS
        for k in np.unique(recording.asset[row:end]):
            name = recording.assets[k]
            rows = row + np.flatnonzero(recording.asset[row:end] == k)
            if name not in self._assets:
                detail = f"asset {name!r} is not declared in the configuration"
                refusals.append(Refusal(kind="unknown_asset", detail=f"{len(rows)} rows: {detail}"))
                continue
            in_time = rows[t_ms[rows] >= oldest_ms]
            if len(in_time) < len(rows):
                detail = f'{len(rows) - len(in_time)} rows are more than 30 days old; align = "last" moves them'
                refusals.append(Refusal(kind="time", detail=detail))
            if len(in_time):
                signals = {signal: recording.values[in_time, j] for j, signal in enumerate(recording.signals)}
                records += telemetry(name, self._assets[name], t_ms[in_time], signals)
        position = Position(source=str(self._path), row=end, shift_ms=shift_ms)
        return Delivery(records=tuple(records), refusals=tuple(refusals), position=position)


def read_recording(path: Path, asset: str | None = None) -> Recording:
    """Read a CSV file (also .gz), or the `telemetry.csv` or `telemetry.csv.gz` of a dataset folder.

    Raises:
        RecordingError: a column or a field cannot be read; the message names the line.
    """
    file = _telemetry_file(path) if path.is_dir() else path
    with _open(file) as text:
        rows = csv.reader(text)
        header = next(rows, None)
        if header is None:
            raise RecordingError(f"{file}: empty")
        signals = tuple(name for name in header if name not in ("asset_id", "observed_at"))
        return _sorted(file, signals, list(_rows(file, header, rows, asset)))


_Row = tuple[int, str, list[float]]


def _rows(file: Path, header: list[str], rows: Iterator[list[str]], asset: str | None) -> Iterator[_Row]:
    if "observed_at" not in header:
        raise RecordingError(f"{file}: the column observed_at is missing")
    if "asset_id" not in header and asset is None:
        raise RecordingError(f"{file}: the column asset_id is missing; name the asset of the file in the configuration")
    time_column = header.index("observed_at")
    asset_column = header.index("asset_id") if "asset_id" in header else None
    columns = [i for i in range(len(header)) if i not in (time_column, asset_column)]
    for line, fields in enumerate(rows, start=2):
        if len(fields) != len(header):
            raise RecordingError(f"{file}:{line}: {len(fields)} fields, the header has {len(header)}")
        name = asset if asset_column is None else fields[asset_column]
        try:
            yield _epoch_ms(fields[time_column]), str(name), [float(fields[i] or "nan") for i in columns]
        except ValueError as error:
            raise RecordingError(f"{file}:{line}: {error}") from None


def _epoch_ms(text: str) -> int:
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is None:
        raise ValueError(f"observed_at: {text!r} has no time zone; write 2026-01-01T00:00:00Z")
    return round(instant.timestamp() * 1000)


def _sorted(file: Path, signals: tuple[str, ...], rows: list[_Row]) -> Recording:
    if not rows:
        raise RecordingError(f"{file}: no rows")
    t_ms = np.array([row[0] for row in rows], dtype=np.int64)
    order = np.argsort(t_ms, kind="stable")
    assets = tuple(dict.fromkeys(row[1] for row in rows))
    index = {name: i for i, name in enumerate(assets)}
    values = np.array([row[2] for row in rows], dtype=np.float64).reshape(len(rows), len(signals))
    return Recording(
        assets=assets,
        signals=signals,
        t_ms=t_ms[order],
        asset=np.array([index[row[1]] for row in rows], dtype=np.int32)[order],
        values=to_float32(values)[order],
    )


def _telemetry_file(folder: Path) -> Path:
    for name in ("telemetry.csv", "telemetry.csv.gz"):
        if (folder / name).is_file():
            return folder / name
    raise RecordingError(f"{folder}: has no telemetry.csv or telemetry.csv.gz (the agent cannot read Parquet)")


def _open(file: Path) -> IO[str]:
    if file.suffix == ".gz":
        return gzip.open(file, "rt", encoding="utf-8", newline="")
    return file.open(encoding="utf-8", newline="")

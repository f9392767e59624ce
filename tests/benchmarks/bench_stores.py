"""The telemetry stores beside each other: bytes a value on disk, reading, drawing a year, writing, compaction.

Everything runs on this machine, with the adapters of the program: SQLite as `forewarn-cloud up` uses it, a real
VictoriaMetrics (Debian package) where it is installed, and a plain SQLite table with a row for each value. Times are
medians of five runs. The last line of the output is one JSON object.
"""

import argparse
import csv
import gzip
import io
import json
import os
import shutil
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from pathlib import Path

import httpx
import numpy as np
from msgspec import structs
from numpy.typing import NDArray
from sqlalchemy import Engine, func, select

from forewarn_cloud.adapters.influxdb import InfluxSamples, StoreUrl, open_influx_samples
from forewarn_cloud.adapters.sql.engine import make_engine, reading, writing
from forewarn_cloud.adapters.sql.migrating import migrate
from forewarn_cloud.adapters.sql.schema import telemetry_blocks
from forewarn_cloud.adapters.telemetry_compaction import ROWS_WORTH_A_STEP, SqlCompaction
from forewarn_cloud.adapters.telemetry_sql import SqlTelemetry
from forewarn_cloud.series import DAY_MS, HOUR_MS, MINUTE_MS
from forewarn_cloud.telemetry import TelemetryRecord, TelemetrySeries

RUNS = 5
ROWS = ("disk", "day", "year", "write", "compaction")
TENANT = "local"
NOW_MS = time.time_ns() // 1_000_000 // MINUTE_MS * MINUTE_MS
_seqs = count(1)

Columns = dict[str, NDArray[np.float32]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="the folder with cmapss-fd001-train")
    parser.add_argument("--assets", type=int, default=1000, help="of day and compaction (default %(default)s)")
    parser.add_argument("--only", choices=ROWS, action="append")
    options = parser.parse_args()
    only = options.only or ROWS
    result: dict[str, object] = {"cpus": os.cpu_count(), "load": round(os.getloadavg()[0], 1), "runs": RUNS}
    if "disk" in only:
        result["bytes_per_value_fd001"] = told("disk", disk(options.data / "cmapss-fd001-train"))
    if "day" in only:
        result["day_of_one_signal"] = told("day", day(options.assets))
    if "year" in only:
        result["year_of_one_signal"] = told("year", year())
    if "write" in only:
        result["values_written_per_s"] = told("write", write())
    if "compaction" in only:
        result["records_compacted_per_cpu_s"] = told("compaction", compaction(options.assets))
    print(json.dumps(result))


def told(name: str, figures: dict[str, object]) -> dict[str, object]:
    print(f"{name}: {figures}", file=sys.stderr)
    return figures


# --- the stores -------------------------------------------------------------------------------------------------------


@contextmanager
def sqlite_store() -> Iterator[Engine]:
    with tempfile.TemporaryDirectory() as folder:
        engine = make_engine(f"sqlite:///{folder}/cloud.db")
        migrate(engine)
        yield engine
        engine.dispose()


@dataclass(frozen=True, kw_only=True)
class Metrics:
    folder: Path
    samples: InfluxSamples
    url: str

    def call(self, path: str) -> None:
        httpx.get(f"{self.url}{path}", timeout=60.0).raise_for_status()


@contextmanager
def victoria_metrics() -> Iterator[Metrics | None]:
    program = shutil.which("victoria-metrics")
    if program is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as name, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        options = [f"-storageDataPath={name}", f"-httpListenAddr=127.0.0.1:{port}", "-retentionPeriod=100y"]
        process = subprocess.Popen([program, *options, "-loggerLevel=ERROR"], stderr=subprocess.DEVNULL)
        try:
            samples = open_influx_samples(StoreUrl.parse(f"victoriametrics://127.0.0.1:{port}"), None)
            await_answer(samples)
            yield Metrics(folder=Path(name), samples=samples, url=f"http://127.0.0.1:{port}")
        finally:
            process.terminate()
            process.wait(60)


def await_answer(samples: InfluxSamples) -> None:
    for _ in range(100):
        try:
            samples.started_at()
        except Exception:  # noqa: BLE001 - not yet
            time.sleep(0.1)
        else:
            return
    sys.exit("victoria-metrics does not answer")


def record(asset: str, t_ms: NDArray[np.int64], signals: Columns) -> TelemetryRecord:
    seq = next(_seqs)
    return TelemetryRecord(
        tenant=TENANT,
        node="node-1",
        epoch="bench",
        seq=seq,
        digest=seq.to_bytes(16, "big"),
        asset=asset,
        t_ms=t_ms,
        signals=signals,
    )


def cut(asset: str, t_ms: NDArray[np.int64], signals: Columns, samples: int) -> list[TelemetryRecord]:
    """In records of so many samples."""
    return [
        record(asset, t_ms[i : i + samples], {name: column[i : i + samples] for name, column in signals.items()})
        for i in range(0, len(t_ms), samples)
    ]


def append(engine: Engine, records: Sequence[TelemetryRecord], *, batch: int = 2000) -> None:
    for start in range(0, len(records), batch):
        with writing(engine) as connection:
            SqlTelemetry(connection).append(records[start : start + batch])


def compact(engine: Engine, *, rows_worth_a_step: int = 1) -> list[float]:
    """How long each step took."""
    compaction, taken = SqlCompaction(engine=engine, rows_worth_a_step=rows_worth_a_step, look_seconds=0), list[float]()
    while True:
        began = time.perf_counter()
        has_more = compaction.step(NOW_MS)
        taken.append(time.perf_counter() - began)
        if not has_more:
            return taken


def read(engine: Engine, asset: str, from_ms: int, to_ms: int, points: int, signal: str) -> TelemetrySeries:
    with reading(engine) as connection:
        return SqlTelemetry(connection).read(
            tenant=TENANT, asset=asset, signals=[signal], from_ms=from_ms, to_ms=to_ms, max_points=points
        )


def median_ms(work: Callable[[], object], runs: int = RUNS) -> float:
    taken = list[float]()
    for _ in range(runs):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return round(1000 * statistics.median(taken), 2)


# --- bytes a value ----------------------------------------------------------------------------------------------------


def disk(folder: Path) -> dict[str, object]:
    """FD001 as telemetry: a record for each cycle, compacted; every byte of the telemetry tables and their indexes."""
    if not folder.is_dir():
        return {"skipped": "the FD001 histories are not there"}
    machines = histories(folder / "telemetry.csv.gz")
    values = sum(len(t_ms) * len(signals) for t_ms, signals in machines.values())
    records = [one for asset, (t_ms, signals) in machines.items() for one in cut(asset, t_ms, signals, 1)]
    found: dict[str, object] = {"values": values}
    with sqlite_store() as engine:
        append(engine, records)
        found["forewarn_before_compaction"] = round(telemetry_bytes(engine) / values, 2)
        compact(engine)
        found["forewarn"] = round(telemetry_bytes(engine) / values, 2)
        found["forewarn_digests"] = round(telemetry_bytes(engine, "%telemetry_digests%") / values, 2)
    with victoria_metrics() as metrics:
        if metrics is not None:
            metrics.samples.write(records)
            metrics.call("/internal/force_flush")
            metrics.call("/internal/force_merge")
            time.sleep(12)  # it writes to its disk within 5 s and merges in the background
            found["victoriametrics"] = round(folder_bytes(metrics.folder) / values, 2)
    found["sqlite_rows"] = round(plain_rows_bytes(machines) / values, 2)
    return found


def histories(file: Path) -> dict[str, tuple[NDArray[np.int64], Columns]]:
    found = dict[str, list[list[str]]]()
    with gzip.open(file) as packed:
        lines = csv.reader(io.TextIOWrapper(packed))
        header = next(lines)
        for line in lines:
            found.setdefault(line[0], []).append(line)
    return {
        asset: (
            np.array([round(datetime.fromisoformat(line[1]).timestamp() * 1000) for line in lines], dtype=np.int64),
            {
                name: np.array([line[place] for line in lines], dtype=np.float64).astype(np.float32)
                for place, name in enumerate(header)
                if place > 1
            },
        )
        for asset, lines in found.items()
    }


def telemetry_bytes(engine: Engine, like: str = "%telemetry\\_%") -> int:
    """Of whole pages after VACUUM, tables and indexes."""
    with closing(sqlite3.connect(str(engine.url.database))) as connection:
        connection.execute("VACUUM")
        query = "SELECT sum(pgsize) FROM dbstat WHERE name LIKE ? ESCAPE '\\'"
        return int(connection.execute(query, (like,)).fetchone()[0])


def folder_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def plain_rows_bytes(machines: dict[str, tuple[NDArray[np.int64], Columns]]) -> int:
    with tempfile.TemporaryDirectory() as folder, closing(sqlite3.connect(f"{folder}/rows.db")) as connection:
        connection.execute(
            "CREATE TABLE rows (series INTEGER, t INTEGER, value REAL, PRIMARY KEY (series, t)) WITHOUT ROWID"
        )
        series = count(1)
        for t_ms, signals in machines.values():
            for column in signals.values():
                of = next(series)
                rows = zip([of] * len(t_ms), t_ms.tolist(), column.tolist(), strict=True)
                connection.executemany("INSERT INTO rows VALUES (?, ?, ?)", rows)
        connection.commit()
        connection.execute("VACUUM")
        return Path(folder, "rows.db").stat().st_size


# --- the last day of one signal ---------------------------------------------------------------------------------------


def day(assets: int) -> dict[str, object]:
    """Assets measured by the minute, 4 signals, sent sample by sample; the last 50 minutes are not yet compacted."""
    t_ms = NOW_MS + np.arange(-1439, 1, dtype=np.int64) * MINUTE_MS
    with sqlite_store() as engine, victoria_metrics() as metrics:
        rng = np.random.default_rng(1)
        for number in range(assets):
            signals = noisy(rng, 4, len(t_ms))
            asset = f"asset-{number}"
            old = {name: column[:-50] for name, column in signals.items()}
            append(engine, cut(asset, t_ms[:-50], old, 60))
            if number % 50 == 49 or number == assets - 1:
                compact(engine)
            if metrics is not None:
                metrics.samples.write([record(asset, t_ms, signals)])
        for number in range(assets):
            signals = noisy(rng, 4, 50)
            append(engine, cut(f"asset-{number}", t_ms[-50:], signals, 1))
        picked = [f"asset-{n}" for n in rng.integers(0, assets, 50)]
        begin, end = NOW_MS - DAY_MS + 1, NOW_MS
        assert read(engine, picked[0], begin, end, 2000, "signal_1").samples == 1440

        def of_one() -> None:
            for asset in picked:
                read(engine, asset, begin, end, 2000, "signal_1")

        def of_all() -> None:
            for number in range(assets):
                read(engine, f"asset-{number}", begin, end, 2000, "signal_1")

        found: dict[str, object] = {
            "assets": assets,
            "one_asset_ms": round(median_ms(of_one) / len(picked), 2),
            "all_assets_ms": median_ms(of_all),
        }
        if metrics is not None:
            metrics.call("/internal/force_flush")
            samples = metrics.samples

            def elsewhere() -> None:
                for asset in picked:
                    samples.read(
                        tenant=TENANT, asset=asset, signals=["signal_1"], from_ms=begin, to_ms=end, max_points=2000
                    )

            found["victoriametrics_one_asset_ms"] = round(median_ms(elsewhere) / len(picked), 2)
        return found


def noisy(rng: np.random.Generator, signals: int, samples: int) -> Columns:
    """Walks with noise, to two decimals, as many instruments give them."""
    walk = np.cumsum(rng.normal(0, 0.02, (signals, samples)), axis=1) + 50
    return {
        f"signal_{k}": column
        for k, column in enumerate(np.round(walk + rng.normal(0, 0.05, walk.shape), 2).astype(np.float32))
    }


# --- a year of one signal ---------------------------------------------------------------------------------------------


def year() -> dict[str, object]:
    """One asset by the minute for 365 days, 8 signals."""
    samples = 365 * 24 * 60
    t_ms = NOW_MS + np.arange(1 - samples, 1, dtype=np.int64) * MINUTE_MS
    signals = noisy(np.random.default_rng(2), 8, samples)
    with sqlite_store() as engine:
        steps = list[float]()
        for one in cut("asset-1", t_ms, signals, 4096):
            append(engine, [one])
            steps += compact(engine)
        first = int(t_ms[0])
        assert read(engine, "asset-1", first, NOW_MS, 1000, "signal_1").samples == samples
        return {
            "samples": samples,
            "draw_1000_points_ms": median_ms(lambda: read(engine, "asset-1", first, NOW_MS, 1000, "signal_1")),
            "draw_10000_points_ms": median_ms(lambda: read(engine, "asset-1", first, NOW_MS, 10_000, "signal_1")),
            "every_sample_ms": median_ms(lambda: read(engine, "asset-1", first, NOW_MS, samples, "signal_1")),
            "bytes_per_value": round(telemetry_bytes(engine) / samples / len(signals), 2),
            "compaction_values_per_s": round(samples * len(signals) / sum(steps)),
        }


# --- writing ----------------------------------------------------------------------------------------------------------


def write() -> dict[str, object]:
    """400 blocks of 100 samples x 8 signals, 100 to a batch: rows in a durable transaction, or lines in requests."""
    rng, found = np.random.default_rng(3), dict[str, object]()
    blocks, values = 400, 400 * 100 * 8

    def records() -> list[TelemetryRecord]:
        return [
            record(f"asset-{n % 8}", NOW_MS - HOUR_MS + 100 * n + np.arange(100, dtype=np.int64), noisy(rng, 8, 100))
            for n in range(blocks)
        ]

    with sqlite_store() as engine:
        runs = iter([records() for _ in range(RUNS)])
        found["column_rows"] = round(1000 * values / median_ms(lambda: append(engine, next(runs), batch=100)))
    with victoria_metrics() as metrics:
        if metrics is not None:
            runs, samples = iter([records() for _ in range(RUNS)]), metrics.samples

            def lines() -> None:
                mine = next(runs)
                for start in range(0, blocks, 100):
                    samples.write(mine[start : start + 100])

            found["lines_to_victoriametrics"] = round(1000 * values / median_ms(lines))
    return found


# --- compaction -------------------------------------------------------------------------------------------------------


def compaction(assets: int) -> dict[str, object]:
    """As the worker does it, in seconds of processor time; every asset has a node of its own."""
    return {
        "assets": assets,
        "one_sample_many_assets": compacted_per_cpu_s(assets, records=ROWS_WORTH_A_STEP, samples=1),
        "one_sample_four_assets": compacted_per_cpu_s(4, records=5000, samples=1),
        "hundred_samples_four_assets": compacted_per_cpu_s(4, records=500, samples=100),
    }


def compacted_per_cpu_s(assets: int, *, records: int, samples: int) -> int:
    """Twice so many records of 8 signals, a second apart, from the assets by turns; compacted after each time."""
    rng, taken_s = np.random.default_rng(4), 0.0
    with sqlite_store() as engine:
        for half in range(2):
            each = [
                seconds(f"asset-{n}", noisy(rng, 8, records * samples), samples=samples, first_seq=1 + half * records)
                for n in range(assets)
            ]
            append(engine, [one for by_turns in zip(*each, strict=True) for one in by_turns])
            began, worker = time.process_time(), SqlCompaction(engine=engine, look_seconds=0)
            while worker.step(NOW_MS):
                pass
            taken_s += time.process_time() - began
        with reading(engine) as connection:
            left = connection.execute(select(func.count()).select_from(telemetry_blocks)).scalar_one()
    return round((2 * records * assets - left) / taken_s)


def seconds(asset: str, signals: Columns, *, samples: int, first_seq: int) -> list[TelemetryRecord]:
    """Records of a second each, from this sequence number on."""
    t_ms = NOW_MS - HOUR_MS + 1000 * first_seq + np.arange(len(signals["signal_0"]), dtype=np.int64) * 1000 // samples
    records = cut(asset, t_ms, signals, samples)
    return [structs.replace(one, node=asset, seq=seq) for seq, one in enumerate(records, first_seq)]


if __name__ == "__main__":
    main()

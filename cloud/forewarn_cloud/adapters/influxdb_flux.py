"""Reading samples from InfluxDB 2 in Flux."""

import csv
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from influxdb_client.client.query_api import QueryApi
from influxdb_client.domain.dialect import Dialect

from forewarn_cloud.adapters.influxdb_lines import MEASUREMENT
from forewarn_cloud.series import NO_BUCKETS, Buckets, Columns, Summary, merge

_AGGREGATES: Final = ("count", "min", "max", "mean")
_ESCAPES: Final = str.maketrans({"\\": "\\\\", '"': '\\"', "$": "\\$", "\n": "\\n"})


@dataclass(frozen=True, kw_only=True)
class FluxReader:
    """`SampleReader` over /api/v2/query."""

    query: QueryApi
    bucket: str

    def samples(self, *, tenant: str, asset: str, signals: Collection[str] | None, from_ms: int, to_ms: int) -> Columns:
        return columns_of(self._ask(flux_of_samples(self.bucket, tenant, asset, signals, from_ms, to_ms)))

    def buckets(
        self, *, tenant: str, asset: str, signals: Collection[str] | None, from_ms: int, to_ms: int, width: int
    ) -> Buckets:
        return buckets_of(self._ask(flux_of_buckets(self.bucket, tenant, asset, signals, from_ms, to_ms, width)))

    def _ask(self, flux: str) -> str:
        dialect: Any = Dialect  # untyped
        answer: Any = self.query.query_raw(flux, dialect=dialect(header=True, annotations=[], delimiter=","))
        text: str = answer.data.decode()
        return text


def flux_of_samples(
    bucket: str, tenant: str, asset: str, signals: Collection[str] | None, from_ms: int, to_ms: int
) -> str:
    """The end of a range in Flux does not belong to it."""
    return (
        f"from(bucket: {_text(bucket)})\n"
        f"  |> range(start: {_time(from_ms)}, stop: {_time(to_ms + 1)})\n"
        f"  |> filter(fn: (r) => {_of_asset(tenant, asset, signals)})\n"
        '  |> keep(columns: ["_time", "_field", "_value"])'
    )


def flux_of_buckets(
    bucket: str, tenant: str, asset: str, signals: Collection[str] | None, from_ms: int, to_ms: int, width: int
) -> str:
    """Over whole buckets; windows are aligned to 1970, as ours."""
    samples = (
        f"samples = from(bucket: {_text(bucket)})\n"
        f"  |> range(start: {_time(from_ms // width * width)}, stop: {_time(to_ms // width * width + width)})\n"
        f"  |> filter(fn: (r) => {_of_asset(tenant, asset, signals)})\n"
    )
    tables = ",\n".join(
        f'  samples |> aggregateWindow(every: {width}ms, fn: {name}, createEmpty: false, timeSrc: "_start")'
        f' |> toFloat() |> set(key: "aggregate", value: "{name}")'
        for name in _AGGREGATES
    )
    kept = '["_time", "_field", "_value", "aggregate"]'
    return f"{samples}union(tables: [\n{tables},\n]) |> keep(columns: {kept})"


def _of_asset(tenant: str, asset: str, signals: Collection[str] | None) -> str:
    of_asset = f'r._measurement == "{MEASUREMENT}" and r.tenant == {_text(tenant)} and r.asset == {_text(asset)}'
    if signals is None:
        return of_asset
    wanted = " or ".join(f"r._field == {_text(name)}" for name in sorted(signals)) or "false"
    return f"{of_asset} and ({wanted})"


def _text(value: str) -> str:
    return f'"{value.translate(_ESCAPES)}"'


def _time(t_ms: int) -> str:
    return f"time(v: {t_ms * 1_000_000})"


def columns_of(answer: str) -> Columns:
    """Of an answer in CSV: tables with a header each, which may differ, and blank lines between."""
    found = dict[str, tuple[list[str], list[str]]]()
    for row in _rows(answer):
        times, values = found.setdefault(row["_field"], ([], []))
        times.append(row["_time"])
        values.append(row["_value"])
    blocks: list[Columns] = [
        (_instants(times), {name: np.array(values, dtype=np.float64).astype(np.float32)})
        for name, (times, values) in found.items()
    ]
    return merge(blocks)


def buckets_of(answer: str) -> Buckets:
    rows = list(_rows(answer))
    if not rows:
        return NO_BUCKETS
    starts, places = np.unique(_instants([row["_time"] for row in rows]), return_inverse=True)
    found = dict[str, dict[str, np.ndarray[Any, np.dtype[np.float64]]]]()
    for row, place in zip(rows, places.tolist(), strict=True):
        aggregates = found.setdefault(row["_field"], {name: np.full(len(starts), np.nan) for name in _AGGREGATES})
        aggregates[row["aggregate"]][place] = float(row["_value"])
    return starts, {name: _summary(aggregates) for name, aggregates in sorted(found.items())}


def _summary(aggregates: dict[str, np.ndarray[Any, np.dtype[np.float64]]]) -> Summary:
    count, low, high, mean = (aggregates[name] for name in _AGGREGATES)
    return Summary(count=np.nan_to_num(count), low=low.astype(np.float32), high=high.astype(np.float32), mean=mean)


def _rows(answer: str) -> Iterator[dict[str, str]]:
    header = list[str]()
    for row in csv.reader(answer.splitlines()):
        if not any(row) or row[0].startswith("#"):
            header = [] if not any(row) else header
        elif not header:
            header = row
        else:
            yield dict(zip(header, row, strict=True))


def _instants(times: list[str]) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array([time.removesuffix("Z") for time in times], dtype="datetime64[ms]").astype(np.int64)

"""Reading samples from VictoriaMetrics: raw ones by its export, buckets by its query API.

Line protocol became series there: the field `flow` of the measurement `telemetry` is the series `telemetry_flow`.
"""

import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
from urllib3 import PoolManager

from forewarn_cloud.adapters.influxdb_lines import MEASUREMENT
from forewarn_cloud.errors import Unavailable
from forewarn_cloud.series import NO_BUCKETS, Buckets, Columns, Summary, merge

_PREFIX: Final = f"{MEASUREMENT}_"
_ROLLUPS: Final = ("count_over_time", "min_over_time", "max_over_time", "avg_over_time")


@dataclass(frozen=True, kw_only=True)
class ExportReader:
    """`SampleReader` over /api/v1/export and /api/v1/query_range."""

    pool: PoolManager
    url: str
    token: str | None = None

    def samples(self, *, tenant: str, asset: str, signals: Collection[str] | None, from_ms: int, to_ms: int) -> Columns:
        query = {"match[]": _selector(tenant, asset, signals), "start": _seconds(from_ms), "end": _seconds(to_ms)}
        return merge(list(_columns(self._ask("/api/v1/export", query).splitlines())))

    def buckets(
        self, *, tenant: str, asset: str, signals: Collection[str] | None, from_ms: int, to_ms: int, width: int
    ) -> Buckets:
        """A window of the query language ends with its time and does not include its start: asked at the last
        millisecond of each bucket, it is the bucket."""
        rollups = ",".join(json.dumps(name) for name in _ROLLUPS)
        query = f"aggr_over_time(({rollups}), {_selector(tenant, asset, signals)}[{width}ms]) keep_metric_names"
        until = from_ms // width * width + width - 1
        last = to_ms // width * width + width - 1
        asked = {"query": query, "start": _seconds(until), "end": _seconds(last), "step": f"{width}ms", "nocache": "1"}
        answer = msgspec.json.decode(self._ask("/api/v1/query_range", asked))
        return _buckets(answer["data"]["result"], width)

    def _ask(self, path: str, query: dict[str, str]) -> bytes:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        answer = self.pool.request("GET", f"{self.url}{path}", fields=query, headers=headers, timeout=10.0)
        if answer.status != 200:
            told = " ".join(answer.data.decode(errors="replace").split())[:300]
            raise Unavailable(f"the telemetry store answers {answer.status}: {told}")
        return answer.data


def _selector(tenant: str, asset: str, signals: Collection[str] | None) -> str:
    names = f"{_PREFIX}.+" if signals is None else f"{_PREFIX}({'|'.join(sorted(signals))})"
    return f"{{__name__=~{json.dumps(names)},tenant={json.dumps(tenant)},asset={json.dumps(asset)}}}"


def _columns(exported: Iterable[bytes]) -> Iterator[Columns]:
    for line in exported:
        one = msgspec.json.decode(line)
        values = np.array([np.nan if value is None else value for value in one["values"]], dtype=np.float64)
        t_ms = np.array(one["timestamps"], dtype=np.int64)
        yield t_ms, {one["metric"]["__name__"].removeprefix(_PREFIX): values.astype(np.float32)}


def _buckets(result: list[dict[str, Any]], width: int) -> Buckets:
    every = sorted({round(1000 * at) for one in result for at, _ in one["values"]})
    if not every:
        return NO_BUCKETS
    ends = np.array(every, dtype=np.int64)
    found = dict[str, dict[str, np.ndarray[Any, np.dtype[np.float64]]]]()
    for one in result:
        column = np.full(len(ends), np.nan)
        at = np.array([round(1000 * at) for at, _ in one["values"]], dtype=np.int64)
        column[np.searchsorted(ends, at)] = [float(value) for _, value in one["values"]]
        name = one["metric"]["__name__"].removeprefix(_PREFIX)
        found.setdefault(name, {})[one["metric"]["rollup"]] = column
    return ends + 1 - width, {name: _summary(rollups) for name, rollups in sorted(found.items())}


def _summary(rollups: dict[str, np.ndarray[Any, np.dtype[np.float64]]]) -> Summary:
    count, low, high, mean = (rollups[name] for name in _ROLLUPS)
    return Summary(count=np.nan_to_num(count), low=low.astype(np.float32), high=high.astype(np.float32), mean=mean)


def _seconds(t_ms: int) -> str:
    return f"{t_ms // 1000}.{t_ms % 1000:03}"

"""The charts of a page: what was measured, what was expected, what was said, and when it was noticed.

A chart is plain facts: the browser draws them, and a sentence and a short table say the same to whoever cannot see it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import tzinfo
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from forewarn_cloud.console.formatting import local, quantity
from forewarn_cloud.console.i18n import Words
from forewarn_cloud.console.knowledge import TypeWords
from forewarn_cloud.telemetry import TelemetrySeries
from forewarn_cloud.views import Health
from forewarn_models.asset_type import Signal

MAX_POINTS: Final = 2100
"""Two weeks of samples every ten minutes are drawn one by one."""
TABLE_ROWS: Final = 8
_GAP_FACTOR: Final = 5
_NEAR_MS: Final = 3_600_000
_NEAR_LIMIT: Final = 0.75

Numbers = list[float | None]


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line of a chart. `at` in epoch seconds, as the browser's chart wants them; None breaks the line.

    The area between `low` and `high` is shaded.
    """

    label: str
    style: Literal["observed", "expected", "health", "low", "high"]
    at: list[float]
    values: Numbers


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A moment worth a line."""

    at_ms: int
    label: str
    kind: Literal["evidence", "order", "closed"]


@dataclass(frozen=True, kw_only=True)
class Limit:
    value: float
    label: str
    level: Literal["alert", "alarm"]


@dataclass(frozen=True, kw_only=True)
class Chart:
    key: str
    title: str
    unit: str
    series: tuple[Series, ...]
    marks: tuple[Mark, ...]
    limits: tuple[Limit, ...]
    summary: str
    table: tuple[tuple[str, str], ...]
    bounds: tuple[float, float] | None
    from_ms: int
    to_ms: int
    zone: str

    def facts(self) -> dict[str, Any]:
        """What the browser draws."""
        return {
            "title": self.title,
            "unit": self.unit,
            "zone": self.zone,
            "from": self.from_ms / 1000,
            "to": self.to_ms / 1000,
            "bounds": self.bounds,
            "series": [{"label": s.label, "style": s.style, "at": s.at, "values": s.values} for s in self.series],
            "marks": [{"at": mark.at_ms / 1000, "label": mark.label, "kind": mark.kind} for mark in self.marks],
            "limits": [{"value": limit.value, "label": limit.label, "level": limit.level} for limit in self.limits],
        }


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What all charts of a page have in common."""

    from_ms: int
    to_ms: int
    zone: tzinfo
    marks: tuple[Mark, ...]
    words: Words

    def marks_inside(self) -> tuple[Mark, ...]:
        return tuple(mark for mark in self.marks if self.from_ms <= mark.at_ms <= self.to_ms)


def health_chart(history: Sequence[Health], frame: Frame) -> Chart | None:
    """The health index in percent as it was reported, oldest first; None if nothing was."""
    if not history:
        return None
    t_ms = np.array([health.observed_at for health in history], dtype=np.int64)
    values: Numbers = [round(100 * health.health_index, 2) for health in history]
    title = frame.words("chart.health")
    return _chart(
        "health",
        title,
        "%",
        (Series(label=title, style="health", at=_seconds(t_ms), values=values),),
        (),
        (0.0, 100.0),
        frame,
    )


def signal_charts(
    telemetry: TelemetrySeries, history: Sequence[Health], kind: TypeWords, names: Sequence[str], frame: Frame
) -> list[Chart]:
    """A chart for each of the named signals that was measured."""
    return [
        _signal_chart(telemetry, name, history, kind, frame)
        for name in names
        if name in telemetry.signals and np.isfinite(telemetry.signals[name]).any()
    ]


def _signal_chart(
    telemetry: TelemetrySeries, name: str, history: Sequence[Health], kind: TypeWords, frame: Frame
) -> Chart:
    t_ms, column = telemetry.t_ms, telemetry.signals[name]
    at, values = _broken_at_gaps(t_ms, column)
    label = frame.words("chart.mean" if telemetry.bucket_ms else "chart.observed")
    lines = [Series(label=label, style="observed", at=at, values=values), *_envelope(telemetry, name, frame.words)]
    expected = {} if telemetry.bucket_ms else _expected(t_ms, column, name, history)
    if expected:
        moments = np.array(list(expected), dtype=np.int64)
        label = frame.words("chart.expected")
        lines.append(Series(label=label, style="expected", at=_seconds(moments), values=list(expected.values())))
    signal = kind.signal(name)
    lowest, highest = telemetry.low.get(name, column), telemetry.high.get(name, column)
    limits = _limits(signal, frame.words, float(np.nanmin(lowest)), float(np.nanmax(highest))) if signal else ()
    return _chart(name, kind.signal_title(name), kind.unit(name), tuple(lines), limits, None, frame)


def _envelope(telemetry: TelemetrySeries, name: str, words: Words) -> list[Series]:
    """Where a point stands for many samples: the least and the greatest of them."""
    if not telemetry.bucket_ms:
        return []
    low_at, low = _broken_at_gaps(telemetry.t_ms, telemetry.low[name])
    high_at, high = _broken_at_gaps(telemetry.t_ms, telemetry.high[name])
    return [
        Series(label=words("chart.low"), style="low", at=low_at, values=low),
        Series(label=words("chart.high"), style="high", at=high_at, values=high),
    ]


def _chart(
    key: str,
    title: str,
    unit: str,
    series: tuple[Series, ...],
    limits: tuple[Limit, ...],
    bounds: tuple[float, float] | None,
    frame: Frame,
) -> Chart:
    first = series[0]
    extremes = [one for one in series if one.style in ("low", "high")] or [first]
    return Chart(
        key=key,
        title=title,
        unit=unit,
        series=series,
        marks=frame.marks_inside(),
        limits=limits,
        summary=_summary(first, extremes, unit, frame.words),
        table=_table(first, unit, frame.zone),
        bounds=bounds,
        from_ms=frame.from_ms,
        to_ms=frame.to_ms,
        zone=str(frame.zone),
    )


def _broken_at_gaps(t_ms: NDArray[np.int64], column: NDArray[np.float32]) -> tuple[list[float], Numbers]:
    """The line, broken where nothing was measured for much longer than usual: a gap is not the last value held."""
    steps = np.diff(t_ms)
    usual = float(np.median(steps)) if len(steps) else math.inf
    after = np.flatnonzero(steps > _GAP_FACTOR * usual)
    at = np.insert(t_ms, after + 1, t_ms[after] + 1)
    values = np.insert(column.astype(np.float64), after + 1, np.nan)
    return _seconds(at), [round(value, 5) if math.isfinite(value) else None for value in values.tolist()]


def _expected(
    t_ms: NDArray[np.int64], column: NDArray[np.float32], name: str, history: Sequence[Health]
) -> dict[int, float | None]:
    """What the model expected when it spoke: the reading then, less its residual."""
    expected: dict[int, float | None] = {}
    for health in history:
        residual = health.advisory.get("residuals", {}).get(name)
        near = int(np.abs(t_ms - health.observed_at).argmin())
        is_near = abs(int(t_ms[near]) - health.observed_at) <= _NEAR_MS
        if residual is not None and is_near and np.isfinite(column[near]):
            expected[health.observed_at] = round(float(column[near]) - residual, 5)
    return expected


def _limits(signal: Signal, words: Words, lowest: float, highest: float) -> tuple[Limit, ...]:
    """The absolute limits, upper and lower, that are near enough to be worth the space they take."""
    levels: tuple[Literal["alert", "alarm"], ...] = ("alert", "alarm")
    upper = zip(levels, (signal.limit_alert, signal.limit_alarm), strict=True)
    lower = zip(levels, (signal.limit_alert_low, signal.limit_alarm_low), strict=True)
    near = [(level, value) for level, value in upper if value is not None and highest > _NEAR_LIMIT * value]
    near += [(level, value) for level, value in lower if value is not None and _NEAR_LIMIT * lowest < value]
    return tuple(Limit(value=value, label=words(f"chart.limit_{level}"), level=level) for level, value in near)


def _summary(series: Series, extremes: Sequence[Series], unit: str, words: Words) -> str:
    latest = [value for value in series.values if value is not None][-1]
    known = [value for one in extremes for value in one.values if value is not None]
    low, high = quantity(min(known)), quantity(max(known))
    return words("chart.summary", latest=quantity(latest), low=low, high=high, unit=unit).strip()


def _table(series: Series, unit: str, zone: tzinfo) -> tuple[tuple[str, str], ...]:
    known = [(at, value) for at, value in zip(series.at, series.values, strict=True) if value is not None]
    picked = {round(i * (len(known) - 1) / max(TABLE_ROWS - 1, 1)) for i in range(min(TABLE_ROWS, len(known)))}
    rows = [known[i] for i in sorted(picked)]
    return tuple((local(round(at * 1000), zone), f"{quantity(value)} {unit}".strip()) for at, value in rows)


def _seconds(t_ms: NDArray[np.int64]) -> list[float]:
    seconds: list[float] = (t_ms / 1000).tolist()
    return seconds

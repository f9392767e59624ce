"""Advisory generation (ISO 13374): out of many assessments, the few that someone should know.

What makes things worse is told at once: a raised condition, an exceeded limit, a repair that reset the baseline. All
other news waits until some hours after the last advisory, so that one asset cannot flood anyone, however its numbers
swing. Without news an asset reports once per observed day.
"""

from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from forewarn_models.assessment import Assessment, Condition, Maturity, Quality
from forewarn_models.kernel import Model
from forewarn_models.layout import HOUR_MS, Bools, Floats, Ints
from forewarn_models.prognosis import remaining_life_quantiles
from forewarn_models.wire import Advisory

PERIOD_HOURS: Final = 24.0
SILENT: Final = "silent"
PAUSE_HOURS: Final = 3.0
"""Least time between advisories that make nothing worse."""
_HEALTH_STEP: Final = 0.1
_RUL_STEP: Final = 0.25
_RUL_LEAST_HOURS: Final = 6.0
_LIKELY: Final = 0.5
_LONGEST_STEP_MS: Final = 3_600_000
_SENSOR_FAULTS: Final = {
    Quality.SENTINEL: "sentinel",
    Quality.OUT_OF_RANGE: "out_of_range",
    Quality.STUCK: "stuck",
    Quality.LEAP: "leap",
}


class AdvisoryMemory(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What was last told of an asset, and when."""

    told_ms: int
    seen_ms: int
    """Last sample looked at."""
    observed_ms: int
    """Observed since something was told; a gap counts as one hour at most."""
    condition: int
    maturity: int
    health_index: float
    failure_mode: int
    """Index of the likely one, -1 for none."""
    rul_hours_p50: float
    """-1 for none."""
    limits: tuple[int, ...]
    doubtful: tuple[int, ...]
    """Columns of the signals above a limit, and of those whose sensor is stuck or leapt."""
    silent: bool = False
    """What was told last is that nothing is heard of it."""


def advise(
    model: Model, asset: str, asset_index: int, assessment: Assessment, memory: AdvisoryMemory | None
) -> tuple[list[Advisory], AdvisoryMemory]:
    """What to tell of one asset after a block, oldest first, and what has been told by then."""
    history = _History(assessment, asset_index)
    advisories: list[Advisory] = []
    if memory is None:
        memory = history.told(0, history.t_ms[0])
        advisories.append(_advisory(model, asset, asset_index, assessment, 0, "change"))
    start = 0
    while (found := history.first_news(start, memory)) is not None:
        i, reason = found
        advisories.append(_advisory(model, asset, asset_index, assessment, i, reason))
        memory = history.told(i, history.t_ms[i])
        start = i + 1
    return advisories, history.seen(start, memory)


def advise_silence(
    model: Model, asset: str, memory: AdvisoryMemory, *, at_ms: int, health_index: float
) -> tuple[Advisory, AdvisoryMemory]:
    """What to tell of an asset of which nothing new is heard: that its condition is UNKNOWN, and nothing else.

    It neither raises nor clears anything. When samples come again, `advise` tells so at once.
    """
    advisory = Advisory(
        asset=asset,
        asset_type=model.asset_type.asset_type,
        observed_at=at_ms,
        condition="UNKNOWN",
        health_index=health_index,
        anomaly_score=0.0,
        contributions={},
        failure_modes={},
        rul_hours=None,
        maturity=Maturity(memory.maturity).name,  # type: ignore[arg-type]
        model=model.ref,
        reason=SILENT,
    )
    return advisory, msgspec.structs.replace(memory, condition=int(Condition.UNKNOWN), silent=True)


class _History:
    """The assessment of one asset as columns of what can be news."""

    def __init__(self, assessment: Assessment, a: int) -> None:
        self.t_ms = assessment.t_ms[:, a]
        self.condition = assessment.condition[:, a]
        self.maturity = assessment.maturity[:, a]
        self.health_index = assessment.health_index[:, a]
        self.limits = assessment.limit_exceeded[:, a]
        quality = assessment.quality[:, a]
        self.doubtful = (quality == Quality.STUCK) | (quality == Quality.LEAP)
        self.rul_hours_p50 = np.nan_to_num(assessment.rul_hours[:, a, 1], nan=-1.0)
        self.failure_mode = _likely_mode(assessment.failure_mode_probability[:, a])
        self.speaks = (self.condition != Condition.UNKNOWN) | (self.maturity == Maturity.LEARNING)
        """A machine that stands still is no news."""

    def told(self, i: int, told_ms: int) -> AdvisoryMemory:
        return AdvisoryMemory(
            told_ms=int(told_ms),
            seen_ms=int(self.t_ms[i]),
            observed_ms=0,
            condition=int(self.condition[i]),
            maturity=int(self.maturity[i]),
            health_index=float(self.health_index[i]),
            failure_mode=int(self.failure_mode[i]),
            rul_hours_p50=float(self.rul_hours_p50[i]),
            limits=tuple(np.flatnonzero(self.limits[i]).tolist()),
            doubtful=tuple(np.flatnonzero(self.doubtful[i]).tolist()),
        )

    def seen(self, start: int, memory: AdvisoryMemory) -> AdvisoryMemory:
        """The memory after the rest of the block, of which nothing was told."""
        if start >= len(self.t_ms):
            return memory
        observed_ms = int(self._observed_ms(start, memory)[-1])
        return msgspec.structs.replace(memory, seen_ms=max(memory.seen_ms, int(self.t_ms[-1])), observed_ms=observed_ms)

    def first_news(self, start: int, memory: AdvisoryMemory) -> tuple[int, str] | None:
        """The first step from `start` on that has to be told, and why."""
        if start >= len(self.t_ms):
            return None
        speaks, t_ms = self.speaks[start:], self.t_ms[start:]
        reset = self.maturity[start:] < memory.maturity
        limit = (self.limits[start:] & ~_mask(self.limits, memory.limits)).any(axis=1)
        worse = (self.condition[start:] > memory.condition) & (self.condition[start:] > Condition.NORMAL)
        rested = t_ms - memory.told_ms >= PAUSE_HOURS * HOUR_MS
        sensor = rested & (self.doubtful[start:] != _mask(self.doubtful, memory.doubtful)).any(axis=1)
        change = rested & self._changed(start, memory)
        periodic = self._observed_ms(start, memory) >= PERIOD_HOURS * HOUR_MS
        back = np.full(len(t_ms), memory.silent)
        reasons = {"reset": reset, "limit": limit, "sensor": sensor, "change": worse | change, "periodic": periodic}
        news = back | (speaks & np.logical_or.reduce(list(reasons.values())))
        reasons["back"] = back
        i = int(np.argmax(news))
        if not news[i]:
            return None
        return start + i, next(reason for reason, holds in reasons.items() if holds[i])

    def _changed(self, start: int, memory: AdvisoryMemory) -> Bools:
        condition = self.condition[start:]
        changed: Bools = (condition != memory.condition) & (condition != Condition.UNKNOWN)
        changed |= self.maturity[start:] != memory.maturity
        changed |= np.abs(self.health_index[start:] - memory.health_index) >= _HEALTH_STEP
        changed |= (self.failure_mode[start:] != memory.failure_mode) & (condition >= Condition.ALERT)
        changed |= (self.limits[start:] != _mask(self.limits, memory.limits)).any(axis=1)
        return changed | self._moved(start, memory)

    def _moved(self, start: int, memory: AdvisoryMemory) -> Bools:
        """Where the remaining life is not what the last told one has become by now."""
        now = self.rul_hours_p50[start:]
        if memory.rul_hours_p50 < 0:
            return now >= 0
        expected = memory.rul_hours_p50 - (self.t_ms[start:] - memory.told_ms) / HOUR_MS
        moved: Bools = np.abs(now - expected) >= max(_RUL_STEP * memory.rul_hours_p50, _RUL_LEAST_HOURS)
        lost: Bools = self.condition[start:] >= Condition.ALERT
        return np.where(now >= 0, moved, lost)

    def _observed_ms(self, start: int, memory: AdvisoryMemory) -> Ints:
        before = np.concatenate([[memory.seen_ms], self.t_ms[start:-1]])
        step_ms = np.clip(self.t_ms[start:] - before, 0, _LONGEST_STEP_MS)
        observed_ms: Ints = memory.observed_ms + np.cumsum(np.where(self.speaks[start:], step_ms, 0))
        return observed_ms


def _mask(like: Bools, columns: tuple[int, ...]) -> Bools:
    mask = np.zeros(like.shape[1], dtype=np.bool_)
    mask[list(columns)] = True
    return mask


def _likely_mode(probability: Floats) -> NDArray[np.int64]:
    """(n,) the failure mode that is likelier than all others together, or -1."""
    if probability.shape[1] == 0:
        return np.full(len(probability), -1, dtype=np.int64)
    likely = np.argmax(probability, axis=1).astype(np.int64)
    return np.where(probability.max(axis=1) >= _LIKELY, likely, np.int64(-1))


def _advisory(model: Model, asset: str, a: int, assessment: Assessment, i: int, reason: str) -> Advisory:
    signals = model.asset_type.signals
    watched = [(column, signal.name) for column, signal in enumerate(signals) if signal.role == "condition"]
    contributions = {name: float(assessment.contribution[i, a, column]) for column, name in watched}
    probability = assessment.failure_mode_probability[i, a]
    codes = [mode.code for mode in model.asset_type.failure_modes]
    since = int(assessment.since_ms[i, a])
    expects = np.isfinite(assessment.expected[i, a])
    return Advisory(
        asset=asset,
        asset_type=model.asset_type.asset_type,
        observed_at=int(assessment.t_ms[i, a]),
        condition=Condition(int(assessment.condition[i, a])).name,  # type: ignore[arg-type]
        health_index=float(assessment.health_index[i, a]),
        anomaly_score=sum(contributions.values()),
        contributions=contributions,
        failure_modes=dict(zip(codes, probability.tolist(), strict=True)) if probability.any() else {},
        rul_hours=remaining_life_quantiles(assessment.rul_hours[i, a]),
        maturity=Maturity(int(assessment.maturity[i, a])).name,  # type: ignore[arg-type]
        model=model.ref,
        since=since if since >= 0 else None,
        residuals={name: float(assessment.deviation[i, a, column]) for column, name in watched},
        significance={name: float(assessment.significance[i, a, column]) for column, name in watched},
        expected={name: float(assessment.expected[i, a, c]) for c, name in watched if expects[c]},
        limits_exceeded=tuple(signals[column].name for column in np.flatnonzero(assessment.limit_exceeded[i, a])),
        sensor_faults=_sensor_faults(model, assessment.quality[i, a]),
        reason=reason,
    )


def _sensor_faults(model: Model, quality: NDArray[np.int8]) -> dict[str, str]:
    names = model.asset_type.signal_names
    return {names[c]: fault for c, q in enumerate(quality.tolist()) if (fault := _SENSOR_FAULTS.get(Quality(q)))}

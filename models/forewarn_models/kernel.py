"""The kernel: one pure call takes samples to their assessment, for one asset or a fleet, at both ends of the wire.

The stages follow ISO 13374: readings, regime and evidence (state detection), condition, prognosis, diagnosis. Samples
are scored one by one with what was known at the start of the window they fall into; at the end of a window the model
learns from it, unless there was evidence of a fault in it. So a sample is always scored before it is learned, a fault
is not learned at all, and blocks of any length give the same answer.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from functools import cached_property, reduce
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from forewarn_models import condition as verdicts
from forewarn_models import evidence as evidences
from forewarn_models import reference as references
from forewarn_models import regime as regimes
from forewarn_models import relearning as relearnings
from forewarn_models.assessment import Assessment, Block, Condition, Maturity, Quality
from forewarn_models.asset_type import AssetType
from forewarn_models.condition import Verdict
from forewarn_models.diagnosis import mode_probabilities
from forewarn_models.evidence import Evidence
from forewarn_models.fleet_model import PathState, followed_path, predicted_life
from forewarn_models.knowledge import FleetKnowledge, fingerprint
from forewarn_models.layout import HOUR_MS, Bools, Floats, Ints, Layout, Settings, layout_of, row_sums, updated
from forewarn_models.prognosis import failure_severity, followed, remaining_life
from forewarn_models.readings import Readings, read
from forewarn_models.regime import Prediction
from forewarn_models.state import (
    LONG_AGO,
    BaselineState,
    State,
    StateError,
    decode_state,
    encode_state,
    fresh_state,
    with_clock_set_back,
    with_fresh_asset,
)
from forewarn_models.wire import ModelRef

__all__ = [
    "Model",
    "Settings",
    "State",
    "StateError",
    "assess",
    "dump_state",
    "load_state",
    "new_state",
    "reset_baseline",
    "set_clock_back",
]

_A_FLEET: Final = 16
_LEAST_DUTY: Final = 0.1
_MATURE_BASELINES: Final = 3
_NEW_DUTY_WEIGHT: Final = 0.25
"""Samples of a new duty follow each other closely: four tell as much as one of the baseline."""
_FAMILIAR: Final = 2.0
"""A regime is familiar where its leverage is at most so many times the mean over the baseline."""
_LIMIT_HEALTH: Final = {Condition.ALERT: 0.6, Condition.ALARM: 0.3}


@dataclass(frozen=True, kw_only=True)
class Model:
    """What does not change while samples come in: the asset type, the settings and, if any, the fleet's knowledge."""

    asset_type: AssetType
    settings: Settings = field(default_factory=Settings)
    knowledge: FleetKnowledge | None = None

    @cached_property
    def layout(self) -> Layout:
        layout = layout_of(self.asset_type, self.settings)
        fleet = None if self.knowledge is None else self.knowledge.fleet_model
        return layout if fleet is None else updated(layout, horizons=fleet.horizons)

    @property
    def id(self) -> str:
        return f"{self.asset_type.asset_type}-v{self.asset_type.version}"

    @cached_property
    def hash(self) -> str:
        """SHA-256, as hexadecimal, of the canonical JSON of asset type, settings and knowledge."""
        parts = {"asset_type": self.asset_type, "settings": self.settings, "knowledge": self.knowledge}
        return hashlib.sha256(msgspec.json.encode(parts, order="deterministic", enc_hook=fingerprint)).hexdigest()

    @property
    def ref(self) -> ModelRef:
        return ModelRef(id=self.id, hash=self.hash)


def new_state(model: Model, assets: int) -> State:
    """Of a fleet of `assets` machines that nothing is known of yet."""
    return fresh_state(model.layout, assets)


def reset_baseline(model: Model, state: State, asset_index: int, at_ms: int) -> State:
    """The state after a repair: that asset learns anew what is normal; samples up to `at_ms` are not judged."""
    return with_fresh_asset(model.layout, state, asset_index, at_ms)


def set_clock_back(state: State, asset_index: int, at_ms: int) -> State:
    """The state after samples of that asset came with times that lie in the future: those after `at_ms` never were."""
    return with_clock_set_back(state, asset_index, at_ms)


def dump_state(model: Model, state: State) -> bytes:
    """The state as bytes: a header, raw arrays and a checksum. `load_state` gives it back to the last bit."""
    return encode_state(model.hash, state)


def load_state(model: Model, blob: bytes) -> State:
    """The state that `dump_state` made.

    Raises:
        StateError: the bytes are damaged, of another version or model, have another shape, or hold NaN.
    """
    return decode_state(model.hash, model.layout, blob)


def assess(model: Model, state: State, block: Block) -> tuple[Assessment, State]:
    """What the samples of a block say, and the state after them. Pure: no I/O, no clock, no input is changed.

    A sample that is not later than the one before it is not judged.

    Raises:
        ValueError: the shapes of the block do not fit each other, the state or the model.
    """
    _check_shapes(model, state, block)
    t_ms = np.ascontiguousarray(block.t_ms.T)
    values = np.ascontiguousarray(block.values.transpose(1, 0, 2), dtype=np.float64)
    parts = []
    for start, stop in _windows(state.step, len(block.t_ms), model.layout.window):
        part, state = _assess_segment(model, state, t_ms[:, start:stop], values[:, start:stop])
        parts.append(part)
    return _joined(parts), state


def _check_shapes(model: Model, state: State, block: Block) -> None:
    signals = len(model.asset_type.signals)
    if block.values.shape != (*block.t_ms.shape, signals) or block.t_ms.ndim != 2:
        raise ValueError(f"block: values {block.values.shape} must be t_ms {block.t_ms.shape} and {signals} signals")
    if block.t_ms.shape[1] != state.assets:
        raise ValueError(f"block: {block.t_ms.shape[1]} assets, the state has {state.assets}")
    if len(block.t_ms) == 0:
        raise ValueError("block: it holds no sample")


def _windows(step: int, n: int, window: int) -> Iterator[tuple[int, int]]:
    start = 0
    while start < n:
        stop = min(n, start + window - step)
        yield start, stop
        start, step = stop, 0


def _joined(parts: list[Assessment]) -> Assessment:
    """The segments, asset-major, as one assessment with time first."""
    joined = {}
    for column in fields(Assessment):
        arrays = [getattr(part, column.name) for part in parts]
        joined[column.name] = (arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=1)).swapaxes(0, 1)
    return Assessment(**joined)


# --- one segment: at most up to the end of a window -----------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class _Segment:
    """What the stages found; (A, n) unless stated."""

    readings: Readings
    prediction: Prediction
    readable: Bools
    """The machine runs settled, and the regime and something of its condition can be read."""
    judged: Bools
    """The sample can be compared with what was learned."""
    good: Bools
    """(A, n, C)"""
    relative: Floats
    """(A, n, C) condition readings relative to the level."""
    residual: Floats
    """(A, n, C) 0 where unusable."""
    suspect: Bools
    """(A, n, C)"""
    evidence: Evidence
    doubt: Floats
    verdict: Verdict
    mode_probability: Floats
    """(A, n, M)"""
    fleet_rul_hours: Floats | None
    """(A, n, 3) by the fleet model, if there is one."""


def _assess_segment(model: Model, state: State, t_ms: Ints, values: Floats) -> tuple[Assessment, State]:
    segment, after = _scored(model, state, t_ms, values)
    assessment = _assessment(model, state, segment)
    after = _collected(model, state, after, segment)
    if after.step == model.layout.window:
        after = _learned(model, after, segment)
    return assessment, after


def _scored(model: Model, state: State, t_ms: Ints, values: Floats) -> tuple[_Segment, State]:
    layout, maturity = model.layout, _maturity(model.settings, state.baseline)
    learning = maturity == Maturity.LEARNING
    readings, reading_state = read(
        layout,
        state.readings,
        t_ms,
        values,
        learning=learning,
        settling_ms=model.settings.settling_hours * HOUR_MS,
    )
    good = np.ascontiguousarray(readings.good[:, :, layout.condition_at])
    readable = readings.settled & _all(readings.good[:, :, layout.regime_at]) & ~_all(~good)
    regime = regimes.anchored(layout, state.regime, readings.values, readings.good, readable)
    prediction = regimes.predict(layout, regime, readings.values, readable)
    relative = readings.values[:, :, layout.condition_at] - regime.level[:, None]
    usable = good & prediction.known[:, :, None]
    residual = relative - prediction.expected
    if not usable.all():
        relative[~good] = 0.0
        residual[~usable] = 0.0
    judged = prediction.known
    armed = judged & ~learning[:, None]
    suspect, condition = verdicts.suspects(
        state.condition, residual, usable, state.evidence.deviation, _spread(regime, layout), armed
    )
    doubt = _doubt(model, regime.weight, prediction.leverage)
    evidence, evidence_state = evidences.accumulate(
        layout,
        state.evidence,
        state.reference,
        residual,
        usable & ~suspect,
        doubt,
        _gain(layout, readings, judged, _interval_ms(state.baseline)),
        suspect | _stuck(layout, readings),
    )
    verdict, condition = verdicts.judge(
        layout,
        condition,
        readings,
        score=_score(evidence, state.evidence.threshold),
        alert=state.evidence.alert / np.where(state.evidence.threshold > 0, state.evidence.threshold, 1.0),
        calm=state.evidence.calm / np.where(state.evidence.threshold > 0, state.evidence.threshold, 1.0),
        judged=judged,
        armed=~learning,
        suspect=_in_columns(layout, suspect),
        interval_ms=_interval_ms(state.baseline),
    )
    fleet_rul_hours, path = _fleet_remaining_life(model, state.path, readings)
    segment = _Segment(
        readings=readings,
        prediction=prediction,
        readable=readable,
        judged=judged,
        good=good,
        relative=relative,
        residual=residual,
        suspect=suspect,
        evidence=evidence,
        doubt=doubt,
        verdict=verdict,
        mode_probability=mode_probabilities(layout, evidence.significance, verdict.evident),
        fleet_rul_hours=fleet_rul_hours,
    )
    late = (regime.levelled & ~state.regime.levelled).any(axis=1) & (state.baseline.samples > 0)
    after = updated(
        state,
        step=state.step + t_ms.shape[1],
        relearning=relearnings.noted_late(state.relearning, late),
        readings=reading_state,
        path=path,
        regime=regime,
        evidence=evidence_state,
        condition=condition,
    )
    return segment, after


def _fleet_remaining_life(model: Model, path: PathState, readings: Readings) -> tuple[Floats | None, PathState]:
    """(A, n, 3) P10, P50, P90 in hours from the unit's path, if histories taught what it means."""
    fleet = None if model.knowledge is None else model.knowledge.fleet_model
    if fleet is None:
        return None, path
    features, path = followed_path(fleet, model.layout, path, readings)
    return predicted_life(fleet, features), path


def _all(holds: Bools) -> Bools:
    """(A, n) of (A, n, k): for a fleet, over few columns, column by column is much faster than the reduction."""
    if len(holds) < _A_FLEET:
        return np.asarray(holds.all(axis=2))
    return reduce(np.logical_and, np.moveaxis(holds, 2, 0), np.ones(holds.shape[:2], dtype=np.bool_))


def _stuck(layout: Layout, readings: Readings) -> Bools:
    """(A, n, C) where the sensor is stuck, or one of the regime: until that is known, what is normal looks wrong."""
    stuck: Bools = readings.quality == Quality.STUCK
    if not stuck.any():
        return stuck[:, :, layout.condition_at]
    lost: Bools = np.asarray(stuck[:, :, layout.regime_at].any(axis=2))
    return stuck[:, :, layout.condition_at] | lost[:, :, None]


def _score(evidence: Evidence, threshold: Floats) -> Floats:
    """(A, n) 1 at the threshold. Beyond it the score goes over to the plain magnitude, which grows with the fault."""
    known = threshold > 0
    per_threshold = np.where(known, 1.0 / np.where(known, threshold, 1.0), 0.0)[:, None]
    score = evidence.distance * per_threshold
    beyond = score > 1.0
    if not beyond.any():
        return score
    more = np.maximum(evidence.magnitude * per_threshold - score, 0.0)
    return np.where(beyond, score + more * (1.0 - 1.0 / np.where(beyond, score, 1.0)), score)


def _doubt(model: Model, weight: Floats, leverage: Floats) -> Floats:
    """(A, n) standard deviation of the evidence in this regime, relative to the regimes it was learned in.

    What the prediction is unsure of there, (1 + p) / n on average, is part of what was seen in health.
    """
    usual = (1 + model.layout.features) / np.maximum(weight, 1.0)
    unsure = np.maximum(leverage - usual[:, None], 0.0) / model.layout.smoothed_variance
    doubt: Floats = np.sqrt(1.0 + unsure + _strangeness(model, leverage) ** 2)
    return doubt


def _in_columns(layout: Layout, suspect: Bools) -> Bools:
    """(A, n, C) to (A, n, S)."""
    columns = np.zeros((*suspect.shape[:2], len(layout.valid_min)), dtype=np.bool_)
    columns[:, :, layout.condition_at] = suspect
    return columns


def _maturity(settings: Settings, baseline: BaselineState) -> NDArray[np.int8]:
    """(A,) `Maturity`."""
    level = np.where(baseline.samples >= settings.baseline_samples, 1, 0)
    mature = baseline.samples >= _MATURE_BASELINES * settings.baseline_samples
    return np.where(mature, 2, level).astype(np.int8)


def _interval_ms(baseline: BaselineState) -> Floats:
    """(A,) geometric mean of the times between samples, which one long gap hardly moves; 0 before any was seen."""
    seen = baseline.intervals > 0
    return np.where(seen, np.exp(baseline.log_interval / np.maximum(baseline.intervals, 1)), 0.0)


def _gain(layout: Layout, readings: Readings, judged: Bools, interval_ms: Floats) -> Floats:
    """Weight of each sample in the exponential window: by the time it stands for, at most two usual intervals."""
    known = (interval_ms > 0)[:, None] & (readings.step_ms > 0)
    intervals = readings.step_ms / np.where(interval_ms > 0, interval_ms, 1.0)[:, None]
    intervals = np.where(known, np.minimum(intervals, 2.0), 1.0)
    return np.where(judged, -np.expm1(-intervals / layout.smoothing_samples), 0.0)


def _spread(regime: regimes.RegimeState, layout: Layout) -> Floats:
    """(A, C) standard deviation of the readings themselves, over all regimes learned."""
    p = layout.features
    count = np.maximum(regime.moments[:, 0, 0], 1.0)[:, None]
    square = np.einsum("aqq->aq", regime.moments)[:, 1 + p :] / count
    mean = regime.moments[:, 0, 1 + p :] / count
    spread: Floats = np.sqrt(np.maximum(square - mean**2, 0.0))
    return spread


# --- what is told ---------------------------------------------------------------------------------------------------


def _assessment(model: Model, state: State, segment: _Segment) -> Assessment:
    """The segment as an assessment, asset-major."""
    layout, readings, verdict = model.layout, segment.readings, segment.verdict
    shape = readings.values.shape
    maturity = _maturity(model.settings, state.baseline)
    told = segment.judged & (maturity > Maturity.LEARNING)[:, None]
    score = np.where(told, verdict.score, 0.0)
    where_told, where_known = told[:, :, None], segment.prediction.known[:, :, None]
    in_units = segment.evidence.offset * state.evidence.deviation[:, None] * segment.doubt[:, :, None]
    by_now = (state.regime.level + state.reference.level * state.evidence.deviation)[:, None]
    level = by_now + segment.prediction.expected

    def in_columns(told_of_condition: Floats, where: Bools, otherwise: float) -> Floats:
        columns = np.full(shape, otherwise)
        if isinstance(layout.condition_at, slice):
            np.copyto(columns[:, :, layout.condition_at], told_of_condition, where=where)
        else:
            columns[:, :, layout.condition_at] = np.where(where, told_of_condition, otherwise)
        return columns

    contribution = in_columns(segment.evidence.share * score[:, :, None], where_told, 0.0)
    quality = readings.quality
    if segment.suspect.any():
        columns = quality[:, :, layout.condition_at]
        quality = quality.copy()
        quality[:, :, layout.condition_at] = np.where(segment.suspect, np.int8(Quality.LEAP), columns)
    return Assessment(
        t_ms=readings.t_ms,
        anomaly_score=row_sums(contribution),
        contribution=contribution,
        residual=in_columns(segment.residual, segment.good & where_known, np.nan),
        deviation=in_columns(in_units, where_told, 0.0),
        significance=in_columns(segment.evidence.significance, where_told, 0.0),
        expected=in_columns(level, where_known, np.nan),
        condition=verdict.condition,
        since_ms=verdict.since_ms,
        health_index=_health(model, verdict),
        rul_hours=remaining_life(state.trend, readings.t_ms, verdict.evident)
        if segment.fleet_rul_hours is None
        else segment.fleet_rul_hours,
        failure_mode_probability=segment.mode_probability,
        maturity=np.broadcast_to(maturity[:, None], shape[:2]),
        quality=quality,
        limit_exceeded=verdict.limit_exceeded,
    )


def _health(model: Model, verdict: Verdict) -> Floats:
    """1 up to the level of no evidence, 0 at the severity of a failure, along the logarithm in between."""
    failed = float(np.exp(failure_severity(model.knowledge)[0]))
    calm = verdicts.CLEAR_LEVEL
    span = np.log(max(failed, 2.0 * calm) / calm)
    health: Floats = np.clip(1.0 - np.log(np.maximum(verdict.score, calm) / calm) / span, 0.0, 1.0)
    if verdict.limit_exceeded.any():
        over = verdict.limit_exceeded.any(axis=2)
        for level, most in _LIMIT_HEALTH.items():
            health = np.where(over & (verdict.condition >= level), np.minimum(health, most), health)
    return health


# --- what is learned ------------------------------------------------------------------------------------------------


def _collected(model: Model, before: State, state: State, segment: _Segment) -> State:
    """The state with the segment put aside for learning at the end of the window."""
    maturity = _maturity(model.settings, before.baseline)
    learning, readable = maturity == Maturity.LEARNING, segment.readable
    strangeness = _strangeness(model, segment.prediction.leverage)
    familiar = segment.judged & (strangeness < 1.0)
    weight = np.where(learning[:, None], 1.0, _NEW_DUTY_WEIGHT * np.minimum(strangeness, 1.0)) * readable
    usable = segment.good & ~segment.suspect
    filled = segment.relative if usable.all() else np.where(usable, segment.relative, segment.prediction.expected)
    step = segment.readings.step_ms
    timed = learning[:, None] & readable & (step > 0)
    baseline = updated(
        state.baseline,
        pending=state.baseline.pending + readable.sum(axis=1),
        pending_familiar=state.baseline.pending_familiar + familiar.sum(axis=1),
        pending_strange=state.baseline.pending_strange + (segment.judged & (strangeness > 0)).sum(axis=1),
        pending_log_interval=state.baseline.pending_log_interval + np.log(np.where(timed, step, 1.0)).sum(axis=1),
        pending_intervals=state.baseline.pending_intervals + timed.sum(axis=1),
    )
    return updated(
        state,
        relearning=relearnings.noted_gap(model.layout, state.relearning, step, _interval_ms(before.baseline)),
        regime=regimes.collected(state.regime, segment.prediction, filled, weight),
        reference=references.collected(
            state.reference,
            segment.prediction.features,
            filled,
            segment.readable & (learning[:, None] | familiar),
        ),
        evidence=evidences.collected(
            state.evidence,
            segment.evidence,
            segment.residual,
            segment.prediction.leverage,
            usable & segment.prediction.known[:, :, None],
            familiar,
            _calibrating(model, before.baseline),
        ),
        baseline=baseline,
    )


def _strangeness(model: Model, leverage: Floats) -> Floats:
    """How far a regime is from those of the baseline: 0 in a familiar one.

    What the regression extrapolates there is not trusted, and learned instead. In a regime known well a further sample
    tells little about the machine, but would let a slow fault creep in.
    """
    familiar = _FAMILIAR * (1 + model.layout.features) / model.settings.baseline_samples
    return np.maximum(leverage / familiar - 1.0, 0.0)


def _learned(model: Model, state: State, segment: _Segment) -> State:
    """The state after a window: learned if it was healthy, its trend followed if it was not."""
    layout, baseline = model.layout, state.baseline
    interval_ms = _interval_ms(baseline)
    maturity = _maturity(model.settings, baseline)
    learning = maturity == Maturity.LEARNING
    healthy = _healthy(state, learning=learning)
    calibrating = _calibrating(model, baseline)
    state = updated(state, step=0)
    trend = followed(
        layout,
        model.knowledge,
        state.trend,
        t_ms=segment.readings.t_ms[:, -1],
        hours=state.condition.observed_hours,
        score=state.condition.score,
        evident=segment.verdict.evident[:, -1],
        ended=state.condition.since_ms < 0,
        mode_probability=segment.mode_probability[:, -1],
        duty=_duty(state),
    )
    complete = 2 * baseline.pending_familiar >= layout.window
    regime = regimes.learned(layout, state.regime, healthy)
    evidence = evidences.learned(
        layout,
        model.settings,
        state.evidence,
        healthy=healthy,
        alarmed=state.condition.alarm,
        calibrating=calibrating,
        complete=complete & ~learning,
        level=np.abs(regime.level + regime.reading_mean),
        steadiness=_steadiness(state, layout),
        interval_ms=interval_ms,
    )
    reference = references.learned(
        layout, state.reference, regime, evidence.deviation, accept=healthy, calibrating=learning
    )
    baseline = updated(
        baseline,
        samples=baseline.samples + np.where(healthy, baseline.pending, 0),
        pending=np.zeros_like(baseline.pending),
        pending_familiar=np.zeros_like(baseline.pending_familiar),
        pending_strange=np.zeros_like(baseline.pending_strange),
        since_strange=np.where(
            ~learning & (4 * baseline.pending_strange >= 3 * layout.window),
            0,
            np.minimum(baseline.since_strange + 1, LONG_AGO),
        ),
        log_interval=baseline.log_interval + baseline.pending_log_interval,
        intervals=baseline.intervals + baseline.pending_intervals,
        pending_log_interval=np.zeros_like(baseline.pending_log_interval),
        pending_intervals=np.zeros_like(baseline.pending_intervals),
    )
    steady, relearning = relearnings.followed(
        layout, model.settings, state.relearning, state.condition.score, segment.verdict.evident[:, -1]
    )
    some = relearnings.candidates(relearning, reference.blocks, learning)
    offsets = references.block_offsets(reference, regime, evidence.deviation, some)
    anew = steady.copy()
    for i, mine in zip(some.tolist(), offsets, strict=True):
        anew[i] |= relearnings.jumped(layout, mine, int(reference.blocks[i]))
    after = updated(
        state,
        trend=trend,
        regime=regime,
        reference=reference,
        evidence=evidence,
        baseline=baseline,
        relearning=relearning,
    )
    return _begun_anew(layout, after, anew) if anew.any() else after


def _begun_anew(layout: Layout, state: State, anew: Bools) -> State:
    for index in np.flatnonzero(anew).tolist():
        times = state.relearning.times.copy()
        times[index] += 1
        path = state.path  # what is normal has changed, not the age of the machine
        state = with_fresh_asset(layout, state, index, int(state.readings.last_ms[index]))
        state = updated(state, path=path, relearning=updated(state.relearning, times=times))
    return state


def _calibrating(model: Model, baseline: BaselineState) -> Bools:
    """(A,) the scatter of the residuals is being learned: in the first baseline, and for as long after a new duty."""
    new_duty = baseline.since_strange * model.layout.window < model.settings.baseline_samples
    calibrating: Bools = (baseline.samples < model.settings.baseline_samples) | new_duty
    return calibrating


def _healthy(state: State, *, learning: Bools) -> Bools:
    """(A,) whether the window shows a healthy machine, as far as one can tell."""
    condition, evidence = state.condition, state.evidence
    quiet = ~(condition.alert | condition.alarm | (condition.leap != 0).any(axis=1))
    limited = (condition.over_alarm >= verdicts.LIMIT_SAMPLES).any(axis=1)
    calm = (evidence.pending_maximum < evidence.calm) | (evidence.calm <= 0)
    healthy: Bools = (learning | (quiet & calm)) & ~limited
    return healthy


def _duty(state: State) -> Floats:
    """(A,) share of the observed time that the machine runs."""
    running, idle = state.condition.observed_hours, state.condition.idle_hours
    return np.maximum(running / np.maximum(running + idle, 1e-9), _LEAST_DUTY)


def _steadiness(state: State, layout: Layout) -> Floats:
    """(A, C) share of the readings that repeat the one before."""
    share: Floats = state.readings.repeats / np.maximum(state.readings.transitions, 1)
    return share[:, layout.condition_at]

"""The kernel: one pure call takes samples to their assessment, for one asset or a fleet, at both ends of the wire.

The stages follow ISO 13374: readings, regime and evidence (state detection), condition, prognosis, diagnosis. Samples
are scored one by one with what was known at the start of the window they fall into; at the end of a window the model
learns from it, unless there was evidence of a fault in it. So a sample is always scored before it is learned, a fault
is not learned at all, and blocks of any length give the same answer.
"""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any, Final

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
from forewarn_models.condition import Leaps, Verdict
from forewarn_models.diagnosis import mode_probabilities
from forewarn_models.evidence import Evidence
from forewarn_models.fleet_model import PathState, followed_path, predicted_life
from forewarn_models.knowledge import FleetKnowledge, fingerprint
from forewarn_models.layout import (
    HOUR_MS,
    Bools,
    Floats,
    Ints,
    Layout,
    Settings,
    during,
    inverse_where_positive,
    layout_of,
    row_sums,
    updated,
)
from forewarn_models.prognosis import failure_severity, followed, remaining_life
from forewarn_models.readings import Readings, read, remembered
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

_LOOK_AHEAD: Final = 4096
"""Samples of all assets that are compared at once."""
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
    t_ms, values = block.t_ms, np.ascontiguousarray(block.values, dtype=np.float64)
    told = _nothing_told(model.layout, t_ms)
    start, windows, most = 0, 1, max(_LOOK_AHEAD // (state.assets * model.layout.window), 1)
    while start < len(t_ms):
        ahead = slice(start, start + windows * model.layout.window - state.step)
        done, state = _assess_windows(model, state, t_ms[ahead], values[ahead], during(told, ahead))
        windows = min(2 * windows, most) if done == len(t_ms[ahead]) else 1
        start += done
    return told, state


def _check_shapes(model: Model, state: State, block: Block) -> None:
    signals = len(model.asset_type.signals)
    if block.values.shape != (*block.t_ms.shape, signals) or block.t_ms.ndim != 2:
        raise ValueError(f"block: values {block.values.shape} must be t_ms {block.t_ms.shape} and {signals} signals")
    if block.t_ms.shape[1] != state.assets:
        raise ValueError(f"block: {block.t_ms.shape[1]} assets, the state has {state.assets}")
    if len(block.t_ms) == 0:
        raise ValueError("block: it holds no sample")


# --- some windows at once: what their readings are compared with does not change as long as nothing new is learned ---


@dataclass(frozen=True, kw_only=True, eq=False)
class _Compared:
    """Readings beside what was learned of them; (n, A) unless stated."""

    readings: Readings
    prediction: Prediction
    readable: Bools
    """The machine runs settled, and the regime and something of its condition can be read."""
    residual: Floats
    """(n, A, C) 0 where unknown."""
    filled: Floats
    """(n, A, C) readings relative to the level; what was expected where they cannot be used."""
    unknown: Bools | None
    """(n, A, C) where nothing can be compared; None if there is no such place."""
    unusable: Bools | None
    """(n, A, C) the same and where a sensor is suspect."""
    void: Bools | None
    """(n, A, C) where a sensor lies."""
    leaps: Leaps
    strangeness: Floats
    doubt: Floats
    standard: Floats
    """(n, A, C) the residual over its standard deviation and the doubt."""
    gain: Floats

    @property
    def judged(self) -> Bools:
        """The sample can be compared with what was learned."""
        return self.prediction.known


def _assess_windows(model: Model, state: State, t_ms: Ints, values: Floats, told: Assessment) -> tuple[int, State]:
    """Write what the first samples say into `told`; how many they are, and the state after them.

    They end where something was learned by which the others have to be read anew.
    """
    layout, learning = model.layout, _maturity(model.settings, state.baseline) == Maturity.LEARNING
    if learning.any() or not state.regime.levelled.all():
        t_ms, values = t_ms[: layout.window - state.step], values[: layout.window - state.step]
    readings = read(
        layout, state.readings, t_ms, values, learning=learning, settling_ms=model.settings.settling_hours * HOUR_MS
    )
    readable = _readable(layout, readings)
    state = _anchored(layout, state, readings, readable)
    basis, windows = state, _windows(layout.window, state.step, len(t_ms))
    compared = _compared(model, state, readings, readable, ~learning, windows)
    for steps in windows:
        state = _assess_segment(model, state, during(compared, steps), during(told, steps))
        if not _stands(basis, state):
            break
    return steps.stop, state


def _windows(window: int, step: int, n: int) -> list[slice]:
    """n samples by the windows they fall into, of which `step` samples have been before."""
    cuts = [0, *range(window - step, n, window), n]
    return [slice(start, stop) for start, stop in pairwise(cuts)]


def _stands(basis: State, state: State) -> bool:
    """Whether nothing has changed that `_compared` rests on, but what goes on with the readings themselves."""
    return (
        state.regime is basis.regime
        and state.evidence.deviation is basis.evidence.deviation
        and state.baseline.log_interval is basis.baseline.log_interval
    )


def _readable(layout: Layout, readings: Readings) -> Bools:
    if readings.good.all() and len(layout.condition):
        return readings.settled
    regime, condition = readings.good[:, :, layout.regime_at], readings.good[:, :, layout.condition_at]
    readable: Bools = readings.settled & regime.all(axis=2) & condition.any(axis=2)
    return readable


def _anchored(layout: Layout, state: State, readings: Readings, readable: Bools) -> State:
    regime = regimes.anchored(layout, state.regime, readings.values, readings.good, readable)
    if regime is state.regime:
        return state
    late = (regime.levelled & ~state.regime.levelled).any(axis=1) & (state.baseline.samples > 0)
    return updated(state, regime=regime, relearning=relearnings.noted_late(state.relearning, late))


def _compared(
    model: Model, state: State, readings: Readings, readable: Bools, armed: Bools, windows: list[slice]
) -> _Compared:
    layout, regime = model.layout, state.regime
    prediction = regimes.predict(layout, regime, readings.values, readable, windows)
    filled = readings.values[:, :, layout.condition_at] - regime.level
    residual = filled - prediction.expected
    good = readings.good[:, :, layout.condition_at]
    usable = good if prediction.known.all() else good & prediction.known[:, :, None]
    unknown = None if usable.all() else ~usable
    if unknown is not None:
        residual[unknown] = 0.0
    leaps = verdicts.leaps(
        state.condition, residual, usable, state.evidence.deviation, _spread(regime, layout), prediction.known & armed
    )
    believed = good if leaps.suspect is None else good & ~leaps.suspect
    if not believed.all():
        np.copyto(filled, prediction.expected, where=~believed)
    strangeness = _strangeness(model, prediction.leverage)
    doubt = _doubt(model, regime.weight, prediction.leverage, strangeness)
    return _Compared(
        readings=readings,
        prediction=prediction,
        readable=readable,
        residual=residual,
        filled=filled,
        unknown=unknown,
        unusable=unknown if leaps.suspect is None else ~usable | leaps.suspect,
        void=_void(layout, readings, leaps),
        leaps=leaps,
        strangeness=strangeness,
        doubt=doubt,
        standard=evidences.standardised(state.evidence, residual, doubt),
        gain=_gain(layout, readings, prediction.known, _interval_ms(state.baseline)),
    )


def _void(layout: Layout, readings: Readings, leaps: Leaps) -> Bools | None:
    """(n, A, C) where the sensor is stuck or leapt, or one of the regime is stuck: until that is known, what is normal
    looks wrong."""
    stuck: Bools = readings.quality == Quality.STUCK
    if not stuck.any():
        return leaps.suspect
    regime_lost = np.asarray(stuck[:, :, layout.regime_at].any(axis=2))
    void: Bools = stuck[:, :, layout.condition_at] | regime_lost[:, :, None]
    return void if leaps.suspect is None else void | leaps.suspect


def _doubt(model: Model, weight: Floats, leverage: Floats, strangeness: Floats) -> Floats:
    """(n, A) standard deviation of the evidence in this regime, relative to the regimes it was learned in.

    What the prediction is unsure of there, (1 + p) / n on average, is part of what was seen in health.
    """
    usual = (1 + model.layout.features) / np.maximum(weight, 1.0)
    doubt = np.maximum(leverage - usual, 0.0)
    doubt /= model.layout.smoothed_variance
    doubt += 1.0
    doubt += strangeness * strangeness
    return np.sqrt(doubt, out=doubt)


def _strangeness(model: Model, leverage: Floats) -> Floats:
    """How far a regime is from those of the baseline: 0 in a familiar one.

    What the regression extrapolates there is not trusted, and learned instead. In a regime known well a further sample
    tells little about the machine, but would let a slow fault creep in.
    """
    familiar = _FAMILIAR * (1 + model.layout.features) / model.settings.baseline_samples
    return np.maximum(leverage / familiar - 1.0, 0.0)


def _maturity(settings: Settings, baseline: BaselineState) -> NDArray[np.int8]:
    """(A,) `Maturity`."""
    complete = baseline.samples >= settings.baseline_samples
    return complete.astype(np.int8) + (baseline.samples >= _MATURE_BASELINES * settings.baseline_samples)


def _interval_ms(baseline: BaselineState) -> Floats:
    """(A,) geometric mean of the times between samples, which one long gap hardly moves; 0 before any was seen."""
    seen = baseline.intervals > 0
    return np.where(seen, np.exp(baseline.log_interval / np.maximum(baseline.intervals, 1)), 0.0)


def _gain(layout: Layout, readings: Readings, judged: Bools, interval_ms: Floats) -> Floats:
    """Weight of each sample in the exponential window: by the time it stands for, at most two usual intervals."""
    known = (interval_ms > 0) & (readings.step_ms > 0)
    intervals = readings.step_ms / np.where(interval_ms > 0, interval_ms, 1.0)
    intervals = np.where(known, np.minimum(intervals, 2.0), 1.0)
    return np.where(judged, -np.expm1(-intervals / layout.smoothing_samples), 0.0)


def _spread(regime: regimes.RegimeState, layout: Layout) -> Floats:
    """(A, C) standard deviation of the readings themselves, over all regimes learned."""
    p = layout.features
    count = np.maximum(regime.moments[:, 0, 0], 1.0)[:, None]
    square = np.diagonal(regime.moments, axis1=1, axis2=2)[:, 1 + p :] / count
    mean = regime.moments[:, 0, 1 + p :] / count
    spread: Floats = np.sqrt(np.maximum(square - mean**2, 0.0))
    return spread


# --- one segment: at most up to the end of a window -----------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class _Segment:
    """What the stages found."""

    compared: _Compared
    maturity: NDArray[np.int8]
    """(A,) `Maturity`."""
    learning: Bools
    """(A,)"""
    interval_ms: Floats
    """(A,)"""
    evidence: Evidence
    verdict: Verdict


def _assess_segment(model: Model, state: State, compared: _Compared, told: Assessment) -> State:
    """Write what a segment says into `told`; the state after it."""
    layout, maturity = model.layout, _maturity(model.settings, state.baseline)
    learning, interval_ms = maturity == Maturity.LEARNING, _interval_ms(state.baseline)
    evidence, evidence_state = evidences.accumulate(
        layout,
        state.evidence,
        state.reference,
        compared.standard,
        compared.gain,
        unusable=compared.unusable,
        void=compared.void,
    )
    per_threshold = inverse_where_positive(state.evidence.threshold)
    verdict, condition = verdicts.judge(
        layout,
        state.condition,
        compared.readings,
        compared.leaps,
        score=_score(evidence, per_threshold),
        alert=state.evidence.alert * per_threshold,
        calm=state.evidence.calm * per_threshold,
        judged=compared.judged,
        armed=~learning,
        interval_ms=interval_ms,
    )
    segment = _Segment(
        compared=compared,
        maturity=maturity,
        learning=learning,
        interval_ms=interval_ms,
        evidence=evidence,
        verdict=verdict,
    )
    _tell(model, state, segment, told)
    after = updated(
        state,
        step=state.step + len(compared.readable),
        readings=remembered(state.readings, compared.readings, learning),
        path=_tell_fleet_remaining_life(model, state.path, compared.readings, told),
        evidence=evidence_state,
        condition=condition,
    )
    after = _collected(model, state, after, segment)
    return _learned(model, after, segment, told) if after.step == layout.window else after


def _score(evidence: Evidence, per_threshold: Floats) -> Floats:
    """(n, A) 1 at the threshold. Beyond it the score goes over to the plain magnitude, which grows with the fault."""
    score = evidence.distance * per_threshold
    beyond = score > 1.0
    if not beyond.any():
        return score
    magnitude = np.sqrt(row_sums(evidence.square))
    more = np.maximum(magnitude * per_threshold - score, 0.0)
    return np.where(beyond, score + more * (1.0 - 1.0 / np.where(beyond, score, 1.0)), score)


# --- what is told ---------------------------------------------------------------------------------------------------


def _nothing_told(layout: Layout, t_ms: Ints) -> Assessment:
    """To be written into."""
    samples, signals = t_ms.shape, (*t_ms.shape, len(layout.valid_min))
    return Assessment(
        t_ms=t_ms.copy(),
        anomaly_score=np.zeros(samples),
        contribution=np.zeros(signals),
        residual=np.full(signals, np.nan),
        deviation=np.zeros(signals),
        significance=np.zeros(signals),
        expected=np.full(signals, np.nan),
        condition=np.zeros(samples, dtype=np.int8),
        since_ms=np.full(samples, -1, dtype=np.int64),
        health_index=np.ones(samples),
        rul_hours=np.full((*samples, 3), np.nan),
        failure_mode_probability=np.zeros((*samples, len(layout.symptoms))),
        maturity=np.zeros(samples, dtype=np.int8),
        quality=np.zeros(signals, dtype=np.int8),
        limit_exceeded=np.zeros(signals, dtype=np.bool_),
    )


def _tell(model: Model, state: State, segment: _Segment, told: Assessment) -> None:
    """Write the segment into the assessment, all but the remaining life by a fleet model."""
    layout, evidence, verdict, compared = model.layout, segment.evidence, segment.verdict, segment.compared
    where, known = compared.judged & ~segment.learning, compared.judged
    score = verdict.score * where
    contribution = evidence.term * (score / np.where(evidence.total > 0, evidence.total, 1.0))[:, :, None]
    by_now = state.regime.level + state.reference.level * state.evidence.deviation
    in_units = evidence.offset * state.evidence.deviation
    in_units *= compared.doubt[:, :, None]
    everywhere, told_where = bool(known.all()), None if where.all() else where[:, :, None]
    _put(layout, told.contribution, contribution)
    _put(layout, told.residual, compared.residual, None if compared.unknown is None else ~compared.unknown)
    _put(layout, told.deviation, in_units, told_where)
    _put(layout, told.significance, evidence.significance, told_where)
    _put(layout, told.expected, by_now + compared.prediction.expected, None if everywhere else known[:, :, None])
    told.anomaly_score[:] = row_sums(contribution)
    told.condition[:] = verdict.condition
    told.since_ms[:] = verdict.since_ms
    told.maturity[:] = segment.maturity
    told.quality[:] = compared.readings.quality
    if compared.leaps.suspect is not None:
        _put(layout, told.quality, np.array(Quality.LEAP), compared.leaps.suspect)
    told.limit_exceeded[:] = verdict.limit_exceeded
    told.health_index[:] = _health(model, verdict)
    if verdict.evident.any():
        told.rul_hours[:] = remaining_life(state.trend, compared.readings.t_ms, verdict.evident)
        told.failure_mode_probability[:] = mode_probabilities(layout, evidence.significance, verdict.evident)


def _put(layout: Layout, told: NDArray[Any], of_condition: NDArray[Any], where: Bools | None = None) -> None:
    """Write (n, A, C) into the columns of the condition signals, `where` that holds."""
    columns = told[:, :, layout.condition_at]
    np.copyto(columns, of_condition, where=True if where is None else where)
    if not isinstance(layout.condition_at, slice):
        told[:, :, layout.condition_at] = columns


def _tell_fleet_remaining_life(model: Model, path: PathState, readings: Readings, told: Assessment) -> PathState:
    """Write P10, P50, P90 in hours from the unit's path, if histories taught what it means; the path after it."""
    fleet = None if model.knowledge is None else model.knowledge.fleet_model
    if fleet is None:
        return path
    features, path = followed_path(fleet, model.layout, path, readings)
    told.rul_hours[:] = predicted_life(fleet, features)
    return path


def _health(model: Model, verdict: Verdict) -> Floats:
    """1 up to the level of no evidence, 0 at the severity of a failure, along the logarithm in between."""
    calm = verdicts.CLEAR_LEVEL
    health = np.ones(verdict.score.shape)
    if verdict.score.max() > calm:
        failed = float(np.exp(failure_severity(model.knowledge)[0]))
        span = np.log(max(failed, 2.0 * calm) / calm)
        health = np.clip(1.0 - np.log(np.maximum(verdict.score, calm) / calm) / span, 0.0, 1.0)
    if verdict.limit_exceeded.any():
        over = verdict.limit_exceeded.any(axis=2)
        for level, most in _LIMIT_HEALTH.items():
            health = np.where(over & (verdict.condition >= level), np.minimum(health, most), health)
    return health


# --- what is learned ------------------------------------------------------------------------------------------------


def _collected(model: Model, before: State, state: State, segment: _Segment) -> State:
    """The state with the segment put aside for learning at the end of the window."""
    compared, learning = segment.compared, segment.learning
    prediction, readable, strangeness = compared.prediction, compared.readable, compared.strangeness
    familiar = compared.judged & (strangeness < 1.0)
    weight = np.where(learning, 1.0, _NEW_DUTY_WEIGHT * np.minimum(strangeness, 1.0)) * readable
    used = ~compared.unusable if compared.unusable is not None else np.ones(compared.residual.shape, dtype=np.bool_)
    return updated(
        state,
        relearning=relearnings.noted_gap(
            model.layout, state.relearning, compared.readings.step_ms, segment.interval_ms
        ),
        regime=regimes.collected(state.regime, prediction, compared.filled, weight),
        reference=references.collected(
            state.reference, prediction.features, compared.filled, readable & (learning | familiar)
        ),
        evidence=evidences.collected(
            state.evidence,
            segment.evidence,
            compared.residual,
            prediction.leverage,
            used,
            familiar,
            _calibrating(model, before.baseline),
        ),
        baseline=_counted(state.baseline, segment, familiar),
    )


def _counted(baseline: BaselineState, segment: _Segment, familiar: Bools) -> BaselineState:
    compared, learning = segment.compared, segment.learning
    counted = updated(
        baseline,
        pending=baseline.pending + compared.readable.sum(axis=0),
        pending_familiar=baseline.pending_familiar + familiar.sum(axis=0),
        pending_strange=baseline.pending_strange + (compared.judged & (compared.strangeness > 0)).sum(axis=0),
    )
    if not learning.any():
        return counted
    step = compared.readings.step_ms
    timed = learning & compared.readable & (step > 0)
    return updated(
        counted,
        pending_log_interval=baseline.pending_log_interval + np.log(np.where(timed, step, 1.0)).sum(axis=0),
        pending_intervals=baseline.pending_intervals + timed.sum(axis=0),
    )


def _learned(model: Model, state: State, segment: _Segment, told: Assessment) -> State:
    """The state after a window: learned if it was healthy, its trend followed if it was not."""
    layout, baseline, learning = model.layout, state.baseline, segment.learning
    healthy = _healthy(state, learning=learning)
    calibrating = _calibrating(model, baseline)
    evident = segment.verdict.evident[-1]
    trend = followed(
        layout,
        model.knowledge,
        state.trend,
        t_ms=segment.compared.readings.t_ms[-1],
        hours=state.condition.observed_hours,
        score=state.condition.score,
        evident=evident,
        ended=state.condition.since_ms < 0,
        mode_probability=told.failure_mode_probability[-1],
        duty=_duty(state),
    )
    regime = regimes.learned(layout, state.regime, healthy)
    evidence = evidences.learned(
        layout,
        model.settings,
        state.evidence,
        healthy=healthy,
        alarmed=state.condition.alarm,
        calibrating=calibrating,
        complete=(2 * baseline.pending_familiar >= layout.window) & ~learning,
        level=np.abs(regime.level + regime.reading_mean),
        steadiness=_steadiness(state, layout),
        interval_ms=segment.interval_ms,
    )
    reference = references.learned(
        layout, state.reference, regime, evidence.deviation, accept=healthy, calibrating=learning
    )
    steady, relearning = relearnings.followed(layout, model.settings, state.relearning, state.condition.score, evident)
    after = updated(
        state,
        step=0,
        trend=trend,
        regime=regime,
        reference=reference,
        evidence=evidence,
        baseline=_baseline_after(layout, baseline, healthy, learning),
        relearning=relearning,
    )
    anew = steady | _overhauled(layout, after, learning)
    return _begun_anew(layout, after, anew) if anew.any() else after


def _baseline_after(layout: Layout, baseline: BaselineState, healthy: Bools, learning: Bools) -> BaselineState:
    none = np.zeros_like(baseline.pending)
    strange = ~learning & (4 * baseline.pending_strange >= 3 * layout.window)
    after = updated(
        baseline,
        samples=baseline.samples + healthy * baseline.pending,
        pending=none,
        pending_familiar=none,
        pending_strange=none,
        since_strange=np.where(strange, 0, np.minimum(baseline.since_strange + 1, LONG_AGO)),
    )
    if not baseline.pending_intervals.any():
        return after
    return updated(
        after,
        log_interval=baseline.log_interval + baseline.pending_log_interval,
        intervals=baseline.intervals + baseline.pending_intervals,
        pending_log_interval=np.zeros_like(baseline.pending_log_interval),
        pending_intervals=none,
    )


def _overhauled(layout: Layout, state: State, learning: Bools) -> Bools:
    """(A,) whether a machine came back from a long gap at another level while it is learning."""
    reference, overhauled = state.reference, np.zeros(len(learning), dtype=np.bool_)
    some = relearnings.candidates(state.relearning, reference.blocks, learning)
    if len(some):
        offsets = references.block_offsets(reference, state.regime, state.evidence.deviation, some)
        for i, mine in zip(some.tolist(), offsets, strict=True):
            overhauled[i] = relearnings.jumped(layout, mine, int(reference.blocks[i]))
    return overhauled


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

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
from forewarn_models.condition import Pace, Signs, Verdict
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
    sums,
    updated,
)
from forewarn_models.prognosis import failure_severity, followed, remaining_life
from forewarn_models.readings import Readings, ReadingState, read, remembered
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

_LOOK_AHEAD: Final = 16_384
"""Samples of all assets that are compared at once."""
_MATURE_BASELINES: Final = 3
_NEW_DUTY_WEIGHT: Final = 0.25
"""Samples of a new duty follow each other closely: four tell as much as one of the baseline."""
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

    windows: list[slice]
    """The steps of each, W of them."""
    learning: Bools
    """(A,)"""
    interval_ms: Floats
    """(A,) the usual time between samples."""
    readings: Readings
    readable: Bools
    """The machine runs settled, and the regime and something of its condition can be read."""
    prediction: Prediction
    residual: Floats
    """(n, A, C) 0 where unknown."""
    unknown: Bools | None
    """(n, A, C) where nothing can be compared; None if there is no such place."""
    unusable: Bools | None
    """(n, A, C) the same and where a sensor is suspect."""
    void: Bools | None
    """(n, A, C) where a sensor lies."""
    signs: Signs
    doubt: Floats
    standard: Floats
    """(n, A, C) the residual over its standard deviation and the doubt."""
    gain: Floats
    lessons: "_Lessons"

    @property
    def judged(self) -> Bools:
        """The sample can be compared with what was learned."""
        return self.prediction.known


@dataclass(frozen=True, kw_only=True, eq=False)
class _Lessons:
    """What may be learned from W windows; (W, A) unless stated."""

    filled: Floats
    """(n, A, C) readings relative to the level; what was expected where they cannot be used."""
    familiar: Bools
    """(n, A) the regime is known well."""
    weight: Floats | None
    """(n, A) of the sample in the regression to come; None for 0."""
    readable: Ints
    familiar_samples: Ints
    strange_samples: Ints
    """Numbers of samples."""
    features: Floats
    readings: Floats
    counted: Ints
    """(W, A, p), (W, A, C), (W, A) sums and number of the samples that may become a block of the reference ..."""
    blank: Ints | None
    """(W, A, C) ... and how many of them were filled; None where none was."""
    gap: Bools
    """There was a longer time than a window between two samples."""


def _assess_windows(model: Model, state: State, t_ms: Ints, values: Floats, told: Assessment) -> tuple[int, State]:
    """Write what the first samples say into `told`; how many they are, and the state after them.

    They end where something was learned by which the others have to be read anew.
    """
    layout, learning = model.layout, _maturity(model, state) == Maturity.LEARNING
    if learning.any() or not state.regime.levelled.all():
        t_ms, values = t_ms[: layout.window - state.step], values[: layout.window - state.step]
    readings = read(
        layout, state.readings, t_ms, values, learning=learning, settling_ms=model.settings.settling_hours * HOUR_MS
    )
    readable = _readable(layout, readings)
    state = _anchored(layout, state, readings, readable)
    compared = _compared(model, state, readings, readable, learning, _windows(layout.window, state.step, len(t_ms)))
    basis, done = state, 0
    for index, steps in enumerate(compared.windows):
        state, done = _assess_segment(model, state, compared, index, told), steps.stop
        if not _stands(basis, state):
            break
    _tell_readings(layout, compared, slice(0, done), told)
    return done, state


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
    """(n, A) the machine runs settled, and the regime and something of its condition can be read."""
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
    model: Model, state: State, readings: Readings, readable: Bools, learning: Bools, windows: list[slice]
) -> _Compared:
    layout, interval_ms = model.layout, _interval_ms(state.baseline)
    prediction = regimes.predict(layout, state.regime, readings.values, readable, windows)
    relative = readings.values[:, :, layout.condition_at] - state.regime.level
    residual = relative - prediction.expected
    known, bad = prediction.known, _bad(layout, readings)
    unknown = _either(bad, None if known.all() else np.broadcast_to(~known[:, :, None], residual.shape))
    if unknown is not None:
        residual[unknown] = 0.0
    signs = verdicts.signs(
        layout,
        state.condition,
        readings,
        residual=residual,
        unknown=unknown,
        deviation=state.evidence.deviation,
        spread=_spread(state.regime, layout),
        armed=known & ~learning,
        interval_ms=interval_ms,
    )
    if (doubtful := _either(bad, signs.suspect)) is not None:
        np.copyto(relative, prediction.expected, where=doubtful)
    strangeness = _strangeness(model, state.regime, prediction.leverage)
    longest_ms = np.where(interval_ms > 0, layout.window * interval_ms, np.inf)
    doubt = _doubt(layout, state.regime, prediction.leverage, strangeness)
    return _Compared(
        windows=windows,
        learning=learning,
        interval_ms=interval_ms,
        readings=readings,
        readable=readable,
        prediction=prediction,
        residual=residual,
        unknown=unknown,
        unusable=_either(unknown, signs.suspect),
        void=_void(layout, readings, signs),
        signs=signs,
        doubt=doubt,
        standard=evidences.standardised(state.evidence, residual, doubt),
        gain=_gain(layout, readings, known, interval_ms),
        lessons=_lessons(
            windows, readings, readable, learning, prediction, relative, doubtful, strangeness, longest_ms
        ),
    )


def _lessons(
    windows: list[slice],
    readings: Readings,
    readable: Bools,
    learning: Bools,
    prediction: Prediction,
    filled: Floats,
    doubtful: Bools | None,
    strangeness: Floats,
    longest_ms: Floats,
) -> _Lessons:
    familiar = prediction.known & (strangeness < 1.0)
    weight = np.where(learning, 1.0, _NEW_DUTY_WEIGHT * np.minimum(strangeness, 1.0)) * readable
    counted = readable & (learning | familiar)
    whole = None if counted.all() else counted[:, :, None]
    return _Lessons(
        filled=filled,
        familiar=familiar,
        weight=weight if weight.any() else None,
        readable=sums(readable, windows, np.int64),
        familiar_samples=sums(familiar, windows, np.int64),
        strange_samples=sums(prediction.known & (strangeness > 0), windows, np.int64),
        features=sums(prediction.features if whole is None else prediction.features * whole, windows),
        readings=sums(filled if whole is None else filled * whole, windows),
        counted=sums(counted, windows, np.int64),
        blank=None if doubtful is None else sums(doubtful & counted[:, :, None], windows, np.int64),
        gap=sums(readings.step_ms > longest_ms, windows, np.int64) > 0,
    )


def _bad(layout: Layout, readings: Readings) -> Bools | None:
    """(n, A, C) readings that are no measurements; None if all are."""
    return None if readings.good.all() else ~readings.good[:, :, layout.condition_at]


def _void(layout: Layout, readings: Readings, signs: Signs) -> Bools | None:
    """(n, A, C) where the sensor is stuck or leapt, or one of the regime is stuck: until that is known, what is normal
    looks wrong; None if there is no such place."""
    stuck: Bools = readings.quality == Quality.STUCK
    if not stuck.any():
        return signs.suspect
    regime_lost = np.asarray(stuck[:, :, layout.regime_at].any(axis=2))
    return _either(stuck[:, :, layout.condition_at] | regime_lost[:, :, None], signs.suspect)


def _either(one: Bools | None, other: Bools | None) -> Bools | None:
    """Where one of them holds, or both; None where nothing does."""
    if one is None or other is None:
        return other if one is None else one
    return one | other


def _doubt(layout: Layout, regime: regimes.RegimeState, leverage: Floats, strangeness: Floats) -> Floats:
    """(n, A) standard deviation of the evidence in this regime, relative to the regimes it was learned in.

    What the prediction is unsure of there, (1 + p) / n on average, is part of what was seen in health.
    """
    usual = (1.0 + regime.freedom) / np.maximum(regime.weight, 1.0)
    doubt = np.maximum(leverage - usual, 0.0)
    doubt /= layout.smoothed_variance
    doubt += 1.0
    doubt += strangeness * strangeness
    return np.sqrt(doubt, out=doubt)


def _strangeness(model: Model, regime: regimes.RegimeState, leverage: Floats) -> Floats:
    """How far a regime is from those of the baseline: 0 in a familiar one.

    What the regression extrapolates there is not trusted, and learned instead. In a regime known well a further sample
    tells little about the machine, but would let a slow fault creep in.
    """
    familiar = (1.0 + regimes.familiar_square(regime)) / model.settings.baseline_samples
    return np.maximum(leverage / familiar - 1.0, 0.0)


def _maturity(model: Model, state: State) -> NDArray[np.int8]:
    """(A,) `Maturity`. A short baseline is complete once there is a threshold, too."""
    samples, wanted = state.baseline.samples, model.settings.baseline_samples
    complete = (samples >= wanted) & ((state.evidence.threshold > 0) | (not len(model.layout.condition)))
    return complete.astype(np.int8) + (complete & (samples >= _MATURE_BASELINES * wanted))


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


def _assess_segment(model: Model, state: State, compared: _Compared, index: int, told: Assessment) -> State:
    """Write what a window says into `told`; the state after it."""
    layout, steps = model.layout, compared.windows[index]
    evidence, evidence_state = evidences.accumulate(
        layout,
        state.evidence,
        state.reference,
        compared.standard[steps],
        compared.gain[steps],
        unusable=None if compared.unusable is None else compared.unusable[steps],
        void=None if compared.void is None else compared.void[steps],
    )
    path, left_hours = _tell_fleet_remaining_life(model, state.path, compared.readings, steps, told)
    per_threshold = inverse_where_positive(state.evidence.threshold)
    verdict, condition = verdicts.judge(
        layout,
        state.condition,
        during(compared.signs, steps),
        t_ms=compared.readings.t_ms[steps],
        score=_score(evidence, per_threshold),
        alert=state.evidence.alert * per_threshold,
        calm=state.evidence.calm * per_threshold,
        judged=compared.judged[steps],
        armed=~compared.learning,
        interval_ms=compared.interval_ms,
        pace=_pace(model, left_hours),
    )
    _tell(model, state, compared, steps, evidence, verdict, told)
    after = updated(
        state,
        step=state.step + steps.stop - steps.start,
        readings=remembered(state.readings, compared.readings, steps, compared.learning),
        path=path,
        evidence=evidences.collected(evidence_state, evidence, compared.lessons.familiar[steps]),
        condition=condition,
    )
    calibrating = _calibrating(model, state.baseline, compared.learning)
    after = _collected(after, compared, index, calibrating)
    if after.step < layout.window:
        return after
    last = steps.stop - 1
    modes, t_ms = told.failure_mode_probability[last], told.t_ms[last]
    return _learned(model, after, compared, calibrating, verdict.evident[-1], modes, t_ms)


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


def _tell_readings(layout: Layout, compared: _Compared, steps: slice, told: Assessment) -> None:
    """Write what does not depend on the evidence."""
    unknown, suspect = compared.unknown, compared.signs.suspect
    _put(layout, told.residual[steps], compared.residual[steps], None if unknown is None else ~unknown[steps])
    told.quality[steps] = compared.readings.quality[steps]
    if suspect is not None:
        _put(layout, told.quality[steps], np.array(Quality.LEAP), suspect[steps])


def _tell(
    model: Model,
    state: State,
    compared: _Compared,
    steps: slice,
    evidence: Evidence,
    verdict: Verdict,
    told: Assessment,
) -> None:
    """Write what a window says, all but the remaining life where a fleet model tells it."""
    layout, known = model.layout, compared.judged[steps]
    where, score = None, verdict.score
    if not known.all() or compared.learning.any():
        where = known & ~compared.learning
        score, where = score * where, where[:, :, None]
    contribution = evidence.term * (score / np.where(evidence.total > 0, evidence.total, 1.0))[:, :, None]
    in_units = evidence.offset * state.evidence.deviation
    in_units *= compared.doubt[steps, :, None]
    expected = (
        state.regime.level + state.reference.level * state.evidence.deviation + compared.prediction.expected[steps]
    )
    _put(layout, told.contribution[steps], contribution)
    _put(layout, told.deviation[steps], in_units, where)
    _put(layout, told.significance[steps], evidence.significance, where)
    _put(layout, told.expected[steps], expected, None if where is None else known[:, :, None])
    told.anomaly_score[steps] = row_sums(contribution)
    told.condition[steps] = verdict.condition
    told.since_ms[steps] = verdict.since_ms
    told.maturity[steps] = _maturity(model, state)
    _tell_health(model, verdict, told.health_index[steps])
    if verdict.limit_exceeded is not None:
        told.limit_exceeded[steps] = verdict.limit_exceeded
    if verdict.evident.any():
        if not layout.horizons:
            told.rul_hours[steps] = remaining_life(state.trend, told.t_ms[steps], verdict.evident)
        told.failure_mode_probability[steps] = mode_probabilities(layout, evidence.significance, verdict.evident)


def _put(layout: Layout, told: NDArray[Any], of_condition: NDArray[Any], where: Bools | None = None) -> None:
    """Write (n, A, C) into the columns of the condition signals, `where` that holds."""
    columns = told[:, :, layout.condition_at]
    np.copyto(columns, of_condition, where=True if where is None else where)
    if not isinstance(layout.condition_at, slice):
        told[:, :, layout.condition_at] = columns


def _tell_health(model: Model, verdict: Verdict, health: Floats) -> None:
    """1 up to the level of no evidence, 0 at the severity of a failure, along the logarithm in between."""
    calm, exceeded = verdicts.CLEAR_LEVEL, verdict.limit_exceeded
    if verdict.score.max() > calm:
        failed = float(np.exp(failure_severity(model.knowledge)[0]))
        span = np.log(max(failed, 2.0 * calm) / calm)
        health[:] = np.clip(1.0 - np.log(np.maximum(verdict.score, calm) / calm) / span, 0.0, 1.0)
    if exceeded is not None and exceeded.any():
        over = exceeded.any(axis=2)
        for level, most in _LIMIT_HEALTH.items():
            np.minimum(health, most, out=health, where=over & (verdict.condition >= level))


def _tell_fleet_remaining_life(
    model: Model, path: PathState, readings: Readings, steps: slice, told: Assessment
) -> tuple[PathState, Floats | None]:
    """Write P10, P50, P90 in hours from the unit's path, if histories taught what it means; the path after it, and the
    P50 (n, A)."""
    fleet = None if model.knowledge is None else model.knowledge.fleet_model
    if fleet is None:
        return path, None
    features, path = followed_path(fleet, model.layout, path, during(readings, steps))
    told.rul_hours[steps] = predicted_life(fleet, features)
    return path, told.rul_hours[steps, :, 1]


def _pace(model: Model, left_hours: Floats | None) -> Pace:
    usual_hours = None if model.knowledge is None else model.knowledge.alarm_hours
    if usual_hours is None:
        return Pace(baseline_samples=model.settings.baseline_samples)
    return Pace(baseline_samples=model.settings.baseline_samples, left_hours=left_hours, usual_hours=usual_hours)


# --- what is learned ------------------------------------------------------------------------------------------------


def _collected(state: State, compared: _Compared, index: int, calibrating: Bools) -> State:
    """The state with what a window teaches put aside for learning at its end."""
    lessons, steps = compared.lessons, compared.windows[index]
    readings = lessons.readings[index]
    if lessons.blank is not None:  # what is missing is where the reference is, or it would be drawn back
        readings = readings + lessons.blank[index] * state.reference.level * state.evidence.deviation
    after = updated(
        state,
        relearning=relearnings.noted_gap(state.relearning, lessons.gap[index]),
        reference=references.collected(state.reference, lessons.features[index], readings, lessons.counted[index]),
        baseline=updated(
            state.baseline,
            pending=state.baseline.pending + lessons.readable[index],
            pending_familiar=state.baseline.pending_familiar + lessons.familiar_samples[index],
            pending_strange=state.baseline.pending_strange + lessons.strange_samples[index],
        ),
    )
    if lessons.weight is not None:
        features, filled = compared.prediction.features[steps], lessons.filled[steps]
        after = updated(after, regime=regimes.collected(state.regime, features, filled, lessons.weight[steps]))
    if compared.learning.any():
        after = updated(after, baseline=_timed(after.baseline, compared, steps))
    if not calibrating.any():
        return after
    used = (lessons.familiar[steps] & calibrating)[:, :, None] & _usable(compared, steps)
    residual, leverage = compared.residual[steps], compared.prediction.leverage[steps]
    return updated(after, evidence=evidences.collected_scatter(state.evidence, residual, leverage, used))


def _usable(compared: _Compared, steps: slice) -> Bools:
    """(n, A, C)"""
    if compared.unusable is None:
        return np.ones(compared.residual[steps].shape, dtype=np.bool_)
    return ~compared.unusable[steps]


def _timed(baseline: BaselineState, compared: _Compared, steps: slice) -> BaselineState:
    """What a window tells of the usual time between samples."""
    step_ms = compared.readings.step_ms[steps]
    timed = compared.learning & compared.readable[steps] & (step_ms > 0)
    return updated(
        baseline,
        pending_log_interval=baseline.pending_log_interval + np.log(np.where(timed, step_ms, 1.0)).sum(axis=0),
        pending_intervals=baseline.pending_intervals + timed.sum(axis=0),
    )


def _learned(
    model: Model,
    state: State,
    compared: _Compared,
    calibrating: Bools,
    evident: Bools,
    mode_probability: Floats,
    t_ms: Ints,
) -> State:
    """The state after a window: learned if it was healthy, its trend followed if it was not.

    `evident` (A,), `mode_probability` (A, M) and `t_ms` (A,) of its last sample.
    """
    layout, baseline, learning = model.layout, state.baseline, compared.learning
    healthy = _healthy(layout, state, learning)
    trend = followed(
        layout,
        model.knowledge,
        state.trend,
        t_ms=t_ms,
        hours=state.condition.observed_hours,
        idle_hours=state.condition.idle_hours,
        score=state.condition.score,
        evident=evident,
        ended=state.condition.since_ms < 0,
        mode_probability=mode_probability,
    )
    regime = regimes.learned(layout, state.regime, healthy)
    evidence = evidences.learned(
        layout,
        model.settings,
        state.evidence,
        healthy=healthy,
        alarmed=state.condition.alarm,
        complete=(2 * baseline.pending_familiar >= layout.window) & ~learning,
        interval_ms=compared.interval_ms,
    )
    if calibrating.any():
        smallest = _smallest_deviation(layout, state.readings, regime)
        evidence = evidences.learned_scatter(evidence, healthy & calibrating, smallest)
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
    anew = steady | _overhauled(layout, after, learning) if learning.any() else steady
    return _begun_anew(layout, after, anew) if anew.any() else after


def _baseline_after(layout: Layout, baseline: BaselineState, healthy: Bools, learning: Bools) -> BaselineState:
    none = np.zeros(len(healthy), dtype=np.int64)
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
        for i, mine in zip(some.tolist(), offsets.swapaxes(0, 1), strict=True):
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


def _calibrating(model: Model, baseline: BaselineState, learning: Bools) -> Bools:
    """(A,) the scatter of the residuals is being learned: in the first baseline, and for as long after a new duty."""
    new_duty = baseline.since_strange * model.layout.window < model.settings.baseline_samples
    calibrating: Bools = learning | new_duty
    return calibrating


def _healthy(layout: Layout, state: State, learning: Bools) -> Bools:
    """(A,) whether the window shows a healthy machine, as far as one can tell."""
    condition, evidence = state.condition, state.evidence
    quiet = ~(condition.alert | condition.alarm | (condition.leap != 0).any(axis=1))
    calm = (evidence.pending_maximum < evidence.calm) | (evidence.calm <= 0)
    healthy: Bools = learning | (quiet & calm)
    if layout.has_limits:
        healthy &= ~(condition.over_alarm >= verdicts.LIMIT_SAMPLES).any(axis=1)
    return healthy


def _smallest_deviation(layout: Layout, readings: ReadingState, regime: regimes.RegimeState) -> Floats:
    """(A, C) of a residual, in the signal's unit."""
    level = np.abs(regime.level + regime.reading_mean + layout.absolute[layout.condition_at])
    steadiness: Floats = readings.repeats / np.maximum(readings.transitions, 1)
    finest, steadiness = readings.finest[:, layout.condition_at], steadiness[:, layout.condition_at]
    return evidences.smallest_deviation(level, finest, steadiness)

"""Other people's models as stages beside the kernel: river's and scikit-learn's conventions, without importing them.

Whatever has the methods below fits: the types are structural. Plugged in, none of them gets a threshold of its own.

- An **expectation** is a regressor that tells what a condition signal should read. What it tells is subtracted from
  the signal, and its first prediction added back, so that the kernel sees a signal of the usual size in which only what
  the regressor cannot explain moves.
- A **detector** becomes a sensor of its own. Its score is ranked among its scores in health: a smoothed conformal
  p-value (Vovk, Gammerman, Shafer 2005, "Algorithmic learning in a random world", ch. 2), uniform in health whatever
  the scale, the skew or the ties of the score. Its normal quantile is a reading like any other: the kernel accumulates
  it, weighs it against the signals, and holds all of them together to one budget of false alarms by the extremes of
  what it saw in health. So the contributions name the detector, and still sum to the score.
- A **drift detector** is a detector whose score is 1 for a few samples from where it fired, else 0.

They learn a sample after they have scored it, and only if neither kernel sees evidence of a fault then or within the
next samples: such models learn a fault faster than evidence of it can grow. Those that learn have the first quarter of
the baseline to warm up; the kernel that judges begins when they have something to say.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from statistics import NormalDist
from typing import Any, Final, Literal, Protocol, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from forewarn_models.assessment import Assessment, Block, Condition, Maturity, Quality
from forewarn_models.asset_type import MAX_SIGNALS, SIGNAL_NAME, AssetType, Signal
from forewarn_models.kernel import Model, Settings, State, assess, new_state
from forewarn_models.layout import Bools, Floats

_LEARN_EVERY: Final = 16
"""Samples after which the stages learn, if the kernel that judges is quiet."""
_PROBATION: Final = 64
"""The latest samples wait to be learned, lest they turn out to be the beginning of a fault."""
_MOST_REFERENCES: Final = 256
_NORMAL: Final = NormalDist()
_LEAST_CHANCE: Final = 1e-9


class Detector(Protocol):
    """An anomaly detector of river: higher is worse; scoring changes nothing."""

    def score_one(self, x: dict[Any, Any], /) -> float: ...

    def learn_one(self, x: dict[Any, Any], /) -> None: ...


class TargetDetector(Protocol):
    """A supervised anomaly detector of river: is this target usual, given the other features?"""

    def score_one(self, x: dict[Any, Any], y: Any, /) -> float: ...

    def learn_one(self, x: dict[Any, Any], y: Any, /) -> None: ...


class OnlineRegressor(Protocol):
    """A regressor of river."""

    def predict_one(self, x: dict[Any, Any], /) -> Any: ...

    def learn_one(self, x: dict[Any, Any], y: Any, /) -> None: ...


class FittedRegressor(Protocol):
    """A regressor of scikit-learn that was fitted on arrays: (n, inputs) to (n,)."""

    def predict(self, X: Any, /) -> Any: ...


class DriftDetector(Protocol):
    """A drift detector of river for real numbers."""

    @property
    def drift_detected(self) -> bool: ...

    def update(self, x: float, /) -> None: ...


@dataclass(frozen=True, kw_only=True)
class DetectorStage:
    """A detector of one's own for each asset, made by `make`, as a sensor called `name`."""

    name: str
    make: Callable[[], Detector]
    signals: tuple[str, ...] = ()
    """What it is given; by default all condition signals."""
    reads: Literal["residuals", "readings"] = "residuals"
    """Residuals are condition signals less what the kernel expects of them in this regime."""


@dataclass(frozen=True, kw_only=True)
class TargetDetectorStage:
    """The same for a detector that asks whether the reading of `target` is usual, given the other `signals`."""

    name: str
    make: Callable[[], TargetDetector]
    target: str
    signals: tuple[str, ...] = ()
    reads: Literal["residuals", "readings"] = "residuals"


@dataclass(frozen=True, kw_only=True)
class DriftStage:
    """A drift detector of one's own for each asset on one signal, as a sensor called `name` that rises when it fires.

    A detector of changes says when, not how sure. Raised for so few samples, one false word of it is no ALARM by
    itself; a true one comes with evidence in the signals, and adds to it. It sees every sample at once: nothing waits.
    """

    name: str
    make: Callable[[], DriftDetector]
    signal: str
    hold: int = 2
    """Samples for which the sensor is raised."""
    reads: Literal["residuals", "readings"] = "residuals"


@dataclass(frozen=True, kw_only=True)
class FittedExpectation:
    """A fitted regressor, the same for all assets, tells what `signal` should read. It is not stored or changed."""

    signal: str
    regressor: FittedRegressor
    inputs: tuple[str, ...] = ()
    """In the order of its columns; by default the regime signals of the asset type."""


@dataclass(frozen=True, kw_only=True)
class LearnedExpectation:
    """An online regressor of each asset's own, made by `make`, learns what `signal` should read."""

    signal: str
    make: Callable[[], OnlineRegressor]
    inputs: tuple[str, ...] = ()


SensorStage: TypeAlias = DetectorStage | TargetDetectorStage | DriftStage
Stage: TypeAlias = SensorStage | FittedExpectation | LearnedExpectation


class Plugged:
    """The kernel with stages plugged in, for a fleet.

    Unlike the kernel it is an object that changes: other people's models learn in place. Two kernels run: a plain one
    knows sensors and limits, and says when the stages may learn; the other judges what the stages told. Its `model` is
    the one to read assessments by: the signals of the asset type, and after them one per detector.

    Raises:
        ValueError: a stage names a signal that is not there or cannot serve; the message names the stage and the fix.
    """

    def __init__(self, model: Model, *, assets: int, stages: Sequence[Stage]) -> None:
        _check_stages(model.asset_type, stages)
        learns = any(not isinstance(stage, FittedExpectation) for stage in stages)
        warm_up = model.settings.baseline_samples // 4 if learns else 0
        self.plain = model
        self.model = replace(
            model, asset_type=_extended(model.asset_type, stages), settings=_later(model.settings, warm_up)
        )
        names, regime = model.asset_type.signal_names, _regime(model.asset_type)
        self._fitted = [_Fitted.of(stage, names, regime) for stage in stages if isinstance(stage, FittedExpectation)]
        learned = [stage for stage in stages if isinstance(stage, LearnedExpectation)]
        detectors = [stage for stage in stages if isinstance(stage, SensorStage)]
        self._lives = [
            _Life(
                learners=[_Learner.of(stage, names, regime, warm_up) for stage in learned],
                sensors=[_Sensor.of(i, stage, model.asset_type, warm_up) for i, stage in enumerate(detectors)],
            )
            for _ in range(assets)
        ]
        self._plain_state: State = new_state(self.plain, assets)
        self._state: State = new_state(self.model, assets)
        self._level = np.full((assets, len(names)), np.nan)
        self._ready = np.full(assets, not learns)
        self._step = 0

    def assess(self, block: Block) -> Assessment:
        """What the samples of a block say. The block is not changed; blocks of any length give the same answer.

        Raises:
            ValueError: the shapes of the block do not fit; what a plugged-in model raises, it raises too.
        """
        plain, self._plain_state = assess(self.plain, self._plain_state, block)
        parts = []
        for start, stop in self._chunks(len(block.t_ms)):
            parts.append(self._chunk(plain, block, slice(start, stop)))
        return _with_sensors_and_limits(_joined(parts), plain)

    def _chunks(self, n: int) -> Iterator[tuple[int, int]]:
        start = 0
        while start < n:
            stop = min(n, start + _LEARN_EVERY - self._step)
            yield start, stop
            start = stop

    def _chunk(self, plain: Assessment, block: Block, steps: slice) -> Assessment:
        told = _Told(
            values=block.values[steps],
            residual=plain.residual[steps],
            credible=np.isin(plain.quality[steps], (Quality.GOOD, Quality.LEAP)),
            calm=_calm(plain.condition[steps], plain.since_ms[steps]),
        )
        values = np.concatenate([self._explained(told), self._sensed(told)], axis=2)
        values[:, ~self._ready] = np.nan
        assessment, self._state = assess(self.model, self._state, Block(t_ms=block.t_ms[steps], values=values))
        self._step += len(values)
        if self._step == _LEARN_EVERY:
            self._step = 0
            self._learn(assessment)
            self._ready |= plain.maturity[steps][-1] > Maturity.LEARNING
            self._ready |= np.array([life.ready for life in self._lives])
        return assessment

    def _learn(self, assessment: Assessment) -> None:
        quiet = _calm(assessment.condition[-1], assessment.since_ms[-1])
        for a, life in enumerate(self._lives):
            probation = 0 if assessment.maturity[-1, a] == Maturity.LEARNING else _PROBATION
            for stage in life.stages:
                stage.settle(probation) if quiet[a] else stage.waiting.clear()

    def _explained(self, told: "_Told") -> Floats:
        """(n, A, S) with expectations subtracted; NaN where one cannot be told."""
        values = np.array(told.values, dtype=np.float64)
        for stage in self._fitted:
            self._subtract(values, told, stage.column, stage.predict(told))
        for i in range(len(self._lives[0].learners)):
            column = self._lives[0].learners[i].column
            expected = np.stack([life.learners[i].follow(told, a) for a, life in enumerate(self._lives)], axis=1)
            self._subtract(values, told, column, expected)
        return values

    def _subtract(self, values: Floats, told: "_Told", column: int, expected: Floats) -> None:
        known = np.isfinite(expected)
        first = np.take_along_axis(expected, known.argmax(axis=0)[None], axis=0)[0]
        level = self._level[:, column]
        level[:] = np.where(np.isnan(level) & known.any(axis=0), first, level)
        usable = known & told.credible[:, :, column]
        residual = told.values[:, :, column] - np.where(usable, expected, 0.0) + level
        values[:, :, column] = np.where(usable, residual, np.nan)

    def _sensed(self, told: "_Told") -> Floats:
        """(n, A, detectors)"""
        columns = [[sensor.follow(told, a) for sensor in life.sensors] for a, life in enumerate(self._lives)]
        shape = (len(columns), len(columns[0]), len(told.values))
        return np.array(columns, dtype=np.float64).reshape(shape).transpose(2, 0, 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Told:
    """What the stages are shown of a chunk; (n, A, S) unless stated."""

    values: Floats
    residual: Floats
    """Finite where the machine runs in a readable regime and something was learned of it."""
    credible: Bools
    calm: Bools
    """(n, A) no evidence of a fault."""

    def judged(self, asset: int) -> Bools:
        """(n,)"""
        return np.asarray(np.isfinite(self.residual[:, asset]).any(axis=1))


# --- what is plugged in ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class _Fitted:
    stage: FittedExpectation
    column: int
    inputs: NDArray[np.intp]

    @classmethod
    def of(cls, stage: FittedExpectation, names: tuple[str, ...], regime: tuple[str, ...]) -> "_Fitted":
        return cls(stage=stage, column=names.index(stage.signal), inputs=_columns(names, stage.inputs or regime))

    def predict(self, told: _Told) -> Floats:
        """(n, A), NaN where an input is missing or the regressor tells no number."""
        known = told.credible[:, :, self.inputs].all(axis=2)
        expected = np.full(known.shape, np.nan)
        if known.any():
            rows = told.values[:, :, self.inputs][known]
            predicted = np.asarray(self.stage.regressor.predict(rows), dtype=np.float64)
            if predicted.shape not in ((len(rows),), (len(rows), 1)):
                raise ValueError(f"expectation of {self.stage.signal}: predict gave {predicted.shape}, one each is due")
            expected[known] = predicted.reshape(len(rows))
        return np.where(np.isfinite(expected), expected, np.nan)


@dataclass(kw_only=True, eq=False)
class _Learner:
    """An online regressor of one asset."""

    regressor: OnlineRegressor
    column: int
    inputs: list[tuple[str, int]]
    warm_up: int
    waiting: deque[tuple[dict[str, float], float]] = field(default_factory=deque)
    learned: int = 0

    @classmethod
    def of(cls, stage: LearnedExpectation, names: tuple[str, ...], regime: tuple[str, ...], warm_up: int) -> "_Learner":
        inputs = [(name, names.index(name)) for name in stage.inputs or regime]
        return cls(regressor=stage.make(), column=names.index(stage.signal), inputs=inputs, warm_up=warm_up)

    def follow(self, told: _Told, asset: int) -> Floats:
        """(n,) what it expects of each sample."""
        expected = np.full(len(told.values), np.nan)
        columns = [column for _, column in self.inputs]
        known = told.judged(asset) & told.credible[:, asset][:, columns].all(axis=1)
        for i in np.flatnonzero(known):
            x = {name: float(told.values[i, asset, column]) for name, column in self.inputs}
            if self.learned >= self.warm_up:
                expected[i] = _number(self.regressor.predict_one(x))
            if told.calm[i, asset] and told.credible[i, asset, self.column]:
                self.waiting.append((x, float(told.values[i, asset, self.column])))
        return expected

    def settle(self, probation: int) -> None:
        """Learn what has waited long enough."""
        while len(self.waiting) > probation:
            self.regressor.learn_one(*self.waiting.popleft())
            self.learned += 1


@dataclass(kw_only=True, eq=False)
class _Sensor:
    """A detector of one asset; its readings are standard normal in health."""

    score: Callable[[dict[str, float]], float]
    learn: Callable[[dict[str, float]], None]
    needs: str
    """The signal it cannot do without, if any."""
    inputs: list[tuple[str, int]]
    residuals: bool
    warm_up: int
    random: np.random.Generator
    references: deque[float]
    """Its last scores in the baseline, without those of its very beginning."""
    waiting: deque[tuple[dict[str, float], float]] = field(default_factory=deque)
    """Samples and their scores."""
    learned: int = 0

    @classmethod
    def of(cls, index: int, stage: SensorStage, asset_type: AssetType, warm_up: int) -> "_Sensor":
        names = asset_type.signal_names
        needs = _needs(stage)
        chosen = stage.signals if not isinstance(stage, DriftStage) else (stage.signal,)
        if not chosen:
            chosen = tuple(signal.name for signal in asset_type.signals if signal.role == "condition")
        if needs and needs not in chosen:
            chosen = (*chosen, needs)
        score, learn = _calls(stage)
        return cls(
            score=score,
            learn=learn,
            needs=needs,
            inputs=[(name, names.index(name)) for name in chosen],
            residuals=stage.reads == "residuals",
            warm_up=warm_up,
            random=np.random.default_rng([index]),
            references=deque(maxlen=min(2 * warm_up, _MOST_REFERENCES)),
        )

    def follow(self, told: _Told, asset: int) -> list[float]:
        """What it reads at each sample; NaN while it is warming up."""
        source = told.residual if self.residuals else np.where(told.credible, told.values, np.nan)
        judged = told.judged(asset)
        return [
            self._next(source[i, asset], calm=bool(told.calm[i, asset])) if judged[i] else math.nan
            for i in range(len(judged))
        ]

    def _next(self, row: Floats, *, calm: bool) -> float:
        x = {name: float(row[column]) for name, column in self.inputs if math.isfinite(row[column])}
        if not x or (self.needs and self.needs not in x):
            return math.nan
        score = float(self.score(dict(x)))
        if calm:
            self.waiting.append((x, score))
        return self._reading(score)

    def settle(self, probation: int) -> None:
        """Learn what has waited long enough."""
        while len(self.waiting) > probation:
            x, score = self.waiting.popleft()
            self.learn(x)
            self._remember(score)

    def _reading(self, score: float) -> float:
        if math.isnan(score) or self.learned < self.warm_up:
            return math.nan
        references = np.array(self.references)
        above, equal = int((references > score).sum()), int((references == score).sum())
        chance = (above + self.random.random() * (equal + 1)) / (len(references) + 1)
        return -_NORMAL.inv_cdf(min(max(chance, _LEAST_CHANCE), 1 - _LEAST_CHANCE))

    def _remember(self, score: float) -> None:
        self.learned += 1
        if self.warm_up < 2 * self.learned <= 8 * self.warm_up and not math.isnan(score):
            self.references.append(score)


def _needs(stage: SensorStage) -> str:
    if isinstance(stage, DriftStage):
        return stage.signal
    return stage.target if isinstance(stage, TargetDetectorStage) else ""


def _calls(stage: SensorStage) -> tuple[Callable[[dict[str, float]], float], Callable[[dict[str, float]], None]]:
    if isinstance(stage, DriftStage):
        return _Drift(stage.make(), stage.signal, stage.hold).score_one, _nothing
    if isinstance(stage, TargetDetectorStage):
        on_target = _OnTarget(stage.make(), stage.target)
        return on_target.score_one, on_target.learn_one
    detector = stage.make()
    return detector.score_one, detector.learn_one


def _nothing(_: dict[str, float]) -> None:
    """A drift detector has seen the sample when it told its score."""


class _Drift:
    def __init__(self, detector: DriftDetector, signal: str, hold: int) -> None:
        self.detector, self.signal, self.hold = detector, signal, hold
        self.left = 0

    def score_one(self, x: dict[str, float]) -> float:
        self.left = max(self.left - 1, 0)
        self.detector.update(x[self.signal])
        if self.detector.drift_detected:
            self.left = self.hold
        return float(self.left > 0)


class _OnTarget:
    def __init__(self, detector: TargetDetector, target: str) -> None:
        self.detector, self.target = detector, target

    def score_one(self, x: dict[str, float]) -> float:
        return self.detector.score_one(x, x.pop(self.target))

    def learn_one(self, x: dict[str, float]) -> None:
        self.detector.learn_one(x, x.pop(self.target))


@dataclass(kw_only=True, eq=False)
class _Life:
    """The stages of one asset that learn."""

    learners: list[_Learner] = field(default_factory=list)
    sensors: list[_Sensor] = field(default_factory=list)

    @property
    def stages(self) -> list[_Learner | _Sensor]:
        return [*self.learners, *self.sensors]

    @property
    def ready(self) -> bool:
        return all(stage.learned >= stage.warm_up for stage in self.stages)


def _number(value: Any) -> float:
    return float(value) if value is not None and math.isfinite(value) else math.nan


# --- what is told ---------------------------------------------------------------------------------------------------


def _calm(condition: NDArray[np.int8], since_ms: NDArray[np.int64]) -> Bools:
    return np.asarray((condition < Condition.ALERT) & (since_ms < 0))


def _joined(parts: list[Assessment]) -> Assessment:
    names = [column.name for column in fields(Assessment)]
    return Assessment(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def _with_sensors_and_limits(judged: Assessment, plain: Assessment) -> Assessment:
    """The judgement, with what the plain kernel knows: which sensors lie, and limits of the readings themselves."""
    signals = plain.quality.shape[2]
    quality, limit_exceeded = judged.quality.copy(), judged.limit_exceeded.copy()
    doubted = plain.quality != Quality.GOOD
    quality[:, :, :signals] = np.where(doubted, plain.quality, quality[:, :, :signals])
    limit_exceeded[:, :, :signals] |= plain.limit_exceeded
    over = plain.limit_exceeded.any(axis=2)
    return replace(
        judged,
        quality=quality,
        limit_exceeded=limit_exceeded,
        condition=np.where(over, np.maximum(judged.condition, plain.condition), judged.condition),
        health_index=np.where(over, np.minimum(judged.health_index, plain.health_index), judged.health_index),
    )


# --- the asset type of the kernel that judges -----------------------------------------------------------------------


def _extended(asset_type: AssetType, stages: Sequence[Stage]) -> AssetType:
    """Explained signals have no valid range and no limits any more: those are about readings, not residuals."""
    explained = {stage.signal for stage in stages if isinstance(stage, FittedExpectation | LearnedExpectation)}
    signals = [_explained(signal) if signal.name in explained else signal for signal in asset_type.signals]
    sensors = [stage.name for stage in stages if isinstance(stage, SensorStage)]
    virtual = [Signal(name=name, unit="1", worse="up") for name in sensors]
    return msgspec.structs.replace(asset_type, signals=(*signals, *virtual))


def _explained(signal: Signal) -> Signal:
    return msgspec.structs.replace(
        signal, valid_min=None, valid_max=None, sentinels=(), limit_alert=None, limit_alarm=None
    )


def _later(settings: Settings, warm_up: int) -> Settings:
    """The baseline is complete when it would have been without warming up."""
    samples = max(settings.baseline_samples - warm_up, 10)
    return msgspec.structs.replace(settings, baseline_samples=samples)


def _regime(asset_type: AssetType) -> tuple[str, ...]:
    return tuple(signal.name for signal in asset_type.signals if signal.role == "regime")


def _columns(names: tuple[str, ...], chosen: tuple[str, ...]) -> NDArray[np.intp]:
    return np.array([names.index(name) for name in chosen], dtype=np.intp)


def _check_stages(asset_type: AssetType, stages: Sequence[Stage]) -> None:
    taken = set(asset_type.signal_names)
    explained = set[str]()
    for stage in stages:
        if isinstance(stage, SensorStage):
            _check_detector(asset_type, stage, taken)
        else:
            _check_expectation(asset_type, stage, explained)
    _require(len(taken) <= MAX_SIGNALS, "stages", f"signals and detectors together must be at most {MAX_SIGNALS}")


def _check_detector(asset_type: AssetType, stage: SensorStage, taken: set[str]) -> None:
    where = f"detector {stage.name}"
    _require(bool(SIGNAL_NAME.fullmatch(stage.name)), where, "name it with letters, digits and _, a letter first")
    _require(stage.name not in taken, where, "give each detector a name of its own that no signal has")
    taken.add(stage.name)
    named = {stage.signal} if isinstance(stage, DriftStage) else {*stage.signals, _needs(stage)} - {""}
    regime = _regime(asset_type) if stage.reads == "residuals" else ()
    _check_names(asset_type, where, named)
    absent = sorted(named & set(regime))
    _require(not absent, where, f'{", ".join(absent)}: a regime signal has no residual; use reads="readings"')


def _check_expectation(
    asset_type: AssetType, stage: FittedExpectation | LearnedExpectation, explained: set[str]
) -> None:
    where = f"expectation of {stage.signal}"
    inputs = stage.inputs or _regime(asset_type)
    _check_names(asset_type, where, (stage.signal, *inputs))
    _require(stage.signal not in _regime(asset_type), where, "explain a condition signal")
    _require(stage.signal not in explained, where, "explain each signal once")
    _require(bool(inputs), where, "name its inputs; the asset type has no regime signals")
    _require(stage.signal not in inputs, where, "a signal cannot explain itself; take it out of the inputs")
    running = asset_type.running
    _require(running is None or running.signal != stage.signal, where, "it tells whether the machine runs; leave it")
    explained.add(stage.signal)


def _check_names(asset_type: AssetType, where: str, chosen: Iterable[str]) -> None:
    unknown = sorted(set(chosen) - set(asset_type.signal_names))
    known = ", ".join(asset_type.signal_names)
    _require(not unknown, where, f"{', '.join(unknown)} is no signal of this asset type; known: {known}")


def _require(right: bool, where: str, fix: str) -> None:
    if not right:
        raise ValueError(f"{where}: {fix}")

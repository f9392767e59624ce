"""Our detector as an estimator of river. The only module that imports river; nothing of ours imports it.

Install the extra: `pip install "forewarn[river]"`. river has no notion of time: the sampling interval is a parameter.
"""

import math
from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from numbers import Real
from typing import Any, Final

import numpy as np
from river.base import AnomalyDetector

from forewarn_models.assessment import Assessment, Block, Condition, Maturity
from forewarn_models.asset_type import MAX_SIGNALS, Signal, generic_asset_type
from forewarn_models.kernel import Model, Settings, State, assess, new_state
from forewarn_models.layout import Floats

__all__ = ["ForewarnDetector"]

_MOST_WAITING: Final = 64
_PRESENT: Final = 0.25
"""Share of a baseline in which a feature has to be there to become a signal."""

_Reading = dict[Hashable, float]


class ForewarnDetector(AnomalyDetector):
    """Condition monitoring of one machine: evidence accumulated over time, held to a budget of false alarms.

    The score is 0 while the first `baseline_samples` are learned. From then on 1 is the level of an ALARM, which a
    healthy machine reaches `false_alarms_per_asset_month` times a month. It grows with lasting deviation rather than
    with single strange samples. Learning is gated by this evidence: a fault is not learned, so no filter has to
    protect the detector, and every sample has to be learned after it is scored for evidence to grow.

    The features of the baseline become the signals, the 64 most frequent of them at most; what is no number is
    missing. A feature that appears later becomes a signal as soon as it has been there in a quarter of another
    baseline of healthy samples, the rest of which are learned with it; till then it is ignored.

    Parameters
    ----------
    interval_seconds
        Time between samples: the budget is per month of 30 days.
    baseline_samples
        Healthy samples that define what is normal.
    false_alarms_per_asset_month
        The budget.
    regime
        Names of features that describe the operating condition (speed, load, ambient). They are not judged: they
        explain what the others should read.

    Examples
    --------

    >>> from forewarn_models.river import ForewarnDetector
    >>> detector = ForewarnDetector(baseline_samples=100, regime=("load",))
    >>> for i in range(400):
    ...     load, noise = i % 7, i * 0.618 % 1 - 0.5
    ...     x = {"load": load, "temperature": 40 + 2 * load + noise + (3 if i >= 300 else 0)}
    ...     score = detector.score_one(x)
    ...     detector.learn_one(x)
    >>> score > 1
    True
    >>> max(detector.explain_one(x), key=detector.explain_one(x).get)
    'temperature'

    """

    def __init__(
        self,
        interval_seconds: float = 60.0,
        baseline_samples: int = 500,
        false_alarms_per_asset_month: float = 0.01,
        regime: tuple[str, ...] | None = None,
    ) -> None:
        if not 1e-3 <= interval_seconds < math.inf:
            raise ValueError(f"interval_seconds: {interval_seconds}, give at least 0.001")
        self.interval_seconds = interval_seconds
        self.baseline_samples = baseline_samples
        self.false_alarms_per_asset_month = false_alarms_per_asset_month
        self.regime = regime
        self._settings = Settings(
            baseline_samples=baseline_samples, false_alarms_per_asset_month=false_alarms_per_asset_month
        )
        self._steps = 0
        self._baseline: list[_Reading] | None = []
        """Readings of the baseline under way, the first one or one with features that appeared; None without."""
        self._machine: _Machine | None = None
        self._waiting: list[_Reading] = []
        self._foreseen: _Foreseen | None = None

    @classmethod
    def _unit_test_params(cls) -> Iterator[dict[str, Any]]:
        yield {"baseline_samples": 100}

    def score_one(self, x: dict[Any, Any]) -> float:
        """How strange the machine looks if this is its next sample; 1 is an ALARM. Nothing is learned."""
        told = self._foresee(x)
        return 0.0 if told is None else float(told.anomaly_score[0, 0])

    def explain_one(self, x: dict[Any, Any]) -> dict[Hashable, float]:
        """What each feature contributes to the score of this sample. The numbers sum to the score."""
        told = self._foresee(x)
        if told is None or self._machine is None:
            return {}
        return dict(zip(self._machine.names, told.contribution[0, 0].tolist(), strict=True))

    def learn_one(self, x: dict[Any, Any]) -> None:
        """Take the sample in as the next one: as evidence, and where there is none of a fault, as normal."""
        reading, foreseen = _numbers(x), self._foreseen
        self._steps += 1
        self._foreseen = None
        if self._machine is None:
            self._collect([reading])
        elif foreseen is not None and foreseen.reading == reading:
            self._machine = foreseen.after
            self._learned([reading], foreseen.told)
        else:
            self._waiting.append(reading)
            if len(self._waiting) >= _MOST_WAITING:
                self._catch_up()

    def _foresee(self, x: dict[Any, Any]) -> Assessment | None:
        self._catch_up()
        if self._machine is None:
            return None
        reading = _numbers(x)
        if self._foreseen is None or self._foreseen.reading != reading:
            told, after = self._machine.after([reading], self._times(1, ahead=1))
            self._foreseen = _Foreseen(reading=reading, told=told, after=after)
        return self._foreseen.told

    def _catch_up(self) -> None:
        """Samples that were learned without being scored are taken in together, which gives the same answer."""
        if self._machine is not None and self._waiting:
            readings, self._waiting = self._waiting, []
            told, self._machine = self._machine.after(readings, self._times(len(readings)))
            self._learned(readings, told)

    def _learned(self, readings: list[_Reading], told: Assessment) -> None:
        if self._machine is None:
            return
        known = set(self._machine.names)
        healthy = (told.condition[:, 0] < Condition.ALERT) & (told.since_ms[:, 0] < 0)
        calm = [reading for reading, is_healthy in zip(readings, healthy, strict=True) if is_healthy]
        learning = told.maturity[-1, 0] == Maturity.LEARNING
        if self._baseline is None and not learning and any(reading.keys() - known for reading in calm):
            self._baseline = []
        if self._baseline is not None:
            self._collect(calm)

    def _collect(self, readings: list[_Reading]) -> None:
        """Readings of a baseline; once it is complete, a machine with the features that were in it."""
        baseline = [] if self._baseline is None else self._baseline
        baseline.extend(readings)
        if len(baseline) < self.baseline_samples:
            return
        names = _lasting(baseline)
        known = set() if self._machine is None else set(self._machine.names)
        self._baseline = [] if self._machine is None else None
        if set(names) - known:
            fresh = _Machine.of(names, self.regime or (), self._settings)
            _, self._machine = fresh.after(baseline, self._times(len(baseline)))
            self._baseline = None

    def _times(self, count: int, ahead: int = 0) -> list[int]:
        """Epoch milliseconds of the last `count` samples, or of those up to so many `ahead`."""
        last = self._steps + ahead
        return [round(1000 * self.interval_seconds * step) for step in range(last - count + 1, last + 1)]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Machine:
    """A fleet of one, with the features that are its signals."""

    names: tuple[Hashable, ...]
    model: Model
    state: State

    @classmethod
    def of(cls, names: tuple[Hashable, ...], regime: tuple[str, ...], settings: Settings) -> "_Machine":
        signals = tuple(
            Signal(name=f"x{i}", unit="1", role="regime" if name in regime else "condition")
            for i, name in enumerate(names)
        )
        model = Model(asset_type=generic_asset_type(signals), settings=settings)
        return cls(names=names, model=model, state=new_state(model, 1))

    def after(self, readings: list[_Reading], times_ms: list[int]) -> tuple[Assessment, "_Machine"]:
        """What the readings say, and the machine after them."""
        values: Floats = np.array([[reading.get(name, math.nan) for name in self.names] for reading in readings])
        t_ms = np.array(times_ms, dtype=np.int64)[:, None]
        told, state = assess(self.model, self.state, Block(t_ms=t_ms, values=values[:, None]))
        return told, _Machine(names=self.names, model=self.model, state=state)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Foreseen:
    """What was worked out for the score of a sample, for when that sample is learned."""

    reading: _Reading
    told: Assessment
    after: _Machine


def _numbers(x: dict[Any, Any]) -> _Reading:
    """The features that are finite numbers."""
    return {name: float(value) for name, value in x.items() if isinstance(value, Real) and math.isfinite(value)}


def _lasting(baseline: list[_Reading]) -> tuple[Hashable, ...]:
    """Features present often enough, the most frequent if there are too many; their order depends on names only."""
    seen = Counter(name for reading in baseline for name in reading)
    often = sorted((name for name, count in seen.items() if count >= _PRESENT * len(baseline)), key=_sorted_by)
    kept = sorted(often, key=lambda name: -seen[name])[:MAX_SIGNALS]
    return tuple(sorted(kept, key=_sorted_by))


def _sorted_by(name: Hashable) -> tuple[str, str]:
    return type(name).__name__, str(name)

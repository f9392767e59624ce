"""What every detector of condition has to keep, as checks that can be run on anyone's.

    from forewarn_models.conformance import Candidate, check_detector, ordinary_history
    check_detector(Candidate(make=MyMonitor), ordinary_history(signals=4, assets=2, samples=600, seed=1))

A check raises `NotConforming` that says what was promised and where it broke. `KernelMonitor` puts the kernel, and
`EstimatorMonitor` any estimator with river's `score_one` and `learn_one`, into the form that is checked.
"""

import copy
import pickle
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from forewarn_models.assessment import Assessment, Block
from forewarn_models.kernel import Model, assess, dump_state, load_state, new_state
from forewarn_models.layout import Bools, Floats
from forewarn_models.stages import Detector, Plugged

_ROUNDING: Final = 1e-9
_START_MS: Final = 1_767_571_200_000
_STEP_MS: Final = 600_000
_LONGER: Final = 10
_LATE: Final = 4


class NotConforming(AssertionError):
    """A detector broke a promise; the message says which and where."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Judged:
    """What a detector says of a block of n samples of A assets."""

    score: Floats
    """(n, A), higher is worse; finite."""
    contribution: Floats | None = None
    """(n, A, S), sums to the score; None for a detector that does not explain."""
    told: Bools | None = None
    """(n, A) the sample was judged; None for a detector that does not say."""


class Monitor(Protocol):
    """A detector at work on a fleet. It scores every sample with what it knew before, and learns it then."""

    def assess(self, block: Block) -> Judged: ...

    def restored(self) -> Self:
        """Another one that goes on from here, made from what this one would save."""
        ...

    def size_bytes(self) -> int:
        """Of what it would save."""
        ...


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A detector to be checked: `make` gives a fresh monitor for so many assets."""

    make: Callable[[int], Monitor]
    knows_time: bool = True
    """It takes the time of a sample into account; river's estimators do not."""
    growth_bytes: int = 0
    """By which what it saves may differ between a shorter and a longer life."""


# --- monitors -------------------------------------------------------------------------------------------------------


class KernelMonitor:
    """The kernel; what it saves is its dumped state."""

    def __init__(self, model: Model, assets: int) -> None:
        self._model = model
        self._state = new_state(model, assets)

    def assess(self, block: Block) -> Judged:
        told, self._state = assess(self._model, self._state, block)
        return judged(told)

    def restored(self) -> "KernelMonitor":
        other = KernelMonitor(self._model, self._state.assets)
        other._state = load_state(self._model, dump_state(self._model, self._state))
        return other

    def size_bytes(self) -> int:
        return len(dump_state(self._model, self._state))


class PluggedMonitor:
    """The kernel with stages plugged in. Other people's models are copied in memory: we save none of them."""

    def __init__(self, plugged: Plugged) -> None:
        self._plugged = plugged

    def assess(self, block: Block) -> Judged:
        return judged(self._plugged.assess(block))

    def restored(self) -> "PluggedMonitor":
        return PluggedMonitor(copy.deepcopy(self._plugged))

    def size_bytes(self) -> int:
        return len(pickle.dumps(self._plugged))


class EstimatorMonitor:
    """One estimator of river's form per asset; `names` are the features, in the order of the block's signals.

    A missing reading is a feature that is absent.
    """

    def __init__(self, make: Callable[[], Detector], names: Sequence[Hashable], assets: int) -> None:
        self._names = names
        self._estimators = [make() for _ in range(assets)]

    def assess(self, block: Block) -> Judged:
        scores = np.zeros(block.t_ms.shape)
        contribution = np.zeros(block.values.shape)
        for a, estimator in enumerate(self._estimators):
            for i, row in enumerate(block.values[:, a].tolist()):
                x = {name: value for name, value in zip(self._names, row, strict=True) if value == value}
                scores[i, a] = estimator.score_one(x)
                contribution[i, a] = self._explained(estimator, x)
                estimator.learn_one(x)
        explains = hasattr(self._estimators[0], "explain_one")
        return Judged(score=scores, contribution=contribution if explains else None)

    def _explained(self, estimator: Any, x: dict[Hashable, float]) -> list[float]:
        explained = estimator.explain_one(x) if hasattr(estimator, "explain_one") else {}
        return [explained.get(name, 0.0) for name in self._names]

    def restored(self) -> "EstimatorMonitor":
        return copy.deepcopy(self)

    def size_bytes(self) -> int:
        return len(pickle.dumps(self._estimators))


def judged(assessment: Assessment) -> Judged:
    return Judged(
        score=assessment.anomaly_score,
        contribution=assessment.contribution,
        told=assessment.condition > 0,
    )


# --- histories ------------------------------------------------------------------------------------------------------


def ordinary_history(*, signals: int, assets: int, samples: int, seed: int) -> Block:
    """Machines at work: signals that follow a common load and wander, each in its own unit; ten minutes apart."""
    random = np.random.default_rng(seed)
    load = 1 + 0.2 * np.sin(np.arange(samples) / 23.0)[:, None, None]
    size = 10.0 ** random.uniform(-2, 4, size=(1, 1, signals))
    noise = random.normal(size=(samples, assets, signals))
    noise[1:] += 0.6 * noise[:-1]
    t_ms = _START_MS + _STEP_MS * np.arange(samples, dtype=np.int64)
    return Block(t_ms=np.repeat(t_ms[:, None], assets, axis=1), values=size * (load + 0.02 * noise))


def cut(block: Block, start: int, stop: int) -> Block:
    return Block(t_ms=block.t_ms[start:stop], values=block.values[start:stop])


def of_assets(block: Block, assets: Sequence[int]) -> Block:
    chosen = np.array(assets, dtype=np.intp)
    return Block(t_ms=block.t_ms[:, chosen], values=block.values[:, chosen])


def longer(block: Block, times: int) -> Block:
    """The block so many times over, one after the other."""
    step = block.t_ms[-1] - block.t_ms[0] + _STEP_MS
    t_ms = np.concatenate([block.t_ms + i * step for i in range(times)])
    return Block(t_ms=t_ms, values=np.concatenate([block.values] * times))


# --- checks ---------------------------------------------------------------------------------------------------------


def check_detector(candidate: Candidate, history: Block) -> None:
    """All checks on a history of at least two assets that is a few baselines long.

    Raises:
        NotConforming: a promise is broken.
    """
    for check in checks():
        check(candidate, history)


def checks() -> Iterator[Callable[[Candidate, Block], None]]:
    yield check_cold_start
    yield check_score_is_of_the_past_only
    yield check_input_is_not_changed
    yield check_features_appear_and_disappear
    yield check_no_number_is_nan_or_infinite
    yield check_contributions_sum_to_the_score
    yield check_deterministic
    yield check_round_trip
    yield check_blocks_of_any_length
    yield check_a_fleet_is_each_asset_alone
    yield check_order_of_assets
    yield check_time_that_does_not_advance_is_not_judged
    yield check_memory_is_bounded


def check_cold_start(candidate: Candidate, history: Block) -> None:
    """The first samples ever can be assessed, also if all readings are missing, and are no anomaly."""
    missing = Block(t_ms=history.t_ms[:1], values=np.full_like(history.values[:1], np.nan))
    for first in (cut(history, 0, 1), missing):
        monitor = _monitor(candidate, history)
        score = monitor.assess(first).score
        _require(score.shape == first.t_ms.shape, f"cold start: scores have shape {score.shape}")
        _require(bool((score == 0).all()), "cold start: the first sample ever is an anomaly")
        _finite(monitor.assess(cut(history, 1, 3)), "cold start")


def check_score_is_of_the_past_only(candidate: Candidate, history: Block) -> None:
    """Score, then learn: no score depends on what comes after it, nor on the sample having been learned."""
    n = len(history.t_ms)
    whole = _monitor(candidate, history).assess(history)
    for stop in (n // 2, n - 3):
        changed = history.values.copy()
        changed[stop:] *= 3.0
        other = _monitor(candidate, history).assess(Block(t_ms=history.t_ms, values=changed))
        _same(_steps(whole, slice(0, stop)), _steps(other, slice(0, stop)), "score, then learn: a later sample matters")


def check_input_is_not_changed(candidate: Candidate, history: Block) -> None:
    t_ms, values = history.t_ms.copy(), history.values.copy()
    t_ms.flags.writeable = values.flags.writeable = False
    _monitor(candidate, history).assess(Block(t_ms=t_ms, values=values))
    _require(np.array_equal(t_ms, history.t_ms), "input: the times were changed")
    _require(np.array_equal(values, history.values, equal_nan=True), "input: the values were changed")


def check_features_appear_and_disappear(candidate: Candidate, history: Block) -> None:
    """One that is never there, one that comes late, one that goes, one that comes and goes, all gone for a while."""
    n, signals = len(history.t_ms), history.values.shape[2]
    absent: Bools = np.zeros(history.values.shape, dtype=np.bool_)
    absent[:, :, 0] = True
    absent[: 2 * n // 3, :, 1 % signals] = True
    absent[2 * n // 3 :, :, 2 % signals] = True
    absent[::3, :, 3 % signals] = True
    absent[n // 2 : n // 2 + 10] = True
    _finite(check_missing(candidate, history, absent), "features appear and disappear")


def check_missing(candidate: Candidate, history: Block, absent: Bools) -> Judged:
    """Finite and explained, whichever readings are absent, (n, A, S)."""
    block = Block(t_ms=history.t_ms, values=np.where(absent, np.nan, history.values))
    told = _monitor(candidate, history).assess(block)
    _finite(told, "missing readings")
    _sums(told)
    return told


def check_no_number_is_nan_or_infinite(candidate: Candidate, history: Block) -> None:
    """Whatever is read: NaN, infinities, numbers whose squares are too large or too small."""
    values = history.values.copy()
    n = len(values)
    for step, wild in enumerate((np.nan, np.inf, -np.inf, 1e300, -1e300, 1e-300, 1e160)):
        values[2 + 5 * step, :, 0] = wild
        values[n // 2 + 20 * step :: 200, :, step % values.shape[2]] = wild
    _finite(_monitor(candidate, history).assess(Block(t_ms=history.t_ms, values=values)), "wild readings")


def check_contributions_sum_to_the_score(candidate: Candidate, history: Block) -> None:
    _sums(_monitor(candidate, history).assess(_with_fault(history)))


def check_deterministic(candidate: Candidate, history: Block) -> None:
    first, second = (_monitor(candidate, history).assess(history) for _ in range(2))
    _same(first, second, "deterministic: two runs differ")


def check_round_trip(candidate: Candidate, history: Block) -> None:
    """Saved and restored anywhere, it goes on as if nothing had been; to the last bit."""
    n = len(history.t_ms)
    for stop in (0, 7, n // 2, n - 5):
        monitor = _monitor(candidate, history)
        if stop:
            monitor.assess(cut(history, 0, stop))
        other = monitor.restored()
        rest = cut(_with_fault(history), stop, n)
        _same(monitor.assess(rest), other.assess(rest), f"round trip after {stop} samples")


def check_blocks_of_any_length(candidate: Candidate, history: Block, lengths: Sequence[int] = (1, 3, 50, 17)) -> None:
    """Cut into blocks of these lengths, over and over, the answer is the same as for one block."""
    history = _with_fault(history)
    whole, monitor = _monitor(candidate, history).assess(history), _monitor(candidate, history)
    start, i = 0, 0
    while start < len(history.t_ms):
        stop = start + lengths[i % len(lengths)]
        part = monitor.assess(cut(history, start, stop))
        _same(_steps(whole, slice(start, stop)), part, f"blocks: samples {start} to {stop}", _ROUNDING)
        start, i = stop, i + 1


def check_a_fleet_is_each_asset_alone(candidate: Candidate, history: Block) -> None:
    history = _with_fault(history)
    fleet = _monitor(candidate, history).assess(history)
    for asset in range(history.t_ms.shape[1]):
        alone = candidate.make(1).assess(of_assets(history, [asset]))
        _same(_assets(fleet, [asset]), alone, f"fleet: asset {asset} alone differs", _ROUNDING)


def check_order_of_assets(candidate: Candidate, history: Block, order: Sequence[int] | None = None) -> None:
    """In another order, by default backwards, each asset is judged the same."""
    history = _with_fault(history)
    order = list(range(history.t_ms.shape[1]))[::-1] if order is None else order
    fleet = _monitor(candidate, history).assess(history)
    other = _monitor(candidate, history).assess(of_assets(history, order))
    _same(_assets(fleet, order), other, "assets: their order matters", _ROUNDING)


def check_time_that_does_not_advance_is_not_judged(candidate: Candidate, history: Block) -> None:
    """A sample that is not later than the one before has no score, and what it reads matters to no other."""
    if not candidate.knows_time:
        return
    n = len(history.t_ms)
    for at in (n // 4, 3 * n // 4):
        told = _monitor(candidate, history).assess(_with_late_samples(history, at, 1.0))
        late = _steps(told, slice(at + 1, at + 2 + _LATE))
        _require(not late.score.any(), f"time: a late sample after {at} has a score")
        _require(late.told is None or not late.told.any(), f"time: a late sample after {at} was judged")
        other = _monitor(candidate, history).assess(_with_late_samples(history, at, 3.0))
        _same(told, other, f"time: what a late sample after {at} reads matters")


def _with_late_samples(history: Block, at: int, times: float) -> Block:
    """After sample `at` that one and those before it come again, their readings so many times as high."""
    late = Block(t_ms=history.t_ms[at - _LATE : at + 1], values=times * history.values[at - _LATE : at + 1])
    parts = [cut(history, 0, at + 1), late, cut(history, at + 1, len(history.t_ms))]
    return Block(
        t_ms=np.concatenate([part.t_ms for part in parts]), values=np.concatenate([part.values for part in parts])
    )


def check_memory_is_bounded(candidate: Candidate, history: Block) -> None:
    monitor = _monitor(candidate, history)
    monitor.assess(history)
    size = monitor.size_bytes()
    monitor = _monitor(candidate, history)
    monitor.assess(longer(history, _LONGER))
    grown = monitor.size_bytes() - size
    most = candidate.growth_bytes
    _require(grown <= most, f"memory: {grown} bytes more after {_LONGER} times the samples, at most {most} are allowed")


# --- judging --------------------------------------------------------------------------------------------------------


def _monitor(candidate: Candidate, history: Block) -> Monitor:
    return candidate.make(history.t_ms.shape[1])


def _with_fault(history: Block) -> Block:
    """The first signal of the first asset drifts away in the last third."""
    values, start = history.values.copy(), 2 * len(history.t_ms) // 3
    values[start:, 0, 0] *= np.linspace(1.0, 2.0, len(values) - start)
    return Block(t_ms=history.t_ms, values=values)


def _steps(told: Judged, steps: slice) -> Judged:
    return _map(told, lambda array: array[steps])


def _assets(told: Judged, assets: Sequence[int]) -> Judged:
    return _map(told, lambda array: array[:, list(assets)])


def _map(told: Judged, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Judged:
    return Judged(
        score=change(told.score),
        contribution=None if told.contribution is None else change(told.contribution),
        told=None if told.told is None else change(told.told),
    )


def _same(first: Judged, second: Judged, promise: str, within: float = 0.0) -> None:
    _close(first.score, second.score, f"{promise}: score", within)
    if first.contribution is not None and second.contribution is not None:
        _close(first.contribution, second.contribution, f"{promise}: contribution", within)
    if first.told is not None and second.told is not None:
        _require(np.array_equal(first.told, second.told), f"{promise}: what is judged")


def _close(first: Floats, second: Floats, promise: str, within: float) -> None:
    _require(first.shape == second.shape, f"{promise}: shapes {first.shape} and {second.shape}")
    worst = float(np.abs(first - second).max(initial=0.0))
    _require(worst <= within, f"{promise}: differs by {worst:g}, at most {within:g} is allowed")


def _finite(told: Judged, promise: str) -> None:
    wrong = np.argwhere(~np.isfinite(told.score))
    _require(len(wrong) == 0, f"{promise}: the score of sample and asset {wrong[:1].tolist()} is no finite number")
    finite = told.contribution is None or bool(np.isfinite(told.contribution).all())
    _require(finite, f"{promise}: a contribution is no finite number")


def _sums(told: Judged) -> None:
    if told.contribution is None:
        return
    _close(told.contribution.sum(axis=2), told.score, "contributions: their sum and the score", _ROUNDING)


def _require(right: bool, promise: str) -> None:
    if not right:
        raise NotConforming(promise)

"""The conformance checks on every detector we have; and that each check catches the one who breaks its promise."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Self

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from river import anomaly, drift, linear_model, preprocessing
from sklearn.linear_model import LinearRegression

from forewarn_models import conformance
from forewarn_models.assessment import Block
from forewarn_models.asset_type import Signal, generic_asset_type
from forewarn_models.conformance import (
    Candidate,
    EstimatorMonitor,
    Judged,
    KernelMonitor,
    NotConforming,
    PluggedMonitor,
    ordinary_history,
)
from forewarn_models.kernel import Model, Settings
from forewarn_models.river import ForewarnDetector
from forewarn_models.stages import (
    Detector,
    DetectorStage,
    DriftStage,
    FittedExpectation,
    LearnedExpectation,
    Plugged,
    Stage,
    TargetDetectorStage,
)
from tests.models.conftest import pump_history

Check = Callable[[Candidate, Block], None]

BASELINE_SAMPLES = 60
SIGNALS = 4
MACHINES = ordinary_history(signals=SIGNALS, assets=2, samples=260, seed=1)
FEW = conformance.cut(MACHINES, 0, 160)


def model(*roles: str) -> Model:
    signals = tuple(
        Signal(name=f"s{i}", unit="1", role="regime" if role == "r" else "condition") for i, role in enumerate(roles)
    )
    return Model(asset_type=generic_asset_type(signals), settings=Settings(baseline_samples=BASELINE_SAMPLES))


def half_space_trees() -> Detector:
    return preprocessing.MinMaxScaler() | anomaly.HalfSpaceTrees(n_trees=3, height=4, window_size=20, seed=1)


def expectation_of_the_sum() -> FittedExpectation:
    values = MACHINES.values[:60, 0]
    regressor = LinearRegression().fit(values[:, [0, 1]], values[:, 2])
    return FittedExpectation(signal="s2", regressor=regressor, inputs=("s0", "s1"))


STAGES: dict[str, list[Stage]] = {
    "river HalfSpaceTrees": [DetectorStage(name="trees", make=half_space_trees, reads="readings")],
    "river GaussianScorer": [TargetDetectorStage(name="gauss", make=anomaly.GaussianScorer, target="s1")],
    "river ADWIN": [DriftStage(name="drift", make=drift.ADWIN, signal="s0")],
    "river LinearRegression": [
        LearnedExpectation(
            signal="s0", make=lambda: preprocessing.StandardScaler() | linear_model.LinearRegression(), inputs=("s1",)
        )
    ],
    "scikit-learn LinearRegression": [expectation_of_the_sum()],
}


def plugged(name: str) -> Candidate:
    return Candidate(
        make=lambda assets: PluggedMonitor(Plugged(model("c", "c", "c", "r"), assets=assets, stages=STAGES[name])),
        growth_bytes=40_000,
    )


def kernel(model: Model) -> Candidate:
    return Candidate(make=lambda assets: KernelMonitor(model, assets))


def our_river_estimator(assets: int) -> EstimatorMonitor:
    return EstimatorMonitor(
        lambda: ForewarnDetector(baseline_samples=BASELINE_SAMPLES, interval_seconds=600), ("a", 2, "c", "d"), assets
    )


DETECTORS: dict[str, tuple[Candidate, Block]] = {
    "kernel": (kernel(model("c", "c", "c", "c")), MACHINES),
    "kernel with regime": (kernel(model("r", "c", "c", "r")), MACHINES),
    "kernel with one signal": (
        kernel(model("c")),
        ordinary_history(signals=1, assets=3, samples=260, seed=2),
    ),
    "our river estimator": (Candidate(make=our_river_estimator, knows_time=False, growth_bytes=40_000), FEW),
    **{f"kernel with {name}": (plugged(name), MACHINES) for name in STAGES},
}


@pytest.mark.parametrize("check", list(conformance.checks()), ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", DETECTORS)
def test_every_detector_conforms(name: str, check: Check) -> None:
    check(*DETECTORS[name])


@pytest.mark.parametrize("check", list(conformance.checks()), ids=lambda check: check.__name__)
def test_the_kernel_conforms_for_a_built_in_asset_type(pump_model: Model, check: Check) -> None:
    """On pumps with their stops and duty; standing still is unknown, and no anomaly."""
    settings = Settings(baseline_samples=100, settling_hours=0.5)
    check(kernel(replace(pump_model, settings=settings)), pump_history(3, seed=30, assets=2))


# --- properties -----------------------------------------------------------------------------------------------------

PROPERTY = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)


@PROPERTY
@given(lengths=st.lists(st.integers(min_value=1, max_value=120), min_size=1, max_size=8))
def test_any_blocks_give_the_same_answer(lengths: list[int]) -> None:
    conformance.check_blocks_of_any_length(kernel(model("c", "r", "c", "c")), MACHINES, lengths)


@settings(PROPERTY, max_examples=4)
@given(lengths=st.lists(st.integers(min_value=5, max_value=120), min_size=1, max_size=8))
def test_any_blocks_give_the_same_answer_with_a_detector_plugged_in(lengths: list[int]) -> None:
    conformance.check_blocks_of_any_length(plugged("river HalfSpaceTrees"), FEW, lengths)


@PROPERTY
@given(seed=st.integers(min_value=0), share=st.floats(min_value=0, max_value=1), runs=st.integers(1, 40))
def test_any_pattern_of_missing_readings_gives_finite_explained_scores(seed: int, share: float, runs: int) -> None:
    """Missing one by one, or for runs of samples."""
    random = np.random.default_rng(seed)
    absent = random.random((len(MACHINES.t_ms), *MACHINES.values.shape[1:])) < share
    absent = np.repeat(absent[::runs], runs, axis=0)[: len(MACHINES.t_ms)]
    conformance.check_missing(kernel(model("c", "r", "c", "c")), MACHINES, absent)


@PROPERTY
@given(order=st.permutations(range(4)))
def test_the_order_of_assets_does_not_matter(order: list[int]) -> None:
    fleet = ordinary_history(signals=3, assets=4, samples=200, seed=3)
    conformance.check_order_of_assets(kernel(model("c", "r", "c")), fleet, order)


# --- the checks themselves ------------------------------------------------------------------------------------------

Floats = NDArray[np.float64]


class Honest:
    """Squared deviations from the running mean; as simple as a conforming detector can be."""

    def __init__(self, assets: int) -> None:
        self.count = np.zeros((assets, SIGNALS))
        self.mean = np.zeros((assets, SIGNALS))
        self.squares = np.zeros((assets, SIGNALS))
        self.last_ms = np.full(assets, -1, dtype=np.int64)

    def assess(self, block: Block) -> Judged:
        rows = [self.next(t_ms, row) for t_ms, row in zip(block.t_ms, block.values, strict=True)]
        contribution = np.array([row for row, _ in rows])
        return Judged(
            score=contribution.sum(axis=2), contribution=contribution, told=np.array([timely for _, timely in rows])
        )

    def next(self, t_ms: NDArray[np.int64], row: Floats) -> tuple[Floats, NDArray[np.bool_]]:
        timely = self.timely(t_ms)
        good = self.readable(row) & timely[:, None]
        reading = np.where(good, row, self.mean)
        variance = self.squares / np.maximum(self.count, 1) + 1e-9
        known = self.count >= 10
        contribution = np.where(known & good, np.minimum((reading - self.mean) ** 2 / variance, 1e6), 0.0)
        self.count = self.count + good
        step = reading - self.mean
        self.mean = self.mean + step / np.maximum(self.count, 1)
        self.squares = self.squares + np.where(good, step * (reading - self.mean), 0.0)
        return contribution, timely

    def timely(self, t_ms: NDArray[np.int64]) -> NDArray[np.bool_]:
        timely: NDArray[np.bool_] = t_ms > self.last_ms
        self.last_ms = np.maximum(t_ms, self.last_ms)
        return timely

    def readable(self, row: Floats) -> NDArray[np.bool_]:
        with np.errstate(invalid="ignore"):
            return np.asarray(np.abs(row) < 1e100)

    def restored(self) -> Self:
        other = type(self)(len(self.last_ms))
        other.__dict__.update({name: value.copy() for name, value in self.__dict__.items()})
        return other

    def size_bytes(self) -> int:
        return sum(value.nbytes for value in self.__dict__.values())


class AnomalousFromTheStart(Honest):
    def assess(self, block: Block) -> Judged:
        return replace(super().assess(block), score=np.ones(block.t_ms.shape), contribution=None)


class LooksAhead(Honest):
    def assess(self, block: Block) -> Judged:
        told = super().assess(block)
        return replace(told, score=told.score / (1.0 + told.score.max(axis=0)), contribution=None)


class FillsGapsInTheInput(Honest):
    def assess(self, block: Block) -> Judged:
        block.values[:] = np.nan_to_num(block.values) + 0.0
        return super().assess(block)


class ReadsGaps(Honest):
    def readable(self, row: Floats) -> NDArray[np.bool_]:
        return np.ones(row.shape, dtype=np.bool_)


class ReadsInfinity(Honest):
    def readable(self, row: Floats) -> NDArray[np.bool_]:
        return ~np.isnan(row)

    def assess(self, block: Block) -> Judged:
        with np.errstate(all="ignore"):
            return super().assess(block)


class Exaggerates(Honest):
    def assess(self, block: Block) -> Judged:
        told = super().assess(block)
        return replace(told, score=1.1 * told.score)


class RollsDice(Honest):
    rolls = itertools.count()

    def assess(self, block: Block) -> Judged:
        told = super().assess(block)
        return replace(told, score=told.score + next(self.rolls), contribution=None)


class ForgetsWhenSaved(Honest):
    def restored(self) -> Self:
        return type(self)(len(self.last_ms))


class BeginsEachBlockAnew(Honest):
    def assess(self, block: Block) -> Judged:
        told = super().assess(block)
        return replace(told, score=np.cumsum(told.score, axis=0), contribution=None)


class ComparesWithTheFleet(Honest):
    def assess(self, block: Block) -> Judged:
        told = super().assess(block)
        return replace(told, score=told.score - told.score.mean(axis=1, keepdims=True), contribution=None)


class FavoursTheFirst(Honest):
    def assess(self, block: Block) -> Judged:
        told = super().assess(block)
        return replace(told, score=told.score * np.arange(1, 1 + told.score.shape[1]), contribution=None)


class IgnoresTime(Honest):
    def timely(self, t_ms: NDArray[np.int64]) -> NDArray[np.bool_]:
        return np.ones(t_ms.shape, dtype=np.bool_)


class KeepsEverything(Honest):
    def __init__(self, assets: int) -> None:
        super().__init__(assets)
        self.seen = np.zeros((0, assets, SIGNALS))

    def assess(self, block: Block) -> Judged:
        self.seen = np.concatenate([self.seen, block.values])
        return super().assess(block)


@pytest.mark.parametrize("check", list(conformance.checks()), ids=lambda check: check.__name__)
def test_an_honest_detector_passes(check: Check) -> None:
    check(Candidate(make=Honest), MACHINES)


@pytest.mark.parametrize(
    ("check", "liar", "says"),
    [
        (conformance.check_cold_start, AnomalousFromTheStart, "first sample"),
        (conformance.check_score_is_of_the_past_only, LooksAhead, "a later sample matters"),
        (conformance.check_no_number_is_nan_or_infinite, ReadsInfinity, "no finite number"),
        (conformance.check_features_appear_and_disappear, ReadsGaps, "no finite number"),
        (conformance.check_contributions_sum_to_the_score, Exaggerates, "their sum and the score"),
        (conformance.check_deterministic, RollsDice, "two runs differ"),
        (conformance.check_round_trip, ForgetsWhenSaved, "round trip after 7 samples"),
        (conformance.check_blocks_of_any_length, BeginsEachBlockAnew, "blocks: samples"),
        (conformance.check_a_fleet_is_each_asset_alone, ComparesWithTheFleet, "alone differs"),
        (conformance.check_order_of_assets, FavoursTheFirst, "their order matters"),
        (conformance.check_time_that_does_not_advance_is_not_judged, IgnoresTime, "late sample"),
        (conformance.check_memory_is_bounded, KeepsEverything, "bytes more"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_detector_that_breaks_a_promise_is_found_out(check: Check, liar: type[Honest], says: str) -> None:
    with pytest.raises(NotConforming, match=says):
        check(Candidate(make=liar), MACHINES)


def test_a_detector_that_writes_into_its_input_is_found_out() -> None:
    """The arrays it is given cannot be written to."""
    with pytest.raises(ValueError, match="read-only"):
        conformance.check_input_is_not_changed(Candidate(make=FillsGapsInTheInput), MACHINES)


def test_all_checks_run_at_once() -> None:
    conformance.check_detector(Candidate(make=Honest), MACHINES)
    with pytest.raises(NotConforming):
        conformance.check_detector(Candidate(make=KeepsEverything), MACHINES)

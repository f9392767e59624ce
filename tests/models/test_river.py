"""Our detector as an estimator of river, and what river promises of its estimators."""

import copy
import doctest
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from river import anomaly, checks, compose, datasets, evaluate, metrics

import forewarn_models.river
from forewarn_models.river import ForewarnDetector

Sample = tuple[dict[Any, Any], int]


def transactions(n: int) -> list[Sample]:
    """In the form of river's CreditCard: 30 features that correlate, and few rows that are odd."""
    random = np.random.default_rng(3)
    mixture = random.normal(size=(28, 28))
    return [_transaction(i, random, mixture) for i in range(n)]


def _transaction(i: int, random: np.random.Generator, mixture: Any) -> Sample:
    odd = int(i % 400 == 390)
    values = mixture @ random.normal(size=28) + odd * 30 * np.sign(mixture[0])
    features = {f"V{k + 1}": float(value) for k, value in enumerate(values)}
    return {"Time": float(i), **features, "Amount": float(random.lognormal(3))}, odd


def machine(n: int, *, fault_from: int | None = None, seed: int = 4) -> Iterator[Sample]:
    """A temperature that follows the load, and a vibration; the temperature rises by 6 K within 60 samples."""
    random = np.random.default_rng(seed)
    for i in range(n):
        load, faulty = float(random.uniform(0.5, 1)), fault_from is not None and i >= fault_from
        rise = min(0.1 * (i - fault_from), 6.0) if fault_from is not None and faulty else 0.0
        temperature = 40 + 30 * load + float(random.normal(0, 0.5)) + rise
        yield {"load": load, "temperature": temperature, "vibration": float(random.normal(3, 0.1))}, int(faulty)


def scores(detector: Any, stream: Iterator[Sample]) -> list[float]:
    told = []
    for x, _ in stream:
        told.append(detector.score_one(x))
        detector.learn_one(x)
    return told


def named_checks() -> list[Any]:
    return list(checks.yield_checks(ForewarnDetector(baseline_samples=100)))


@pytest.mark.parametrize("check", named_checks(), ids=lambda check: check.__name__)
def test_it_passes_rivers_own_check(check: Any) -> None:
    """On data of our own in the form of theirs, which would have to be downloaded."""
    detector = ForewarnDetector(baseline_samples=100)
    if hasattr(check, "keywords"):
        rows = 4000 if check.__name__ == "check_bounded_memory_growth" else 600
        check.func(detector, dataset=transactions(rows))
    else:
        check(detector)


def test_it_passes_rivers_own_checks_on_rivers_data() -> None:
    credit_card: Any = datasets.CreditCard
    if not credit_card().is_downloaded:
        pytest.skip("river's CreditCard data are not downloaded here: CreditCard().download()")
    checks.check_estimator(ForewarnDetector(baseline_samples=100))


def test_the_score_is_0_while_learning_and_passes_1_with_a_fault_only() -> None:
    detector = ForewarnDetector(baseline_samples=200, regime=("load",))
    told = scores(detector, machine(750, fault_from=600))
    assert not any(told[:200])
    assert max(told[200:600]) < 1
    assert min(told[700:]) > 1


def test_the_fault_is_not_learned_and_the_feature_is_named() -> None:
    detector = ForewarnDetector(baseline_samples=200, regime=("load",))
    told = scores(detector, machine(1000, fault_from=800))
    assert min(told[900:]) > 1
    (x, _), *_ = machine(1)
    explained = detector.explain_one({**x, "temperature": x["temperature"] + 6})
    assert max(explained, key=lambda name: explained[name]) == "temperature"
    assert sum(explained.values()) == pytest.approx(detector.score_one({**x, "temperature": x["temperature"] + 6}))


def test_scoring_changes_nothing() -> None:
    asked, other = (ForewarnDetector(baseline_samples=100) for _ in range(2))
    for i, (x, _) in enumerate(machine(250, fault_from=200)):
        if i % 3 == 0:
            assert asked.score_one(x) == asked.score_one(x)
        if i % 6 == 0:
            asked.score_one({"load": 9.0, "temperature": -40.0})
        asked.learn_one(x)
        other.learn_one(x)
    assert asked.score_one(x) == pytest.approx(other.score_one(x), abs=1e-9)
    assert asked.score_one(x) > 0


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda detector: pickle.loads(pickle.dumps(detector))])  # noqa: S301
@pytest.mark.parametrize("after", [50, 130, 190])
def test_a_copy_goes_on_the_same_to_the_last_bit(copied: Callable[[Any], Any], after: int) -> None:
    """From the middle of the baseline, of a window, with samples learned that were not scored."""
    detector = ForewarnDetector(baseline_samples=100)
    stream = list(machine(300, fault_from=220))
    for x, _ in stream[:after]:
        detector.learn_one(x)
    other = copied(detector)
    assert scores(detector, iter(stream[after:])) == scores(other, iter(stream[after:]))


def test_a_clone_has_learned_nothing() -> None:
    detector = ForewarnDetector(baseline_samples=100, regime=("load",), interval_seconds=10)
    scores(detector, machine(150))
    clone = detector.clone()
    assert repr(clone) == repr(detector)
    assert not any(scores(clone, machine(100)))


def test_a_feature_that_appears_later_becomes_a_signal_while_the_others_go_on_being_judged() -> None:
    detector = ForewarnDetector(baseline_samples=100)
    random = np.random.default_rng(5)
    told = []
    for i, (x, _) in enumerate(machine(900)):
        if i >= 200:
            x["pressure"] = float(random.normal(7, 0.1)) + 0.02 * max(i - 800, 0)
        told.append(detector.score_one(x))
        explained = detector.explain_one(x)
        assert ("pressure" in explained) == (i >= 300), i
        detector.learn_one(x)
    assert min(told[205:295]) > 0
    assert max(told[200:800]) < 1
    assert told[-1] > 1
    assert explained["pressure"] > 0.5 * told[-1]


def test_a_feature_that_is_seldom_there_never_becomes_a_signal() -> None:
    detector = ForewarnDetector(baseline_samples=50)
    for i, (x, _) in enumerate(machine(300)):
        detector.learn_one({**x, f"noise{i}": 1.0, "seldom": float(i)} if i % 10 == 0 else x)
    assert detector.explain_one(x).keys() == x.keys()


def test_what_is_no_number_is_missing() -> None:
    detector = ForewarnDetector(baseline_samples=50)
    stream = [{**x, "name": "pump", "note": None, "flag": True} for x, _ in machine(200)]
    for x in stream:
        detector.learn_one(x)
    assert detector.explain_one(stream[-1]).keys() == {"load", "temperature", "vibration", "flag"}
    for wild in (float("nan"), float("inf"), "text", None):
        assert np.isfinite(detector.score_one({**stream[-1], "temperature": wild}))


def test_it_works_in_pipelines_filters_and_evaluation() -> None:
    stream = list(machine(900, fault_from=600))
    pipeline = compose.Discard("vibration") | ForewarnDetector(baseline_samples=200, regime=("load",))
    roc_auc: Any = metrics.ROCAUC
    assert evaluate.progressive_val_score(iter(stream), pipeline, roc_auc()).get() > 0.95

    detector = ForewarnDetector(baseline_samples=200, regime=("load",))
    flagged: Any = anomaly.QuantileFilter(detector, q=0.9, protect_anomaly_detector=False)
    told = scores(flagged, iter(stream))
    assert flagged.classify(told[-1])
    assert not flagged.classify(told[599])


def test_the_example_in_its_documentation_runs() -> None:
    told = doctest.testmod(forewarn_models.river)
    assert told.attempted > 3
    assert told.failed == 0


def test_a_larger_budget_of_false_alarms_lowers_the_threshold() -> None:
    strict, lax = (
        scores(ForewarnDetector(baseline_samples=100, false_alarms_per_asset_month=budget), machine(200))[-1]
        for budget in (0.01, 100.0)
    )
    assert strict < lax


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("interval_seconds", 0.0),
        ("baseline_samples", 3),
        ("false_alarms_per_asset_month", -1.0),
        ("false_alarms_per_asset_month", float("nan")),
    ],
)
def test_parameters_out_of_range_are_refused(parameter: str, value: float) -> None:
    with pytest.raises(ValueError, match=parameter):
        ForewarnDetector().clone({parameter: value})


def test_the_models_are_imported_without_river() -> None:
    """As on the edge: neither the kernel nor the stages nor the checks need it."""
    program = (
        "import sys, forewarn_models.kernel, forewarn_models.stages, forewarn_models.conformance;"
        "print(sorted({'river', 'sklearn', 'scipy', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

"""Other people's models beside the kernel: what they add, what they must not break, and what is refused."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from river import anomaly, drift, neighbors, preprocessing
from sklearn.ensemble import GradientBoostingRegressor

from forewarn_models.assessment import Block, Condition, Maturity, Quality
from forewarn_models.asset_type import AssetType, Running, Signal, generic_asset_type
from forewarn_models.kernel import Model, Settings, assess, new_state
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
from tests.models.conftest import START_MS, STEP_MS

Floats = NDArray[np.float64]

BASELINE_SAMPLES = 200
SIGNALS = (
    Signal(name="speed", unit="1", role="regime"),
    Signal(name="temperature", unit="degC", valid_min=0.0, valid_max=150.0, limit_alert=70.0, limit_alarm=80.0),
    Signal(name="vibration", unit="mm/s"),
)
MODEL = Model(asset_type=generic_asset_type(SIGNALS), settings=Settings(baseline_samples=BASELINE_SAMPLES))


def resonance(n: int, *, assets: int = 1, seed: int = 1, rise: float = 0.0, from_step: int = 0) -> Block:
    """A temperature that depends on the speed in waves, which no parabola explains; it can rise from some step on."""
    random = np.random.default_rng(seed)
    speed = random.uniform(0, 1, size=(n, assets))
    temperature = 50 + 5 * np.sin(9 * speed) + random.normal(0, 0.3, size=(n, assets))
    temperature[from_step:] += rise
    vibration = 3 + speed + random.normal(0, 0.1, size=(n, assets))
    return block(np.stack([speed, temperature, vibration], axis=2))


def ring(n: int, *, seed: int = 1, from_step: int | None = None) -> Block:
    """Two signals on a circle, which collapses into its centre: each stays within its usual range."""
    random = np.random.default_rng(seed)
    angle = random.uniform(0, 2 * np.pi, size=n)
    radius = 1 + random.normal(0, 0.03, size=n)
    if from_step is not None:
        radius[from_step:] *= 0.2
    speed = random.uniform(0, 1, size=n)
    return block(np.stack([speed, 50 + radius * np.cos(angle), 3 + radius * np.sin(angle)], axis=1)[:, None])


def block(values: Floats) -> Block:
    t_ms = START_MS + STEP_MS * np.arange(len(values), dtype=np.int64)
    return Block(t_ms=np.repeat(t_ms[:, None], values.shape[1], axis=1), values=values)


def nearest_neighbours() -> neighbors.KNNRegressor:
    return neighbors.KNNRegressor(engine=neighbors.LazySearch(window_size=300))


def local_outliers() -> anomaly.LocalOutlierFactor:
    return anomaly.LocalOutlierFactor(n_neighbors=10)


def half_space_trees() -> Detector:
    return preprocessing.MinMaxScaler() | anomaly.HalfSpaceTrees(n_trees=25, height=6, window_size=50, seed=1)


@pytest.fixture(scope="module")
def boosted() -> Any:
    """Fitted on another machine of the kind."""
    history = resonance(600, seed=99).values[:, 0]
    return GradientBoostingRegressor(random_state=0).fit(history[:, [0]], history[:, 1])


def first_alarm(condition: NDArray[np.int8]) -> int:
    alarms = np.flatnonzero(condition == Condition.ALARM)
    return int(alarms[0]) if len(alarms) else -1


# --- expectations ---------------------------------------------------------------------------------------------------


def test_a_fitted_regressor_makes_a_fault_visible_that_the_kernel_cannot_see(boosted: Any) -> None:
    history = resonance(700, assets=3, rise=2.0, from_step=500)
    alone, _ = assess(MODEL, new_state(MODEL, 3), history)
    told = Plugged(MODEL, assets=3, stages=[FittedExpectation(signal="temperature", regressor=boosted)]).assess(history)
    assert not (alone.condition[:600] == Condition.ALARM).any()
    for asset in range(3):
        assert 500 < first_alarm(told.condition[:, asset]) < 600
        assert told.contribution[600, asset].argmax() == 1


def test_an_online_regressor_does_too_and_does_not_learn_the_fault() -> None:
    history = resonance(1500, rise=3.0, from_step=500)
    stage = LearnedExpectation(signal="temperature", make=nearest_neighbours)
    told = Plugged(MODEL, assets=1, stages=[stage]).assess(history)
    assert 500 < first_alarm(told.condition[:, 0]) < 600
    assert (told.condition[600:700, 0] == Condition.ALARM).all()
    assert np.mean(history.values[600:700, 0, 1] - told.residual[600:700, 0, 1]) == pytest.approx(
        np.mean(resonance(1500).values[600:700, 0, 1]), abs=0.5
    ), "what it expects is the healthy temperature"


def test_healthy_machines_stay_quiet_with_every_kind_of_stage(boosted: Any) -> None:
    stages: dict[str, Stage] = {
        "fitted": FittedExpectation(signal="temperature", regressor=boosted),
        "learned": LearnedExpectation(signal="temperature", make=nearest_neighbours),
        "detector": DetectorStage(name="trees", make=half_space_trees),
        "drift": DriftStage(name="drift", make=drift.ADWIN, signal="vibration"),
        "target": TargetDetectorStage(name="gauss", make=anomaly.GaussianScorer, target="vibration"),
    }
    for name, stage in stages.items():
        told = Plugged(MODEL, assets=3, stages=[stage]).assess(resonance(900, assets=3, seed=7))
        assert not (told.condition == Condition.ALARM).any(), name
        assert (told.maturity[BASELINE_SAMPLES + 40 :] > Maturity.LEARNING).all(), name


def test_limits_and_doubtful_sensors_are_judged_by_the_reading_not_by_the_residual() -> None:
    """The regressor would explain any of it away."""

    class Explains:
        def predict(self, x: Floats) -> Floats:
            return np.asarray(30.0 * x[:, 0] + 45.0)

    values = resonance(600).values
    values[:, 0, 0] = np.random.default_rng(2).uniform(0, 0.5, 600)
    values[400:450, 0, 0] = 1.2
    values[:, 0, 1] = 30.0 * values[:, 0, 0] + 45.0 + np.random.default_rng(3).normal(0, 0.3, 600)
    values[500, 0, 1] = 400.0
    values[510:540, 0, 1] = values[510, 0, 1]
    told = Plugged(MODEL, assets=1, stages=[FittedExpectation(signal="temperature", regressor=Explains())]).assess(
        block(values)
    )
    assert told.condition[449, 0] == Condition.ALARM
    assert told.limit_exceeded[449, 0].tolist() == [False, True, False]
    assert told.health_index[449, 0] <= 0.3
    assert told.quality[500, 0, 1] == Quality.OUT_OF_RANGE
    assert told.quality[539, 0, 1] == Quality.STUCK


@pytest.mark.parametrize("wild", [np.nan, np.inf])
def test_a_regressor_that_tells_no_number_leaves_its_signal_unjudged(wild: float) -> None:
    class Fails:
        def predict(self, x: Floats) -> Floats:
            return np.where(x[:, 0] > 0.5, wild, 50.0)

    history = resonance(400)
    told = Plugged(MODEL, assets=1, stages=[FittedExpectation(signal="temperature", regressor=Fails())]).assess(history)
    assert np.isfinite(told.anomaly_score).all()
    fast = history.values[:, 0, 0] > 0.5
    assert np.isnan(told.residual[300:, 0, 1][fast[300:]]).all()
    assert np.isfinite(told.residual[300:, 0, 1][~fast[300:]]).all()


# --- detectors ------------------------------------------------------------------------------------------------------


def test_a_plugged_detector_sees_what_the_kernel_cannot_and_is_named() -> None:
    history = ring(1200, from_step=900)
    alone, _ = assess(MODEL, new_state(MODEL, 1), history)
    stage = DetectorStage(name="lof", make=local_outliers, signals=("temperature", "vibration"))
    told = Plugged(MODEL, assets=1, stages=[stage]).assess(history)
    assert not (alone.condition == Condition.ALARM).any()
    assert 900 < first_alarm(told.condition[:, 0]) < 1000
    assert told.contribution[1000, 0].argmax() == 3
    assert told.contribution.sum(axis=2) == pytest.approx(told.anomaly_score, abs=1e-9)


@dataclass
class Scripted:
    """A detector whose scores are given, and that notes what it was shown."""

    scores: Callable[[np.random.Generator], float]
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(8))
    learned: list[dict[str, float]] = field(default_factory=list)

    def score_one(self, x: dict[Any, Any]) -> float:
        x.clear()
        return self.scores(self.random)

    def learn_one(self, x: dict[Any, Any]) -> None:
        self.learned.append(x)


@pytest.mark.parametrize(
    "scores",
    [
        lambda random: random.lognormal(0, 3),
        lambda random: 1 - random.random() ** 8 * 1e-6,
        lambda random: float(random.random() < 0.1),
        lambda _: 0.0,
        lambda random: np.inf if random.random() < 0.3 else -1e9,
    ],
    ids=["skewed", "crowded at 1", "two values", "constant", "infinite"],
)
def test_whatever_the_scale_of_a_score_its_reading_is_standard_normal_in_health(
    scores: Callable[[np.random.Generator], float],
) -> None:
    plugged = Plugged(MODEL, assets=1, stages=[DetectorStage(name="it", make=lambda: Scripted(scores))])
    told = plugged.assess(resonance(1500))
    residual = told.residual[500:, 0, 3]
    assert np.isfinite(residual).all()
    assert np.mean(residual) == pytest.approx(0, abs=0.35), "the references are a finite sample"
    assert np.std(residual) == pytest.approx(1, abs=0.25)
    assert not (told.condition == Condition.ALARM).any()


def test_a_detector_that_tells_no_number_has_no_say() -> None:
    stage = DetectorStage(name="it", make=lambda: Scripted(lambda _: np.nan))
    told = Plugged(MODEL, assets=1, stages=[stage]).assess(resonance(500))
    assert (told.quality[:, 0, 3] == Quality.MISSING).all()
    assert not told.contribution[:, 0, 3].any()
    assert told.anomaly_score[400:].any()


def test_a_detector_is_shown_good_readings_of_running_healthy_machines_only() -> None:
    """It learns nothing of the fault, not even the beginning that was not evident yet."""
    shown: list[Scripted] = []

    def make() -> Scripted:
        shown.append(Scripted(lambda random: random.random()))
        return shown[-1]

    running = Running(signal="speed", above=0.05)
    asset_type = AssetType(asset_type="fan", title=MODEL.asset_type.title, signals=SIGNALS, running=running)
    settings = Settings(baseline_samples=BASELINE_SAMPLES, settling_hours=0.0)
    history = resonance(900, rise=0.0)
    values = history.values.copy()
    values[700:, 0, 2] += 0.004 * np.arange(200)
    values[300, 0, 1] = 400.0
    stage = DetectorStage(name="it", make=make, reads="readings", signals=("speed", "temperature", "vibration"))
    told = Plugged(replace(MODEL, asset_type=asset_type, settings=settings), assets=1, stages=[stage]).assess(
        block(values)
    )
    (detector,) = shown
    assert told.condition[-1, 0] == Condition.ALARM
    learned = {x["vibration"] for x in detector.learned}
    steps = [i for i, vibration in enumerate(values[:, 0, 2]) if vibration in learned]
    assert all(values[i, 0, 0] > 0.05 for i in steps)
    assert max(steps) < 710, "the fault is not half a standard deviation then, and far from evident"
    assert len(steps) > 500
    (shown_at_300,) = [x for x in detector.learned if x["vibration"] == values[300, 0, 2]]
    assert shown_at_300.keys() == {"speed", "vibration"}


class FiresEvery300:
    def __init__(self) -> None:
        self.seen = 0
        self.drift_detected = False

    def update(self, _: float, /) -> None:
        self.seen += 1
        self.drift_detected = self.seen % 300 == 0


def test_one_false_word_of_a_drift_detector_is_no_alarm() -> None:
    stage = DriftStage(name="drift", make=FiresEvery300, signal="vibration")
    for seed in range(4):
        told = Plugged(MODEL, assets=1, stages=[stage]).assess(resonance(1300, seed=seed))
        raised = np.flatnonzero(told.residual[400:, 0, 3] > 2.0)
        assert len(raised) < 0.06 * 900, "some by chance, as of any standard normal number"
        assert not (told.condition == Condition.ALARM).any()


def test_a_drift_detector_that_fires_adds_to_the_evidence() -> None:
    history = resonance(900)
    history.values[700:, 0, 2] += 0.25
    stage = DriftStage(name="drift", make=drift.ADWIN, signal="vibration", hold=30)
    told = Plugged(MODEL, assets=1, stages=[stage]).assess(history)
    assert told.contribution[700:, 0, 3].max() > 2 * told.contribution[500:700, 0, 3].max()


# --- what is refused ------------------------------------------------------------------------------------------------


def refused(*stages: Stage, asset_type: AssetType = MODEL.asset_type) -> str:
    with pytest.raises(ValueError, match=": ") as caught:
        Plugged(replace(MODEL, asset_type=asset_type), assets=1, stages=stages)
    return str(caught.value)


def test_stages_that_cannot_serve_are_refused_by_name(boosted: Any) -> None:
    trees = DetectorStage(name="trees", make=half_space_trees)
    heat = FittedExpectation(signal="temperature", regressor=boosted)
    assert "detector vibration: give each detector a name" in refused(replace(trees, name="vibration"))
    assert "detector trees: give each detector a name" in refused(trees, trees)
    assert "detector a b: name it with letters" in refused(replace(trees, name="a b"))
    assert "detector trees: noise is no signal" in refused(replace(trees, signals=("noise",)))
    assert "detector trees: speed: a regime signal has no residual" in refused(replace(trees, signals=("speed",)))
    assert "expectation of noise: noise is no signal" in refused(replace(heat, signal="noise"))
    assert "expectation of speed: explain a condition signal" in refused(replace(heat, signal="speed"))
    assert "expectation of temperature: explain each signal once" in refused(heat, heat)
    assert "cannot explain itself" in refused(replace(heat, inputs=("temperature",)))
    no_regime = generic_asset_type(SIGNALS[1:])
    assert "expectation of temperature: name its inputs" in refused(heat, asset_type=no_regime)
    running = Running(signal="temperature", above=20.0)
    stops = AssetType(asset_type="fan", title=MODEL.asset_type.title, signals=SIGNALS, running=running)
    assert "it tells whether the machine runs" in refused(heat, asset_type=stops)
    many = [replace(trees, name=f"t{i}") for i in range(62)]
    assert "stages: signals and detectors together" in refused(*many)


def test_a_regressor_of_another_shape_is_refused_by_name() -> None:
    class Two:
        def predict(self, x: Floats) -> Floats:
            return np.zeros((len(x), 2))

    plugged = Plugged(MODEL, assets=1, stages=[FittedExpectation(signal="temperature", regressor=Two())])
    with pytest.raises(ValueError, match=r"expectation of temperature: predict gave \(3, 2\)"):
        plugged.assess(resonance(3))


def test_the_examples_of_the_guide_run() -> None:
    guide = Path(__file__).parents[2] / "docs" / "models.md"
    section = guide.read_text("utf-8").partition("## Open to the ecosystem")[2] if guide.exists() else ""
    if not section:
        pytest.skip("docs/models.md has no section on the ecosystem")
    examples = re.findall(r"```python\n(.*?)```", section.partition("\n## ")[0], re.DOTALL)
    assert examples
    for example in examples:
        exec(compile(example, str(guide), "exec"), {})  # noqa: S102


def test_without_stages_it_is_the_kernel() -> None:
    history = resonance(500, rise=3.0, from_step=400)
    alone, _ = assess(MODEL, new_state(MODEL, 1), history)
    told = Plugged(MODEL, assets=1, stages=[]).assess(history)
    assert told.anomaly_score == pytest.approx(alone.anomaly_score, abs=1e-9)
    assert told.anomaly_score.any()
    assert np.array_equal(told.condition, alone.condition)

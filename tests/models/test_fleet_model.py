"""The fleet model on the edge: scikit-learn's answers, paths in blocks of any length, nothing unsound is loaded."""

import io
from dataclasses import replace
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neural_network import MLPRegressor

from forewarn_cloud.history.fleet_fit import with_regressors
from forewarn_models.assessment import Block
from forewarn_models.asset_type import Signal, generic_asset_type
from forewarn_models.fleet_model import (
    FleetModel,
    FleetModelArrays,
    FleetModelError,
    FleetModelHeader,
    check_signals,
    hours_of_scale,
    load_fleet_model,
    predicted_level,
    predicted_life,
    save_fleet_model,
    scale_of_hours,
)
from forewarn_models.kernel import (
    Model,
    Settings,
    assess,
    dump_state,
    load_state,
    new_state,
    reset_baseline,
)
from forewarn_models.knowledge import FleetKnowledge, KnowledgeError, load_knowledge, save_knowledge
from forewarn_models.layout import Floats

HOUR_MS = 3_600_000
START_MS = 1_767_571_200_000
CONDITION, REGIME = ("flow", "heat"), ("load",)


def fleet_model(seed: int = 1, networks: int = 2) -> FleetModel:
    """A model with every part at work: two condition signals, one regime signal, two horizons, random networks."""
    random = np.random.default_rng(seed)
    features = 3 * 2 + 1
    return FleetModel(
        header=FleetModelHeader(
            condition=CONDITION,
            regime=REGIME,
            lives=20,
            knee_hours=100.0,
            life_shape=3.0,
            life_scale_hours=200.0,
            longest_hours=400.0,
        ),
        arrays=FleetModelArrays(
            horizons_hours=np.array([3.0, 20.0]),
            regime_origin=np.array([50.0]),
            regime_scale=np.array([10.0]),
            regime_low=np.array([-2.0]),
            regime_high=np.array([2.0]),
            expected=np.array([[10.0, 40.0], [1.0, 3.0], [0.1, 0.0]]),
            log_spread=np.array([[0.0, 0.5], [0.1, 0.0], [0.0, 0.0]]),
            relevance=np.ones(2),
            components=np.array([[0.8, 0.6], [-0.6, 0.8]]),
            feature_low=np.full(features, -3.0),
            feature_high=np.append(np.full(features - 1, 3.0), 400.0),
            feature_mean=np.append(np.zeros(features - 1), 100.0),
            feature_scale=np.append(np.ones(features - 1), 60.0),
            weight_1=random.normal(0, 0.4, (networks, features, 5)),
            bias_1=random.normal(0, 0.4, (networks, 5)),
            weight_2=random.normal(0, 0.4, (networks, 5, 4)),
            bias_2=random.normal(0, 0.4, (networks, 4)),
            weight_3=random.normal(0, 0.4, (networks, 4)),
            bias_3=np.full(networks, 0.5),
            curve_level=np.array([0.1, 0.7, 1.0]),
            curve_offset=np.array([[-0.05, 0.0, 0.05], [-0.1, 0.0, 0.3], [0.1, 0.5, 2.0]]),
        ),
    )


def knowledge(fleet: FleetModel | None) -> FleetKnowledge:
    return FleetKnowledge(
        asset_type="fan",
        failures=20,
        censored=0,
        failure_log_severity=1.5,
        failure_log_spread=0.5,
        log_severity=(0.0, 1.0),
        log_rul_hours=(5.0, 2.0),
        log_rul_spread=(0.5, 0.5),
        life_shape=3.0,
        life_scale_hours=200.0,
        alarm_hours=60.0,
        fleet_model=fleet,
    )


def model(fleet: FleetModel | None) -> Model:
    signals = (
        Signal(name="load", unit="%", role="regime"),
        Signal(name="flow", unit="m3/h"),
        Signal(name="heat", unit="degC"),
    )
    return Model(
        asset_type=generic_asset_type(signals, "fan"),
        settings=Settings(baseline_samples=50),
        knowledge=knowledge(fleet),
    )


MODEL = model(fleet_model())


def history(steps: int, assets: int = 1, seed: int = 3) -> Block:
    """Hourly, not evenly; a fault grows."""
    random = np.random.default_rng(seed)
    load = random.normal(50, 8, (steps, assets))
    wear = np.linspace(0, 3, steps)[:, None]
    flow = 10 + load / 10 + wear + random.normal(0, 1, load.shape)
    heat = 40 + load / 4 - wear + random.normal(0, 1, load.shape)
    t_ms = START_MS + np.cumsum(random.integers(HOUR_MS // 2, 2 * HOUR_MS, (steps, assets)), axis=0)
    return Block(t_ms=t_ms, values=np.stack([load, flow, heat], axis=2))


def part(block: Block, start: int, stop: int) -> Block:
    return Block(t_ms=block.t_ms[start:stop], values=block.values[start:stop])


def told(kernel: Model, block: Block, cuts: list[int]) -> Floats:
    """(n, assets, 3) what is told when the block comes in pieces."""
    state, pieces = new_state(kernel, block.t_ms.shape[1]), []
    edges = [0, *sorted(cuts), len(block.t_ms)]
    for start, stop in pairwise(edges):
        if stop > start:
            assessment, state = assess(kernel, state, part(block, start, stop))
            pieces.append(assessment.rul_hours)
    return np.concatenate(pieces)


# --- scikit-learn ---------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**31 - 1), st.integers(1, 12), st.integers(1, 9), st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_networks_from_arrays_answer_as_scikit_learn_does(seed: int, first: int, second: int, networks: int) -> None:
    random = np.random.default_rng(seed)
    arrays = fleet_model().arrays
    features = random.normal(0, 1, (40, len(arrays.feature_mean))).clip(-2.5, 2.5)
    features[:, -1] = random.uniform(0, 390, 40)
    x = (features - arrays.feature_mean) / arrays.feature_scale
    target = random.normal(0, 1, 40)
    fitted = [_network((first, second), seed + i).fit(x, target) for i in range(networks)]
    expected = 0.6 + 0.2 * np.mean([each.predict(x) for each in fitted], axis=0)
    answer = predicted_level(with_regressors(arrays, fitted, 0.6, 0.2), features)
    assert answer == pytest.approx(np.clip(expected, 0, 1), abs=1e-9)


def _network(hidden: tuple[int, int], seed: int) -> MLPRegressor:
    return MLPRegressor(hidden_layer_sizes=hidden, solver="lbfgs", max_iter=3, tol=1e9, random_state=seed % 2**31)


# --- the path -------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 89), max_size=8), st.integers(0, 100), st.floats(0, 0.6))
@settings(max_examples=25, deadline=None)
def test_blocks_of_any_length_tell_the_same_also_with_gaps(cuts: list[int], seed: int, missing: float) -> None:
    block = history(90, seed=seed)
    lost = np.random.default_rng(seed).random(block.values.shape) < missing
    gappy = Block(t_ms=block.t_ms, values=np.where(lost, np.nan, block.values))
    whole, pieces = told(MODEL, gappy, []), told(MODEL, gappy, cuts)
    assert np.isfinite(whole).all()
    assert pieces == pytest.approx(whole, rel=1e-9, abs=1e-9)


def test_a_fleet_is_told_what_each_asset_alone_is_told() -> None:
    block = history(70, assets=3)
    together = told(MODEL, block, [])
    for a in range(3):
        alone = told(MODEL, Block(t_ms=block.t_ms[:, a : a + 1], values=block.values[:, a : a + 1]), [13])
        assert alone[:, 0] == pytest.approx(together[:, a], rel=1e-9, abs=1e-9)


def test_averages_weigh_each_sample_by_its_age_and_leave_out_what_is_missing() -> None:
    block = history(40)
    block.values[10:15, 0, 1] = np.nan
    block.values[20, 0, 0] = np.nan
    _, state = assess(MODEL, new_state(MODEL, 1), block)
    arrays = fleet_model().arrays
    hours = (block.t_ms[:, 0] - block.t_ms[-1, 0]) / HOUR_MS
    scaled = np.clip((block.values[:, 0, 0] - 50) / 10, -2, 2)
    expected = 10 + scaled + 0.1 * scaled**2
    z = np.clip((block.values[:, 0, 1] - expected) / np.exp(0.1 * scaled), -6, 6)
    for h, horizon in enumerate([*arrays.horizons_hours, np.inf]):
        weight = np.where(np.isfinite(z), np.exp(hours / horizon), 0.0)
        mean = state.path.total[0, h, 0] / state.path.weight[0, h, 0]
        assert mean == pytest.approx(np.average(np.nan_to_num(z), weights=weight), abs=1e-9)


def test_one_spike_moves_a_path_no_more_than_the_largest_deviation() -> None:
    spiked, cut = history(30), history(30)
    spiked.values[25, 0, 1] = 1e12
    cut.values[25, 0, 1] = 1e3
    assert told(MODEL, spiked, []) == pytest.approx(told(MODEL, cut, []), rel=1e-12)


def test_a_saved_path_goes_on_as_if_nothing_had_been() -> None:
    block = history(60)
    _, state = assess(MODEL, new_state(MODEL, 1), part(block, 0, 31))
    assert len(dump_state(MODEL, state)) < 16 * 1024
    again, _ = assess(MODEL, load_state(MODEL, dump_state(MODEL, state)), part(block, 31, 60))
    assert (again.rul_hours == told(MODEL, block, [31])[31:]).all()


def test_a_repair_begins_a_new_path_and_a_new_age() -> None:
    block = history(60)
    _, state = assess(MODEL, new_state(MODEL, 1), part(block, 0, 30))
    state = reset_baseline(MODEL, state, 0, int(block.t_ms[29, 0]))
    after, _ = assess(MODEL, state, part(block, 30, 60))
    fresh, _ = assess(MODEL, new_state(MODEL, 1), part(block, 30, 60))
    assert after.rul_hours == pytest.approx(fresh.rul_hours, rel=1e-9)


def test_without_a_fleet_model_the_path_costs_nothing_and_nothing_is_told_in_health() -> None:
    plain = model(None)
    state = new_state(plain, 5)
    assert state.path.total.nbytes == state.path.weight.nbytes == 0
    assert np.isnan(told(plain, history(30), [])).all()


def test_the_hash_of_the_model_covers_the_arrays() -> None:
    fleet = fleet_model()
    other = replace(fleet, arrays=replace(fleet.arrays, bias_3=fleet.arrays.bias_3 + 1e-12))
    assert model(fleet).hash == MODEL.hash
    assert len({model(fleet).hash, model(other).hash, model(None).hash}) == 3


# --- the distribution -----------------------------------------------------------------------------------------------


@given(st.floats(0, 1000), st.floats(0, 390))
def test_hours_and_their_scale_are_inverse(rul_hours: float, age_hours: float) -> None:
    header = fleet_model().header
    rul, age = np.array([rul_hours]), np.array([age_hours])
    assert hours_of_scale(header, scale_of_hours(header, rul, age), age) == pytest.approx(rul, rel=1e-6, abs=1e-6)


def test_beyond_the_knee_the_scale_is_exponential_under_the_survival_prior_at_every_age() -> None:
    header = fleet_model().header
    lives = header.life_scale_hours * np.random.default_rng(1).weibull(header.life_shape, 400_000)
    for age in (0.0, 60.0):
        beyond = lives[lives > age + header.knee_hours] - age
        excess = scale_of_hours(header, beyond, np.full(len(beyond), age)) - 1.0
        assert np.quantile(excess, [0.1, 0.5, 0.9]) == pytest.approx(-np.log([0.9, 0.5, 0.1]), rel=0.05)


@given(st.lists(st.floats(-1e6, 1e6), min_size=7, max_size=7))
def test_quantiles_are_finite_in_order_and_not_negative(features: list[float]) -> None:
    rul = predicted_life(fleet_model(), np.array([features]))
    assert np.isfinite(rul).all()
    assert (np.diff(rul[0]) >= 0).all()
    assert (rul >= 0).all()


# --- on disk --------------------------------------------------------------------------------------------------------


def test_a_saved_model_is_the_same_model_in_the_same_bytes() -> None:
    saved = save_knowledge(knowledge(fleet_model()))
    assert saved == save_knowledge(knowledge(fleet_model()))
    loaded = load_knowledge(saved)
    block = history(40)
    assert (told(replace(MODEL, knowledge=loaded), block, []) == told(MODEL, block, [])).all()
    assert replace(MODEL, knowledge=loaded).hash == MODEL.hash


def _arrays(**changes: Any) -> bytes:
    with np.load(io.BytesIO(save_fleet_model(fleet_model())[1])) as stored:
        arrays = {**{name: stored[name] for name in stored.files}, **changes}
    stream = io.BytesIO()
    np.savez(stream, **{name: array for name, array in arrays.items() if array is not None})
    return stream.getvalue()


BIASES = np.zeros((2, 5))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"bias_1": np.where(np.eye(2, 5) > 0, np.nan, BIASES)}, "bias_1: NaN"),
        ({"bias_1": np.where(np.eye(2, 5) > 0, np.inf, BIASES)}, "bias_1: NaN or infinite"),
        ({"bias_1": np.zeros((2, 6))}, "bias_1: shape"),
        ({"bias_1": np.zeros(5)}, "bias_1: 1 dimensions"),
        ({"bias_1": BIASES.astype(np.float32)}, "bias_1: float32"),
        ({"bias_1": None}, "the arrays must be"),
        ({"more": BIASES}, "the arrays must be"),
        ({"bias_1": BIASES.astype(object)}, "cannot be read"),
        ({"components": np.zeros((2, 3))}, "path features"),
        ({"components": np.zeros((3, 2))}, "components: shape"),
        ({"regime_scale": np.zeros(1)}, "regime_scale: must be positive"),
        ({"curve_level": np.array([0.1, 0.1, 1.0])}, "curve_level"),
        ({"curve_offset": np.zeros((3, 3)) - np.arange(3)}, "curve_offset"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_by_name(changes: dict[str, Any], named: str) -> None:
    header, _ = save_fleet_model(fleet_model())
    with pytest.raises(FleetModelError, match=named):
        load_fleet_model(header, _arrays(**changes))


@pytest.mark.parametrize("blob", [b"", b"\x80\x04K\x01.", b"PK\x03\x04", save_fleet_model(fleet_model())[1][:500]])
def test_what_is_no_npz_is_refused(blob: bytes) -> None:
    with pytest.raises(FleetModelError, match="cannot be read"):
        load_fleet_model(save_fleet_model(fleet_model())[0], blob)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"format": 2}, "format: 2 is not known"),
        ({"knee_hours": 0.0}, "knee_hours"),
        ({"condition": ["flow"]}, "expected: shape"),
        ({"more": 1}, "more"),
        ({"lives": "many"}, "lives"),
    ],
)
def test_a_header_that_does_not_fit_is_refused_by_name(change: dict[str, Any], named: str) -> None:
    fields = {**msgspec.to_builtins(fleet_model().header), **change}
    with pytest.raises(FleetModelError, match=named):
        load_fleet_model(msgspec.json.encode(fields), _arrays())


def test_half_a_fleet_model_is_refused() -> None:
    saved = save_knowledge(knowledge(fleet_model()))
    del saved["fleet_arrays"]
    with pytest.raises(KnowledgeError, match="a part of the fleet model is missing"):
        load_knowledge(saved)


@pytest.mark.parametrize(
    ("condition", "regime", "said"),
    [
        (("flow",), ("load",), "with the signals heat, which this machine lacks"),
        (("flow", "heat", "noise"), ("load",), "without the signals noise"),
        (("heat", "flow"), ("load",), "learned with flow where this machine has heat as a condition signal"),
        (("flow", "load"), ("heat",), "learned with heat where this machine has load as a condition signal"),
        (("flow",), ("load", "heat"), "learned with heat where this machine has nothing more as a condition signal"),
    ],
)
def test_a_machine_with_other_signals_is_refused(
    condition: tuple[str, ...], regime: tuple[str, ...], said: str
) -> None:
    check_signals(fleet_model(), CONDITION, REGIME)
    with pytest.raises(FleetModelError, match=said):
        check_signals(fleet_model(), condition, regime)

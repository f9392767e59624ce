"""The softmax over failure modes: what it says before any finding, what findings change, and what they cannot."""

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forewarn_models.asset_type import AssetType, FailureMode, Signal, Text, builtin_asset_type, builtin_names
from forewarn_models.diagnosis import (
    DiagnosisError,
    DiagnosisModel,
    FoundFault,
    carried_over,
    diagnose,
    dump_diagnosis,
    learn,
    load_diagnosis,
    mode_probabilities,
    new_diagnosis,
    pattern_of,
    revised,
)
from forewarn_models.layout import Settings, layout_of
from forewarn_models.wire import Advisory, ModelRef

PUMP = builtin_asset_type("centrifugal_pump")
FRESH = new_diagnosis(PUMP)
NAMES = FRESH.signals
SEAL_LEAK = FoundFault(outcome="CONFIRMED", suspected="seal_leak", found="seal_leak")
BEARING_WEAR = FoundFault(outcome="CONFIRMED", suspected="bearing_wear", found="bearing_wear")
NO_FAULT = FoundFault(outcome="NO_FAULT_FOUND", suspected="seal_leak")

finding = st.builds(
    FoundFault,
    outcome=st.sampled_from(["CONFIRMED", "OTHER_FAULT", "NO_FAULT_FOUND"]),
    suspected=st.sampled_from([*FRESH.failure_modes, "unspecified", None]),
    found=st.sampled_from([*FRESH.failure_modes, "unspecified", None]),
)


@st.composite
def pattern(draw: st.DrawFn) -> tuple[float, ...]:
    """Of unit length, or shorter."""
    x = np.array(draw(st.lists(st.floats(-1, 1), min_size=len(NAMES), max_size=len(NAMES))))
    return tuple((x / max(1.0, float(np.linalg.norm(x)))).tolist())


def pattern_with(**parts: float) -> tuple[float, ...]:
    """Shares of the score, with the sign of the residual, as a pattern."""
    return tuple(math.copysign(math.sqrt(abs(parts.get(name, 0.0))), parts.get(name, 0.0)) for name in NAMES)


AMBIGUOUS = pattern_with(vibration_rms_mm_s=0.65, seal_leakage_ml_h=0.35)
CLEAR = pattern_with(seal_leakage_ml_h=0.97, flow_m3_h=-0.03)


def first(probabilities: dict[str, float]) -> str:
    return max(probabilities, key=lambda mode: probabilities[mode])


def after(*findings: FoundFault, pattern: tuple[float, ...], model: DiagnosisModel = FRESH) -> DiagnosisModel:
    for one in findings:
        model = learn(model, pattern, one)
    return model


def advisory(shares: dict[str, float], score: float = 2.0, significance: dict[str, float] | None = None) -> Advisory:
    return Advisory(
        asset="pump-1",
        asset_type=PUMP.asset_type,
        observed_at=1,
        condition="ALARM",
        health_index=0.5,
        anomaly_score=score,
        contributions={name: score * abs(share) for name, share in shares.items()},
        failure_modes={},
        rul_hours=None,
        maturity="MATURE",
        model=ModelRef(id="m", hash="h"),
        residuals={name: 7.0 * share for name, share in shares.items()},
        significance=significance or {},
    )


# --- before any finding ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", builtin_names())
def test_every_failure_mode_is_recognised_by_its_own_symptoms(name: str) -> None:
    asset_type = builtin_asset_type(name)
    model = new_diagnosis(asset_type)
    for mode, symptoms in zip(asset_type.failure_modes, model.symptoms, strict=True):
        probabilities = diagnose(model, symptoms)
        assert first(probabilities) == mode.code
        assert probabilities[mode.code] > 0.9


@pytest.mark.parametrize("name", builtin_names())
def test_deviations_opposite_to_all_symptoms_are_none_of_these(name: str) -> None:
    model = new_diagnosis(builtin_asset_type(name))
    total = np.sum(model.symptoms, axis=0)
    assert sum(diagnose(model, tuple((-total / np.linalg.norm(total)).tolist())).values()) < 0.01


def test_the_edge_and_the_cloud_say_the_same_of_an_advisory() -> None:
    far = {"vibration_rms_mm_s": 9.0, "bearing_temperature_c": 4.0, "flow_m3_h": -2.5, "seal_leakage_ml_h": -6.0}
    significance = np.array([[[far.get(name, 0.3) for name in NAMES]]])
    edge = mode_probabilities(layout_of(PUMP, Settings()), significance, np.array([[True]]))[0, 0]
    seen = pattern_of(PUMP, advisory({}, significance={name: far.get(name, 0.3) for name in NAMES}))
    assert seen is not None
    assert list(diagnose(FRESH, seen).values()) == pytest.approx(edge.tolist(), abs=1e-12)


@pytest.mark.parametrize("times", [1.0, 3.0, 100.0])
def test_a_diagnosis_hardly_depends_on_how_far_the_signals_deviate(times: float) -> None:
    far = {"seal_leakage_ml_h": 8.0 * times, "flow_m3_h": -2.0 * times}
    seen = pattern_of(PUMP, advisory({}, significance=far))
    assert seen is not None
    assert diagnose(FRESH, seen)["seal_leak"] == pytest.approx(diagnose(FRESH, CLEAR)["seal_leak"], abs=0.02)


def test_without_evidence_there_is_no_pattern_and_no_probability() -> None:
    assert pattern_of(PUMP, advisory({"seal_leakage_ml_h": 1.0}, score=0.0)) is None
    assert pattern_of(PUMP, advisory({})) is None
    assert pattern_of(PUMP, advisory({}, significance={"seal_leakage_ml_h": 0.9})) is None
    far = np.full((1, 1, len(NAMES)), 5.0)
    assert not mode_probabilities(layout_of(PUMP, Settings()), far, np.array([[False]])).any()


def test_deviations_to_the_good_side_say_nothing() -> None:
    """Vibration has become less, and the seal leaks."""
    alone = pattern_of(PUMP, advisory({}, significance={"seal_leakage_ml_h": 8.0}))
    both = pattern_of(PUMP, advisory({}, significance={"seal_leakage_ml_h": 8.0, "vibration_rms_mm_s": -9.0}))
    assert alone == both == pattern_with(seal_leakage_ml_h=1.0)


@pytest.mark.parametrize("noise", [0.9, -1.4])
def test_what_deviates_in_no_direction_is_none_of_these(noise: float) -> None:
    """As when a signal only becomes noisier: nothing stands out from chance, so nothing is said of a mode."""
    far = np.full((1, 1, len(NAMES)), noise)
    assert mode_probabilities(layout_of(PUMP, Settings()), far, np.array([[True]])).sum() < 0.1


def test_an_advisory_made_by_hand_has_the_pattern_of_its_shares() -> None:
    told = advisory({"seal_leakage_ml_h": 0.75, "flow_m3_h": -0.25})
    assert pattern_of(PUMP, told) == pytest.approx(pattern_with(seal_leakage_ml_h=0.75, flow_m3_h=-0.25))
    assert pattern_of(PUMP, msgspec.structs.replace(told, residuals={})) is None


# --- what findings teach --------------------------------------------------------------------------------------------


def test_two_confirmed_findings_make_an_ambiguous_pattern_the_confirmed_mode() -> None:
    assert first(diagnose(FRESH, AMBIGUOUS)) == "bearing_wear"
    taught = after(SEAL_LEAK, SEAL_LEAK, pattern=AMBIGUOUS)
    probabilities = diagnose(taught, AMBIGUOUS)
    assert first(probabilities) == "seal_leak"
    assert probabilities["seal_leak"] > probabilities["bearing_wear"] + 0.1


@pytest.mark.parametrize("wrong", [BEARING_WEAR, NO_FAULT, FoundFault(outcome="OTHER_FAULT", suspected="seal_leak")])
def test_one_wrong_finding_does_not_flip_a_clear_diagnosis(wrong: FoundFault) -> None:
    probabilities = diagnose(learn(FRESH, CLEAR, wrong), CLEAR)
    assert first(probabilities) == "seal_leak"
    assert 0.5 < probabilities["seal_leak"] < diagnose(FRESH, CLEAR)["seal_leak"]


def test_many_findings_against_the_table_win() -> None:
    taught = after(*[BEARING_WEAR] * 16, pattern=CLEAR)
    assert first(diagnose(taught, CLEAR)) == "bearing_wear"


def test_what_was_learned_of_one_pattern_hardly_touches_an_unlike_one() -> None:
    impeller = FRESH.symptoms[FRESH.failure_modes.index("impeller_wear")]
    taught = after(*[BEARING_WEAR] * 3, pattern=CLEAR)
    assert first(diagnose(taught, impeller)) == "impeller_wear"
    assert diagnose(taught, impeller)["impeller_wear"] > 0.9


def test_a_mode_ruled_out_loses_and_the_others_share_what_it_had() -> None:
    before = diagnose(FRESH, AMBIGUOUS)
    taught = diagnose(learn(FRESH, AMBIGUOUS, FoundFault(outcome="OTHER_FAULT", suspected="bearing_wear")), AMBIGUOUS)
    assert taught["bearing_wear"] < before["bearing_wear"]
    assert taught["seal_leak"] > before["seal_leak"]


def test_no_fault_found_makes_none_of_these_likelier_and_weighs_half() -> None:
    def moved(finding: FoundFault) -> float:
        taught = diagnose(learn(FRESH, AMBIGUOUS, finding), AMBIGUOUS)
        return sum(diagnose(FRESH, AMBIGUOUS).values()) - sum(taught.values())

    assert moved(NO_FAULT) > 0
    shift = np.array(learn(FRESH, AMBIGUOUS, NO_FAULT).learned)[-1]
    full = 0.4 * sum(diagnose(FRESH, AMBIGUOUS).values())
    assert np.linalg.norm(shift) == pytest.approx(full / 2 * math.sqrt(1.25), rel=1e-6)


@pytest.mark.parametrize(
    "empty",
    [
        FoundFault(outcome="CONFIRMED", suspected="unspecified", found="unspecified"),
        FoundFault(outcome="OTHER_FAULT", suspected="unspecified"),
        FoundFault(outcome="CONFIRMED", suspected=None),
    ],
)
def test_a_finding_that_names_nothing_teaches_nothing(empty: FoundFault) -> None:
    assert learn(FRESH, AMBIGUOUS, empty) == FRESH


# --- bounds ---------------------------------------------------------------------------------------------------------


def log_odds(model: DiagnosisModel, seen: tuple[float, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    probabilities = diagnose(model, seen)
    values = np.array([*probabilities.values(), 1.0 - math.fsum(probabilities.values())])
    logs = np.log(np.maximum(values, 1e-300))
    odds: np.ndarray[tuple[int, ...], np.dtype[np.float64]] = logs[:, None] - logs[None, :]
    return odds[:-1, :-1]


@given(st.lists(st.tuples(pattern(), finding), max_size=8), pattern(), finding, pattern())
def test_one_finding_changes_no_odds_by_more_than_a_factor_of_e(
    history: list[tuple[tuple[float, ...], FoundFault]],
    seen: tuple[float, ...],
    one: FoundFault,
    asked: tuple[float, ...],
) -> None:
    model = FRESH
    for earlier, found in history:
        model = learn(model, earlier, found)
    change = log_odds(learn(model, seen, one), asked) - log_odds(model, asked)
    assert np.abs(change).max() <= 1.0 + 1e-6


@given(pattern(), finding, st.integers(1, 300))
def test_however_many_findings_the_model_stays_small_bounded_and_readable(
    seen: tuple[float, ...], one: FoundFault, times: int
) -> None:
    model = after(*[one] * times, pattern=seen)
    assert np.linalg.norm(model.learned, axis=1).max() <= 6.0 + 1e-9
    assert len(dump_diagnosis(model)) < 4096
    assert load_diagnosis(dump_diagnosis(model)) == model
    assert all(0.0 <= p <= 1.0 for p in diagnose(model, seen).values())


@pytest.mark.parametrize(
    "seen", [(math.nan, *[0.0] * 5), (math.inf, *[0.0] * 5), (1.0, 1.0, *[0.0] * 4), (1.0,)], ids=str
)
def test_a_pattern_that_cannot_be_is_refused(seen: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="pattern: give 6 finite numbers"):
        diagnose(FRESH, seen)
    with pytest.raises(ValueError, match="pattern: give 6 finite numbers"):
        learn(FRESH, seen, SEAL_LEAK)


# --- what is told of an edge's word -----------------------------------------------------------------------------------


def test_without_findings_what_the_edge_said_stands() -> None:
    told = {"seal_leak": 0.3, "bearing_wear": 0.2}
    assert revised(FRESH, AMBIGUOUS, told) == told


def test_what_an_edge_with_the_same_table_said_becomes_what_the_model_says() -> None:
    taught = after(SEAL_LEAK, NO_FAULT, SEAL_LEAK, pattern=AMBIGUOUS)
    assert revised(taught, AMBIGUOUS, diagnose(FRESH, AMBIGUOUS)) == pytest.approx(diagnose(taught, AMBIGUOUS))


def test_modes_the_model_does_not_know_keep_their_place_and_nothing_is_made_of_nothing() -> None:
    taught = after(SEAL_LEAK, pattern=AMBIGUOUS)
    told = {"seal_leak": 0.3, "casing_crack": 0.3, "cavitation": 0.2}
    now = revised(taught, AMBIGUOUS, told)
    assert now["casing_crack"] / now["cavitation"] == pytest.approx(1.5)
    assert sum(now.values()) < 1.0
    assert revised(taught, AMBIGUOUS, {}) == {}
    assert revised(taught, None, told) == told


# --- stored -----------------------------------------------------------------------------------------------------------


def test_what_was_learned_follows_the_names_when_the_asset_type_changes() -> None:
    taught = after(SEAL_LEAK, SEAL_LEAK, pattern=AMBIGUOUS)
    signals = (Signal(name="noise_db", unit="dB"), *reversed(PUMP.signals))
    crack = FailureMode(code="casing_crack", title=Text(en="Crack", zh="裂纹"), symptoms={"noise_db": 1.0})
    kept = tuple(mode for mode in reversed(PUMP.failure_modes) if mode.code != "impeller_wear")
    newer = msgspec.structs.replace(PUMP, version=2, signals=signals, failure_modes=(crack, *kept))
    moved = carried_over(taught, newer)
    assert moved.findings == 2
    assert moved.failure_modes == ("casing_crack", "seal_leak", "bearing_wear")
    seen = dict(zip(NAMES, AMBIGUOUS, strict=True))
    asked = tuple(seen.get(name, 0.0) for name in moved.signals)
    before, now = diagnose(taught, AMBIGUOUS), diagnose(moved, asked)
    assert now["seal_leak"] / now["bearing_wear"] == pytest.approx(before["seal_leak"] / before["bearing_wear"])
    assert carried_over(taught, PUMP) == taught


def broken(**changes: object) -> str:
    return msgspec.json.encode({**msgspec.to_builtins(FRESH), **changes}).decode()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "diagnosis: "),
        ("[]", "diagnosis: Expected `object`"),
        (broken(format=2), "diagnosis.format: 2 is not 1"),
        (broken(extra=1), "unknown field `extra`"),
        (broken(signals=["a", "a", "b", "c", "d", "e"]), "diagnosis.signals: names one twice"),
        (broken(failure_modes=["../x", "b", "c"]), "diagnosis.failure_modes: holds what is no name"),
        (broken(symptoms=[[0.0] * 6] * 2), "diagnosis.symptoms: must be 3 rows of 6 numbers"),
        (broken(learned=[[0.0] * 6] * 4), "diagnosis.learned: must be 4 rows of 7 numbers"),
        (broken(learned=[[9.0] * 7] * 4), "diagnosis.learned: has a row longer than 6"),
        (broken(learned=[[None] * 7] * 4), "Expected `float`, got `null`"),
        (broken().replace("[[0.0,", "[[NaN,", 1), "diagnosis: "),
        (broken().replace("[[0.0,", "[[1e400,", 1), "diagnosis"),
        (broken(findings=-1), "diagnosis.findings: is negative"),
    ],
)
def test_a_stored_model_that_is_not_right_is_refused_by_name(text: str, says: str) -> None:
    with pytest.raises(DiagnosisError) as refused:
        load_diagnosis(text)
    assert says in str(refused.value)


def test_a_type_without_failure_modes_has_nothing_to_tell_and_nothing_to_learn() -> None:
    plain = AssetType(asset_type="plain", title=Text(en="x", zh="x"), signals=(Signal(name="x", unit=""),))
    model = new_diagnosis(plain)
    assert diagnose(model, (1.0,)) == {}
    assert load_diagnosis(dump_diagnosis(learn(model, (1.0,), SEAL_LEAK))) == model

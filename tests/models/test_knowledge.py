from dataclasses import replace

import msgspec
import numpy as np
import pytest

from forewarn_models.kernel import Model, assess, new_state
from forewarn_models.knowledge import (
    FleetKnowledge,
    KnowledgeError,
    Path,
    fit_knowledge,
    load_knowledge,
    remaining_life_given_severity,
    save_knowledge,
)
from tests.models.conftest import DAY_STEPS, Duty, Fault, pump_history


def growing_path(life_hours: float, *, failed: bool = True, cut_hours: float = 0.0) -> Path:
    """Severity grows exponentially from 0.1 to 5 at the failure."""
    hours = np.arange(0.0, life_hours - cut_hours)
    return Path(hours=hours, severity=0.1 * np.exp(np.log(50.0) * hours / life_hours), failed=failed)


@pytest.fixture(scope="module")
def knowledge() -> FleetKnowledge:
    lives = np.random.default_rng(1).weibull(3.0, 40) * 400 + 50
    failed = [growing_path(float(life)) for life in lives]
    return fit_knowledge("pump", [*failed, growing_path(500.0, failed=False, cut_hours=200.0)])


def test_the_severity_at_failure_is_learned(knowledge: FleetKnowledge) -> None:
    assert np.exp(knowledge.failure_log_severity) == pytest.approx(5.0, rel=0.1)
    assert knowledge.failures == 40
    assert knowledge.censored == 1


def test_the_worse_the_shorter(knowledge: FleetKnowledge) -> None:
    mean, spread = remaining_life_given_severity(knowledge, np.array([0.6, 1.0, 2.0, 4.5]))
    assert (np.diff(mean) < 0).all()
    assert (spread > 0).all()
    truth_hours = 400 * np.log(5.0 / 1.0) / np.log(50.0)
    assert np.exp(mean[1]) == pytest.approx(truth_hours, rel=0.35)


def test_the_life_distribution_is_recovered_with_censored_lives() -> None:
    random = np.random.default_rng(2)
    lives = random.weibull(2.5, 300) * 1000
    cut = random.uniform(300, 1500, 300)
    paths = [growing_path(float(life)) for life, end in zip(lives, cut, strict=True) if life <= end and life > 20]
    paths += [
        growing_path(float(life), failed=False, cut_hours=float(life - end))
        for life, end in zip(lives, cut, strict=True)
        if life > end
    ]
    fitted = fit_knowledge("pump", paths)
    assert fitted.life_shape == pytest.approx(2.5, rel=0.15)
    assert fitted.life_scale_hours == pytest.approx(1000, rel=0.08)


def test_knowledge_comes_back_the_same(knowledge: FleetKnowledge) -> None:
    assert load_knowledge(save_knowledge(knowledge)) == knowledge


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"format": 2}, "format"),
        ({"log_severity": [0.0, 0.0]}, "log_severity"),
        ({"log_rul_spread": []}, "log_rul_spread"),
        ({"life_shape": 0.0}, "life"),
        ({"alarm_hours": 0.0}, "alarm_hours"),
        ({"unknown": 1}, "unknown"),
        ({"failures": "40"}, "failures"),
    ],
)
def test_wrong_knowledge_is_refused_by_name(knowledge: FleetKnowledge, change: dict[str, object], named: str) -> None:
    fields = {**msgspec.to_builtins(knowledge), **change}
    with pytest.raises(KnowledgeError, match=named):
        load_knowledge({"knowledge": msgspec.json.encode(fields)})


def test_what_is_no_knowledge_is_refused() -> None:
    for blob in (b"", b"{", b"\x80\x04K\x01.", b"\xff\xfe", b"[]"):
        with pytest.raises(KnowledgeError):
            load_knowledge({"knowledge": blob})


def test_too_few_failures_say_how_many_are_needed() -> None:
    with pytest.raises(KnowledgeError, match="2 histories end in a failure; at least 3"):
        fit_knowledge("pump", [growing_path(100.0), growing_path(120.0), growing_path(90.0, failed=False)])


def test_histories_without_evidence_are_too_little() -> None:
    flat = Path(hours=np.arange(100.0), severity=np.full(100, 0.2), failed=True)
    with pytest.raises(KnowledgeError, match="show evidence"):
        fit_knowledge("pump", [flat] * 5)


def test_knowledge_of_the_fleet_sharpens_the_prognosis(pump_model: Model) -> None:
    """Learned from six pumps that ran to failure, it brings the median for a seventh closer to the truth."""
    duty = Duty(faults={a: Fault(failure_mode="bearing_wear", from_day=10, to_day=22) for a in range(7)})
    block = pump_history(22, seed=30, assets=7, duty=duty)
    alone, _ = assess(pump_model, new_state(pump_model, 7), block)
    hours = (block.t_ms[:, 0] - block.t_ms[0, 0]) / 3.6e6
    paths = [Path(hours=hours, severity=alone.anomaly_score[:, a], failed=True) for a in range(6)]
    informed_model = replace(pump_model, knowledge=fit_knowledge("centrifugal_pump", paths))
    informed, _ = assess(informed_model, new_state(informed_model, 7), block)

    late = slice(19 * DAY_STEPS, 21 * DAY_STEPS, 12)
    truth = 22 * 24 - hours[late]
    errors = [np.nanmedian(np.abs(np.log(told.rul_hours[late, 6, 1] / truth))) for told in (alone, informed)]
    assert errors[1] < errors[0]
    assert informed.health_index[21 * DAY_STEPS, 6] < 0.3

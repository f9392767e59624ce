"""How a run of evidence begins, goes on and ends: pure, one advisory at a time."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from forewarn_cloud.entities import Episode
from forewarn_cloud.service.catalogue import asset_type_of
from forewarn_cloud.service.episodes import Step, follow
from forewarn_cloud.service.evidence import weigh
from forewarn_cloud.service.policy import Policy
from forewarn_models.wire import Advisory, RulHours
from tests.cloud.world import HOUR_MS, START_MS, advisory, normal

PUMP = asset_type_of("centrifugal_pump")
POLICY = Policy()
OVER_ALERT_LIMIT: dict[str, Any] = {
    "condition": "ALERT",
    "limits_exceeded": ("vibration_rms_mm_s",),
    "failure_modes": {},
    "rul_hours": None,
    "since": None,
}
"""A hot day, or a sensor that has jumped into another unit while the machine stood still."""


def step(
    episode: Episode | None,
    heard: Advisory,
    repaired_at: int | None = None,
    *,
    reset_pending: bool = False,
    order_open: bool = False,
) -> Step:
    return follow(
        episode,
        heard,
        PUMP,
        POLICY,
        tenant="local",
        now_ms=heard.observed_at + 1000,
        repaired_at=repaired_at,
        reset_pending=reset_pending,
        order_open=order_open,
        make_id=lambda: "e1",
    )


def opened() -> Episode:
    first = step(None, advisory())
    assert (first.event, first.episode is not None) == ("opened", True)
    assert first.episode is not None
    return first.episode


@pytest.mark.parametrize(
    ("changes", "opens", "trusted"),
    [
        ({}, True, True),
        ({"failure_modes": {}, "rul_hours": None}, True, True),
        ({"condition": "ALERT"}, True, True),
        ({"condition": "ALERT", "rul_hours": None}, True, True),
        ({"condition": "ALERT", "failure_modes": {}}, True, True),
        ({"condition": "ALERT", "failure_modes": {}, "rul_hours": None}, False, False),
        ({"condition": "ALERT", "failure_modes": {"seal_leak": 0.3}, "rul_hours": None}, False, False),
        ({"condition": "NORMAL", "failure_modes": {}, "rul_hours": None}, False, False),
        ({"condition": "UNKNOWN", "rul_hours": None}, False, False),
        ({"maturity": "LEARNING"}, True, False),
        ({"maturity": "LEARNING", "limits_exceeded": ("vibration_rms_mm_s",)}, True, True),
        ({"condition": "NORMAL", "limits_exceeded": ("vibration_rms_mm_s",)}, True, True),
        (OVER_ALERT_LIMIT, False, True),
        ({**OVER_ALERT_LIMIT, "maturity": "LEARNING"}, True, True),
        ({**OVER_ALERT_LIMIT, "failure_modes": {"bearing_wear": 0.8}}, True, True),
        ({**OVER_ALERT_LIMIT, "condition": "ALARM"}, True, True),
        ({"failure_modes": {"not_of_this_type": 0.9}}, True, True),
    ],
)
def test_what_an_advisory_proves(changes: dict[str, Any], opens: bool, trusted: bool) -> None:
    evidence = weigh(advisory(**changes), PUMP, POLICY)
    assert (evidence.opens, evidence.trusted) == (opens, trusted)


def test_only_a_failure_mode_the_type_knows_and_that_is_likely_is_named() -> None:
    def named(**modes: float) -> str | None:
        mode = weigh(advisory(failure_modes=modes), PUMP, POLICY).failure_mode
        return mode.code if mode is not None else None

    assert named(seal_leak=0.5, bearing_wear=0.45) == "seal_leak"
    assert named(seal_leak=0.39) is None
    assert named(gremlins=0.99, seal_leak=0.41) == "seal_leak"
    assert named() is None


def test_an_episode_begins_when_the_evidence_began() -> None:
    episode = opened()
    assert (episode.failure_mode, episode.state) == ("seal_leak", "OPEN")
    assert (episode.started_at, episode.opened_at) == (START_MS - HOUR_MS, START_MS + 1000)
    assert step(None, normal()) == Step(episode=None, event="none")


def test_more_evidence_keeps_the_beginning_and_takes_the_latest_word() -> None:
    later = step(opened(), advisory(at_hours=3, health_index=0.3))
    assert later.event == "confirmed"
    assert later.episode is not None
    assert (later.episode.started_at, later.episode.last_evidence_at) == (START_MS - HOUR_MS, START_MS + 3 * HOUR_MS)
    assert later.episode.advisory.health_index == 0.3


def test_what_is_older_than_the_latest_evidence_is_only_counted() -> None:
    episode = opened()
    late = step(episode, advisory(at_hours=-2, health_index=0.1))
    assert late == Step(episode=replace(episode, advisory_count=2), event="none")


def test_another_failure_mode_takes_over_only_when_it_is_clearly_likelier() -> None:
    episode = opened()
    close_call = step(episode, advisory(at_hours=1, failure_modes={"bearing_wear": 0.5, "seal_leak": 0.4}))
    assert close_call.event == "confirmed"
    clear = step(episode, advisory(at_hours=1, failure_modes={"bearing_wear": 0.7, "seal_leak": 0.2}))
    assert clear.event == "rediagnosed"
    assert clear.episode is not None
    assert (clear.episode.id, clear.episode.failure_mode) == (episode.id, "bearing_wear")


def test_a_first_diagnosis_takes_over_from_none_and_none_never_from_one() -> None:
    unspecified = step(None, advisory(failure_modes={})).episode
    assert unspecified is not None
    assert unspecified.failure_mode == "unspecified"
    assert step(unspecified, advisory(at_hours=1, failure_modes={"seal_leak": 0.45})).event == "rediagnosed"
    assert step(opened(), advisory(at_hours=1, failure_modes={})).event == "confirmed"


def test_it_ends_when_the_machine_has_been_normal_for_long_enough() -> None:
    clearing = step(opened(), normal(at_hours=2))
    assert clearing.event == "clearing"
    still = step(clearing.episode, normal(at_hours=13.9))
    assert still.event == "clearing"
    cleared = step(still.episode, normal(at_hours=14))
    assert cleared.event == "cleared"
    assert cleared.episode is not None
    assert (cleared.episode.state, cleared.episode.close_reason) == ("CLOSED", "evidence cleared")


def test_new_evidence_starts_the_calm_anew() -> None:
    episode = step(opened(), normal(at_hours=2)).episode
    episode = step(episode, advisory(at_hours=10)).episode
    assert episode is not None
    assert episode.cleared_at is None
    assert step(episode, normal(at_hours=15)).event == "clearing"


@pytest.mark.parametrize("silent", [{"condition": "UNKNOWN"}, {"maturity": "LEARNING"}])
def test_silence_is_not_health(silent: dict[str, Any]) -> None:
    episode = step(opened(), normal(at_hours=2)).episode
    assert step(episode, normal(at_hours=40, **silent)).event == "none"


def test_evidence_from_before_the_repair_is_about_a_machine_that_is_no_more() -> None:
    repaired_at = START_MS + 10 * HOUR_MS
    old = advisory(at_hours=11, since=START_MS, rul_hours=RulHours(1.0, 2.0, 3.0))
    assert step(None, old, repaired_at) == Step(episode=None, event="none")
    assert step(None, advisory(at_hours=11, since=repaired_at + 1), repaired_at).event == "opened"


def test_evidence_of_unknown_beginning_opens_nothing_while_the_repaired_machine_has_yet_to_learn_anew() -> None:
    repaired_at = START_MS + 10 * HOUR_MS
    held = advisory(at_hours=11, since=None, failure_modes={}, rul_hours=None, health_index=1.0)
    assert step(None, held, repaired_at, reset_pending=True) == Step(episode=None, event="none")
    assert step(None, held, repaired_at).event == "opened"
    begun_later = advisory(at_hours=12, since=repaired_at + HOUR_MS)
    assert step(None, begun_later, repaired_at, reset_pending=True).event == "opened"


def test_a_pending_reset_does_not_keep_an_open_episode_from_clearing() -> None:
    assert step(opened(), normal(at_hours=2), reset_pending=True).event == "clearing"


def learning(at_hours: float, **changes: Any) -> Advisory:
    return normal(at_hours=at_hours, condition="UNKNOWN", maturity="LEARNING", **changes)


def normal_for_days(episode: Episode | None, *, order_open: bool) -> Step:
    calm = step(episode, normal(at_hours=200, maturity="PROVISIONAL"), order_open=order_open).episode
    return step(calm, normal(at_hours=300, maturity="PROVISIONAL"), order_open=order_open)


@pytest.mark.parametrize("reason", ["reset", "change"], ids=["by itself", "after the node was installed anew"])
def test_what_is_normal_to_a_machine_that_learned_anew_unasked_clears_no_open_order(reason: str) -> None:
    anew = step(opened(), learning(100, reason=reason)).episode
    assert normal_for_days(anew, order_open=True).event == "none"
    assert normal_for_days(anew, order_open=False).event == "cleared", "nobody is on the way"
    assert normal_for_days(opened(), order_open=True).event == "cleared", "the baseline is the one the fault is told by"


def test_new_evidence_against_the_new_baseline_does_not_make_it_the_old_one() -> None:
    episode = step(opened(), learning(100)).episode
    episode = step(episode, advisory(at_hours=150, maturity="PROVISIONAL")).episode
    assert normal_for_days(episode, order_open=True).event == "none"


def test_a_limit_is_no_matter_of_a_baseline() -> None:
    over: dict[str, Any] = {**OVER_ALERT_LIMIT, "maturity": "LEARNING"}
    episode = step(step(None, advisory(**over)).episode, learning(100)).episode
    assert normal_for_days(episode, order_open=True).event == "cleared"


def test_a_baseline_begun_anew_while_a_limit_is_exceeded_is_noticed_too() -> None:
    episode = step(opened(), advisory(at_hours=100, **{**OVER_ALERT_LIMIT, "maturity": "LEARNING"})).episode
    assert normal_for_days(episode, order_open=True).event == "none"


def test_the_new_baseline_that_a_repair_ordered_clears_evidence_that_came_before_it_began() -> None:
    repaired_at = START_MS + 10 * HOUR_MS
    soon = step(None, advisory(at_hours=12, since=repaired_at + HOUR_MS), repaired_at, reset_pending=True)
    ordered = step(soon.episode, learning(13, reason="reset"), repaired_at).episode
    assert normal_for_days(ordered, order_open=True).event == "cleared"


def test_silence_opens_nothing_withdraws_nothing_and_does_not_count_as_being_well() -> None:
    silent = normal(condition="UNKNOWN", reason="silent", contributions={})
    assert step(None, silent).event == "none"
    clearing = step(opened(), normal(at_hours=1)).episode
    assert clearing is not None
    assert clearing.cleared_at is not None
    quiet = step(clearing, replace_time(silent, 2)).episode
    assert quiet is not None
    assert (quiet.state, quiet.cleared_at) == ("OPEN", None)
    back = step(quiet, normal(at_hours=1000))
    assert back.event == "clearing", "however long the silence was"


def replace_time(heard: Advisory, at_hours: float) -> Advisory:
    return msgspec.structs.replace(heard, observed_at=START_MS + round(at_hours * HOUR_MS))

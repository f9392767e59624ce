"""The comparison must be able to find what it looks for."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from tests.faults.chaos.comparison import (
    AdvisoryKey,
    Appended,
    Shelf,
    Stored,
    StoredLane,
    Verdict,
    as_json,
    compare,
)

TELEMETRY, ADVISORY = ("n", "telemetry"), ("n", "advisory")
TOLD = AdvisoryKey(asset="a", sample=3, condition="ALARM", reason="limit", digest=b"1")
APPENDED = Appended(
    samples={"a": 5}, nodes={"a": "n"}, last_seqs={TELEMETRY: {"e": 5}, ADVISORY: {"e": 1}}, advisories=[TOLD]
)
STORED = Stored(
    samples={"a": Counter(range(1, 6))},
    wrong_samples={},
    lanes={TELEMETRY: {"e": StoredLane(seqs=[1, 2, 3, 4, 5])}, ADVISORY: {"e": StoredLane(seqs=[1])}},
    advisories=[TOLD],
    episodes=["x"],
    orders=["x"],
    messages=[("order_opened", "o1", "email", "a@example.com")],
    mails=[("a@example.com", "SO-1", "text")],
    shelves=[Shelf(part_no="p", depot="d", on_hand=2, reserved=2, held=2)],
)


def stored(**changes: Any) -> Verdict:
    return compare(APPENDED, replace(STORED, **changes))


def test_what_is_as_it_should_be() -> None:
    verdict = compare(APPENDED, STORED)
    assert verdict == Verdict(
        records=6, lost=0, duplicates_in_effect=0, gaps_unreported=0, orders_per_episode_max=1, oversold=0
    )
    assert verdict.good


def test_what_is_stored_but_not_yet_confirmed_is_no_fault() -> None:
    assert stored(samples={"a": Counter(range(1, 8))}).good


@pytest.mark.parametrize(
    "changes",
    [
        {"samples": {"a": Counter([1, 2, 4, 5])}},
        {"samples": {}},
        {"wrong_samples": {"a": 1}},
        {"advisories": []},
    ],
)
def test_lost(changes: dict[str, Any]) -> None:
    verdict = stored(**changes)
    assert verdict.lost > 0
    assert verdict.remarks
    assert not verdict.good


@pytest.mark.parametrize(
    "changes",
    [
        {"samples": {"a": Counter([1, 2, 3, 3, 4, 5])}},
        {"advisories": [TOLD, TOLD]},
        {"advisories": [TOLD, replace(TOLD, sample=4)]},
        {"messages": [*STORED.messages, *STORED.messages]},
        {"mails": [*STORED.mails, *STORED.mails]},
    ],
)
def test_duplicates_in_effect(changes: dict[str, Any]) -> None:
    verdict = stored(**changes)
    assert verdict.duplicates_in_effect == 1
    assert not verdict.good


def test_an_advisory_of_the_watchdog_is_expected_but_not_twice() -> None:
    silent = replace(TOLD, sample=0, reason="silent", digest=b"2")
    assert stored(advisories=[TOLD, silent, replace(silent, digest=b"3")]).good
    assert stored(advisories=[TOLD, silent, silent]).duplicates_in_effect == 1


def lane(**found: Any) -> dict[str, Any]:
    return {"lanes": {**STORED.lanes, TELEMETRY: {"e": StoredLane(**found)}}}


def test_a_missing_sequence_is_an_unreported_gap() -> None:
    verdict = stored(**lane(seqs=[1, 2, 4, 5]))
    assert (verdict.gaps_unreported, verdict.good) == (1, False)
    assert "3" in verdict.remarks[0]


def test_a_lane_of_another_epoch_does_not_count() -> None:
    assert stored(lanes={**STORED.lanes, TELEMETRY: {"f": StoredLane(seqs=[1, 2, 3, 4, 5])}}).gaps_unreported == 5


def test_a_refused_record_is_not_stored() -> None:
    assert stored(**lane(seqs=[1, 2, 4, 5], quarantined=[3])).gaps_unreported == 1


def test_a_reported_gap_excuses_what_it_covers_and_no_more() -> None:
    gap = lane(seqs=[1, 4], gaps=[(2, 3)], gap_seqs=[5])
    assert stored(samples={"a": Counter([1, 4, 5])}, **gap).good
    verdict = stored(samples={"a": Counter([1, 4])}, **gap)
    assert (verdict.lost, verdict.gaps_unreported) == (1, 0)


def test_a_gap_without_an_end_reaches_to_the_last_sequence() -> None:
    assert stored(**lane(seqs=[1], gaps=[(2, 2**53)])).gaps_unreported == 0


def test_two_orders_for_one_episode_and_none_at_all() -> None:
    assert stored(orders=["x", "x"]).orders_per_episode_max == 2
    assert not stored(orders=["x", "x"]).good
    assert not stored(orders=[]).good
    assert stored(episodes=["x", "y"], orders=["x", "y"]).good


@pytest.mark.parametrize(("reserved", "held", "over"), [(3, 3, 1), (2, 4, 2), (4, 2, 2), (1, 2, 1), (1, 1, 0)])
def test_oversold_by_either_way_of_counting(reserved: int, held: int, over: int) -> None:
    shelf = Shelf(part_no="p", depot="d", on_hand=2, reserved=reserved, held=held)
    verdict = stored(shelves=[shelf])
    assert (verdict.oversold, verdict.good) == (over, over == 0)


def test_the_last_line_of_a_run() -> None:
    assert list(as_json(compare(APPENDED, STORED), seed=7, seconds=60.0, kills=30)) == [
        "seed",
        "seconds",
        "kills",
        "records",
        "lost",
        "duplicates_in_effect",
        "gaps_unreported",
        "orders_per_episode_max",
        "oversold",
    ]

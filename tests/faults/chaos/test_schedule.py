from collections import Counter
from itertools import pairwise

import pytest

from tests.faults.chaos.schedule import INGEST, NATS, Action, schedule

LONG = schedule(7, seconds=480, agents=10)


def test_the_same_seed_repeats_the_same_schedule_and_another_does_not() -> None:
    assert schedule(7, seconds=480, agents=10) == LONG
    assert schedule(8, seconds=480, agents=10) != LONG


def test_the_long_run_kills_at_least_200_times_agents_broker_and_ingest() -> None:
    kills = Counter(fault.target for fault in LONG if fault.action is Action.KILL)
    assert kills.total() >= 200
    assert kills[INGEST] >= 8
    assert kills[NATS] >= 8
    assert sum(target.startswith("agents-") for target in kills) == 10


def test_every_kind_of_fault_happens() -> None:
    assert {fault.action for fault in LONG} == set(Action)


@pytest.mark.parametrize("seed", range(20))
def test_lasting_faults_of_one_target_do_not_overlap_and_end_with_the_run(seed: int) -> None:
    faults = schedule(seed, seconds=120, agents=3)
    assert [fault.at_seconds for fault in faults] == sorted(fault.at_seconds for fault in faults)
    for kind in ({Action.PAUSE}, set(Action) - {Action.PAUSE, Action.KILL}):
        for target in {fault.target for fault in faults}:
            mine = [fault for fault in faults if fault.target == target and fault.action in kind]
            assert all(one.at_seconds + one.seconds <= other.at_seconds for one, other in pairwise(mine))
    assert max(fault.at_seconds + fault.seconds for fault in faults) <= 120.001

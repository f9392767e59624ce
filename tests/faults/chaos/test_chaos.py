"""The short run of the chaos harness. `make chaos` is the long one."""

import time
from pathlib import Path

import pytest

from tests.faults.chaos.plan import Plan
from tests.faults.chaos.run import run
from tests.faults.chaos.schedule import schedule

SECONDS = 60.0


@pytest.mark.e2e
@pytest.mark.chaos
@pytest.mark.timeout(900)
@pytest.mark.long
def test_a_minute_of_chaos_loses_nothing_and_does_nothing_twice(tmp_path: Path) -> None:
    """Fifty agents in five processes. Another seed each day; it is in the folder's name and in the plan."""
    seed = int(time.time() // 86_400)
    plan = Plan(folder=tmp_path, seed=seed, seconds=SECONDS, processes=5, nodes_each=10, samples_per_second=5.5)
    outcome = run(plan, schedule(seed, seconds=SECONDS, agents=plan.processes), drain_seconds=600)
    assert outcome.drained
    assert outcome.verdict.good, (seed, outcome.verdict)
    assert outcome.kills >= 20
    assert outcome.verdict.records >= 10_000

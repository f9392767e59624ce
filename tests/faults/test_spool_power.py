"""Power cuts at any write that was not synced: nothing is lost that `append` has returned from, no file unreadable."""

from pathlib import Path

import pytest

from tests.faults.powercut.run import Result, run

CUTS = 25
"""`make powercut` makes 300."""


@pytest.mark.parametrize("seed", [1, 2])
def test_fault_05_power_cut_at_any_unsynced_write_loses_no_committed_row(tmp_path: Path, seed: int) -> None:
    found = run(tmp_path, seed, CUTS)
    assert found == Result(seed=seed, cuts=CUTS, records=found.records)
    assert found.records > 20 * CUTS


def test_fault_05_the_disk_of_these_tests_loses_rows_where_they_are_not_synced(tmp_path: Path) -> None:
    """Were the spool to sync less, these tests would find it."""
    assert run(tmp_path, 1, CUTS, synchronous="NORMAL").lost > 0

from pathlib import Path

import pytest

from tests.faults.chaos.journal import Journal, last_confirmed


def test_what_was_confirmed_is_known_to_the_next_process(tmp_path: Path) -> None:
    path = tmp_path / "confirmed"
    assert last_confirmed(path) == 0
    with Journal(path) as journal:
        journal.confirm(1)
        journal.confirm(2)
    with Journal(path) as journal:
        assert journal.last == 2
        journal.confirm(1)
        journal.confirm(2)
        journal.confirm(3)
    assert last_confirmed(path) == 3


def test_a_record_confirmed_before_an_earlier_one_is_a_fault(tmp_path: Path) -> None:
    with Journal(tmp_path / "confirmed") as journal, pytest.raises(AssertionError, match="record 2"):
        journal.confirm(2)

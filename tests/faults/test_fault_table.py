"""The table of faults names tests that exist."""

import re

from tests.faults.table import FAULTS, OPEN, PROJECT, README, functions


def table() -> dict[int, str]:
    lines = re.findall(r"^\| (\d+) \| [^|]+ \| (.+) \|$", README.read_text("utf-8"), re.MULTILINE)
    return {int(number): cell for number, cell in lines}


def test_every_fault_has_its_row() -> None:
    assert list(table()) == list(FAULTS)


def test_every_test_that_is_named_exists() -> None:
    for number, cell in table().items():
        for part in cell.split("<br>") if cell != OPEN else []:
            file, *names = re.findall(r"`([^`]+)`", part)
            assert names, f"fault {number}: {file} without a test"
            assert set(names) <= set(functions(PROJECT / file)), f"{file}: run python -m tests.faults.table"
            assert all(name.startswith(f"test_fault_{number:02d}_") for name in names), f"fault {number}"

"""Who of many is to blame is found in few tries."""

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forewarn_cloud.errors import Unavailable
from forewarn_cloud.ingest.search import find_failing


class Trying:
    def __init__(self, bad: set[int]) -> None:
        self.bad = bad
        self.tries = 0

    def __call__(self, some: Sequence[int]) -> None:
        self.tries += 1
        for one in some:
            if one in self.bad:
                raise ValueError(one)


@given(st.integers(1, 300), st.sets(st.integers(0, 299)))
def test_each_that_fails_is_found_with_its_error_and_in_order(count: int, bad: set[int]) -> None:
    failing, unclear = find_failing(range(count), Trying(bad), seconds=math.inf)
    assert [(one, error.args) for one, error in failing] == [(one, (one,)) for one in sorted(bad) if one < count]
    assert unclear == []


@pytest.mark.parametrize(("bad", "most"), [(1, 21), (20, 260)])
def test_few_tries_are_needed(bad: int, most: int) -> None:
    trying = Trying(set(range(0, 1000, 1000 // bad)))
    find_failing(range(1000), trying, seconds=math.inf)
    assert trying.tries <= most


@given(st.integers(2, 100), st.sets(st.integers(0, 99), min_size=1))
def test_when_time_is_up_those_to_blame_are_among_those_that_are_unclear(count: int, bad: set[int]) -> None:
    trying = Trying(bad)
    failing, unclear = find_failing(range(count), trying, seconds=0.0)
    assert trying.tries <= 4
    assert {one for one in bad if one < count} <= {one for one, _ in failing} | set(unclear)
    assert len(unclear) < count or len(bad) > 1


def test_an_outage_is_nobodys_fault() -> None:
    def away(_: Sequence[int]) -> None:
        raise Unavailable("away")

    with pytest.raises(Unavailable):
        find_failing([1, 2, 3], away, seconds=math.inf)

"""Sequence arithmetic, against the obvious set of numbers."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from forewarn_cloud.ingest.progress import Progress, Range, advance, extend, missing_below, ranges_of, subtract, union

ranges = st.tuples(st.integers(1, 40), st.integers(0, 8)).map(lambda pair: (pair[0], pair[0] + pair[1]))


def numbers(received: list[Range]) -> set[int]:
    return {seq for first, last in received for seq in range(first, last + 1)}


@given(st.lists(st.lists(ranges, max_size=4), max_size=6))
def test_progress_knows_exactly_what_was_received(batches: list[list[Range]]) -> None:
    progress = Progress()
    for batch in batches:
        progress = advance(progress, batch)
    expected = numbers([received for batch in batches for received in batch])
    assert {seq for seq in range(1, 60) if progress.has(seq)} == expected
    assert all(seq in expected for seq in range(1, progress.contiguous + 1))
    assert progress.contiguous + 1 not in expected


@given(st.lists(ranges, max_size=8))
def test_ahead_is_sorted_and_apart(received: list[Range]) -> None:
    progress = advance(Progress(), received)
    ends = [progress.contiguous, *(last for _, last in progress.ahead)]
    starts = [first for first, _ in progress.ahead]
    assert all(start > end + 1 for start, end in zip(starts, ends, strict=False))


@given(st.lists(ranges, max_size=8), st.integers(1, 60))
def test_what_is_missing_below_fills_it_up(received: list[Range], seq: int) -> None:
    progress = advance(Progress(), received)
    missing = missing_below(progress, seq)
    assert numbers(list(missing)) == {n for n in range(1, seq) if not progress.has(n)}
    assert advance(progress, missing).contiguous >= seq - 1


@given(st.lists(ranges, max_size=8), st.lists(ranges, max_size=8))
def test_ranges_are_sets_of_numbers(some: list[Range], removed: list[Range]) -> None:
    merged = union(some)
    assert numbers(list(merged)) == numbers(some)
    assert all(start > end + 1 for (_, end), (start, _) in pairwise(merged))
    assert numbers(list(subtract(merged, removed))) == numbers(some) - numbers(removed)
    assert union(subtract(merged, removed)) == subtract(merged, removed)
    assert ranges_of(advance(Progress(), some)) == merged


def test_a_hole_holds_the_acknowledgement_back() -> None:
    progress = advance(Progress(contiguous=5), [(8, 9)])
    assert progress == Progress(contiguous=5, ahead=((8, 9),))
    assert advance(progress, [(6, 7)]) == Progress(contiguous=9)


@given(st.lists(st.integers(1, 40), max_size=30))
def test_records_added_one_by_one_are_the_ranges_they_make(seqs: list[int]) -> None:
    received = list[Range]()
    for seq in seqs:
        extend(received, seq)
    progress = advance(Progress(), received)
    assert [seq for seq in range(1, 41) if progress.has(seq)] == sorted(set(seqs))
    assert progress.last == max(seqs, default=0)

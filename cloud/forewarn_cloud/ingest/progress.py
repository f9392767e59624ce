"""Which records of a lane are committed. Pure arithmetic of sequence numbers."""

from collections.abc import Iterable

import msgspec

Range = tuple[int, int]
"""[first, last], both included."""


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """All records up to `contiguous` are received, and those in the ranges `ahead` above it.

    The ranges are sorted, apart from each other by at least one missing record, and so is the first from `contiguous`.
    """

    contiguous: int = 0
    ahead: tuple[Range, ...] = ()

    @property
    def last(self) -> int:
        """The highest that is received."""
        return self.ahead[-1][1] if self.ahead else self.contiguous

    def has(self, seq: int) -> bool:
        return seq <= self.contiguous or (bool(self.ahead) and within(self.ahead, seq))


def advance(progress: Progress, received: Iterable[Range]) -> Progress:
    """The progress once these ranges are received, too. Order and overlap do not matter."""
    new = list(received)
    if len(new) == 1 and not progress.ahead and new[0][0] <= progress.contiguous + 1:
        return Progress(contiguous=max(progress.contiguous, new[0][1]))
    ranges = sorted([(0, progress.contiguous), *progress.ahead, *new])
    merged = [ranges[0]]
    for first, last in ranges[1:]:
        if first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return Progress(contiguous=merged[0][1], ahead=tuple(merged[1:]))


def extend(ranges: list[Range], seq: int) -> None:
    """Add one record: to the last range if it comes next, else as a range of its own."""
    if ranges and ranges[-1][1] == seq - 1:
        ranges[-1] = (ranges[-1][0], seq)
    else:
        ranges.append((seq, seq))


def ranges_of(progress: Progress) -> tuple[Range, ...]:
    """All that is received."""
    return (*([(1, progress.contiguous)] if progress.contiguous else []), *progress.ahead)


def subtract(ranges: Iterable[Range], removed: Iterable[Range]) -> tuple[Range, ...]:
    """What of `ranges`, sorted and apart from each other, is in none of `removed`, which need be neither."""
    left, gone = list[Range](), sorted(removed)
    for first, last in ranges:
        for gone_first, gone_last in gone:
            if gone_first > last:
                break
            if gone_last >= first:
                if first < gone_first:
                    left.append((first, gone_first - 1))
                first = gone_last + 1
        if first <= last:
            left.append((first, last))
    return tuple(left)


def union(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """The same records in as few ranges as there can be, sorted."""
    return ranges_of(advance(Progress(), ranges))


def within(ranges: Iterable[Range], seq: int) -> bool:
    return any(first <= seq <= last for first, last in ranges)


def missing_below(progress: Progress, seq: int) -> tuple[Range, ...]:
    """The ranges below `seq` that are not received."""
    bounds = [(0, progress.contiguous), *progress.ahead]
    starts = [last + 1 for _, last in bounds]
    ends = [*(first - 1 for first, _ in bounds[1:]), seq - 1]
    return tuple(
        (first, min(last, seq - 1)) for first, last in zip(starts, ends, strict=True) if first < seq and first <= last
    )

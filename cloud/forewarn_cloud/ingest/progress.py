"""Which records of a lane are committed. Pure arithmetic of sequence numbers."""

from collections.abc import Iterable
from dataclasses import dataclass

Range = tuple[int, int]
"""[first, last], both included."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """All records up to `contiguous` are received, and those in the ranges `ahead` above it.

    The ranges are sorted, apart from each other by at least one missing record, and so is the first from `contiguous`.
    """

    contiguous: int = 0
    ahead: tuple[Range, ...] = ()

    def has(self, seq: int) -> bool:
        return seq <= self.contiguous or any(first <= seq <= last for first, last in self.ahead)


def advance(progress: Progress, received: Iterable[Range]) -> Progress:
    """The progress once these ranges are received, too. Order and overlap do not matter."""
    ranges = sorted([(0, progress.contiguous), *progress.ahead, *received])
    merged = [ranges[0]]
    for first, last in ranges[1:]:
        if first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return Progress(contiguous=merged[0][1], ahead=tuple(merged[1:]))


def missing_below(progress: Progress, seq: int) -> tuple[Range, ...]:
    """The ranges below `seq` that are not received."""
    bounds = [(0, progress.contiguous), *progress.ahead]
    starts = [last + 1 for _, last in bounds]
    ends = [*(first - 1 for first, _ in bounds[1:]), seq - 1]
    return tuple(
        (first, min(last, seq - 1)) for first, last in zip(starts, ends, strict=True) if first < seq and first <= last
    )

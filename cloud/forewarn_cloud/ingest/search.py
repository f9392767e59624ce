"""Which of several things that fail together fail by themselves."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from forewarn_cloud.errors import Unavailable

T = TypeVar("T")

PARTS: Final = 4
"""Into which what fails is divided. A try has its price: with two there would be more of them."""


def find_failing(
    things: Sequence[T], try_out: Callable[[Sequence[T]], None], *, seconds: float
) -> tuple[list[tuple[T, Exception]], list[T]]:
    """Each that fails, with its error; and those among which there is one that was not found in so many seconds.

    Raises:
        Unavailable: from `try_out`; it says nothing about the things.
    """
    until = time.monotonic() + seconds
    failing, unclear = list[tuple[T, Exception]](), list[T]()
    waiting = deque(_divided(things))
    while waiting:
        some = waiting.popleft()
        try:
            try_out(some)
        except Unavailable:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is found out whose it is
            if len(some) == 1:
                failing.append((some[0], error))
            elif time.monotonic() < until:
                waiting.extendleft(reversed(_divided(some)))
            else:
                unclear += some
    return failing, unclear


def _divided(things: Sequence[T]) -> list[Sequence[T]]:
    size = -(-len(things) // PARTS)
    return [things[start : start + size] for start in range(0, len(things), size)]

"""Lives: from new (or repaired) to the failure, the repair, or the end of the recording."""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from forewarn_cloud.history.dataset import Dataset, Failure

MS_PER_HOUR: Final = 3_600_000
UNCHANGED: Final = frozenset({"inspection", "no_fault_found"})
"""Kinds of maintenance that leave the machine as it was; any other kind begins a new life."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Life:
    """One life of one asset.

    `rows` int64 (n,): its samples as row numbers of the telemetry, in time order; may be empty. It ends with `failure`,
    or is cut off (by a repair or the end of the recording) where that is None; `rul_hours` is what a life cut off by
    the end of the recording had left at `ended_ms`, if that is known.
    """

    asset: str
    rows: NDArray[np.int64]
    started_ms: int
    ended_ms: int
    failure: Failure | None = None
    rul_hours: float | None = None

    @property
    def hours(self) -> float:
        return (self.ended_ms - self.started_ms) / MS_PER_HOUR

    @property
    def would_fail_ms(self) -> int | None:
        """When it failed, or would have failed had the recording gone on; None where that is not known."""
        if self.failure is not None:
            return self.failure.failed_ms
        return None if self.rul_hours is None else self.ended_ms + round(self.rul_hours * MS_PER_HOUR)


@dataclass(frozen=True, kw_only=True)
class Reset:
    """The machine is another from here on: the samples from number `step` of the asset on belong to a new life."""

    step: int
    at_ms: int
    after: Literal["failure", "repair"]


def find_resets(dataset: Dataset) -> dict[str, list[Reset]]:
    """Asset -> its resets in time order, at most one per step, none before the first sample or after the last.

    A sample at the very time of a failure still belongs to the life that failed; one at the time of a repair, to the
    new life.
    """
    found = defaultdict[str, dict[int, Reset]](dict)
    times = {asset: dataset.telemetry.t_ms[rows] for asset, rows in _rows_by_asset(dataset).items()}
    failures = [(failure.failed_ms, failure.asset, True) for failure in dataset.failures or ()]
    repairs = [(work.at_ms, work.asset, False) for work in dataset.maintenance if work.kind not in UNCHANGED]
    for at_ms, asset, failed in sorted(failures + repairs):
        step = (bisect_right if failed else bisect_left)(times[asset], at_ms)
        if 0 < step < len(times[asset]):
            found[asset][step] = Reset(step=step, at_ms=at_ms, after="failure" if failed else "repair")
    return {asset: [by_step[step] for step in sorted(by_step)] for asset, by_step in found.items()}


def split_lives(dataset: Dataset) -> list[Life]:
    """Every life in the dataset, by asset and then in time order.

    What was recorded between a failure and the repair that follows is downtime and belongs to no life.
    """
    resets = find_resets(dataset)
    histories = _rows_by_asset(dataset).items()
    return [life for asset, rows in histories for life in _lives(dataset, asset, rows, resets.get(asset, []))]


def _rows_by_asset(dataset: Dataset) -> dict[str, NDArray[np.int64]]:
    return dict(zip(dataset.telemetry.assets, dataset.telemetry.rows_by_asset(), strict=True))


def _lives(dataset: Dataset, asset: str, rows: NDArray[np.int64], resets: list[Reset]) -> Iterator[Life]:
    t_ms = dataset.telemetry.t_ms
    failures = [failure for failure in dataset.failures or () if failure.asset == asset]
    truth = next((life for life in dataset.remaining_lives if life.asset == asset), None)
    for before, after in pairwise([None, *resets, None]):
        if before and after and (before.after, after.after) == ("failure", "repair"):
            continue
        mine = rows[before.step if before else 0 : after.step if after else None]
        started_ms, ended_ms = int(t_ms[mine[0]]), int(t_ms[mine[-1]])
        failure = _failure_of(failures, started_ms, after.at_ms if after else None)
        rul_hours = None
        if failure is not None:
            ended_ms = failure.failed_ms
        elif truth is not None and after is None:
            rul_hours = truth.rul_hours - (ended_ms - truth.as_of_ms) / MS_PER_HOUR
        yield Life(
            asset=asset, rows=mine, started_ms=started_ms, ended_ms=ended_ms, failure=failure, rul_hours=rul_hours
        )


def _failure_of(failures: list[Failure], started_ms: int, next_ms: int | None) -> Failure | None:
    """The first failure of a life that began at `started_ms`, before or with the reset at `next_ms`."""
    mine = (f for f in failures if f.failed_ms >= started_ms and (next_ms is None or f.failed_ms <= next_ms))
    return next(mine, None)

"""When a machine begins a new baseline without anyone having said so.

1. While it is learning, it stood or was not heard of for longer than a window, and came back at another level (it was
   set up, re-mounted, overhauled): two machines cannot share a baseline, and it is learned anew from there.
2. Evidence of a fault has not grown for as long as three baselines take: what was taken for a fault has become what is
   normal (a new duty, a repair nobody entered). A fault that goes on makes new peaks and is never absorbed.

3. A signal was read for the first time after the others had been learned from: nothing is known of it.

All are bounded: so many times until a repair is entered; afterwards the machine waits for people. They are told, as
every reset of a baseline is: the maturity falls back to LEARNING.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from forewarn_models.layout import Bools, Floats, Ints, Layout, Settings, updated

MOST: Final = 3
_JUMP: Final = 8.0
"""Standard deviations of the blocks so far."""
_FEWEST_BLOCKS: Final = 4
_NEW_PEAK: Final = 1.1
_STEADY_BASELINES: Final = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class RelearningState:
    """(assets,)"""

    since_gap: Ints
    """Windows since the last one with a long gap."""
    peak: Floats
    """Highest anomaly score of the present evidence; 0 without."""
    since_peak: Ints
    """Windows with evidence since then."""
    late: Bools
    """A signal was first read in this window, too late for the baseline."""
    times: Ints
    """How often the baseline was begun anew since a repair was entered."""


def new_relearning_state(assets: int) -> RelearningState:
    counts = np.zeros(assets, dtype=np.int64)
    return RelearningState(
        since_gap=counts + 2, peak=np.zeros(assets), since_peak=counts, late=counts > 0, times=counts
    )


def noted_gap(state: RelearningState, gap: Bools) -> RelearningState:
    """The state with samples among which there was a long `gap` (A,)."""
    return updated(state, since_gap=np.where(gap, 0, state.since_gap)) if gap.any() else state


def noted_late(state: RelearningState, late: Bools) -> RelearningState:
    return updated(state, late=state.late | late) if late.any() else state


def candidates(state: RelearningState, blocks: Ints, learning: Bools) -> NDArray[np.intp]:
    """The assets that came back from a long gap while they are learning."""
    return np.flatnonzero(learning & (state.since_gap <= 1) & (blocks > _FEWEST_BLOCKS) & (state.times < MOST))


def jumped(layout: Layout, offsets: Floats, blocks: int) -> bool:
    """Whether the newest of the `offsets` (BLOCKS, C) is far from the other `blocks`."""
    before = offsets[-blocks:-1]
    spread = np.sqrt(before.var(axis=0) + 1.0 / layout.window)
    return bool((np.abs(offsets[-1] - before.mean(axis=0)) > _JUMP * spread).any())


def followed(
    layout: Layout, settings: Settings, state: RelearningState, score: Floats, evident: Bools
) -> tuple[Bools, RelearningState]:
    """(A,) whether the evidence has become steady or a signal came late, and the state after a window with `score`."""
    since_gap = state.since_gap + 1
    if not (evident.any() or state.peak.any() or state.late.any()):
        return evident, updated(state, since_gap=since_gap)
    grown = evident & (score > _NEW_PEAK * state.peak)
    since_peak = np.where(evident & ~grown, state.since_peak + 1, 0)
    peak = np.where(grown, score, np.where(evident, state.peak, 0.0))
    steady = since_peak * layout.window >= _STEADY_BASELINES * settings.baseline_samples
    after = updated(state, since_gap=since_gap, peak=peak, since_peak=since_peak, late=np.zeros_like(state.late))
    return (steady | state.late) & (state.times < MOST), after

"""What goes into the kernel and what comes out of it: blocks of samples and their assessment."""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class Condition(IntEnum):
    """State of an asset (ISO 17359). UNKNOWN: off, stale, or nothing to judge by; never "the last value held"."""

    UNKNOWN = 0
    NORMAL = 1
    ALERT = 2
    ALARM = 3


class Maturity(IntEnum):
    """How much the model knows of this very machine. LEARNING: only limits and fleet knowledge speak."""

    LEARNING = 0
    PROVISIONAL = 1
    MATURE = 2


class Quality(IntEnum):
    """What is wrong with one reading, if anything. Everything but GOOD is treated as missing."""

    GOOD = 0
    MISSING = 1
    SENTINEL = 2
    OUT_OF_RANGE = 3
    STUCK = 4
    LEAP = 5
    """One signal leapt while the others stayed: a changed unit or a loose sensor rather than a fault."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """n steps of all assets of a fleet. A single asset is a fleet of one.

    `t_ms` int64 (n, assets): epoch milliseconds, increasing along n for each asset; `values` float64
    (n, assets, signals), signals in the order of the asset type, NaN where missing.
    """

    t_ms: NDArray[np.int64]
    values: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Assessment:
    """What the kernel says of each sample of a block; (n, assets) unless stated."""

    t_ms: NDArray[np.int64]
    anomaly_score: NDArray[np.float64]
    """Higher is worse; 0 where nothing can be said."""
    contribution: NDArray[np.float64]
    """(n, assets, signals); sums to `anomaly_score` along signals."""
    residual: NDArray[np.float64]
    """(n, assets, signals): observed minus expected in this regime, in the signal's unit; NaN where unknown."""
    deviation: NDArray[np.float64]
    """(n, assets, signals): the residual smoothed over the last samples, in the signal's unit; 0 where unknown."""
    significance: NDArray[np.float64]
    """(n, assets, signals): that deviation in the standard deviations it has in health; 0 where unknown."""
    expected: NDArray[np.float64]
    """(n, assets, signals): what the signal should read in this regime by now, in its unit; NaN where unknown."""
    condition: NDArray[np.int8]
    """`Condition`."""
    since_ms: NDArray[np.int64]
    """First sample of the present run of evidence, which lasts until the condition is cleared; -1 without."""
    health_index: NDArray[np.float64]
    """1.0 new, 0.0 failed."""
    rul_hours: NDArray[np.float64]
    """(n, assets, 3): P10, P50, P90; NaN where nothing supports a number."""
    failure_mode_probability: NDArray[np.float64]
    """(n, assets, failure modes); what is missing to 1 is "none of these"; 0 where there is no symptom."""
    maturity: NDArray[np.int8]
    """`Maturity`."""
    quality: NDArray[np.int8]
    """(n, assets, signals): `Quality`."""
    limit_exceeded: NDArray[np.bool_]
    """(n, assets, signals): above an absolute limit, or below a lower one."""

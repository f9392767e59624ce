"""What a machine type is to the simulator: how its units differ, what they do, how they wear and how that shows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from forewarn_device_simulator.duty import Array, Duty
from forewarn_models.asset_type import AssetType, builtin_asset_type

Columns = Mapping[str, Array]
"""Named arrays, each (n, units)."""
Traits = Mapping[str, Array]
"""Named constants of the units, each (units,)."""


@dataclass(frozen=True, kw_only=True)
class Trait:
    """A constant in which units of a type differ: its median and the standard deviation of its logarithm."""

    median: float
    spread: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Sensor:
    """How well a signal is measured.

    `noise` and `resolution` are in the signal's unit; `relative_noise` is a share of the reading. Both kinds of noise
    are standard deviations.
    """

    resolution: float
    noise: float = 0.0
    relative_noise: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine type. The callables are pure and work on all units and instants at once."""

    name: str
    """The asset type it emits."""
    traits: Mapping[str, Trait]
    life_hours: Mapping[str, float]
    """Failure mode -> median life at rated load, in hours."""
    sensors: Mapping[str, Sensor]
    """Signal -> sensor, for every signal of the asset type."""
    operate: Callable[[Duty, Traits], Columns]
    """Duty -> regime signals, free of noise."""
    stress: Callable[[Columns], Columns]
    """Regime signals -> failure mode -> rate of wear relative to the rated load; 0 when standing still."""
    respond: Callable[[Columns, Columns, Traits, float], Columns]
    """Regime signals, severity of each failure mode (0 to 1), traits, minutes between samples -> condition signals."""

    @property
    def asset_type(self) -> AssetType:
        return builtin_asset_type(self.name)


def draw_traits(machine: Machine, random: np.random.Generator) -> dict[str, float]:
    """The constants of one unit."""
    normal = random.standard_normal(len(machine.traits))
    return {
        name: trait.median * float(np.exp(trait.spread * z))
        for (name, trait), z in zip(machine.traits.items(), normal, strict=True)
    }

"""Rolling bearings: how often a fault of each part is struck, by geometry.

The kinematic formulas are in Randall and Antoni, "Rolling element bearing diagnostics: a tutorial", MSSP 25 (2011),
section 2: the outer ring stands, the inner ring turns with the shaft, nothing slips. Real bearings slip by 1 % to 2 %.
"""

import math
from typing import NamedTuple

import msgspec


class BearingGeometry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One row of rolling elements.

    Raises:
        ValueError: such a bearing cannot exist; the message names the field.
    """

    rolling_elements: int
    ball_diameter_mm: float
    pitch_diameter_mm: float
    """Of the circle through the elements' centres."""
    contact_angle_deg: float = 0.0

    def __post_init__(self) -> None:
        if self.rolling_elements < 3:
            raise ValueError(f"rolling_elements: give at least 3, not {self.rolling_elements}")
        if not 0 < self.ball_diameter_mm < self.pitch_diameter_mm < math.inf:
            raise ValueError("ball_diameter_mm: give a number above 0 and below pitch_diameter_mm")
        if self.rolling_elements * math.asin(self.ball_diameter_mm / self.pitch_diameter_mm) > math.pi:
            raise ValueError(
                f"rolling_elements: {self.rolling_elements} of that diameter do not fit on the pitch circle"
            )
        if not 0 <= self.contact_angle_deg < 90:
            raise ValueError(f"contact_angle_deg: give 0 to below 90, not {self.contact_angle_deg:g}")


class FaultOrders(NamedTuple):
    """Frequencies of a bearing's faults in multiples of the shaft's speed."""

    bpfo: float
    """Ball pass frequency, outer race."""
    bpfi: float
    """Ball pass frequency, inner race."""
    bsf: float
    """Ball spin frequency; a spot on a ball strikes both races, so twice this is often the stronger line."""
    ftf: float
    """Fundamental train frequency: the cage."""


def fault_orders(geometry: BearingGeometry) -> FaultOrders:
    """With g = d / D cos(a): BPFO n/2 (1 - g), BPFI n/2 (1 + g), BSF D / 2d (1 - g2), FTF (1 - g) / 2."""
    ratio = geometry.ball_diameter_mm / geometry.pitch_diameter_mm
    g = ratio * math.cos(math.radians(geometry.contact_angle_deg))
    half = geometry.rolling_elements / 2.0
    return FaultOrders(
        bpfo=half * (1.0 - g), bpfi=half * (1.0 + g), bsf=(1.0 - g * g) / (2.0 * ratio), ftf=(1.0 - g) / 2.0
    )

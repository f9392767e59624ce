"""Vibration severity by class of machine: evaluation zones of ISO 20816-3 and of its forerunner for any machine.

The quantity is the broad-band RMS velocity on non-rotating parts (bearing housings), 10 Hz to 1000 Hz (from 2 Hz where
the machine turns slower than 600 r/min), the greatest of the measuring directions. Zone A is what new machines show; B
is fit for long operation; C is not, the machine runs on until it can be repaired; D does damage.

The numbers are those that the trade quotes from the standards named; the standards' own text was not at hand when this
table was written, so check a limit that matters against your copy.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Zone(StrEnum):
    """Evaluation zone (ISO 20816-1, criterion I: magnitude)."""

    A = "A"
    B = "B"
    C = "C"
    D = "D"


class MachineClass(StrEnum):
    """A row of the tables. A support is rigid where the lowest natural frequency of machine and support, in the
    direction measured, is at least 25 % above the main excitation (mostly the speed); otherwise it is flexible.
    """

    GROUP_1_RIGID = "iso_20816_3_group_1_rigid"
    GROUP_1_FLEXIBLE = "iso_20816_3_group_1_flexible"
    GROUP_2_RIGID = "iso_20816_3_group_2_rigid"
    GROUP_2_FLEXIBLE = "iso_20816_3_group_2_flexible"
    CLASS_I = "iso_10816_1_class_i"
    CLASS_II = "iso_10816_1_class_ii"
    CLASS_III = "iso_10816_1_class_iii"
    CLASS_IV = "iso_10816_1_class_iv"


@dataclass(frozen=True, kw_only=True)
class Boundaries:
    """RMS velocities between the zones, in mm/s."""

    a_b_mm_s: float
    b_c_mm_s: float
    c_d_mm_s: float
    applies_to: str
    source: str


_PART_3: Final = "ISO 20816-3:2022, annex A (the numbers of ISO 10816-3:2009)"
_PART_1: Final = "ISO 10816-1:1995, annex B (not repeated by class in its successor ISO 20816-1:2016)"
_LARGE: Final = "above 300 kW, or electrical machines with a shaft height of 315 mm or more"
_MEDIUM: Final = "15 kW to 300 kW, or electrical machines with a shaft height of 160 mm to below 315 mm"


def _row(a_b: float, b_c: float, c_d: float, applies_to: str, source: str) -> Boundaries:
    return Boundaries(a_b_mm_s=a_b, b_c_mm_s=b_c, c_d_mm_s=c_d, applies_to=applies_to, source=source)


BOUNDARIES: Final[Mapping[MachineClass, Boundaries]] = MappingProxyType(
    {
        MachineClass.GROUP_1_RIGID: _row(2.3, 4.5, 7.1, f"{_LARGE}; rigid support", _PART_3),
        MachineClass.GROUP_1_FLEXIBLE: _row(3.5, 7.1, 11.0, f"{_LARGE}; flexible support", _PART_3),
        MachineClass.GROUP_2_RIGID: _row(1.4, 2.8, 4.5, f"{_MEDIUM}; rigid support", _PART_3),
        MachineClass.GROUP_2_FLEXIBLE: _row(2.3, 4.5, 7.1, f"{_MEDIUM}; flexible support", _PART_3),
        MachineClass.CLASS_I: _row(0.71, 1.8, 4.5, "small machines, electric motors up to 15 kW", _PART_1),
        MachineClass.CLASS_II: _row(1.12, 2.8, 7.1, "medium machines, electric motors of 15 kW to 75 kW", _PART_1),
        MachineClass.CLASS_III: _row(1.8, 4.5, 11.2, "large machines on rigid, heavy foundations", _PART_1),
        MachineClass.CLASS_IV: _row(2.8, 7.1, 18.0, "large machines on soft foundations", _PART_1),
    }
)
"""Guidance, not acceptance limits: an agreement with the maker comes first. ISO 20816-3 is about machines above 15 kW
at 120 r/min to 30000 r/min; rotodynamic pumps have a part of their own (ISO 10816-7), reciprocating machines too (-8).
"""


def limits(machine_class: MachineClass) -> tuple[float, float]:
    """Limits from the first sample on, in mm/s: ALERT where zone C begins, ALARM where zone D begins.

    ISO 20816 itself sets an alarm at the machine's own baseline plus a quarter of B/C, and a trip within zone C or D;
    with no baseline known yet, the boundaries are what remains.
    """
    row = BOUNDARIES[machine_class]
    return row.b_c_mm_s, row.c_d_mm_s


def zone_of(velocity_rms_mm_s: float, machine_class: MachineClass) -> Zone:
    """The zone of a broad-band RMS velocity; what lies on a boundary is still in the better zone.

    Raises:
        ValueError: the velocity is negative, NaN or infinite.
    """
    if not (math.isfinite(velocity_rms_mm_s) and velocity_rms_mm_s >= 0):
        raise ValueError(f"velocity_rms_mm_s: give a finite number of at least 0, not {velocity_rms_mm_s}")
    row = BOUNDARIES[machine_class]
    uppers = ((row.a_b_mm_s, Zone.A), (row.b_c_mm_s, Zone.B), (row.c_d_mm_s, Zone.C))
    return next((zone for upper, zone in uppers if velocity_rms_mm_s <= upper), Zone.D)

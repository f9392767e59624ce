import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forewarn_models.vibration_zones import BOUNDARIES, MachineClass, Zone, limits, zone_of

classes = st.sampled_from(MachineClass)
velocities = st.floats(min_value=0, max_value=100)


@pytest.mark.parametrize("machine_class", MachineClass)
def test_every_class_has_growing_boundaries_and_says_where_they_come_from(machine_class: MachineClass) -> None:
    row = BOUNDARIES[machine_class]
    assert 0 < row.a_b_mm_s < row.b_c_mm_s < row.c_d_mm_s
    assert row.source.startswith("ISO ")
    assert row.applies_to


def test_larger_machines_and_softer_supports_may_vibrate_more() -> None:
    def row(machine_class: MachineClass) -> tuple[float, float, float]:
        return BOUNDARIES[machine_class].a_b_mm_s, *limits(machine_class)

    groups_of_part_3 = MachineClass.GROUP_2_RIGID, MachineClass.GROUP_2_FLEXIBLE, MachineClass.GROUP_1_FLEXIBLE
    classes_of_part_1 = MachineClass.CLASS_I, MachineClass.CLASS_II, MachineClass.CLASS_III, MachineClass.CLASS_IV
    for less, more in (*pairwise(groups_of_part_3), *pairwise(classes_of_part_1)):
        assert all(a <= b for a, b in zip(row(less), row(more), strict=True))


@given(classes, velocities)
def test_the_limits_are_where_zones_c_and_d_begin(machine_class: MachineClass, velocity: float) -> None:
    alert, alarm = limits(machine_class)
    zone = zone_of(velocity, machine_class)
    assert (velocity > alert) == (zone in (Zone.C, Zone.D))
    assert (velocity > alarm) == (zone is Zone.D)


@given(classes, velocities, velocities)
def test_more_vibration_is_never_a_better_zone(machine_class: MachineClass, one: float, other: float) -> None:
    assert zone_of(min(one, other), machine_class) <= zone_of(max(one, other), machine_class)


@pytest.mark.parametrize("machine_class", MachineClass)
def test_what_lies_on_a_boundary_is_in_the_better_zone(machine_class: MachineClass) -> None:
    row = BOUNDARIES[machine_class]
    assert zone_of(0.0, machine_class) is Zone.A
    for boundary, below, above in (
        (row.a_b_mm_s, Zone.A, Zone.B),
        (row.b_c_mm_s, Zone.B, Zone.C),
        (row.c_d_mm_s, Zone.C, Zone.D),
    ):
        assert zone_of(boundary, machine_class) is below
        assert zone_of(math.nextafter(boundary, math.inf), machine_class) is above


def test_a_pump_of_30_kw_on_a_steel_frame_is_unsatisfactory_at_5_mm_s() -> None:
    assert zone_of(5.0, MachineClass.GROUP_2_FLEXIBLE) is Zone.C
    assert zone_of(5.0, MachineClass.GROUP_2_RIGID) is Zone.D
    assert limits(MachineClass.GROUP_2_FLEXIBLE) == (4.5, 7.1)


@pytest.mark.parametrize("velocity", [-0.1, math.nan, math.inf])
def test_what_is_no_velocity_has_no_zone(velocity: float) -> None:
    with pytest.raises(ValueError, match="velocity_rms_mm_s"):
        zone_of(velocity, MachineClass.CLASS_I)

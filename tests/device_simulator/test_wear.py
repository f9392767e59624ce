import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forewarn_device_simulator.duty import HOUR_MS, Array
from forewarn_device_simulator.scenario import Group
from forewarn_device_simulator.wear import Life, Repair, Unit, live_through

GROUP = Group(
    asset_type="centrifugal_pump", prefix="pump", count=1, life_hours={"bearing_wear": 200.0, "seal_leak": 260.0}
)
START_MS = 1_700_000_000_000
HOURS = 600


def lived(
    planned: tuple[Repair, ...] = (),
    delay: tuple[float, float] | None = None,
    asset: str = "pump-001",
    hours: int = HOURS,
) -> Life:
    unit = Unit(asset=asset, group=GROUP, seed=1)
    exposure = np.arange(hours + 1, dtype=np.float64)
    t_ms = START_MS + np.arange(hours, dtype=np.int64) * HOUR_MS
    exposures: dict[str, Array] = {"bearing_wear": exposure, "seal_leak": 0.9 * exposure}
    noticed = {"bearing_wear": 0.03, "seal_leak": 0.01}
    return live_through(unit, exposures, t_ms, noticed, planned, delay)


def test_an_untended_machine_fails_once_and_stands_still() -> None:
    life = lived()
    (failure,) = life.failures
    failed = int(np.searchsorted(START_MS + np.arange(HOURS) * HOUR_MS, failure.failed_at_ms))
    assert not life.down[:failed].any()
    assert life.down[failed:].all()
    severity = life.severity[failure.failure_mode]
    assert severity[failed - 1] == pytest.approx(1.0, abs=0.05)
    assert (np.diff(severity) >= 0).all()


def test_a_fault_is_noticeable_well_before_the_failure() -> None:
    life = lived()
    (failure,) = life.failures
    severity = life.severity[failure.failure_mode]
    started = int(np.searchsorted(START_MS + np.arange(HOURS) * HOUR_MS, failure.started_at_ms))
    assert severity[started] >= {"bearing_wear": 0.03, "seal_leak": 0.01}[failure.failure_mode] > severity[started - 1]


def test_twice_the_load_halves_the_life() -> None:
    unit = Unit(asset="pump-001", group=GROUP, seed=1)
    t_ms = START_MS + np.arange(HOURS, dtype=np.int64) * HOUR_MS
    failed = []
    for rate in (1.0, 2.0):
        exposures: dict[str, Array] = {"bearing_wear": rate * np.arange(HOURS + 1, dtype=np.float64)}
        failed.append(live_through(unit, exposures, t_ms, {"bearing_wear": 0.03}).failures[0].failed_at_ms - START_MS)
    assert failed[0] / failed[1] == pytest.approx(2.0)


def test_a_repair_renews_only_the_component_it_is_for() -> None:
    untended = lived().failures[0]
    visit = Repair(at_ms=untended.failed_at_ms - 24 * HOUR_MS, hours=6.0, failure_mode=untended.failure_mode)
    life = lived(planned=(visit,))
    at = (visit.at_ms - START_MS) // HOUR_MS + 1
    assert life.down[at : at + 6].all()
    assert life.down[:at].sum() == 0
    assert life.severity[untended.failure_mode][at + 7] == 0.0
    assert all(failure.failed_at_ms > untended.failed_at_ms for failure in life.failures)
    other = "seal_leak" if untended.failure_mode == "bearing_wear" else "bearing_wear"
    assert life.severity[other][at + 7] == pytest.approx(lived().severity[other][at - 1], abs=0.02)


def test_history_before_a_repair_does_not_change() -> None:
    visit = Repair(at_ms=START_MS + 100 * HOUR_MS, hours=4.0)
    before, after = lived(), lived(planned=(visit,))
    for mode in before.severity:
        np.testing.assert_array_equal(before.severity[mode][:100], after.severity[mode][:100])


def test_the_wrong_part_does_not_bring_a_failed_machine_back() -> None:
    failure = lived().failures[0]
    other = "seal_leak" if failure.failure_mode == "bearing_wear" else "bearing_wear"
    visit = Repair(at_ms=failure.failed_at_ms + HOUR_MS, hours=4.0, failure_mode=other)
    life = lived(planned=(visit,))
    assert {found.failure_mode for found in life.failures} == {failure.failure_mode}
    assert life.down[-1]


def test_with_repairs_the_machine_goes_on_and_fails_again() -> None:
    life = lived(delay=(10.0, 20.0), hours=2000)
    assert len(life.failures) >= 5
    assert len(life.repairs) in (len(life.failures), len(life.failures) - 1)
    gaps = [(r.at_ms, r.hours) for r in life.repairs]
    assert all(10.0 <= hours <= 20.0 for _, hours in gaps)


@given(st.lists(st.tuples(st.integers(-10, HOURS + 50), st.floats(0, 90)), max_size=6))
def test_any_repairs_leave_a_possible_life(visits: list[tuple[int, float]]) -> None:
    life = lived(planned=tuple(Repair(at_ms=START_MS + at * HOUR_MS, hours=hours) for at, hours in visits))
    failed_at = [failure.failed_at_ms for failure in life.failures]
    assert failed_at == sorted(failed_at)
    assert len(failed_at) <= len(life.repairs) + 1
    for severity in life.severity.values():
        assert ((severity >= 0) & (severity <= 1)).all()

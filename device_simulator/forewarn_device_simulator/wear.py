"""How components wear, when they fail, and what repairs do about it.

Wear goes from 0 (new) to 1 (failed) with the exposure: running hours weighted by load. Nothing shows until the onset;
from there the severity of the fault grows ever faster to 1 at the failure (the P-F curve of reliability-centred
maintenance). Everything here is a pure function of the seed, the exposure and the repairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from forewarn_device_simulator.duty import HOUR_MS, Array
from forewarn_device_simulator.machines import MACHINES
from forewarn_device_simulator.randomness import generator
from forewarn_device_simulator.scenario import Group

GROWTH: Final = 2.5
"""How much faster than linearly the severity of a fault grows: it is (e^(GROWTH x) - 1) / (e^GROWTH - 1)."""
P_F_SPREAD: Final = 0.15
"""Standard deviation of the logarithm of the P-F interval around the one of the asset type."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One machine of a fleet."""

    asset: str
    group: Group
    seed: int


@dataclass(frozen=True, kw_only=True, order=True)
class Repair:
    """The machine is taken out of service at `at_ms` for `hours`; the component of that failure mode is new afterwards.

    Without a failure mode every component is renewed. Renewing another component does not bring back a failed machine.
    """

    at_ms: int
    hours: float
    failure_mode: str | None = None


@dataclass(frozen=True, kw_only=True)
class Failure:
    failure_mode: str
    started_at_ms: int
    """When its first symptom stood out from the sensors' noise."""
    failed_at_ms: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Life:
    """What happens to one unit over n instants."""

    severity: dict[str, Array]
    """Failure mode -> (n,), 0 to 1."""
    down: NDArray[np.bool_]
    """(n,): failed or under repair."""
    failures: tuple[Failure, ...]
    repairs: tuple[Repair, ...]


@dataclass(frozen=True, kw_only=True)
class _Component:
    """One part of a unit that can fail. `onset`: the wear at which the first symptom begins."""

    life_hours: float
    onset: float
    wear_at_fitting: float
    detectable: float
    """The wear at which a symptom stands out from noise."""

    def severity(self, wear: Array) -> Array:
        progress = np.clip((wear - self.onset) / (1 - self.onset), 0.0, 1.0)
        return np.asarray(np.expm1(GROWTH * progress) / np.expm1(GROWTH))


def life_hours_of(group: Group) -> dict[str, float]:
    """The failure modes that occur in a group, with their median lives in hours at rated load."""
    return dict(MACHINES[group.asset_type].life_hours if group.life_hours is None else group.life_hours)


def live_through(
    unit: Unit,
    exposure_hours: dict[str, Array],
    t_ms: NDArray[np.int64],
    detectable_severity: dict[str, float],
    planned: Sequence[Repair] = (),
    repair_delay_hours: tuple[float, float] | None = None,
) -> Life:
    """Let a unit wear, fail and be repaired.

    Args:
        exposure_hours: failure mode -> (n + 1,): exposure before each instant and, last, at the end, if never down.
        t_ms: (n,) evenly spaced instants.
        detectable_severity: failure mode -> severity from which a symptom stands out from noise.
        planned: repairs that someone orders, in any order.
        repair_delay_hours: range from which the time from a failure to the return to service is drawn; None: the unit
            stands still until a planned repair brings it back.
    """
    wearing = _Wearing(unit, exposure_hours, t_ms, detectable_severity)
    waiting = sorted(planned)
    while wearing.i < wearing.n:
        failing = wearing.next_failure()
        visit = wearing.index_of(waiting[0].at_ms) if waiting else wearing.n
        if min(failing, visit) >= wearing.n:
            wearing.run_to(wearing.n)
        elif visit <= failing:
            wearing.run_to(visit)
            wearing.repair(waiting.pop(0))
        else:
            failed_at_ms = wearing.fail(failing)
            if repair_delay_hours is not None:
                wearing.repair(wearing.draw_repair(failed_at_ms, repair_delay_hours))
            elif waiting:
                wearing.repair(waiting.pop(0))
            else:
                wearing.stand_still(wearing.n)
    return wearing.life()


class _Wearing:
    """The state of one unit on its way through time; `i` is the next instant to live."""

    def __init__(
        self,
        unit: Unit,
        exposure_hours: dict[str, Array],
        t_ms: NDArray[np.int64],
        detectable_severity: dict[str, float],
    ) -> None:
        self.i = 0
        self.n = len(t_ms)
        self._unit = unit
        self._exposure = exposure_hours
        self._t_ms = t_ms
        self._interval_ms = int(t_ms[1] - t_ms[0]) if self.n > 1 else HOUR_MS
        self._detectable_severity = detectable_severity
        self._generation = dict.fromkeys(exposure_hours, 0)
        self._fitted = {mode: self._draw(mode) for mode in exposure_hours}
        self._wear = {mode: part.wear_at_fitting for mode, part in self._fitted.items()}
        self._severity = {mode: np.zeros(self.n) for mode in exposure_hours}
        self._detected_ms = dict[str, int]()
        self._down = np.zeros(self.n, dtype=np.bool_)
        self._failures = list[Failure]()
        self._repairs = list[Repair]()

    def index_of(self, at_ms: int) -> int:
        """The first instant, not before the present one, at or after `at_ms`; n if it lies beyond the end."""
        return max(self.i, int(np.searchsorted(self._t_ms, at_ms)))

    def next_failure(self) -> int:
        """The instant during whose interval the first component fails; n if none does."""
        return min((self._failing_index(mode) for mode in self._fitted), default=self.n)

    def run_to(self, stop: int) -> None:
        """Wear in service from the present instant up to `stop`, excluded."""
        for mode, part in self._fitted.items():
            exposure = self._exposure[mode][self.i : stop + 1]
            wear = self._wear[mode] + (exposure - exposure[0]) / part.life_hours
            self._severity[mode][self.i : stop] = part.severity(wear[:-1])
            self._note_detection(mode, wear)
            self._wear[mode] = float(wear[-1])
        self.i = stop

    def fail(self, index: int) -> int:
        """Fail during the interval that starts at instant `index`; the time of the failure in milliseconds."""
        share, mode = min((self._share_at_failure(mode, index), mode) for mode in self._fitted)
        self.run_to(index + 1)
        failed_at_ms = int(self._t_ms[index] + round(share * self._interval_ms))
        started_at_ms = min(self._detected_ms.get(mode, failed_at_ms), failed_at_ms)
        self._failures.append(Failure(failure_mode=mode, started_at_ms=started_at_ms, failed_at_ms=failed_at_ms))
        return failed_at_ms

    def draw_repair(self, failed_at_ms: int, delay_hours: tuple[float, float]) -> Repair:
        """The repair that follows the last failure by itself."""
        low, high = delay_hours
        share = generator(self._unit.seed, self._unit.asset, "repair", str(len(self._failures))).random()
        mode = self._failures[-1].failure_mode
        return Repair(at_ms=failed_at_ms, hours=round(low + (high - low) * share, 2), failure_mode=mode)

    def repair(self, repair: Repair) -> None:
        """Stand still until the repair is done, then go on with new components."""
        self.stand_still(self.index_of(repair.at_ms + round(repair.hours * HOUR_MS)))
        for mode in self._fitted if repair.failure_mode is None else [repair.failure_mode]:
            if mode in self._fitted:
                self._generation[mode] += 1
                self._fitted[mode] = self._draw(mode)
                self._wear[mode] = 0.0
                self._detected_ms.pop(mode, None)
        self._repairs.append(repair)

    def stand_still(self, stop: int) -> None:
        self._down[self.i : stop] = True
        for mode, part in self._fitted.items():
            self._severity[mode][self.i : stop] = part.severity(np.array(self._wear[mode]))
        self.i = stop

    def life(self) -> Life:
        return Life(
            severity=self._severity, down=self._down, failures=tuple(self._failures), repairs=tuple(self._repairs)
        )

    def _failing_index(self, mode: str) -> int:
        exposure = self._exposure[mode]
        at_failure = exposure[self.i] + (1.0 - self._wear[mode]) * self._fitted[mode].life_hours
        return max(self.i, int(np.searchsorted(exposure, at_failure)) - 1)

    def _share_at_failure(self, mode: str, index: int) -> float:
        """How far into the interval that starts at `index` the component fails; above 1 if it does not."""
        exposure = self._exposure[mode]
        at_failure = exposure[self.i] + (1.0 - self._wear[mode]) * self._fitted[mode].life_hours
        step = exposure[index + 1] - exposure[index]
        if exposure[index + 1] < at_failure:
            return 2.0
        return float(np.clip((at_failure - exposure[index]) / step, 0.0, 1.0)) if step > 0 else 0.0

    def _note_detection(self, mode: str, wear: Array) -> None:
        at = int(np.searchsorted(wear[:-1], self._fitted[mode].detectable))
        if mode not in self._detected_ms and at < len(wear) - 1:
            self._detected_ms[mode] = int(self._t_ms[self.i + at])

    def _draw(self, mode: str) -> _Component:
        group, generation = self._unit.group, self._generation[mode]
        random = generator(self._unit.seed, self._unit.asset, "component", mode, str(generation))
        z_life, z_interval = random.standard_normal(2)
        usual = generation > 0 and group.life_after_repair == "usual"
        median_hours = MACHINES[group.asset_type].life_hours[mode] if usual else life_hours_of(group)[mode]
        life_hours = median_hours * float(np.exp(group.life_spread * z_life))
        failure_mode = MACHINES[group.asset_type].asset_type.failure_mode(mode)
        assert failure_mode is not None, mode
        p_f_hours = failure_mode.p_f_interval_hours * float(np.exp(P_F_SPREAD * z_interval))
        onset = float(np.clip(1.0 - p_f_hours / life_hours, 0.05, 0.95))
        low, high = group.wear_at_start
        used = low + (high - low) * random.random() if generation == 0 else 0.0
        progress = np.log1p(self._detectable_severity[mode] * np.expm1(GROWTH)) / GROWTH
        detectable = onset + (1 - onset) * float(progress)
        return _Component(life_hours=life_hours, onset=onset, wear_at_fitting=used, detectable=detectable)

"""The fleet of a live run: what its sensors say at any sample, given the repairs so far."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from forewarn_device_simulator.duty import DAY_MS, HOUR_MS, Array
from forewarn_device_simulator.fleet import Recording, instants, simulate, units_of
from forewarn_device_simulator.live.state import OrderedRepair
from forewarn_device_simulator.live.truth import Failed, Repaired, Truth, WouldFail
from forewarn_device_simulator.scenario import Scenario, ScenarioError, units_total
from forewarn_device_simulator.wear import Life, life_hours_of

AHEAD_DAYS: Final = 60.0
"""How far beyond the end of the scenario failures are foreseen."""
MAX_READINGS: Final = 100_000_000
"""Readings held in memory; 800 MB."""


class LiveFleet:
    """Every machine's whole course, computed ahead; a repair recomputes the one machine it is for."""

    def __init__(self, scenario: Scenario, seed: int, start_ms: int, repairs: Sequence[OrderedRepair] = ()) -> None:
        readings = scenario.samples * units_total(scenario) * 10
        if readings > MAX_READINGS:
            raise ScenarioError(f"days: {readings:,} readings are too many to play live; give fewer days or machines")
        self._scenario = scenario
        self._ahead = int(AHEAD_DAYS * DAY_MS // scenario.interval_ms)
        self._horizon_ms = instants(scenario, start_ms, AHEAD_DAYS)
        self._repairs = list(repairs)
        self._units = {unit.asset: unit for unit in units_of(scenario, seed)}
        self._twins = self._untended()
        self._courses = {asset: self._course(asset) for asset in self._units}
        self.t_ms: NDArray[np.int64] = self._horizon_ms[: scenario.samples]

    @property
    def assets(self) -> tuple[str, ...]:
        return tuple(self._units)

    def topic(self, asset: str) -> str:
        return f"{self._units[asset].group.topic}/{asset}"

    @property
    def known_modes(self) -> dict[str, set[str]]:
        """Asset -> the failure modes that occur in it."""
        return {asset: set(life_hours_of(unit.group)) for asset, unit in self._units.items()}

    def repair(self, ordered: OrderedRepair) -> None:
        """Let a machine be repaired; nothing before `at_ms` changes."""
        self._repairs.append(ordered)
        self._courses[ordered.asset] = self._course(ordered.asset)

    def payload(self, asset: str, first: int, stop: int) -> bytes:
        """Samples [first, stop) of one machine as JSON for the agent's MQTT source; missing readings are null."""
        signals = self._courses[asset].signals
        columns = {name: values[first:stop].tolist() for name, values in signals.items()}
        return msgspec.json.encode({"t": self.t_ms[first:stop].tolist(), "signals": columns})

    def truths(self, now_ms: int) -> Iterator[Truth]:
        """All that is true by `now_ms`, and what is coming."""
        for asset in self._units:
            twin, course = self._twins[asset].life, self._courses[asset].life
            yield from _would_fail(asset, twin, twin=True)
            yield from _would_fail(asset, course, twin=False)
            for failure in course.failures:
                if failure.failed_at_ms <= now_ms:
                    yield Failed(asset=asset, failure_mode=failure.failure_mode, failed_at=failure.failed_at_ms)
        for ordered in self._repairs:
            back_at = ordered.at_ms + round(ordered.hours * HOUR_MS)
            if back_at <= now_ms:
                yield Repaired(
                    id=ordered.id,
                    asset=ordered.asset,
                    failure_mode=ordered.failure_mode,
                    at=ordered.at_ms,
                    back_at=back_at,
                )

    def _untended(self) -> "dict[str, _Course]":
        """The course of every machine to which nothing is done; machines of one type are computed together."""
        twins = dict[str, _Course]()
        for name in sorted({unit.group.asset_type for unit in self._units.values()}):
            units = [unit for unit in self._units.values() if unit.group.asset_type == name]
            twins |= _courses(simulate(self._scenario, units, self._horizon_ms, ahead=self._ahead))
        return twins

    def _course(self, asset: str) -> "_Course":
        planned = [ordered.repair for ordered in self._repairs if ordered.asset == asset]
        if not planned:
            return self._twins[asset]
        unit, repairs = self._units[asset], {asset: planned}
        return _courses(simulate(self._scenario, [unit], self._horizon_ms, ahead=self._ahead, repairs=repairs))[asset]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Course:
    """One machine from beginning to end: signal -> (n,), and its life."""

    signals: dict[str, Array]
    life: Life


def _courses(recording: Recording) -> dict[str, _Course]:
    return {
        unit.asset: _Course(
            signals={name: np.ascontiguousarray(values[:, column]) for name, values in recording.signals.items()},
            life=recording.lives[column],
        )
        for column, unit in enumerate(recording.units)
    }


def _would_fail(asset: str, life: Life, *, twin: bool) -> Iterator[WouldFail]:
    for failure in life.failures:
        yield WouldFail(
            asset=asset,
            failure_mode=failure.failure_mode,
            started_at=failure.started_at_ms,
            would_fail_at=failure.failed_at_ms,
            twin=twin,
        )

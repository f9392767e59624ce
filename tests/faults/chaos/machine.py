"""The machines of a chaos run: what each measures is fixed by the seed, so anyone can work out what must be stored.

Every sample has a running number, from 1. Its time says which it is, and so does a reading that carries nothing else.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from forewarn_models import wire

ASSET_TYPE: Final = "motor_fan"
STEP_MS: Final = 300_000
"""Between two samples, by the machine's time: a run of minutes is a week of the machine's life."""
BASELINE_SAMPLES: Final = 60
HEALTHY_SAMPLES: Final = 100
"""Before the first fault."""
FAULTY_SAMPLES: Final = 60
CYCLE_SAMPLES: Final = 300
"""From fault to fault. Between them the machine is well for long enough that its episode is closed."""
NUMBER_SIGNAL: Final = "static_pressure_pa"
_LEVELS: Final = {
    "speed_rpm": (1480.0, 2.0),
    "damper_position_pct": (60.0, 0.5),
    "ambient_temperature_c": (22.0, 0.3),
    "vibration_rms_mm_s": (1.6, 0.05),
    "acceleration_envelope_g": (0.8, 0.04),
    "acceleration_kurtosis": (3.0, 0.1),
    "bearing_temperature_c": (58.0, 0.5),
    "motor_current_a": (31.0, 0.3),
}
_RISES: Final = {
    "vibration_rms_mm_s": 2.0,
    "acceleration_envelope_g": 6.0,
    "acceleration_kurtosis": 9.0,
    "bearing_temperature_c": 60.0,
}
"""How far a spalled bearing drives them; the temperature beyond its ALARM limit."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """`index` counts the machines of a run. It sends `records` of as many samples each, always the same ones together:
    what comes again after a crash is then the same record."""

    seed: int
    index: int
    begin_ms: int
    records: int
    samples_per_record: int

    @property
    def asset(self) -> str:
        return f"fan-{self.index:03d}"

    @property
    def node(self) -> str:
        return f"node-{self.index:03d}"

    @property
    def samples(self) -> int:
        return self.records * self.samples_per_record

    def number_of(self, t_ms: int) -> int:
        """Of the sample of that time; anything not within 1..`samples` was never measured."""
        number, off = divmod(t_ms - self.begin_ms, STEP_MS)
        return number if off == 0 else 0

    def record(self, number: int) -> wire.Telemetry:
        """The record of that number, from 1."""
        return self.block((number - 1) * self.samples_per_record + 1, number * self.samples_per_record)

    def block(self, first: int, last: int) -> wire.Telemetry:
        """The samples of these numbers."""
        return wire.Telemetry(
            asset=self.asset,
            asset_type=ASSET_TYPE,
            t_ms=self.begin_ms + STEP_MS * np.arange(first, last + 1, dtype=np.int64),
            signals={name: column[first - 1 : last] for name, column in self.readings.items()},
        )

    @cached_property
    def readings(self) -> dict[str, NDArray[np.float32]]:
        """(samples,) for each signal."""
        rng = np.random.default_rng([self.seed, self.index])
        fault = self._fault()
        found = {
            name: (level + spread * rng.normal(size=self.samples) + _RISES.get(name, 0.0) * fault).astype(np.float32)
            for name, (level, spread) in _LEVELS.items()
        }
        return found | {NUMBER_SIGNAL: (np.arange(1, self.samples + 1) % 4096 + 1000.0).astype(np.float32)}

    def _fault(self) -> NDArray[np.float64]:
        """(samples,) 0: none, 1: fully grown. It grows over half of its time and is gone at its end."""
        since = (np.arange(self.samples) - HEALTHY_SAMPLES - self.index) % CYCLE_SAMPLES
        begun = np.arange(self.samples) >= HEALTHY_SAMPLES + self.index
        return np.where(begun & (since < FAULTY_SAMPLES), np.minimum(1.0, 2 * since / FAULTY_SAMPLES), 0.0)

"""Small fleets that wear: datasets for tests, written in a moment and with their truth known."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from .folders import write_folder

START = datetime(2026, 1, 1, tzinfo=UTC)
DESCRIPTION = """
name = "wearing-fans"
asset_type = "test_fan"

[calibration]
baseline_samples = 100
false_alarms_per_asset_month = 0.5

[[signals]]
name = "load_pct"
unit = "%"
role = "regime"

[[signals]]
name = "vibration_mm_s"
unit = "mm/s"

[[signals]]
name = "bearing_c"
unit = "degC"
"""


@dataclass
class Fleet:
    """Machines sampled hourly; each wears over its last 200 hours and fails, or stays healthy."""

    seed: int = 7
    rows: list[tuple[str, datetime, float, float, float]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def add(self, asset: str, hours: int, *, fails: bool, start_hour: int = 0) -> "Fleet":
        rng = np.random.default_rng([self.seed, len(self.rows)])
        hour = np.arange(hours)
        wear = np.clip((hour - (hours - 200)) / 200, 0, 1) ** 2 if fails else np.zeros(hours)
        load = 60 + 20 * np.sin(hour / 24 * 2 * np.pi) + rng.normal(0, 3, hours)
        vibration = 1.5 + 0.01 * load + 6 * wear + rng.normal(0, 0.1, hours)
        bearing = 40 + 0.2 * load + 25 * wear + rng.normal(0, 0.5, hours)
        for i in range(hours):
            at = START + timedelta(hours=start_hour + i)
            self.rows.append((asset, at, float(load[i]), float(vibration[i]), float(bearing[i])))
        if fails:
            self.failures.append(f"{asset},{_iso(START + timedelta(hours=start_hour + hours - 1))},bearing")
        return self

    def write(self, folder: Path, **events: str) -> Path:
        """The dataset folder; rows of all machines interleaved, in the order of time."""
        lines = ["asset_id,observed_at,load_pct,vibration_mm_s,bearing_c"]
        for asset, at, *values in sorted(self.rows, key=lambda row: row[1]):
            lines.append(",".join([asset, _iso(at), *(f"{value:.4f}" for value in values)]))
        events.setdefault("failures", "\n".join(["asset_id,failed_at,failure_mode", *self.failures]) + "\n")
        return write_folder(folder, description=DESCRIPTION, telemetry="\n".join(lines) + "\n", **events)


def wearing_fleet(folder: Path) -> Path:
    """Six machines that fail after 500 to 750 hours and two that do not."""
    fleet = Fleet()
    for i in range(6):
        fleet.add(f"w{i}", 500 + 50 * i, fails=True)
    return fleet.add("h0", 700, fails=False).add("h1", 300, fails=False).write(folder)


def _iso(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")

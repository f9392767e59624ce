"""Speed of the full set of vibration features of one second of one channel at 20.48 kHz, on one core.

The waveform is a bearing with a struck outer race; RMS, peak, crest factor, kurtosis, velocity, three bands, three
orders and the four bearing frequencies in the envelope's spectrum are worked out each time, once at a constant speed
and once with the course of a changing speed. Beside them: 16 channels in one call. The last line is one JSON object;
of each figure, `ms` is the median, `ms_least` the least, and `cpu_ms` the mean without what other processes took.

Usage: python tests/benchmarks/bench_vibration.py [--seconds 3]
"""

import argparse
import json
import os
import platform
import time

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forewarn_models.vibration import BearingGeometry, fault_orders, features

RATE_HZ = 20_480.0
SAMPLES = 20_480
SPEED_HZ = 24.9
CHANNELS = 16
GEOMETRY = BearingGeometry(rolling_elements=9, ball_diameter_mm=7.94, pitch_diameter_mm=39.04)
BANDS_HZ = ((10.0, 1000.0), (1000.0, 5000.0), (5000.0, 10_000.0))


def waveforms(channels: int) -> NDArray[np.float64]:
    """(channels, n) unbalance, impacts at the outer race's frequency that ring at 4.2 kHz, and noise."""
    random = np.random.default_rng(1)
    seconds = np.arange(SAMPLES) / RATE_HZ
    since_impact = seconds % (1.0 / (fault_orders(GEOMETRY).bpfo * SPEED_HZ))
    ringing = np.exp(-900 * since_impact) * np.sin(2 * np.pi * 4200 * since_impact)
    unbalance = np.sin(2 * np.pi * SPEED_HZ * seconds)
    return np.asarray(unbalance + ringing + 0.3 * random.normal(size=(channels, SAMPLES)))


def speed(waveform: NDArray[np.float64], speed_hz: ArrayLike, seconds: float) -> dict[str, float]:
    """Milliseconds of a call with everything on, after one call to warm up."""
    found = features(waveform, RATE_HZ, speed_hz=speed_hz, geometry=GEOMETRY, bands_hz=BANDS_HZ)
    spent: list[float] = []
    cpu_began = time.process_time()
    while sum(spent) < seconds:
        began = time.perf_counter()
        features(waveform, RATE_HZ, speed_hz=speed_hz, geometry=GEOMETRY, bands_hz=BANDS_HZ)
        spent.append(time.perf_counter() - began)
    return {
        "features": len(found),
        "calls": len(spent),
        "ms": round(1e3 * float(np.median(spent)), 3),
        "ms_least": round(1e3 * min(spent), 3),
        "cpu_ms": round(1e3 * (time.process_time() - cpu_began) / len(spent), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each figure is measured")
    seconds = parser.parse_args().seconds
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    many = waveforms(CHANNELS)
    result: dict[str, object] = {"python": platform.python_version(), "numpy": np.__version__, "samples": SAMPLES}
    for name, waveform, speed_hz in (
        ("one_channel", many[0], SPEED_HZ),
        ("one_channel_changing_speed", many[0], np.linspace(SPEED_HZ - 1, SPEED_HZ + 1, SAMPLES)),
        (f"channels_{CHANNELS}", many, SPEED_HZ),
    ):
        result[name] = speed(waveform, speed_hz, seconds)
        print(f"{name}: {json.dumps(result[name])}", flush=True)
    print(json.dumps(result))


if __name__ == "__main__":
    main()

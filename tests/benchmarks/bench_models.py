"""Speed of the kernel beside river's usual online anomaly detector, in one run on one core.

All stages are on: readings, regression, evidence, condition, prognosis, diagnosis and learning, over the eight signals
of a machine with three regime signals. river scores and learns the same samples with MinMaxScaler | HalfSpaceTrees. The
last line is one JSON object. `--cpu` counts the time of the processor instead of the clock's, for a machine that others
use, too. Usage: python tests/benchmarks/bench_models.py [--seconds 3] [--cpu]
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib import metadata

import numpy as np

from forewarn_models.assessment import Block
from forewarn_models.asset_type import Signal, generic_asset_type
from forewarn_models.kernel import Model, assess, dump_state, new_state

SIGNALS = tuple(Signal(name=f"signal_{i}", unit="1", role="regime" if i < 3 else "condition") for i in range(8))
MODEL = Model(asset_type=generic_asset_type(SIGNALS))
STEP_MS = 600_000
FIRST_MS = 1_767_571_200_000


def blocks(assets: int, steps: int, *, seed: int) -> Iterator[Block]:
    """Healthy machines whose signals follow speed, load and ambient, for ever."""
    random = np.random.default_rng(seed)
    influence = random.normal(size=(assets, 3, 5))
    start = 0
    while True:
        phase = 2 * np.pi * (start + np.arange(steps)) / 144
        regime = np.stack([np.sin(phase), np.cos(phase / 7), np.sin(phase + 1)], axis=1)[:, None, :]
        regime = regime + 0.1 * random.normal(size=(steps, assets, 3))
        condition = np.einsum("nar,arc->nac", regime, influence) + 0.2 * random.normal(size=(steps, assets, 5))
        t_ms = FIRST_MS + STEP_MS * (start + np.arange(steps, dtype=np.int64))
        yield Block(
            t_ms=np.repeat(t_ms[:, None], assets, axis=1), values=100.0 + np.concatenate([regime, condition], axis=2)
        )
        start += steps


def kernel_speed(assets: int, steps: int, seconds: float, clock: Callable[[], float]) -> dict[str, float]:
    """Samples a second over blocks of `steps`, from the first block on: learning included."""
    state, source, samples, spent = new_state(MODEL, assets), blocks(assets, steps, seed=1), 0, 0.0
    while spent < seconds:
        block = next(source)
        began = clock()
        _, state = assess(MODEL, state, block)
        spent += clock() - began
        samples += steps * assets
    return {
        "assets": assets,
        "block_steps": steps,
        "samples_per_s": round(samples / spent),
        "us_per_sample": round(1e6 * spent / samples, 3),
        "state_bytes_per_asset": round(len(dump_state(MODEL, state)) / assets),
    }


def river_speed(seconds: float, clock: Callable[[], float]) -> dict[str, float | str]:
    """The same samples one by one, as river takes them."""
    from river import anomaly, preprocessing

    detector = preprocessing.MinMaxScaler() | anomaly.HalfSpaceTrees(seed=1)
    names, source, samples, spent = [signal.name for signal in SIGNALS], blocks(1, 1000, seed=1), 0, 0.0
    while spent < seconds:
        rows = [dict(zip(names, row, strict=True)) for row in next(source).values[:, 0].tolist()]
        began = clock()
        for row in rows:
            detector.score_one(row)
            detector.learn_one(row)
        spent += clock() - began
        samples += len(rows)
    return {
        "version": metadata.version("river"),
        "samples_per_s": round(samples / spent),
        "us_per_sample": round(1e6 * spent / samples, 3),
    }


def import_cost() -> dict[str, float]:
    """What the models cost an edge device before the first sample, in a process of its own."""
    code = (
        "import time; began = time.perf_counter(); import forewarn_models.advisory, forewarn_models.kernel; "
        "spent = time.perf_counter() - began; import resource; "
        "print(spent, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    spent, megabytes = map(float, done.stdout.split())
    return {"seconds": round(spent, 3), "resident_mb": round(megabytes, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each figure is measured")
    parser.add_argument("--cpu", action="store_true", help="count the time of the processor")
    given = parser.parse_args()
    seconds, clock = given.seconds, time.process_time if given.cpu else time.perf_counter
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    result: dict[str, object] = {"python": platform.python_version(), "numpy": np.__version__, "signals": len(SIGNALS)}
    for name, measure in (
        ("import", import_cost),
        ("one_asset", lambda: kernel_speed(1, 1000, seconds, clock)),
        ("one_asset_live", lambda: kernel_speed(1, 6, seconds, clock)),
        ("fleet_1000", lambda: kernel_speed(1000, 64, seconds, clock)),
        ("river", lambda: river_speed(seconds, clock)),
    ):
        result[name] = measure()
        print(f"{name}: {json.dumps(result[name])}", flush=True)
    print(json.dumps(result))


if __name__ == "__main__":
    main()

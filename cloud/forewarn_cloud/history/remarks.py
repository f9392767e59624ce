"""What a dataset folder may hold, and yet was probably not meant: told, not refused."""

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from forewarn_cloud.history.description import DESCRIPTION, Description
from forewarn_cloud.history.telemetry import FILES, Telemetry, telemetry_path
from forewarn_models.kernel import Settings

KNOWN: Final = (DESCRIPTION, *FILES, "failures.csv", "faults.csv", "remaining_life.csv", "maintenance.csv")
"""Every file of a dataset folder that is read."""


def remarks(folder: Path, description: Description, telemetry: Telemetry) -> Iterator[str]:
    """Misnamed files, signals that say nothing, and assets of which too little is known."""
    yield from _misnamed(folder)
    file = telemetry_path(folder).name
    yield from _silent_signals(file, description, telemetry)
    yield from _short_histories(file, description, telemetry)


def _misnamed(folder: Path) -> Iterator[str]:
    for path in sorted(folder.iterdir()):
        meant = difflib.get_close_matches(path.name.lower(), KNOWN, n=1, cutoff=0.85)
        if path.name not in KNOWN and meant and not (folder / meant[0]).exists():
            yield f"{path.name}: not read; rename it to {meant[0]} if that is meant"


def _silent_signals(file: str, description: Description, telemetry: Telemetry) -> Iterator[str]:
    names = [signal.name for signal in description.signals if signal.role == "condition"]
    missing, constant = list[str](), list[str]()
    for name in names:
        values = telemetry.values[:, [signal.name for signal in description.signals].index(name)]
        seen = values[~np.isnan(values)]
        if len(seen) == 0:
            missing.append(name)
        elif len(seen) > 1 and np.all(seen == seen[0]):
            constant.append(name)
    if missing:
        yield f"{file}, column {', '.join(missing)}: no reading; fill it, or take the signal out of {DESCRIPTION}"
    if constant:
        yield (
            f"{file}, column {', '.join(constant)}: the same value in every row, which can show no fault; "
            f"check the sensor, or take the signal out of {DESCRIPTION}"
        )


def _short_histories(file: str, description: Description, telemetry: Telemetry) -> Iterator[str]:
    needed = description.calibration.baseline_samples or Settings().baseline_samples
    counts = np.bincount(telemetry.asset_index, minlength=len(telemetry.assets))
    short = np.flatnonzero(counts < needed)
    if len(short):
        asset, count = telemetry.assets[short[0]], int(counts[short[0]])
        others = f", and {len(short) - 1} more assets have too few" if len(short) > 1 else ""
        yield (
            f"{file}: {asset} has only {count} of the {needed} samples from which the models learn what is normal"
            f"{others}; give more, or lower calibration.baseline_samples"
        )

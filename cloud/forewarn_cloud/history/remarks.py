"""What a dataset folder may hold, and yet was probably not meant: told, not refused."""

import difflib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from forewarn_cloud.history.description import DESCRIPTION, Description
from forewarn_cloud.history.telemetry import FILES, Telemetry, telemetry_path
from forewarn_models.asset_type import AssetType, Role, Signal
from forewarn_models.kernel import Settings

KNOWN: Final = (DESCRIPTION, *FILES, "failures.csv", "faults.csv", "remaining_life.csv", "maintenance.csv")
"""Every file of a dataset folder that is read."""


def remarks(folder: Path, description: Description, asset_type: AssetType, telemetry: Telemetry) -> Iterator[str]:
    """Misnamed files, signals that say nothing, and assets of which too little is known."""
    yield from _misnamed(folder)
    file = telemetry_path(folder).name
    needed = description.calibration.baseline_samples or Settings().baseline_samples
    yield from _silent_signals(file, asset_type, telemetry)
    yield from _short_histories(file, needed, telemetry)
    yield from _unknown_regimes(file, needed, asset_type, telemetry)


def _misnamed(folder: Path) -> Iterator[str]:
    for path in sorted(folder.iterdir()):
        meant = difflib.get_close_matches(path.name.lower(), KNOWN, n=1, cutoff=0.85)
        if path.name not in KNOWN and meant and not (folder / meant[0]).exists():
            yield f"{path.name}: not read; rename it to {meant[0]} if that is meant"


def _silent_signals(file: str, asset_type: AssetType, telemetry: Telemetry) -> Iterator[str]:
    missing, constant = defaultdict[Role, list[str]](list), defaultdict[Role, list[str]](list)
    impossible = list[str]()
    for signal, values in zip(asset_type.signals, telemetry.values.T, strict=True):
        seen = values[~np.isnan(values)]
        if len(seen) == 0:
            missing[signal.role].append(signal.name)
        elif not _is_measurement(signal, seen).any():
            impossible.append(signal.name)
        elif len(seen) > 1 and np.all(seen == seen[0]):
            constant[signal.role].append(signal.name)
    for names in missing.values():
        yield f"{file}, column {', '.join(names)}: no reading; fill it, or take the signal out of {DESCRIPTION}"
    if impossible:
        yield (
            f"{file}, column {', '.join(impossible)}: every reading is a sentinel or outside valid_min to valid_max; "
            f"correct them in {DESCRIPTION}, or the unit of the readings"
        )
    if constant["condition"]:
        yield (
            f"{file}, column {', '.join(constant['condition'])}: the same value in every row, which can show no fault; "
            f"check the sensor, or take the signal out of {DESCRIPTION}"
        )
    if constant["regime"] and not asset_type.failure_modes:  # a type that has some would be lost with the signal
        yield (
            f"{file}, column {', '.join(constant['regime'])}: the same value in every row, which can explain nothing; "
            f"take the signal out of {DESCRIPTION}"
        )


def _is_measurement(signal: Signal, values: NDArray[np.float64]) -> NDArray[np.bool_]:
    low = -np.inf if signal.valid_min is None else signal.valid_min
    high = np.inf if signal.valid_max is None else signal.valid_max
    possible: NDArray[np.bool_] = (values >= low) & (values <= high) & ~np.isin(values, signal.sentinels)
    return possible


def _short_histories(file: str, needed: int, telemetry: Telemetry) -> Iterator[str]:
    counts = np.bincount(telemetry.asset_index, minlength=len(telemetry.assets))
    short = np.flatnonzero(counts < needed)
    if len(short):
        asset, count = telemetry.assets[short[0]], int(counts[short[0]])
        others = _others(len(short) - 1)
        yield (
            f"{file}: {asset} has only {count} of the {needed} samples from which the models learn what is normal"
            f"{others}; give more, or lower calibration.baseline_samples"
        )


def _unknown_regimes(file: str, needed: int, asset_type: AssetType, telemetry: Telemetry) -> Iterator[str]:
    """Assets with rows enough, but too few of them tell the whole regime, without which nothing is learned."""
    regimes = [(i, signal) for i, signal in enumerate(asset_type.signals) if signal.role == "regime"]
    if not regimes:
        return
    names = [signal.name for _, signal in regimes]
    missing = np.stack([~_is_measurement(signal, telemetry.values[:, i]) for i, signal in regimes], axis=1)
    counts = np.bincount(telemetry.asset_index, minlength=len(telemetry.assets))
    whole = np.bincount(telemetry.asset_index[~missing.any(axis=1)], minlength=len(telemetry.assets))
    unknown = np.flatnonzero((counts >= needed) & (whole < needed))
    if len(unknown):
        first = int(unknown[0])
        often = missing[telemetry.asset_index == first].sum(axis=0)
        most = ", ".join(names[i] for i in np.flatnonzero(often == often.max()))
        others = _others(len(unknown) - 1)
        yield (
            f"{file}: {telemetry.assets[first]} has a reading of every regime signal in only {whole[first]} of its "
            f"{counts[first]} rows, of the {needed} from which the models learn what is normal{others}; fill {most}, "
            f"missing most often (with the last value, while it holds), or take it out of {DESCRIPTION}"
        )


def _others(count: int) -> str:
    return f", and {count:,} more {'asset has' if count == 1 else 'assets have'} too few" if count else ""

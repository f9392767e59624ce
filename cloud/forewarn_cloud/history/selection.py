"""Part of a dataset: only some of its assets, so that one can learn from some machines and judge on others."""

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray

from forewarn_cloud.history.cells import DatasetError
from forewarn_cloud.history.dataset import Dataset
from forewarn_cloud.history.telemetry import Telemetry


def only_assets(dataset: Dataset, patterns: Sequence[str]) -> Dataset:
    """The assets whose name matches one of the `patterns` (* ? [0-4]), with their events; without patterns, all.

    Raises:
        DatasetError: a pattern matches no asset.
    """
    if not patterns:
        return dataset
    for pattern in patterns:
        if not any(fnmatchcase(asset, pattern) for asset in dataset.telemetry.assets):
            known = ", ".join(dataset.telemetry.assets[:3])
            raise DatasetError(f"--assets {pattern}: no asset is called so; the dataset has {known} ...")
    wanted = [any(fnmatchcase(asset, pattern) for pattern in patterns) for asset in dataset.telemetry.assets]
    telemetry = _only(dataset.telemetry, np.array(wanted))
    kept = frozenset(telemetry.assets)
    return replace(
        dataset,
        telemetry=telemetry,
        failures=None if dataset.failures is None else tuple(f for f in dataset.failures if f.asset in kept),
        faults=None if dataset.faults is None else tuple(f for f in dataset.faults if f.asset in kept),
        remaining_lives=tuple(life for life in dataset.remaining_lives if life.asset in kept),
        maintenance=tuple(work for work in dataset.maintenance if work.asset in kept),
    )


def _only(telemetry: Telemetry, wanted: NDArray[np.bool_]) -> Telemetry:
    rows = wanted[telemetry.asset_index]
    renumbered = (np.cumsum(wanted) - 1).astype(np.int32)
    return Telemetry(
        assets=tuple(asset for asset, keep in zip(telemetry.assets, wanted.tolist(), strict=True) if keep),
        asset_index=renumbered[telemetry.asset_index[rows]],
        t_ms=telemetry.t_ms[rows],
        values=telemetry.values[rows],
    )

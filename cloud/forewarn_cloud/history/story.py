"""The story of one asset: what was measured, what the models said of it, and what really happened."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
from numpy.typing import NDArray

from forewarn_cloud.history.assess import Advance, assess_dataset
from forewarn_cloud.history.cells import DatasetError
from forewarn_cloud.history.dataset import Dataset
from forewarn_cloud.history.lives import Life, split_lives
from forewarn_cloud.history.selection import only_assets
from forewarn_models.assessment import Assessment, Condition, Maturity
from forewarn_models.kernel import Model

_BAND: Final = (0.025, 0.975)
_BAND_SAMPLES: Final = 30


@dataclass(frozen=True, kw_only=True, eq=False)
class Story:
    """One asset from its first sample to its last: n samples, S signals in the order of the asset type."""

    dataset: Dataset
    """Of this asset only."""
    asset: str
    t_ms: NDArray[np.int64]
    """(n,)"""
    values: NDArray[np.float64]
    """(n, S)"""
    said: Assessment
    """As of a fleet of one: (n, 1, ...)."""

    @property
    def condition(self) -> NDArray[np.int8]:
        return self.said.condition[:, 0]

    @property
    def alarms(self) -> NDArray[np.int64]:
        """The samples at which an ALARM begins."""
        alarm = self.condition == Condition.ALARM
        return np.flatnonzero(alarm & ~np.concatenate(([False], alarm[:-1])))


def tell_story(dataset: Dataset, model: Model, asset: str, advance: Advance = lambda _: None) -> Story:
    """What the models say of one asset, sample by sample.

    Raises:
        DatasetError: the dataset has no such asset; a few that it has are named.
    """
    mine = only_asset(dataset, asset)
    pieces = list(assess_dataset(mine, model, advance))
    rows = np.concatenate([piece.rows for piece in pieces])
    return Story(
        dataset=mine,
        asset=asset,
        t_ms=mine.telemetry.t_ms[rows],
        values=mine.telemetry.values[rows],
        said=Assessment(
            **{
                field.name: np.concatenate([getattr(piece.assessment, field.name) for piece in pieces])
                for field in fields(Assessment)
            }
        ),
    )


def only_asset(dataset: Dataset, asset: str) -> Dataset:
    known = dataset.telemetry.assets
    if asset not in known:
        few = ", ".join(known[:5]) + (f" and {len(known) - 5} more" if len(known) > 5 else "")
        raise DatasetError(f"--asset {asset}: no asset is called so; the dataset has {few}")
    return only_assets(dataset, [asset])


def strongest_signals(story: Story, count: int) -> list[tuple[int, float]]:
    """The condition signals that contribute most while there is an ALARM (without one, over all samples), the strongest
    first: number of the signal, and its share of the score (NaN where the score is 0)."""
    alarm = story.condition == Condition.ALARM
    contribution = story.said.contribution[:, 0][alarm if alarm.any() else slice(None)].sum(axis=0)
    signals = story.dataset.asset_type.signals
    watched = [i for i, signal in enumerate(signals) if signal.role == "condition"]
    strongest = sorted(watched, key=lambda i: -contribution[i])[:count]
    total = contribution.sum()
    return [(i, float(contribution[i] / total) if total > 0 else np.nan) for i in strongest]


def usual_range(story: Story, number: int) -> tuple[float, float]:
    """Between which residuals 95 % of the healthy samples lie: NORMAL, and before the first evidence; NaN if few."""
    evident = np.flatnonzero(story.condition >= Condition.ALERT)
    healthy = slice(0, evident[0] if len(evident) else None)
    residual = story.said.residual[healthy, 0, number][story.condition[healthy] == Condition.NORMAL]
    residual = residual[np.isfinite(residual)]
    if len(residual) < _BAND_SAMPLES:
        return np.nan, np.nan
    low, high = np.quantile(residual, _BAND)
    return float(low), float(high)


def expected_range(story: Story, number: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(n,) each: between which values a signal would be usual in the regime of each sample; NaN while learning."""
    low, high = usual_range(story, number)
    expected = story.values[:, number] - story.said.residual[:, 0, number]
    expected = np.where(story.said.maturity[:, 0] == Maturity.LEARNING, np.nan, expected)
    return expected + low, expected + high


def true_lives(story: Story) -> Iterator[tuple[Life, int]]:
    """The lives whose end is known, and when that is, in epoch milliseconds."""
    for life in split_lives(story.dataset):
        if life.would_fail_ms is not None and len(life.rows):
            yield life, life.would_fail_ms

"""A dataset through the very pipeline of the agent: the same kernel, block by block, and a reset after every repair."""

import csv
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from forewarn_cloud.history.dataset import Dataset
from forewarn_cloud.history.files import written_whole
from forewarn_cloud.history.lives import Reset, find_resets
from forewarn_models.assessment import Assessment, Block, Condition, Maturity
from forewarn_models.kernel import Model, Settings, State, assess, new_state, reset_baseline
from forewarn_models.knowledge import FleetKnowledge

Advance = Callable[[int], None]
"""Told how many more samples are done."""

FLEET: Final = 128
"""Assets assessed together; more would only cost memory."""
BLOCK_STEPS: Final = 512
_ROWS_AT_ONCE: Final = 50_000
_CONDITIONS: Final = np.array([condition.name for condition in Condition])
_MATURITIES: Final = np.array([maturity.name for maturity in Maturity])
HEADER: Final = (
    "asset_id",
    "observed_at",
    "anomaly_score",
    "condition",
    "health_index",
    "rul_hours_p10",
    "rul_hours_p50",
    "rul_hours_p90",
    "failure_mode",
    "maturity",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Piece:
    """The assessment, as of a fleet of one, of consecutive samples of one asset in one life.

    `rows` int64 (n,): their row numbers in the telemetry.
    """

    asset: str
    rows: NDArray[np.int64]
    assessment: Assessment


def model_for(dataset: Dataset, knowledge: FleetKnowledge | None) -> Model:
    """The model for a dataset, with its calibration and, if given, what was learned from other histories."""
    settings = Settings(**dataset.description.calibration.given())
    return Model(asset_type=dataset.asset_type, settings=settings, knowledge=knowledge)


def assess_dataset(dataset: Dataset, model: Model, advance: Advance = lambda _: None) -> Iterator[Piece]:
    """Every sample of a dataset, assessed; the pieces of one asset come in time order.

    Assets of similar length run together as one fleet, the i-th sample of each in step i. Their times need not agree:
    the kernel knows nothing across assets. Shorter histories are filled up with missing values at the end.
    """
    resets = find_resets(dataset)
    histories = list(zip(dataset.telemetry.assets, dataset.telemetry.rows_by_asset(), strict=True))
    histories.sort(key=lambda history: len(history[1]))
    for first in range(0, len(histories), FLEET):
        yield from _assess_fleet(dataset, model, histories[first : first + FLEET], resets, advance)


def _assess_fleet(
    dataset: Dataset,
    model: Model,
    histories: list[tuple[str, NDArray[np.int64]]],
    resets: dict[str, list[Reset]],
    advance: Advance,
) -> Iterator[Piece]:
    state = new_state(model, len(histories))
    due = {(i, reset.step): reset for i, (asset, _) in enumerate(histories) for reset in resets.get(asset, [])}
    steps = max(len(rows) for _, rows in histories)
    cuts = sorted({*range(0, steps, BLOCK_STEPS), *(step for _, step in due), steps})
    for start, stop in pairwise(cuts):
        state = _reset(model, state, {i: reset for (i, step), reset in due.items() if step == start})
        block = _block(dataset, [rows for _, rows in histories], start, stop)
        assessment, state = assess(model, state, block)
        for i, (asset, rows) in enumerate(histories):
            mine = rows[start:stop]
            if len(mine):
                alone = of_one(assessment, i, len(mine))
                yield Piece(asset=asset, rows=mine, assessment=alone)
                advance(len(mine))


def _reset(model: Model, state: State, due: dict[int, Reset]) -> State:
    for asset_index, reset in due.items():
        state = reset_baseline(model, state, asset_index, reset.at_ms)
    return state


def _block(dataset: Dataset, histories: list[NDArray[np.int64]], start: int, stop: int) -> Block:
    """Steps [start, stop) of the histories; where one has ended, time goes on and all values are missing."""
    telemetry = dataset.telemetry
    t_ms = np.empty((stop - start, len(histories)), np.int64)
    values = np.full((stop - start, len(histories), telemetry.values.shape[1]), np.nan)
    for i, rows in enumerate(histories):
        mine = rows[start:stop]
        t_ms[: len(mine), i] = telemetry.t_ms[mine]
        values[: len(mine), i] = telemetry.values[mine]
        ended = int(telemetry.t_ms[rows[-1]])
        t_ms[len(mine) :, i] = ended + np.arange(start, stop)[len(mine) :] - len(rows) + 1
    return Block(t_ms=t_ms, values=values)


def of_one(assessment: Assessment, asset_index: int, steps: int) -> Assessment:
    """The first `steps` steps of one asset of a fleet, as of a fleet of one."""
    one = slice(asset_index, asset_index + 1)
    return Assessment(**{field.name: getattr(assessment, field.name)[:steps, one] for field in fields(Assessment)})


# --- the table ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class AssessmentTable:
    """What the models say of each of n samples, in the order of the telemetry file; (n,) unless stated."""

    anomaly_score: NDArray[np.float64]
    condition: NDArray[np.int8]
    health_index: NDArray[np.float64]
    rul_hours: NDArray[np.float64]
    """(n, 3): P10, P50, P90; NaN where there is none."""
    failure_mode: NDArray[np.int16]
    """Index into the failure modes of the asset type; -1 where none is likely."""
    maturity: NDArray[np.int8]


def assess_table(dataset: Dataset, model: Model, advance: Advance = lambda _: None) -> AssessmentTable:
    n = len(dataset.telemetry.t_ms)
    table = AssessmentTable(
        anomaly_score=np.zeros(n),
        condition=np.zeros(n, np.int8),
        health_index=np.ones(n),
        rul_hours=np.full((n, 3), np.nan),
        failure_mode=np.full(n, -1, np.int16),
        maturity=np.zeros(n, np.int8),
    )
    for piece in assess_dataset(dataset, model, advance):
        said = piece.assessment
        table.anomaly_score[piece.rows] = said.anomaly_score[:, 0]
        table.condition[piece.rows] = said.condition[:, 0]
        table.health_index[piece.rows] = said.health_index[:, 0]
        table.rul_hours[piece.rows] = said.rul_hours[:, 0]
        table.failure_mode[piece.rows] = likeliest_mode(said.failure_mode_probability[:, 0])
        table.maturity[piece.rows] = said.maturity[:, 0]
    return table


def likeliest_mode(probability: NDArray[np.float64]) -> NDArray[np.int16]:
    """The likeliest failure mode of each row of (n, failure modes); -1 where "none of these" is at least as likely."""
    if probability.shape[1] == 0:
        return np.full(len(probability), -1, np.int16)
    best = probability.argmax(axis=1)
    none = 1.0 - probability.sum(axis=1)
    return np.where(probability.max(axis=1) > none, best, -1).astype(np.int16)


def write_assessments(path: Path, dataset: Dataset, table: AssessmentTable, advance: Advance = lambda _: None) -> None:
    """The table as CSV, one row per sample in the order of the telemetry.

    An old file is replaced only when everything is written.

    Raises:
        OSError: the file cannot be written.
    """
    with written_whole(path) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(HEADER)
        for start in range(0, len(table.condition), _ROWS_AT_ONCE):
            rows = slice(start, min(start + _ROWS_AT_ONCE, len(table.condition)))
            writer.writerows(_cells(dataset, table, rows))
            advance(rows.stop - rows.start)


def _cells(dataset: Dataset, table: AssessmentTable, rows: slice) -> Iterator[tuple[str, ...]]:
    telemetry = dataset.telemetry
    assets = np.array(telemetry.assets)
    modes = np.array([*(mode.code for mode in dataset.asset_type.failure_modes), ""])
    columns = [
        assets[telemetry.asset_index[rows]].tolist(),
        iso_utc(telemetry.t_ms[rows]),
        _texts(table.anomaly_score[rows]),
        _CONDITIONS[table.condition[rows]].tolist(),
        _texts(table.health_index[rows]),
        *(_texts(hours) for hours in table.rul_hours[rows].T),
        modes[table.failure_mode[rows]].tolist(),
        _MATURITIES[table.maturity[rows]].tolist(),
    ]
    return zip(*columns, strict=True)


def _texts(values: NDArray[np.float64]) -> list[str]:
    """Six significant digits; empty for NaN."""
    return ["" if math.isnan(value) else f"{value:.6g}" for value in values.tolist()]


def iso_utc(t_ms: NDArray[np.int64]) -> list[str]:
    """ISO 8601 with Z; milliseconds only where there are some."""
    texts = np.datetime_as_string(t_ms.astype("datetime64[ms]")).tolist()
    return [f"{text.removesuffix('.000')}Z" for text in texts]

"""How good the models are on a labelled dataset: the metrics of the field, as far as the labels allow.

Every figure comes with the number of units it rests on. Nothing is learned or chosen here.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

import numpy as np
from numpy.typing import NDArray

from forewarn_cloud.history.assess import Advance, AssessmentTable, assess_table
from forewarn_cloud.history.dataset import Dataset, Fault
from forewarn_cloud.history.lives import MS_PER_HOUR, Life, split_lives
from forewarn_cloud.history.scorecard import HOURS_PER_MONTH, Quantiles
from forewarn_models import evaluation as metrics
from forewarn_models.assessment import Condition
from forewarn_models.kernel import Model

EARLY_SHARE: Final = 0.75
"""Of the run of an asset that does not fail: in it, an ALARM is a false one."""
ALPHA: Final = 0.2
LAMBDA: Final = 0.5
HORIZON_ALPHA: Final = 0.1


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What counts as in time, and how remaining lives are clipped before they are compared."""

    lead_min_hours: float = 10.0
    lead_max_hours: float = 100.0
    within_s: float = 60.0
    rul_cap_hours: float = 125.0


@dataclass(frozen=True, kw_only=True)
class FirstAlarms:
    """The first ALARM of every life that ended in a failure. in_time + earlier + later + missed = lives."""

    lives: int
    in_time: int
    """At least `lead_min_hours` and at most `lead_max_hours` before the failure."""
    earlier: int
    later: int
    missed: int
    in_time_share: float | None
    earlier_share: float | None
    hours_before_failure: Quantiles | None
    least_hours: float | None
    never_failing: int
    """Assets without a failure."""
    never_failing_alarmed: int
    """Of them, those with an ALARM in the first 75 % of their run."""


@dataclass(frozen=True, kw_only=True)
class RulAlongLives:
    """Remaining life at every sample that has one, in the lives whose end is known."""

    lives: int
    lives_with_rul: int
    samples: int
    crps_hours: float
    """Mean over the samples."""
    p10_p90_coverage: float
    """Over the samples."""
    alpha_lambda: float
    """Share of `lives_with_rul` within 20 % of the truth half-way from the first prediction to the end."""
    prognostic_horizon_hours: float
    """Median over `lives_with_rul`; within 10 % of the life."""


@dataclass(frozen=True, kw_only=True)
class RulErrors:
    units: int
    rmse_hours: float
    phm08_score: float
    crps_hours: float
    p10_p90_coverage: float


@dataclass(frozen=True, kw_only=True)
class RulAtLastSample:
    """Remaining life at the last sample of each asset against remaining_life.csv."""

    units: int
    without_rul: int
    raw: RulErrors | None
    """Of the units that have one."""
    clipped: RulErrors | None
    """The same, told quantiles and truth clipped to 0..cap."""
    clipped_all: RulErrors
    """Over all units: where there is no remaining life, the cap stands in for it, without doubt."""


@dataclass(frozen=True, kw_only=True)
class RowAgreement:
    """`condition == ALARM` and the anomaly score against the labels, row by row."""

    rates: metrics.RowRates
    auc: float | None


@dataclass(frozen=True, kw_only=True)
class FaultDetection:
    faults: int
    raised: int
    """Faults with an ALARM sample within their interval."""
    raised_within: int
    """Faults with one within `within_s` of their onset."""
    median_delay_s: float | None
    """Over the raised ones."""
    assets: int
    """With a fault."""
    assets_with_early_alarm: int
    """Those with an ALARM after the baseline and before their first fault."""
    all_rows: RowAgreement
    after_baseline: RowAgreement


@dataclass(frozen=True, kw_only=True)
class FalseAlarms:
    """ALARMs after the baseline of assets with neither fault, failure nor remaining life in the labels."""

    assets: int
    rows: int
    raised: int
    asset_months: float
    per_asset_month: float | None


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """None where the labels say nothing about it."""

    dataset: str
    asset_type: str
    assets: int
    samples: int
    fitted: bool
    """Whether fleet knowledge was used."""
    rules: Rules
    first_alarms: FirstAlarms | None
    rul_along_lives: RulAlongLives | None
    rul_at_last_sample: RulAtLastSample | None
    faults: FaultDetection | None
    false_alarms: FalseAlarms | None


def evaluate(dataset: Dataset, model: Model, rules: Rules, advance: Advance = lambda _: None) -> Evaluation:
    """Assess a dataset with the very pipeline and compare what it says with the labels."""
    table = assess_table(dataset, model, advance)
    baseline = after_baseline(dataset, model.settings.baseline_samples)
    lives = [life for life in split_lives(dataset) if len(life.rows)]
    return Evaluation(
        dataset=dataset.description.name,
        asset_type=dataset.asset_type.asset_type,
        assets=len(dataset.telemetry.assets),
        samples=len(table.condition),
        fitted=model.knowledge is not None,
        rules=rules,
        first_alarms=first_alarms(dataset, table, lives, rules) if dataset.failures else None,
        rul_along_lives=rul_along_lives(dataset, table, lives),
        rul_at_last_sample=rul_at_last_sample(table, lives, rules),
        faults=fault_detection(dataset, table, dataset.faults, baseline, rules) if dataset.faults else None,
        false_alarms=false_alarms(dataset, table, baseline),
    )


def after_baseline(dataset: Dataset, baseline_samples: int) -> NDArray[np.bool_]:
    """(n,) the samples beyond the first `baseline_samples` of each asset."""
    after = np.zeros(len(dataset.telemetry.t_ms), np.bool_)
    for rows in dataset.telemetry.rows_by_asset():
        after[rows[baseline_samples:]] = True
    return after


# --- failures -------------------------------------------------------------------------------------------------------


def first_alarms(dataset: Dataset, table: AssessmentTable, lives: Sequence[Life], rules: Rules) -> FirstAlarms:
    failed = [life for life in lives if life.failure is not None]
    leads = [_lead_hours(dataset, table, life) for life in failed]
    hours = np.array([lead for lead in leads if lead is not None])
    earlier, later = int((hours > rules.lead_max_hours).sum()), int((hours < rules.lead_min_hours).sum())
    in_time = len(hours) - earlier - later
    failing = {failure.asset for failure in dataset.failures or ()}
    healthy = [rows for asset, rows in _histories(dataset) if asset not in failing]
    return FirstAlarms(
        lives=len(failed),
        in_time=in_time,
        earlier=earlier,
        later=later,
        missed=len(failed) - len(hours),
        in_time_share=in_time / len(failed) if failed else None,
        earlier_share=earlier / len(failed) if failed else None,
        hours_before_failure=_quantiles(hours),
        least_hours=float(hours.min()) if len(hours) else None,
        never_failing=len(healthy),
        never_failing_alarmed=sum(_alarmed_early(dataset, table, rows) for rows in healthy),
    )


def _lead_hours(dataset: Dataset, table: AssessmentTable, life: Life) -> float | None:
    alarm = table.condition[life.rows] == Condition.ALARM
    return metrics.lead_time_hours(dataset.telemetry.t_ms[life.rows], alarm, life.ended_ms)


def _alarmed_early(dataset: Dataset, table: AssessmentTable, rows: NDArray[np.int64]) -> bool:
    t_ms = dataset.telemetry.t_ms[rows]
    early = t_ms <= t_ms[0] + EARLY_SHARE * (t_ms[-1] - t_ms[0])
    return bool((table.condition[rows[early]] == Condition.ALARM).any())


# --- remaining life -------------------------------------------------------------------------------------------------


def rul_along_lives(dataset: Dataset, table: AssessmentTable, lives: Sequence[Life]) -> RulAlongLives | None:
    """None where no life with a known end was told a remaining life."""
    known = [(life, life.would_fail_ms) for life in lives]
    ending = [(life, (ends_ms - dataset.telemetry.t_ms[life.rows]) / MS_PER_HOUR) for life, ends_ms in known if ends_ms]
    told = [(life, truth) for life, truth in ending if _has_rul(table, life.rows).any()]
    if not told:
        return None
    rows = np.concatenate([life.rows for life, _ in told])
    said = _has_rul(table, rows)
    rul, truth = table.rul_hours[rows][said], np.concatenate([truth for _, truth in told])[said]
    paths = [(table.rul_hours[life.rows, 1], truth) for life, truth in told]
    horizons = [
        metrics.prognostic_horizon(p50, truth, life_hours=float(truth[0]), alpha=HORIZON_ALPHA) for p50, truth in paths
    ]
    return RulAlongLives(
        lives=len(ending),
        lives_with_rul=len(told),
        samples=len(truth),
        crps_hours=float(metrics.crps(rul, truth).mean()),
        p10_p90_coverage=metrics.interval_coverage(rul[:, 0], rul[:, 2], truth),
        alpha_lambda=float(np.mean([metrics.alpha_lambda(*path, alpha=ALPHA, lam=LAMBDA) for path in paths])),
        prognostic_horizon_hours=float(np.median(horizons)),
    )


def rul_at_last_sample(table: AssessmentTable, lives: Sequence[Life], rules: Rules) -> RulAtLastSample | None:
    """None where remaining_life.csv tells of no life."""
    cut_off = [(int(life.rows[-1]), life.rul_hours) for life in lives if life.rul_hours is not None]
    if not cut_off:
        return None
    last = np.array([row for row, _ in cut_off])
    truth = np.array([hours for _, hours in cut_off], np.float64)
    rul, told, cap = table.rul_hours[last], _has_rul(table, last), rules.rul_cap_hours
    clipped, clipped_truth = np.clip(rul, 0.0, cap), np.clip(truth, 0.0, cap)
    return RulAtLastSample(
        units=len(truth),
        without_rul=int((~told).sum()),
        raw=_rul_errors(rul[told], truth[told]) if told.any() else None,
        clipped=_rul_errors(clipped[told], clipped_truth[told]) if told.any() else None,
        clipped_all=_rul_errors(np.where(told[:, None], clipped, cap), clipped_truth),
    )


def _rul_errors(rul: NDArray[np.float64], truth: NDArray[np.float64]) -> RulErrors:
    return RulErrors(
        units=len(truth),
        rmse_hours=metrics.rmse(rul[:, 1], truth),
        phm08_score=metrics.phm08_score(rul[:, 1], truth),
        crps_hours=float(metrics.crps(rul, truth).mean()),
        p10_p90_coverage=metrics.interval_coverage(rul[:, 0], rul[:, 2], truth),
    )


def _has_rul(table: AssessmentTable, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(table.rul_hours[rows]).all(axis=1))


# --- faults ---------------------------------------------------------------------------------------------------------


def fault_detection(
    dataset: Dataset, table: AssessmentTable, faults: Sequence[Fault], after: NDArray[np.bool_], rules: Rules
) -> FaultDetection:
    """Against labelled intervals; `after` (n,): the samples after the baseline."""
    alarm = table.condition == Condition.ALARM
    by_asset = _faults_by_asset(faults)
    delays = list[float | None]()
    early, faulty = 0, np.zeros(len(alarm), np.bool_)
    for asset, rows in _histories(dataset):
        mine, t_ms = by_asset.get(asset, ()), dataset.telemetry.t_ms[rows]
        for fault in mine:
            delays.append(metrics.detection_delay_s(t_ms, alarm[rows], fault.started_ms, fault.ended_ms))
            faulty[rows] |= (t_ms >= fault.started_ms) & (t_ms <= fault.ended_ms)
        early += bool(mine and (alarm[rows] & after[rows] & (t_ms < mine[0].started_ms)).any())
    raised = np.array([delay for delay in delays if delay is not None])
    return FaultDetection(
        faults=len(faults),
        raised=len(raised),
        raised_within=int((raised <= rules.within_s).sum()),
        median_delay_s=float(np.median(raised)) if len(raised) else None,
        assets=len(by_asset),
        assets_with_early_alarm=early,
        all_rows=_agreement(table.anomaly_score, alarm, faulty),
        after_baseline=_agreement(table.anomaly_score[after], alarm[after], faulty[after]),
    )


def _faults_by_asset(faults: Sequence[Fault]) -> dict[str, tuple[Fault, ...]]:
    ordered = sorted(faults, key=lambda fault: (fault.asset, fault.started_ms))
    return {asset: tuple(mine) for asset, mine in groupby(ordered, key=lambda fault: fault.asset)}


def _agreement(score: NDArray[np.float64], alarm: NDArray[np.bool_], faulty: NDArray[np.bool_]) -> RowAgreement:
    auc = metrics.roc_auc(score, faulty) if len(score) else None
    return RowAgreement(rates=metrics.row_rates(alarm, faulty), auc=auc)


# --- no faults ------------------------------------------------------------------------------------------------------


def false_alarms(dataset: Dataset, table: AssessmentTable, after: NDArray[np.bool_]) -> FalseAlarms | None:
    """None where no asset is without a fault, failure and remaining life; `after` (n,) as in `fault_detection`."""
    failing = {failure.asset for failure in dataset.failures or ()}
    labelled = (
        failing | {fault.asset for fault in dataset.faults or ()} | {life.asset for life in dataset.remaining_lives}
    )
    healthy = [rows[after[rows]] for asset, rows in _histories(dataset) if asset not in labelled]
    if not healthy:
        return None
    conditions = [table.condition[rows] for rows in healthy]
    raised = sum(len(metrics.raised_steps(condition)) for condition in conditions)
    hours = sum(metrics.observed_hours(dataset.telemetry.t_ms[rows]) for rows in healthy)
    return FalseAlarms(
        assets=len(healthy),
        rows=sum(int((condition == Condition.ALARM).sum()) for condition in conditions),
        raised=raised,
        asset_months=hours / HOURS_PER_MONTH,
        per_asset_month=metrics.alarms_per_asset_month(raised, hours),
    )


def _histories(dataset: Dataset) -> Iterator[tuple[str, NDArray[np.int64]]]:
    return zip(dataset.telemetry.assets, dataset.telemetry.rows_by_asset(), strict=True)


def _quantiles(hours: NDArray[np.float64]) -> Quantiles | None:
    if not len(hours):
        return None
    p10, p25, p50, p75, p90 = np.quantile(hours, [0.1, 0.25, 0.5, 0.75, 0.9]).tolist()
    return Quantiles(p10=p10, p25=p25, p50=p50, p75=p75, p90=p90)

"""Learn from the histories of machines that failed, and keep what was learned in a model folder."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from forewarn_cloud.history.assess import Advance, AssessmentTable, assess_table, model_for
from forewarn_cloud.history.dataset import Dataset
from forewarn_cloud.history.lives import MS_PER_HOUR, Life, split_lives
from forewarn_cloud.history.model_folder import save_model_folder
from forewarn_models.assessment import Condition, Maturity
from forewarn_models.knowledge import FEWEST_FAILURES, FleetKnowledge, KnowledgeError, fit_knowledge, save_knowledge
from forewarn_models.knowledge import Path as SeverityPath
from forewarn_models.model_folder import SCHEMA, Manifest


def fit_dataset(dataset: Dataset, advance: Advance = lambda _: None) -> FleetKnowledge:
    """Fleet knowledge from every life in a dataset, with a fleet model if there are enough of them.

    Raises:
        KnowledgeError: too few lives end in a failure, or too few show a fault before it; it says what is needed.
    """
    from forewarn_cloud.history.fleet_fit import TooFewLives, fit_fleet_model

    kernel, lives = model_for(dataset, None), split_lives(dataset)
    table = assess_table(dataset, kernel, advance)
    paths = [_path(dataset, life, table) for life in lives if len(life.rows)]
    try:
        knowledge = fit_knowledge(dataset.asset_type.asset_type, paths)
    except KnowledgeError as error:
        raise KnowledgeError(_never_judged(kernel.settings.baseline_samples, lives, table) or str(error)) from None
    try:
        model = fit_fleet_model(dataset, kernel, lives, knowledge.life_shape, knowledge.life_scale_hours)
    except TooFewLives as error:
        return msgspec.structs.replace(knowledge, fleet_model_missing=str(error))
    return msgspec.structs.replace(knowledge, fleet_model=model)


def _never_judged(needed: int, lives: Sequence[Life], table: AssessmentTable) -> str | None:
    """Why no life that ended in a failure was ever judged, where that is so and they are enough."""
    failed = [life.rows for life in lives if life.failure is not None]
    if len(failed) < FEWEST_FAILURES or (table.maturity[np.concatenate(failed)] != Maturity.LEARNING).any():
        return None
    longest = max(map(len, failed))
    if longest < needed:
        return (
            f"no life that ended in a failure has the {needed} samples from which the models learn what is normal, the "
            f"longest has {longest}; give longer histories, or lower calibration.baseline_samples"
        )
    return (
        f"of no life that ended in a failure are there {needed} samples from which the models learn what is normal; "
        "check the regime signals, without which no sample counts, or lower calibration.baseline_samples"
    )


def save_fit(folder: Path, dataset: Dataset, knowledge: FleetKnowledge) -> Manifest:
    manifest = Manifest(
        schema=SCHEMA,
        asset_type=knowledge.asset_type,
        learned_from=dataset.description.name,
        lives=knowledge.failures,
        files={},
    )
    return save_model_folder(folder, manifest, save_knowledge(knowledge))


def _path(dataset: Dataset, life: Life, table: AssessmentTable) -> SeverityPath:
    """The severity over the hours of a life; a failure after the last sample is one more point without severity."""
    hours = (dataset.telemetry.t_ms[life.rows] - life.started_ms) / MS_PER_HOUR
    severity = table.anomaly_score[life.rows]
    alarms = np.flatnonzero(table.condition[life.rows] == Condition.ALARM)
    alarmed_at = float(hours[alarms[0]]) if len(alarms) else None
    if life.failure is not None and life.hours > hours[-1]:
        hours, severity = np.append(hours, life.hours), np.append(severity, 0.0)
    return SeverityPath(hours=hours, severity=severity, failed=life.failure is not None, alarmed_at=alarmed_at)

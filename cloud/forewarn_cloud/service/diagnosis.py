"""Findings teach the diagnosis, and what was taught revises what an edge says. One model per tenant and asset type.

The edge goes on with the table of its asset type; its advisories carry the pattern, so nothing has to be sent back.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from forewarn_cloud.entities import UNSPECIFIED, Asset, AuditNote, Diagnosis, Episode, Finding, Order
from forewarn_cloud.ports import UnitOfWork
from forewarn_cloud.service.catalogue import asset_type_of
from forewarn_models.asset_type import AssetType
from forewarn_models.diagnosis import (
    DiagnosisError,
    DiagnosisModel,
    FoundFault,
    carried_over,
    diagnose,
    dump_diagnosis,
    learn,
    load_diagnosis,
    new_diagnosis,
    pattern_of,
    revised,
)
from forewarn_models.wire import Advisory

ACTOR: Final = "forewarn"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Advisories as findings have revised them. `version`: how many findings; 0 leaves the edge's word as it is."""

    advisories: Sequence[Advisory]
    version: int


def read_with_findings(uow: UnitOfWork, asset: Asset, advisories: Sequence[Advisory]) -> Reading:
    """What is stored but cannot be used revises nothing; the next finding tells so in the audit."""
    stored = uow.diagnoses.get(asset.tenant, asset.asset_type)
    asset_type = asset_type_of(asset.asset_type)
    model = _usable(stored, asset_type) if stored is not None else None
    if model is None or model.findings == 0:
        return Reading(advisories=advisories, version=0)
    return Reading(
        advisories=[_revised(model, asset_type, advisory) for advisory in advisories], version=model.findings
    )


def learn_from(uow: UnitOfWork, order: Order, episode: Episode, asset: Asset, finding: Finding, at: int) -> None:
    """Let a finding teach the diagnosis of its asset type, and say so in the audit. The asset is locked."""
    asset_type = asset_type_of(asset.asset_type)
    first = new_diagnosis(asset_type)
    pattern = pattern_of(asset_type, episode.advisory)
    if pattern is None or not asset_type.failure_modes:
        return
    stored = uow.diagnoses.lock(
        Diagnosis(
            tenant=asset.tenant, asset_type=asset.asset_type, version=0, model=dump_diagnosis(first), updated_at=at
        )
    )
    before = _usable(stored, asset_type)
    if before is None:
        _note(uow, asset, "unreadable", at, {"number": order.number, "version": stored.version})
        return
    after = learn(before, pattern, _found(order, finding))
    if after.findings == before.findings:
        return
    uow.diagnoses.save(
        Diagnosis(
            tenant=asset.tenant,
            asset_type=asset.asset_type,
            version=after.findings,
            model=dump_diagnosis(after),
            updated_at=at,
        )
    )
    detail: dict[str, object] = {
        "number": order.number,
        "asset": asset.asset,
        "outcome": finding.outcome,
        "failure_mode": finding.failure_mode,
        "version": after.findings,
        "probabilities_before": diagnose(before, pattern),
        "probabilities_after": diagnose(after, pattern),
    }
    _note(uow, asset, "learned", at, detail)


def _revised(model: DiagnosisModel, asset_type: AssetType, advisory: Advisory) -> Advisory:
    probabilities = revised(model, pattern_of(asset_type, advisory), advisory.failure_modes)
    return msgspec.structs.replace(advisory, failure_modes=probabilities)


def _usable(stored: Diagnosis, asset_type: AssetType) -> DiagnosisModel | None:
    """The stored model on the present table of its asset type; None where this version cannot read it."""
    try:
        return carried_over(load_diagnosis(stored.model), asset_type)
    except DiagnosisError:
        return None


def _found(order: Order, finding: Finding) -> FoundFault:
    return FoundFault(outcome=finding.outcome, suspected=_named(order.failure_mode), found=_named(finding.failure_mode))


def _named(mode: str | None) -> str | None:
    return None if mode == UNSPECIFIED else mode


def _note(uow: UnitOfWork, asset: Asset, action: str, at: int, detail: dict[str, object]) -> None:
    uow.records.add_audit(
        AuditNote(
            tenant=asset.tenant,
            at=at,
            actor=ACTOR,
            subject="diagnosis",
            subject_id=asset.asset_type,
            action=action,
            detail=detail,
        )
    )

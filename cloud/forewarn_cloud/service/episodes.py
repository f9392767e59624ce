"""How one run of evidence begins, goes on and ends. Pure: an episode and an advisory in, the episode after it out."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from forewarn_cloud.entities import UNSPECIFIED, Episode, EpisodeBaseline
from forewarn_cloud.service.decision import HOUR_MS
from forewarn_cloud.service.evidence import Evidence, weigh
from forewarn_cloud.service.policy import Policy
from forewarn_models.advisory import SILENT
from forewarn_models.asset_type import AssetType
from forewarn_models.wire import Advisory

Event = Literal["none", "opened", "confirmed", "rediagnosed", "clearing", "cleared"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """The episode after the advisory (None: there is none), and what happened to it."""

    episode: Episode | None
    event: Event


def new_id() -> str:
    return str(uuid.uuid4())


def follow(
    episode: Episode | None,
    advisory: Advisory,
    asset_type: AssetType,
    policy: Policy,
    *,
    tenant: str,
    now_ms: int,
    repaired_at: int | None,
    reset_pending: bool,
    order_open: bool,
    make_id: Callable[[], str] = new_id,
) -> Step:
    """What one advisory does to the open episode of its asset.

    Evidence of a run that began before the last repair (`repaired_at`) is about a machine that is no more. So may be
    evidence that does not tell when it began, as long as the node has not answered that it learns anew
    (`reset_pending`): it opens nothing. What is older than the latest evidence is counted and changes nothing.

    A machine that learns anew unasked may have taken its fault for normal: what is NORMAL to it then does not clear an
    episode with an open order (`order_open`). Someone has to look.
    """
    evidence = weigh(advisory, asset_type, policy)
    if repaired_at is not None and _since(advisory) <= repaired_at:
        return Step(episode=episode, event="none")
    if episode is None:
        if not evidence.opens or (reset_pending and advisory.since is None):
            return Step(episode=None, event="none")
        return _begin(advisory, evidence, tenant, now_ms, make_id, "AWAITED" if reset_pending else "KEPT")
    counted = replace(episode, advisory_count=episode.advisory_count + 1)
    if advisory.observed_at < episode.last_evidence_at:
        return Step(episode=counted, event="none")
    counted = replace(counted, baseline=_baseline(episode, advisory))
    if advisory.reason == SILENT:
        return Step(episode=replace(counted, cleared_at=None), event="none")  # a well machine has to be seen to be well
    if evidence.confirms:
        return _confirm(counted, advisory, evidence, policy)
    if not evidence.clears or (order_open and counted.baseline == "ANEW"):
        return Step(episode=counted, event="none")  # off, out of reach or learning: nothing is known, or too little
    return _clear(counted, advisory, policy, now_ms)


def close(episode: Episode, reason: str, at: int) -> Episode:
    return replace(episode, state="CLOSED", closed_at=at, close_reason=reason, revisit_at=None)


def _begin(
    advisory: Advisory,
    evidence: Evidence,
    tenant: str,
    now_ms: int,
    make_id: Callable[[], str],
    baseline: EpisodeBaseline,
) -> Step:
    episode = Episode(
        id=make_id(),
        tenant=tenant,
        asset=advisory.asset,
        failure_mode=evidence.failure_mode.code if evidence.failure_mode is not None else UNSPECIFIED,
        state="OPEN",
        started_at=_since(advisory),
        opened_at=now_ms,
        last_evidence_at=advisory.observed_at,
        advisory=advisory,
        baseline=baseline,
    )
    return Step(episode=episode, event="opened")


def _baseline(episode: Episode, advisory: Advisory) -> EpisodeBaseline:
    """Evidence of a machine that is still learning is an absolute limit, which no baseline changes."""
    anew = advisory.maturity == "LEARNING" and episode.advisory.maturity != "LEARNING"
    return "ANEW" if anew and episode.baseline == "KEPT" else episode.baseline


def _confirm(episode: Episode, advisory: Advisory, evidence: Evidence, policy: Policy) -> Step:
    confirmed = replace(
        episode,
        advisory=advisory,
        last_evidence_at=advisory.observed_at,
        started_at=min(episode.started_at, _since(advisory)),
        cleared_at=None,
    )
    if evidence.failure_mode is None or not _takes_over(episode, advisory, evidence, policy):
        return Step(episode=confirmed, event="confirmed")
    return Step(episode=replace(confirmed, failure_mode=evidence.failure_mode.code), event="rediagnosed")


def _takes_over(episode: Episode, advisory: Advisory, evidence: Evidence, policy: Policy) -> bool:
    """Whether the likeliest failure mode is another one, and clearly so: a diagnosis does not flutter."""
    if evidence.failure_mode is None or evidence.failure_mode.code == episode.failure_mode:
        return False
    present = advisory.failure_modes.get(episode.failure_mode, 0.0)
    return episode.failure_mode == UNSPECIFIED or evidence.probability >= present + policy.belief.rediagnosis_margin


def _clear(episode: Episode, advisory: Advisory, policy: Policy, now_ms: int) -> Step:
    since = episode.cleared_at if episode.cleared_at is not None else advisory.observed_at
    if advisory.observed_at - since >= policy.times.clear_hours * HOUR_MS:
        return Step(episode=close(replace(episode, cleared_at=since), "evidence cleared", now_ms), event="cleared")
    return Step(episode=replace(episode, cleared_at=since), event="clearing")


def _since(advisory: Advisory) -> int:
    return advisory.observed_at if advisory.since is None else advisory.since

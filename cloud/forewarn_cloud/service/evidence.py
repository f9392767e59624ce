"""What an advisory proves. Pure: used when advisories arrive and when a policy is tried on history."""

from dataclasses import dataclass

from forewarn_cloud.service.decision import Situation
from forewarn_cloud.service.policy import Policy
from forewarn_cloud.service.sourcing import SupplyPlan
from forewarn_models.asset_type import AssetType, FailureMode
from forewarn_models.wire import Advisory, RulHours


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """`opens`: enough to begin an episode. `confirms`: enough to keep one open. `clears`: the machine is well.
    `trusted`: enough to open an order."""

    opens: bool
    confirms: bool
    clears: bool
    trusted: bool
    failure_mode: FailureMode | None
    """The likeliest, if it is likely enough to name."""
    probability: float


def weigh(advisory: Advisory, asset_type: AssetType, policy: Policy) -> Evidence:
    """What the advisory says about the machine.

    An ALARM opens an episode; an ALERT only if it also tells what is wrong or that little time is left, so that a jump
    in one signal (a sensor, a changed unit) or a hot day above an ALERT limit that the model knows to be usual stays an
    alert. A fleet model tells some remaining life of every machine: only a short one is news. A model that is still
    learning neither opens an order nor clears an episode: only an absolute limit speaks for it, an ALERT limit too.
    Evidence that has faded to an ALERT without a reason keeps an episode open, but no order is opened for it.
    """
    mode, probability = likeliest_mode(advisory, asset_type, policy)
    over_limit = bool(advisory.limits_exceeded)
    worried = advisory.condition in ("ALERT", "ALARM") or over_limit
    knows_why = mode is not None or _is_short(advisory.rul_hours, policy)
    learned = advisory.maturity != "LEARNING"
    opens = advisory.condition == "ALARM" or (worried and knows_why) or (over_limit and not learned)
    return Evidence(
        opens=opens,
        confirms=worried,
        clears=advisory.condition == "NORMAL" and learned and not over_limit,
        trusted=over_limit or (learned and opens),
        failure_mode=mode,
        probability=probability,
    )


def _is_short(rul_hours: RulHours | None, policy: Policy) -> bool:
    """Whether one failure in ten comes before a review and two visits, to look and to repair, that need notice."""
    times = policy.times
    return rul_hours is not None and rul_hours.p10 <= times.review_hours + 2 * times.planning_hours


def likeliest_mode(advisory: Advisory, asset_type: AssetType, policy: Policy) -> tuple[FailureMode | None, float]:
    """The likeliest failure mode the asset type knows, None below the policy's least probability."""
    known = [mode for mode in asset_type.failure_modes if mode.code in advisory.failure_modes]
    best = max(known, key=lambda mode: advisory.failure_modes[mode.code], default=None)
    if best is None:
        return None, 0.0
    probability = advisory.failure_modes[best.code]
    return (best if probability >= policy.belief.min_failure_mode_probability else None), probability


def situation_of(
    advisory: Advisory,
    mode: FailureMode | None,
    policy: Policy,
    *,
    now_ms: int,
    since_ms: int,
    trusted: bool,
    tier: int,
    dispatch_hours: float,
    plans: tuple[SupplyPlan, ...],
) -> Situation:
    """What `decide` needs, from the latest advisory of an episode that began at `since_ms`."""
    belief = policy.belief
    return Situation(
        now_ms=max(now_ms, advisory.observed_at),
        asset=advisory.asset,
        asset_type=advisory.asset_type,
        failure_mode=mode.code if mode is not None else None,
        failure_mode_probability=advisory.failure_modes.get(mode.code, 0.0) if mode is not None else 0.0,
        evidence_since_ms=since_ms,
        condition=advisory.condition,
        maturity=advisory.maturity,
        trusted=trusted,
        rul_hours=advisory.rul_hours,
        rul_as_of_ms=advisory.observed_at,
        p_f_interval_hours=mode.p_f_interval_hours if mode is not None else belief.default_p_f_interval_hours,
        repair_hours=mode.repair_hours if mode is not None else belief.default_repair_hours,
        tier=tier,
        dispatch_hours=dispatch_hours,
        plans=plans,
    )

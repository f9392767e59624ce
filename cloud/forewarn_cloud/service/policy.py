"""The policy: what things cost, how sure one must be, and who may act. A frozen table, read from TOML."""

import hashlib
import tomllib
from importlib import resources
from typing import Literal

import msgspec

from forewarn_cloud.errors import Invalid

Autonomy = Literal["auto", "propose", "observe"]


class DowntimeCost(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Money per hour of unplanned downtime, by customer tier."""

    tier_1: float = 1500.0
    tier_2: float = 600.0
    tier_3: float = 250.0

    def of_tier(self, tier: int) -> float:
        return (self.tier_1, self.tier_2, self.tier_3)[tier - 1]


class Times(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Hours; spreads are standard deviations of the natural logarithm."""

    planning_hours: float = 24.0
    review_hours: float = 24.0
    clear_hours: float = 12.0
    lead_time_spread: float = 0.3
    dispatch_spread: float = 0.3
    prior_spread: float = 0.5


class Belief(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How much evidence is worth; probabilities unless the name says otherwise."""

    false_alarm_at_alarm: float = 0.1
    false_alarm_at_alert: float = 0.4
    provisional_factor: float = 1.5
    false_alarm_half_life_hours: float = 24.0
    min_failure_mode_probability: float = 0.4
    rediagnosis_margin: float = 0.2
    default_p_f_interval_hours: float = 336.0
    default_repair_hours: float = 4.0


class AutonomyTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`auto` opens the order, `propose` asks the desk first, `observe` only watches."""

    default: Autonomy = "auto"
    by_asset_type: dict[str, Autonomy] = {}

    def of(self, asset_type: str) -> Autonomy:
        return self.by_asset_type.get(asset_type, self.default)


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Money is in the currency of the part prices; `policies/default.toml` explains every key."""

    name: str = "default"
    visit_cost: float = 400.0
    inspection_cost: float = 250.0
    restocking_share: float = 0.1
    secondary_damage_cost: float = 5000.0
    planned_downtime_share: float = 0.25
    part_life_hours: float = 17520.0
    downtime_cost_per_hour: DowntimeCost = DowntimeCost()
    times: Times = Times()
    belief: Belief = Belief()
    autonomy: AutonomyTable = AutonomyTable()

    @property
    def hash(self) -> str:
        """SHA-256 of the canonical JSON: two policies with one hash decide alike."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()


_MAY_BE_ZERO = ("planning_hours", "clear_hours")


def parse_policy(text: str) -> Policy:
    """Read a policy from TOML; a missing key keeps its default.

    Raises:
        Invalid: not TOML, an unknown key, a wrong type, or a figure that makes no sense; it names the key.
    """
    try:
        policy = msgspec.convert(tomllib.loads(text), Policy)
    except tomllib.TOMLDecodeError as error:
        raise Invalid("policy", f"not TOML: {error}") from None
    except msgspec.ValidationError as error:
        raise Invalid("policy", str(error)) from None
    for table in (policy, policy.downtime_cost_per_hour, policy.times, policy.belief):
        _check_figures(table)
    return policy


def default_policy() -> Policy:
    """The policy that ships with forewarn."""
    return parse_policy(resources.files("forewarn_cloud").joinpath("policies", "default.toml").read_text("utf-8"))


def _check_figures(table: msgspec.Struct) -> None:
    for key in table.__struct_fields__:
        value = getattr(table, key)
        if not isinstance(value, float):
            continue
        if not 0 <= value < float("inf"):
            raise Invalid(f"policy.{key}", f"{value} must be a finite number, not below 0")
        if key.endswith(("_hours", "_factor")) and key not in _MAY_BE_ZERO and value == 0:
            raise Invalid(f"policy.{key}", "must be above 0")
        if key.startswith(("false_alarm_at", "min_failure_mode")) or key.endswith(("_share", "_margin")):
            _check_share(key, value)


def _check_share(key: str, value: float) -> None:
    if value > 1:
        raise Invalid(f"policy.{key}", f"{value} must be within 0..1")

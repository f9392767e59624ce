"""The nouns of the service chain, as they are stored. Instants are epoch milliseconds of the run (`*_at`)."""

from dataclasses import dataclass
from typing import Any, Final, Literal

from forewarn_models.wire import Advisory, Lane

OrderState = Literal[
    "PROPOSED", "OPEN", "ACKNOWLEDGED", "SCHEDULED", "IN_PROGRESS", "COMPLETED", "WITHDRAWN", "CANCELLED"
]
OPEN_STATES: Final[tuple[OrderState, ...]] = ("PROPOSED", "OPEN", "ACKNOWLEDGED", "SCHEDULED", "IN_PROGRESS")
EpisodeState = Literal["OPEN", "CLOSED"]
EpisodeBaseline = Literal["KEPT", "AWAITED", "ANEW"]
"""What the evidence deviates from. AWAITED: a repair had ordered a new baseline, which was yet to begin; ANEW: the
machine has begun one that nobody ordered, and the fault may be part of it."""
ReservationState = Literal["RESERVED", "IN_TRANSFER", "BACK_ORDERED", "CONSUMED", "RELEASED"]
HOLDING_STATES: Final[tuple[ReservationState, ...]] = ("RESERVED", "IN_TRANSFER", "BACK_ORDERED")
"""The order still needs the part."""
Sourcing = Literal["stock", "transfer", "purchase", "expedite"]
Outcome = Literal["CONFIRMED", "OTHER_FAULT", "NO_FAULT_FOUND"]
UNSPECIFIED: Final = "unspecified"
"""The failure mode of an episode whose evidence points to none that is known."""


@dataclass(frozen=True, kw_only=True)
class Customer:
    tenant: str
    customer: str
    name: str
    email: str | None
    webhook_url: str | None
    language: str
    tier: int
    """1 is the most important, 3 the least."""


@dataclass(frozen=True, kw_only=True)
class Site:
    tenant: str
    site: str
    name: str
    customer: str
    depot: str
    dispatch_hours: float
    time_zone: str


@dataclass(frozen=True, kw_only=True)
class Node:
    tenant: str
    node: str
    enrolled_at: int
    deleted_at: int | None = None
    declares_assets: bool = True


@dataclass(frozen=True, kw_only=True)
class Asset:
    tenant: str
    asset: str
    node: str
    asset_type: str
    name: str
    site: str | None
    created_at: int
    deleted_at: int | None = None


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where an asset stands and for whom."""

    site: Site
    customer: Customer


@dataclass(frozen=True, kw_only=True)
class ReceivedAdvisory:
    """One row of the inbox."""

    id: int
    received_at: int
    body: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One run of evidence about one asset and failure mode."""

    id: str
    tenant: str
    asset: str
    failure_mode: str
    state: EpisodeState
    started_at: int
    opened_at: int
    last_evidence_at: int
    advisory: Advisory
    """The latest that was evidence."""
    cleared_at: int | None = None
    """Since when the machine has been NORMAL again; not long enough yet to close."""
    closed_at: int | None = None
    close_reason: str | None = None
    revisit_at: int | None = None
    advisory_count: int = 1
    diagnosis_version: int = 0
    """How many findings have revised the failure-mode probabilities of `advisory`; 0: they are the edge's own."""
    baseline: EpisodeBaseline = "KEPT"


@dataclass(frozen=True, kw_only=True)
class DecisionRecord:
    """What was decided and everything it was decided from."""

    id: str
    tenant: str
    episode_id: str
    decided_at: int
    action: str
    inputs: dict[str, Any]
    outcome: dict[str, Any]
    model_hash: str
    policy_hash: str


@dataclass(frozen=True, kw_only=True)
class Order:
    """A job for a human. `version` counts changes and is the ETag."""

    id: str
    tenant: str
    number: str
    episode_id: str
    decision_id: str
    asset: str
    failure_mode: str
    state: OrderState
    priority: int
    """1 is the most urgent, 4 the least."""
    opened_at: int
    needed_by_at: int
    ready_at: int | None = None
    scheduled_at: int | None = None
    acknowledged_at: int | None = None
    started_at: int | None = None
    closed_at: int | None = None
    assignee: str | None = None
    close_reason: str | None = None
    version: int = 1


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What the technician found: the result of an order."""

    outcome: Outcome
    failure_mode: str | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What the findings of a tenant have taught about the machines of one type."""

    tenant: str
    asset_type: str
    version: int
    """How many findings it has learned from."""
    model: str
    """As `forewarn_models.diagnosis.dump_diagnosis` wrote it."""
    updated_at: int


@dataclass(frozen=True, kw_only=True)
class Part:
    """`purchase_hours`, `expedite_hours`: median lead times of the supplier; `expedite_cost` comes on top."""

    tenant: str
    part_no: str
    name_en: str
    name_zh: str
    unit_cost: float
    purchase_hours: float
    expedite_hours: float | None = None
    expedite_cost: float | None = None
    version: int = 1


@dataclass(frozen=True, kw_only=True)
class StockLevel:
    part_no: str
    depot: str
    on_hand: int
    reserved: int

    @property
    def available(self) -> int:
        return self.on_hand - self.reserved


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """A route between two depots."""

    from_depot: str
    to_depot: str
    hours: float
    cost: float


@dataclass(frozen=True, kw_only=True)
class Reservation:
    """A part held for an order. RESERVED and IN_TRANSFER hold stock at `from_depot`; BACK_ORDERED holds none."""

    id: str
    tenant: str
    order_id: str
    part_no: str
    quantity: int
    state: ReservationState
    sourcing: Sourcing
    from_depot: str | None
    to_depot: str
    cost: float
    created_at: int
    expected_at: int


@dataclass(frozen=True, kw_only=True)
class OutboxMessage:
    """A message to be delivered. `news` names the fact: it is told once per channel and recipient."""

    id: str
    tenant: str
    news: str
    channel: Literal["email", "webhook"]
    recipient: str
    kind: str
    language: str
    payload: dict[str, Any]
    order_id: str | None
    created_at: int


@dataclass(frozen=True, kw_only=True)
class QueuedMessage:
    """How far the delivery of a message is."""

    id: str
    tenant: str
    order_id: str | None
    state: Literal["PENDING", "SENT", "DEAD"]
    attempts: int


@dataclass(frozen=True, kw_only=True)
class NodeCommand:
    """A command to a node: about an asset it serves, or, for a resend, about records of one of its lanes."""

    id: str
    tenant: str
    node: str
    asset: str
    """Empty for a resend."""
    command: Literal["reset_baseline", "resend"]
    at: int
    created_at: int
    lane: Lane | None = None
    epoch: str | None = None
    first_seq: int | None = None
    last_seq: int | None = None


@dataclass(frozen=True, kw_only=True)
class AuditNote:
    """What goes into the audit: who did what to which thing. Its place in the chain is given when it is committed."""

    tenant: str
    at: int
    actor: str
    subject: Literal["order", "episode", "part", "asset", "node", "diagnosis", "database", "quarantine"]
    subject_id: str
    action: str
    detail: dict[str, Any]

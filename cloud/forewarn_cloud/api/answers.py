"""What the API answers, built from the views field by field. Instants come out as ISO 8601."""

from typing import Any, Literal

from pydantic import Field

from forewarn_cloud.api.fields import Answer, InstantOut


class Health(Answer):
    observed_at: InstantOut
    condition: str
    health_index: float = Field(description="1.0 new, 0.0 failed.")
    anomaly_score: float = Field(description="Higher is worse.")
    rul_hours_p10: float | None
    rul_hours_p50: float | None
    rul_hours_p90: float | None
    failure_mode: str | None
    maturity: str
    advisory: dict[str, Any] = Field(
        description="The advisory: contributions, residuals, probabilities; the latest one as findings have revised it."
    )


class OrderRef(Answer):
    id: str
    number: str
    state: str


class Asset(Answer):
    asset: str
    asset_type: str
    name: str
    node: str
    site: str | None
    site_name: str | None
    time_zone: str | None
    customer: str | None
    customer_name: str | None
    tier: int | None
    created_at: InstantOut
    health: Health | None = Field(description="The latest, however old; null until the agent has said something.")
    condition: str = Field(description="As of now: UNKNOWN where nothing is known, or nothing is heard of the node.")
    silent: bool = Field(description="The node is offline, or has not been heard of for long.")
    heard_at: InstantOut | None = Field(description="When the node was last heard of.")
    storm_at: InstantOut | None = Field(description="When advisories about it last came in a storm.")
    open_orders: list[OrderRef]


class Column(Answer):
    signal: str
    unit: str | None = Field(description="From the asset type; null if it does not know the signal.")
    values: list[float | None] = Field(
        description="One per time, null where missing: the reading, or where `bucket_ms` is not 0 the bucket's mean."
    )
    low: list[float | None] | None = Field(description="The least reading of each bucket; null where there is none.")
    high: list[float | None] | None = Field(description="The greatest.")


class Telemetry(Answer):
    asset: str
    samples: int = Field(
        description="Instants measured in the range; in buckets of a long one, those of the signal measured most."
    )
    bucket_ms: int = Field(
        description="0: each sample as it was measured. Else each of `times` begins a bucket that is so long."
    )
    times: list[InstantOut]
    signals: list[Column]


class Lane(Answer):
    lane: str
    epoch: str
    contiguous_seq: int
    records_stored: int
    records_quarantined: int
    first_at: InstantOut
    updated_at: InstantOut


class Node(Answer):
    node: str
    enrolled_at: InstantOut
    declares_assets: bool
    online: bool
    presence_at: InstantOut | None
    version: str
    silent: bool = Field(description="It is offline, or has not been heard of for long.")
    heard_at: InstantOut | None
    trouble: Literal["none", "unstable", "two_agents"] = Field(
        description="What its births of the last ten minutes look like: an unstable link, or two agents of one name."
    )
    assets: int
    lanes: list[Lane]


class Reservation(Answer):
    id: str
    part_no: str
    name_en: str
    name_zh: str
    quantity: int
    state: str
    sourcing: str
    from_depot: str | None
    to_depot: str
    cost: float
    created_at: InstantOut
    expected_at: InstantOut


class Order(Answer):
    id: str
    number: str
    state: str
    asset: str
    asset_name: str
    asset_type: str
    site: str | None
    site_name: str | None
    time_zone: str | None
    customer: str | None
    customer_name: str | None
    tier: int | None
    failure_mode: str
    priority: int = Field(description="1 is the most urgent, 4 the least.")
    opened_at: InstantOut
    needed_by_at: InstantOut
    ready_at: InstantOut | None
    scheduled_at: InstantOut | None
    acknowledged_at: InstantOut | None
    started_at: InstantOut | None
    closed_at: InstantOut | None
    assignee: str | None
    close_reason: str | None
    version: int = Field(description="Also the ETag; give it as If-Match to change what you have seen.")
    health: Health | None
    reservations: list[Reservation]


class Episode(Answer):
    id: str
    failure_mode: str
    state: str
    started_at: InstantOut
    opened_at: InstantOut
    last_evidence_at: InstantOut
    closed_at: InstantOut | None
    close_reason: str | None
    advisory_count: int
    advisory: dict[str, Any]


class Decision(Answer):
    id: str
    decided_at: InstantOut
    action: str
    inputs: dict[str, Any]
    outcome: dict[str, Any]
    model_hash: str
    policy_hash: str


class Finding(Answer):
    outcome: str
    failure_mode: str | None
    note: str
    reported_by: str
    reported_at: InstantOut


class AuditEntry(Answer):
    position: int
    at: InstantOut
    actor: str
    subject: str
    subject_id: str
    action: str
    detail: dict[str, Any]
    hash: str


class Notification(Answer):
    id: str
    news: str
    channel: str
    recipient: str
    kind: str
    language: str
    order_id: str | None
    created_at: InstantOut
    state: str
    attempts: int
    sent_at: InstantOut | None
    last_error: str | None


class OrderDetail(Answer):
    order: Order
    episode: Episode
    decision: Decision
    finding: Finding | None
    timeline: list[AuditEntry]
    messages: list[Notification]


class Stock(Answer):
    depot: str
    on_hand: int
    reserved: int
    available: int


class PartReservation(Answer):
    id: str
    order_id: str
    order_number: str
    quantity: int
    state: str
    sourcing: str
    from_depot: str | None
    to_depot: str
    expected_at: InstantOut


class Part(Answer):
    part_no: str
    name_en: str
    name_zh: str
    unit_cost: float
    purchase_hours: float
    expedite_hours: float | None
    expedite_cost: float | None
    on_hand: int
    available: int
    shortfall: int = Field(description="Back-ordered: needed, and on no shelf yet.")
    version: int
    stock: list[Stock]
    reservations: list[PartReservation]


class Depot(Answer):
    depot: str
    name: str


class Customer(Answer):
    customer: str
    name: str
    email: str | None
    webhook_url: str | None
    language: str
    tier: int


class Site(Answer):
    site: str
    name: str
    customer: str
    depot: str
    dispatch_hours: float
    time_zone: str


class MailSummary(Answer):
    message_id: str
    received_at: InstantOut
    sender: str
    recipient: str
    subject: str
    copies: int


class Mail(MailSummary):
    body: str


class Refused(Answer):
    id: int
    topic: str
    node: str | None
    lane: str | None
    epoch: str | None
    seq: int | None
    reason: str
    security: bool
    times_seen: int
    received_at: InstantOut
    body_text: str = Field(description="The first 4 KiB of what came, as text with escapes.")


class Replayed(Answer):
    id: int
    taken: bool
    reason: str | None = Field(description="Why it was refused again.")


class Gap(Answer):
    node: str
    lane: str
    epoch: str
    seq: int
    first_seq: int
    last_seq: int | None = Field(description="Null where the node does not know how far its lost file went.")
    reason: str
    received_at: InstantOut
    state: Literal["LOST", "RESEND_REQUESTED", "FILLED"]
    missing: int | None = Field(description="Records that have not come after all; null where that is not known.")
    filled_at: InstantOut | None


class Command(Answer):
    id: str
    node: str
    command: str
    asset: str = Field(description="Empty for a resend.")
    lane: str | None
    epoch: str | None
    first_seq: int | None
    last_seq: int | None
    created_at: InstantOut
    state: Literal["PENDING", "DONE", "FAILED"]
    detail: str


class Resend(Answer):
    requests: list[Command] = Field(description="One for each range that is missing.")


class Readiness(Answer):
    ready: bool
    checks: dict[str, bool]

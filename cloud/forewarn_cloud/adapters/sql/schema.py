"""All tables, the same on SQLite and PostgreSQL. Invariants live here: what must never be is made impossible.

Every row has a tenant and every key begins with it. Instants are epoch milliseconds (BIGINT, `*_at` or `*_ms`);
structured values are JSON text written by us, never executed. Money is in the tenant's currency.
"""

from typing import Any, Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

metadata: Final = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite only counts up by itself in a column that is declared INTEGER.
_RowId = BigInteger().with_variant(Integer, "sqlite")

OPEN_ORDER_STATES: Final = ("PROPOSED", "OPEN", "ACKNOWLEDGED", "SCHEDULED", "IN_PROGRESS")
CLOSED_ORDER_STATES: Final = ("COMPLETED", "WITHDRAWN", "CANCELLED")
HOLDING_STATES: Final = ("RESERVED", "IN_TRANSFER", "BACK_ORDERED")
"""Reservation states in which the order still needs the part."""


def _name(column: str, **kwargs: Any) -> Column[str]:
    return Column(column, String(64), nullable=kwargs.pop("nullable", False), **kwargs)


def _instant(column: str, *, nullable: bool = False) -> Column[int]:
    return Column(column, BigInteger, nullable=nullable)


def _in(column: str, values: tuple[str, ...]) -> str:
    return f"{column} IN ({', '.join(repr(value) for value in values)})"


def _one_of(column: str, *values: str) -> CheckConstraint:
    return CheckConstraint(_in(column, values), name=f"{column}_known")


# --- who and where ------------------------------------------------------------------------------------------------

customers = Table(
    "customers",
    metadata,
    _name("tenant", primary_key=True),
    _name("customer", primary_key=True),
    Column("name", String(200), nullable=False),
    Column("email", String(254)),
    Column("webhook_url", String(2000)),
    Column("webhook_secret", String(200)),
    Column("language", String(8), nullable=False, server_default="en"),
    Column("tier", Integer, nullable=False, server_default="2"),
    CheckConstraint("tier BETWEEN 1 AND 3", name="tier_known"),
)

depots = Table(
    "depots",
    metadata,
    _name("tenant", primary_key=True),
    _name("depot", primary_key=True),
    Column("name", String(200), nullable=False),
)

sites = Table(
    "sites",
    metadata,
    _name("tenant", primary_key=True),
    _name("site", primary_key=True),
    Column("name", String(200), nullable=False),
    _name("customer"),
    _name("depot"),
    Column("dispatch_hours", Float, nullable=False, server_default="8"),
    Column("time_zone", String(64), nullable=False, server_default="UTC"),
    ForeignKeyConstraint(["tenant", "customer"], ["customers.tenant", "customers.customer"]),
    ForeignKeyConstraint(["tenant", "depot"], ["depots.tenant", "depots.depot"]),
)
"""`depot` is the one that serves the site; `dispatch_hours` the usual time until a technician is there."""

nodes = Table(
    "nodes",
    metadata,
    _name("tenant", primary_key=True),
    _name("node", primary_key=True),
    _instant("enrolled_at"),
    _instant("deleted_at", nullable=True),
    Column("declares_assets", Boolean, nullable=False, server_default=text("true")),
    Column("online", Boolean, nullable=False, server_default=text("false")),
    _instant("presence_at", nullable=True),
    Column("version", String(64), nullable=False, server_default=""),
    Column("births", JSON(none_as_null=True)),
)
"""Enrolled edge nodes. `declares_assets`: its birth message may register assets (telemetry alone never does); `births`:
the last few, [[at, epoch], ...], to see a name that two agents use."""

assets = Table(
    "assets",
    metadata,
    _name("tenant", primary_key=True),
    _name("asset", primary_key=True),
    _name("node"),
    _name("asset_type"),
    Column("name", String(200), nullable=False),
    _name("site", nullable=True),
    _instant("created_at"),
    _instant("deleted_at", nullable=True),
    _instant("storm_at", nullable=True),
    ForeignKeyConstraint(["tenant", "node"], ["nodes.tenant", "nodes.node"]),
    ForeignKeyConstraint(["tenant", "site"], ["sites.tenant", "sites.site"]),
)
"""`storm_at`: when advisories about it last came in a storm, by its own time."""

asset_signals = Table(
    "asset_signals",
    metadata,
    _name("tenant", primary_key=True),
    _name("asset", primary_key=True),
    _name("signal", primary_key=True),
    _instant("first_seen_at"),
    ForeignKeyConstraint(["tenant", "asset"], ["assets.tenant", "assets.asset"]),
)

asset_health = Table(
    "asset_health",
    metadata,
    _name("tenant", primary_key=True),
    _name("asset", primary_key=True),
    _instant("observed_at"),
    Column("condition", String(16), nullable=False),
    Column("health_index", Float, nullable=False),
    Column("anomaly_score", Float, nullable=False),
    Column("rul_hours_p10", Float),
    Column("rul_hours_p50", Float),
    Column("rul_hours_p90", Float),
    Column("failure_mode", String(64)),
    Column("maturity", String(16), nullable=False),
    Column("advisory", JSON, nullable=False),
    ForeignKeyConstraint(["tenant", "asset"], ["assets.tenant", "assets.asset"]),
)
"""The latest by event time; the history is `advisories`."""

# --- what came over the wire --------------------------------------------------------------------------------------

lane_progress = Table(
    "lane_progress",
    metadata,
    _name("tenant", primary_key=True),
    _name("node", primary_key=True),
    Column("lane", String(16), primary_key=True),
    _name("epoch", primary_key=True),
    Column("contiguous_seq", BigInteger, nullable=False, server_default="0"),
    Column("ahead", JSON, nullable=False),
    Column("records_stored", BigInteger, nullable=False, server_default="0"),
    Column("records_quarantined", BigInteger, nullable=False, server_default="0"),
    _instant("first_at"),
    _instant("updated_at"),
    _instant("hole_since", nullable=True),
    Index(
        "ix_lane_progress_holes",
        "hole_since",
        sqlite_where=text("hole_since IS NOT NULL"),
        postgresql_where=text("hole_since IS NOT NULL"),
    ),
)
"""All records up to `contiguous_seq` are committed, and those in the `ahead` ranges [[first, last], ...] above it.
`hole_since`: since when the first hole between them has been open."""

telemetry_blocks = Table(
    "telemetry_blocks",
    metadata,
    Column("shard", Integer, primary_key=True, autoincrement=False),
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    _name("tenant"),
    _name("node"),
    _name("epoch"),
    Column("seq", BigInteger, nullable=False),
    Column("digest", LargeBinary(16), nullable=False),
    _name("asset"),
    _instant("first_ms"),
    _instant("last_ms"),
    Column("samples", Integer, nullable=False),
    Column("columns", LargeBinary, nullable=False),
    CheckConstraint("first_ms <= last_ms", name="time_ordered"),
    sqlite_with_rowid=False,
)
"""One row per record: times and signals as compressed columns. Upkeep moves them into the two tables below. `shard`: of
the asset (telemetry_shards.py). `id`: when it was stored, in nanoseconds since the epoch; never used again. That no
record is stored twice is for `lane_progress` to see to."""

telemetry_leaves = Table(
    "telemetry_leaves",
    metadata,
    Column("id", _RowId, primary_key=True, autoincrement=True),
    _name("tenant"),
    _name("asset"),
    Column("level_ms", BigInteger, nullable=False),
    Column("rolled_ms", BigInteger, nullable=False),
    _instant("first_ms"),
    _instant("last_ms"),
    Column("samples", Integer, nullable=False),
    Column("columns", LargeBinary, nullable=False),
    CheckConstraint("first_ms <= last_ms", name="time_ordered"),
    Index("ix_telemetry_leaves_place", "tenant", "asset", "level_ms", "rolled_ms", "last_ms", "first_ms"),
)
"""What an asset measured, in large blocks that do not overlap: its samples (`level_ms` 0), and summaries of them in
buckets of `level_ms`. `rolled_ms`: of samples, the narrowest level that holds them too; 0 if none does. Never updated:
what changes is a new row."""

telemetry_digests = Table(
    "telemetry_digests",
    metadata,
    _name("tenant", primary_key=True),
    _name("node", primary_key=True),
    _name("epoch", primary_key=True),
    Column("page", BigInteger, primary_key=True, autoincrement=False),
    Column("digests", LargeBinary, nullable=False),
    _instant("updated_at"),
)
"""Digests of the records that are in leaves now, many to a page."""

advisories = Table(
    "advisories",
    metadata,
    Column("id", _RowId, primary_key=True, autoincrement=True),
    _name("tenant"),
    _name("node"),
    _name("epoch"),
    Column("seq", BigInteger, nullable=False),
    Column("digest", LargeBinary(16), nullable=False),
    _name("asset"),
    _instant("observed_at"),
    _instant("received_at"),
    Column("body", JSON, nullable=False),
    _instant("handled_at", nullable=True),
    UniqueConstraint("tenant", "node", "epoch", "seq"),
    Index(None, "tenant", "asset", "observed_at"),
    Index(
        "ix_advisories_unhandled",
        "id",
        postgresql_where=text("handled_at IS NULL"),
        sqlite_where=text("handled_at IS NULL"),
    ),
    sqlite_autoincrement=True,
)
"""Inbox and history. `handled_at` is set in the transaction that acts on the advisory."""

gaps = Table(
    "gaps",
    metadata,
    _name("tenant", primary_key=True),
    _name("node", primary_key=True),
    Column("lane", String(16), primary_key=True),
    _name("epoch", primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("digest", LargeBinary(16), nullable=False),
    Column("first_seq", BigInteger, nullable=False),
    Column("last_seq", BigInteger, nullable=False),
    Column("reason", String(200), nullable=False),
    _instant("received_at"),
    Column("missing", JSON(none_as_null=True)),
    _instant("filled_at", nullable=True),
)
"""Records that were told or found to be lost. `missing`: the ranges [[first, last], ...] of them that have not come
after all, null where none has; `filled_at`: when the last of them came."""

quarantine = Table(
    "quarantine",
    metadata,
    Column("id", _RowId, primary_key=True, autoincrement=True),
    _name("tenant"),
    Column("topic", String(300), nullable=False),
    _name("node", nullable=True),
    Column("lane", String(16)),
    _name("epoch", nullable=True),
    Column("seq", BigInteger),
    Column("digest", LargeBinary(16), nullable=False),
    Column("reason", String(500), nullable=False),
    Column("security", Boolean, nullable=False, server_default=text("false")),
    Column("body", LargeBinary, nullable=False),
    Column("times_seen", Integer, nullable=False, server_default="1"),
    _instant("received_at"),
    UniqueConstraint("tenant", "topic", "digest"),
    sqlite_autoincrement=True,
)
"""What was refused, kept as it came, with the reason. A repeat of the same bytes counts up `times_seen`."""

# --- from advisory to order ---------------------------------------------------------------------------------------

episodes = Table(
    "episodes",
    metadata,
    Column("id", String(36), primary_key=True),
    _name("tenant"),
    _name("asset"),
    _name("failure_mode"),
    Column("state", String(16), nullable=False),
    _instant("started_at"),
    _instant("opened_at"),
    _instant("last_evidence_at"),
    _instant("cleared_at", nullable=True),
    _instant("closed_at", nullable=True),
    Column("close_reason", String(64)),
    Column("advisory", JSON, nullable=False),
    _instant("revisit_at", nullable=True),
    Column("advisory_count", Integer, nullable=False, server_default="1"),
    Column("diagnosis_version", Integer, nullable=False, server_default="0"),
    Column("baseline", String(16), nullable=False, server_default="KEPT"),
    _one_of("state", "OPEN", "CLOSED"),
    ForeignKeyConstraint(["tenant", "asset"], ["assets.tenant", "assets.asset"]),
    Index(
        "uq_episodes_one_open",
        "tenant",
        "asset",
        "failure_mode",
        unique=True,
        sqlite_where=text("state = 'OPEN'"),
        postgresql_where=text("state = 'OPEN'"),
    ),
)
"""One run of evidence about one asset and failure mode. `started_at`: since when, by the machine's time; `cleared_at`:
since when the machine has been NORMAL again; `advisory`: the latest that was evidence, with its failure-mode
probabilities as `diagnosis_version` findings have revised them; `baseline`: whether the one it deviates from still
holds."""

decisions = Table(
    "decisions",
    metadata,
    Column("id", String(36), primary_key=True),
    _name("tenant"),
    Column("episode_id", String(36), nullable=False, index=True),
    _instant("decided_at"),
    Column("action", String(16), nullable=False),
    Column("inputs", JSON, nullable=False),
    Column("outcome", JSON, nullable=False),
    Column("model_hash", String(64), nullable=False),
    Column("policy_hash", String(64), nullable=False),
    ForeignKeyConstraint(["episode_id"], ["episodes.id"]),
)
"""What was decided and everything it was decided from, so that it can be replayed exactly."""

orders = Table(
    "orders",
    metadata,
    Column("id", String(36), primary_key=True),
    _name("tenant"),
    Column("number", String(32), nullable=False),
    Column("episode_id", String(36), nullable=False),
    Column("decision_id", String(36), nullable=False),
    _name("asset"),
    _name("failure_mode"),
    Column("state", String(16), nullable=False),
    Column("priority", Integer, nullable=False),
    _instant("opened_at"),
    _instant("needed_by_at"),
    _instant("ready_at", nullable=True),
    _instant("scheduled_at", nullable=True),
    _instant("acknowledged_at", nullable=True),
    _instant("started_at", nullable=True),
    _instant("closed_at", nullable=True),
    Column("assignee", String(200)),
    Column("close_reason", String(500)),
    Column("version", Integer, nullable=False, server_default="1"),
    _one_of("state", *OPEN_ORDER_STATES, *CLOSED_ORDER_STATES),
    UniqueConstraint("tenant", "number"),
    ForeignKeyConstraint(["episode_id"], ["episodes.id"]),
    ForeignKeyConstraint(["decision_id"], ["decisions.id"]),
    ForeignKeyConstraint(["tenant", "asset"], ["assets.tenant", "assets.asset"]),
    Index(
        "uq_orders_one_open_per_episode",
        "episode_id",
        unique=True,
        sqlite_where=text(_in("state", OPEN_ORDER_STATES)),
        postgresql_where=text(_in("state", OPEN_ORDER_STATES)),
    ),
    Index(None, "tenant", "state", "needed_by_at"),
)
"""`needed_by_at`: before this the failure is unlikely (P10 of the remaining life); `ready_at`: parts and technician can
be there. `version` counts changes and is the ETag."""

counters = Table(
    "counters",
    metadata,
    _name("tenant", primary_key=True),
    _name("counter", primary_key=True),
    Column("value", BigInteger, nullable=False),
)
"""The last number given out, for the numbers people read."""

findings = Table(
    "findings",
    metadata,
    Column("order_id", String(36), primary_key=True),
    _name("tenant"),
    Column("outcome", String(16), nullable=False),
    _name("failure_mode", nullable=True),
    Column("note", Text, nullable=False, server_default=""),
    Column("reported_by", String(200), nullable=False),
    _instant("reported_at"),
    _one_of("outcome", "CONFIRMED", "OTHER_FAULT", "NO_FAULT_FOUND"),
    ForeignKeyConstraint(["order_id"], ["orders.id"]),
)

diagnoses = Table(
    "diagnoses",
    metadata,
    _name("tenant", primary_key=True),
    _name("asset_type", primary_key=True),
    Column("version", Integer, nullable=False),
    Column("model", Text, nullable=False),
    _instant("updated_at"),
    CheckConstraint("version >= 0", name="version_not_negative"),
)
"""What findings have taught about the failure modes of an asset type; written in the transaction of the finding."""

# --- parts --------------------------------------------------------------------------------------------------------

parts = Table(
    "parts",
    metadata,
    _name("tenant", primary_key=True),
    _name("part_no", primary_key=True),
    Column("name_en", String(200), nullable=False),
    Column("name_zh", String(200), nullable=False),
    Column("unit_cost", Float, nullable=False),
    Column("purchase_hours", Float, nullable=False),
    Column("expedite_hours", Float),
    Column("expedite_cost", Float),
    Column("version", Integer, nullable=False, server_default="1"),
    CheckConstraint("unit_cost >= 0 AND purchase_hours >= 0", name="not_negative"),
)
"""`purchase_hours` and `expedite_hours`: median lead time from the supplier; `expedite_cost` comes on top."""

transfers = Table(
    "transfers",
    metadata,
    _name("tenant", primary_key=True),
    _name("from_depot", primary_key=True),
    _name("to_depot", primary_key=True),
    Column("hours", Float, nullable=False),
    Column("cost", Float, nullable=False),
    ForeignKeyConstraint(["tenant", "from_depot"], ["depots.tenant", "depots.depot"]),
    ForeignKeyConstraint(["tenant", "to_depot"], ["depots.tenant", "depots.depot"]),
)
"""Routes between depots: how long a transfer takes and costs."""

stock = Table(
    "stock",
    metadata,
    _name("tenant", primary_key=True),
    _name("part_no", primary_key=True),
    _name("depot", primary_key=True),
    Column("on_hand", Integer, nullable=False),
    Column("reserved", Integer, nullable=False, server_default="0"),
    Column("version", Integer, nullable=False, server_default="1"),
    CheckConstraint("reserved >= 0 AND reserved <= on_hand", name="never_oversold"),
    ForeignKeyConstraint(["tenant", "part_no"], ["parts.tenant", "parts.part_no"]),
    ForeignKeyConstraint(["tenant", "depot"], ["depots.tenant", "depots.depot"]),
)

reservations = Table(
    "reservations",
    metadata,
    Column("id", String(36), primary_key=True),
    _name("tenant"),
    Column("order_id", String(36), nullable=False),
    _name("part_no"),
    Column("quantity", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("sourcing", String(16), nullable=False),
    _name("from_depot", nullable=True),
    _name("to_depot"),
    Column("cost", Float, nullable=False, server_default="0"),
    _instant("created_at"),
    _instant("expected_at"),
    CheckConstraint("quantity > 0", name="quantity_positive"),
    _one_of("state", *HOLDING_STATES, "CONSUMED", "RELEASED"),
    _one_of("sourcing", "stock", "transfer", "purchase", "expedite"),
    ForeignKeyConstraint(["order_id"], ["orders.id"]),
    ForeignKeyConstraint(["tenant", "part_no"], ["parts.tenant", "parts.part_no"]),
    Index(
        "uq_reservations_one_held_per_part",
        "order_id",
        "part_no",
        unique=True,
        sqlite_where=text(_in("state", HOLDING_STATES)),
        postgresql_where=text(_in("state", HOLDING_STATES)),
    ),
    Index(None, "tenant", "part_no", "state"),
)
"""RESERVED and IN_TRANSFER hold stock at `from_depot` (counted in stock.reserved); BACK_ORDERED holds none."""

# --- telling people, and remembering --------------------------------------------------------------------------------

outbox = Table(
    "outbox",
    metadata,
    Column("id", String(36), primary_key=True),
    _name("tenant"),
    Column("news", String(200), nullable=False),
    Column("channel", String(16), nullable=False),
    Column("recipient", String(2000), nullable=False),
    Column("kind", String(64), nullable=False),
    Column("language", String(8), nullable=False),
    Column("payload", JSON, nullable=False),
    Column("order_id", String(36)),
    _instant("created_at"),
    Column("state", String(16), nullable=False, server_default="PENDING"),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("next_attempt_wall_ms", BigInteger, nullable=False, server_default="0"),
    Column("lease", String(36)),
    Column("lease_until_wall_ms", BigInteger),
    _instant("sent_at", nullable=True),
    Column("last_error", String(500)),
    _one_of("state", "PENDING", "SENT", "DEAD"),
    UniqueConstraint("tenant", "news", "channel", "recipient"),
    Index(
        "ix_outbox_due",
        "next_attempt_wall_ms",
        sqlite_where=text("state = 'PENDING'"),
        postgresql_where=text("state = 'PENDING'"),
    ),
)
"""Messages to be delivered, written in the transaction of what they tell. `news` names the fact, so it is told once;
`id` is the Message-ID and webhook id of every attempt. Leases are fenced by their token, in wall time."""

mailbox = Table(
    "mailbox",
    metadata,
    Column("message_id", String(300), primary_key=True),
    _name("tenant"),
    _instant("received_at"),
    Column("sender", String(254), nullable=False),
    Column("recipient", String(254), nullable=False),
    Column("subject", String(500), nullable=False),
    Column("body", Text, nullable=False),
    Column("copies", Integer, nullable=False, server_default="1"),
)
"""The local mailbox of the embedded profile: what the built-in SMTP server received, for reading in the console."""

commands = Table(
    "commands",
    metadata,
    Column("id", String(36), primary_key=True),
    _name("tenant"),
    _name("node"),
    _name("asset"),
    Column("command", String(32), nullable=False),
    _instant("at"),
    _instant("created_at"),
    Column("state", String(16), nullable=False, server_default="PENDING"),
    Column("detail", String(500), nullable=False, server_default=""),
    Column("lane", String(16)),
    _name("epoch", nullable=True),
    Column("first_seq", BigInteger),
    Column("last_seq", BigInteger),
    _one_of("state", "PENDING", "DONE", "FAILED"),
    ForeignKeyConstraint(["tenant", "node"], ["nodes.tenant", "nodes.node"]),
    Index(
        "uq_commands_one_resend_open",
        "tenant",
        "node",
        "lane",
        "epoch",
        "first_seq",
        unique=True,
        sqlite_where=text("state = 'PENDING' AND command = 'resend'"),
        postgresql_where=text("state = 'PENDING' AND command = 'resend'"),
    ),
    Index(
        "ix_commands_pending",
        "tenant",
        "node",
        sqlite_where=text("state = 'PENDING'"),
        postgresql_where=text("state = 'PENDING'"),
    ),
)
"""Commands to nodes, sent until the node replies. `asset` is empty where the command is about records: resend has the
range of a lane instead, and a range is asked for once at a time."""

audit = Table(
    "audit",
    metadata,
    _name("tenant", primary_key=True),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    _instant("at"),
    Column("actor", String(200), nullable=False),
    Column("subject", String(16), nullable=False),
    Column("subject_id", String(200), nullable=False),
    Column("action", String(64), nullable=False),
    Column("detail", JSON, nullable=False),
    Column("previous_hash", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
    Index(None, "tenant", "subject", "subject_id"),
)
"""Append-only and hash-chained per tenant: `hash` covers the entry and `previous_hash`. The primary key makes the chain
linear: of two writers at one position, one must try again."""

idempotency = Table(
    "idempotency",
    metadata,
    _name("tenant", primary_key=True),
    Column("key", String(200), primary_key=True),
    Column("request", String(300), nullable=False),
    Column("digest", LargeBinary(32), nullable=False),
    Column("status", Integer),
    Column("response", Text),
    _instant("created_at"),
)
"""What was answered to a POST with this Idempotency-Key: a repeat gets the same answer and has no second effect."""

"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "advisories",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("node", sa.String(length=64), nullable=False),
        sa.Column("epoch", sa.String(length=64), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.LargeBinary(length=16), nullable=False),
        sa.Column("asset", sa.String(length=64), nullable=False),
        sa.Column("observed_at", sa.BigInteger(), nullable=False),
        sa.Column("received_at", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.Column("handled_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_advisories")),
        sa.UniqueConstraint("tenant", "node", "epoch", "seq", name=op.f("uq_advisories_tenant_node_epoch_seq")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        op.f("ix_advisories_tenant_asset_observed_at"), "advisories", ["tenant", "asset", "observed_at"], unique=False
    )
    op.create_index(
        "ix_advisories_unhandled",
        "advisories",
        ["id"],
        unique=False,
        postgresql_where=sa.text("handled_at IS NULL"),
        sqlite_where=sa.text("handled_at IS NULL"),
    )
    op.create_table(
        "audit",
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.String(length=200), nullable=False),
        sa.Column("subject", sa.String(length=16), nullable=False),
        sa.Column("subject_id", sa.String(length=200), nullable=False),
        sa.Column("action", sa.String(length=64), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.Column("previous_hash", sa.String(length=64), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "position", name=op.f("pk_audit")),
    )
    op.create_index(
        op.f("ix_audit_tenant_subject_subject_id"), "audit", ["tenant", "subject", "subject_id"], unique=False
    )
    op.create_table(
        "counters",
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("counter", sa.String(length=64), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "counter", name=op.f("pk_counters")),
    )
    op.create_table(
        "customers",
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("customer", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("email", sa.String(length=254), nullable=True),
        sa.Column("webhook_url", sa.String(length=2000), nullable=True),
        sa.Column("webhook_secret", sa.String(length=200), nullable=True),
        sa.Column("language", sa.String(length=8), server_default="en", nullable=False),
        sa.Column("tier", sa.Integer(), server_default="2", nullable=False),
        sa.CheckConstraint("tier BETWEEN 1 AND 3", name=op.f("ck_customers_tier_known")),
        sa.PrimaryKeyConstraint("tenant", "customer", name=op.f("pk_customers")),
    )
    op.create_table(
        "depots",
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("depot", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "depot", name=op.f("pk_depots")),
    )
    op.create_table(
        "gaps",
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("node", sa.String(length=64), nullable=False),
        sa.Column("lane", sa.String(length=16), nullable=False),
        sa.Column("epoch", sa.String(length=64), nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("digest", sa.LargeBinary(length=16), nullable=False),
        sa.Column("first_seq", sa.BigInteger(), nullable=False),
        sa.Column("last_seq", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.String(length=200), nullable=False),
        sa.Column("received_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "node", "lane", "epoch", "seq", name=op.f("pk_gaps")),
    )
    op.create_table(
        "idempotency",
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("key", sa.String(length=200), nullable=False),
        sa.Column("request", sa.String(length=300), nullable=False),
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("response", sa.Text(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "key", name=op.f("pk_idempotency")),
    )
    op.create_table(
        "lane_progress",
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("node", sa.String(length=64), nullable=False),
        sa.Column("lane", sa.String(length=16), nullable=False),
        sa.Column("epoch", sa.String(length=64), nullable=False),
        sa.Column("contiguous_seq", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("ahead", sa.JSON(), nullable=False),
        sa.Column("records_stored", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("records_quarantined", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("first_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "node", "lane", "epoch", name=op.f("pk_lane_progress")),
    )
    op.create_table(
        "mailbox",
        sa.Column("message_id", sa.String(length=300), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("received_at", sa.BigInteger(), nullable=False),
        sa.Column("sender", sa.String(length=254), nullable=False),
        sa.Column("recipient", sa.String(length=254), nullable=False),
        sa.Column("subject", sa.String(length=500), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("copies", sa.Integer(), server_default="1", nullable=False),
        sa.PrimaryKeyConstraint("message_id", name=op.f("pk_mailbox")),
    )
    op.create_table(
        "nodes",
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("node", sa.String(length=64), nullable=False),
        sa.Column("enrolled_at", sa.BigInteger(), nullable=False),
        sa.Column("deleted_at", sa.BigInteger(), nullable=True),
        sa.Column("declares_assets", sa.Boolean(), server_default=sa.text("(true)"), nullable=False),
        sa.Column("online", sa.Boolean(), server_default=sa.text("(false)"), nullable=False),
        sa.Column("presence_at", sa.BigInteger(), nullable=True),
        sa.Column("version", sa.String(length=64), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("tenant", "node", name=op.f("pk_nodes")),
    )
    op.create_table(
        "outbox",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("news", sa.String(length=200), nullable=False),
        sa.Column("channel", sa.String(length=16), nullable=False),
        sa.Column("recipient", sa.String(length=2000), nullable=False),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("language", sa.String(length=8), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("order_id", sa.String(length=36), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=16), server_default="PENDING", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("next_attempt_wall_ms", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("lease", sa.String(length=36), nullable=True),
        sa.Column("lease_until_wall_ms", sa.BigInteger(), nullable=True),
        sa.Column("sent_at", sa.BigInteger(), nullable=True),
        sa.Column("last_error", sa.String(length=500), nullable=True),
        sa.CheckConstraint("state IN ('PENDING', 'SENT', 'DEAD')", name=op.f("ck_outbox_state_known")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outbox")),
        sa.UniqueConstraint(
            "tenant", "news", "channel", "recipient", name=op.f("uq_outbox_tenant_news_channel_recipient")
        ),
    )
    op.create_index(
        "ix_outbox_due",
        "outbox",
        ["next_attempt_wall_ms"],
        unique=False,
        sqlite_where=sa.text("state = 'PENDING'"),
        postgresql_where=sa.text("state = 'PENDING'"),
    )
    op.create_table(
        "parts",
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("part_no", sa.String(length=64), nullable=False),
        sa.Column("name_en", sa.String(length=200), nullable=False),
        sa.Column("name_zh", sa.String(length=200), nullable=False),
        sa.Column("unit_cost", sa.Float(), nullable=False),
        sa.Column("purchase_hours", sa.Float(), nullable=False),
        sa.Column("expedite_hours", sa.Float(), nullable=True),
        sa.Column("expedite_cost", sa.Float(), nullable=True),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.CheckConstraint("unit_cost >= 0 AND purchase_hours >= 0", name=op.f("ck_parts_not_negative")),
        sa.PrimaryKeyConstraint("tenant", "part_no", name=op.f("pk_parts")),
    )
    op.create_table(
        "quarantine",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("topic", sa.String(length=300), nullable=False),
        sa.Column("node", sa.String(length=64), nullable=True),
        sa.Column("lane", sa.String(length=16), nullable=True),
        sa.Column("epoch", sa.String(length=64), nullable=True),
        sa.Column("seq", sa.BigInteger(), nullable=True),
        sa.Column("digest", sa.LargeBinary(length=16), nullable=False),
        sa.Column("reason", sa.String(length=500), nullable=False),
        sa.Column("security", sa.Boolean(), server_default=sa.text("(false)"), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("times_seen", sa.Integer(), server_default="1", nullable=False),
        sa.Column("received_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_quarantine")),
        sa.UniqueConstraint("tenant", "topic", "digest", name=op.f("uq_quarantine_tenant_topic_digest")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "telemetry_blocks",
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("node", sa.String(length=64), nullable=False),
        sa.Column("epoch", sa.String(length=64), nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("digest", sa.LargeBinary(length=16), nullable=False),
        sa.Column("asset", sa.String(length=64), nullable=False),
        sa.Column("first_ms", sa.BigInteger(), nullable=False),
        sa.Column("last_ms", sa.BigInteger(), nullable=False),
        sa.Column("samples", sa.Integer(), nullable=False),
        sa.Column("columns", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("first_ms <= last_ms", name=op.f("ck_telemetry_blocks_time_ordered")),
        sa.PrimaryKeyConstraint("tenant", "node", "epoch", "seq", name=op.f("pk_telemetry_blocks")),
    )
    op.create_index(
        op.f("ix_telemetry_blocks_tenant_asset_last_ms"),
        "telemetry_blocks",
        ["tenant", "asset", "last_ms"],
        unique=False,
    )
    op.create_table(
        "commands",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("node", sa.String(length=64), nullable=False),
        sa.Column("asset", sa.String(length=64), nullable=False),
        sa.Column("command", sa.String(length=32), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=16), server_default="PENDING", nullable=False),
        sa.Column("detail", sa.String(length=500), server_default="", nullable=False),
        sa.CheckConstraint("state IN ('PENDING', 'DONE', 'FAILED')", name=op.f("ck_commands_state_known")),
        sa.ForeignKeyConstraint(
            ["tenant", "node"], ["nodes.tenant", "nodes.node"], name=op.f("fk_commands_tenant_node")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_commands")),
    )
    op.create_index(
        "ix_commands_pending",
        "commands",
        ["tenant", "node"],
        unique=False,
        sqlite_where=sa.text("state = 'PENDING'"),
        postgresql_where=sa.text("state = 'PENDING'"),
    )
    op.create_table(
        "sites",
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("site", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("customer", sa.String(length=64), nullable=False),
        sa.Column("depot", sa.String(length=64), nullable=False),
        sa.Column("dispatch_hours", sa.Float(), server_default="8", nullable=False),
        sa.Column("time_zone", sa.String(length=64), server_default="UTC", nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant", "customer"], ["customers.tenant", "customers.customer"], name=op.f("fk_sites_tenant_customer")
        ),
        sa.ForeignKeyConstraint(
            ["tenant", "depot"], ["depots.tenant", "depots.depot"], name=op.f("fk_sites_tenant_depot")
        ),
        sa.PrimaryKeyConstraint("tenant", "site", name=op.f("pk_sites")),
    )
    op.create_table(
        "stock",
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("part_no", sa.String(length=64), nullable=False),
        sa.Column("depot", sa.String(length=64), nullable=False),
        sa.Column("on_hand", sa.Integer(), nullable=False),
        sa.Column("reserved", sa.Integer(), server_default="0", nullable=False),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.CheckConstraint("reserved >= 0 AND reserved <= on_hand", name=op.f("ck_stock_never_oversold")),
        sa.ForeignKeyConstraint(
            ["tenant", "depot"], ["depots.tenant", "depots.depot"], name=op.f("fk_stock_tenant_depot")
        ),
        sa.ForeignKeyConstraint(
            ["tenant", "part_no"], ["parts.tenant", "parts.part_no"], name=op.f("fk_stock_tenant_part_no")
        ),
        sa.PrimaryKeyConstraint("tenant", "part_no", "depot", name=op.f("pk_stock")),
    )
    op.create_table(
        "transfers",
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("from_depot", sa.String(length=64), nullable=False),
        sa.Column("to_depot", sa.String(length=64), nullable=False),
        sa.Column("hours", sa.Float(), nullable=False),
        sa.Column("cost", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant", "from_depot"], ["depots.tenant", "depots.depot"], name=op.f("fk_transfers_tenant_from_depot")
        ),
        sa.ForeignKeyConstraint(
            ["tenant", "to_depot"], ["depots.tenant", "depots.depot"], name=op.f("fk_transfers_tenant_to_depot")
        ),
        sa.PrimaryKeyConstraint("tenant", "from_depot", "to_depot", name=op.f("pk_transfers")),
    )
    op.create_table(
        "assets",
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("asset", sa.String(length=64), nullable=False),
        sa.Column("node", sa.String(length=64), nullable=False),
        sa.Column("asset_type", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("site", sa.String(length=64), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("deleted_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["tenant", "node"], ["nodes.tenant", "nodes.node"], name=op.f("fk_assets_tenant_node")),
        sa.ForeignKeyConstraint(["tenant", "site"], ["sites.tenant", "sites.site"], name=op.f("fk_assets_tenant_site")),
        sa.PrimaryKeyConstraint("tenant", "asset", name=op.f("pk_assets")),
    )
    op.create_table(
        "asset_health",
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("asset", sa.String(length=64), nullable=False),
        sa.Column("observed_at", sa.BigInteger(), nullable=False),
        sa.Column("condition", sa.String(length=16), nullable=False),
        sa.Column("health_index", sa.Float(), nullable=False),
        sa.Column("anomaly_score", sa.Float(), nullable=False),
        sa.Column("rul_hours_p10", sa.Float(), nullable=True),
        sa.Column("rul_hours_p50", sa.Float(), nullable=True),
        sa.Column("rul_hours_p90", sa.Float(), nullable=True),
        sa.Column("failure_mode", sa.String(length=64), nullable=True),
        sa.Column("maturity", sa.String(length=16), nullable=False),
        sa.Column("advisory", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant", "asset"], ["assets.tenant", "assets.asset"], name=op.f("fk_asset_health_tenant_asset")
        ),
        sa.PrimaryKeyConstraint("tenant", "asset", name=op.f("pk_asset_health")),
    )
    op.create_table(
        "asset_signals",
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("asset", sa.String(length=64), nullable=False),
        sa.Column("signal", sa.String(length=64), nullable=False),
        sa.Column("first_seen_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant", "asset"], ["assets.tenant", "assets.asset"], name=op.f("fk_asset_signals_tenant_asset")
        ),
        sa.PrimaryKeyConstraint("tenant", "asset", "signal", name=op.f("pk_asset_signals")),
    )
    op.create_table(
        "episodes",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("asset", sa.String(length=64), nullable=False),
        sa.Column("failure_mode", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("opened_at", sa.BigInteger(), nullable=False),
        sa.Column("last_evidence_at", sa.BigInteger(), nullable=False),
        sa.Column("cleared_at", sa.BigInteger(), nullable=True),
        sa.Column("closed_at", sa.BigInteger(), nullable=True),
        sa.Column("close_reason", sa.String(length=64), nullable=True),
        sa.Column("advisory", sa.JSON(), nullable=False),
        sa.Column("revisit_at", sa.BigInteger(), nullable=True),
        sa.Column("advisory_count", sa.Integer(), server_default="1", nullable=False),
        sa.CheckConstraint("state IN ('OPEN', 'CLOSED')", name=op.f("ck_episodes_state_known")),
        sa.ForeignKeyConstraint(
            ["tenant", "asset"], ["assets.tenant", "assets.asset"], name=op.f("fk_episodes_tenant_asset")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_episodes")),
    )
    op.create_index(
        "uq_episodes_one_open",
        "episodes",
        ["tenant", "asset", "failure_mode"],
        unique=True,
        sqlite_where=sa.text("state = 'OPEN'"),
        postgresql_where=sa.text("state = 'OPEN'"),
    )
    op.create_table(
        "decisions",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("episode_id", sa.String(length=36), nullable=False),
        sa.Column("decided_at", sa.BigInteger(), nullable=False),
        sa.Column("action", sa.String(length=16), nullable=False),
        sa.Column("inputs", sa.JSON(), nullable=False),
        sa.Column("outcome", sa.JSON(), nullable=False),
        sa.Column("model_hash", sa.String(length=64), nullable=False),
        sa.Column("policy_hash", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["episode_id"], ["episodes.id"], name=op.f("fk_decisions_episode_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_decisions")),
    )
    op.create_index(op.f("ix_decisions_episode_id"), "decisions", ["episode_id"], unique=False)
    op.create_table(
        "orders",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("number", sa.String(length=32), nullable=False),
        sa.Column("episode_id", sa.String(length=36), nullable=False),
        sa.Column("decision_id", sa.String(length=36), nullable=False),
        sa.Column("asset", sa.String(length=64), nullable=False),
        sa.Column("failure_mode", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("opened_at", sa.BigInteger(), nullable=False),
        sa.Column("needed_by_at", sa.BigInteger(), nullable=False),
        sa.Column("ready_at", sa.BigInteger(), nullable=True),
        sa.Column("scheduled_at", sa.BigInteger(), nullable=True),
        sa.Column("acknowledged_at", sa.BigInteger(), nullable=True),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("closed_at", sa.BigInteger(), nullable=True),
        sa.Column("assignee", sa.String(length=200), nullable=True),
        sa.Column("close_reason", sa.String(length=500), nullable=True),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.CheckConstraint(
            "state IN ('PROPOSED', 'OPEN', 'ACKNOWLEDGED', 'SCHEDULED', 'IN_PROGRESS', "
            "'COMPLETED', 'WITHDRAWN', 'CANCELLED')",
            name=op.f("ck_orders_state_known"),
        ),
        sa.ForeignKeyConstraint(["decision_id"], ["decisions.id"], name=op.f("fk_orders_decision_id")),
        sa.ForeignKeyConstraint(["episode_id"], ["episodes.id"], name=op.f("fk_orders_episode_id")),
        sa.ForeignKeyConstraint(
            ["tenant", "asset"], ["assets.tenant", "assets.asset"], name=op.f("fk_orders_tenant_asset")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_orders")),
        sa.UniqueConstraint("tenant", "number", name=op.f("uq_orders_tenant_number")),
    )
    op.create_index(
        op.f("ix_orders_tenant_state_needed_by_at"), "orders", ["tenant", "state", "needed_by_at"], unique=False
    )
    op.create_index(
        "uq_orders_one_open_per_episode",
        "orders",
        ["episode_id"],
        unique=True,
        sqlite_where=sa.text("state IN ('PROPOSED', 'OPEN', 'ACKNOWLEDGED', 'SCHEDULED', 'IN_PROGRESS')"),
        postgresql_where=sa.text("state IN ('PROPOSED', 'OPEN', 'ACKNOWLEDGED', 'SCHEDULED', 'IN_PROGRESS')"),
    )
    op.create_table(
        "findings",
        sa.Column("order_id", sa.String(length=36), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("failure_mode", sa.String(length=64), nullable=True),
        sa.Column("note", sa.Text(), server_default="", nullable=False),
        sa.Column("reported_by", sa.String(length=200), nullable=False),
        sa.Column("reported_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "outcome IN ('CONFIRMED', 'OTHER_FAULT', 'NO_FAULT_FOUND')", name=op.f("ck_findings_outcome_known")
        ),
        sa.ForeignKeyConstraint(["order_id"], ["orders.id"], name=op.f("fk_findings_order_id")),
        sa.PrimaryKeyConstraint("order_id", name=op.f("pk_findings")),
    )
    op.create_table(
        "reservations",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("order_id", sa.String(length=36), nullable=False),
        sa.Column("part_no", sa.String(length=64), nullable=False),
        sa.Column("quantity", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("sourcing", sa.String(length=16), nullable=False),
        sa.Column("from_depot", sa.String(length=64), nullable=True),
        sa.Column("to_depot", sa.String(length=64), nullable=False),
        sa.Column("cost", sa.Float(), server_default="0", nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expected_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "sourcing IN ('stock', 'transfer', 'purchase', 'expedite')", name=op.f("ck_reservations_sourcing_known")
        ),
        sa.CheckConstraint(
            "state IN ('RESERVED', 'IN_TRANSFER', 'BACK_ORDERED', 'CONSUMED', 'RELEASED')",
            name=op.f("ck_reservations_state_known"),
        ),
        sa.CheckConstraint("quantity > 0", name=op.f("ck_reservations_quantity_positive")),
        sa.ForeignKeyConstraint(["order_id"], ["orders.id"], name=op.f("fk_reservations_order_id")),
        sa.ForeignKeyConstraint(
            ["tenant", "part_no"], ["parts.tenant", "parts.part_no"], name=op.f("fk_reservations_tenant_part_no")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reservations")),
    )
    op.create_index(
        op.f("ix_reservations_tenant_part_no_state"), "reservations", ["tenant", "part_no", "state"], unique=False
    )
    op.create_index(
        "uq_reservations_one_held_per_part",
        "reservations",
        ["order_id", "part_no"],
        unique=True,
        sqlite_where=sa.text("state IN ('RESERVED', 'IN_TRANSFER', 'BACK_ORDERED')"),
        postgresql_where=sa.text("state IN ('RESERVED', 'IN_TRANSFER', 'BACK_ORDERED')"),
    )


def downgrade() -> None:
    op.drop_index(
        "uq_reservations_one_held_per_part",
        table_name="reservations",
        sqlite_where=sa.text("state IN ('RESERVED', 'IN_TRANSFER', 'BACK_ORDERED')"),
        postgresql_where=sa.text("state IN ('RESERVED', 'IN_TRANSFER', 'BACK_ORDERED')"),
    )
    op.drop_index(op.f("ix_reservations_tenant_part_no_state"), table_name="reservations")
    op.drop_table("reservations")
    op.drop_table("findings")
    op.drop_index(
        "uq_orders_one_open_per_episode",
        table_name="orders",
        sqlite_where=sa.text("state IN ('PROPOSED', 'OPEN', 'ACKNOWLEDGED', 'SCHEDULED', 'IN_PROGRESS')"),
        postgresql_where=sa.text("state IN ('PROPOSED', 'OPEN', 'ACKNOWLEDGED', 'SCHEDULED', 'IN_PROGRESS')"),
    )
    op.drop_index(op.f("ix_orders_tenant_state_needed_by_at"), table_name="orders")
    op.drop_table("orders")
    op.drop_index(op.f("ix_decisions_episode_id"), table_name="decisions")
    op.drop_table("decisions")
    op.drop_index(
        "uq_episodes_one_open",
        table_name="episodes",
        sqlite_where=sa.text("state = 'OPEN'"),
        postgresql_where=sa.text("state = 'OPEN'"),
    )
    op.drop_table("episodes")
    op.drop_table("asset_signals")
    op.drop_table("asset_health")
    op.drop_table("assets")
    op.drop_table("transfers")
    op.drop_table("stock")
    op.drop_table("sites")
    op.drop_index(
        "ix_commands_pending",
        table_name="commands",
        sqlite_where=sa.text("state = 'PENDING'"),
        postgresql_where=sa.text("state = 'PENDING'"),
    )
    op.drop_table("commands")
    op.drop_index(op.f("ix_telemetry_blocks_tenant_asset_last_ms"), table_name="telemetry_blocks")
    op.drop_table("telemetry_blocks")
    op.drop_table("quarantine")
    op.drop_table("parts")
    op.drop_index(
        "ix_outbox_due",
        table_name="outbox",
        sqlite_where=sa.text("state = 'PENDING'"),
        postgresql_where=sa.text("state = 'PENDING'"),
    )
    op.drop_table("outbox")
    op.drop_table("nodes")
    op.drop_table("mailbox")
    op.drop_table("lane_progress")
    op.drop_table("idempotency")
    op.drop_table("gaps")
    op.drop_table("depots")
    op.drop_table("customers")
    op.drop_table("counters")
    op.drop_index(op.f("ix_audit_tenant_subject_subject_id"), table_name="audit")
    op.drop_table("audit")
    op.drop_index(
        "ix_advisories_unhandled",
        table_name="advisories",
        postgresql_where=sa.text("handled_at IS NULL"),
        sqlite_where=sa.text("handled_at IS NULL"),
    )
    op.drop_index(op.f("ix_advisories_tenant_asset_observed_at"), table_name="advisories")
    op.drop_table("advisories")

"""Sessions, runs, events and their counters. Tenant, fence and attempt stand on them from the start."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from asm_core.stores.sql.tables import Instant, Json, Tags, server_now

revision = "asm_0001"
down_revision = None
branch_labels = None
depends_on = None


def _tenant() -> sa.Column[str]:
    return sa.Column("tenant_id", sa.Text, nullable=False, server_default="default")


def _no_tags() -> str:
    return "{}" if op.get_bind().dialect.name == "postgresql" else "[]"


def upgrade() -> None:
    op.create_table(
        "asm_sessions",
        sa.Column("id", sa.Text, primary_key=True),
        _tenant(),
        sa.Column("agent_id", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("parent_session_id", sa.Text),
        sa.Column("metadata", Json, nullable=False, server_default="{}"),
        sa.Column("context", Json, nullable=False, server_default="{}"),
        sa.Column("tags", Tags, nullable=False, server_default=_no_tags()),
        sa.Column("created_at", Instant, nullable=False),
        sa.Column("updated_at", Instant, nullable=False),
        sa.CheckConstraint(
            "status IN ('pending','active','paused','completed','failed','cancelled')",
            name=op.f("asm_sessions_status_check"),
        ),
    )
    op.create_table(
        "asm_runs",
        sa.Column("id", sa.Text, primary_key=True),
        _tenant(),
        sa.Column("session_id", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("input", Json),
        sa.Column("output", Json),
        sa.Column("error", Json),
        sa.Column("metadata", Json, nullable=False, server_default="{}"),
        sa.Column("turn_count", sa.Integer, nullable=False, server_default="0"),
        sa.Column("token_usage", Json, nullable=False, server_default="{}"),
        sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
        sa.Column("fence", sa.BigInteger),
        sa.Column("created_at", Instant, nullable=False),
        sa.Column("started_at", Instant),
        sa.Column("ended_at", Instant),
        sa.CheckConstraint(
            "status IN ('pending','running','awaiting_approval','completed','failed','cancelled','timeout')",
            name=op.f("asm_runs_status_check"),
        ),
    )
    op.create_table(
        "asm_events",
        sa.Column("id", sa.Text, nullable=False),
        _tenant(),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("timestamp", Instant, nullable=False),
        sa.Column("session_id", sa.Text, primary_key=True),
        sa.Column("run_id", sa.Text),
        sa.Column("fence", sa.BigInteger),
        sa.Column("attempt", sa.Integer),
        sa.Column("sequence_number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("data", Json, nullable=False, server_default="{}"),
        sa.Column("metadata", Json, nullable=False, server_default="{}"),
        sa.Column("schema_version", sa.Integer, nullable=False, server_default="1"),
        sa.Column("stored_at", Instant, nullable=False, server_default=server_now(op.get_bind().dialect)),
    )
    op.create_table(
        "asm_session_sequences",
        sa.Column("session_id", sa.Text, primary_key=True),
        _tenant(),
        sa.Column("last_sequence", sa.BigInteger, nullable=False, server_default="0"),
    )
    op.create_index("asm_events_id_key", "asm_events", ["id"], unique=True)
    op.create_index("asm_events_run_index", "asm_events", ["session_id", "run_id", "sequence_number"])
    op.create_index("asm_events_timestamp_index", "asm_events", ["tenant_id", "timestamp", "id"])
    op.create_index("asm_sessions_listing_index", "asm_sessions", ["tenant_id", "created_at", "id"])
    op.create_index("asm_sessions_agent_id_index", "asm_sessions", ["tenant_id", "agent_id", "created_at", "id"])
    op.create_index("asm_runs_listing_index", "asm_runs", ["tenant_id", "created_at", "id"])
    op.create_index("asm_runs_session_id_index", "asm_runs", ["session_id", "created_at", "id"])


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION IF EXISTS asm_event_json(asm_events)")
    for table in ("asm_session_sequences", "asm_events", "asm_runs", "asm_sessions"):
        op.drop_table(table)

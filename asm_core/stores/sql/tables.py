"""The tables, as SQLAlchemy Core sees them: for queries, and as the model that migrations are checked against."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

NAMING = {
    "ix": "%(table_name)s_%(column_0_N_name)s_index",
    "uq": "%(table_name)s_%(column_0_N_name)s_key",
    "ck": "%(table_name)s_%(constraint_name)s_check",
    "pk": "%(table_name)s_pkey",
}

metadata = sa.MetaData(naming_convention=NAMING)

Json = sa.JSON().with_variant(pg.JSONB(), "postgresql")
Tags = sa.JSON().with_variant(pg.ARRAY(sa.Text()), "postgresql")
Instant = sa.TIMESTAMP(timezone=True)
Money = sa.Numeric()


def _tenant() -> sa.Column[str]:
    return sa.Column("tenant_id", sa.Text, nullable=False, server_default="default")


sessions = sa.Table(
    "asm_sessions",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    _tenant(),
    sa.Column("agent_id", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("parent_session_id", sa.Text),
    sa.Column("provider", sa.Text),
    sa.Column("model", sa.Text),
    sa.Column("metadata", Json, nullable=False),
    sa.Column("context", Json, nullable=False),
    sa.Column("tags", Tags, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("updated_at", Instant, nullable=False),
    sa.Column("deleted_at", Instant),
)

runs = sa.Table(
    "asm_runs",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    _tenant(),
    sa.Column("session_id", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("input", Json),
    sa.Column("output", Json),
    sa.Column("error", Json),
    sa.Column("metadata", Json, nullable=False),
    sa.Column("turn_count", sa.Integer, nullable=False),
    sa.Column("token_usage", Json, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("fence", sa.BigInteger),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("started_at", Instant),
    sa.Column("ended_at", Instant),
    sa.Column("provider", sa.Text),
    sa.Column("provider_metadata", Json, nullable=False),
    sa.Column("cost_usd", Money),
    sa.Column("options", Json, nullable=False),
    sa.Column("submit_seq", sa.BigInteger),
    sa.Column("claims", sa.Integer, nullable=False),
    sa.Column("first_fence", sa.BigInteger),
    sa.Column("claimed_at", Instant),
    sa.Column("queue_deadline_at", Instant),
    sa.Column("deadline_at", Instant),
    sa.Column("cancel_requested_at", Instant),
    sa.Column("cancel_kind", sa.Text),
    sa.Column("worker_id", sa.Text),
    sa.Column("owns_session", sa.Boolean, nullable=False),
)

events = sa.Table(
    "asm_events",
    metadata,
    sa.Column("id", sa.Text, nullable=False),
    _tenant(),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("timestamp", Instant, nullable=False),
    sa.Column("session_id", sa.Text, primary_key=True),
    sa.Column("run_id", sa.Text),
    sa.Column("fence", sa.BigInteger),
    sa.Column("attempt", sa.Integer),
    sa.Column("sequence_number", sa.BigInteger, primary_key=True),
    sa.Column("data", Json, nullable=False),
    sa.Column("metadata", Json, nullable=False),
    sa.Column("schema_version", sa.Integer, nullable=False),
    sa.Column("provider", sa.Text),
    sa.Column("correlation_id", sa.Text),
    sa.Column("stored_at", Instant, nullable=False),
)

session_sequences = sa.Table(
    "asm_session_sequences",
    metadata,
    sa.Column("session_id", sa.Text, primary_key=True),
    _tenant(),
    sa.Column("last_sequence", sa.BigInteger, nullable=False),
    sa.Column("updated_at", Instant),
)

session_runtime = sa.Table(
    "asm_session_runtime",
    metadata,
    sa.Column("session_id", sa.Text, primary_key=True),
    _tenant(),
    sa.Column("max_concurrent_runs", sa.Integer, nullable=False),
    sa.Column("max_queued_runs", sa.Integer, nullable=False),
    sa.Column("limiter", sa.Text),
    sa.Column("submit_seq", sa.BigInteger, nullable=False),
    sa.Column("fence_seq", sa.BigInteger, nullable=False),
    sa.Column("last_served_at", Instant),
    sa.Column("last_wake_at", Instant),
    sa.Column("limiter_waiting_since", Instant),
)

run_leases = sa.Table(
    "asm_run_leases",
    metadata,
    sa.Column("run_id", sa.Text, primary_key=True),
    _tenant(),
    sa.Column("session_id", sa.Text, nullable=False),
    sa.Column("limiter", sa.Text),
    sa.Column("fence", sa.BigInteger, nullable=False),
    sa.Column("worker_id", sa.Text, nullable=False),
    sa.Column("claimed_at", Instant, nullable=False),
    sa.Column("started_at", Instant),
)

workers = sa.Table(
    "asm_workers",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("hostname", sa.Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("slots", sa.Integer, nullable=False),
    sa.Column("started_at", Instant, nullable=False),
    sa.Column("last_seen", Instant, nullable=False),
    sa.Column("draining", sa.Boolean, nullable=False),
    sa.Column("lost_at", Instant),
)

artifacts = sa.Table(
    "asm_artifacts",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    _tenant(),
    sa.Column("session_id", sa.Text),
    sa.Column("run_id", sa.Text),
    sa.Column("fence", sa.BigInteger),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("content_type", sa.Text),
    sa.Column("byte_size", sa.BigInteger, nullable=False),
    sa.Column("checksum_sha256", sa.Text, nullable=False),
    sa.Column("storage_backend", sa.Text, nullable=False),
    sa.Column("storage_ref", sa.Text, nullable=False),
    sa.Column("metadata", Json, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("deleted_at", Instant),
)

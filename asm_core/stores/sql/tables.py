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
RowNumber = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
Money = sa.Numeric().with_variant(sa.Float(), "sqlite")


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
    sa.Column("pruned_usage", Json),
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
    sa.Column("pruned_count", sa.BigInteger, nullable=False),
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

idempotency_keys = sa.Table(
    "asm_idempotency_keys",
    metadata,
    sa.Column("tenant_id", sa.Text, primary_key=True),
    sa.Column("scope", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("request_hash", sa.Text, nullable=False),
    sa.Column("session_id", sa.Text, nullable=False),
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
)

audit_log = sa.Table(
    "asm_audit_log",
    metadata,
    sa.Column("id", RowNumber, primary_key=True),
    _tenant(),
    sa.Column("at", Instant, nullable=False, server_default=sa.func.current_timestamp()),
    sa.Column("actor", sa.Text),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("session_id", sa.Text),
    sa.Column("run_id", sa.Text),
    sa.Column("data", Json, nullable=False),
)

# What a record is read from: the columns of `Session.from_map`, `Run.from_map` and an event's wire form.

SESSIONS = sessions.join(session_runtime, session_runtime.c.session_id == sessions.c.id)
SESSION_COLUMNS = (*sessions.c, session_runtime.c.max_concurrent_runs, session_runtime.c.max_queued_runs)

_queue = runs.alias("queue")
_position = (
    sa.select(sa.func.count())
    .where(
        _queue.c.session_id == runs.c.session_id, _queue.c.status == "pending", _queue.c.submit_seq <= runs.c.submit_seq
    )
    .scalar_subquery()
)
RUN_COLUMNS = (*runs.c, sa.case((runs.c.status == "pending", _position)).label("position"))

EVENT_COLUMNS = (
    events.c.id,
    events.c.type,
    events.c.timestamp,
    events.c.session_id,
    events.c.run_id,
    events.c.sequence_number,
    events.c.data,
    events.c.metadata,
    events.c.schema_version,
    events.c.provider,
    events.c.correlation_id,
    events.c.attempt,
)

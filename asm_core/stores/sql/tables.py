"""The tables, as SQLAlchemy Core sees them: for queries, and as the model that migrations are checked against."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from asm_core.domain.fields import parse_datetime, timestamp_text
from asm_core.stores.sql.convert import EVENT_WIRE_COLUMNS

NAMING = {
    "ix": "%(table_name)s_%(column_0_N_name)s_index",
    "uq": "%(table_name)s_%(column_0_N_name)s_key",
    "ck": "%(table_name)s_%(constraint_name)s_check",
    "pk": "%(table_name)s_pkey",
}

metadata = sa.MetaData(naming_convention=NAMING)


class Instant(sa.types.TypeDecorator[datetime]):
    """An aware time in microseconds; on SQLite ISO text in UTC, so that text order is time order."""

    impl = sa.TIMESTAMP(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        return dialect.type_descriptor(sa.Text() if dialect.name == "sqlite" else sa.TIMESTAMP(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> Any:
        if value is not None and value.tzinfo is None:
            raise ValueError(f"a time without its zone: {value}")
        return timestamp_text(value) if value is not None and dialect.name == "sqlite" else value

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> datetime | None:
        return None if value is None else parse_datetime(value)


def server_now(dialect: sa.Dialect) -> sa.TextClause:
    """A column's default: the database's clock, in the form of `Instant`."""
    on_sqlite = "(strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))"
    return sa.text(on_sqlite if dialect.name == "sqlite" else "CURRENT_TIMESTAMP")


Json = sa.JSON(none_as_null=True).with_variant(pg.JSONB(none_as_null=True), "postgresql")
Tags = sa.JSON().with_variant(pg.ARRAY(sa.Text()), "postgresql")
Money = sa.Numeric().with_variant(sa.Float(), "sqlite")
Serial = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
"""Numbers that the database gives out: on SQLite only an INTEGER key counts by itself."""


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
    sa.Column("forked_at", sa.BigInteger),
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

inherited_events = sa.Table(
    "asm_inherited_events",
    metadata,
    sa.Column("session_id", sa.Text, primary_key=True),
    sa.Column("first_sequence", sa.BigInteger, primary_key=True),
    _tenant(),
    sa.Column("last_sequence", sa.BigInteger, nullable=False),
    sa.Column("source_session_id", sa.Text, nullable=False),
)
"""Where the events are that a fork's log begins with: a range of numbers each, of the session that wrote them."""

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

limiters = sa.Table(
    "asm_limiters",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("max_parallel_runs", sa.Integer),
    sa.Column("changed_at", Instant, nullable=False),
)

sweeper = sa.Table(
    "asm_sweeper",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("last_pass_at", Instant, nullable=False),
    sa.Column("quiet_until", Instant),
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
    sa.Column("id", Serial, primary_key=True),
    _tenant(),
    sa.Column("at", Instant, nullable=False),
    sa.Column("actor", sa.Text),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("session_id", sa.Text),
    sa.Column("run_id", sa.Text),
    sa.Column("data", Json, nullable=False),
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
IS_QUEUED = sa.and_(runs.c.status == "pending", runs.c.submit_seq.is_not(None))
RUN_COLUMNS = (*runs.c, sa.case((IS_QUEUED, _position)).label("position"))

EVENT_COLUMNS = tuple(events.c[name] for name in EVENT_WIRE_COLUMNS)

"""The fleet: per-session queue, leases, workers, limiters, idempotency, audit, and what guards them."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from asm_core.stores.sql.tables import Instant, Json, Serial, server_now

revision = "asm_0003"
down_revision = "asm_0002"
branch_labels = None
depends_on = None


def _is_postgres() -> bool:
    return op.get_bind().dialect.name == "postgresql"


def _now() -> sa.TextClause:
    return server_now(op.get_bind().dialect)


def _tenant() -> sa.Column[str]:
    return sa.Column("tenant_id", sa.Text, nullable=False, server_default="default")


def _run_columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("options", Json, nullable=False, server_default="{}"),
        sa.Column("submit_seq", sa.BigInteger),
        sa.Column("claims", sa.Integer, nullable=False, server_default="0"),
        sa.Column("first_fence", sa.BigInteger),
        sa.Column("claimed_at", Instant),
        sa.Column("queue_deadline_at", Instant),
        sa.Column("deadline_at", Instant),
        sa.Column("cancel_requested_at", Instant),
        sa.Column("cancel_kind", sa.Text),
        sa.Column("worker_id", sa.Text),
        sa.Column("owns_session", sa.Boolean, nullable=False, server_default=sa.false()),
        # what the run's pruned usage events added up to, so that its totals stay explained
        sa.Column("pruned_usage", Json),
    ]


def _pruned_count() -> sa.Column[int]:
    """With it a session's numbers stay accounted for: every one is stored or was pruned."""
    return sa.Column("pruned_count", sa.BigInteger, nullable=False, server_default="0")


def upgrade() -> None:
    for column in _run_columns():
        op.add_column("asm_runs", column)
    op.add_column("asm_session_sequences", _pruned_count())
    op.create_table(
        "asm_session_runtime",
        sa.Column("session_id", sa.Text, primary_key=True),
        _tenant(),
        sa.Column("max_concurrent_runs", sa.Integer, nullable=False, server_default="1"),
        sa.Column("max_queued_runs", sa.Integer, nullable=False, server_default="100"),
        sa.Column("limiter", sa.Text),
        sa.Column("submit_seq", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("fence_seq", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("last_served_at", Instant),
        sa.Column("last_wake_at", Instant),
        sa.Column("limiter_waiting_since", Instant),
    )
    op.create_table(
        "asm_limiters",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("max_parallel_runs", sa.Integer),
        sa.Column("changed_at", Instant, nullable=False, server_default=_now()),
    )
    op.create_table(
        "asm_workers",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("hostname", sa.Text, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("slots", sa.Integer, nullable=False),
        sa.Column("started_at", Instant, nullable=False),
        sa.Column("last_seen", Instant, nullable=False),
        sa.Column("draining", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("lost_at", Instant),
    )
    op.create_table(
        "asm_run_leases",
        sa.Column("run_id", sa.Text, primary_key=True),
        _tenant(),
        sa.Column("session_id", sa.Text, nullable=False),
        sa.Column("limiter", sa.Text),
        sa.Column("fence", sa.BigInteger, nullable=False),
        sa.Column("worker_id", sa.Text, sa.ForeignKey("asm_workers.id"), nullable=False),
        sa.Column("claimed_at", Instant, nullable=False),
        sa.Column("started_at", Instant),
    )
    op.create_table(
        "asm_sweeper",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("last_pass_at", Instant, nullable=False),
        sa.Column("quiet_until", Instant),
    )
    op.create_table(
        "asm_idempotency_keys",
        sa.Column("tenant_id", sa.Text, primary_key=True),
        sa.Column("scope", sa.Text, primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("request_hash", sa.Text, nullable=False),
        sa.Column("session_id", sa.Text, nullable=False),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("created_at", Instant, nullable=False, server_default=_now()),
    )
    op.create_table(
        "asm_audit_log",
        sa.Column("id", Serial, sa.Identity(), primary_key=True),
        _tenant(),
        sa.Column("at", Instant, nullable=False, server_default=_now()),
        sa.Column("actor", sa.Text),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("session_id", sa.Text),
        sa.Column("run_id", sa.Text),
        sa.Column("data", Json, nullable=False, server_default="{}"),
    )
    op.execute("INSERT INTO asm_session_runtime (session_id, tenant_id) SELECT id, tenant_id FROM asm_sessions")
    op.execute(
        "INSERT INTO asm_session_sequences (session_id, tenant_id) SELECT id, tenant_id FROM asm_sessions"
        " WHERE id NOT IN (SELECT session_id FROM asm_session_sequences)"
    )
    op.create_index("asm_audit_log_session_id_index", "asm_audit_log", ["session_id", "id"])
    op.create_index("asm_idempotency_keys_session_id_index", "asm_idempotency_keys", ["session_id"])
    # the default orders of the queries across sessions
    op.create_index("asm_sessions_updated_index", "asm_sessions", ["tenant_id", "updated_at", "id"])
    began = sa.text("coalesce(started_at, created_at)")
    op.create_index("asm_runs_began_index", "asm_runs", ["tenant_id", began, "id"])
    for statement in _INDEXES:
        op.execute(statement)
    if _is_postgres():
        _upgrade_postgres()


_INDEXES = (
    # the queue: what waits, by session and place; and what is parked
    "CREATE INDEX asm_runs_pending_index ON asm_runs (session_id, submit_seq) WHERE status = 'pending'",
    "CREATE INDEX asm_runs_parked_index ON asm_runs (session_id) WHERE status = 'awaiting_approval'",
    "CREATE INDEX asm_runs_queue_deadline_index ON asm_runs (queue_deadline_at) "
    "WHERE status = 'pending' AND queue_deadline_at IS NOT NULL",
    "CREATE INDEX asm_run_leases_session_index ON asm_run_leases (session_id)",
    "CREATE INDEX asm_run_leases_limiter_index ON asm_run_leases (limiter) WHERE limiter IS NOT NULL",
    "CREATE INDEX asm_run_leases_worker_index ON asm_run_leases (worker_id)",
    "CREATE INDEX asm_session_runtime_waiting_index ON asm_session_runtime (limiter, last_served_at) "
    "WHERE limiter_waiting_since IS NOT NULL",
    "CREATE INDEX asm_events_usage_index ON asm_events (run_id) WHERE type = 'token_usage_updated'",
)


def _upgrade_postgres() -> None:
    for statement in (
        # rows rewritten often stay on their page (HOT)
        "ALTER TABLE asm_run_leases SET (fillfactor = 50)",
        "ALTER TABLE asm_session_sequences SET (fillfactor = 50)",
        "ALTER TABLE asm_session_runtime SET (fillfactor = 50)",
        "ALTER TABLE asm_workers SET (fillfactor = 50)",
        "CREATE INDEX asm_sessions_tags_index ON asm_sessions USING gin (tags)",
        "INSERT INTO asm_sweeper (id, last_pass_at) VALUES (1, 'epoch')",
        # backstops behind the guards of the transactions
        """CREATE FUNCTION asm_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
          RAISE EXCEPTION '% of % is final', TG_ARGV[0], OLD.id USING ERRCODE = 'AS002';
        END $$""",
        """CREATE TRIGGER asm_runs_terminal_once BEFORE UPDATE ON asm_runs FOR EACH ROW
        WHEN (OLD.status IN ('completed', 'failed', 'cancelled', 'timeout') AND NEW.status IS DISTINCT FROM OLD.status)
        EXECUTE FUNCTION asm_refuse_change('the status')""",
        """CREATE TRIGGER asm_events_append_only BEFORE UPDATE ON asm_events FOR EACH ROW
        EXECUTE FUNCTION asm_refuse_change('the record')""",
    ):
        op.execute(statement)


def downgrade() -> None:
    op.drop_index("asm_runs_began_index", "asm_runs")
    op.drop_index("asm_sessions_updated_index", "asm_sessions")
    if _is_postgres():
        op.execute("DROP TRIGGER asm_events_append_only ON asm_events")
        op.execute("DROP TRIGGER asm_runs_terminal_once ON asm_runs")
        op.execute("DROP FUNCTION asm_refuse_change()")
        op.execute("DROP FUNCTION IF EXISTS asm_give(text, asm_session_runtime, asm_sessions, asm_runs)")
        op.execute("DROP INDEX asm_sessions_tags_index")
    for name in ("events_usage", "runs_queue_deadline", "runs_parked", "runs_pending"):
        op.execute(f"DROP INDEX asm_{name}_index")
    for table in (
        "asm_audit_log",
        "asm_idempotency_keys",
        "asm_sweeper",
        "asm_run_leases",
        "asm_workers",
        "asm_limiters",
        "asm_session_runtime",
    ):
        op.drop_table(table)
    for column in _run_columns():
        op.drop_column("asm_runs", column.name)
    op.drop_column("asm_session_sequences", _pruned_count().name)

"""Soft delete, the provider's part in runs and events, cost, correlation, artifacts."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from asm_core.stores.sql.tables import Instant, Json, Money

revision = "asm_0002"
down_revision = "asm_0001"
branch_labels = None
depends_on = None


def _added() -> dict[str, list[sa.Column[Any]]]:
    return {
        "asm_sessions": [
            sa.Column("deleted_at", Instant),
            sa.Column("provider", sa.Text),
            sa.Column("model", sa.Text),
        ],
        "asm_runs": [
            sa.Column("provider", sa.Text),
            sa.Column("provider_metadata", Json, nullable=False, server_default="{}"),
            sa.Column("cost_usd", Money),
        ],
        "asm_events": [sa.Column("provider", sa.Text), sa.Column("correlation_id", sa.Text)],
        "asm_session_sequences": [sa.Column("updated_at", Instant)],
    }


def upgrade() -> None:
    for table, columns in _added().items():
        for column in columns:
            op.add_column(table, column)
    op.create_table(
        "asm_artifacts",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("tenant_id", sa.Text, nullable=False, server_default="default"),
        sa.Column("session_id", sa.Text),
        sa.Column("run_id", sa.Text),
        sa.Column("fence", sa.BigInteger),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("content_type", sa.Text),
        sa.Column("byte_size", sa.BigInteger, nullable=False),
        sa.Column("checksum_sha256", sa.Text, nullable=False),
        sa.Column("storage_backend", sa.Text, nullable=False),
        sa.Column("storage_ref", sa.Text, nullable=False),
        sa.Column("metadata", Json, nullable=False, server_default="{}"),
        sa.Column("created_at", Instant, nullable=False),
        sa.Column("deleted_at", Instant),
    )
    live = sa.text("deleted_at IS NULL")  # a deleted artifact's key is free again
    op.create_index(
        "asm_artifacts_key_index",
        "asm_artifacts",
        ["tenant_id", "key"],
        unique=True,
        postgresql_where=live,
        sqlite_where=live,
    )
    # garbage collection: what is deleted, and whether anything points at a blob
    op.create_index("asm_artifacts_storage_ref_index", "asm_artifacts", ["storage_ref"])
    op.create_index(
        "asm_artifacts_deleted_at_index",
        "asm_artifacts",
        ["deleted_at"],
        postgresql_where=sa.text("deleted_at IS NOT NULL"),
        sqlite_where=sa.text("deleted_at IS NOT NULL"),
    )
    op.create_index("asm_artifacts_session_id_index", "asm_artifacts", ["session_id"])
    op.create_index("asm_artifacts_created_at_index", "asm_artifacts", ["created_at"])
    op.create_index("asm_sessions_deleted_at_index", "asm_sessions", ["deleted_at"])
    op.create_index("asm_events_correlation_id_index", "asm_events", ["tenant_id", "correlation_id", "timestamp"])


def downgrade() -> None:
    op.drop_index("asm_events_correlation_id_index", "asm_events")
    op.drop_index("asm_sessions_deleted_at_index", "asm_sessions")
    op.drop_table("asm_artifacts")
    for table, columns in _added().items():
        for column in columns:
            op.drop_column(table, column.name)

"""Forks: sessions whose log begins with a reference to another's first events."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "asm_0004"
down_revision = "asm_0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("asm_sessions", sa.Column("forked_at", sa.BigInteger))
    op.create_table(
        "asm_inherited_events",
        sa.Column("session_id", sa.Text, primary_key=True),
        sa.Column("first_sequence", sa.BigInteger, primary_key=True),
        sa.Column("tenant_id", sa.Text, nullable=False, server_default="default"),
        sa.Column("last_sequence", sa.BigInteger, nullable=False),
        sa.Column("source_session_id", sa.Text, nullable=False),
    )
    # maintenance: what a fork refers to must stay
    op.create_index("asm_inherited_events_source_index", "asm_inherited_events", ["source_session_id"])


def downgrade() -> None:
    op.drop_table("asm_inherited_events")
    op.drop_column("asm_sessions", "forked_at")

"""Run by Alembic. The connection is handed in by `asm_core.stores.sql.migrate`; there is no alembic.ini."""

from __future__ import annotations

from alembic import context

from asm_core.stores.sql.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table="asm_alembic_version",
)
with context.begin_transaction():
    context.run_migrations()

"""Alembic environment and revisions; applied by `asm_core.stores.sql.migrate`."""

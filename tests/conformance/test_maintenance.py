"""Retention, on each database that does it."""

from __future__ import annotations

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from asm_core.ports.store import SessionStore
from asm_core.stores.sql.maintenance import SqlMaintenance
from asm_core.stores.sql.store import SqlSessionStore
from asm_core.testing import MaintenanceContract


class TestSqlMaintenance(MaintenanceContract):
    """SQLite, Postgres."""

    @pytest.fixture
    def store(self, sql_engine: AsyncEngine) -> SessionStore:
        return SqlSessionStore(sql_engine)

    @pytest.fixture
    def maintenance(self, sql_engine: AsyncEngine) -> SqlMaintenance:
        return SqlMaintenance(sql_engine)

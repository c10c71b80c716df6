"""Retention, on each database that does it."""

from __future__ import annotations

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from asm_core.ports.store import SessionStore
from asm_core.resources import Domain, ResourceMaintenance, ResourceSessionStore
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


class TestResourceMaintenance(MaintenanceContract):
    """The same, on the models of an application with columns of its own."""

    @pytest.fixture
    def store(self, extended_domain: Domain) -> SessionStore:
        return ResourceSessionStore(extended_domain)

    @pytest.fixture
    def maintenance(self, extended_domain: Domain) -> ResourceMaintenance:
        return ResourceMaintenance(extended_domain)

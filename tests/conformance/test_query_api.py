"""Questions across sessions, on each database that answers them."""

from __future__ import annotations

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from asm_core.ports.store import SessionStore
from asm_core.resources import Domain, ResourceQueryAPI, ResourceSessionStore
from asm_core.stores.sql.query import SqlQueryAPI
from asm_core.stores.sql.store import SqlSessionStore
from asm_core.testing import QueryAPIContract


class TestSqlQueryAPI(QueryAPIContract):
    """SQLite, Postgres."""

    @pytest.fixture
    def store(self, sql_engine: AsyncEngine) -> SessionStore:
        return SqlSessionStore(sql_engine)

    @pytest.fixture
    def query(self, sql_engine: AsyncEngine) -> SqlQueryAPI:
        return SqlQueryAPI(sql_engine)


class TestResourceQueryAPI(QueryAPIContract):
    """The same, on the models of an application with columns of its own."""

    @pytest.fixture
    def store(self, extended_domain: Domain) -> SessionStore:
        return ResourceSessionStore(extended_domain)

    @pytest.fixture
    def query(self, extended_domain: Domain) -> ResourceQueryAPI:
        return ResourceQueryAPI(extended_domain)

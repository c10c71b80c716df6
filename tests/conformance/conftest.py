"""Every test here runs on every store: the ports mean the same whatever is behind them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from asm_core.stores.sql.engine import open_engine
from tests.builders import World, open_memory_world, open_world, sqlite_world

OpenWorld = Callable[..., AbstractAsyncContextManager[World]]
"""Keywords: `times`, `limiter`, `ends_sound`."""


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def store_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def open_any(store_name: str, request: pytest.FixtureRequest) -> OpenWorld:
    """Opens a world over a fresh store; ends with a look whether it is sound."""
    match store_name:
        case "memory":
            return open_memory_world
        case "sqlite":
            engine = request.getfixturevalue("emptied_sqlite")
            return lambda **options: sqlite_world(engine, **options)
        case _:
            url = request.getfixturevalue("emptied_database_url")
            return lambda **options: open_world(url, **options)


@pytest.fixture
async def world(open_any: OpenWorld) -> AsyncIterator[World]:
    async with open_any() as opened:
        yield opened


@pytest.fixture(scope="session")
async def reused_postgres(reused_database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = open_engine(reused_database_url, application_name="test")
    yield engine
    await engine.dispose()


@pytest.fixture(params=["sqlite", "postgres"])
def sql_engine(request: pytest.FixtureRequest) -> AsyncEngine:
    """Migrated and without records."""
    if request.param == "sqlite":
        return request.getfixturevalue("emptied_sqlite")
    request.getfixturevalue("emptied_database_url")
    return request.getfixturevalue("reused_postgres")

"""Every test here runs on every store: the ports mean the same whatever is behind them."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from asm_core.resources import Domain, ResourceSessionStore
from asm_core.stores.sql.engine import open_engine, open_sqlite
from tests.builders import World, open_memory_world, open_world, sqlite_world
from tests.fixtures.postgres import Databases, empty_database
from tests.fixtures.resources import domain_on, extend
from tests.fixtures.sqlite import empty_file

OpenWorld = Callable[..., AbstractAsyncContextManager[World]]
"""Keywords: `times`, `limiter`, `ends_sound`."""


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def store_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def open_any(store_name: str, request: pytest.FixtureRequest) -> OpenWorld:
    """
    Opens a world over a fresh store; ends with a look whether it is sound. `resources_…`: its store works on the models
    of an application.
    """
    asked = request.getfixturevalue
    match store_name:
        case "memory":
            return open_memory_world
        case "sqlite":
            engine = asked("emptied_sqlite")
            return lambda **options: sqlite_world(engine, **options)
        case "postgres":
            url = asked("emptied_database_url")
            return lambda **options: open_world(url, **options)
        case "resources_sqlite":
            engine = asked("emptied_extended_sqlite")
            return lambda **options: on_resources(sqlite_world(engine, **options), engine)
        case _:
            engine = asked("emptied_extended_postgres")
            url = asked("extended_database_url")
            return lambda **options: on_resources(open_world(url, **options), engine)


@asynccontextmanager
async def on_resources(opening: AbstractAsyncContextManager[World], engine: AsyncEngine) -> AsyncIterator[World]:
    async with opening as world:
        world.store = ResourceSessionStore(domain_on(engine))
        yield world


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


@pytest.fixture(scope="session")
async def extended_sqlite(sqlite_template: Path) -> AsyncIterator[AsyncEngine]:
    """A file that an application has extended."""
    engine = open_sqlite(shutil.copy(sqlite_template, sqlite_template.with_name("extended.db")))
    await extend(engine)
    yield engine
    await engine.dispose()


@pytest.fixture(scope="session")
def extended_database_url(databases: Databases, template: str) -> Iterator[str]:
    with databases.fresh(template) as url:
        yield url


@pytest.fixture(scope="session")
async def extended_postgres(extended_database_url: str) -> AsyncIterator[AsyncEngine]:
    """A database that an application has extended."""
    engine = open_engine(extended_database_url, application_name="test")
    await extend(engine)
    yield engine
    await engine.dispose()


@pytest.fixture
def emptied_extended_sqlite(extended_sqlite: AsyncEngine) -> AsyncEngine:
    empty_file(str(extended_sqlite.url.database))
    return extended_sqlite


@pytest.fixture
def emptied_extended_postgres(extended_postgres: AsyncEngine, extended_database_url: str) -> AsyncEngine:
    empty_database(extended_database_url)
    return extended_postgres


@pytest.fixture(params=["sqlite", "postgres"])
def extended_domain(request: pytest.FixtureRequest) -> Domain:
    """An application's, without records."""
    return domain_on(request.getfixturevalue(f"emptied_extended_{request.param}"))

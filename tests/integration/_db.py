"""A migrated database per test on the server at ASM_TEST_SERVER, until `tests/fixtures/postgres.py` gives one."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from itertools import count

import psycopg
import pytest

from asm_core.stores.sql.migrate import migrate
from tests.builders import World, open_world

__all__ = ["_template", "database_url", "empty_database_url", "world"]

SERVER = os.environ.get("ASM_TEST_SERVER", "postgresql://nobody@127.0.0.1:55432")
TEMPLATE = f"asm_queue_{os.getpid()}"
_numbers = count()


def _admin() -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(f"{SERVER}/postgres", autocommit=True)


@pytest.fixture(scope="session")
def _template() -> Iterator[str]:
    with _admin() as admin:
        admin.execute(f"DROP DATABASE IF EXISTS {TEMPLATE}")
        admin.execute(f"CREATE DATABASE {TEMPLATE}")
        migrate(f"{SERVER}/{TEMPLATE}")
        yield TEMPLATE
        admin.execute(f"DROP DATABASE {TEMPLATE} WITH (FORCE)")


@pytest.fixture
def database_url(_template: str) -> Iterator[str]:
    yield from _database(_template)


@pytest.fixture
def empty_database_url() -> Iterator[str]:
    """A database without any table."""
    yield from _database("template1")


def _database(template: str) -> Iterator[str]:
    name = f"{TEMPLATE}_{next(_numbers)}"
    with _admin() as admin:
        admin.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        yield f"{SERVER}/{name}"
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    async with open_world(database_url) as world:
        yield world

"""SQLAlchemy engines, on which every statement commits by itself; `transactions.py` has the other way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from asm_core.wire import dumps_text, loads

BUSY_TIMEOUT_S = 15
"""How long SQLite waits for another process's write."""


def sqlalchemy_url(database_url: str) -> str:
    """`postgresql://…` as SQLAlchemy wants it (driver psycopg)."""
    scheme, separator, rest = database_url.partition("://")
    return f"postgresql+psycopg{separator}{rest}" if scheme in ("postgresql", "postgres") else database_url


def sqlite_url(path: Path | str) -> str:
    return f"sqlite:///{Path(path).absolute()}"


def open_engine(database_url: str, *, application_name: str, pool_size: int = 5) -> AsyncEngine:
    """An engine on Postgres: small pool, statements bounded to 30 s, JSON by orjson."""
    return create_async_engine(
        sqlalchemy_url(database_url),
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_timeout=5,
        pool_pre_ping=True,
        isolation_level="AUTOCOMMIT",
        json_serializer=dumps_text,
        json_deserializer=loads,
        connect_args={
            "application_name": application_name,
            "connect_timeout": 3,
            "options": "-c statement_timeout=30000 -c timezone=UTC",
        },
    )


def open_sqlite(path: Path | str, *, pool_size: int = 5) -> AsyncEngine:
    """An engine on a file that `migrate(sqlite_url(path))` has prepared; readers do not wait for the writer (WAL)."""
    engine = create_async_engine(
        sqlite_url(path).replace("sqlite:", "sqlite+aiosqlite:", 1),
        pool_size=pool_size,
        max_overflow=0,
        isolation_level="AUTOCOMMIT",
        json_serializer=dumps_text,
        json_deserializer=loads,
        connect_args={"timeout": BUSY_TIMEOUT_S},
    )
    sa.event.listen(engine.sync_engine, "connect", _prepare_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=OFF"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()

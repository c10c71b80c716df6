"""SQLAlchemy engines for queries."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from asm_core.wire import dumps_text, loads


def sqlalchemy_url(database_url: str) -> str:
    """`postgresql://…` as SQLAlchemy wants it (driver psycopg)."""
    scheme, separator, rest = database_url.partition("://")
    return f"postgresql+psycopg{separator}{rest}" if scheme in ("postgresql", "postgres") else database_url


def open_engine(database_url: str, *, application_name: str, pool_size: int = 5) -> AsyncEngine:
    """An engine for reading: small pool, statements bounded to 30 s, JSON by orjson."""
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

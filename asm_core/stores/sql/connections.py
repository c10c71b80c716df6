"""Connections for reading and for maintenance, and what becomes of a driver's failures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.stores.sql.dialect import dialect_of

ANSWER_TIMEOUT_S = 32.0
"""A little more than the engine's statement timeout: that one is the server's word, and a server may fall silent."""

_UNKNOWN_NAME = ("42P01", "42703")
"""SQLSTATE of a table or column that is not there."""


@asynccontextmanager
async def reading(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """
    A connection for a few short queries, each of its own snapshot.

    Raises:
        AsmError: as `mapped_errors`.
    """
    with mapped_errors():
        async with asyncio.timeout(ANSWER_TIMEOUT_S), engine.connect() as connection:
            yield connection


@asynccontextmanager
async def snapshot(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """
    One read-only transaction: all its queries see the same state. It may last; each query is bounded (`fetch`).

    Raises:
        AsmError: as `mapped_errors`.
    """
    with mapped_errors():
        async with engine.connect() as connection:
            await connection.execution_options(**dialect_of(engine.dialect.name).snapshot_options)
            yield connection


@asynccontextmanager
async def writing(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """
    One transaction of maintenance, committed at the end of the block: each statement sees what was committed before
    it, and waiting for the locks of others is bounded.

    Raises:
        AsmError: as `mapped_errors`, otherwise `maintenance_error`.
    """
    dialect = dialect_of(engine.dialect.name)
    with mapped_errors(ErrorCode.MAINTENANCE_ERROR):
        async with engine.connect() as connection:
            await connection.execution_options(**dialect.write_options)
            async with connection.begin():
                for limit in dialect.write_limits:
                    await connection.execute(sa.text(limit))
                yield connection


async def fetch(connection: AsyncConnection, query: sa.Select[Any]) -> Sequence[dict[str, Any]]:
    """All rows. Raises TimeoutError, which `mapped_errors` knows, when the server falls silent."""
    async with asyncio.timeout(ANSWER_TIMEOUT_S):
        return [dict(row) for row in (await connection.execute(query)).mappings()]


async def first(connection: AsyncConnection, query: sa.Select[Any]) -> Mapping[str, Any] | None:
    rows = await fetch(connection, query.limit(1))
    return rows[0] if rows else None


async def pages(
    connection: AsyncConnection, query: sa.Select[Any], size: int
) -> AsyncIterator[Sequence[dict[str, Any]]]:
    """All rows by a cursor of the server's, at most `size` at a time. Raises as `fetch`."""
    async with connection.stream(query, execution_options={"yield_per": size}) as result:
        parts = result.mappings().partitions()
        while True:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                page = await anext(parts, None)
            if page is None:
                return
            yield [dict(row) for row in page]


@contextmanager
def mapped_errors(otherwise: ErrorCode = ErrorCode.QUERY_ERROR) -> Iterator[None]:
    """
    Turns the failures of driver and pool into AsmErrors, without the statement and its values.

    Args:
        otherwise: the code of what is neither an outage, a missing schema nor a bad value.

    Raises:
        AsmError: `storage_connection_failed`, `migration_required`, `validation_error`, `otherwise`.
    """
    try:
        yield
    except TimeoutError as cause:
        raise AsmError(ErrorCode.STORAGE_CONNECTION_FAILED, "the store did not answer in time") from cause
    except (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError, OSError) as cause:
        name = type(getattr(cause, "orig", cause)).__name__
        raise AsmError(ErrorCode.STORAGE_CONNECTION_FAILED, f"the store cannot be reached ({name})") from cause
    except sa.exc.DataError as cause:
        name = type(cause.orig).__name__
        raise AsmError(ErrorCode.VALIDATION_ERROR, f"the store refused a value ({name})") from cause
    except sa.exc.DBAPIError as cause:
        if getattr(cause.orig, "sqlstate", "") in _UNKNOWN_NAME:
            raise AsmError(ErrorCode.MIGRATION_REQUIRED) from cause
        raise AsmError(otherwise, f"the store failed ({type(cause.orig).__name__})") from cause
    except sa.exc.SQLAlchemyError as cause:
        raise AsmError(otherwise, f"the store failed ({type(cause).__name__})") from cause

"""
Statements and write transactions on either kind of database; foreign errors turned into ours.

Postgres takes locks as a transaction meets its rows. SQLite knows one writer at a time: in this process writers line up
before they begin (its own waiting is by sleeping), and BEGIN IMMEDIATE takes the write lock before anything is read, so
that a transaction never has to be given up half-way. A caller who is cancelled waits for the end of what he has begun
there: a statement runs on in its thread, and a connection that was left in the midst of one would keep the file locked.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from asm_core.domain.errors import AsmError, ErrorCode

ANSWER_TIMEOUT_S = 32.0
"""A little more than a server's statement timeout: that one is the server's word, and a server may fall silent."""
MAX_TRIES = 25
RETRY_AFTER_S = 0.01

_BUSY = ("40001", "40P01")
_UNMIGRATED = ("42P01", "42703", "42883")

T = TypeVar("T")
Work = Callable[[AsyncConnection], Awaitable[T]]

_turns: WeakKeyDictionary[sa.Engine, asyncio.Lock] = WeakKeyDictionary()


async def with_connection(engine: AsyncEngine, work: Work[T]) -> T:
    """
    Statements that each commit by themselves.

    Raises:
        AsmError: `storage_connection_failed`, `migration_required`, `validation_error`, `query_error`.
    """

    async def run() -> T:
        async with engine.connect() as connection:
            return await work(connection)

    return await _bounded(engine, run)


async def in_transaction(engine: AsyncEngine, work: Work[T]) -> T:
    """
    All of `work` or nothing; again from the start where the database asks for it (busy, deadlock).

    Raises as `with_connection`, and whatever `work` raises.
    """
    begun = _begun_on_sqlite if engine.dialect.name == "sqlite" else _begun_on_postgres
    clock = asyncio.get_running_loop().time
    give_up_at = clock() + ANSWER_TIMEOUT_S

    async def run() -> T:
        for tries_left in reversed(range(MAX_TRIES)):
            try:
                async with begun(engine) as connection:
                    return await work(connection)
            except sa.exc.DBAPIError as cause:
                if not tries_left or clock() > give_up_at or not _is_busy(cause):
                    raise
            await asyncio.sleep(RETRY_AFTER_S * (1 + random.random()))
        raise AssertionError("unreachable")

    return await _bounded(engine, run)


async def _bounded(engine: AsyncEngine, run: Callable[[], Coroutine[Any, Any, T]]) -> T:
    with mapped_errors():
        if engine.dialect.name == "sqlite":
            return await _undisturbed(run())
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            return await run()


async def _undisturbed(work: Coroutine[Any, Any, T]) -> T:
    """To its end, also when the caller is cancelled meanwhile; then the cancellation goes on."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # nobody is left to hear of it
        raise


@asynccontextmanager
async def _begun_on_postgres(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="READ COMMITTED")
        async with connection.begin():
            yield connection


@asynccontextmanager
async def _begun_on_sqlite(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    async with _turns.setdefault(engine.sync_engine, asyncio.Lock()), engine.connect() as connection:
        await connection.exec_driver_sql("BEGIN IMMEDIATE")
        try:
            yield connection
        except BaseException:
            with suppress(sa.exc.DBAPIError):  # a statement that failed badly has ended it already
                await connection.exec_driver_sql("ROLLBACK")
            raise
        await connection.exec_driver_sql("COMMIT")


def _is_busy(cause: sa.exc.DBAPIError) -> bool:
    if getattr(cause.orig, "sqlstate", None) in _BUSY:
        return True
    return isinstance(cause, sa.exc.OperationalError) and "locked" in str(cause.orig)


@contextmanager
def mapped_errors() -> Iterator[None]:
    """Driver errors as AsmError, without SQL text or values."""
    try:
        yield
    except TimeoutError as cause:
        raise AsmError(ErrorCode.STORAGE_CONNECTION_FAILED, "the store did not answer in time") from cause
    except sa.exc.SQLAlchemyError as cause:
        raise _to_asm_error(cause) from cause
    except OSError as cause:
        raise AsmError(ErrorCode.STORAGE_CONNECTION_FAILED, f"the store cannot be reached ({_name(cause)})") from cause


def _to_asm_error(cause: sa.exc.SQLAlchemyError) -> AsmError:
    name = _name(cause)
    if _is_unmigrated(cause):
        return AsmError(ErrorCode.MIGRATION_REQUIRED)
    match cause:
        case sa.exc.OperationalError() | sa.exc.InterfaceError() | sa.exc.TimeoutError():
            return AsmError(ErrorCode.STORAGE_CONNECTION_FAILED, f"the store cannot be reached ({name})")
        case sa.exc.DataError() | sa.exc.IntegrityError():
            return AsmError(ErrorCode.VALIDATION_ERROR, f"the store refused a value ({name})")
        case _:
            return AsmError(ErrorCode.QUERY_ERROR, f"the query failed ({name})")


def _is_unmigrated(cause: sa.exc.SQLAlchemyError) -> bool:
    origin = getattr(cause, "orig", None)
    said = str(origin)
    return getattr(origin, "sqlstate", None) in _UNMIGRATED or said.startswith("no such table") or "no column" in said


def _name(cause: Exception) -> str:
    return type(getattr(cause, "orig", None) or cause).__name__

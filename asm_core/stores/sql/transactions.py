"""
Statements and write transactions on either kind of database; foreign errors turned into ours.

Postgres takes locks as a transaction meets its rows. SQLite knows one writer at a time: in this process writers line up
before they begin (its own waiting is by sleeping), and BEGIN IMMEDIATE takes the write lock before anything is read, so
that a transaction never has to be given up half-way. A caller who is cancelled waits there until what he has begun has
ended (`undisturbed.py`).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncResult

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.stores.sql.undisturbed import UndisturbedConnection, undisturbed

ANSWER_TIMEOUT_S = 32.0
"""A little more than a server's statement timeout: that one is the server's word, and a server may fall silent."""
MAX_TRIES = 25
RETRY_AFTER_S = 0.01
MAINTENANCE_LIMITS = (
    "SET LOCAL lock_timeout = '2s'",
    "SET LOCAL statement_timeout = '10min'",
    "SET LOCAL idle_in_transaction_session_timeout = 0",  # who holds the turn does nothing else
)

_BUSY = ("40001", "40P01")
_UNMIGRATED = ("42P01", "42703", "42883")

T = TypeVar("T")
Work = Callable[[AsyncConnection], Awaitable[T]]

_turns: WeakKeyDictionary[sa.Pool, asyncio.Lock] = WeakKeyDictionary()


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
    is_sqlite = engine.dialect.name == "sqlite"
    clock = asyncio.get_running_loop().time
    give_up_at = clock() + ANSWER_TIMEOUT_S

    async def run() -> T:
        for tries_left in reversed(range(MAX_TRIES)):
            try:
                connection = engine.connect()  # undisturbed as a whole on SQLite
                async with _begun_on_sqlite(connection) if is_sqlite else _begun_on_postgres(connection):
                    return await work(connection)
            except sa.exc.DBAPIError as cause:
                if not tries_left or clock() > give_up_at or not _is_busy(cause):
                    raise
            await asyncio.sleep(RETRY_AFTER_S * (1 + random.random()))
        raise AssertionError("unreachable")

    return await _bounded(engine, run)


@asynccontextmanager
async def writing(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """
    One transaction of maintenance, committed at the end of the block: on Postgres it may last, each statement sees what
    was committed before it, and waiting for the locks of others is bounded. Whoever is cancelled in it leaves it ended.

    Raises:
        AsmError: as `with_connection`, with `maintenance_error` instead of `query_error`.
    """
    with mapped_errors(ErrorCode.MAINTENANCE_ERROR):
        if engine.dialect.name == "sqlite":
            async with _begun_on_sqlite(UndisturbedConnection(engine)) as connection:
                yield connection
        else:
            async with _begun_on_postgres(engine.connect()) as connection:
                for limit in MAINTENANCE_LIMITS:
                    await connection.execute(sa.text(limit))
                yield connection


@asynccontextmanager
async def snapshot(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """
    One transaction for reading: all its queries see the same state, and nothing of it is kept. It may last; each query
    is bounded (`fetch`).

    Raises as `with_connection`.
    """
    with mapped_errors():
        if engine.dialect.name == "sqlite":
            async with UndisturbedConnection(engine) as connection:
                try:
                    await connection.exec_driver_sql("BEGIN")
                    yield connection
                finally:
                    await _roll_back(connection)
        else:
            async with engine.connect() as connection:
                await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
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
    finished = undisturbed if connection.dialect.name == "sqlite" else _as_it_is
    stream = _Stream(connection, query, size)
    try:
        await finished(stream.open())
        while True:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                page = await finished(stream.next())
            if page is None:
                return
            yield [dict(row) for row in page]
    finally:
        await finished(stream.close())


async def _as_it_is(work: Awaitable[T]) -> T:
    return await work


class _Stream:
    """A result in parts; opened or not, it can be closed."""

    def __init__(self, connection: AsyncConnection, query: sa.Select[Any], size: int) -> None:
        self._connection = connection
        self._query = query
        self._options = {"yield_per": size}
        self._result: AsyncResult[Any] | None = None

    async def open(self) -> None:
        self._result = await self._connection.stream(self._query, execution_options=self._options)
        self._parts = self._result.mappings().partitions()

    async def next(self) -> Sequence[Mapping[str, Any]] | None:
        """None behind the last part."""
        return await anext(self._parts, None)

    async def close(self) -> None:
        if self._result is not None:
            await self._result.close()


async def _bounded(engine: AsyncEngine, run: Callable[[], Coroutine[Any, Any, T]]) -> T:
    with mapped_errors():
        if engine.dialect.name == "sqlite":
            return await undisturbed(run())
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            return await run()


@asynccontextmanager
async def _begun_on_postgres(connection: AsyncConnection) -> AsyncIterator[AsyncConnection]:
    async with connection:
        await connection.execution_options(isolation_level="READ COMMITTED")
        async with connection.begin():
            yield connection


@asynccontextmanager
async def _begun_on_sqlite(connection: AsyncConnection) -> AsyncIterator[AsyncConnection]:
    async with _turns.setdefault(connection.sync_engine.pool, asyncio.Lock()), connection:
        try:
            await connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection
            await connection.exec_driver_sql("COMMIT")
        except BaseException:
            await _roll_back(connection)
            raise


async def _roll_back(connection: AsyncConnection) -> None:
    """Nothing is left of a transaction on SQLite; one that has ended already, or its connection, is no error."""
    with suppress(sa.exc.DBAPIError, sa.exc.PendingRollbackError):
        await connection.exec_driver_sql("ROLLBACK")


def _is_busy(cause: sa.exc.DBAPIError) -> bool:
    if getattr(cause.orig, "sqlstate", None) in _BUSY:
        return True
    return isinstance(cause, sa.exc.OperationalError) and "locked" in str(cause.orig)


@contextmanager
def mapped_errors(otherwise: ErrorCode = ErrorCode.QUERY_ERROR) -> Iterator[None]:
    """
    Driver errors as AsmError, without SQL text or values.

    Args:
        otherwise: the code of what is neither an outage, a missing schema nor a bad value.
    """
    try:
        yield
    except TimeoutError as cause:
        raise AsmError(ErrorCode.STORAGE_CONNECTION_FAILED, "the store did not answer in time") from cause
    except sa.exc.SQLAlchemyError as cause:
        raise _to_asm_error(cause, otherwise) from cause
    except OSError as cause:
        raise AsmError(ErrorCode.STORAGE_CONNECTION_FAILED, f"the store cannot be reached ({_name(cause)})") from cause


def _to_asm_error(cause: sa.exc.SQLAlchemyError, otherwise: ErrorCode) -> AsmError:
    name = _name(cause)
    if _is_unmigrated(cause):
        return AsmError(ErrorCode.MIGRATION_REQUIRED)
    match cause:
        case sa.exc.OperationalError() | sa.exc.InterfaceError() | sa.exc.TimeoutError():
            return AsmError(ErrorCode.STORAGE_CONNECTION_FAILED, f"the store cannot be reached ({name})")
        case sa.exc.DataError() | sa.exc.IntegrityError():
            return AsmError(ErrorCode.VALIDATION_ERROR, f"the store refused a value ({name})")
        case _:
            return AsmError(otherwise, f"the query failed ({name})")


def _is_unmigrated(cause: sa.exc.SQLAlchemyError) -> bool:
    origin = getattr(cause, "orig", None)
    said = str(origin)
    return getattr(origin, "sqlstate", None) in _UNMIGRATED or said.startswith("no such table") or "no column" in said


def _name(cause: Exception) -> str:
    return type(getattr(cause, "orig", None) or cause).__name__

"""Connections for the transactions, and foreign errors turned into ours."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import psycopg
from psycopg import errors as pg
from psycopg.rows import tuple_row
from psycopg.types.json import set_json_loads
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.wire import loads

CONNECT_TIMEOUT_S = 3
CHECKOUT_TIMEOUT_S = 3.0
LOCK_TIMEOUT_MS = 2_000
STATEMENT_TIMEOUT_MS = 5_000
ANSWER_TIMEOUT_S = STATEMENT_TIMEOUT_MS / 1000 + 2
"""The statement timeout is the server's word; where no server is left to keep it, we hang up."""
CHECK_TIMEOUT_S = 1.0
MAX_TRIES = 3
"""Of one transaction, when the database asks for it (deadlock, serialization) or a pooled connection was dead."""

Connection = psycopg.AsyncConnection[tuple[Any, ...]]


class Pool:
    """A pool of autocommit connections on which each call is one function, hence one transaction."""

    def __init__(self, database_url: str, *, application_name: str, max_size: int) -> None:
        self._pool: AsyncConnectionPool[Connection] = _ConnectionPool(
            database_url,
            kwargs={
                "autocommit": True,
                "application_name": application_name,
                "connect_timeout": CONNECT_TIMEOUT_S,
                "options": f"-c lock_timeout={LOCK_TIMEOUT_MS} -c statement_timeout={STATEMENT_TIMEOUT_MS} "
                # no compiling: `enable_seqscan = off` makes plans look dear, and a sweep would take 60 ms instead of 3
                "-c idle_in_transaction_session_timeout=10000 -c timezone=UTC -c jit=off",
                "row_factory": tuple_row,
            },
            configure=_use_orjson,
            min_size=1,
            max_size=max_size,
            timeout=CHECKOUT_TIMEOUT_S,
            reconnect_timeout=CONNECT_TIMEOUT_S,
            open=False,
        )

    async def open(self) -> None:
        await self._pool.open(wait=False)

    async def close(self) -> None:
        await self._pool.close(timeout=2)

    async def call(self, query: str, *params: Any) -> Any:
        """The first column of the only row."""
        rows = await self.rows(query, *params)
        return rows[0][0] if rows else None

    async def rows(self, query: str, *params: Any) -> list[tuple[Any, ...]]:
        """
        Run one statement, again when that is what helps: a dead pooled connection, a deadlock.

        Safe because every transaction of ASM is safe to repeat.
        """
        for tries_left in reversed(range(MAX_TRIES)):
            try:
                with mapped_errors():
                    async with self._pool.connection() as connection:
                        with _answer_within(ANSWER_TIMEOUT_S, connection):
                            cursor = await connection.execute(query, params, prepare=True)
                            return await cursor.fetchall()
            except AsmError as error:
                if not tries_left or not error.details.get("again"):
                    raise
                if error.details["again"] == "connection":
                    await self._pool.check()
        raise AssertionError("unreachable")

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection for statements of the caller's own."""
        with mapped_errors():
            async with self._pool.connection() as connection:
                yield connection


class _ConnectionPool(AsyncConnectionPool[Connection]):
    @staticmethod
    async def check_connection(conn: Any) -> None:
        with _answer_within(CHECK_TIMEOUT_S, conn):
            await AsyncConnectionPool.check_connection(conn)


@contextmanager
def _answer_within(timeout_s: float, connection: psycopg.AsyncConnection[Any]) -> Iterator[None]:
    timer = asyncio.get_running_loop().call_later(timeout_s, hang_up, connection)
    try:
        yield
    finally:
        timer.cancel()


def hang_up(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
    """Whoever waits for an answer on this connection fails now; the network itself may take many minutes to notice."""
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.pgconn.socket)) as line:
        line.shutdown(socket.SHUT_RDWR)


async def _use_orjson(connection: psycopg.AsyncConnection[Any]) -> None:
    set_json_loads(loads, connection)


class mapped_errors:
    """Driver errors as AsmError, without SQL text or values."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, cause: BaseException | None, trace: Any) -> None:
        if isinstance(cause, psycopg.Error | PoolTimeout | OSError) and not isinstance(cause, AsmError):
            raise to_asm_error(cause) from cause


def to_asm_error(cause: Exception) -> AsmError:
    name = type(cause).__name__
    match cause:
        case pg.DeadlockDetected() | pg.SerializationFailure():
            return AsmError(
                ErrorCode.STORAGE_CONNECTION_FAILED, f"the store is busy ({name})", details={"again": "busy"}
            )
        case pg.LockNotAvailable() | pg.QueryCanceled():
            return AsmError(ErrorCode.STORAGE_CONNECTION_FAILED, f"the store did not answer in time ({name})")
        case pg.UndefinedTable() | pg.UndefinedFunction() | pg.UndefinedColumn():
            return AsmError(ErrorCode.MIGRATION_REQUIRED)
        case pg.ReadOnlySqlTransaction() | pg.AdminShutdown() | pg.CrashShutdown() | pg.CannotConnectNow():
            return AsmError(
                ErrorCode.STORAGE_CONNECTION_FAILED,
                f"the store is not available ({name})",
                details={"again": "connection"},
            )
        case psycopg.DataError() | psycopg.IntegrityError():
            return AsmError(
                ErrorCode.VALIDATION_ERROR, f"the store refused a value ({name})", details={"sqlstate": cause.sqlstate}
            )
        case PoolTimeout():
            return AsmError(ErrorCode.STORAGE_CONNECTION_FAILED, "no connection to the store within its time limit")
        case psycopg.OperationalError() | psycopg.InterfaceError() | OSError():
            return AsmError(
                ErrorCode.STORAGE_CONNECTION_FAILED,
                f"the store cannot be reached ({name})",
                details={"again": "connection"},
            )
        case _:
            sqlstate = getattr(cause, "sqlstate", None)
            return AsmError(ErrorCode.STORAGE_ERROR, f"the store failed ({name})", details={"sqlstate": sqlstate})

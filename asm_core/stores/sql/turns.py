"""
Turns: work of which a database has only one of a kind at a time, whoever begins it and wherever.

A turn lasts as long as its block and is let go by whatever becomes of its holder. On Postgres it is an advisory lock of
a transaction that does nothing else: a dead process's connection breaks at once, a dead node's within a minute. On
SQLite it is a lock on a file beside the database (`flock`), gone with its process. The file stays: removing it could
take it from under somebody who has just opened it.
"""

from __future__ import annotations

import fcntl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from hashlib import sha256
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.stores.sql.transactions import writing

_DEAD_NODES_ARE_NOTICED = (
    "SET LOCAL tcp_keepalives_idle = 30",
    "SET LOCAL tcp_keepalives_interval = 10",
    "SET LOCAL tcp_keepalives_count = 3",
)


@asynccontextmanager
async def turn(engine: AsyncEngine, name: str) -> AsyncIterator[bool]:
    """
    Whether nobody else has this turn now; if so, it is held until the block ends. Never waits.

    Raises:
        AsmError: `storage_connection_failed`, `maintenance_error`.
    """
    if engine.dialect.name == "sqlite":
        with _file_lock(_lock_path(engine, name)) as is_mine:
            yield is_mine
        return
    async with writing(engine) as tx:
        for setting in _DEAD_NODES_ARE_NOTICED:
            await tx.execute(sa.text(setting))
        key = sa.func.hashtextextended(name, 0)
        yield bool(await tx.scalar(sa.select(sa.func.pg_try_advisory_xact_lock(key))))


def _lock_path(engine: AsyncEngine, name: str) -> Path:
    """Beside the database; a name may hold anything, a file name may not."""
    return Path(f"{engine.url.database}-turn-{sha256(name.encode()).hexdigest()[:16]}")


@contextmanager
def _file_lock(path: Path) -> Iterator[bool]:
    try:
        file = path.open("ab")
    except OSError as cause:
        message = f"the file {path.name} beside the store cannot be opened ({type(cause).__name__})"
        raise AsmError(ErrorCode.STORAGE_CONNECTION_FAILED, message) from cause
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True

"""
What `asm_core.manager.verify` asks of a database: the invariants of DESIGN §9, one after the other.

All of them see one snapshot (on Postgres REPEATABLE READ, READ ONLY; on SQLite one reading transaction), and time is
the snapshot's own, so that a system at work is not accused of what happened while the check went on.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.invariants import INVARIANTS, MAX_SHOWN, SECRETS, Report, Verdict
from asm_core.domain.redaction import SEARCH, SecretSearch
from asm_core.stores.sql.engine import BUSY_TIMEOUT_S, sqlalchemy_url
from asm_core.stores.sql.invariants import POSTGRES, SQLITE, WAIT_BOUND_MS
from asm_core.stores.sql.stored_secrets import search_secrets
from asm_core.stores.sql.transactions import mapped_errors, snapshot

STATEMENT_TIMEOUT_MS = 600_000
"""One invariant over a large database."""
CONNECT_TIMEOUT_S = 3

Tell = Callable[[str], None]


class SqlInspection:
    """
    `asm_core.manager.verify.Inspection` on Postgres and SQLite; from `inspect_database`.

    Args:
        connection: in one transaction for as long as the inspection lasts.
        secrets: what is looked for; None: they are not.
        tell: hears what is being done.
    """

    def __init__(self, connection: AsyncConnection, *, secrets: SecretSearch | None, tell: Tell) -> None:
        self._connection = connection
        self._queries = SQLITE if connection.dialect.name == "sqlite" else POSTGRES
        self._secrets = secrets
        self._tell = tell

    @property
    def left_out(self) -> Mapping[int, str]:
        reasons = {number: "a file has no fleet" for number in INVARIANTS if number not in {*self._queries, SECRETS}}
        return reasons | ({SECRETS: "not asked for"} if self._secrets is None else {})

    async def examine(self, invariant: int, *, now: datetime | None = None) -> Verdict:
        self._tell(f"{invariant} {INVARIANTS[invariant]}")
        with mapped_errors():
            if invariant == SECRETS:
                assert self._secrets is not None, "left out"
                return await search_secrets(self._connection, self._secrets, self._tell)
            return await self._ask(invariant, now)

    async def _ask(self, invariant: int, now: datetime | None) -> Verdict:
        # composed of constants
        found = self._queries[invariant]
        query = sa.text(f"SELECT what, count(*) OVER () FROM ({found}) found LIMIT :shown")  # noqa: S608
        given = {"shown": MAX_SHOWN, "now": now, "bound": WAIT_BOUND_MS}
        known = {name: given[name] for name in query.compile().params}
        rows = (await self._connection.execute(query, known)).all()
        return Verdict(invariant, rows[0][1] if rows else 0, [row[0] for row in rows])


def _say_nothing(_text: str) -> None:
    pass


async def verify_database(
    database_url: str, *, secrets: SecretSearch | None = SEARCH, tell: Tell = _say_nothing
) -> Report:
    """
    Check every invariant of DESIGN §9 on a database, at rest or at work: `manager.verify` over `inspect_database`.

    Args, Raises: as `inspect_database`; besides `migration_required`, `query_error`: nothing is known.
    """
    async with inspect_database(database_url, secrets=secrets, tell=tell) as inspection:
        left_out = inspection.left_out
        asked = [number for number in INVARIANTS if number not in left_out]
        return Report([await inspection.examine(number) for number in asked], left_out)


@asynccontextmanager
async def inspect_database(
    database_url: str, *, secrets: SecretSearch | None = SEARCH, tell: Tell = _say_nothing
) -> AsyncIterator[SqlInspection]:
    """
    One snapshot of a database, for as long as the block lasts; nothing is written.

    Args:
        database_url: `postgresql://…`, or `sqlite:///…` of a file that is there.
        secrets: looked for in every row, which takes a minute per million events; None: they are not.
        tell: hears what is being done.

    Raises:
        AsmError: `storage_connection_failed`; `validation_error` for another kind of database.
    """
    engine = _open(database_url)
    try:
        async with snapshot(engine) as connection:
            yield SqlInspection(connection, secrets=secrets, tell=tell)
    finally:
        await engine.dispose()


def _open(database_url: str) -> AsyncEngine:
    url = sqlalchemy_url(database_url)
    if url.startswith("postgresql+"):
        return _open_postgres(url)
    scheme, _, path = url.partition("://")
    if scheme.partition("+")[0] == "sqlite":
        return _open_file(path.removeprefix("/"))
    message = f"only Postgres and SQLite databases can be verified, not {scheme!r}"
    raise AsmError(ErrorCode.VALIDATION_ERROR, message)


def _open_postgres(url: str) -> AsyncEngine:
    return create_async_engine(
        url,
        poolclass=NullPool,
        connect_args={
            "application_name": "asm-verify",
            "connect_timeout": CONNECT_TIMEOUT_S,
            "options": f"-c statement_timeout={STATEMENT_TIMEOUT_MS} -c timezone=UTC "
            "-c default_transaction_read_only=on",
        },
    )


def _open_file(path: str) -> AsyncEngine:
    """Reads only, but opened for both: a reader beside a write-ahead log takes part in its locks."""
    if not path or not Path(path).is_file():
        raise AsmError(ErrorCode.STORAGE_CONNECTION_FAILED, f"there is no database file {path!r}")
    engine = create_async_engine(
        f"sqlite+aiosqlite:///file:{quote(str(Path(path).absolute()))}?mode=rw&uri=true",
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT",
        connect_args={"timeout": BUSY_TIMEOUT_S},
    )
    sa.event.listen(engine.sync_engine, "connect", _prepare)
    return engine


def _prepare(connection: Any, _record: object) -> None:
    connection.create_function("format", -1, _format)
    cursor = connection.cursor()
    cursor.execute("PRAGMA query_only=ON")
    cursor.close()


def _format(template: str, *values: Any) -> str:
    """As on Postgres; of SQLite's own only later versions have it."""
    return template % tuple("" if value is None else value for value in values)

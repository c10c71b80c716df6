"""
What is stored where, for whom: the rows of `asm_artifacts`, on Postgres and SQLite.

A deleted row is hidden and keeps its place until garbage collection has removed what it points at (`garbage.py`); its
key is free again at once (the unique index covers live rows only).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from asm_core.clock import SystemClock, new_id
from asm_core.domain import ids
from asm_core.domain.artifact import Artifact, ArtifactStats, require_key, require_storable
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.fields import parse_datetime
from asm_core.ports.clock import Clock
from asm_core.stores.sql.tables import artifacts

ANSWER_TIMEOUT_S = 32.0
"""A little more than the engine's statement timeout: a server may fall silent."""

_ISOLATION = {"postgresql": "READ COMMITTED", "sqlite": "SERIALIZABLE"}
"""Engines for reading commit by themselves; a write here is a transaction."""
_SCHEMA_MISSING = ("42P01", "42703")
"""SQLSTATE of a table or column that is not there."""
_SQLITE_UNREACHABLE = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_CANTOPEN")
"""Of SQLite's failures, those that pass."""
_live = artifacts.c.deleted_at.is_(None)


class ArtifactRegistry:
    """
    Args:
        engine: on Postgres or SQLite; its pool is this object's only state.
        clock: gives `created_at` and `deleted_at`.

    Raises (every method):
        AsmError: `validation_error`, `storage_connection_failed`, `migration_required`; a failed read is
            `query_error`, a failed write `persistence_error`.

    Source: spec/02 §14.
    """

    def __init__(self, engine: AsyncEngine, clock: Clock | None = None) -> None:
        self._engine = engine
        self._clock = clock or SystemClock()

    async def register(self, attrs: Mapping[str, Any], tenant_id: str) -> Artifact:
        """
        A new live row.

        Args:
            attrs: as `Artifact.new`.

        Raises:
            AsmError: `already_exists` when the key has a live row, or the id any.
        """
        artifact = self._new(attrs, tenant_id)
        async with self._writing(artifact) as connection:
            await connection.execute(_insert(artifact))
        return artifact

    async def replace(self, attrs: Mapping[str, Any], tenant_id: str) -> Artifact:
        """`register`, and delete the row that has the key, at one moment. Raises `already_exists` for a known id."""
        artifact = self._new(attrs, tenant_id)
        async with self._writing(artifact) as connection:
            await connection.execute(_hide(artifact.key, tenant_id, artifact.created_at))
            await connection.execute(_insert(artifact))
        return artifact

    async def get_by_key(self, key: str, tenant_id: str) -> Artifact | None:
        """The live row, or None."""
        rows = await self._rows(_of_tenant(tenant_id).where(artifacts.c.key == require_key(key), _live))
        return _artifact_of(rows[0]) if rows else None

    async def list_by_session(self, session_id: str, tenant_id: str) -> list[Artifact]:
        """Live rows in order of creation; an unknown session has none."""
        query = _of_tenant(tenant_id).where(artifacts.c.session_id == require_storable("session_id", session_id), _live)
        rows = await self._rows(query.order_by(artifacts.c.created_at, artifacts.c.id))
        return [_artifact_of(row) for row in rows]

    async def session_stats(self, session_id: str, tenant_id: str) -> ArtifactStats:
        """Zeros for an unknown session."""
        size = sa.func.coalesce(sa.func.sum(artifacts.c.byte_size), 0)
        query = sa.select(sa.func.count().label("artifact_count"), size.label("total_bytes")).where(
            artifacts.c.tenant_id == require_storable("tenant_id", tenant_id),
            artifacts.c.session_id == require_storable("session_id", session_id),
            _live,
        )
        [row] = await self._rows(query)
        return ArtifactStats(artifact_count=int(row["artifact_count"]), total_bytes=int(row["total_bytes"]))

    async def delete(self, key: str, tenant_id: str) -> None:
        """Hides the live row; what it points at stays. A key without a live row is no error."""
        statement = _hide(require_key(key), require_storable("tenant_id", tenant_id), self._clock.now())
        async with self._transaction() as connection:
            await connection.execute(statement)

    async def deleted_before(self, at: datetime, backend: str, *, after_id: str, limit: int) -> list[Artifact]:
        """Hidden rows of a backend, by id behind `after_id`. For garbage collection: names no tenant."""
        query = sa.select(artifacts).where(
            artifacts.c.deleted_at < at, artifacts.c.storage_backend == backend, artifacts.c.id > after_id
        )
        return [_artifact_of(row) for row in await self._rows(query.order_by(artifacts.c.id).limit(limit))]

    async def referenced(self, refs: Sequence[str], *, live_only: bool = False) -> set[str]:
        """Those of `refs` that a row points at. For garbage collection: names no tenant."""
        query = sa.select(artifacts.c.storage_ref).where(artifacts.c.storage_ref.in_(refs))
        rows = await self._rows(query.where(_live) if live_only else query)
        return {row["storage_ref"] for row in rows}

    async def purge(self, artifact_ids: Sequence[str]) -> None:
        """Removes hidden rows for good. For garbage collection: names no tenant."""
        hidden = artifacts.c.id.in_(artifact_ids) & artifacts.c.deleted_at.is_not(None)
        async with self._transaction() as connection:
            await connection.execute(sa.delete(artifacts).where(hidden))

    def _new(self, attrs: Mapping[str, Any], tenant_id: str) -> Artifact:
        return Artifact.new(attrs, id=new_id(ids.ARTIFACT), tenant_id=tenant_id, now=self._clock.now())

    async def _rows(self, query: sa.Select[Any]) -> list[Mapping[str, Any]]:
        with _failures(ErrorCode.QUERY_ERROR):
            async with asyncio.timeout(ANSWER_TIMEOUT_S), self._engine.connect() as connection:
                return [dict(row) for row in (await connection.execute(query)).mappings()]

    @asynccontextmanager
    async def _writing(self, artifact: Artifact) -> AsyncIterator[AsyncConnection]:
        """Writers of one key take turns: the second of two that replace it at once must see the row of the first."""
        try:
            async with self._transaction() as connection:
                if self._engine.dialect.name == "postgresql":  # SQLite has one writer at a time anyway
                    turn = sa.func.pg_advisory_xact_lock(
                        sa.func.hashtext(artifact.tenant_id), sa.func.hashtext(artifact.key)
                    )
                    await connection.execute(sa.select(turn))
                yield connection
        except sa.exc.IntegrityError as cause:
            message = f"there is an artifact {artifact.key!r} or {artifact.id} already"
            details = {"key": artifact.key, "id": artifact.id}
            raise AsmError(ErrorCode.ALREADY_EXISTS, message, details=details) from cause

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncConnection]:
        with _failures(ErrorCode.PERSISTENCE_ERROR):
            async with asyncio.timeout(ANSWER_TIMEOUT_S), self._engine.connect() as connection:
                await connection.execution_options(isolation_level=_ISOLATION[self._engine.dialect.name])
                async with connection.begin():
                    yield connection


def _of_tenant(tenant_id: str) -> sa.Select[Any]:
    return sa.select(artifacts).where(artifacts.c.tenant_id == require_storable("tenant_id", tenant_id))


def _insert(artifact: Artifact) -> sa.Insert:
    return sa.insert(artifacts).values(asdict(artifact))


def _hide(key: str, tenant_id: str, now: datetime) -> sa.Update:
    row = (artifacts.c.tenant_id == tenant_id) & (artifacts.c.key == key) & _live
    return sa.update(artifacts).where(row).values(deleted_at=now)


def _artifact_of(row: Mapping[str, Any]) -> Artifact:
    """SQLite gives its times without a zone: they are UTC."""
    deleted_at = row["deleted_at"]
    times = {
        "created_at": parse_datetime(row["created_at"]),
        "deleted_at": parse_datetime(deleted_at) if deleted_at is not None else None,
    }
    return Artifact(**dict(row) | times)


@contextmanager
def _failures(otherwise: ErrorCode) -> Iterator[None]:
    """
    Drivers' failures as AsmErrors, without the statement and its values.

    Raises:
        AsmError: `storage_connection_failed`, `migration_required`, `validation_error`, `otherwise`.
    """
    try:
        yield
    except sa.exc.IntegrityError:
        raise  # says which rule was broken; the caller knows what it means
    except TimeoutError as cause:
        raise AsmError(ErrorCode.STORAGE_CONNECTION_FAILED, "the registry did not answer in time") from cause
    except sa.exc.DBAPIError as cause:
        code, name = _code_of(cause, otherwise), type(cause.orig).__name__
        raise AsmError(code, f"the artifact registry failed ({name})") from cause
    except (sa.exc.TimeoutError, OSError) as cause:
        message = f"the artifact registry cannot be reached ({type(cause).__name__})"
        raise AsmError(ErrorCode.STORAGE_CONNECTION_FAILED, message) from cause
    except sa.exc.SQLAlchemyError as cause:
        raise AsmError(otherwise, f"the artifact registry failed ({type(cause).__name__})") from cause


def _code_of(cause: sa.exc.DBAPIError, otherwise: ErrorCode) -> ErrorCode:
    if getattr(cause.orig, "sqlstate", None) in _SCHEMA_MISSING or str(cause.orig).startswith("no such table"):
        return ErrorCode.MIGRATION_REQUIRED
    if sqlite := getattr(cause.orig, "sqlite_errorname", ""):
        return ErrorCode.STORAGE_CONNECTION_FAILED if sqlite.startswith(_SQLITE_UNREACHABLE) else otherwise
    if isinstance(cause, sa.exc.DataError):
        return ErrorCode.VALIDATION_ERROR
    if isinstance(cause, sa.exc.OperationalError | sa.exc.InterfaceError):
        return ErrorCode.STORAGE_CONNECTION_FAILED
    return otherwise

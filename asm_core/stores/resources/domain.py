"""The application's domain: its models of the five resources, and its database."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.fields import parse_datetime
from asm_core.domain.session import DEFAULT_TENANT
from asm_core.stores.resources.actions import Call, Identity, Perform
from asm_core.stores.resources.admission import admitted
from asm_core.stores.resources.models import READY_MADE, Resource, kind_of
from asm_core.stores.resources.substitution import Substitution
from asm_core.stores.sql import writes
from asm_core.stores.sql.dialect import dialect_of
from asm_core.stores.sql.transactions import in_transaction, mapped_errors

READ_LIMIT = 1_000
"""Records that a `read` gives; whoever wants more, or another order, selects."""

MAX_ALLOCATED = 1_000_000
"""Numbers at once."""

R = TypeVar("R", bound=Resource)


class Domain:
    """
    Args:
        session_factory: `async_sessionmaker(engine)`, or anything else that opens sessions on one async engine.
        resources: the application's models; where none is named, the ready-made one stands.

    Raises:
        AsmError: `validation_error` for what is no model of a resource, two models of one resource, or sessions that
            are not bound to an async engine.

    Source: spec/02 §11.
    """

    def __init__(self, session_factory: Callable[[], AsyncSession], resources: Sequence[type[Resource]] = ()) -> None:
        self.session_factory = session_factory
        self.models = _models(resources)
        """Mixin to model."""
        given = _engine_of(session_factory)
        self._substitution = Substitution(
            {model.stock: model.__table__ for model in self.models.values() if model.__table__ is not model.stock}
        )
        self.engine = self._substitution.of(given)
        """What the three stores work on."""
        self._dialect = dialect_of(given)

    async def act(
        self,
        resource: type[R],
        action: str,
        attributes: Mapping[str, Any] | None = None,
        *,
        tenant_id: str = DEFAULT_TENANT,
        on: AsyncSession | None = None,
    ) -> list[R]:
        """
        One of the resource's `actions`, by name.

        Args:
            attributes: those that the action takes, by their columns' names. What names the record (`identities`)
                stands among them.
            on: a session of the application's, whose transaction this becomes a part of; one of its own when omitted.

        Returns:
            The records it has made, changed or found, loaded; none after `destroy`.

        Raises:
            AsmError: `validation_error`, `invalid_status`, `invalid_event_type`; `already_exists`,
                `session_not_found`, `invalid_transition`, `invalid_operation`; as `in_transaction`.
        """
        if resource not in self.models.values():
            message = f"{getattr(resource, '__name__', resource)} is no resource of this domain"
            raise AsmError(ErrorCode.VALIDATION_ERROR, message, details={"field": "resource"})
        chosen, given = admitted(resource, action, attributes or {})
        if chosen.perform is None:
            return await self._read(resource, given, tenant_id, on)
        call = partial(self._perform, resource=resource, perform=chosen.perform, given=given, tenant_id=tenant_id)
        named = await in_transaction(self.engine, call) if on is None else await self._perform_on(on, call)
        return [] if named is None else await self._read(resource, named, tenant_id, on)

    async def _perform_on(
        self, session: AsyncSession, call: Callable[[AsyncConnection], Awaitable[Identity | None]]
    ) -> Identity | None:
        with mapped_errors():
            await session.flush()
            connection = await session.connection()
            with self._substitution.on(connection):
                return await call(connection)

    async def _perform(
        self,
        connection: AsyncConnection,
        *,
        resource: type[Resource],
        perform: Perform,
        given: Mapping[str, Any],
        tenant_id: str,
    ) -> Identity | None:
        now = parse_datetime(await connection.scalar(sa.select(self._dialect.now())))
        return await perform(
            Call(
                connection=connection,
                dialect=self._dialect,
                table=resource.__table__,
                stock=resource.stock,
                tenant_id=tenant_id,
                attributes=given,
                now=now,
            )
        )

    async def _read(
        self, resource: type[R], where: Mapping[str, Any], tenant_id: str, on: AsyncSession | None
    ) -> list[R]:
        columns = resource.__table__.c
        matching = (columns[name] == value for name, value in where.items())
        query = sa.select(resource).where(columns.tenant_id == tenant_id, *matching)
        query = query.order_by(*(columns[name] for name in resource.identities[0])).limit(READ_LIMIT)
        with mapped_errors():
            async with nullcontext(on) if on is not None else self.session_factory() as session:
                return list(await session.scalars(query.execution_options(populate_existing=True)))


async def allocate(
    conn: AsyncConnection | AsyncSession, session_id: str, n: int = 1, *, tenant_id: str = DEFAULT_TENANT
) -> int:
    """
    Sequence numbers of a session, in the caller's transaction: nobody else gets them, nor any between.

    Args:
        n: how many, up to `MAX_ALLOCATED`. Each must become an event (`create`) before the commit: a log has no gaps.

    Returns:
        The first of them.

    Raises:
        AsmError: `validation_error`, `session_not_found` (it is another tenant's); as `with_connection`.
    """
    _require_count(n)
    with mapped_errors():
        connection = await conn.connection() if isinstance(conn, AsyncSession) else conn
        return await writes.allocate(connection, dialect_of(connection.engine), session_id, tenant_id, n)


def _require_count(n: object) -> None:
    if not isinstance(n, int) or isinstance(n, bool) or not 1 <= n <= MAX_ALLOCATED:
        message = f"n must be an integer from 1 to {MAX_ALLOCATED}, not {n!r}"
        raise AsmError(ErrorCode.VALIDATION_ERROR, message, details={"field": "n"})


def _models(resources: Sequence[type[Resource]]) -> Mapping[type[Resource], type[Resource]]:
    given: dict[type[Resource], type[Resource]] = {}
    for model in resources:
        if given.setdefault(kind_of(model), model) is not model:
            message = f"{given[kind_of(model)].__name__} and {model.__name__} are models of one resource"
            raise AsmError(ErrorCode.VALIDATION_ERROR, message, details={"field": "resources"})
    return {**READY_MADE, **given}


def _engine_of(session_factory: Any) -> AsyncEngine:
    engine = getattr(session_factory() if callable(session_factory) else None, "bind", None)
    if not isinstance(engine, AsyncEngine):
        message = "a domain needs a factory of sessions on an async engine: async_sessionmaker(engine)"
        raise AsmError(ErrorCode.VALIDATION_ERROR, message, details={"field": "session_factory"})
    return engine

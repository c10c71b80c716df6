"""
The five resources. Each is a mixin and, made of it, a model that is ready to use.

The ready-made models are mapped onto the tables of `stores/sql/tables.py` themselves. An application that wants more
columns mixes the same into a class on its own declarative base: its table has our columns, derived from ours, and its
own beside them. Relations find their other end in the same registry first, else among the ready-made models. The
database knows no foreign keys here, so relations are for reading; they never leave the tenant.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, ClassVar, TypeVar

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncAttrs
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    MappedColumn,
    Relationship,
    column_property,
    declared_attr,
    foreign,
    mapped_column,
    relationship,
)

from asm_core.domain.artifact import Artifact as ArtifactRecord
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import Event as EventRecord
from asm_core.domain.run import Run as RunRecord
from asm_core.domain.session import Session as SessionRecord
from asm_core.stores.resources import actions
from asm_core.stores.resources.actions import Action
from asm_core.stores.sql import tables
from asm_core.stores.sql.convert import event_of, run_of, session_of

M = TypeVar("M", bound="Resource")

Json = dict[str, Any]


def _like(column: sa.Column[Any]) -> MappedColumn[Any]:
    return mapped_column(
        column.name,
        column.type,
        primary_key=column.primary_key,
        nullable=column.nullable,
        server_default=column.server_default,
    )


def _itself(table: sa.Table, name: str) -> Any:
    """The column of a table that is there already, for an attribute of another name."""
    return table.c[name]


class Resource:
    """What all resources have. Attributes are named after the columns; `metadata_` is the column `metadata`."""

    stock: ClassVar[sa.Table]
    """Our own table of this resource."""
    identities: ClassVar[Sequence[tuple[str, ...]]]
    """Columns that name one record of a tenant; the first is the order in which `read` gives them."""
    actions: ClassVar[Mapping[str, Action]]

    __table__: ClassVar[Any]
    """A `sqlalchemy.Table`, as the declarative base has made or found it."""

    tenant_id: Mapped[str]

    @classmethod
    def extras(cls) -> frozenset[str]:
        """Columns that the application has added."""
        return frozenset(cls.__table__.c.keys()) - frozenset(cls.stock.c.keys())

    def attributes(self) -> Json:
        """Column to value, those of the application included."""
        mapper = sa.inspect(type(self))
        return {
            column.name: getattr(self, mapper.get_property_by_column(column).key) for column in type(self).__table__.c
        }


class SessionMixin(Resource):
    __tablename__ = "asm_sessions"
    stock = tables.sessions
    identities = (("id",),)
    actions = actions.SESSION

    id: Mapped[str] = _like(stock.c.id)
    tenant_id: Mapped[str] = _like(stock.c.tenant_id)
    agent_id: Mapped[str] = _like(stock.c.agent_id)
    status: Mapped[str] = _like(stock.c.status)
    parent_session_id: Mapped[str | None] = _like(stock.c.parent_session_id)
    provider: Mapped[str | None] = _like(stock.c.provider)
    model: Mapped[str | None] = _like(stock.c.model)
    metadata_: Mapped[Json] = _like(stock.c["metadata"])
    context: Mapped[Json] = _like(stock.c.context)
    tags: Mapped[list[str]] = _like(stock.c.tags)
    created_at: Mapped[datetime] = _like(stock.c.created_at)
    updated_at: Mapped[datetime] = _like(stock.c.updated_at)
    deleted_at: Mapped[datetime | None] = _like(stock.c.deleted_at)
    forked_at: Mapped[int | None] = _like(stock.c.forked_at)

    @declared_attr
    def max_concurrent_runs(cls) -> Mapped[int]:
        """Of its queue, which has a row of its own."""
        return column_property(_bound(cls, "max_concurrent_runs"))

    @declared_attr
    def max_queued_runs(cls) -> Mapped[int]:
        return column_property(_bound(cls, "max_queued_runs"))

    @declared_attr
    def runs(cls) -> Mapped[list[Run]]:
        return _of_session(cls, RunMixin, "created_at", "id")

    @declared_attr
    def events(cls) -> Mapped[list[Event]]:
        """Its own; those that a fork's log begins with stay with the session that wrote them."""
        return _of_session(cls, EventMixin, "sequence_number")

    @declared_attr
    def artifacts(cls) -> Mapped[list[Artifact]]:
        return _of_session(cls, ArtifactMixin, "created_at", "id")

    @declared_attr
    def sequence(cls) -> Mapped[SessionSequence | None]:
        return _of_session(cls, SessionSequenceMixin, uselist=False)

    def to_record(self) -> SessionRecord:
        bounds = {name: getattr(self, name) for name in ("max_concurrent_runs", "max_queued_runs")}
        return session_of(self.attributes() | {name: bound for name, bound in bounds.items() if bound is not None})


class RunMixin(Resource):
    __tablename__ = "asm_runs"
    stock = tables.runs
    identities = (("id",),)
    actions = actions.RUN

    id: Mapped[str] = _like(stock.c.id)
    tenant_id: Mapped[str] = _like(stock.c.tenant_id)
    session_id: Mapped[str] = _like(stock.c.session_id)
    status: Mapped[str] = _like(stock.c.status)
    input: Mapped[Json | None] = _like(stock.c.input)
    output: Mapped[Json | None] = _like(stock.c.output)
    error: Mapped[Json | None] = _like(stock.c.error)
    metadata_: Mapped[Json] = _like(stock.c["metadata"])
    turn_count: Mapped[int] = _like(stock.c.turn_count)
    token_usage: Mapped[Json] = _like(stock.c.token_usage)
    attempt: Mapped[int] = _like(stock.c.attempt)
    fence: Mapped[int | None] = _like(stock.c.fence)
    created_at: Mapped[datetime] = _like(stock.c.created_at)
    started_at: Mapped[datetime | None] = _like(stock.c.started_at)
    ended_at: Mapped[datetime | None] = _like(stock.c.ended_at)
    provider: Mapped[str | None] = _like(stock.c.provider)
    provider_metadata: Mapped[Json] = _like(stock.c.provider_metadata)
    cost_usd: Mapped[Decimal | None] = _like(stock.c.cost_usd)
    options: Mapped[Json] = _like(stock.c.options)
    submit_seq: Mapped[int | None] = _like(stock.c.submit_seq)
    claims: Mapped[int] = _like(stock.c.claims)
    first_fence: Mapped[int | None] = _like(stock.c.first_fence)
    claimed_at: Mapped[datetime | None] = _like(stock.c.claimed_at)
    queue_deadline_at: Mapped[datetime | None] = _like(stock.c.queue_deadline_at)
    deadline_at: Mapped[datetime | None] = _like(stock.c.deadline_at)
    cancel_requested_at: Mapped[datetime | None] = _like(stock.c.cancel_requested_at)
    cancel_kind: Mapped[str | None] = _like(stock.c.cancel_kind)
    worker_id: Mapped[str | None] = _like(stock.c.worker_id)
    owns_session: Mapped[bool] = _like(stock.c.owns_session)
    pruned_usage: Mapped[Json | None] = _like(stock.c.pruned_usage)

    @declared_attr
    def session(cls) -> Mapped[Session | None]:
        return _to_one(cls, SessionMixin, "session_id")

    def to_record(self) -> RunRecord:
        """Its place in the queue aside, which other rows decide."""
        return run_of(self.attributes())


class EventMixin(Resource):
    __tablename__ = "asm_events"
    stock = tables.events
    identities = (("session_id", "sequence_number"), ("id",))
    actions = actions.EVENT

    id: Mapped[str] = _like(stock.c.id)
    tenant_id: Mapped[str] = _like(stock.c.tenant_id)
    type: Mapped[str] = _like(stock.c.type)
    timestamp: Mapped[datetime] = _like(stock.c.timestamp)
    session_id: Mapped[str] = _like(stock.c.session_id)
    run_id: Mapped[str | None] = _like(stock.c.run_id)
    fence: Mapped[int | None] = _like(stock.c.fence)
    attempt: Mapped[int | None] = _like(stock.c.attempt)
    sequence_number: Mapped[int] = _like(stock.c.sequence_number)
    data: Mapped[Json] = _like(stock.c.data)
    metadata_: Mapped[Json] = _like(stock.c["metadata"])
    schema_version: Mapped[int] = _like(stock.c.schema_version)
    provider: Mapped[str | None] = _like(stock.c.provider)
    correlation_id: Mapped[str | None] = _like(stock.c.correlation_id)
    stored_at: Mapped[datetime] = _like(stock.c.stored_at)

    @declared_attr
    def session(cls) -> Mapped[Session | None]:
        return _to_one(cls, SessionMixin, "session_id")

    @declared_attr
    def run(cls) -> Mapped[Run | None]:
        return _to_one(cls, RunMixin, "run_id")

    def to_record(self) -> EventRecord:
        return event_of(self.attributes())


class SessionSequenceMixin(Resource):
    __tablename__ = "asm_session_sequences"
    stock = tables.session_sequences
    identities = (("session_id",),)
    actions = actions.SESSION_SEQUENCE

    session_id: Mapped[str] = _like(stock.c.session_id)
    tenant_id: Mapped[str] = _like(stock.c.tenant_id)
    last_sequence: Mapped[int] = _like(stock.c.last_sequence)
    updated_at: Mapped[datetime | None] = _like(stock.c.updated_at)
    pruned_count: Mapped[int] = _like(stock.c.pruned_count)

    @declared_attr
    def session(cls) -> Mapped[Session | None]:
        return _to_one(cls, SessionMixin, "session_id")


class ArtifactMixin(Resource):
    __tablename__ = "asm_artifacts"
    stock = tables.artifacts
    identities = (("id",), ("key",))
    actions = actions.ARTIFACT

    id: Mapped[str] = _like(stock.c.id)
    tenant_id: Mapped[str] = _like(stock.c.tenant_id)
    session_id: Mapped[str | None] = _like(stock.c.session_id)
    run_id: Mapped[str | None] = _like(stock.c.run_id)
    fence: Mapped[int | None] = _like(stock.c.fence)
    key: Mapped[str] = _like(stock.c.key)
    content_type: Mapped[str | None] = _like(stock.c.content_type)
    byte_size: Mapped[int] = _like(stock.c.byte_size)
    checksum_sha256: Mapped[str] = _like(stock.c.checksum_sha256)
    storage_backend: Mapped[str] = _like(stock.c.storage_backend)
    storage_ref: Mapped[str] = _like(stock.c.storage_ref)
    metadata_: Mapped[Json] = _like(stock.c["metadata"])
    created_at: Mapped[datetime] = _like(stock.c.created_at)
    deleted_at: Mapped[datetime | None] = _like(stock.c.deleted_at)

    @declared_attr
    def session(cls) -> Mapped[Session | None]:
        return _to_one(cls, SessionMixin, "session_id")

    @declared_attr
    def run(cls) -> Mapped[Run | None]:
        return _to_one(cls, RunMixin, "run_id")

    def to_record(self) -> ArtifactRecord:
        own = {name: value for name, value in self.attributes().items() if name not in self.extras()}
        return ArtifactRecord(**own | {"metadata": own["metadata"] or {}})


def _bound(cls: Any, name: str) -> sa.ScalarSelect[int]:
    key = cls.__table__.c.id if "__table__" in vars(cls) else cls.id
    runtime = tables.session_runtime
    return sa.select(runtime.c[name]).where(runtime.c.session_id == key).scalar_subquery()


def _of_session(cls: Any, kind: type[Resource], *order: str, uselist: bool = True) -> Relationship[Any]:
    """What carries the id of a session."""

    def owned() -> sa.ColumnElement[bool]:
        other: Any = _peer(cls, kind)
        return sa.and_(cls.id == foreign(other.session_id), cls.tenant_id == foreign(other.tenant_id))

    def in_order() -> list[Any]:
        return [getattr(_peer(cls, kind), name) for name in order]

    sorting: Any = in_order if order else False
    return relationship(lambda: _peer(cls, kind), primaryjoin=owned, viewonly=True, uselist=uselist, order_by=sorting)


def _to_one(cls: Any, kind: type[Resource], name: str) -> Relationship[Any]:
    """The record that the column names."""

    def owner() -> sa.ColumnElement[bool]:
        other: Any = _peer(cls, kind)
        return sa.and_(other.id == foreign(getattr(cls, name)), other.tenant_id == foreign(cls.tenant_id))

    return relationship(lambda: _peer(cls, kind), primaryjoin=owner, viewonly=True, uselist=False)


def _peer(cls: Any, kind: type[Resource]) -> type[Any]:
    """The model of a kind that a model is related to."""
    mappers = (mapper for mapper in cls.registry.mappers if issubclass(mapper.class_, kind))
    own = [mapper.class_ for mapper in mappers if mapper.inherits is None]
    if len(own) > 1:
        raise AsmError(ErrorCode.VALIDATION_ERROR, f"one registry has several models of {kind.__name__}")
    return own[0] if own else READY_MADE[kind]


def _refuse_columns(cls: Any) -> None:
    """A subclass of a ready-made model shares its table, and the table belongs to every store in this process."""
    mapped = [base for base in cls.__mro__[1:] if "__mapper__" in vars(base)]
    added = [name for name, value in vars(cls).items() if isinstance(value, sa.Column | MappedColumn)]
    added += [name for name in inspect.get_annotations(cls) if name not in vars(cls)]
    if mapped and added:
        mixin = kind_of(mapped[0]).__name__
        message = f"{cls.__name__} adds {added[0]} to {mapped[0].__name__}: mix {mixin} into a class on your own base"
        raise AsmError(ErrorCode.VALIDATION_ERROR, message, details={"field": added[0]})


class Base(AsyncAttrs, DeclarativeBase):
    """Of the ready-made models."""

    metadata = tables.metadata

    def __init_subclass__(cls, **options: Any) -> None:
        _refuse_columns(cls)
        super().__init_subclass__(**options)


class Session(SessionMixin, Base):
    __table__ = SessionMixin.stock
    metadata_ = _itself(__table__, "metadata")


class Run(RunMixin, Base):
    __table__ = RunMixin.stock
    metadata_ = _itself(__table__, "metadata")


class Event(EventMixin, Base):
    __table__ = EventMixin.stock
    metadata_ = _itself(__table__, "metadata")


class SessionSequence(SessionSequenceMixin, Base):
    __table__ = SessionSequenceMixin.stock


class Artifact(ArtifactMixin, Base):
    __table__ = ArtifactMixin.stock
    metadata_ = _itself(__table__, "metadata")


READY_MADE: Mapping[type[Resource], type[Resource]] = {
    SessionMixin: Session,
    RunMixin: Run,
    EventMixin: Event,
    SessionSequenceMixin: SessionSequence,
    ArtifactMixin: Artifact,
}


def kind_of(model: object) -> type[Resource]:
    """Its mixin. Raises AsmError `validation_error` when it is no model of a resource."""
    if isinstance(model, type) and hasattr(model, "__mapper__"):
        for mixin in READY_MADE:
            if issubclass(model, mixin):
                return mixin
    raise AsmError(ErrorCode.VALIDATION_ERROR, f"not a model of a resource: {model!r}", details={"field": "resource"})

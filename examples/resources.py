"""The records in an application's own ORM: a column more, a relation, actions, and the stores on its models."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from _common import claim, main, temporary_folder
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, foreign, mapped_column, relationship, selectinload

from asm_core import ScriptedAdapter, open_manager
from asm_core.domain.retention import RetentionPolicy
from asm_core.ports.query import SessionSearch
from asm_core.resources import (
    Domain,
    Event,
    ResourceMaintenance,
    ResourceQueryAPI,
    ResourceSessionStore,
    SessionMixin,
)


class Base(DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "customers"
    name: Mapped[str] = mapped_column(primary_key=True)


class AgentSession(SessionMixin, Base):
    customer_name: Mapped[str | None] = mapped_column(default="nobody")
    customer: Mapped[Customer | None] = relationship(
        primaryjoin=lambda: foreign(AgentSession.customer_name) == Customer.name, viewonly=True
    )


async def example() -> None:
    with temporary_folder() as folder:
        await live_with_it(folder / "asm.db")


async def live_with_it(path: Path) -> None:
    async with open_manager(f"sqlite:///{path}", ScriptedAdapter()) as manager:
        result = await manager.run_once({"prompt": "Hello"})
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
    async with engine.begin() as connection:  # the application's own migration
        await connection.execute(sa.text("ALTER TABLE asm_sessions ADD COLUMN customer_name text"))
        await connection.run_sync(lambda inner: Base.metadata.create_all(inner, [Base.metadata.tables["customers"]]))

    factory = async_sessionmaker(engine, expire_on_commit=False)
    domain = Domain(factory, [AgentSession])
    async with factory.begin() as db:
        db.add(Customer(name="acme"))
        named = {"id": result.session_id, "agent_id": "writer", "customer_name": "acme"}
        await domain.act(AgentSession, "upsert", named, on=db)
    async with factory() as db:
        query = sa.select(AgentSession).options(selectinload(AgentSession.customer), selectinload(AgentSession.events))
        session = (await db.scalars(query)).one()
        claim("a session has its customer", session.customer is not None and session.customer.name == "acme")
        log = list(await db.scalars(sa.select(Event).order_by(Event.sequence_number)))
        claim("its events are the log", [event.id for event in session.events] == [event.id for event in log])

    store = ResourceSessionStore(domain)
    record = await store.get_session(result.session_id, "default")
    claim("the store reads the same session", record == session.to_record())
    await store.save_session(record)
    [kept] = await domain.act(AgentSession, "read", {"customer_name": "acme"})
    claim("what the store writes leaves the customer", kept.id == record.id)
    found = await ResourceQueryAPI(domain).search_sessions("default", SessionSearch(agent_id="writer"))
    claim("queries find it", found.items == [record])
    report = await ResourceMaintenance(domain).execute(RetentionPolicy(), "default")
    claim("maintenance has nothing to do", report.errors == [] and report.sessions_soft_deleted == 0)
    await engine.dispose()


if __name__ == "__main__":
    main(example)

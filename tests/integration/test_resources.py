"""
The records in a domain of the application's own, on both databases. R numbers are those of spec/02 §11.

That the three stores over a domain answer as those over the tables do is shown where those are tested:
`conformance/test_session_store.py`, `test_query.py`, `test_maintenance.py`.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Mapped, configure_mappers, mapped_column, selectinload, sessionmaker

from asm_core.domain.artifact import Artifact as ArtifactRecord
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import EventType
from asm_core.domain.lifecycle import RunStatus
from asm_core.domain.retention import RetentionPolicy
from asm_core.ports.query import EventSearch, RunSearch, SessionSearch
from asm_core.ports.store import EventFilter
from asm_core.resources import (
    Artifact,
    Domain,
    Event,
    ResourceMaintenance,
    ResourceQueryAPI,
    ResourceSessionStore,
    Run,
    Session,
    SessionMixin,
    SessionSequence,
    allocate,
    attributes_of,
)
from asm_core.stores.sql import tables
from asm_core.stores.sql.engine import open_engine, open_sqlite, sqlalchemy_url, sqlite_url
from asm_core.stores.sql.migrate import migrate
from asm_core.stores.sql.rows import run_row
from asm_core.stores.sql.store import SqlSessionStore
from asm_core.stores.sql.transactions import in_transaction
from tests.builders import NOW, a_run, a_session, an_event
from tests.fixtures.resources import UNASSIGNED, AppEvent, AppRun, AppSession, Base, Project, extended_domain

DAY = timedelta(days=1)
AN_EVENT = {"id": "evt_1", "type": "message_received", "session_id": "ses_1"}
AN_ARTIFACT = {
    "key": "k", "byte_size": 1, "checksum_sha256": "0" * 64, "storage_backend": "file", "storage_ref": "r",
}  # fmt: skip


@pytest.fixture(scope="module")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    migrate(sqlite_url(path))
    return path


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest) -> str:
    """Of a migrated database, as an application without our engines would write it."""
    if request.param == "postgres":
        return sqlalchemy_url(request.getfixturevalue("database_url"))
    path = request.getfixturevalue("tmp_path") / "asm.db"
    shutil.copy(request.getfixturevalue("sqlite_template"), path)
    return sqlite_url(path).replace("sqlite:", "sqlite+aiosqlite:")


@pytest.fixture
async def engine(url: str) -> AsyncIterator[AsyncEngine]:
    path = sa.make_url(url).database or ""
    opened = open_sqlite(path) if url.startswith("sqlite") else open_engine(url, application_name="test")
    yield opened
    await opened.dispose()


@pytest.fixture
def domain(engine: AsyncEngine) -> Domain:
    return Domain(async_sessionmaker(engine, expire_on_commit=False))


async def refusal(step: Any) -> AsmError:
    with pytest.raises(AsmError) as caught:
        await step
    return caught.value


# R1, R2, R3, R9: the models


@pytest.mark.parametrize(
    ("model", "name", "identity"),
    [
        (Session, "sessions", ("id",)),
        (Run, "runs", ("id",)),
        (Event, "events", ("session_id", "sequence_number")),
        (SessionSequence, "session_sequences", ("session_id",)),
        (Artifact, "artifacts", ("key",)),
    ],
)
def test_five_models_stand_on_the_very_tables(model: Any, name: str, identity: tuple[str, ...]) -> None:
    """Checks 162, 163; every column is an attribute."""
    assert model.__table__ is tables.metadata.tables[f"asm_{name}"]
    assert identity in model.identities
    annotated = {key.rstrip("_") for base in model.__mro__ for key in vars(base).get("__annotations__", ())}
    assert annotated >= set(model.__table__.c.keys()), "so has the mixin"


async def filled(domain: Domain) -> None:
    """A session with a run, two events and an artifact; and what another tenant has put under the same session id."""
    store = ResourceSessionStore(domain)
    run = a_run(id="run_1")
    await store.flush(a_session(id="ses_1"), run, [an_event(id=f"evt_{n}", run_id="run_1") for n in (1, 2)])
    await domain.act(Artifact, "create", AN_ARTIFACT | {"session_id": "ses_1", "run_id": "run_1"})
    async with domain.session_factory() as db:  # past the stores, which refuse it
        await db.execute(sa.insert(Run.__table__).values(run_row(replace(run, id="run_other", tenant_id="other"))))
        await db.commit()


async def test_resources_are_related_and_joined(domain: Domain) -> None:
    """R2, R9: through the application's own sessions; a relation never leaves the tenant."""
    await filled(domain)
    async with domain.session_factory() as db:
        everything = selectinload(Session.runs), selectinload(Session.artifacts), selectinload(Session.sequence)
        session = (await db.scalars(sa.select(Session).options(*everything))).one()
        assert [run.id for run in session.runs] == ["run_1"]
        assert [event.id for event in await session.awaitable_attrs.events] == ["evt_1", "evt_2"]
        assert [artifact.key for artifact in session.artifacts] == ["k"]
        assert session.sequence is not None
        assert session.sequence.last_sequence == 2
        assert await session.sequence.awaitable_attrs.session is session
        for resource in (Event, Artifact):
            [found, *_] = await db.scalars(sa.select(resource))
            assert await found.awaitable_attrs.session is session
            assert await found.awaitable_attrs.run is session.runs[0]
        assert await session.runs[0].awaitable_attrs.session is session
        joined = sa.select(Session.agent_id, Event.sequence_number).join(Session.events)
        assert (await db.execute(joined.order_by(Event.sequence_number))).all() == [("tester", 1), ("tester", 2)]
        ordered = sa.select(Event).where(Event.session_id == "ses_1").order_by(Event.sequence_number)
        assert [event.to_record().sequence_number for event in await db.scalars(ordered)] == [1, 2]
        foreign = (await db.scalars(sa.select(Run).where(Run.id == "run_other"))).one()
        assert await foreign.awaitable_attrs.session is None


def test_relations_are_for_reading() -> None:
    """R2: nothing is written through them."""
    configure_mappers()
    for model in (Session, Run, Event, SessionSequence, Artifact, AppSession, AppRun, AppEvent):
        assert all(relation.viewonly for relation in sa.inspect(model).relationships)


async def test_a_record_goes_through_attributes_and_back(domain: Domain) -> None:
    """Checks 166, 167."""
    session = a_session(id="ses_1", tags=("a",), metadata={"k": {"deep": [1]}}, max_queued_runs=7, model="m")
    run = a_run(RunStatus.COMPLETED, session_id="ses_1", cost_usd=0.5, output={"content": "x"}, attempt=2)
    event = an_event(EventType.TURN_COMPLETED, session_id="ses_1", data={"n": None}, sequence_number=3)
    artifact = ArtifactRecord.new(AN_ARTIFACT, id="art_1", tenant_id="default", now=NOW)
    for resource, action, record in ((Session, "create", session), (Run, "upsert", run), (Event, "create", event)):
        [stored] = await domain.act(resource, action, attributes_of(record))
        assert stored.to_record() == record
    [kept] = await domain.act(Artifact, "create", attributes_of(artifact))
    assert replace(kept.to_record(), created_at=NOW) == artifact
    bare = Session(id="s", tenant_id="default", agent_id="a", status="paused", created_at=NOW, updated_at=NOW)
    told = bare.to_record()
    assert (told.status, told.metadata, told.context, told.tags) == ("paused", {}, {}, ())
    with pytest.raises(AsmError, match="a session, run, event or artifact is needed"):
        attributes_of({"id": "ses_1"})


# R4: actions


def test_actions_are_named() -> None:
    """Check 164."""
    named = {model.__name__: set(model.actions) for model in (Session, Run, Event, SessionSequence, Artifact)}
    assert named == {
        "Session": {"create", "upsert", "update", "soft_delete", "read", "destroy"},
        "Run": {"upsert", "read", "destroy"},
        "Event": {"create", "append_with_sequence", "read", "destroy"},
        "SessionSequence": {"upsert", "read"},
        "Artifact": {"create", "read", "destroy"},
    }


@pytest.mark.parametrize(
    ("resource", "action", "attributes", "field"),
    [
        (Session, "invent", {}, "action"),
        (Session, "create", {"id": "ses_1"}, "agent_id"),
        (Session, "create", {"id": "ses_1", "agent_id": "a", "tenant_id": "other"}, "tenant_id"),
        (Session, "create", {"id": "ses_1", "agent_id": "a", "metadata": [1]}, "metadata"),
        (Session, "create", {"id": "ses_1", "agent_id": "a", "max_queued_runs": "9"}, "max_queued_runs"),
        (Session, "update", {"id": "ses_1", "agent_id": "b"}, "agent_id"),
        (Session, "update", {"status": "paused"}, "id"),
        (Session, "soft_delete", {"id": "ses_1", "deleted_at": NOW}, "deleted_at"),
        (Run, "upsert", {"id": "run_1", "session_id": "ses_1", "fence": 1}, "fence"),
        (Run, "upsert", {"id": "run_1", "session_id": "ses_1", "submit_seq": 1}, "submit_seq"),
        (Run, "upsert", {"id": "run_1", "session_id": "ses_1", "options": {"no": 1}}, "options"),
        (Event, "append_with_sequence", AN_EVENT | {"sequence_number": 7}, "sequence_number"),
        (Event, "append_with_sequence", AN_EVENT | {"timestamp": datetime(2025, 1, 1)}, "timestamp"),
        (Session, "create", {"id": "ses_\ud800", "agent_id": "a"}, "id"),
        (Session, "create", {"id": "ses_1", "agent_id": None}, "agent_id"),
        (Event, "create", AN_EVENT, "sequence_number"),
        (Event, "create", AN_EVENT | {"sequence_number": None}, "sequence_number"),
        (Event, "create", AN_EVENT | {"sequence_number": 2**63}, "sequence_number"),
        (Event, "create", AN_EVENT | {"sequence_number": 0}, "sequence_number"),
        (Event, "read", {"data": {}}, "data"),
        (SessionSequence, "upsert", {"session_id": "ses_1", "pruned_count": 1}, "pruned_count"),
        (Artifact, "destroy", {"storage_ref": "r"}, "storage_ref"),
        (AppSession, "read", {}, "resource"),
    ],
)
async def test_an_action_takes_what_it_names_and_nothing_else(
    domain: Domain, resource: Any, action: str, attributes: dict[str, Any], field: str
) -> None:
    error = await refusal(domain.act(resource, action, attributes))
    assert (error.code, error.details.get("field")) == (ErrorCode.VALIDATION_ERROR, field)
    assert await domain.act(SessionSequence, "read") == []


async def test_a_session_is_made_changed_hidden_and_destroyed(domain: Domain) -> None:
    """What an upsert does not name stays; another tenant's session is not there, and its id is taken."""
    given = {"id": "ses_1", "agent_id": "a", "tags": ["t"], "max_concurrent_runs": 2}
    [made] = await domain.act(Session, "create", given)
    assert (await refusal(domain.act(Session, "create", given))).code is ErrorCode.ALREADY_EXISTS
    [changed] = await domain.act(Session, "upsert", {"id": "ses_1", "agent_id": "b"})
    assert changed.to_record() == replace(made.to_record(), agent_id="b", updated_at=changed.updated_at)
    [updated] = await domain.act(Session, "update", {"id": "ses_1", "status": "paused", "metadata": {"k": 1}})
    assert (updated.status, updated.metadata_, updated.tags) == ("paused", {"k": 1}, ["t"])
    assert (await refusal(domain.act(Session, "update", {"id": "ses_1", "status": "odd"}))).code is (
        ErrorCode.INVALID_STATUS
    )
    for action, attributes in (("update", {"status": "active"}), ("soft_delete", {})):
        step = domain.act(Session, action, {"id": "ses_1"} | attributes, tenant_id="other")
        assert (await refusal(step)).code is ErrorCode.SESSION_NOT_FOUND
    theirs = domain.act(Session, "upsert", {"id": "ses_1", "agent_id": "b"}, tenant_id="other")
    assert (await refusal(theirs)).code is ErrorCode.ALREADY_EXISTS
    [hidden] = await domain.act(Session, "soft_delete", {"id": "ses_1"})
    [again] = await domain.act(Session, "soft_delete", {"id": "ses_1"})
    assert hidden.deleted_at == again.deleted_at is not None
    for _ in range(2):
        assert await domain.act(Session, "destroy", {"id": "ses_1"}) == []
    assert await domain.act(Session, "read") == await domain.act(SessionSequence, "read") == []


async def test_a_run_is_saved_and_destroyed_when_nobody_counts_on_it(domain: Domain) -> None:
    run = {"id": "run_1", "session_id": "ses_1"}
    await domain.act(Run, "upsert", run | {"status": "completed", "options": {"provider": "claude"}})
    [mended] = await domain.act(Run, "upsert", run | {"metadata": {"mended": True}})
    assert (mended.status, mended.metadata_, mended.options["provider"]) == ("completed", {"mended": True}, "claude")
    revived = await refusal(domain.act(Run, "upsert", run | {"status": "running"}))
    assert revived.code is ErrorCode.INVALID_TRANSITION
    async with domain.engine.begin() as connection:
        await connection.execute(sa.insert(tables.runs).values(mended.attributes() | {
            "id": "run_2", "status": "pending", "submit_seq": 1,
        }))  # fmt: skip
    queued = await refusal(domain.act(Run, "destroy", {"id": "run_2"}))
    assert queued.code is ErrorCode.INVALID_OPERATION
    await domain.act(Run, "destroy", {"id": "run_1"}, tenant_id="other")
    assert [run.id for run in await domain.act(Run, "read", {"session_id": "ses_1"})] == ["run_1", "run_2"]
    await domain.act(Run, "destroy", {"id": "run_1"})
    assert [run.id for run in await domain.act(Run, "read", {"session_id": "ses_1"})] == ["run_2"]


async def test_events_are_numbered_or_bring_their_number(domain: Domain) -> None:
    """Check 165; a counter is never behind a number that was brought along."""
    [first] = await domain.act(Event, "append_with_sequence", AN_EVENT)
    [known] = await domain.act(Event, "append_with_sequence", AN_EVENT)
    assert first.sequence_number == known.sequence_number == 1
    await domain.act(Event, "create", AN_EVENT | {"id": "evt_2", "sequence_number": 2})
    for taken in ({"id": "evt_2", "sequence_number": 3}, {"id": "evt_3", "sequence_number": 2}):
        assert (await refusal(domain.act(Event, "create", AN_EVENT | taken))).code is ErrorCode.ALREADY_EXISTS
    [third] = await domain.act(Event, "append_with_sequence", AN_EVENT | {"id": "evt_3"})
    assert third.sequence_number == 3
    [counter] = await domain.act(SessionSequence, "upsert", {"session_id": "ses_1", "last_sequence": 1})
    assert counter.last_sequence == 3, "forwards only"
    other = await refusal(domain.act(Event, "append_with_sequence", AN_EVENT | {"id": "evt_4"}, tenant_id="other"))
    assert other.code is ErrorCode.SESSION_NOT_FOUND
    unknown = await refusal(domain.act(Event, "append_with_sequence", AN_EVENT | {"type": "odd"}))
    assert unknown.code is ErrorCode.INVALID_EVENT_TYPE


async def test_an_event_is_destroyed_as_if_pruned(domain: Domain) -> None:
    """Accounted for; never what a log needs, its newest event, or one of a session with work."""
    store = ResourceSessionStore(domain)
    kinds = (EventType.SESSION_CREATED, EventType.TOKEN_USAGE_UPDATED, EventType.MESSAGE_RECEIVED)
    log = [an_event(kind, id=f"evt_{kind}", run_id="run_1", data={"input_tokens": 5}) for kind in kinds]
    await store.flush(a_session(id="ses_1"), a_run(id="run_1"), log)
    step = domain.act(Event, "destroy", {"session_id": "ses_1", "sequence_number": 2})
    assert (await refusal(step)).code is ErrorCode.INVALID_OPERATION
    await store.save_run(a_run(RunStatus.COMPLETED, id="run_1"))
    for number in (1, 3):
        step = domain.act(Event, "destroy", {"session_id": "ses_1", "sequence_number": number})
        assert (await refusal(step)).code is ErrorCode.INVALID_OPERATION
    for _ in range(2):
        await domain.act(Event, "destroy", {"id": log[1].id})
    [run] = await domain.act(Run, "read")
    [counter] = await domain.act(SessionSequence, "read")
    assert (run.pruned_usage, counter.last_sequence, counter.pruned_count) == ({"input_tokens": 5}, 3, 1)
    assert [event.sequence_number for event in await domain.act(Event, "read")] == [1, 3]


async def test_the_key_of_a_destroyed_artifact_is_free_again(domain: Domain) -> None:
    [first] = await domain.act(Artifact, "create", AN_ARTIFACT)
    assert (await refusal(domain.act(Artifact, "create", AN_ARTIFACT))).code is ErrorCode.ALREADY_EXISTS
    await domain.act(Artifact, "destroy", {"key": "k"}, tenant_id="other")
    assert await domain.act(Artifact, "destroy", {"key": "k"}) == []
    [second] = await domain.act(Artifact, "create", AN_ARTIFACT)
    hidden = {artifact.id: artifact.deleted_at is not None for artifact in await domain.act(Artifact, "read")}
    assert hidden == {first.id: True, second.id: False}


# R5: numbers


async def test_numbers_are_given_out_in_a_row(engine: AsyncEngine) -> None:
    """Check 166: 1, 2, 3; then 3 and 2 of another session: 1, 4."""

    async def numbers(session_id: str, n: int = 1) -> int:
        return await in_transaction(engine, lambda connection: allocate(connection, session_id, n))

    assert [await numbers("a") for _ in range(3)] == [1, 2, 3]
    assert [await numbers("b", 3), await numbers("b", 2)] == [1, 4]
    assert sorted(await asyncio.gather(*(numbers("c") for _ in range(20)))) == [*range(1, 21)]
    for wrong in (0, True, "1", 10**9):
        assert (await refusal(numbers("a", wrong))).code is ErrorCode.VALIDATION_ERROR  # type: ignore[arg-type]
    other = in_transaction(engine, lambda connection: allocate(connection, "a", tenant_id="other"))
    assert (await refusal(other)).code is ErrorCode.SESSION_NOT_FOUND


async def test_an_action_can_be_part_of_the_applications_transaction(url: str) -> None:
    """On an engine of its own making; what is rolled back leaves nothing, not even a used number."""
    engine = create_async_engine(url)
    application = async_sessionmaker(engine, expire_on_commit=False)
    domain = Domain(application)
    async with application() as db:
        await domain.act(Session, "create", {"id": "ses_1", "agent_id": "a"}, on=db)
        assert await allocate(db, "ses_1") == 1
        await db.rollback()
    assert await domain.act(Session, "read") == []
    async with application.begin() as db:
        [session] = await domain.act(Session, "create", {"id": "ses_1", "agent_id": "a"}, on=db)
        assert session in db
        [event] = await domain.act(Event, "append_with_sequence", AN_EVENT, on=db)
        assert event.sequence_number == 1
        assert await domain.act(Event, "read", {"session_id": "ses_1"}, on=db) == [event]
    assert [session.id for session in await domain.act(Session, "read")] == ["ses_1"]
    store = ResourceSessionStore(domain)
    await store.append_events([an_event()], "default")
    await store.close()
    assert (await store.latest_sequences(["ses_1"])) == {"ses_1": 2}, "the engine is the application's"
    await engine.dispose()


# R6, R7, R8: the stores


async def test_either_side_reads_what_the_other_has_written(engine: AsyncEngine) -> None:
    """Check 170: a migration is another store, and nothing else."""
    here, there = SqlSessionStore(engine), ResourceSessionStore(await extended_domain(engine))
    for writer, reader, name in ((here, there, "a"), (there, here, "b")):
        session, run = a_session(id=f"ses_{name}", tags=("t",)), a_run(RunStatus.COMPLETED, session_id=f"ses_{name}")
        stored = await writer.flush(session, run, [an_event(session_id=session.id, run_id=run.id)])
        assert await reader.get_session(session.id, "default") == session
        assert await reader.get_run(run.id, "default") == run
        [frame] = await reader.get_events(session.id, "default", EventFilter(), 10)
        assert frame.sequence_number == stored[0].sequence_number == 1
        again = await reader.append_events([an_event(session_id=session.id)], "default")
        assert again[0].sequence_number == 2


async def test_columns_of_the_application_live_in_all_three_stores(engine: AsyncEngine) -> None:
    """Check 171: its defaults count when a store writes, and what it has written there itself stays."""
    domain = await extended_domain(engine)
    store, query, maintenance = ResourceSessionStore(domain), ResourceQueryAPI(domain), ResourceMaintenance(domain)
    session = a_session(id="ses_1")
    run = a_run(RunStatus.COMPLETED, id="run_1")
    await store.flush(session, run, [an_event(id=f"evt_{n}", run_id="run_1") for n in range(3)])
    async with domain.session_factory() as db:
        for model in (AppSession, AppRun, AppEvent):
            assert set(await db.scalars(sa.select(model.project))) == {UNASSIGNED}
    [assigned] = await domain.act(AppSession, "upsert", {"id": "ses_1", "agent_id": "tester", "project": "apollo"})
    assert (assigned.project, assigned.is_assigned) == ("apollo", True)
    [moved] = await domain.act(AppSession, "update", {"id": "ses_1", "project": "gemini"})
    [back] = await domain.act(AppSession, "update", {"id": "ses_1", "project": "apollo"})
    assert (moved.project, back.project) == ("gemini", "apollo")
    await domain.act(AppEvent, "append_with_sequence", AN_EVENT | {"id": "evt_3", "project": "apollo"})
    await store.save_session(session)

    async with domain.session_factory() as db:
        db.add(Project(name="apollo", owner="ada"))
        await db.flush()
        found = sa.select(AppSession).options(selectinload(AppSession.events), selectinload(AppSession.owned_by))
        [found] = await db.scalars(found.where(AppSession.is_assigned))
        assert [event.project for event in found.events] == [*[UNASSIGNED] * 3, "apollo"]
        assert {type(event) for event in found.events} == {AppEvent}
        assert found.owned_by is not None
        assert found.owned_by.owner == "ada"
    assert (await query.search_sessions("default", SessionSearch())).items == [session]
    assert len((await query.search_runs("default", RunSearch())).items) == 1
    assert await query.count_events("default", EventSearch()) == 4
    exported = await query.export_session("ses_1", "default")
    assert "project" not in exported.to_map()["session"], "what leaves is our record"
    policy = RetentionPolicy(exempt_statuses=(), max_events_per_session=2)
    report = await maintenance.execute(policy, "default", now=NOW + 100 * DAY)
    assert (report.sessions_soft_deleted, report.events_pruned, report.errors) == (1, 2, [])
    report = await maintenance.execute(policy, "default", now=NOW + 200 * DAY)
    assert (report.sessions_hard_deleted, await domain.act(AppEvent, "read")) == (1, [])


async def test_types_of_the_application_count_for_the_stores(engine: AsyncEngine) -> None:
    """R8: a column of ours that the application keeps in another form is written and read in that form."""

    class Sealed(sa.types.TypeDecorator[dict[str, Any]]):
        impl = sa.JSON
        cache_ok = True

        def process_bind_param(self, value: Any, dialect: sa.Dialect) -> Any:
            return {"sealed": value}

        def process_result_value(self, value: Any, dialect: sa.Dialect) -> Any:
            return value["sealed"]

    class Own(sa.orm.DeclarativeBase):
        pass

    class SealedSession(SessionMixin, Own):
        context: Mapped[dict[str, Any]] = mapped_column(Sealed)

    store = ResourceSessionStore(Domain(async_sessionmaker(engine), [SealedSession]))
    await store.save_session(a_session(id="ses_1", context={"system_prompt": "x"}))
    assert (await store.get_session("ses_1", "default")).context == {"system_prompt": "x"}
    plain = await SqlSessionStore(engine).get_session("ses_1", "default")
    assert plain.context == {"sealed": {"system_prompt": "x"}}


class NamedSession(Session):
    @property
    def title(self) -> str:
        return f"{self.agent_id} at work"


async def test_a_subclass_adds_behaviour_without_a_table_of_its_own(engine: AsyncEngine) -> None:
    """R8: properties and relations need no mixin."""
    domain = Domain(async_sessionmaker(engine), [NamedSession])
    [made] = await domain.act(NamedSession, "create", {"id": "ses_1", "agent_id": "ada"})
    assert made.title == "ada at work"
    assert domain.engine is engine, "nothing to be said otherwise"


def test_a_subclass_with_columns_is_told_how() -> None:
    """It would change the tables of every store in the process."""
    with pytest.raises(AsmError, match="mix SessionMixin into a class on your own base"):

        class Wrong(Session):
            project: Mapped[str | None] = mapped_column()

    with pytest.raises(AsmError, match="adds project to Run"):

        class WrongToo(Run):
            project: Mapped[str | None]

    assert "project" not in tables.sessions.c
    assert "project" not in tables.runs.c
    assert AppSession.__table__.metadata is Base.metadata


async def test_a_domain_is_of_async_sessions_and_of_one_model_each(engine: AsyncEngine) -> None:
    factory = async_sessionmaker(engine)
    for wrong in ([Project], [Session, AppSession], [SessionMixin], ["Session"]):
        with pytest.raises(AsmError) as caught:
            Domain(factory, wrong)  # type: ignore[arg-type]
        assert caught.value.code is ErrorCode.VALIDATION_ERROR
    for no_factory in (sessionmaker(), async_sessionmaker(), engine, None, AsyncSession):
        with pytest.raises(AsmError) as caught:
            Domain(no_factory)  # type: ignore[arg-type]
        assert caught.value.details == {"field": "session_factory"}


async def test_failures_are_ours(empty_database_url: str) -> None:
    """Nothing of the ORM's or the driver's reaches the caller."""
    engine = open_engine(empty_database_url, application_name="test")
    domain = Domain(async_sessionmaker(engine))
    for action, attributes in (("read", {}), ("create", {"id": "ses_1", "agent_id": "a"})):
        assert (await refusal(domain.act(Session, action, attributes))).code is ErrorCode.MIGRATION_REQUIRED
    await engine.dispose()

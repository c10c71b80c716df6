"""
Retention on a real Postgres and on SQLite, beyond `MaintenanceContract`: that what stays is still sound, and what needs
a registry, locks or a database that refuses.

Tests in the `world` end with `verify`, so every prune and every delete here is held to the invariants.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from operator import itemgetter
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from asm_api.client import AsyncAsmClient
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import EventType
from asm_core.domain.lifecycle import SessionVerb
from asm_core.domain.retention import PROTECTED_TYPES, RetentionPolicy
from asm_core.resources import ResourceMaintenance
from asm_core.stores.artifacts.file import FileArtifactStore
from asm_core.stores.artifacts.registering import RegisteringArtifactStore
from asm_core.stores.artifacts.registry import ArtifactRegistry
from asm_core.stores.sql.maintenance import SqlMaintenance
from tests.builders import NOW, an_event, an_outcome, eventually
from tests.fixtures.resources import extended_domain
from tests.fixtures.sql import DATABASES, SqlWorld

TENANT = "default"
GUARD_S = 10.0
T = EventType
FOREVER = RetentionPolicy(max_completed_session_age_days=None, hard_delete_after_days=None)


@pytest.fixture(params=[*DATABASES, "resources"])
def kind(request: pytest.FixtureRequest) -> str:
    """`resources`: models of an application with columns of its own, in a SQLite file."""
    return str(request.param)


@pytest.fixture
def world(sql_world: SqlWorld) -> SqlWorld:
    return sql_world


@pytest.fixture
def broken(broken_world: SqlWorld) -> SqlWorld:
    """A world that may end unsound."""
    return broken_world


@pytest.fixture
def engine(database: str, request: pytest.FixtureRequest) -> AsyncEngine:
    opened = request.getfixturevalue("broken" if "broken" in request.fixturenames else "world")
    assert isinstance(opened, SqlWorld)
    return opened.engine


@pytest.fixture
async def maintenance(engine: AsyncEngine, kind: str) -> SqlMaintenance:
    return ResourceMaintenance(await extended_domain(engine)) if kind == "resources" else SqlMaintenance(engine)


class Shelf:
    """An artifact store in memory."""

    backend = "shelf"

    def __init__(self, *, broken_for: str | None = None) -> None:
        self.kept: dict[str, bytes] = {}
        self.deleted: list[str] = []
        self._broken_for = broken_for

    async def put(self, key: str, data: bytes) -> None:
        if self._broken_for is not None and self._broken_for in key:
            raise OSError("disk full")
        self.kept[key] = data

    async def delete(self, key: str) -> None:
        if key == self._broken_for:
            raise OSError("gone")
        self.deleted.append(key)

    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for data in self.kept.values() for line in gzip.decompress(data).splitlines()]


async def ended(
    world: SqlWorld,
    kinds: Sequence[EventType] = (),
    *,
    changed_days: int = 0,
    created_days: int = 0,
    deleted_days: int | None = None,
    **fields: Any,
) -> str:
    """A completed session with one run, which said `kinds`; its times lie that many days back."""
    session_id = await world.session(**fields)
    lease = await world.running(session_id=session_id, tenant_id=fields.get("tenant_id", TENANT))
    for number, kind in enumerate(kinds):
        data = {"input_tokens": number, "cost_usd": 0.1} if kind is T.TOKEN_USAGE_UPDATED else {"content": "x"}
        await world.append(lease, kind=kind, data=data)
    await world.queue.finish(lease, an_outcome())
    tenant_id = fields.get("tenant_id", TENANT)
    await world.queue.change_session(session_id, tenant_id, SessionVerb.COMPLETE)
    now = await world.peek.now()
    times = {
        "updated_at": now - timedelta(days=changed_days),
        "created_at": now - timedelta(days=created_days),
        "deleted_at": None if deleted_days is None else now - timedelta(days=deleted_days),
    }
    await world.change("sessions", {"id": session_id}, **times)
    return session_id


async def make_old(world: SqlWorld, *columns: str, **where: Any) -> None:
    """These times of sessions lie a year back."""
    year_ago = await world.peek.now() - timedelta(days=365)
    await world.change("sessions", where, **dict.fromkeys(columns, year_ago))


async def deleted(world: SqlWorld) -> set[str]:
    return {row["id"] for row in await world.rows("sessions") if row["deleted_at"] is not None}


async def rows_of(world: SqlWorld, session_id: str) -> dict[str, int]:
    """Table to number of rows that belong to a session."""
    tables = ("events", "runs", "artifacts", "session_sequences", "session_runtime", "idempotency_keys")
    counts = {name: await world.how_many(name, session_id=session_id) for name in tables}
    return counts | {"sessions": await world.how_many("sessions", id=session_id)}


async def an_artifact(world: SqlWorld, artifact_id: str, session_id: str | None, **fields: Any) -> None:
    given = {"key": f"key_{artifact_id}", "storage_backend": "shelf", "storage_ref": f"ref_{artifact_id}"}
    plain = {"byte_size": 1, "checksum_sha256": "c", "metadata": {}, "created_at": NOW}
    await world.insert("artifacts", id=artifact_id, session_id=session_id, **given | plain | fields)


async def refuse(world: SqlWorld, what: str, table: str, when: str) -> None:
    """The database refuses these changes from now on."""
    if world.engine.dialect.name == "sqlite":
        statements = [
            f"CREATE TRIGGER test_refuse BEFORE {what} ON {table} FOR EACH ROW WHEN {when}"
            " BEGIN SELECT RAISE(ABORT, 'refused'); END"
        ]
    else:
        statements = [
            "CREATE FUNCTION test_refuse() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'refused'; END $$",
            f"CREATE TRIGGER test_refuse BEFORE {what} ON {table} FOR EACH ROW WHEN ({when})"
            " EXECUTE FUNCTION test_refuse()",
        ]
    for statement in statements:
        await world.execute(sa.text(statement))


@contextmanager
def statements(engine: AsyncEngine, beginning: str) -> Iterator[list[int]]:
    """Rows changed by each statement that begins so."""
    counts: list[int] = []

    def note(_conn: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith(beginning):
            counts.append(cursor.rowcount)

    sa.event.listen(engine.sync_engine, "after_cursor_execute", note)
    yield counts
    sa.event.remove(engine.sync_engine, "after_cursor_execute", note)


async def test_now_can_be_given(world: SqlWorld, maintenance: SqlMaintenance) -> None:
    """Else it is the store's own clock."""
    session_id = await ended(world)
    at = await world.peek.now() + timedelta(days=91)
    assert await maintenance.soft_delete_expired_sessions(RetentionPolicy(), TENANT, now=at) == 1
    assert (await world.row("sessions", id=session_id))["deleted_at"] == at
    step = await maintenance.hard_delete_expired_sessions(RetentionPolicy(), TENANT, now=at + timedelta(days=31))
    assert step.count == 1


async def test_a_session_with_work_is_never_touched(world: SqlWorld, maintenance: SqlMaintenance) -> None:
    """Queued, in flight or parked: neither deleted nor pruned, even when nothing exempts it."""
    queued, running, parked = [await world.session() for _ in range(3)]
    lease = await world.running(session_id=running)
    await world.append(lease, 5)
    await world.submit(queued)
    waiting = (await world.submit(parked)).run_id
    await world.change("runs", {"id": waiting}, status="awaiting_approval")
    await make_old(world, "updated_at")
    policy = RetentionPolicy(exempt_statuses=(), max_events_per_session=1, max_total_events=1)

    report = await maintenance.execute(policy, TENANT)

    assert (report.sessions_soft_deleted, report.events_pruned, report.errors) == (0, 0, [])
    await make_old(world, "deleted_at")
    assert (await maintenance.hard_delete_expired_sessions(policy, TENANT)).count == 0
    for session_id in (queued, running, parked):
        assert await maintenance.prune_session_events(session_id, TENANT, policy) == 0
        assert (await rows_of(world, session_id))["sessions"] == 1


@pytest.mark.parametrize("kind", ["postgres"], indirect=True)
async def test_a_session_that_somebody_is_busy_with_is_skipped(world: SqlWorld, maintenance: SqlMaintenance) -> None:
    """Its row is locked (a submit, say): maintenance neither waits nor acts. On SQLite writers take turns anyway."""
    session_id = await ended(world, [T.MESSAGE_STREAMED] * 3, changed_days=400)
    policy = RetentionPolicy(max_events_per_session=1)
    async with (
        await psycopg.AsyncConnection.connect(world.url) as holder,
        asyncio.timeout(GUARD_S),
    ):
        await holder.execute("SELECT 1 FROM asm_session_runtime WHERE session_id = %s FOR UPDATE", [session_id])
        report = await maintenance.execute(policy, TENANT)
    assert (report.sessions_soft_deleted, report.events_pruned, report.errors) == (0, 0, [])
    report = await maintenance.execute(policy, TENANT)
    assert (report.sessions_soft_deleted, report.events_pruned) == (1, 4)


async def test_a_deleted_session_takes_no_more_runs(world: SqlWorld, maintenance: SqlMaintenance) -> None:
    """Its end is settled; a run that began now would be removed with it."""
    session_id = await world.session()
    await make_old(world, "updated_at")
    await maintenance.soft_delete_expired_sessions(RetentionPolicy(exempt_statuses=()), TENANT)
    with pytest.raises(AsmError) as caught:
        await world.submit(session_id)
    assert caught.value.code is ErrorCode.INVALID_OPERATION
    assert "deleted" in caught.value.message


async def test_hard_delete_leaves_nothing_but_the_audit_trail(world: SqlWorld, maintenance: SqlMaintenance) -> None:
    """Check 146; exemptions no longer count. The same session id may come again, from number 1 on."""
    long_gone = await ended(world, [T.MESSAGE_STREAMED], deleted_days=60, tags=["pinned"])
    lately_gone, here = await ended(world, deleted_days=29), await ended(world)
    await world.change("sessions", {"id": here}, deleted_at=None)
    await an_artifact(world, "art_1", long_gone)
    given = {"tenant_id": TENANT, "scope": "one-shot", "key": "k", "request_hash": "h", "run_id": "run_x"}
    await world.insert("idempotency_keys", session_id=long_gone, created_at=NOW, **given)

    assert (await maintenance.hard_delete_expired_sessions(FOREVER, TENANT)).count == 0
    step = await maintenance.hard_delete_expired_sessions(RetentionPolicy(), TENANT)

    assert (step.count, step.errors) == (1, [])
    assert set((await rows_of(world, long_gone)).values()) == {0}
    assert (await rows_of(world, lately_gone))["events"] == 4
    assert max(await world.rows("audit_log", session_id=long_gone), key=itemgetter("id"))["action"] == "session.deleted"
    assert await maintenance.health_check(TENANT) == []
    again = await ended(world, id=long_gone)
    assert (await world.numbers(again))[0] == 1


async def test_a_session_goes_whole_or_stays_whole(world: SqlWorld, maintenance: SqlMaintenance) -> None:
    """Check 147: what fails is told and left as it was; the others go."""
    failing, fine = [await ended(world, [T.MESSAGE_STREAMED], deleted_days=60) for _ in range(2)]
    await an_artifact(world, "art_1", failing)
    before = await rows_of(world, failing)
    await refuse(world, "DELETE", "asm_artifacts", "OLD.id = 'art_1'")

    step = await maintenance.hard_delete_expired_sessions(RetentionPolicy(batch_size=1), TENANT)

    assert step.count == 1
    [error] = step.errors
    assert failing in error
    assert await rows_of(world, failing) == before
    assert set((await rows_of(world, fine)).values()) == {0}


async def test_contents_of_artifacts_go_where_a_store_is_given(world: SqlWorld, engine: AsyncEngine) -> None:
    """Check 161: after the rows, by the name under which they lie; what cannot be deleted is told."""
    session_id = await ended(world, deleted_days=60)
    await an_artifact(world, "art_1", session_id)
    await an_artifact(world, "art_2", session_id)
    await an_artifact(world, "art_3", session_id, deleted_at=NOW)
    await an_artifact(world, "art_4", session_id, storage_backend="elsewhere")
    shelf = Shelf(broken_for="ref_art_2")
    step = await SqlMaintenance(engine, blobs=shelf).hard_delete_expired_sessions(RetentionPolicy(), TENANT)
    assert step.count == 1
    assert shelf.deleted == ["ref_art_1", "ref_art_3"]
    [error] = step.errors
    assert "ref_art_2" in error


async def test_contents_that_another_row_points_at_stay(world: SqlWorld, engine: AsyncEngine) -> None:
    """Check 161: whosever row it is, and a session's that failed to go."""
    gone, stays = await ended(world, deleted_days=60), await ended(world)
    await an_artifact(world, "art_1", gone, storage_ref="shared")
    await an_artifact(world, "art_2", stays, storage_ref="shared")
    await an_artifact(world, "art_3", gone, storage_ref="theirs")
    await an_artifact(world, "art_4", None, storage_ref="theirs", tenant_id="other")
    await an_artifact(world, "art_5", gone)
    shelf = Shelf()
    step = await SqlMaintenance(engine, blobs=shelf).hard_delete_expired_sessions(RetentionPolicy(), TENANT)
    assert (step.count, step.errors, shelf.deleted) == (1, [], ["ref_art_5"])


async def test_contents_are_found_however_they_were_registered(
    world: SqlWorld, engine: AsyncEngine, tmp_path: Path
) -> None:
    """Check 161, with real stores: put by a registering store, or put under a key and registered by hand."""
    gone, stays = await ended(world, deleted_days=60), await ended(world)
    files, registry = FileArtifactStore(tmp_path / "blobs"), ArtifactRegistry(engine)
    for session_id in (gone, stays):
        registering = RegisteringArtifactStore(files, registry, TENANT, session_id=session_id)
        await registering.put(f"patch of {session_id}", b"old")
        await registering.put(f"patch of {session_id}", b"new")
        info = await files.put(f"by hand {session_id}", b"bytes")
        attrs = {"byte_size": info.byte_size, "checksum_sha256": info.checksum_sha256, "storage_backend": "file"}
        by_hand = attrs | {"key": f"by hand {session_id}", "storage_ref": f"by hand {session_id}"}
        await registry.register(by_hand | {"session_id": session_id}, TENANT)
    theirs = RegisteringArtifactStore(files, registry, "other")
    await theirs.put(f"patch of {gone}", b"theirs")
    await files.put("never registered", b"x")

    step = await SqlMaintenance(engine, blobs=files).hard_delete_expired_sessions(RetentionPolicy(), TENANT)

    assert (step.count, step.errors) == (1, [])
    assert len([stored async for stored in files.list_keys()]) == 3 + 1 + 1
    kept = RegisteringArtifactStore(files, registry, TENANT)
    assert await kept.get(f"patch of {stays}") == b"new"
    assert await files.get(f"by hand {stays}") == b"bytes"
    assert await theirs.get(f"patch of {gone}") == b"theirs"


async def test_contents_stay_while_no_store_is_given(
    world: SqlWorld, maintenance: SqlMaintenance, tmp_path: Path
) -> None:
    session_id, files = await ended(world, deleted_days=60), FileArtifactStore(tmp_path / "blobs")
    registering = RegisteringArtifactStore(files, ArtifactRegistry(world.engine), TENANT, session_id=session_id)
    await registering.put("patch", b"x")
    assert (await maintenance.hard_delete_expired_sessions(RetentionPolicy(), TENANT)).count == 1
    assert len([stored async for stored in files.list_keys()]) == 1


def test_a_registering_store_holds_no_contents(engine: AsyncEngine, tmp_path: Path) -> None:
    """It would take the names of bytes for keys, and delete nothing."""
    registering = RegisteringArtifactStore(FileArtifactStore(tmp_path), ArtifactRegistry(engine), TENANT)
    with pytest.raises(AsmError) as caught:
        SqlMaintenance(engine, blobs=registering)
    assert caught.value.code is ErrorCode.VALIDATION_ERROR


async def test_pruning_takes_no_more_than_the_excess(world: SqlWorld, maintenance: SqlMaintenance) -> None:
    """Check 148: the oldest go; under the bound, or without one, nothing does."""
    session_id = await ended(world, [T.MESSAGE_STREAMED] * 10)
    for bound, gone in ((None, 0), (14, 0), (9, 5), (9, 0)):
        policy = RetentionPolicy(max_events_per_session=bound)
        assert await maintenance.prune_session_events(session_id, TENANT, policy) == gone
    assert await world.numbers(session_id) == [1, 2, *range(8, 15)]
    assert await maintenance.health_check(TENANT) == []


async def test_pruning_takes_what_is_worth_least_first(world: SqlWorld, maintenance: SqlMaintenance) -> None:
    """Checks 149, 150; protected events stay even when too many of them are left."""
    said = [T.RUN_STARTED, T.MESSAGE_RECEIVED, T.MESSAGE_STREAMED, T.ERROR_OCCURRED, T.MESSAGE_STREAMED]
    session_id = await ended(world, said)
    kept = [T.SESSION_CREATED, T.SESSION_STARTED, *said, T.RUN_COMPLETED, T.SESSION_COMPLETED]
    for bound, lost in ((8, 4), (7, 5), (6, 1), (1, 2)):
        policy = RetentionPolicy(max_events_per_session=bound)
        assert await maintenance.prune_session_events(session_id, TENANT, policy) == 1
        kept.pop(lost)
        assert await world.event_types(session_id=session_id) == kept
        assert (7 in await world.numbers(session_id)) is (bound == 8)  # of the two streamed ones the older went first
    assert set(kept) <= PROTECTED_TYPES


async def test_the_newest_event_stays(world: SqlWorld, maintenance: SqlMaintenance) -> None:
    """Check 157, the other way round: a counter that points at nothing never comes to be."""
    session_id = await world.session()
    lease = await world.running(session_id=session_id)
    await world.append(lease, 3)
    await world.queue.finish(lease, an_outcome())
    for verb in (SessionVerb.PAUSE, SessionVerb.RESUME):
        await world.queue.change_session(session_id, TENANT, verb)
    policy = RetentionPolicy(max_events_per_session=1, exempt_statuses=())
    assert await maintenance.prune_session_events(session_id, TENANT, policy) == 5
    assert await world.event_types(session_id=session_id) == ["session_created", "run_completed", "session_resumed"]


async def test_usage_that_is_pruned_stays_explained(world: SqlWorld, maintenance: SqlMaintenance) -> None:
    """Invariant 6, batch by batch: a run's totals are its usage events and what was pruned of them."""
    session_id = await ended(world, [T.TOKEN_USAGE_UPDATED] * 7)
    before = await world.row("runs", session_id=session_id)
    assert before["token_usage"] == {"input_tokens": 21}
    for bound, pruned in ((8, {"input_tokens": 3, "cost_usd": 0.3}), (1, {"input_tokens": 21, "cost_usd": 0.7})):
        policy = RetentionPolicy(max_events_per_session=bound, batch_size=2)
        assert await maintenance.prune_session_events(session_id, TENANT, policy) >= 3
        after = await world.run_row(before["id"])
        assert after["pruned_usage"] == pytest.approx(pruned)
        assert (after["token_usage"], after["cost_usd"]) == (before["token_usage"], before["cost_usd"])
        assert (await world.verify()).is_sound


async def test_a_loss_beside_what_was_pruned_is_still_found(broken: SqlWorld, maintenance: SqlMaintenance) -> None:
    """Invariants 1 and 6 are not weakened by pruning: they count it."""
    missing, unspent = [await ended(broken, [T.MESSAGE_STREAMED, T.TOKEN_USAGE_UPDATED] * 4) for _ in range(2)]
    policy = RetentionPolicy(max_events_per_session=7)
    for session_id in (missing, unspent):
        assert await maintenance.prune_session_events(session_id, TENANT, policy) == 5
    assert (await broken.verify()).is_sound
    unspent_run = (await broken.row("runs", session_id=unspent))["id"]
    await broken.remove("events", session_id=missing, type="session_started")
    await broken.change("runs", {"session_id": unspent}, pruned_usage=None)
    report = await broken.verify()
    assert [verdict.number for verdict in report.verdicts if not verdict.is_sound] == [1, 6]
    assert all(missing in text or unspent_run in text for text in report.violations)


@pytest.mark.parametrize("kind", ["postgres"], indirect=True)
async def test_a_pruned_session_is_followed_to_its_end(
    world: SqlWorld, maintenance: SqlMaintenance, client: AsyncAsmClient
) -> None:
    """A follower from the beginning sees what is left, and `until_idle` ends; statistics count what is left too."""
    session_id = await ended(world, [T.MESSAGE_STREAMED] * 6)
    await maintenance.prune_session_events(session_id, TENANT, RetentionPolicy(max_events_per_session=3))
    async with asyncio.timeout(GUARD_S):
        seen = [event["sequence_number"] async for event in client.follow(session_id, until_idle=True)]
    assert seen == await world.numbers(session_id) == [1, 9, 10]
    assert (await client.stats())["events"] == 3


async def test_the_oldest_events_go_when_there_are_too_many_in_all(
    world: SqlWorld, maintenance: SqlMaintenance
) -> None:
    """Check 159: `max_total_events`, across sessions, by the events' own time; what is worth least first."""
    late, early = await world.session(), await world.session()
    for session_id, hour in ((late, 2), (early, 1)):
        lease = await world.running(session_id=session_id)
        for minute in range(4):
            kind = T.MESSAGE_STREAMED if minute % 2 else T.MESSAGE_RECEIVED
            await world.append(lease, kind=kind, timestamp=NOW + timedelta(hours=hour, minutes=minute))
        await world.queue.finish(lease, an_outcome())
        await world.queue.change_session(session_id, TENANT, SessionVerb.COMPLETE)
    assert await world.how_many("events") == 16
    for bound, left in (
        (13, {early: [1, 2, 3, 5, 7, 8], late: [1, 2, 3, 5, 6, 7, 8]}),
        (11, {early: [1, 2, 5, 7, 8], late: [1, 2, 3, 5, 7, 8]}),
        (9, {early: [1, 2, 7, 8], late: [1, 2, 5, 7, 8]}),
        (1, {early: [1, 7, 8], late: [1, 7, 8]}),
    ):
        policy = RetentionPolicy(max_total_events=bound, batch_size=2)
        assert (await maintenance.execute(policy, TENANT)).errors == []
        assert {session_id: await world.numbers(session_id) for session_id in (early, late)} == left


async def test_batches_bound_each_transaction(
    world: SqlWorld, engine: AsyncEngine, maintenance: SqlMaintenance
) -> None:
    """Check 159: `batch_size`."""
    pruned = await ended(world, [T.MESSAGE_STREAMED] * 7)
    for _ in range(5):
        await ended(world, changed_days=400)
    for number in range(5):
        await an_artifact(world, f"art_{number}", "ses_gone")
    policy = RetentionPolicy(max_events_per_session=4, batch_size=3)
    with (
        statements(engine, "UPDATE asm_sessions SET") as soft,
        statements(engine, "DELETE FROM asm_events") as events,
        statements(engine, "DELETE FROM asm_artifacts") as artifacts,
    ):
        report = await maintenance.execute(policy, TENANT)
    assert (report.sessions_soft_deleted, report.events_pruned, report.artifacts_cleaned) == (5, 7, 5)
    assert soft == [3, 2]
    assert events == [3, 3, 1]
    assert artifacts == [3, 2]
    assert len(await world.numbers(pruned)) == 4


async def test_events_are_archived_before_they_go(world: SqlWorld, maintenance: SqlMaintenance) -> None:
    """Check 158: every row whole, under a key that names its place."""
    session_id = await ended(world, [T.MESSAGE_STREAMED] * 5)
    before = await world.rows("events", session_id=session_id)
    shelf = Shelf()
    policy = RetentionPolicy(max_events_per_session=3, batch_size=3, archive_before_prune=True, archive_store=shelf)
    assert await maintenance.prune_session_events(session_id, TENANT, policy) == 6
    assert list(shelf.kept) == [f"archive/{session_id}/{place}.jsonl.gz" for place in ("3-5", "6-7", "2-2")]
    archived = {row["sequence_number"]: row for row in shelf.rows()}
    for row in before:
        number = row["sequence_number"]
        if number in (2, 3, 4, 5, 6, 7):
            assert archived[number].keys() >= row.keys()
            assert archived[number]["data"] == row["data"]
            assert archived[number]["fence"] == row["fence"]
    assert archived.keys() | set(await world.numbers(session_id)) == set(range(1, 10))


async def test_what_cannot_be_archived_stays(world: SqlWorld, maintenance: SqlMaintenance) -> None:
    """Check 158: told, while the other sessions are pruned."""
    failing, fine = [await ended(world, [T.MESSAGE_STREAMED] * 5) for _ in range(2)]
    shelf = Shelf(broken_for=failing)
    policy = RetentionPolicy(max_events_per_session=4, archive_before_prune=True, archive_store=shelf)
    with pytest.raises(AsmError) as caught:
        await maintenance.prune_session_events(failing, TENANT, policy)
    assert caught.value.code is ErrorCode.MAINTENANCE_ERROR
    report = await maintenance.execute(replace(policy, max_total_events=1), TENANT)
    assert report.events_pruned == 6
    assert len(report.errors) >= 2
    assert all(failing in error for error in report.errors)
    assert (len(await world.numbers(failing)), len(await world.numbers(fine))) == (9, 3)


async def test_execute_does_everything_and_says_so(world: SqlWorld, maintenance: SqlMaintenance) -> None:
    """Check 142."""
    await ended(world, changed_days=100)
    await ended(world, deleted_days=60)
    await ended(world, [T.MESSAGE_STREAMED] * 5)
    await an_artifact(world, "art_1", "ses_gone")
    await world.insert("session_sequences", session_id="ses_gone", last_sequence=0, pruned_count=0)

    report = (await maintenance.execute(RetentionPolicy(max_events_per_session=4), TENANT)).to_map()

    assert isinstance(report.pop("duration_ms"), int)
    assert report == {
        "sessions_soft_deleted": 1,
        "sessions_hard_deleted": 1,
        "events_pruned": 5,
        "artifacts_cleaned": 1,
        "orphaned_sequences_cleaned": 1,
        "errors": [],
        "already_running": False,
    }
    nothing = (await maintenance.execute(RetentionPolicy(max_events_per_session=4), TENANT)).to_map()
    assert {name for name, value in nothing.items() if value and name != "duration_ms"} == set()


async def test_a_failing_step_does_not_stop_the_others(world: SqlWorld, maintenance: SqlMaintenance) -> None:
    """Check 154."""
    await ended(world, changed_days=100)
    await ended(world, deleted_days=60)
    await refuse(world, "UPDATE", "asm_sessions", "NEW.deleted_at IS NOT NULL")
    report = await maintenance.execute(RetentionPolicy(), TENANT)
    assert (report.sessions_soft_deleted, report.sessions_hard_deleted) == (0, 1)
    [error] = report.errors
    assert error.startswith("soft delete: ")


async def test_artifacts_of_sessions_that_are_gone_are_cleaned(world: SqlWorld, maintenance: SqlMaintenance) -> None:
    """Checks 151, 155: those without a session stay."""
    for artifact_id, session_id in (("gone", "ses_gone"), ("free", None), ("owned", await world.session())):
        await an_artifact(world, artifact_id, session_id)
    assert await maintenance.clean_orphaned_artifacts(TENANT) == 1
    assert {row["id"] for row in await world.rows("artifacts")} == {"free", "owned"}


async def test_a_counter_with_events_outlives_its_session_row(broken: SqlWorld, maintenance: SqlMaintenance) -> None:
    """Check 156: beginning again at 1 would give numbers out twice."""
    session_id = await ended(broken)
    await broken.remove("sessions", id=session_id)
    report = await maintenance.execute(RetentionPolicy(), TENANT)
    assert report.orphaned_sequences_cleaned == 0
    assert (await broken.row("session_sequences", session_id=session_id))["last_sequence"] == 4
    [event] = await broken.store.append_events([an_event(session_id=session_id)], TENANT)
    assert event.sequence_number == 5


async def test_health_is_told_in_sentences(broken: SqlWorld, maintenance: SqlMaintenance) -> None:
    """Checks 152, 153, 157: a counter below the highest number is wrong, one above it is not."""
    behind, ahead, ownerless = [await ended(broken) for _ in range(3)]
    assert await maintenance.health_check(TENANT) == []
    await broken.remove("events", session_id=ahead, sequence_number=4)
    assert await maintenance.health_check(TENANT) == []
    await broken.change("session_sequences", {"session_id": behind}, last_sequence=2)
    await broken.remove("sessions", id=ownerless)
    assert await maintenance.health_check(TENANT) == [
        "4 events reference missing sessions",
        "1 runs reference missing sessions",
        f"sequence mismatch for {behind}: 2, 4",
    ]
    assert await maintenance.health_check("other") == []


async def test_one_maintenance_at_a_time(world: SqlWorld, maintenance: SqlMaintenance, engine: AsyncEngine) -> None:
    """Check 160: the second does nothing and says so; another tenant's is not in the way."""
    await ended(world, [T.MESSAGE_STREAMED] * 5)
    old = await ended(world, changed_days=100, tags=["pinned"])
    reached, go_on = asyncio.Event(), asyncio.Event()

    class SlowShelf(Shelf):
        async def put(self, key: str, data: bytes) -> None:
            reached.set()
            await go_on.wait()

    policy = RetentionPolicy(max_events_per_session=4, archive_before_prune=True, archive_store=SlowShelf())
    async with asyncio.timeout(GUARD_S), asyncio.TaskGroup() as group:
        first = group.create_task(maintenance.execute(policy, TENANT))
        await reached.wait()
        second = await SqlMaintenance(engine).execute(RetentionPolicy(exempt_tags=()), TENANT)
        assert second.already_running
        assert second.sessions_soft_deleted == 0
        with pytest.raises(AsmError) as caught:
            await SqlMaintenance(engine).soft_delete_expired_sessions(RetentionPolicy(exempt_tags=()), TENANT)
        assert caught.value.details["reason"] == "already_running"
        assert not (await SqlMaintenance(engine).execute(RetentionPolicy(), "other")).already_running
        go_on.set()
    assert first.result().events_pruned == 5
    assert old not in await deleted(world)
    assert not (await maintenance.execute(RetentionPolicy(), TENANT)).already_running


HOLDER = """
import asyncio, sys
from asm_core.stores.sql.engine import open_engine, open_sqlite
from asm_core.stores.sql.turns import turn

async def main(url):
    path = url.removeprefix("sqlite:///")
    engine = open_engine(url, application_name="holder") if path == url else open_sqlite(path)
    async with turn(engine, "asm maintenance default") as is_mine:
        print(is_mine, flush=True)
        await asyncio.Event().wait()

asyncio.run(main(sys.argv[1]))
"""
"""Another process that maintains, for ever."""


async def test_a_turn_ends_with_its_process(world: SqlWorld, maintenance: SqlMaintenance) -> None:
    """Check 160: between processes too, and whoever is killed leaves nothing behind that must be cleared away."""
    old = await ended(world, changed_days=100)
    holder = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDER, world.url, stdout=asyncio.subprocess.PIPE
    )
    assert holder.stdout is not None
    async with asyncio.timeout(GUARD_S):
        assert await holder.stdout.readline() == b"True\n"
    assert (await maintenance.execute(RetentionPolicy(), TENANT)).already_running
    assert await deleted(world) == set()
    assert not (await maintenance.execute(RetentionPolicy(), "other")).already_running
    holder.kill()
    await holder.wait()

    async def maintained() -> None:
        assert not (await maintenance.execute(RetentionPolicy(), TENANT)).already_running

    await eventually(maintained)
    assert await deleted(world) == {old}


async def test_a_turn_ends_with_whoever_is_cancelled(world: SqlWorld, maintenance: SqlMaintenance) -> None:
    """Check 160."""
    await ended(world, [T.MESSAGE_STREAMED] * 5)
    reached = asyncio.Event()

    class StuckShelf(Shelf):
        async def put(self, key: str, data: bytes) -> None:
            reached.set()
            await asyncio.Event().wait()

    policy = RetentionPolicy(max_events_per_session=4, archive_before_prune=True, archive_store=StuckShelf())
    first = asyncio.create_task(maintenance.execute(policy, TENANT))
    async with asyncio.timeout(GUARD_S):
        await reached.wait()
    first.cancel()
    await asyncio.wait({first})
    assert not (await maintenance.execute(RetentionPolicy(), TENANT)).already_running


async def test_a_run_may_begin_while_its_session_is_being_pruned(world: SqlWorld, maintenance: SqlMaintenance) -> None:
    """The lock is taken after the archive: a session that has work by then is let go."""
    session_id = await world.session()
    lease = await world.running(session_id=session_id)
    await world.append(lease, 5)
    await world.queue.finish(lease, an_outcome())

    class BusyShelf(Shelf):
        async def put(self, key: str, data: bytes) -> None:
            await world.submit(session_id)

    policy = RetentionPolicy(
        max_events_per_session=1, exempt_statuses=(), archive_before_prune=True, archive_store=BusyShelf()
    )
    async with asyncio.timeout(GUARD_S):
        assert await maintenance.prune_session_events(session_id, TENANT, policy) == 0
    assert len(await world.numbers(session_id)) == 8

"""Retention: what goes, what stays, whatever the records lie in. Numbers are those of the checks in spec/02 §22."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import EventType
from asm_core.domain.lifecycle import RunStatus, SessionStatus
from asm_core.domain.retention import PROTECTED_TYPES, RetentionPolicy
from asm_core.ports.query import Maintenance, as_maintenance
from asm_core.ports.store import SessionStore
from asm_core.testing.builders import NOW
from asm_core.testing.contracts.answers import TENANT, a_run, a_session, an_event, code_of, log_of, numbers_of

T = EventType
LATER = NOW + timedelta(days=1_000)
"""When maintenance is done; ages are counted back from here."""
FOREVER = RetentionPolicy(max_completed_session_age_days=None, hard_delete_after_days=None)


class MaintenanceContract:
    """
    Fixtures `store`: an empty SessionStore, a new one for each test; `maintenance`: the Maintenance over its records.

    Source: spec/02 §10, checks 141-146, 148-150, 152, 158, 159.
    """

    pytestmark = pytest.mark.asyncio

    async def test_it_is_known_as_one(self, maintenance: Maintenance) -> None:
        """141; and what is none is not."""
        assert as_maintenance(maintenance) is maintenance
        with pytest.raises(AsmError) as caught:
            as_maintenance("sqlite:///asm.db")
        assert caught.value.code is ErrorCode.VALIDATION_ERROR

    # Sessions

    async def test_old_sessions_are_soft_deleted(self, store: SessionStore, maintenance: Maintenance) -> None:
        """144, 145: by the last change, not by creation; what is exempt by status or tag stays."""
        old = await ended(store, changed_days=91)
        await ended(store, changed_days=89, created_days=400)
        await ended(store, changed_days=91, tags=("x", "pinned"))
        await ended(store, changed_days=400, status=SessionStatus.ACTIVE)
        before = await store.get_session(old, TENANT)

        assert await maintenance.soft_delete_expired_sessions(FOREVER, TENANT, now=LATER) == 0
        assert await maintenance.soft_delete_expired_sessions(RetentionPolicy(), TENANT, now=LATER) == 1

        assert await store.get_session(old, TENANT) == replace(before, deleted_at=LATER)
        assert await maintenance.soft_delete_expired_sessions(RetentionPolicy(), TENANT, now=LATER) == 0
        unpinned = RetentionPolicy(exempt_tags=())
        assert await maintenance.soft_delete_expired_sessions(unpinned, TENANT, now=LATER) == 1

    async def test_sessions_may_be_deleted_by_their_creation_too(
        self, store: SessionStore, maintenance: Maintenance
    ) -> None:
        """159: `max_session_age_days`, for sessions that are not exempt."""
        old = await ended(store, created_days=8)
        await ended(store, created_days=6)
        await ended(store, created_days=8, tags=("pinned",))
        policy = replace(FOREVER, max_session_age_days=7)
        assert await maintenance.soft_delete_expired_sessions(policy, TENANT, now=LATER) == 1
        assert (await store.get_session(old, TENANT)).deleted_at == LATER

    async def test_hard_delete_leaves_nothing_behind(self, store: SessionStore, maintenance: Maintenance) -> None:
        """146; exemptions no longer count. The same session id may come again, from number 1 on."""
        long_gone = await ended(store, [T.MESSAGE_STREAMED], deleted_days=60, tags=("pinned",))
        lately_gone, here = await ended(store, deleted_days=29), await ended(store)

        assert (await maintenance.hard_delete_expired_sessions(FOREVER, TENANT, now=LATER)).count == 0
        step = await maintenance.hard_delete_expired_sessions(RetentionPolicy(), TENANT, now=LATER)

        assert (step.count, [*step.errors]) == (1, [])
        assert await code_of(store.get_session(long_gone, TENANT)) is ErrorCode.SESSION_NOT_FOUND
        assert (await store.list_runs(TENANT, session_id=long_gone)).items in ([], ())
        assert await numbers_of(store, long_gone) == []
        for session_id in (lately_gone, here):
            assert await numbers_of(store, session_id) == [1, 2, 3]
        assert await maintenance.health_check(TENANT) == []
        await ended(store, id=long_gone)
        assert await numbers_of(store, long_gone) == [1, 2, 3]

    async def test_a_session_with_work_is_never_touched(self, store: SessionStore, maintenance: Maintenance) -> None:
        """Queued, in flight or parked: neither deleted nor pruned, even when nothing exempts it."""
        working = [await ended(store, [T.MESSAGE_STREAMED] * 5, changed_days=400) for _ in range(3)]
        statuses = (RunStatus.PENDING, RunStatus.RUNNING, RunStatus.AWAITING_APPROVAL)
        for session_id, status in zip(working, statuses, strict=True):
            await store.save_run(a_run(status, session_id=session_id))
        policy = RetentionPolicy(exempt_statuses=(), max_events_per_session=1, max_total_events=1)

        report = await maintenance.execute(policy, TENANT, now=LATER)

        assert (report.sessions_soft_deleted, report.events_pruned, [*report.errors]) == (0, 0, [])
        for session_id in working:
            await store.save_session(replace(await store.get_session(session_id, TENANT), deleted_at=NOW))
            assert await maintenance.prune_session_events(session_id, TENANT, policy) == 0
        assert (await maintenance.hard_delete_expired_sessions(policy, TENANT, now=LATER)).count == 0

    async def test_another_tenants_sessions_are_left_alone(self, store: SessionStore, maintenance: Maintenance) -> None:
        theirs = await ended(store, [T.MESSAGE_STREAMED] * 9, changed_days=400, tenant_id="other")
        policy = RetentionPolicy(max_events_per_session=1, max_total_events=1)
        report = await maintenance.execute(policy, TENANT, now=LATER)
        assert (report.sessions_soft_deleted, report.events_pruned, [*report.errors]) == (0, 0, [])
        assert await maintenance.prune_session_events(theirs, TENANT, policy) == 0
        report = await maintenance.execute(policy, "other", now=LATER)
        assert (report.sessions_soft_deleted, report.events_pruned) == (1, 9)

    # Events

    async def test_pruning_takes_no_more_than_the_excess(self, store: SessionStore, maintenance: Maintenance) -> None:
        """148: the oldest go; under the bound, or without one, nothing does; the counter stands."""
        session_id = await ended(store, [T.MESSAGE_STREAMED] * 10)
        for bound, gone in ((None, 0), (13, 0), (8, 5), (8, 0)):
            policy = RetentionPolicy(max_events_per_session=bound)
            assert await maintenance.prune_session_events(session_id, TENANT, policy) == gone
        assert await numbers_of(store, session_id) == [1, *range(7, 14)]
        assert await store.latest_sequences([session_id]) == {session_id: 13}
        assert await maintenance.health_check(TENANT) == []

    async def test_pruning_takes_what_is_worth_least_first(self, store: SessionStore, maintenance: Maintenance) -> None:
        """149, 150; protected events stay even when too many of them are left."""
        said = [T.RUN_STARTED, T.MESSAGE_RECEIVED, T.MESSAGE_STREAMED, T.ERROR_OCCURRED, T.MESSAGE_STREAMED]
        session_id = await ended(store, said)
        kept = [T.SESSION_CREATED, *said, T.RUN_COMPLETED, T.SESSION_COMPLETED]
        for bound, lost in ((7, 3), (6, 4), (5, 2)):
            policy = RetentionPolicy(max_events_per_session=bound)
            assert await maintenance.prune_session_events(session_id, TENANT, policy) == 1
            kept.pop(lost)
            assert [event.type for event in await log_of(store, session_id)] == kept
        nothing_left = RetentionPolicy(max_events_per_session=1)
        assert await maintenance.prune_session_events(session_id, TENANT, nothing_left) == 0
        assert set(kept) <= PROTECTED_TYPES

    async def test_the_newest_event_stays(self, store: SessionStore, maintenance: Maintenance) -> None:
        """157, the other way round: a counter that points at nothing never comes to be."""
        session_id = await ended(store, [], ends=[T.MESSAGE_STREAMED] * 3)
        policy = RetentionPolicy(max_events_per_session=1)
        assert await maintenance.prune_session_events(session_id, TENANT, policy) == 2
        assert await numbers_of(store, session_id) == [1, 4]

    async def test_exempt_sessions_are_not_pruned(self, store: SessionStore, maintenance: Maintenance) -> None:
        """By status or tag, by name or among all."""
        pinned = await ended(store, [T.MESSAGE_STREAMED] * 9, tags=("pinned",))
        active = await ended(store, [T.MESSAGE_STREAMED] * 9, status=SessionStatus.ACTIVE)
        policy = RetentionPolicy(max_events_per_session=5, max_total_events=5)
        for session_id in (pinned, active):
            assert await maintenance.prune_session_events(session_id, TENANT, policy) == 0
        assert (await maintenance.execute(policy, TENANT, now=LATER)).events_pruned == 0

    async def test_the_oldest_events_go_when_there_are_too_many_in_all(
        self, store: SessionStore, maintenance: Maintenance
    ) -> None:
        """159: `max_total_events`, across sessions, by the events' own time; what is worth least first."""
        kinds = [T.MESSAGE_RECEIVED, T.MESSAGE_STREAMED] * 2
        late, early = await ended(store, kinds, after_hours=2), await ended(store, kinds, after_hours=1)
        for bound, left in (
            (12, {early: [1, 2, 4, 6, 7], late: [1, 2, 3, 4, 5, 6, 7]}),
            (10, {early: [1, 2, 4, 6, 7], late: [1, 2, 4, 6, 7]}),
            (8, {early: [1, 6, 7], late: [1, 2, 4, 6, 7]}),
            (1, {early: [1, 6, 7], late: [1, 6, 7]}),
        ):
            policy = RetentionPolicy(max_total_events=bound, batch_size=2)
            assert [*(await maintenance.execute(policy, TENANT, now=NOW)).errors] == []
            assert {session_id: await numbers_of(store, session_id) for session_id in (early, late)} == left

    async def test_events_are_archived_before_they_go(self, store: SessionStore, maintenance: Maintenance) -> None:
        """158: every event whole, under a key that names its place."""
        session_id = await ended(store, [T.MESSAGE_STREAMED] * 5)
        before = {event.sequence_number: event for event in await log_of(store, session_id)}
        shelf = Shelf()
        policy = archiving(shelf, max_events_per_session=4, batch_size=3)
        assert await maintenance.prune_session_events(session_id, TENANT, policy) == 4
        assert list(shelf.kept) == [f"archive/{session_id}/{place}.jsonl.gz" for place in ("2-4", "5-5")]
        archived = {row["sequence_number"]: row for row in shelf.rows()}
        assert {number: row["data"] for number, row in archived.items()} == {
            number: before[number].data for number in (2, 3, 4, 5)
        }
        assert sorted({*archived, *await numbers_of(store, session_id)}) == [*range(1, 9)]

    async def test_what_cannot_be_archived_stays(self, store: SessionStore, maintenance: Maintenance) -> None:
        """158: told, while the other sessions are pruned."""
        failing, fine = [await ended(store, [T.MESSAGE_STREAMED] * 5) for _ in range(2)]
        policy = archiving(Shelf(broken_for=failing), max_events_per_session=3)
        step = maintenance.prune_session_events(failing, TENANT, policy)
        assert await code_of(step) is ErrorCode.MAINTENANCE_ERROR
        report = await maintenance.execute(replace(policy, max_total_events=1), TENANT, now=NOW)
        assert report.events_pruned == 5
        assert report.errors
        assert all(failing in error for error in report.errors)
        assert (len(await numbers_of(store, failing)), len(await numbers_of(store, fine))) == (8, 3)

    # All together

    async def test_execute_does_everything_and_says_so(self, store: SessionStore, maintenance: Maintenance) -> None:
        """142."""
        await ended(store, changed_days=100)
        await ended(store, deleted_days=60)
        await ended(store, [T.MESSAGE_STREAMED] * 5)
        policy = RetentionPolicy(max_events_per_session=4)

        report = (await maintenance.execute(policy, TENANT, now=LATER)).to_map()

        assert isinstance(report.pop("duration_ms"), int)
        done = {"sessions_soft_deleted": 1, "sessions_hard_deleted": 1, "events_pruned": 4}
        assert {name: value for name, value in report.items() if value} == done
        again = (await maintenance.execute(policy, TENANT, now=LATER)).to_map()
        assert {name for name, value in again.items() if value and name != "duration_ms"} == set()

    async def test_a_policy_that_contradicts_itself_is_refused(self, maintenance: Maintenance) -> None:
        """143, by every operation that takes one."""
        wrong = RetentionPolicy(batch_size=0)
        for ask in (
            maintenance.execute(wrong, TENANT),
            maintenance.soft_delete_expired_sessions(wrong, TENANT),
            maintenance.hard_delete_expired_sessions(wrong, TENANT),
            maintenance.prune_session_events("ses_1", TENANT, wrong),
            maintenance.clean_orphaned_artifacts(TENANT, batch_size=0),
        ):
            assert await code_of(ask) is ErrorCode.VALIDATION_ERROR

    async def test_health_is_told_in_sentences(self, store: SessionStore, maintenance: Maintenance) -> None:
        """152, 153: records whose session is missing; per tenant, and nothing is changed by asking."""
        await ended(store)
        assert await maintenance.health_check(TENANT) == []
        await store.save_run(a_run(session_id="ses_none"))
        await store.append_events([an_event(session_id="ses_none") for _ in range(2)], TENANT)
        found = await maintenance.health_check(TENANT)
        assert any("2 events" in sentence for sentence in found), found
        assert any("1 run" in sentence for sentence in found), found
        assert await maintenance.health_check("other") == []
        assert await maintenance.health_check(TENANT) == found

    async def test_maintenance_may_be_asked_for_by_many_at_once(
        self, store: SessionStore, maintenance: Maintenance
    ) -> None:
        """160: it is done once, whoever is told that somebody else is at it."""
        for _ in range(3):
            await ended(store, changed_days=100)
        asked = (maintenance.execute(RetentionPolicy(), TENANT, now=LATER) for _ in range(4))
        reports = await asyncio.gather(*asked)
        assert sum(report.sessions_soft_deleted for report in reports) == 3
        assert [error for report in reports for error in report.errors] == []


class Shelf:
    """Where archives go: an artifact store in memory."""

    def __init__(self, *, broken_for: str | None = None) -> None:
        self.kept: dict[str, bytes] = {}
        self._broken_for = broken_for

    async def put(self, key: str, data: bytes) -> None:
        if self._broken_for is not None and self._broken_for in key:
            raise OSError("disk full")
        self.kept[key] = data

    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for data in self.kept.values() for line in gzip.decompress(data).splitlines()]


def archiving(shelf: Shelf, **bounds: Any) -> RetentionPolicy:
    return RetentionPolicy(archive_before_prune=True, archive_store=shelf, **bounds)


async def ended(
    store: SessionStore,
    kinds: Sequence[EventType] = (),
    *,
    ends: Sequence[EventType] = (T.RUN_COMPLETED, T.SESSION_COMPLETED),
    changed_days: int = 0,
    created_days: int = 0,
    deleted_days: int | None = None,
    after_hours: int = 0,
    **fields: Any,
) -> str:
    """
    A session at rest with one run, which said `kinds` between its beginning and its end. Its times lie so many days
    before LATER, those of its events so many hours behind NOW.
    """
    given: dict[str, Any] = {
        "status": SessionStatus.COMPLETED,
        "created_at": LATER - timedelta(days=created_days),
        "updated_at": LATER - timedelta(days=changed_days),
        "deleted_at": None if deleted_days is None else LATER - timedelta(days=deleted_days),
    }
    session = a_session(**given | fields)
    run = a_run(RunStatus.COMPLETED, session_id=session.id, tenant_id=session.tenant_id)
    events = [
        an_event(
            kind,
            session_id=session.id,
            run_id=run.id,
            timestamp=NOW + timedelta(hours=after_hours, minutes=number),
            data={"content": f"{number}"},
        )
        for number, kind in enumerate((T.SESSION_CREATED, *kinds, *ends))
    ]
    await store.flush(session, run, events)
    return session.id

"""Records as they are: plain reads and writes by id. Numbers are those of the checks in spec/02 §22."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from asm_core.domain.errors import ErrorCode
from asm_core.domain.event import Event, EventType
from asm_core.domain.lifecycle import RunStatus, SessionStatus
from asm_core.domain.run import RunOptions
from asm_core.ports.store import EventFilter, SessionStore
from asm_core.testing.builders import NOW, SESSION_ID
from asm_core.testing.contracts.answers import ALL, TENANT, a_run, a_session, an_event, code_of, log_of, numbers_of


class SessionStoreContract:
    """
    Fixture `store`: an empty SessionStore, a new one for each test.

    Source: spec/02 §1-5, checks 1-79, 85, 87.
    """

    pytestmark = pytest.mark.asyncio

    # Sessions

    async def test_a_session_reads_back_as_it_was_saved(self, store: SessionStore) -> None:
        """1, 2, 9, 10, 11: every field, also of a deleted one, unknown keys at every level."""
        session = a_session(
            parent_session_id="ses_0", provider="scripted", model="m", tags=["b", "a"], max_concurrent_runs=2,
            max_queued_runs=0, metadata={"k": {"never": ["seen", {"before": None}]}}, context={"system_prompt": "ä"},
            deleted_at=NOW + timedelta(microseconds=1),
        )  # fmt: skip
        session = replace(session, status=SessionStatus.PAUSED, tags=("b", "a"))
        await store.save_session(session)
        assert await store.get_session(session.id, TENANT) == session
        assert await session_ids(store) == set(), "a deleted one is in no list"

    async def test_a_session_that_is_not_there_is_said_so(self, store: SessionStore) -> None:
        """3, and DESIGN §12: what belongs to another tenant does not exist."""
        other = a_session(tenant_id="other")
        await store.save_session(other)
        for session_id in ("ses_none", other.id):
            assert await code_of(store.get_session(session_id, TENANT)) is ErrorCode.SESSION_NOT_FOUND
        assert (await store.get_session(other.id, "other")).tenant_id == "other"
        assert await session_ids(store) == set(), "7"

    async def test_sessions_are_listed_by_what_is_asked(self, store: SessionStore) -> None:
        """5, 6; tags too."""
        given: dict[str, dict[str, Any]] = {
            "s1": {"agent_id": "a", "tags": ["x"]},
            "s2": {"agent_id": "b", "tags": ["x", "y"]},
            "s3": {"agent_id": "b"},
        }
        for session_id, fields in given.items():
            await store.save_session(a_session(id=session_id, **fields))
        await store.save_session(replace(a_session(id="s4"), status=SessionStatus.ACTIVE))
        assert await session_ids(store) == {"s1", "s2", "s3", "s4"}
        assert await session_ids(store, status="pending") == {"s1", "s2", "s3"}
        assert await session_ids(store, status="active") == {"s4"}
        assert await session_ids(store, agent_id="b") == {"s2", "s3"}
        assert await session_ids(store, tag="x") == {"s1", "s2"}
        assert await session_ids(store, tag="y", agent_id="b", status="pending") == {"s2"}
        assert await session_ids(store, tag="x%") == set()
        assert await code_of(store.list_sessions(TENANT, status="odd")) is ErrorCode.INVALID_STATUS

    @pytest.mark.parametrize("spread", [0, 1])
    async def test_pages_neither_repeat_nor_skip(self, store: SessionStore, spread: int) -> None:
        """13: newest first; also where all were made at one instant."""
        for number in range(7):
            at = NOW + number * spread * timedelta(microseconds=1)
            await store.save_session(a_session(id=f"s{number}", created_at=at, updated_at=at))
            await store.save_run(a_run(id=f"r{number}", created_at=at))
        for listed, prefix in ((store.list_sessions, "s"), (store.list_runs, "r")):
            found, cursor = [], None
            while True:
                page = await listed(TENANT, limit=3, cursor=cursor)
                found += [record.id for record in page.items]
                if (cursor := page.cursor) is None:
                    break
            assert found == [f"{prefix}{number}" for number in reversed(range(7))]
        other = (await store.list_sessions(TENANT, limit=1)).cursor
        for cursor in ("garbage", other):
            assert await code_of(store.list_runs(TENANT, cursor=cursor)) is ErrorCode.INVALID_CURSOR

    @pytest.mark.parametrize("limit", [0, -1, "x", True])
    async def test_a_page_of_nothing_is_refused(self, store: SessionStore, limit: Any) -> None:
        """14."""
        for step in (
            store.list_sessions(TENANT, limit=limit), store.list_runs(TENANT, limit=limit),
            store.get_events(SESSION_ID, TENANT, EventFilter(), limit),
        ):  # fmt: skip
            assert await code_of(step) is ErrorCode.VALIDATION_ERROR

    async def test_an_id_of_another_tenant_is_not_taken_over(self, store: SessionStore) -> None:
        await store.save_session(a_session(id=SESSION_ID, tenant_id="other"))
        await store.save_run(a_run(id="run_1", tenant_id="other"))
        assert await code_of(store.save_session(a_session(id=SESSION_ID))) is ErrorCode.ALREADY_EXISTS
        assert await code_of(store.save_run(a_run(id="run_1"))) is ErrorCode.ALREADY_EXISTS
        assert await code_of(append(store, an_event(session_id=SESSION_ID))) is ErrorCode.SESSION_NOT_FOUND
        assert (await store.get_session(SESSION_ID, "other")).tenant_id == "other"

    @pytest.mark.parametrize(
        "wrong", [{"id": ""}, {"agent_id": ""}, {"created_at": None}, {"updated_at": datetime(2025, 1, 1)}]
    )
    async def test_a_session_without_what_it_needs_is_refused(self, store: SessionStore, wrong: dict[str, Any]) -> None:
        assert await code_of(store.save_session(replace(a_session(), **wrong))) is ErrorCode.VALIDATION_ERROR
        assert await code_of(store.save_session({"id": SESSION_ID})) is ErrorCode.VALIDATION_ERROR  # type: ignore[arg-type]
        assert await session_ids(store) == set()

    async def test_saving_a_session_again_replaces_it(self, store: SessionStore) -> None:
        """4."""
        session = a_session(metadata={"k": 1}, tags=("t",))
        await store.save_session(session)
        for status in (SessionStatus.PAUSED, SessionStatus.ACTIVE, SessionStatus.ACTIVE):
            changed = replace(session, status=status, metadata={}, tags=(), max_queued_runs=5)
            await store.save_session(changed)
            assert await store.get_session(session.id, TENANT) == changed
        assert await session_ids(store) == {session.id}

    async def test_a_deleted_session_takes_its_runs_and_events_along(self, store: SessionStore) -> None:
        """8, 12, 84: once as twice; under its id numbers begin again; what belongs to others stays."""
        gone, kept = a_session(), a_session()
        for session in (gone, kept):
            events = [an_event(session_id=session.id) for _ in range(2)]
            await store.flush(session, a_run(session_id=session.id), events)
        await store.delete_session(gone.id, "other")
        await store.get_session(gone.id, TENANT)
        for session_id in (gone.id, gone.id, "ses_none"):
            await store.delete_session(session_id, TENANT)
        assert await code_of(store.get_session(gone.id, TENANT)) is ErrorCode.SESSION_NOT_FOUND
        assert [run.session_id for run in (await store.list_runs(TENANT)).items] == [kept.id]
        assert (await numbers_of(store, gone.id), await latest(store, gone.id)) == ([], 0)
        assert await numbers_of(store, kept.id) == [1, 2]
        assert [event.sequence_number for event in await append(store, an_event(session_id=gone.id))] == [1]

    # Runs

    async def test_a_run_reads_back_as_it_was_saved(self, store: SessionStore) -> None:
        """15, 25, 26; a run that is saved stands in no queue."""
        run = a_run(
            RunStatus.FAILED, input={"messages": [{"role": "user", "content": "ä"}]},
            output={"content": "x", "n": [1.5]}, error={"code": "timeout", "message": "m"},
            metadata={"k": {"v": None}}, turn_count=3, token_usage={"input_tokens": 1}, cost_usd=0.125,
            provider="claude", provider_metadata={"model": "m"},
            options=RunOptions(provider="claude", timeout_ms=5), worker_id="wrk_1", attempt=2,
        )  # fmt: skip
        await store.save_run(run)
        assert await store.get_run(run.id, TENANT) == run
        pending = a_run(options=None, input=None)
        await store.save_run(pending)
        assert await store.get_run(pending.id, TENANT) == replace(pending, position=None)

    async def test_a_run_that_is_not_there_is_said_so(self, store: SessionStore) -> None:
        """16."""
        other = a_run(tenant_id="other")
        await store.save_run(other)
        for run_id in ("run_none", other.id):
            assert await code_of(store.get_run(run_id, TENANT)) is ErrorCode.RUN_NOT_FOUND

    async def test_saving_a_run_again_replaces_it(self, store: SessionStore) -> None:
        """17, 23, 24: read after write."""
        run = a_run()
        for status in (RunStatus.PENDING, RunStatus.RUNNING, RunStatus.RUNNING):
            await store.save_run(a_run(status, id=run.id))
        active = await store.get_active_run(run.session_id, TENANT)
        assert active is not None and active.id == run.id
        await store.save_run(a_run(RunStatus.COMPLETED, id=run.id))
        assert await store.get_active_run(run.session_id, TENANT) is None
        assert len((await store.list_runs(TENANT)).items) == 1

    @pytest.mark.parametrize("status", [RunStatus.COMPLETED, RunStatus.CANCELLED, RunStatus.FAILED, RunStatus.TIMEOUT])
    async def test_a_terminal_run_keeps_its_status(self, store: SessionStore, status: RunStatus) -> None:
        """DESIGN §3: written once, by whatever way; what else it says may be mended."""
        await store.save_run(a_run(status, id="run_1"))
        for other in set(RunStatus) - {status}:
            assert await code_of(store.save_run(a_run(other, id="run_1"))) is ErrorCode.INVALID_TRANSITION
        await store.save_run(a_run(status, id="run_1", metadata={"mended": True}))
        run = await store.get_run("run_1", TENANT)
        assert (run.status, run.metadata) == (status, {"mended": True})

    async def test_runs_are_listed_by_what_is_asked(self, store: SessionStore) -> None:
        """18, 19, 20."""
        given: dict[str, dict[str, Any]] = {"r1": {}, "r2": {"provider": "claude"}, "r3": {"session_id": "ses_2"}}
        for run_id, fields in given.items():
            await store.save_run(a_run(id=run_id, **fields))
        await store.save_run(a_run(RunStatus.RUNNING, id="r4"))

        async def found(**where: Any) -> set[str]:
            return {run.id for run in (await store.list_runs(TENANT, **where)).items}

        assert await found(session_id=SESSION_ID) == {"r1", "r2", "r4"}
        assert await found(session_id=SESSION_ID, status="pending") == {"r1", "r2"}
        assert await found(provider="claude") == {"r2"}
        assert await found(session_id="ses_none") == set()
        assert len(await found(session_id=SESSION_ID, limit=1)) == 1
        assert await code_of(found(status="odd")) is ErrorCode.INVALID_STATUS

    async def test_the_active_run_is_the_one_that_started_last(self, store: SessionStore) -> None:
        """21, 22."""
        assert await store.get_active_run(SESSION_ID, TENANT) is None
        for status in (RunStatus.PENDING, RunStatus.COMPLETED):
            await store.save_run(a_run(status))
        assert await store.get_active_run(SESSION_ID, TENANT) is None
        for run_id, after in (("r1", 1), ("r2", 2), ("r3", 2), ("r4", 0)):
            await store.save_run(a_run(RunStatus.RUNNING, id=run_id, started_at=NOW + timedelta(seconds=after)))
        await store.save_run(a_run(RunStatus.RUNNING, id="r5", started_at=None))
        active = await store.get_active_run(SESSION_ID, TENANT)
        assert active is not None and active.id == "r3"
        assert await store.get_active_run(SESSION_ID, "other") is None

    async def test_a_run_without_what_it_needs_is_refused(self, store: SessionStore) -> None:
        for wrong in ({"id": ""}, {"session_id": "a\x00b"}, {"created_at": None}):
            assert await code_of(store.save_run(a_run(**wrong))) is ErrorCode.VALIDATION_ERROR
        assert (await store.list_runs(TENANT)).items in ([], ())

    # Events

    async def test_events_are_numbered_as_they_come(self, store: SessionStore) -> None:
        """27, 29, 30, 32, 33, 37, 44: per session, whatever number they bring along; the session need not exist."""
        assert await latest(store) == 0
        [first] = await append(store, an_event(sequence_number=77))
        [second, third] = await append(store, an_event(), an_event())
        [other] = await append(store, an_event(session_id="ses_2"))
        assert [event.sequence_number for event in (first, second, third, other)] == [1, 2, 3, 1]
        assert await log_of(store) == [first, second, third]
        assert (await latest(store), await latest(store, "ses_2"), await latest(store, "ses_none")) == (3, 1, 0)

    async def test_a_known_id_comes_back_as_it_was_first_stored(self, store: SessionStore) -> None:
        """31, 34, 36, 49: nothing is stored twice, no number is used up; in one batch as over several."""
        event = an_event(data={"content": "first"})
        first, twice = await append(store, event, replace(event, data={"content": "second"}))
        assert first == twice == replace(event, sequence_number=1)
        again, new = await append(store, event, an_event())
        assert (again, new.sequence_number) == (first, 2)
        assert await log_of(store) == [first, new]
        assert await latest(store) == 2

    async def test_a_batch_over_two_sessions_keeps_its_order(self, store: SessionStore) -> None:
        """35, 87."""
        events = [an_event(session_id=session_id) for session_id in ("b", "a", "b", "a")]
        stored = await append(store, *events)
        assert [(event.session_id, event.sequence_number) for event in stored] == [
            ("b", 1),
            ("a", 1),
            ("b", 2),
            ("a", 2),
        ]
        assert [event.id for event in stored] == [event.id for event in events]

    async def test_an_event_reads_back_as_it_was_stored(self, store: SessionStore) -> None:
        """43, 49."""
        event = an_event(
            EventType.TOOL_CALL_COMPLETED, run_id="run_1",
            data={"tool_output": {"n": [1, 2.5, None, True]}, "big": 2**40}, metadata={"k": "ä\n'\"\\"},
            provider="claude", correlation_id="c", attempt=2,
            timestamp=NOW + timedelta(microseconds=7),
        )  # fmt: skip
        [stored] = await append(store, event)
        assert stored == replace(event, sequence_number=1)
        assert await log_of(store) == [stored]

    @pytest.mark.parametrize(
        ("where", "expected"),
        [
            ({}, [1, 2, 3, 4, 5, 6]),
            ({"after": 1}, [2, 3, 4, 5, 6]),
            ({"before": 3}, [1, 2]),
            ({"after": 1, "before": 3}, [2]),
            ({"run_id": "run_1"}, [4, 5, 6]),
            ({"types": ["turn_completed"]}, [2, 4, 6]),
            ({"types": ["turn_completed", "message_streamed"], "after": 4}, [5, 6]),
            ({"after": 1, "run_id": "run_1", "types": ["turn_completed"], "limit": 1}, [4]),
            ({"since": NOW + timedelta(seconds=3)}, [5, 6]),
            ({"limit": 2}, [1, 2]),
            ({"after": 1, "before": 4, "limit": 1}, [2]),
            ({"run_id": "run_none"}, []),
        ],
    )
    async def test_events_are_read_by_what_is_asked(
        self, store: SessionStore, where: dict[str, Any], expected: list[int]
    ) -> None:
        """28, 38–41: `after`, `before` and `since` exclude what they name; the oldest matches come first."""
        await three_runs(store)
        assert await numbers_of(store, **where) == expected

    async def test_a_log_belongs_to_its_tenant(self, store: SessionStore) -> None:
        """42; DESIGN §12."""
        await append(store, an_event())
        assert await store.get_events(SESSION_ID, "other", EventFilter(), ALL) == []
        assert await store.get_events("ses_none", TENANT, EventFilter(), ALL) == []

    @pytest.mark.parametrize(
        "wrong", [{"timestamp": None}, {"timestamp": datetime(2025, 1, 1)}, {"id": ""}, {"session_id": ""}]
    )
    async def test_one_bad_event_stores_nothing_and_uses_up_no_number(
        self, store: SessionStore, wrong: dict[str, Any]
    ) -> None:
        """45, 47."""
        bad = replace(an_event(), **wrong)
        assert await code_of(append(store, an_event(), bad)) is ErrorCode.VALIDATION_ERROR
        assert await log_of(store) == []
        assert [event.sequence_number for event in await append(store, an_event())] == [1]

    async def test_what_is_no_list_of_events_is_refused(self, store: SessionStore) -> None:
        """46."""
        assert await store.append_events([], TENANT) == []
        for wrong in ("events", {"a": 1}, [an_event(), "x"], [None]):
            step = store.append_events(wrong, TENANT)  # type: ignore[arg-type]
            assert await code_of(step) is ErrorCode.VALIDATION_ERROR
        assert await latest(store) == 0

    async def test_an_id_stands_for_one_event_of_one_session(self, store: SessionStore) -> None:
        """48: also within one batch; nothing of it is stored."""
        event = an_event()
        await append(store, event)
        fresh = an_event()
        for batch in ([fresh, replace(event, session_id="ses_2")], [fresh, replace(fresh, session_id="ses_2")]):
            assert await code_of(append(store, *batch)) is ErrorCode.ALREADY_EXISTS
        assert (await numbers_of(store), await numbers_of(store, "ses_2")) == ([1], [])
        assert [stored.sequence_number for stored in await append(store, fresh)] == [2]

    async def test_text_that_a_database_refuses_is_stored_clean(self, store: SessionStore) -> None:
        """50: NUL, lone surrogates, NaN."""
        odd = {"a\x00": "b\x00c\ud800", "n": float("nan"), "deep": [float("inf"), {"x": "\udfff"}]}
        [stored] = await append(store, an_event(data=odd, metadata=odd))
        clean = {"a\ufffd": "b\ufffdc\ufffd", "n": None, "deep": [None, {"x": "\ufffd"}]}
        assert (stored.data, stored.metadata) == (clean, clean)
        assert await log_of(store) == [stored]
        run = a_run(output=odd, metadata=odd)
        await store.save_run(run)
        assert (await store.get_run(run.id, TENANT)).output == clean

    async def test_a_type_that_is_not_known_yet_is_kept(self, store: SessionStore) -> None:
        """51: versions run side by side."""
        event: Any = replace(an_event(), type="invented_later")  # type: ignore[arg-type]
        [stored] = await append(store, event)
        [frame] = await store.get_events(SESSION_ID, TENANT, EventFilter(types=["invented_later"]), ALL)
        assert (stored.type, frame.type) == ("invented_later", "invented_later")
        assert await append(store, event) == [stored]

    async def test_what_a_caller_changes_later_is_not_the_stores_business(self, store: SessionStore) -> None:
        """spec/02 §5: neither what was handed in nor what was given out is shared."""
        data: dict[str, Any] = {"list": [1]}
        [stored] = await append(store, an_event(data=data))
        run = a_run(metadata=data)
        await store.save_run(run)
        data["list"].append(2)
        stored.data["list"].append(3)
        (await store.get_run(run.id, TENANT)).metadata["list"].append(4)
        assert [event.data for event in await log_of(store)] == [{"list": [1]}]
        assert (await store.get_run(run.id, TENANT)).metadata == {"list": [1]}

    async def test_three_thousand_events_go_in_one_batch(self, store: SessionStore) -> None:
        """85: more than a statement of SQLite has parameters for."""
        stored = await append(store, *(an_event() for _ in range(3_000)))
        assert [event.sequence_number for event in stored] == [*range(1, 3_001)]
        assert await latest(store) == 3_000

    # Flush

    async def test_flush_stores_session_run_and_events_at_once(self, store: SessionStore) -> None:
        """52, 53, 56: what is stored already is not stored again."""
        session, run = a_session(id=SESSION_ID), a_run(RunStatus.COMPLETED)
        events = [an_event(), an_event()]
        for _ in range(2):
            stored = await store.flush(session, run, events)
            assert [event.sequence_number for event in stored] == [1, 2]
        assert await store.get_session(session.id, TENANT) == session
        assert await store.get_run(run.id, TENANT) == run
        assert await log_of(store) == stored

    async def test_a_flush_that_fails_leaves_no_trace(self, store: SessionStore) -> None:
        """54, 55, 57: whatever fails, and however far it got."""
        session, run = a_session(id=SESSION_ID), a_run()
        elsewhere = an_event(session_id="ses_2")
        await append(store, elsewhere)
        attempts: Sequence[tuple[Any, Any, Any, ErrorCode]] = (
            (session, run, ["x"], ErrorCode.VALIDATION_ERROR),
            (session, run, None, ErrorCode.VALIDATION_ERROR),
            (None, run, [], ErrorCode.VALIDATION_ERROR),
            (session, None, [], ErrorCode.VALIDATION_ERROR),
            (session, run, [an_event(), replace(elsewhere, session_id=SESSION_ID)], ErrorCode.ALREADY_EXISTS),
        )
        for given, of, events, code in attempts:
            assert await code_of(store.flush(given, of, events)) is code
            assert await code_of(store.get_session(SESSION_ID, TENANT)) is ErrorCode.SESSION_NOT_FOUND
            assert await code_of(store.get_run(run.id, TENANT)) is ErrorCode.RUN_NOT_FOUND
            assert await latest(store) == 0

    # Many at once

    async def test_many_sessions_are_written_read_and_deleted_at_once(self, store: SessionStore) -> None:
        """69."""
        sessions = [a_session() for _ in range(100)]
        await asyncio.gather(*map(store.save_session, sessions))
        assert await session_ids(store, limit=200) == {session.id for session in sessions}
        await asyncio.gather(*(step for session in sessions for step in (
            store.save_session(replace(session, model="m")), store.get_session(session.id, TENANT),
        )))  # fmt: skip
        await asyncio.gather(*(store.delete_session(session.id, TENANT) for session in sessions))
        assert await session_ids(store) == set()

    async def test_one_run_is_written_and_read_by_many_at_once(self, store: SessionStore) -> None:
        """70."""
        run = a_run(RunStatus.RUNNING)
        await asyncio.gather(*(store.save_run(replace(run, turn_count=number)) for number in range(100)))
        found = await asyncio.gather(*(store.get_active_run(run.session_id, TENANT) for _ in range(100)))
        assert {active.id for active in found if active} == {run.id} and None not in found

    async def test_numbers_have_no_gap_and_no_double_whoever_appends(self, store: SessionStore) -> None:
        """71, 74–76: 64 tasks to one session; every answer is what is stored."""
        answers = await asyncio.gather(*(append(store, *(an_event() for _ in range(3))) for _ in range(64)))
        stored = {event.id: event for answer in answers for event in answer}
        log = await log_of(store)
        assert [event.sequence_number for event in log] == [*range(1, 64 * 3 + 1)]
        assert {event.id: event for event in log} == stored
        for answer in answers:
            numbers = [event.sequence_number or 0 for event in answer]
            assert numbers == [*range(numbers[0], numbers[0] + 3)], "a batch stays together"

    async def test_sixty_four_sessions_are_appended_to_at_once(self, store: SessionStore) -> None:
        """73, 79: in batches over several sessions, shuffled: no deadlock surfaces."""
        names = [f"ses_{number}" for number in range(64)]

        async def write(number: int) -> None:
            rng = random.Random(number)
            for _ in range(4):
                await append(store, *(an_event(session_id=name) for name in rng.sample(names, 16)))

        await asyncio.gather(*map(write, range(16)))
        counters = await store.latest_sequences(names)
        assert sum(counters.values()) == 16 * 4 * 16
        for name in names:
            assert await numbers_of(store, name) == [*range(1, counters.get(name, 0) + 1)]

    async def test_writers_that_share_ids_agree_on_one_number_each(self, store: SessionStore) -> None:
        """77: 16 writers, 40 % of the events are everybody's."""
        shared = [an_event() for _ in range(40)]

        async def write(number: int) -> list[Event]:
            rng = random.Random(number)
            events = [rng.choice(shared) if rng.random() < 0.4 else an_event() for _ in range(20)]
            return [event for start in range(0, 20, 5) for event in await append(store, *events[start : start + 5])]

        answers = await asyncio.gather(*map(write, range(16)))
        log = await log_of(store)
        assert [event.sequence_number for event in log] == [*range(1, len(log) + 1)]
        assert len({event.id for event in log}) == len(log)
        by_id = {event.id: event for event in log}
        assert all(event == by_id[event.id] for answer in answers for event in answer)

    async def test_a_reader_at_the_end_of_the_log_sees_every_number_in_turn(self, store: SessionStore) -> None:
        """72, 78."""
        seen: list[int | None] = []

        async def read(until: int) -> None:
            while len(seen) < until:
                seen.extend(await numbers_of(store, after=len(seen)))

        async def write() -> None:
            for _ in range(25):
                await append(store, an_event(), an_event())

        await asyncio.gather(read(200), *(write() for _ in range(4)))
        assert seen == [*range(1, 201)]

    async def test_two_hundred_mixed_operations_do_no_harm(self, store: SessionStore) -> None:
        """73."""
        rng = random.Random(1)
        names = [f"ses_{number}" for number in range(5)]

        async def step(name: str) -> None:
            match rng.randrange(5):
                case 0:
                    await store.save_session(a_session(id=name))
                case 1:
                    await store.save_run(a_run(session_id=name))
                case 2:
                    await append(store, an_event(session_id=name))
                case 3:
                    await numbers_of(store, name)
                case _:
                    await store.flush(a_session(id=name), a_run(session_id=name), [an_event(session_id=name)])

        await asyncio.gather(*(step(rng.choice(names)) for _ in range(200)))
        for name in names:
            numbers = await numbers_of(store, name)
            assert numbers == [*range(1, len(numbers) + 1)]


async def latest(store: SessionStore, session_id: str = SESSION_ID) -> int:
    return (await store.latest_sequences([session_id])).get(session_id, 0)


async def append(store: SessionStore, *events: Event) -> list[Event]:
    return await store.append_events(events, TENANT)


async def session_ids(store: SessionStore, **where: Any) -> set[str]:
    return {session.id for session in (await store.list_sessions(TENANT, **where)).items}


async def three_runs(store: SessionStore) -> None:
    """Numbers 1 to 6: three events of two runs, of alternating types."""
    kinds = (EventType.MESSAGE_STREAMED, EventType.TURN_COMPLETED)
    for number in range(6):
        at = NOW + timedelta(seconds=number)
        await append(store, an_event(kinds[number % 2], run_id=f"run_{number // 3}", timestamp=at))

"""`verify` on real databases: a sound one passes, and every way of breaking an invariant is found, and only that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import EventType
from asm_core.domain.invariants import INVARIANTS, MAX_SHOWN, Report
from asm_core.domain.lifecycle import RunStatus, SessionVerb
from asm_core.manager.verify import verify
from asm_core.stores.sql.verify import inspect_database, verify_database
from tests.builders import HANDED_BACK, NOW, RETRY, World, an_outcome, open_world


@pytest.fixture
async def broken(database_url: str) -> AsyncIterator[World]:
    """A world that may end unsound, where rows can be written past the triggers."""
    async with open_world(database_url, ends_sound=False) as world:
        await world.sql("SET session_replication_role = replica")
        yield world


async def finished(world: World, **fields: Any) -> str:
    """A run that has said something, spent something and ended."""
    lease = await world.running(**fields)
    await world.append(lease, 2)
    await world.append(lease, kind=EventType.TOKEN_USAGE_UPDATED, data={"input_tokens": 7, "cost_usd": 0.25})
    await world.queue.finish(lease, an_outcome())
    return lease.run_id


def found(report: Report) -> dict[int, int]:
    """Number of an invariant to how often it is violated."""
    return {verdict.number: verdict.count for verdict in report.verdicts if not verdict.is_sound}


async def names(world: World, *ids: str) -> dict[int, int]:
    """What is found; every id must be named by some violation."""
    report = await verify_database(world.url)
    told = "\n".join(report.violations)
    assert [one for one in ids if one not in told] == [], told
    return found(report)


async def test_a_database_in_which_everything_happened_is_sound(world: World) -> None:
    """Ends, a cancel in the queue, a hand-back, a retry after a lost worker, a pause, a one-shot, work in flight."""
    await finished(world)
    session_id = await world.session(max_concurrent_runs=2)
    worker_id = await world.worker()
    first = await world.running(session_id=session_id, worker_id=worker_id, options=RETRY)
    await world.append(first)
    await world.queue.finish(first, HANDED_BACK)
    again = await world.claim(session_id, worker_id)
    await world.queue.start(again)
    await world.append(again, attempt=2)
    waiting = await world.submit(session_id)
    await world.queue.request_cancel(waiting.run_id, "default", "cancel")
    lost = await world.worker()
    await world.running(session_id=session_id, worker_id=lost)
    await world.lose(lost)
    await world.queue.sweep()
    paused = await world.session()
    await world.submit(paused)
    await world.queue.change_session(paused, "default", SessionVerb.PAUSE)

    report = await verify_database(world.url)

    assert report.is_sound, report.violations
    assert report.to_map()["sound"] is True
    assert [verdict["number"] for verdict in report.to_map()["invariants"]] == list(INVARIANTS)
    assert report.lines()[-1] == report.verdict == "sound, 8 invariants hold"


async def test_an_empty_database_is_sound(database_url: str) -> None:
    assert (await verify_database(database_url)).is_sound


async def test_gaps_wrong_counters_and_missing_counters_are_found(broken: World) -> None:
    """Invariant 1: numbers are exactly 1..n and the counter is n."""
    gap, ahead, behind, headless, uncounted = [await broken.session() for _ in range(5)]
    fine = await finished(broken)
    await broken.sql("UPDATE asm_events SET sequence_number = 7 WHERE session_id = %s AND sequence_number = 2", gap)
    await broken.sql("UPDATE asm_session_sequences SET last_sequence = 7 WHERE session_id = %s", gap)
    await broken.sql("UPDATE asm_session_sequences SET last_sequence = 3 WHERE session_id = %s", ahead)
    await broken.sql("UPDATE asm_session_sequences SET last_sequence = 1 WHERE session_id = %s", behind)
    await broken.sql("UPDATE asm_events SET sequence_number = sequence_number - 1 WHERE session_id = %s", headless)
    await broken.sql("DELETE FROM asm_session_sequences WHERE session_id = %s", uncounted)

    assert await names(broken, gap, ahead, behind, headless, uncounted) == {1: 5}
    assert fine not in str((await verify_database(broken.url)).to_map())


async def test_missing_doubled_wrong_early_and_premature_terminal_events_are_found(broken: World) -> None:
    """Invariant 2: one terminal event, that of the status, at the run's end; none before it is terminal."""
    missing, doubled, wrong, early = [await finished(broken) for _ in range(4)]
    alive = (await broken.running()).run_id
    ends = "UPDATE asm_events SET type = %s WHERE run_id = %s AND type = %s"
    await broken.sql(ends, "turn_completed", missing, "run_completed")
    await broken.sql(
        "UPDATE asm_events SET type = 'run_failed' WHERE run_id = %s AND sequence_number ="
        " (SELECT min(sequence_number) FROM asm_events WHERE run_id = %s)", doubled, doubled,
    )  # fmt: skip
    await broken.sql(ends, "run_failed", wrong, "run_completed")
    await emit(broken, early, "message_received")
    await emit(broken, alive, "run_cancelled")

    assert await names(broken, missing, doubled, wrong, early, alive) == {2: 5}


async def test_events_of_the_session_may_follow_a_terminal_event(broken: World) -> None:
    """Invariant 2 speaks of the run's own events."""
    run_id = await finished(broken)
    session_id = (await broken.run_row(run_id))["session_id"]
    await broken.queue.change_session(session_id, "default", SessionVerb.COMPLETE)
    assert await names(broken) == {}


async def test_an_event_of_an_older_fence_or_attempt_behind_a_takeover_is_found(broken: World) -> None:
    """Invariant 3; an event that carries neither (an approval decision) is left aside."""
    late, backward, decided = [(await broken.running()).run_id for _ in range(3)]
    for run_id, fences in ((late, [(1, 1), (2, 2), (1, 2)]), (backward, [(1, 2), (1, 1)])):
        for fence, attempt in fences:
            await emit(broken, run_id, "message_received", fence=fence, attempt=attempt)
    for fence in (1, None, 2):
        await emit(broken, decided, "tool_approval_granted", fence=fence)

    assert await names(broken, late, backward) == {3: 2}


async def test_a_claim_that_overtook_its_queue_is_found(broken: World) -> None:
    """Invariant 4; runs that were never claimed do not matter."""
    session_id = await broken.session(max_concurrent_runs=3)
    first, skipped, second = [(await broken.submit(session_id)).run_id for _ in range(3)]
    await broken.queue.request_cancel(skipped, "default", "cancel")
    worker_id = await broken.worker()
    for _ in range(2):
        await broken.claim(session_id, worker_id)
    assert await names(broken) == {}

    await broken.sql("UPDATE asm_runs SET first_fence = 3 - first_fence WHERE session_id = %s", session_id)

    assert await names(broken, session_id, second) == {4: 1}
    assert first not in str((await verify_database(broken.url)).to_map())


async def test_too_many_leases_of_a_session_or_a_limiter_are_found(broken: World) -> None:
    """Invariant 5, now."""
    await broken.queue.set_limiter("narrow", 5)
    crowded = await broken.session(max_concurrent_runs=2)
    worker_id = await broken.worker()
    leases = [await broken.running(session_id=crowded, worker_id=worker_id) for _ in range(2)]
    await broken.sql("UPDATE asm_run_leases SET limiter = 'narrow'")
    assert await names(broken) == {}

    await broken.sql("UPDATE asm_session_runtime SET max_concurrent_runs = 1 WHERE session_id = %s", crowded)
    await broken.sql("UPDATE asm_limiters SET max_parallel_runs = 1")

    assert await names(broken, crowded, "narrow") == {5: 3}, "leases of the session, its peak, leases of the limiter"
    for lease in leases:
        await broken.queue.finish(lease, an_outcome())
    assert await names(broken, "2 runs in flight at once") == {5: 1}, "the past is remembered"


async def test_runs_that_followed_each_other_at_once_did_not_overlap(broken: World) -> None:
    """Invariant 5, in the past: the end of one and the claim of the next may carry the same instant."""
    session_id = await broken.session()
    for _ in range(3):
        await finished(broken, session_id=session_id)
    await broken.sql(
        "UPDATE asm_runs SET claimed_at = %s + submit_seq * interval '1 s',"
        " ended_at = %s + (submit_seq + 1) * interval '1 s'",
        NOW, NOW,
    )  # fmt: skip
    assert await names(broken) == {}

    await broken.sql("UPDATE asm_runs SET ended_at = ended_at + interval '1 us' WHERE submit_seq = 1")
    assert await names(broken, session_id) == {5: 1}


async def test_runs_without_their_lease_and_leases_without_their_run_are_found(broken: World) -> None:
    """Invariant 5: a slot in use is a lease, and nothing else."""
    bare, other_fence, over = [await broken.running() for _ in range(3)]
    await broken.sql("DELETE FROM asm_run_leases WHERE run_id = %s", bare.run_id)
    await broken.sql("UPDATE asm_run_leases SET fence = 9 WHERE run_id = %s", other_fence.run_id)
    await broken.sql("UPDATE asm_runs SET status = 'pending' WHERE id = %s", over.run_id)

    assert await names(broken, bare.run_id, other_fence.run_id, over.run_id) == {5: 3}


async def test_usage_and_cost_that_do_not_add_up_are_found(broken: World) -> None:
    """Invariant 6, for terminal runs only."""
    tokens, cost, unspent, fine = [await finished(broken) for _ in range(4)]
    under_way = await broken.running()
    await broken.append(under_way, kind=EventType.TOKEN_USAGE_UPDATED, data={"input_tokens": 1})
    await broken.sql("""UPDATE asm_runs SET token_usage = '{"input_tokens": 8}' WHERE id = %s""", tokens)
    await broken.sql("UPDATE asm_runs SET cost_usd = cost_usd + 0.000001 WHERE id = %s", cost)
    await broken.sql("UPDATE asm_runs SET cost_usd = NULL WHERE id = %s", unspent)

    assert await names(broken, tokens, cost, unspent) == {6: 3}
    assert fine not in str((await verify_database(broken.url)).to_map())


async def test_strange_usage_events_add_up_as_they_did_when_the_run_ended(world: World) -> None:
    """Invariant 6: what is not a number does not count; fractions count exactly."""
    lease = await world.running()
    for data in (
        {"input_tokens": "7", "output_tokens": 2, "cost_usd": 0.1},
        {"input_tokens": None, "output_tokens": 1.5, "cost_usd": 0.2, "cost": 9, "model": "x"},
        {"cost_usd": "free", "nested": {"input_tokens": 5}},
        {},
    ):
        await world.append(lease, kind=EventType.TOKEN_USAGE_UPDATED, data=data)
    await world.queue.finish(lease, an_outcome(RunStatus.FAILED, error=AsmError(ErrorCode.PROVIDER_ERROR)))
    row = await world.run_row(lease.run_id)
    assert row["token_usage"] == {"output_tokens": 3.5}
    assert float(row["cost_usd"]) == 0.3


async def long_ago(world: World, seconds: float = 3600) -> None:
    """Everything that is stored happened earlier by so much; workers still beat."""
    by = timedelta(seconds=seconds)
    for table, columns in {
        "asm_runs": ("created_at", "claimed_at", "ended_at"),
        "asm_sessions": ("created_at", "updated_at"),
        "asm_session_runtime": ("last_served_at",),
        "asm_workers": ("started_at", "lost_at"),
        "asm_audit_log": ("at",),
    }.items():
        for column in columns:
            await world.sql(f"UPDATE {table} SET {column} = {column} - %s", by)


async def test_a_run_that_waits_beside_a_free_slot_is_found(broken: World) -> None:
    """Invariant 7, and only its head is named; a pause, a full session or a full fleet explain the waiting."""
    worker_id = await broken.worker(slots=2)
    session_id = await broken.session()
    head = (await broken.submit(session_id)).run_id
    behind = (await broken.submit(session_id)).run_id
    paused = await broken.session()
    await broken.submit(paused)
    await broken.queue.change_session(paused, "default", SessionVerb.PAUSE)
    full = await broken.session()
    await broken.running(session_id=full, worker_id=worker_id)
    await broken.submit(full)
    assert await names(broken) == {}, "nobody has waited long"

    await long_ago(broken)

    assert await names(broken, head) == {7: 1}
    assert behind not in str((await verify_database(broken.url)).to_map())
    await broken.sql("UPDATE asm_workers SET slots = 1")
    assert await names(broken) == {}, "no slot is free"


@pytest.mark.parametrize(
    "because",
    [
        "UPDATE asm_workers SET draining = true",
        "UPDATE asm_workers SET last_seen = last_seen - interval '16 s'",
        "UPDATE asm_workers SET started_at = clock_timestamp()",
        "UPDATE asm_session_runtime SET last_served_at = clock_timestamp()",
        "UPDATE asm_sessions SET updated_at = clock_timestamp()",
        "UPDATE asm_sessions SET status = 'completed'",
        "UPDATE asm_runs SET ended_at = clock_timestamp() WHERE status = 'completed'",
        "INSERT INTO asm_audit_log (action, session_id) SELECT 'run.requeued', id FROM asm_sessions",
    ],
)
async def test_what_explains_or_restarts_the_waiting(broken: World, because: str) -> None:
    """Invariant 7: since then nothing has changed, and somebody could have served the run all the time."""
    await broken.worker()
    session_id = await broken.session()
    await finished(broken, session_id=session_id)
    await broken.submit(session_id)
    await long_ago(broken)
    assert await names(broken) == {7: 1}

    await broken.sql(because)

    assert await names(broken) == {}


async def test_a_fleet_that_was_full_until_just_now_owes_nothing_yet(broken: World) -> None:
    """Invariant 7: a slot must have been free for as long as the run waited."""
    worker_id = await broken.worker(slots=1)
    busy = await broken.running(worker_id=worker_id)
    await broken.submit(await broken.session())
    await long_ago(broken)
    await broken.queue.finish(busy, an_outcome())
    assert await names(broken) == {}

    await long_ago(broken)
    assert await names(broken) == {7: 1}


async def test_a_limiter_lowered_below_its_use_is_no_fault(broken: World) -> None:
    """Invariant 5: what was in flight by then may end; nothing may join it."""
    await broken.queue.set_limiter("narrow", 2)
    runs = [await broken.running() for _ in range(3)]
    await broken.sql("UPDATE asm_run_leases SET limiter = 'narrow'")
    await broken.queue.set_limiter("narrow", 1)
    await broken.queue.set_limiter("narrow", 1)
    assert await names(broken) == {}
    await broken.sql("UPDATE asm_run_leases SET claimed_at = clock_timestamp() WHERE run_id = %s", runs[0].run_id)
    assert await names(broken, "narrow") == {5: 1}


async def test_waiting_for_a_full_limiter_is_no_fault(broken: World) -> None:
    """Invariant 7: a limiter's slot is a slot; once it is free the session must get it in time."""
    await broken.queue.set_limiter("narrow", 1)
    worker_id = await broken.worker()
    holder = await broken.session()
    waiting = await broken.session()
    await broken.sql("UPDATE asm_session_runtime SET limiter = 'narrow'")
    lease = await broken.running(session_id=holder, worker_id=worker_id)
    run_id = (await broken.submit(waiting)).run_id
    await broken.refused_claim(waiting, worker_id)
    await long_ago(broken)
    assert await names(broken) == {}
    await broken.queue.finish(lease, an_outcome())
    assert await names(broken) == {}, "it was freed just now"

    await long_ago(broken)
    assert await names(broken, run_id) == {7: 1}


async def test_a_lease_that_outlives_its_worker_is_found(broken: World) -> None:
    """Invariant 7: within its bound a lost worker's lease is taken."""
    worker_id = await broken.worker()
    lease = await broken.running(worker_id=worker_id)
    await broken.lose(worker_id)
    assert await names(broken) == {}

    await long_ago(broken, 16)

    assert await names(broken, lease.run_id, worker_id) == {7: 1}


async def test_the_time_can_be_given(broken: World) -> None:
    """`now` decides what has waited too long."""
    await broken.worker()
    run_id = (await broken.submit(await broken.session())).run_id
    await broken.sql("UPDATE asm_workers SET last_seen = clock_timestamp() + interval '1 hour'")
    async with inspect_database(broken.url) as inspection:
        assert (await verify(inspection)).is_sound
        later = await verify(inspection, now=datetime.now(UTC) + timedelta(seconds=60))
    assert found(later) == {7: 1}
    assert run_id in later.violations[0]


async def test_a_flood_of_violations_is_counted_and_some_are_shown(broken: World) -> None:
    """A report stays readable whatever has happened."""
    for _ in range(MAX_SHOWN + 5):
        await broken.session()
    await broken.sql("UPDATE asm_session_sequences SET last_sequence = 99")
    report = await verify_database(broken.url)
    assert found(report) == {1: MAX_SHOWN + 5}
    assert len(report.violations) == MAX_SHOWN
    assert report.verdict == f"violated: numbers ({MAX_SHOWN + 5})"
    assert "    and 5 more" in report.lines()


async def test_a_system_at_work_is_not_accused(world: World) -> None:
    """All checks see one snapshot, so what happens meanwhile is no violation."""
    worker_id = await world.worker()

    async def work() -> None:
        session_id = await world.session(max_concurrent_runs=2)
        for _ in range(6):
            await finished(world, session_id=session_id, worker_id=worker_id)

    workers = asyncio.gather(*(work() for _ in range(4)))
    checks = 0
    while not workers.done() or checks < 3:
        report = await verify_database(world.url)
        assert report.is_sound, report.violations
        checks += 1
    await workers


async def test_it_reads_only(broken: World) -> None:
    """The transaction is READ ONLY, REPEATABLE READ: what is committed meanwhile stays invisible."""
    async with inspect_database(broken.url) as inspection:
        assert (await inspection.examine(1)).is_sound
        await broken.session()
        await broken.sql("UPDATE asm_session_sequences SET last_sequence = 99")
        assert (await inspection.examine(1)).is_sound
    assert found(await verify_database(broken.url)) == {1: 1}


async def test_a_database_without_tables_needs_a_migration(empty_database_url: str) -> None:
    with pytest.raises(AsmError) as failure:
        await verify_database(empty_database_url)
    assert failure.value.code is ErrorCode.MIGRATION_REQUIRED


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("postgresql://nobody@127.0.0.1:1/none", ErrorCode.STORAGE_CONNECTION_FAILED),
        ("mysql://nobody@127.0.0.1:1/none", ErrorCode.VALIDATION_ERROR),
    ],
)
async def test_a_database_that_cannot_be_asked(url: str, code: ErrorCode) -> None:
    """Unreachable is not the same as unsound."""
    with pytest.raises(AsmError) as failure:
        await verify_database(url)
    assert failure.value.code is code


async def emit(world: World, run_id: str, kind: str, *, fence: int | None = None, attempt: int | None = None) -> None:
    """An event past every guard, properly numbered."""
    row = await world.run_row(run_id)
    await world.sql("SELECT asm_emit(%s, %s, '{}', %s, %s, %s)", row["session_id"], kind, run_id, fence, attempt)

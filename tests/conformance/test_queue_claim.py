"""Claiming and starting: who gets what, in which order, and who gets nothing."""

from __future__ import annotations

import asyncio

import pytest

from asm_core.domain.errors import LeaseLost
from asm_core.domain.lifecycle import RunStatus
from asm_core.ports.queue import Claimed, NotClaimed
from tests.builders import HANDED_BACK, RETRY, World, a_lease, an_outcome


async def test_a_claim_gives_everything_an_executor_needs(world: World) -> None:
    bounds = {"max_concurrent_runs": 3, "max_queued_runs": 7}
    session_id = await world.session(model="m", context={"system_prompt": "x"}, **bounds)
    submitted = await world.submit(session_id, options={"timeout_ms": 9, "model": "n"})
    worker_id = await world.worker()
    claim = await world.queue.claim(session_id, worker_id)
    assert isinstance(claim, Claimed)
    assert (claim.lease.run_id, claim.lease.session_id, claim.lease.fence) == (submitted.run_id, session_id, 1)
    assert (claim.lease.worker_id, claim.lease.tenant_id) == (worker_id, "default")
    assert (claim.run.status, claim.run.input) == (RunStatus.RUNNING, {"prompt": "hello"})
    assert claim.run.options is not None
    assert (claim.run.options.timeout_ms, claim.run.options.model) == (9, "n")
    assert (claim.session.model, claim.session.context) == ("m", {"system_prompt": "x"})
    assert (claim.session.max_concurrent_runs, claim.session.max_queued_runs) == (3, 7)
    row = await world.run_row(submitted.run_id)
    assert (row["claims"], row["fence"], row["first_fence"], row["worker_id"]) == (1, 1, 1, worker_id)


async def test_runs_are_claimed_in_the_order_of_their_submits(world: World) -> None:
    """Invariant 4; spec/03 check 17."""
    session_id = await world.session()
    worker_id = await world.worker()
    runs = [(await world.submit(session_id)).run_id for _ in range(5)]
    claimed = []
    for _ in runs:
        lease = await world.claim(session_id, worker_id)
        claimed.append(lease.run_id)
        await world.queue.start(lease)
        await world.queue.finish(lease, an_outcome())
    assert claimed == runs


async def test_slots_are_never_exceeded_and_each_free_one_is_announced(world: World) -> None:
    """spec/03 check 19: two slots, five runs; finishing one lets exactly one more in."""
    session_id = await world.session(max_concurrent_runs=2)
    worker_id = await world.worker()
    for _ in range(5):
        await world.submit(session_id)
    first = await world.queue.claim(session_id, worker_id)
    assert isinstance(first, Claimed)
    assert first.wake == [session_id], "another slot, another run: somebody else's turn"
    second = await world.queue.claim(session_id, worker_id)
    assert isinstance(second, Claimed)
    assert second.wake == [], "full: the baton comes with a finish"
    assert await world.queue.claim(session_id, worker_id) == NotClaimed("full")
    assert (await world.queue.finish(first.lease, an_outcome())).wake == [session_id]
    await world.claim(session_id, worker_id)
    assert (await world.refused_claim(session_id, worker_id)).reason == "full"


@pytest.mark.parametrize(("max_concurrent", "reason"), [(1, "empty"), (2, "empty")])
async def test_there_may_be_nothing_to_claim(world: World, max_concurrent: int, reason: str) -> None:
    worker_id = await world.worker()
    session_id = await world.session(max_concurrent_runs=max_concurrent)
    assert await world.queue.claim(session_id, worker_id) == NotClaimed(reason, [])
    assert (await world.refused_claim("ses_none", worker_id)).reason == "empty"


async def test_a_lost_or_unknown_worker_claims_nothing(world: World) -> None:
    """DESIGN §3: its own row is looked at first."""
    session_id = await world.session()
    run_id = (await world.submit(session_id)).run_id
    worker_id = await world.worker()
    await world.lose(worker_id)
    retired = await world.worker()
    await world.queue.retire_worker(retired)
    for nobody in (worker_id, retired, "wrk_none"):
        assert (await world.refused_claim(session_id, nobody)).reason == "lost"
    assert (await world.run_row(run_id))["status"] == "pending"


async def test_one_run_goes_to_one_of_many_workers(world: World) -> None:
    """FM-04: doubled wakeups."""
    session_id = await world.session(max_concurrent_runs=3)
    for _ in range(2):
        await world.submit(session_id)
    workers = [await world.worker() for _ in range(8)]
    answers = await asyncio.gather(*(world.queue.claim(session_id, worker_id) for worker_id in workers * 2))
    claimed = [answer.lease for answer in answers if isinstance(answer, Claimed)]
    assert len({lease.run_id for lease in claimed}) == len(claimed) == 2
    assert sorted(lease.fence for lease in claimed) == [1, 2]
    assert {answer.reason for answer in answers if isinstance(answer, NotClaimed)} <= {"empty", "full"}


async def test_the_start_mark_counts_an_attempt_once(world: World) -> None:
    """Repeated after an unknown commit it is the same mark."""
    lease = await world.running(options={"timeout_ms": 60_000})
    row = await world.run_row(lease.run_id)
    again = await world.queue.start(lease)
    assert (again.attempt, again.cancel_kind, again.superseded) == (1, None, None)
    assert 55_000 < again.remaining_ms <= 60_000
    after = await world.run_row(lease.run_id)
    assert [after[name] for name in ("attempt", "started_at", "deadline_at")] == [
        1, row["started_at"], row["deadline_at"],
    ]  # fmt: skip
    assert (row["deadline_at"] - row["started_at"]).total_seconds() == 60


async def test_only_the_holder_can_start(world: World) -> None:
    lease = await world.running()
    for nobody in (a_lease(run_id=lease.run_id, fence=lease.fence + 1), a_lease()):
        with pytest.raises(LeaseLost):
            await world.queue.start(nobody)
    await world.queue.finish(lease, an_outcome())
    with pytest.raises(LeaseLost):
        await world.queue.start(lease)


async def test_the_start_mark_tells_of_a_cancel(world: World) -> None:
    """Cancelled between claim and start: the provider is never called."""
    session_id = await world.session()
    submitted = await world.submit(session_id)
    lease = await world.claim(session_id, await world.worker())
    await world.queue.request_cancel(submitted.run_id, "default", "interrupt")
    assert (await world.queue.start(lease)).cancel_kind == "interrupt"


async def test_a_later_attempt_knows_what_it_supersedes_and_keeps_the_deadline(world: World) -> None:
    """DESIGN §3: `error_recovered` carries the range of the dead attempt; the time limit runs on."""
    session_id = await world.session()
    worker_id = await world.worker()
    first = await world.running(session_id=session_id, worker_id=worker_id, options=RETRY | {"timeout_ms": 60_000})
    numbers = [event.sequence_number for event in await world.append(first, 3)]
    deadline = (await world.run_row(first.run_id))["deadline_at"]
    await world.queue.finish(first, HANDED_BACK)
    second = await world.claim(session_id, worker_id)
    assert (second.run_id, second.fence) == (first.run_id, 2)
    started = await world.queue.start(second)
    assert (started.attempt, started.superseded) == (2, (numbers[0], numbers[-1]))
    await world.append(second, 2, attempt=2)
    await world.queue.finish(second, HANDED_BACK)
    third = await world.queue.start(await world.claim(session_id, worker_id))
    assert (third.attempt, third.superseded) == (3, (numbers[0], numbers[-1] + 2))
    assert (await world.run_row(first.run_id))["deadline_at"] == deadline


async def test_a_claim_that_never_started_supersedes_nothing(world: World) -> None:
    session_id = await world.session()
    worker_id = await world.worker()
    await world.submit(session_id)
    await world.queue.finish(await world.claim(session_id, worker_id), HANDED_BACK)
    started = await world.queue.start(await world.claim(session_id, worker_id))
    assert (started.attempt, started.superseded) == (1, None)


async def test_what_can_be_claimed_is_listed_least_recently_served_first(world: World) -> None:
    """For claims without a broker: sessions with a pending run and a free slot."""
    served, fresh, full, idle = [await world.session() for _ in range(4)]
    worker_id = await world.worker()
    await world.queue.finish(await world.running(session_id=served, worker_id=worker_id), an_outcome())
    await world.running(session_id=full, worker_id=worker_id)
    for session_id in (served, fresh, full):
        await world.submit(session_id)
    assert await world.queue.claimable(10) == [fresh, served]
    assert await world.queue.claimable(1) == [fresh]
    assert idle not in await world.queue.claimable(10)


async def test_registering_again_changes_nothing(world: World) -> None:
    """Repeated after an unknown commit; a dead worker does not rise."""
    worker_id = await world.worker()
    await world.queue.retire_worker(worker_id)
    await world.queue.register_worker(worker_id, hostname="there", pid=2, slots=9)
    assert (await world.row("workers", id=worker_id))["lost_at"] is not None

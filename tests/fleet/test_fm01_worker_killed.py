"""FM-01: a worker is killed in the middle of its runs."""

from __future__ import annotations

import secrets
import time

from asm_core.domain.lifecycle import RunStatus
from asm_core.ports.queue import Claimed
from tests.fixtures.faults import eventually
from tests.fixtures.fleet import Fleet
from tests.fixtures.workers import processes_with

USAGE = {"usage": {"input_tokens": 10, "output_tokens": 1}}


async def test_runs_of_a_killed_worker_fail_once_or_complete_elsewhere(fleet: Fleet) -> None:
    """
    By default effects are not repeated: the run has failed, and its queue goes on. With `retry` a second attempt says
    first which events it replaces; usage of both attempts is kept.
    """
    [victim] = await fleet.start(1)
    failing, repeating = await fleet.session(), await fleet.session()
    fleet.follow(failing)
    followed = fleet.follow(repeating)
    lost = await fleet.submit(failing, USAGE, {"say": "first"}, {"sleep_ms": 600_000})
    behind = await fleet.submit(failing, {"say": "next"})
    script = [USAGE, {"say": "one two three", "chunks": 3}, {"sleep_ms": 1_000}, {"say": "done"}]
    repeated = await fleet.submit(repeating, *script, on_worker_lost="retry")
    for run_id in (lost, repeated):
        await fleet.emitted(run_id, "message_received")
    first_attempt = [event["sequence_number"] for event in await fleet.events_of(repeated)]
    victim.kill()
    killed_at = time.monotonic()
    await fleet.add_workers(1)
    await fleet.emitted(repeated, "error_recovered")
    print(f"\n{time.monotonic() - killed_at:.2f} s from SIGKILL to the second attempt")

    run = await fleet.ended(lost)
    assert (run.status, run.attempt) == (RunStatus.FAILED, 1)
    assert run.error is not None
    assert run.error["details"]["reason"] == "worker_lost"
    assert run.token_usage == USAGE["usage"]
    assert (await fleet.ended(behind)).status is RunStatus.COMPLETED

    run = await fleet.ended(repeated)
    assert (run.status, run.attempt) == (RunStatus.COMPLETED, 2)
    assert run.token_usage == {"input_tokens": 20, "output_tokens": 2}
    events = await fleet.events_of(repeated)
    [recovered] = [event for event in events if event["type"] == "error_recovered"]
    superseded = {"superseded_from": first_attempt[0], "superseded_to": first_attempt[-1]}
    assert recovered["data"] == {"attempt": 2} | superseded
    assert [event["attempt"] for event in events] == [1] * len(first_attempt) + [2] * (len(events) - len(first_attempt))
    await fleet.ends_well()
    assert recovered in followed.events


async def test_run_that_was_claimed_but_not_started_goes_back_to_its_place(fleet: Fleet) -> None:
    """Dead between claim and start mark: nothing can have happened, so the run is simply claimed again, and first."""
    await fleet.start(0)
    session = await fleet.session()
    fleet.follow(session)
    runs = [await fleet.submit(session, {"say": "first"}), await fleet.submit(session, {"say": "second"})]
    queue = fleet.deps.submitter.queue
    await queue.register_worker("wrk_that_never_beats", hostname="here", pid=0, slots=1)
    claim = await queue.claim(session, "wrk_that_never_beats")
    assert isinstance(claim, Claimed)
    assert claim.run.id == runs[0]
    await fleet.add_workers(1)

    first, second = [await fleet.ended(run_id) for run_id in runs]
    assert (first.status, first.attempt) == (RunStatus.COMPLETED, 1)
    assert [row["claims"] for row in await fleet.sql("SELECT claims FROM asm_runs ORDER BY submit_seq")] == [2, 1]
    assert first.started_at is not None and second.started_at is not None
    assert first.started_at < second.started_at
    assert "error_recovered" not in [event["type"] for event in await fleet.events_of(first.id)]
    await fleet.ends_well()


async def test_nothing_that_a_run_started_outlives_its_killed_worker(fleet: Fleet) -> None:
    """The shell run's command, its background job and its orphaned daemon are gone 2 s after the worker."""
    [worker] = await fleet.start(1)
    session = await fleet.session()
    mark = f"600.{secrets.randbelow(10**9):09d}"
    command = f"(setsid sleep {mark} &) ; sleep {mark} & sleep {mark}"
    run_id = await fleet.submit(session, provider="shell", input={"command": command})

    def all_started() -> None:
        assert len(processes_with(mark, "sleep")) == 3

    await eventually(all_started, 15)
    worker.kill()
    killed_at = time.monotonic()

    def all_gone() -> None:
        assert processes_with(mark) == []

    await eventually(all_gone, 6)
    print(f"\nthe last process was gone {time.monotonic() - killed_at:.2f} s after its worker")
    await fleet.add_workers(1)
    assert (await fleet.ended(run_id)).status is RunStatus.FAILED
    await fleet.ends_well()

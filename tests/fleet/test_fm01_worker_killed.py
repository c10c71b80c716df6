"""FM-01: a worker is killed in the middle of its runs."""

from __future__ import annotations

import secrets
import time

import psutil

from asm_core.domain.lifecycle import RunStatus
from asm_core.ports.queue import Claimed
from tests.fixtures.faults import eventually
from tests.fixtures.fleet import Fleet

FOREVER = {"sleep_ms": 600_000}


async def test_run_of_a_killed_worker_fails_once_and_its_queue_goes_on(fleet: Fleet) -> None:
    """By default a run's effects are not repeated: it has failed, with the reason; the next run of its session starts."""
    await fleet.start(2)
    session = await fleet.session()
    fleet.follow(session)
    lost = await fleet.submit(session, {"say": "first"}, FOREVER)
    following = await fleet.submit(session, {"say": "next"})
    await fleet.emitted(lost, "message_received")
    (await fleet.holder(lost)).kill()

    run = await fleet.ended(lost)
    assert run.status is RunStatus.FAILED
    assert run.error is not None
    assert run.error["details"]["reason"] == "worker_lost"
    assert run.attempt == 1
    assert (await fleet.ended(following)).status is RunStatus.COMPLETED
    await fleet.ends_well()


async def test_retried_run_of_a_killed_worker_completes_elsewhere(fleet: Fleet) -> None:
    """The second attempt says so first, and which events it replaces; usage of both attempts is kept."""
    await fleet.start(2)
    session = await fleet.session()
    followed = fleet.follow(session)
    usage = {"usage": {"input_tokens": 10, "output_tokens": 1}}
    run_id = await fleet.submit(
        session, usage, {"say": "one two three", "chunks": 3}, {"sleep_ms": 1_000}, {"say": "done"}, on_worker_lost="retry"
    )
    await fleet.emitted(run_id, "message_received")
    first_attempt = [event["sequence_number"] for event in await fleet.events_of(run_id)]
    holder = await fleet.holder(run_id)
    holder.kill()
    killed_at = time.monotonic()
    await fleet.emitted(run_id, "error_recovered")
    print(f"takeover {time.monotonic() - killed_at:.2f} s after SIGKILL")

    run = await fleet.ended(run_id)
    assert (run.status, run.attempt) == (RunStatus.COMPLETED, 2)
    assert run.token_usage == {"input_tokens": 20, "output_tokens": 2}
    events = await fleet.events_of(run_id)
    [recovered] = [event for event in events if event["type"] == "error_recovered"]
    assert recovered["data"] == {
        "attempt": 2, "superseded_from": first_attempt[0], "superseded_to": first_attempt[-1],
    }  # fmt: skip
    assert [event["attempt"] for event in events] == [1] * len(first_attempt) + [2] * (len(events) - len(first_attempt))
    await fleet.ends_well()
    assert recovered in followed.events


async def test_run_that_kills_its_worker_fails_alone(fleet: Fleet) -> None:
    """The crash step takes its worker along, and with it the runs of other sessions; those that allow it come back."""
    await fleet.start(2, slots=4)
    crashing, bystander = await fleet.session(), await fleet.session()
    crash = await fleet.submit(crashing, {"say": "so long"}, {"sleep_ms": 500}, {"crash": "sigkill"})
    others = [
        await fleet.submit(bystander, {"say": "hello", "chunks": 5, "delay_ms": 300}, on_worker_lost="retry")
        for _ in range(3)
    ]
    run = await fleet.ended(crash)
    assert run.status is RunStatus.FAILED
    assert [event["type"] for event in await fleet.events_of(crash)][-1] == "run_failed"
    for other in others:
        assert (await fleet.ended(other)).status is RunStatus.COMPLETED
    assert sum(not worker.is_alive for worker in fleet.workers) == 1
    await fleet.ends_well()


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
    """The shell run's child, its background jobs and a daemon in a session of its own are gone 2 s after the worker."""
    await fleet.start(1)
    session = await fleet.session()
    mark = f"600.{secrets.randbelow(10**9):09d}"
    command = f"setsid sh -c 'sleep {mark} & sleep {mark} & wait' & sleep {mark}"
    run_id = await fleet.submit(session, provider="shell", input={"command": command})

    async def all_started() -> None:
        assert len(sleepers(mark)) >= 3

    await eventually(all_started, 15)
    [worker] = fleet.workers
    worker.kill()
    killed_at = time.monotonic()

    def all_gone() -> None:
        assert sleepers(mark) == []

    await eventually(all_gone, 6)
    print(f"the last process was gone {time.monotonic() - killed_at:.2f} s after its worker")
    await fleet.add_workers(1)
    assert (await fleet.ended(run_id)).status is RunStatus.FAILED
    await fleet.ends_well()


def sleepers(mark: str) -> list[int]:
    """Processes with `mark` in their command line."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(mark in word for word in process.info["cmdline"] or ()):
            found.append(process.pid)
    return found

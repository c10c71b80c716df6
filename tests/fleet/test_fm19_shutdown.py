"""FM-19: a worker is asked to end, or finds that it must."""

from __future__ import annotations

from asm_core.domain.lifecycle import RunStatus
from asm_workers.worker import EXIT_REPLACE_ME
from tests.fixtures.faults import TcpProxy, eventually, proxied
from tests.fixtures.fleet import Fleet
from tests.fixtures.workers import WorkerProcess

FOREVER = {"sleep_ms": 600_000}


async def exits(worker: WorkerProcess, timeout_s: float) -> int:
    def has_ended() -> None:
        assert not worker.is_alive, f"{worker.name} does not end"

    await eventually(has_ended, timeout_s)
    assert worker.exit_code is not None
    return worker.exit_code


async def test_worker_told_to_end_leaves_no_run_behind(fleet: Fleet) -> None:
    """What can finish in time does; what may start again completes elsewhere; the rest has failed, with the reason."""
    [leaving] = await fleet.start(1, ASM_DRAIN_TIMEOUT_MS=800)
    sessions = [await fleet.session() for _ in range(4)]
    for session in sessions:
        fleet.follow(session)
    short = await fleet.submit(sessions[0], {"say": "nearly done"}, {"sleep_ms": 500}, {"say": "done"})
    repeatable = await fleet.submit(
        sessions[1], {"say": "long"}, {"sleep_ms": 2_000}, {"say": "done"}, on_worker_lost="retry"
    )
    endless = await fleet.submit(sessions[2], {"say": "endless"}, FOREVER)
    queued = await fleet.submit(sessions[2], {"say": "behind the endless"})
    for run_id in (short, repeatable, endless):
        await fleet.emitted(run_id, "message_received")
    leaving.term()
    late = await fleet.submit(sessions[3], {"say": "for others"})
    await fleet.add_workers(1)
    assert await exits(leaving, 12) == 0

    ended = [await fleet.ended(run_id) for run_id in (short, repeatable, endless, queued, late)]
    assert [(run.status, run.attempt) for run in ended] == [
        (RunStatus.COMPLETED, 1),
        (RunStatus.COMPLETED, 2),
        (RunStatus.FAILED, 1),
        (RunStatus.COMPLETED, 1),
        (RunStatus.COMPLETED, 1),
    ]
    assert ended[2].error is not None
    assert ended[2].error["details"]["reason"] == "worker_shutdown"
    await fleet.ends_well()


async def test_worker_whose_consumer_is_dead_finishes_its_runs_and_leaves(fleet: Fleet) -> None:
    """The broker answers but feeds it no more: its canary tells, its supervisor starts another one."""
    await fleet.start(0, ASM_BROKER_OUTAGE_MS=1_000, ASM_DRAIN_TIMEOUT_MS=20_000)
    session, other = await fleet.session(), await fleet.session()
    fleet.follow(session)
    with TcpProxy(fleet.servers.redis.port) as proxy:
        [starving] = await fleet.add_workers(1, ASM_REDIS_URL=proxied(fleet.settings.redis_url, proxy))
        run_id = await fleet.submit(session, {"say": "x" * 50, "chunks": 50, "delay_ms": 100})
        await fleet.emitted(run_id, "message_streamed")
        proxy.stall_on(b"BRPOP")
        assert await exits(starving, 30) == EXIT_REPLACE_ME
        assert (await fleet.ended(run_id)).status is RunStatus.COMPLETED
        following = await fleet.submit(other, {"say": "next"})
        await fleet.add_workers(1)
        assert (await fleet.ended(following)).status is RunStatus.COMPLETED
        await fleet.ends_well()

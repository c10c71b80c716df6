"""FM-07: workers lose Postgres, everybody else has it."""

from __future__ import annotations

import secrets
from contextlib import ExitStack

import pytest

from asm_core.domain.lifecycle import RunStatus
from tests.fixtures.faults import TcpProxy, eventually, proxied
from tests.fixtures.fleet import IS_LONG, TAKEOVER_S, Fleet
from tests.fixtures.workers import processes_with

STREAM = {"say": " ".join(map(str, range(80))), "chunks": 80, "delay_ms": 40}


async def test_isolated_worker_is_taken_over_and_cannot_interfere(fleet: Fleet) -> None:
    """
    One worker's connections are reset, another's swallow everything. Their runs end or go on elsewhere; what they have
    buffered meanwhile is void when the network is back.
    """
    await fleet.start(0)
    failing = [await fleet.session(), await fleet.session()]
    repeating = [await fleet.session(), await fleet.session()]
    for session in (*failing, *repeating):
        fleet.follow(session)
    with ExitStack() as stack:
        proxies = [stack.enter_context(TcpProxy(fleet.servers.postgres.port)) for _ in range(2)]
        isolated = []
        for proxy in proxies:
            isolated += await fleet.add_workers(1, slots=2, ASM_DATABASE_URL=proxied(fleet.database_url, proxy))
        lost = [await fleet.submit(session, STREAM) for session in failing]
        repeated = [await fleet.submit(session, STREAM, on_worker_lost="retry") for session in repeating]
        for run_id in (*lost, *repeated):
            await fleet.emitted(run_id, "message_streamed", at_least=5)
        proxies[0].cut()
        proxies[1].blackhole()
        await fleet.add_workers(1)
        for run_id in lost:
            assert (await fleet.ended(run_id)).status is RunStatus.FAILED
        for run_id in repeated:
            await fleet.emitted(run_id, "error_recovered")
        assert all(worker.is_alive for worker in isolated)
        logs = [await fleet.log(session) for session in failing]
        for proxy in proxies:
            proxy.heal()
        await fleet.registered(isolated)
        for run_id in repeated:
            run = await fleet.ended(run_id)
            assert (run.status, run.attempt) == (RunStatus.COMPLETED, 2)
        assert [await fleet.log(session) for session in failing] == logs
        await fleet.ends_well()


async def test_isolated_worker_stops_what_another_may_start(fleet: Fleet) -> None:
    """Without a confirmed beat it ends a repeatable run's command before its lease ends: never two at a time."""
    await fleet.start(0)
    session = await fleet.session()
    mark = f"601.{secrets.randbelow(10**9):09d}"
    with TcpProxy(fleet.servers.postgres.port) as proxy:
        await fleet.add_workers(1, ASM_DATABASE_URL=proxied(fleet.database_url, proxy))
        run_id = await fleet.submit(
            session, provider="shell", input={"command": f"sleep {mark}"}, on_worker_lost="retry"
        )

        def commands() -> list[int]:
            found = processes_with(mark, "sleep")
            assert found, "no command is running"
            return found

        async def has_beaten() -> None:
            assert await fleet.sql("SELECT id FROM asm_workers WHERE last_seen > started_at")

        [first] = await eventually(commands, TAKEOVER_S)
        await eventually(has_beaten, TAKEOVER_S)
        proxy.blackhole()
        await fleet.add_workers(1)
        await fleet.emitted(run_id, "error_recovered")
        assert first not in processes_with(mark)
        await eventually(commands, TAKEOVER_S)
        await fleet.cancel(run_id)
        assert (await fleet.ended(run_id)).status is RunStatus.CANCELLED
        assert processes_with(mark) == []
        await fleet.ends_well()


@pytest.mark.skipif(not IS_LONG, reason="waits for the client's own bounds, about 10 s; runs in `make fleet`")
async def test_worker_whose_connections_died_in_silence_comes_back(fleet: Fleet) -> None:
    """Nothing ever answers on what was open, new connections work: it hangs up by itself and takes runs again."""
    await fleet.start(0)
    session = await fleet.session()
    fleet.follow(session)
    with TcpProxy(fleet.servers.postgres.port) as proxy:
        [worker] = await fleet.add_workers(1, ASM_DATABASE_URL=proxied(fleet.database_url, proxy))
        lost = await fleet.submit(session, STREAM)
        await fleet.emitted(lost, "message_streamed", at_least=5)
        proxy.forget()
        following = await fleet.submit(session, {"say": "next"})
        assert (await fleet.ended(following, 60)).status is RunStatus.COMPLETED
        assert worker.is_alive
        await fleet.ends_well()

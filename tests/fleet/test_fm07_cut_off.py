"""FM-07: workers lose Postgres, everybody else has it."""

from __future__ import annotations

from contextlib import ExitStack

from asm_core.domain.lifecycle import RunStatus
from tests.fixtures.faults import TcpProxy
from tests.fixtures.fleet import Fleet

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
        lost, repeated, isolated, proxies = [], [], [], []
        for number in range(2):
            proxy = stack.enter_context(TcpProxy(fleet.servers.postgres.port))
            url = fleet.database_url.replace(f":{fleet.servers.postgres.port}/", f":{proxy.port}/")
            isolated += await fleet.add_workers(1, slots=2, ASM_DATABASE_URL=url)
            lost.append(await fleet.submit(failing[number], STREAM))
            repeated.append(await fleet.submit(repeating[number], STREAM, on_worker_lost="retry"))
            for run_id in (lost[-1], repeated[-1]):
                await fleet.emitted(run_id, "message_streamed", at_least=5)
            proxies.append(proxy)
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

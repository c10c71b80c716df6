"""FM-06: Postgres is away, Redis is there."""

from __future__ import annotations

import asyncio

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.lifecycle import RunStatus
from tests.fixtures.faults import TcpProxy, proxied
from tests.fixtures.fleet import Fleet

CHUNKS = 60
STREAM = {"say": "".join(chr(65 + n % 26) for n in range(CHUNKS)), "chunks": CHUNKS, "delay_ms": 40}
OUTAGE_S = 4.0
"""Longer than the fast profile's ttl."""


async def test_events_pass_a_restart_of_postgres_whole(fleet: Fleet) -> None:
    """Restarted twice under streaming load: every chunk is stored, in order, once; no run is started again."""
    await fleet.start(2, slots=10)
    sessions = [await fleet.session(max_concurrent_runs=2) for _ in range(6)]
    for session in sessions:
        fleet.follow(session)
    runs = [await fleet.submit(session, STREAM) for session in sessions for _ in range(2)]
    for run_id in runs:
        await fleet.emitted(run_id, "message_streamed")
    await fleet.servers.do(fleet.servers.postgres.restart)
    await asyncio.sleep(0.5)
    await fleet.servers.do(fleet.servers.postgres.kill)
    await fleet.servers.do(fleet.servers.postgres.restart)
    await fleet.ends_well()
    for run_id in runs:
        run = await fleet.run(run_id)
        assert (run.status, run.attempt) == (RunStatus.COMPLETED, 1)
        told = [e["data"]["content"] for e in await fleet.events_of(run_id) if e["type"] == "message_streamed"]
        assert "".join(told) == STREAM["say"]
        assert len(told) == CHUNKS


async def test_outage_of_postgres_expires_nobody(fleet: Fleet) -> None:
    """
    Away for longer than a lease lives: healthy workers keep their runs, even one that finds the store again a second
    later than the others, which sweep meanwhile. Those that may start again do so at most.
    """
    await fleet.start(1, slots=2)
    with TcpProxy(fleet.servers.postgres.port) as proxy:
        await fleet.add_workers(1, slots=2, ASM_DATABASE_URL=proxied(fleet.database_url, proxy))
        session = await fleet.session(max_concurrent_runs=4)
        fleet.follow(session)
        keeping = [await fleet.submit(session, STREAM) for _ in range(3)]
        repeatable = await fleet.submit(session, STREAM, on_worker_lost="retry")
        for run_id in (*keeping, repeatable):
            await fleet.emitted(run_id, "message_streamed")
        await fleet.servers.do(fleet.servers.postgres.stop)
        proxy.cut()
        refused = asyncio.create_task(fleet.submit(session, {"say": "not now"}))
        await asyncio.sleep(OUTAGE_S)
        assert isinstance(refused.exception(), AsmError)
        assert refused.exception().code is ErrorCode.STORAGE_CONNECTION_FAILED
        await fleet.servers.do(fleet.servers.postgres.restart)
        await asyncio.sleep(1)
        proxy.heal()
        for run_id in keeping:
            run = await fleet.ended(run_id, 20)
            assert (run.status, run.attempt) == (RunStatus.COMPLETED, 1)
        assert (await fleet.ended(repeatable, 20)).status is RunStatus.COMPLETED
        assert not await fleet.sql("SELECT id FROM asm_workers WHERE lost_at IS NOT NULL")
        await fleet.ends_well()

"""FM-07: one worker loses Postgres, everybody else has it."""

from __future__ import annotations

import pytest

from asm_core.domain.lifecycle import RunStatus
from tests.fixtures.faults import TcpProxy
from tests.fixtures.fleet import Fleet

STREAM = {"say": " ".join(map(str, range(80))), "chunks": 80, "delay_ms": 40}


@pytest.mark.parametrize("fault", ["cut", "blackhole"])
async def test_isolated_worker_is_taken_over_and_cannot_interfere(fleet: Fleet, fault: str) -> None:
    """Its runs end or go on elsewhere; what it has buffered meanwhile is void when its connection comes back."""
    await fleet.start(0)
    failing, repeating = await fleet.session(), await fleet.session()
    fleet.follow(failing)
    fleet.follow(repeating)
    with TcpProxy(fleet.servers.postgres.port) as proxy:
        isolated_url = fleet.database_url.replace(f":{fleet.servers.postgres.port}/", f":{proxy.port}/")
        [isolated] = await fleet.add_workers(1, ASM_DATABASE_URL=isolated_url)
        lost = await fleet.submit(failing, STREAM)
        repeated = await fleet.submit(repeating, STREAM, on_worker_lost="retry")
        for run_id in (lost, repeated):
            await fleet.emitted(run_id, "message_streamed", at_least=5)
        getattr(proxy, fault)()
        await fleet.add_workers(1)
        assert (await fleet.ended(lost)).status is RunStatus.FAILED
        await fleet.emitted(repeated, "error_recovered")
        assert isolated.is_alive
        log_of_lost = await fleet.log(failing)
        proxy.heal()
        await fleet.registered([isolated])
        run = await fleet.ended(repeated)
        assert (run.status, run.attempt) == (RunStatus.COMPLETED, 2)
        assert await fleet.log(failing) == log_of_lost
        await fleet.ends_well()

"""FM-08: what is published is lost, late or out of order."""

from __future__ import annotations

import random

from asm_core.bus.hub import Hub
from asm_core.domain.lifecycle import RunStatus
from asm_core.domain.session import DEFAULT_TENANT
from asm_core.manager.subscribe import Follower
from asm_core.ports.store import EventFilter
from tests.fixtures.faults import LossyBus
from tests.fixtures.fleet import Fleet, parsed

STREAM = {"say": "x" * 40, "chunks": 40, "delay_ms": 25}


async def test_follower_gets_everything_in_order_over_a_lossy_bus(fleet: Fleet) -> None:
    """A third of the messages never arrive, a third arrive behind their successor: seen is exactly what is stored."""
    await fleet.start(2)
    session = await fleet.session(max_concurrent_runs=2)
    bus = LossyBus(fleet.settings.redis_url, fleet.prefix, random.Random(8), drop=0.33, swap=0.33)
    async with Hub(bus, fleet.deps.store, buffer=1_000).running() as hub:
        for _ in range(4):
            await fleet.submit(session, STREAM)
        follower = Follower(hub, fleet.deps.store, DEFAULT_TENANT)
        seen = [
            parsed(frame.body)
            async for frames in follower.follow(session, EventFilter(), until_idle=True)
            for frame in frames
        ]
    await bus.close()
    assert bus.dropped
    assert seen == await fleet.log(session)
    assert await fleet.statuses() == {RunStatus.COMPLETED: 4}
    await fleet.ends_well()


async def test_slow_follower_is_sent_to_the_store(fleet: Fleet) -> None:
    """A buffer of three frames overflows all the time; the store makes it good."""
    await fleet.start(1)
    session = await fleet.session(max_concurrent_runs=2)
    async with Hub(fleet.deps.hub._bus, fleet.deps.store, buffer=3).running() as hub:
        for _ in range(2):
            await fleet.submit(session, {"say": "x" * 300, "chunks": 300})
        follower = Follower(hub, fleet.deps.store, DEFAULT_TENANT)
        seen = [
            parsed(frame.body)
            async for frames in follower.follow(session, EventFilter(), until_idle=True)
            for frame in frames
        ]
    assert seen == await fleet.log(session)
    await fleet.ends_well()

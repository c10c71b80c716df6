"""FM-08: what is published is lost, late or out of order."""

from __future__ import annotations

import asyncio
import random

import pytest

from asm_core.bus.hub import Hub
from asm_core.bus.redis import RedisBus
from asm_core.domain.lifecycle import RunStatus
from asm_core.domain.session import DEFAULT_TENANT
from asm_core.manager.subscribe import Follower
from asm_core.ports.store import EventFilter
from tests.fixtures.faults import LossyBus
from tests.fixtures.fleet import Event, Fleet, parsed

STREAM = {"say": "x" * 40, "chunks": 40, "delay_ms": 25}


@pytest.mark.parametrize("drop", [0.33, 1.0])
async def test_follower_gets_everything_in_order_over_a_lossy_bus(fleet: Fleet, drop: float) -> None:
    """Messages are lost, some or all, or arrive behind their successor: seen is exactly what is stored."""
    await fleet.start(1)
    session = await fleet.session(max_concurrent_runs=2)
    bus = LossyBus(fleet.settings.redis_url, fleet.prefix, random.Random(8), drop=drop, swap=0.33)
    async with Hub(bus, fleet.deps.store, buffer=1_000).running() as hub:
        for _ in range(3):
            await fleet.submit(session, STREAM)
        seen = await until_idle(Follower(hub, fleet.deps.store, DEFAULT_TENANT), session)
    await bus.close()
    assert bus.dropped
    assert seen == await fleet.log(session)
    assert await fleet.statuses() == {RunStatus.COMPLETED: 3}
    await fleet.ends_well()


async def test_slow_follower_is_sent_to_the_store(fleet: Fleet) -> None:
    """A buffer of three frames overflows all the time; the store makes it good."""
    await fleet.start(1)
    session = await fleet.session(max_concurrent_runs=2)
    bus = RedisBus(fleet.settings.redis_url, fleet.prefix)
    async with Hub(bus, fleet.deps.store, buffer=3).running() as hub:
        for _ in range(2):
            await fleet.submit(session, {"say": "x" * 300, "chunks": 300})
        seen = await until_idle(Follower(hub, fleet.deps.store, DEFAULT_TENANT), session)
    await bus.close()
    assert seen == await fleet.log(session)
    await fleet.ends_well()


async def until_idle(follower: Follower, session: str) -> list[Event]:
    """What the follower sees until nothing is left to do."""
    batches = follower.follow(session, EventFilter(), until_idle=True)
    async with asyncio.timeout(30):
        return [parsed(frame.body) async for frames in batches for frame in frames]

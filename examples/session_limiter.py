"""A bound for the whole fleet, beside that of each session: who finds it full waits, and does not fail."""

from __future__ import annotations

import asyncio
from itertools import pairwise

from _common import a_stack, claim, main

from asm_api.client import AsyncAsmClient

UNTIL_STOPPED = {"script": [{"sleep_ms": 3_600_000}]}


async def example() -> None:
    with a_stack("--workers", "1", ASM_MAX_PARALLEL_RUNS="1") as stack:
        async with AsyncAsmClient(stack.url) as api:
            first = await api.submit_once(UNTIL_STOPPED, agent_id="first")
            async for _ in api.follow(first["session_id"], types=["run_started"]):
                break
            second = await api.submit_once({"prompt": "Hello"}, agent_id="second")
            third = await api.submit_once({"prompt": "Hello again"}, agent_id="third")
            for run in (second, third):
                in_flight = await waiting_for_the_fleet(api, run["session_id"])
                claim("a session with a free slot of its own waits for the fleet's", in_flight == 0)
            fleet = await api.stats()
            print(f"  {fleet['slots']} slots, {fleet['in_flight']} in flight, {fleet['runs']}")
            claim("one run is in flight, though there are slots", fleet["slots"] > 1 and fleet["in_flight"] == 1)

            await api.cancel(first["id"])
            ended = [await api.wait(run["id"]) for run in (first, second, third)]
            claim("none has failed for having to wait", [run["status"] for run in ended[1:]] == ["completed"] * 2)
            times = sorted((run["started_at"], run["ended_at"]) for run in ended)
            claim("they ran one after the other", all(a[1] <= b[0] for a, b in pairwise(times)))
            claim("and the bound is free again", (await api.stats())["in_flight"] == 0)


async def waiting_for_the_fleet(api: AsyncAsmClient, session_id: str) -> int:
    """Once it does, how many of its own runs are in flight. No event tells of waiting."""
    while True:
        queue = await api.queue(session_id)
        if queue["limiter_waiting"]:
            return int(queue["in_flight_count"])
        await asyncio.sleep(0.05)


if __name__ == "__main__":
    main(example)

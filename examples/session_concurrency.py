"""Two slots and four runs: two at once, the others wait, and each end lets the next one in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from _common import MEMORY, claim, main

from asm_core import (
    Completion,
    EventFilter,
    EventType,
    Execution,
    RawEvent,
    ScriptedAdapter,
    SessionRuntime,
    open_manager,
)

SLOTS = 2


class Patient(ScriptedAdapter):
    """Begins, and does not end before it may."""

    name = "patient"

    def __init__(self) -> None:
        super().__init__()
        self.may_end = asyncio.Event()

    async def execute(self, execution: Execution) -> AsyncGenerator[RawEvent | Completion, None]:
        yield RawEvent(EventType.RUN_STARTED)
        await self.may_end.wait()
        yield Completion()


async def example() -> None:
    adapter = Patient()
    async with open_manager(MEMORY, adapter) as manager:
        session = await manager.open_session("worker", max_concurrent_runs=SLOTS)
        async with SessionRuntime(manager, session.id) as runtime:
            runs = [(await runtime.submit_run({"prompt": f"task {number}"})).run_id for number in range(4)]
            await begun(runtime, SLOTS)
            now = await runtime.status()
            print(f"  in flight {len(now.in_flight_runs)}, queued {len(now.queued_runs)}")
            claim("the first two run", sorted(now.in_flight_runs) == sorted(runs[:SLOTS]))
            claim("the others wait, in order", list(now.queued_runs) == runs[SLOTS:])
            adapter.may_end.set()
            await runtime.drain(timeout_s=30)
            claim("drained, nothing is left", (await runtime.status()).is_idle)
        events = await manager.get_session_events(session.id)

    started = [event.run_id for event in events if event.type == "run_started"]
    claim("all have run, in the order of their submits", started == runs)
    in_flight, most = 0, 0
    for event in events:
        in_flight += {"run_started": 1, "run_completed": -1}.get(event.type, 0)
        most = max(most, in_flight)
    claim("the log knows of no moment with more than two", most == SLOTS)


async def begun(runtime: SessionRuntime, count: int) -> None:
    """Until so many runs have started."""
    async for _ in runtime.subscribe(EventFilter(types=["run_started"])):
        count -= 1
        if not count:
            return


if __name__ == "__main__":
    main(example)

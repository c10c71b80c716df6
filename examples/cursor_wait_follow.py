"""Long poll: ask for what comes behind a cursor, and wait for it."""

from __future__ import annotations

import asyncio

from _common import MEMORY, claim, main

from asm_core import EventFilter, ScriptedAdapter, open_manager


async def example() -> None:
    async with open_manager(MEMORY, ScriptedAdapter()) as manager:
        session = await manager.open_session("slow")
        run = await manager.start_run(session.id, {"script": [{"sleep_ms": 100}, {"say": "at last"}]})
        execution = asyncio.create_task(manager.execute_run(run.id))
        after, types = 2, []
        while "run_completed" not in types:
            where = EventFilter(after=after)
            for frame in await manager.follower.next_events(session.id, where, limit=100, wait_s=5):
                after = frame.sequence_number
                types.append(frame.type)
        await execution
        print("  ", types)
        claim("each event came once", len(types) == len(set(types)))
        nothing = await manager.follower.next_events(session.id, EventFilter(after=after), limit=10, wait_s=0.05)
        claim("when the time is over there is nothing", nothing == [])


if __name__ == "__main__":
    main(example)

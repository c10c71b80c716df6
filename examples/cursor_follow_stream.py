"""Follow a session live, stop, and go on behind the last event seen."""

from __future__ import annotations

from _common import MEMORY, claim, main

from asm_core import EventFilter, ScriptedAdapter, SessionRuntime, open_manager


async def example() -> None:
    async with open_manager(MEMORY, ScriptedAdapter()) as manager:
        session = await manager.open_session("talker")
        async with SessionRuntime(manager, session.id) as runtime:
            await runtime.submit_run({"script": [{"say": "one two three four", "chunks": 9, "delay_ms": 5}]})
            first = []
            async for event in runtime.subscribe():
                first.append(event.sequence_number)
                if len(first) == 6:
                    break  # the connection is lost, say
            rest = [
                event.sequence_number
                async for event in runtime.subscribe(EventFilter(after=first[-1] or 0), until_idle=True)
            ]
        print("  first", first, "then", rest)
        claim("nothing is missed, nothing repeated", first + rest == list(range(1, len(first + rest) + 1)))


if __name__ == "__main__":
    main(example)

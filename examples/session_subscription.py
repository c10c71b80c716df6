"""Subscriptions to what is stored: some types only, from the beginning or from now on, until one leaves."""

from __future__ import annotations

from contextlib import aclosing

from _common import MEMORY, claim, main

from asm_core import EventFilter, ScriptedAdapter, SessionRuntime, open_manager

ENDS = EventFilter(types=["run_started", "run_completed"])
ANSWER = {"script": [{"say": "one two three", "chunks": 3}, {"usage": {"input_tokens": 5, "output_tokens": 3}}]}


async def example() -> None:
    async with open_manager(MEMORY, ScriptedAdapter()) as manager:
        session = await manager.open_session("talker")
        async with SessionRuntime(manager, session.id) as runtime:
            first = (await runtime.submit_run(ANSWER)).run_id
            await runtime.await_run(first)
            so_far = (await runtime.status()).last_sequence

            second = ""
            seen = []
            async with aclosing(runtime.subscribe(ENDS)) as subscription:
                async for event in subscription:
                    seen.append((event.type, event.run_id))
                    print(f"  {event.sequence_number:>3} {event.type}")
                    if len(seen) == 2:  # what was stored before is told; now something new
                        second = (await runtime.submit_run(ANSWER)).run_id
                    if len(seen) == 4:
                        break
            both = [(kind, run_id) for run_id in (first, second) for kind in ENDS.types or ()]
            claim("stored and new events come through one subscription, of these types only", seen == both)

            where = EventFilter(after=so_far, run_id=second)
            own = [event async for event in runtime.subscribe(where, until_idle=True)]
            claim("from a cursor on, and of one run", {event.run_id for event in own} == {second})
            claim("nothing of it is left out", sum(event.type == "message_streamed" for event in own) == 3)

            await runtime.await_run((await runtime.submit_run(ANSWER)).run_id)
        claim("who has left is told no more", len(seen) == 4)
        claim("what he missed is stored", len(await manager.get_session_events(session.id, ENDS)) == 6)


if __name__ == "__main__":
    main(example)

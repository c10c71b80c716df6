"""A one-shot as a stream: iterate over the events, then take the result."""

from __future__ import annotations

from _common import MEMORY, claim, main

from asm_core import RunStatus, ScriptedAdapter, SessionStatus, StreamSession, open_manager


async def example() -> None:
    async with open_manager(MEMORY, ScriptedAdapter()) as manager:
        story = {"script": [{"say": "Once upon a time there was a queue.", "chunks": 8, "delay_ms": 10}]}
        async with StreamSession(manager, story) as stream:
            text = ""
            async for event in stream:
                if event.type == "message_streamed":
                    text += event.data["delta"]
                    print(event.data["delta"], end="", flush=True)
            print()
            result = await stream.result()
        claim("the chunks add up to the answer", text == result.output["content"])

        endless = {"script": [{"say": "And then …"}, {"sleep_ms": 600_000}]}
        async with StreamSession(manager, endless) as stream:
            async for event in stream:
                if event.type == "message_received":
                    break
        [run] = await manager.get_session_runs(stream.session_id)
        claim("leaving early cancels the run", run.status is RunStatus.CANCELLED)
        session = await manager.get_session(stream.session_id)
        claim("and its session", session.status is SessionStatus.CANCELLED)


if __name__ == "__main__":
    main(example)

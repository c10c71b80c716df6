"""Runs over HTTP on a fleet: two workers execute them, and who follows misses nothing, though the API is killed."""

from __future__ import annotations

import io
import os
import signal
from typing import Any

from _common import a_stack, claim, main

from asm_api.cli.events import event_of
from asm_api.client import AsyncAsmClient
from asm_core.rendering import StudioRenderer, TTYSink, arender_stream

PATIENT = {"script": [{"say": "I wait until I am stopped."}, {"sleep_ms": 3_600_000}]}
TALKATIVE = {
    "script": [
        {"say": "First I have a look.", "chunks": 4},
        {"tool": {"name": "Read", "input": {"path": "README.md"}, "output": "# ASM\nruns agents"}, "delay_ms": 1_000},
        {"say": "It runs agents, wherever there is a free worker.", "chunks": 40, "delay_ms": 50},
    ]
}


async def example() -> None:
    with a_stack("--workers", "2", "--concurrency", "1") as stack:  # one run at a time in each worker
        async with AsyncAsmClient(stack.url) as api:
            patient = await api.submit_once(PATIENT, agent_id="patient")
            async for _ in api.follow(patient["session_id"], types=["run_started"]):
                break
            session = await api.create_session(agent_id="talker")
            talkative = await api.submit(session["id"], TALKATIVE)

            tail = await stack.asm("tail", session["id"], "--render", "studio")
            seen, shown = list[dict[str, Any]](), b""
            async for event in api.follow(session["id"], until_idle=True):  # by server-sent events
                seen.append(event)
                if event["type"] == "tool_call_started":
                    assert tail.stdout is not None
                    shown = await tail.stdout.readuntil(b"look.")  # it is there, too
                    os.kill(stack.described["pids"]["api"], signal.SIGKILL)
                    print("  the API is killed; workers go on, and `asm dev` starts another one")
            shown += (await tail.communicate())[0]

            numbers = [event["sequence_number"] for event in seen]
            claim("who follows gets every event once, in order", numbers == [*range(1, len(numbers) + 1)])
            print(shown.decode())
            claim("`asm tail` showed what is stored, all of it", shown.decode() == await as_stored(api, session["id"]))

            mine, other = await api.wait(talkative["id"]), await api.get_run(patient["id"])
            claim("the run is completed", mine["output"]["content"].startswith("It runs agents"))
            claim("the two were on two workers", mine["worker_id"] != other["worker_id"])
            await api.cancel(patient["id"])
            claim("a run is cancelled wherever it is", (await api.wait(patient["id"]))["status"] == "cancelled")


async def as_stored(api: AsyncAsmClient, session_id: str) -> str:
    """The session as text, from its log."""
    screen = io.StringIO()
    events = [event_of(row) for row in (await api.events(session_id, limit=1_000))["events"]]
    await arender_stream(events, renderer=StudioRenderer(color=False), sinks=[TTYSink(screen)])
    return screen.getvalue()


if __name__ == "__main__":
    main(example)

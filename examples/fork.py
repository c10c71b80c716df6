"""A session forked at an event: two conversations that share their beginning, and nothing copied."""

from __future__ import annotations

from _common import MEMORY, claim, main

from asm_core import ScriptedAdapter, SessionManager, open_manager


async def say(manager: SessionManager, session_id: str, text: str) -> int:
    """One run; the number of its last event."""
    run = await manager.start_run(session_id, {"prompt": text}, continuation=True)
    result = await manager.execute_run(run.id)
    return result.events[-1].sequence_number or 0


async def example() -> None:
    async with open_manager(MEMORY, ScriptedAdapter()) as manager:
        session = await manager.open_session("writer")
        first = await say(manager, session.id, "A story about a dog.")
        await say(manager, session.id, "Make it sad.")

        fork = await manager.fork_session(session.id, first, metadata={"branch": "happy"})
        await say(manager, fork.id, "Make it happy.")

        ours, theirs = [await manager.get_session_events(each) for each in (fork.id, session.id)]
        claim("both logs begin with the same events", [e.id for e in ours[:first]] == [e.id for e in theirs[:first]])
        claim("the fork's numbers go on without a gap", [e.sequence_number for e in ours] == [*range(1, len(ours) + 1)])
        said = [event.data["content"] for event in ours if event.type == "message_sent"]
        claim("it knows nothing of what came later", said == ["A story about a dog.", "Make it happy."])
        stored = (await manager.store.stats(manager.tenant_id)).events
        claim("shared events are stored once", stored == len(ours) + len(theirs) - first)


if __name__ == "__main__":
    main(example)

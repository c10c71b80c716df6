"""Session and run by single steps, with the exact order of events."""

from __future__ import annotations

from _common import MEMORY, claim, main

from asm_core import ScriptedAdapter, SessionStatus, open_manager

QUESTION = {
    "messages": [{"role": "user", "content": "What does calc.py do?"}],
    "script": [
        {"tool": {"name": "read_file", "input": {"path": "calc.py"}, "output": "print(1 + 1)"}},
        {"say": "It adds two numbers.", "chunks": 4},
        {"usage": {"input_tokens": 120, "output_tokens": 9}},
    ],
}
ORDER = [
    "session_created",
    "session_started",
    "message_sent",
    "run_started",
    "tool_call_started",
    "tool_call_completed",
    *["message_streamed"] * 4,
    "message_received",
    "token_usage_updated",
    "run_completed",
    "session_completed",
]


async def example() -> None:
    async with open_manager(MEMORY, ScriptedAdapter()) as manager:
        session = await manager.start_session("reviewer", context={"system_prompt": "Be brief."}, tags=("demo",))
        claim("a new session waits", session.status is SessionStatus.PENDING)
        await manager.activate_session(session.id)
        run = await manager.start_run(session.id, QUESTION)
        result = await manager.execute_run(run.id, event_callback=lambda event: print(f"  {event.type}"))
        await manager.complete_session(session.id)

        claim("the answer is the last turn's text", result.output["content"] == "It adds two numbers.")
        claim("the tool call is kept", result.output["tool_calls"][0]["name"] == "read_file")
        claim("usage is counted", result.token_usage == {"input_tokens": 120, "output_tokens": 9})
        events = await manager.get_session_events(session.id)
        claim("the order of events is fixed", [event.type for event in events] == ORDER)
        claim("numbers have no gap", [event.sequence_number for event in events] == list(range(1, len(ORDER) + 1)))


if __name__ == "__main__":
    main(example)

"""A one-shot on a SQLite file: what was seen live is what is read when the file is opened again."""

from __future__ import annotations

from _common import claim, main, temporary_folder

from asm_core import Event, RunStatus, ScriptedAdapter, SessionStatus, open_manager, run_once

QUESTION = {
    "messages": [{"role": "user", "content": "What is in the folder?"}],
    "script": [
        {"tool": {"name": "list_files", "input": {"path": "."}, "output": "notes.txt"}},
        {"say": "There is one file, notes.txt.", "chunks": 5},
        {"usage": {"input_tokens": 80, "output_tokens": 12}},
    ],
}


async def example() -> None:
    with temporary_folder() as folder:
        url = f"sqlite:///{folder / 'agents.db'}"  # made and migrated when it is opened first
        live: list[Event] = []
        result = await run_once(url, ScriptedAdapter(), QUESTION, tags=("demo",), event_callback=live.append)

        async with open_manager(url, ScriptedAdapter()) as manager:
            session = await manager.get_session(result.session_id)
            [run] = await manager.get_session_runs(session.id)
            stored = await manager.get_session_events(session.id)
        for event in stored:
            print(f"  {event.sequence_number:>3} {event.type}")
    claim("the session has ended with its run", session.status is SessionStatus.COMPLETED and session.tags == ("demo",))
    claim("the run is kept with its result", (run.status, run.output) == (RunStatus.COMPLETED, result.output))
    claim("and with its usage", run.token_usage == result.token_usage == {"input_tokens": 80, "output_tokens": 12})
    claim("what was seen live is what is stored", live == [event for event in stored if event.run_id == run.id])
    claim("the log has no gap", [event.sequence_number for event in stored] == list(range(1, len(stored) + 1)))


if __name__ == "__main__":
    main(example)

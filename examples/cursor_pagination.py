"""Pages of a session's log by cursor: no repetition, no gap, whatever is appended meanwhile."""

from __future__ import annotations

from _common import MEMORY, claim, main

from asm_core import EventFilter, ScriptedAdapter, open_manager


async def example() -> None:
    async with open_manager(MEMORY, ScriptedAdapter()) as manager:
        result = await manager.run_once({"script": [{"say": "x" * 20, "chunks": 20}]})
        after, pages, seen = 0, 0, []
        while page := await manager.get_session_events(result.session_id, EventFilter(after=after), limit=7):
            pages += 1
            seen += page
            after = page[-1].sequence_number or 0
            print(f"  page {pages}: {page[0].sequence_number} to {after}")
        whole = await manager.get_session_events(result.session_id)
        claim("pages make up the whole log", seen == whole)
        claim("a filter narrows it", len(await manager.get_session_events(
            result.session_id, EventFilter(types=["message_streamed"])
        )) == 20)  # fmt: skip
        between = await manager.get_session_events(result.session_id, EventFilter(after=3, before=6))
        claim("a range is a range", [event.sequence_number for event in between] == [4, 5])


if __name__ == "__main__":
    main(example)

"""What an agent may do in each of the five permission modes, seen by what it really did."""

from __future__ import annotations

import asyncio

from _common import MEMORY, a_claude, claim, main

from asm_core import PermissionMode, SessionManager, open_manager

EXPECTED = {
    PermissionMode.DEFAULT: ("default", []),
    PermissionMode.PLAN: ("plan", []),
    PermissionMode.ACCEPT_EDITS: ("acceptEdits", ["Write"]),
    PermissionMode.FULL_AUTO: ("bypassPermissions", ["Write", "Bash"]),
    PermissionMode.DANGEROUSLY_SKIP_PERMISSIONS: ("bypassPermissions", ["Write", "Bash"]),
}
"""What the agent calls the mode, and which of the two tools that it tries are done."""


async def done_in(manager: SessionManager, mode: PermissionMode) -> tuple[str, list[str]]:
    result = await manager.run_once({"prompt": f"<{mode}>"}, provider_options={"permission_mode": mode})
    [started] = [event for event in result.events if event.type == "run_started"]
    done = [event.data["tool_name"] for event in result.events if event.type == "tool_call_completed"]
    print(f"  {mode:30} {started.metadata['permission_mode']:18} did {done}")
    return started.metadata["permission_mode"], done


async def example() -> None:
    with a_claude() as (adapter, s, server):
        for mode in PermissionMode:
            write = s.ToolCall("Write", {"file_path": "note.txt", "content": "made"})
            run = s.ToolCall("Bash", {"command": "python3 -c 'print(1)' > made.txt", "description": "Make a file"})
            server.script.add(s.tools(write, run), s.text("That is what I could do."), prompt=f"<{mode}>")
        async with open_manager(MEMORY, adapter) as manager:
            found = await asyncio.gather(*(done_in(manager, mode) for mode in PermissionMode))
            claim("each mode lets through what it says", dict(zip(PermissionMode, found, strict=True)) == EXPECTED)


if __name__ == "__main__":
    main(example)

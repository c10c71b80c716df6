"""Commands as runs: for the shell, with arguments of their own, a listing, one that fails; and without any run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from _common import MEMORY, claim, main, refusal, temporary_folder

from asm_core import Chunk, SessionManager, ShellAdapter, exec_run, open_manager
from asm_core.process import TIMEOUT_EXIT_CODE

FAILS = "echo so far so good; echo 'no such thing' >&2; exit 42"


async def example() -> None:
    with temporary_folder() as folder:
        (folder / "notes.txt").write_text("remember the milk\n")
        (folder / "done.txt").write_text("")
        async with open_manager(MEMORY, ShellAdapter(str(folder), denied_commands=["rm"])) as manager:
            await succeed(manager)
            await fail(manager)
        await without_a_run(folder)


async def succeed(manager: SessionManager) -> None:
    result = await manager.run_once({"command": "echo 'Hello from the shell' | tr a-z A-Z"})
    claim("a line for the shell", result.output["content"] == "HELLO FROM THE SHELL\n")
    claim("is a tool call in the log", "tool_call_completed" in [event.type for event in result.events])

    exact = await manager.run_once({"command": "printf", "args": ["%s|", "a b", "$HOME", "*"]})
    claim("arguments are passed as they are", exact.output["content"] == "a b|$HOME|*|")

    listing = await manager.run_once({"prompt": "ls -l | tail -n +2"})
    print("".join(f"  {line}\n" for line in listing.output["content"].splitlines()), end="")
    names = [line.split()[-1] for line in listing.output["content"].splitlines()]
    claim("commands run in the adapter's folder", names == ["done.txt", "notes.txt"])


async def fail(manager: SessionManager) -> None:
    error = await refusal(manager.run_once({"command": FAILS}))
    claim("a command that fails is a failed run", error.code == "tool_execution_failed")
    claim("with its exit code", (error.provider_error or {})["exit_code"] == 42)
    kept: dict[str, Any] = dict((await manager.get_run(error.context["run_id"])).output or {})
    claim("what it wrote is kept", (kept["content"], kept["stderr"]) == ("so far so good\n", "no such thing\n"))
    denied = await refusal(manager.run_once({"command": "rm", "args": ["notes.txt"]}))
    print(f"  {denied.message}")
    claim("what is denied is refused before it runs", denied.context.get("run_id") is None)


async def without_a_run(folder: Path) -> None:
    chunks: list[Chunk] = []
    result = await exec_run(["sh", "-c", FAILS], cwd=folder, on_output=chunks.append)
    claim("an exit code is a result here, not an error", result.exit_code == 42)
    claim("output comes as it is written", {chunk.stream for chunk in chunks} == {"stdout", "stderr"})
    late = await exec_run(["sleep", "600"], cwd=folder, timeout_ms=100)
    claim("a command that takes too long is stopped", (late.timed_out, late.exit_code) == (True, TIMEOUT_EXIT_CODE))


if __name__ == "__main__":
    main(example)

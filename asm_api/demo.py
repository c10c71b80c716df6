"""
`asm demo`: the main job in a minute, on a real stack. Shell commands on a small repository, agents streaming side by
side, one run cancelled, one whose worker is killed in the middle and which ends on another; then the invariants.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from asm_api.cli.events import event_of, wants_color
from asm_api.client import AsyncAsmClient
from asm_api.dev import POLL_S, DevOptions, Stack, free_port
from asm_core.domain.event import Event
from asm_core.rendering import LinesRenderer, TTYSink, arender_stream
from asm_core.stores.sql.verify import verify_database

DEADLINE_S = 120.0

WRITE_FILES = r"""
printf 'def add(a, b):\n    return a + b\n' > calc.py
printf 'from calc import add\nassert add(2, 3) == 5\nprint("1 check passed")\n' > check.py
wc -l calc.py check.py
"""
COMMIT = """
git init -q . && git config user.email demo@example.invalid && git config user.name demo
git add -A && git commit -q -m 'A small calculator' && git log --oneline
"""

Expected = tuple[str, str, dict[str, Any]]
"""A label, the status the run should end in, and its row."""


def run_demo(say: Callable[[str], None]) -> int:
    """Returns the exit code: 0 when every run ended as it should and the invariants hold."""
    with tempfile.TemporaryDirectory(prefix="asm-demo-") as folder:
        Path(folder).chmod(0o755)
        environment = {"ASM_PROFILE": "fast", "ASM_SHELL_CWD": folder}
        options = DevOptions(
            data_dir=Path(folder), port=free_port(), workers=2, concurrency=20, environment=environment, say=say,
            durable=False,
        )  # fmt: skip
        stack = Stack(options)
        try:
            stack.start()
            say(f"ready {stack.api_url}\n")
            return _supervised(stack, lambda: asyncio.run(_Demo(stack, say, Path(folder)).play()))
        finally:
            stack.stop()


def _supervised(stack: Stack, play: Callable[[], int]) -> int:
    """Play in a thread of its own, while this one, which the stack's processes live by, looks after them."""
    result: list[int] = []
    player = threading.Thread(target=lambda: result.append(play()), daemon=True)
    player.start()
    deadline = time.monotonic() + DEADLINE_S
    while player.is_alive() and time.monotonic() < deadline:
        stack.tick()
        player.join(POLL_S)
    return result[0] if result else 1


class _Demo:
    def __init__(self, stack: Stack, say: Callable[[str], None], folder: Path) -> None:
        self._stack = stack
        self._say = say
        self._folder = folder
        self._followers: list[asyncio.Task[None]] = []
        self._ended: list[Expected] = []

    async def play(self) -> int:
        async with AsyncAsmClient(self._stack.api_url) as api:
            self._api = api
            self._say("── side by side: shell commands, three agents, one run that is cancelled ──")
            await asyncio.gather(self._shell(), self._agents(), self._cancelled())
            self._say("\n── a worker is killed in mid-run; the run is taken over ──")
            await self._taken_over()
            await asyncio.gather(*self._followers)
        return await self._verdict()

    async def _shell(self) -> None:
        repository = self._folder / "repository"
        repository.mkdir()
        session = await self._session("shell", "shell-agent", provider="shell")
        python = shlex.quote(sys.executable)
        commit = COMMIT if shutil.which("git") else "ls -l"
        commands = [WRITE_FILES, commit, f"{python} check.py", f"{python} -c 'import calc; calc.sub'"]
        submitted = [
            await self._api.submit(session, {"command": "sh", "args": ["-c", command], "cwd": str(repository)})
            for command in commands
        ]
        for run, status in zip(submitted, ["completed", "completed", "completed", "failed"], strict=True):
            await self._end("shell", run["id"], status)

    async def _agents(self) -> None:
        await asyncio.gather(*(self._agent(f"agent-{number}", number) for number in (1, 2, 3)))

    async def _agent(self, label: str, number: int) -> None:
        session = await self._session(label, label)
        script = [
            {"say": f"I am {label} and look at the repository first.", "chunks": 12, "delay_ms": 30},
            {"tool": {"name": "read_file", "input": {"path": "calc.py"}, "output": "2 lines"}, "delay_ms": 50 * number},
            {"say": "It adds two numbers; its check passes.", "chunks": 8, "delay_ms": 40},
            {"usage": {"input_tokens": 100 * number, "output_tokens": 20}},
        ]
        run = await self._api.submit(session, {"script": script})
        await self._end(label, run["id"], "completed")

    async def _cancelled(self) -> None:
        session = await self._session("cancel", "patient-agent")
        script = [{"say": "This will take an hour.", "chunks": 4, "delay_ms": 50}, {"sleep_ms": 3_600_000}]
        run = await self._api.submit(session, {"script": script})
        await self._said(session, run["id"])
        await self._api.cancel(run["id"])
        await self._end("cancel", run["id"], "cancelled")

    async def _taken_over(self) -> None:
        session = await self._session("takeover", "survivor")
        script = [
            {"say": "Half of the work is done.", "chunks": 5, "delay_ms": 20},
            {"sleep_ms": 2_000},
            {"say": "Now all of it is.", "chunks": 5, "delay_ms": 20},
        ]
        run = await self._api.submit(session, {"script": script}, on_worker_lost="retry")
        await self._said(session, run["id"])
        holder = (await self._api.get_run(run["id"]))["worker_id"]
        stats = await self._api.stats()
        pid = next(worker["pid"] for worker in stats["workers"] if worker["id"] == holder)
        os.kill(pid, signal.SIGKILL)
        self._say(f"takeover   worker {pid} killed (SIGKILL)")
        await self._end("takeover", run["id"], "completed")

    async def _session(self, label: str, agent_id: str, **options: Any) -> str:
        session = await self._api.create_session(agent_id=agent_id, **options)
        self._followers.append(asyncio.create_task(self._follow(label, session["id"])))
        return str(session["id"])

    async def _follow(self, label: str, session: str) -> None:
        renderer = LinesRenderer(label=f"{label:<10}", color=wants_color())
        await arender_stream(self._events(session), renderer=renderer, sinks=[TTYSink()])

    async def _events(self, session: str) -> AsyncIterator[Event]:
        async for row in self._api.follow(session, types=_SHOWN, until_idle=False):
            yield event_of(row)
            if row["type"] == "session_completed":
                return

    async def _said(self, session: str, run_id: str) -> None:
        """Until the agent has said its first sentence."""
        async for _ in self._api.follow(session, types=("message_received",), run_id=run_id):
            return

    async def _end(self, label: str, run_id: str, status: str) -> None:
        row = await self._api.wait(run_id)
        self._ended.append((label, status, row))
        queue = await self._api.queue(row["session_id"])
        if not queue["in_flight_count"] and not queue["queued_count"]:
            await self._api.complete_session(row["session_id"])

    async def _verdict(self) -> int:
        from asm_api.cli.common import print_table

        self._say("")
        print_table([_summary(*ended) for ended in self._ended], _COLUMNS)
        report = await verify_database(self._stack.database_url)
        self._say(f"\nasm verify: {report.verdict}")
        as_expected = all(row["status"] == status for _, status, row in self._ended)
        if not as_expected:
            self._say("some runs did not end as they should")
        return 0 if report.is_sound and as_expected else 1


_SHOWN = (
    "run_started", "message_sent", "message_received", "tool_call_started", "tool_call_completed", "tool_call_failed",
    "token_usage_updated", "error_occurred", "error_recovered", "run_completed", "run_failed", "run_cancelled",
    "run_timeout", "session_completed",
)  # fmt: skip
_COLUMNS = ("session", "run", "status", "attempt", "seconds", "output")


def _summary(label: str, _expected: str, row: Mapping[str, Any]) -> dict[str, Any]:
    from asm_core.domain.fields import parse_datetime

    lasted = parse_datetime(row["ended_at"]) - parse_datetime(row["started_at"])
    content = (row["output"] or {}).get("content") or (row["error"] or {}).get("message") or ""
    return {
        "session": label,
        "run": row["id"][-8:],
        "status": row["status"],
        "attempt": row["attempt"],
        "seconds": f"{lasted.total_seconds():.2f}",
        "output": " ".join(content.split())[:48],
    }

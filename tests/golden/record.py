"""
Records what Codex and the stand-in for Amp say on the pretended server, and the events that become of it:

    python -m tests.golden.record

Run it when a pin moves, and read the difference. Ids, times and folders are masked.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import SecretStr

from asm_core.adapters.amp import AmpAdapter
from asm_core.adapters.amp_events import AmpTurn
from asm_core.adapters.codex import CodexAdapter
from asm_core.adapters.codex_events import CodexTurn
from asm_core.agent_process import AgentFolders
from asm_core.config import ProviderAccess
from asm_core.manager.provider_files import RememberedFiles
from asm_core.ports.provider import ProviderAdapter
from tests.fakes import script as s
from tests.fakes.clis import AMP_STAND_IN, KEY
from tests.fakes.script import Failure
from tests.fakes.server import ProviderServer
from tests.fixtures.agents import AgentWorker
from tests.golden.played import FOLDER, events_of

FREELY = {"permission_mode": "dangerously_skip_permissions"}
PATCH = "*** Begin Patch\n*** Add File: made.txt\n+made\n*** End Patch"
MCP_SERVER = {"command": sys.executable, "args": [str(Path(__file__).parents[1] / "fakes" / "mcp_echo.py")]}


def run(command: str) -> s.Reply:
    return s.tool("exec_command", {"cmd": command})


CODEX: dict[str, tuple[list[s.Answer], dict[str, Any]]] = {
    "text": ([s.thinking("hm", "hello").with_usage(input=10, cache_read=3, reasoning=2)], {}),
    "tools": ([run("echo ran"), run("exit 3"), s.tool("apply_patch", PATCH), s.text("done")], FREELY),
    "refused": ([s.tool("no_such", {"a": 1}), run("echo x > x"), s.tool("apply_patch", PATCH), s.text("no")], {}),
    "mcp": (
        [s.tools(s.ToolCall("add", {"a": 1}, namespace="mcp__host")), s.text("done")],
        FREELY | {"mcp_servers": {"host": MCP_SERVER}},
    ),
    "bounded": ([run("sleep 600")], FREELY | {"max_turns": 1}),
    "failed": ([s.refused(Failure.AUTH)], {}),
}
AMP: dict[str, tuple[list[s.Answer], dict[str, Any]]] = {
    "text": ([s.text("hello").with_usage(input=10, cache_read=3)], {}),
    "tools": ([s.tool("Bash", {"cmd": "echo ran"}, say="look"), s.text("done")], FREELY),
    "rejected": ([s.tool("Bash", {"cmd": "true"}), s.text("no")], {"denied_tools": ["Bash"]}),
    "failed": ([s.refused(Failure.AUTH)], {}),
}


async def main() -> None:
    with ProviderServer() as server, TemporaryDirectory() as folder:
        folders = AgentFolders(Path(folder))
        access = ProviderAccess(base_url=server.openai_url, api_key=SecretStr(KEY), model="gpt-5.5")
        await record(CodexAdapter(folders, access), CODEX, server, folders)
        access = ProviderAccess(base_url=server.url, api_key=SecretStr(KEY))
        await record(AmpAdapter(folders, access, str(AMP_STAND_IN)), AMP, server, folders)


async def record(
    adapter: ProviderAdapter, cases: dict[str, Any], server: ProviderServer, folders: AgentFolders
) -> None:
    for name, (answers, options) in cases.items():
        server.clear()
        server.script.add(*answers)
        heard = listen(adapter.name)
        await AgentWorker(adapter, folders, RememberedFiles()).play("do it", options=options)
        said = masked(heard, folders.root)
        told = {"raw": said, "events": events_of(adapter.name, said, options.get("max_turns"))}
        (FOLDER / adapter.name / f"{name}.json").write_text(json.dumps(told, indent=1, sort_keys=True) + "\n")


def listen(provider: str) -> list[Any]:
    """All that its mapper is given from now on."""
    heard: list[Any] = []
    turn: Any = CodexTurn if provider == "codex" else AmpTurn
    observe = turn.observe

    def listening(self: Any, *said: Any) -> Any:
        heard.append(said if len(said) > 1 else said[0])
        return observe(self, *said)

    turn.observe = listening
    return heard


MASKS = (
    "startedAtMs",
    "completedAtMs",
    "startedAt",
    "completedAt",
    "durationMs",
    "duration_ms",
    "create_time",
    "processId",
)
ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def masked(value: Any, root: Path) -> Any:
    text = json.dumps(value).replace(str(root), "/agents").replace(sys.executable, "python")
    known: dict[str, str] = {}
    text = ID.sub(lambda found: known.setdefault(found[0], f"id-{len(known) + 1}"), text)
    text = re.sub(r"call_\d{6}", lambda found: known.setdefault(found[0], f"call-{len(known) + 1}"), text)
    return _without_prompts(json.loads(text))


def _without_prompts(value: Any) -> Any:
    """Codex's own instructions are long, and no part of what is recorded."""
    if isinstance(value, list):
        return [_without_prompts(item) for item in value]
    if not isinstance(value, dict):
        return value
    if (
        value.get("type") == "message"
        and value.get("role") in ("developer", "user")
        and "parent_tool_use_id" not in value
    ):
        value = value | {"content": []}
    return {name: 0 if name in MASKS else _without_prompts(item) for name, item in value.items()}


if __name__ == "__main__":
    asyncio.run(main())

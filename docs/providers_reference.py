"""Writes docs/reference/providers.md from the adapters themselves; a test holds them together."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from asm_core.adapters.amp import AmpAdapter
from asm_core.adapters.anthropic import AnthropicAdapter
from asm_core.adapters.claude import ClaudeAdapter
from asm_core.adapters.codex import CodexAdapter
from asm_core.adapters.openai import OpenAIAdapter
from asm_core.adapters.replay import ReplayAdapter
from asm_core.adapters.scripted import ScriptedAdapter
from asm_core.adapters.shell import ShellAdapter
from asm_core.agent_process import AgentFolders
from asm_core.clock import SystemClock
from asm_core.config import ProviderAccess
from asm_core.domain.errors import AsmError
from asm_core.domain.permission import PermissionMode
from asm_core.domain.provider_options import ProviderOptions
from asm_core.ports.provider import ProviderAdapter, Recordable
from asm_core.stores.memory import MemoryRecords, MemorySessionStore

TARGET = Path(__file__).parent / "reference" / "providers.md"

HEAD = """# Providers

What each can do, and which of a run's `provider_options` it takes: said by the adapters themselves. Written by
`python docs/providers_reference.py`. An option that is not taken is refused at submit (`capability_not_supported`), so
that no bound is ignored in silence; `scripted`, `shell` and `replay` have no use for any and take them all.
"""

SAID: dict[str, Any] = {
    "system_prompt": "Be brief", "max_turns": 3, "max_tokens": 4_096, "reasoning_effort": "high",
    "allowed_tools": ["Read"], "denied_tools": ["Bash"], "output_schema": {"type": "object"},
    "mcp_servers": {"files": {"command": "serve"}}, "cwd": "/",
}  # fmt: skip


def adapters() -> list[ProviderAdapter]:
    folders, access = AgentFolders(Path(tempfile.gettempdir())), ProviderAccess()
    clock = SystemClock()
    return [
        AnthropicAdapter(), OpenAIAdapter(), ClaudeAdapter(folders, access), CodexAdapter(folders, access),
        AmpAdapter(folders, access), ShellAdapter("/"), ScriptedAdapter(),
        ReplayAdapter(MemorySessionStore(MemoryRecords(), clock), clock),
    ]  # fmt: skip


def reference() -> str:
    all_of_them = adapters()
    able = {adapter.name: {each.name for each in adapter.capabilities() if each.enabled} for adapter in all_of_them}
    for adapter in all_of_them:
        if isinstance(adapter, Recordable):
            able[adapter.name].add("record")
    abilities = sorted({name for names in able.values() for name in names})
    serious = [adapter for adapter in all_of_them if adapter.name not in ("scripted", "shell", "replay")]
    modes = [f"permission_mode: {mode}" for mode in PermissionMode]
    parts = [
        HEAD,
        "## Capabilities\n",
        *_table(all_of_them, abilities, lambda adapter, ability: ability in able[adapter.name]),
        "\n## Options\n",
        *_table(serious, [*SAID, *modes], _takes),
    ]
    return "\n".join(parts) + "\n"


def _takes(adapter: ProviderAdapter, option: str) -> bool:
    name, _, mode = option.partition(": ")
    try:
        adapter.validate_options(ProviderOptions.from_map({name: mode or SAID[name]}))
    except AsmError:
        return False
    return True


def _table(columns: list[ProviderAdapter], rows: list[str], holds: Any) -> Iterator[str]:
    yield "| | " + " | ".join(f"`{adapter.name}`" for adapter in columns) + " |"
    yield "|---|" + "---|" * len(columns)
    for row in rows:
        yield f"| `{row}` | " + " | ".join("yes" if holds(adapter, row) else "–" for adapter in columns) + " |"


if __name__ == "__main__":
    TARGET.write_text(reference())

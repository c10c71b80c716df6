"""What the examples share: a place for their data, and a check that says what was claimed."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Coroutine, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import SecretStr

from asm_core import AgentFolders, AsmError, ClaudeAdapter, ProviderAccess, ScriptedAdapter

sys.path.insert(0, str(Path(__file__).parents[1]))
"""For `tests.fakes`, the servers that pretend to be the providers'."""
MEMORY = "memory://"


class Acting(ScriptedAdapter):
    """Plays scripts in the name of another provider."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Removed in the end."""
    with TemporaryDirectory(prefix="asm-example-") as folder:
        yield Path(folder)


@contextmanager
def pretended_providers() -> Iterator[Any]:
    """The servers of the tests, in the place of the providers'; an agent itself is the real one."""
    from tests.fakes.server import ProviderServer

    with ProviderServer() as server:
        yield server


@contextmanager
def a_claude() -> Iterator[tuple[Any, Any]]:
    """Claude Code, and the server that it calls; with a key of yours and no base URL it would be Anthropic's."""
    if find_spec("claude_agent_sdk") is None:
        skip("needs pip install 'agent-session-manager[claude]'")
        raise SystemExit
    with pretended_providers() as server, temporary_folder() as folder:
        access = ProviderAccess(base_url=server.url, api_key=SecretStr("no key"), model="claude-haiku-4-5-20251001")
        yield ClaudeAdapter(AgentFolders(folder), access), server


def claim(what: str, holds: bool) -> None:
    """An example asserts what it shows."""
    if not holds:
        raise SystemExit(f"NOT TRUE: {what}")
    print(f"  ok  {what}")


def main(example: Coroutine[Any, Any, None]) -> None:
    asyncio.run(example)


async def refusal(call: Awaitable[object]) -> AsmError:
    """What a call fails with that must fail."""
    try:
        await call
    except AsmError as error:
        return error
    raise SystemExit("NOT TRUE: this is refused")


def skip(why: str) -> None:
    """This machine lacks what the example needs."""
    print(f"SKIP: {why}")

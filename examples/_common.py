"""What the examples share: a place for their data, pretended providers, and a check that says what was claimed."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

import asm_core
from asm_core import AgentFolders, AsmError, ClaudeAdapter, ProviderAccess, ProviderAdapter, ScriptedAdapter

if TYPE_CHECKING:
    from asm_core import AnthropicAdapter, OpenAIAdapter

MEMORY = "memory://"

TOOL_USE: dict[str, Any] = {
    "script": [
        {"say": "Let me look.", "chunks": 2, "delay_ms": 20},
        {"tool": {"name": "Read", "input": {"path": "README.md"}, "output": "# ASM\nruns agents"}, "delay_ms": 200},
        {"tool": {"name": "bash", "input": {"command": "make test"}, "output": "2 passed"}, "delay_ms": 200},
        {"say": "It runs agents.", "chunks": 2, "delay_ms": 20},
        {"usage": {"input_tokens": 50, "output_tokens": 45}},
    ]
}
"""A run's input: it talks, uses two tools, and talks again."""


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


def claim(what: str, holds: bool) -> None:
    """An example asserts what it shows."""
    if not holds:
        raise SystemExit(f"NOT TRUE: {what}")
    print(f"  ok  {what}")


def main(example: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run an example from the command line; `--help` says what it shows."""
    argparse.ArgumentParser(description=example.__globals__["__doc__"]).parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # leaves nothing behind then, either
    asyncio.run(example())


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


def is_installed(package: str) -> bool:
    if find_spec(package) is not None:
        return True
    skip(f"{package} is not installed")
    return False


@contextmanager
def pretended_providers() -> Iterator[tuple[Any, Any]]:
    """
    What the models may answer, and the server of it on loopback: no key is needed, and nothing is called outside. From
    the tests of this checkout; no installed package has it.
    """
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.fakes import script
    from tests.fakes.server import ProviderServer

    with ProviderServer() as server:
        yield script, server


@contextmanager
def model_api(name: str, *answers: tuple[str, Any], **given: Any) -> Iterator[AnthropicAdapter | OpenAIAdapter]:
    """
    An adapter of `anthropic` or `openai`: the real one where its key is set, otherwise one whose model says what it is
    told to.

    Args:
        answers: of that model, in order: `("say", text)` or `("call", {tool: input, …})`.
        given: further arguments of the adapter.
    """
    make = getattr(asm_core, {"anthropic": "AnthropicAdapter", "openai": "OpenAIAdapter"}[name])
    if os.environ.get(f"{name.upper()}_API_KEY"):
        yield make(**given)
        return
    with pretended_providers() as (script, server):
        for kind, told in answers:
            if kind == "say":
                server.script.add(script.text(told))
            else:
                server.script.add(script.tools(*(script.ToolCall(*call) for call in told.items())))
        url = server.url if name == "anthropic" else server.openai_url
        yield make(api_key="none is needed", base_url=url, **given)


@contextmanager
def a_claude() -> Iterator[tuple[Any, Any, Any]]:
    """Claude Code, what its model may answer, and the server of that; without a base URL it would be Anthropic's."""
    if not is_installed("claude_agent_sdk"):
        raise SystemExit
    with pretended_providers() as (script, server), temporary_folder() as folder:
        access = ProviderAccess(base_url=server.url, api_key=SecretStr("no key"), model="claude-haiku-4-5-20251001")
        yield ClaudeAdapter(AgentFolders(folder), access), script, server


STAND_IN = Path(__file__).parents[1] / "tests" / "fakes" / "amp_cli.py"
"""Amp's own command line may not be shipped; `AMP_CLI_PATH` names one."""


def every_provider(script: Any, server: Any, folder: Path) -> Iterator[ProviderAdapter]:
    """An adapter of each provider that is installed, whose model says `Hello there.` whenever it is asked."""
    server.script.always(script.text("Hello ", "there."))
    key, folders = SecretStr("none is needed"), AgentFolders(folder)
    yield ScriptedAdapter()
    yield asm_core.AnthropicAdapter(api_key="none is needed", base_url=server.url)
    yield asm_core.OpenAIAdapter(api_key="none is needed", base_url=server.openai_url)
    if is_installed("claude_agent_sdk"):
        yield ClaudeAdapter(folders, ProviderAccess(base_url=server.url, api_key=key))
    if is_installed("openai_codex"):
        yield asm_core.CodexAdapter(folders, ProviderAccess(base_url=server.openai_url, api_key=key, model="gpt-5.5"))
    if is_installed("amp_sdk"):
        cli = os.environ.get("AMP_CLI_PATH", str(STAND_IN))
        yield asm_core.AmpAdapter(folders, ProviderAccess(base_url=server.url, api_key=key), cli)


class Stack:
    """A running `asm dev`."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self._folder = folder
        self._commands: list[asyncio.subprocess.Process] = []

    @property
    def described(self) -> dict[str, Any]:
        """Its addresses and the processes it has now, as it tells everybody in its folder."""
        found: dict[str, Any] = json.loads((self._folder / "dev.json").read_text())
        return found

    async def asm(self, *arguments: str) -> asyncio.subprocess.Process:
        """A command line about it, just started."""
        there = {"ASM_SERVER": self.url, "ASM_DATABASE_URL": self.described["database_url"]}
        command, environment = [*ASM, *arguments], _environment() | there
        started = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, env=environment)
        self._commands.append(started)
        return started

    def end_commands(self) -> None:
        """Those that a failure has left running."""
        for command in self._commands:
            if command.returncode is None:
                command.kill()


ASM = [sys.executable, "-m", "asm_api.cli"]


@contextmanager
def a_stack(*options: str, **settings: str) -> Iterator[Stack]:
    """`asm dev` with data that is gone in the end: Postgres, Redis, the API and workers, on ports of its own."""
    from asm_api.dev import free_port

    with temporary_folder() as folder:
        folder.chmod(0o755)  # root hands Postgres to another user, who must get in
        port = free_port()
        command = [*ASM, "dev", "--port", str(port), "--data-dir", str(folder), *options]
        environment = _environment() | {"ASM_PROFILE": "fast"} | settings
        streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        with subprocess.Popen(command, env=environment, **streams) as dev:
            stack = Stack(f"http://127.0.0.1:{port}", folder)
            try:
                _until_ready(dev)
                yield stack
            finally:
                stack.end_commands()
                dev.terminate()
                dev.wait()  # which leaving the block does not after Ctrl-C


def _until_ready(dev: subprocess.Popen[str]) -> None:
    said = []
    for line in dev.stdout or ():
        said.append(line)
        if line.startswith("ready"):
            return
    if not any("[dependency_not_available]" in line for line in said):
        raise SystemExit("NOT TRUE: `asm dev` starts\n" + "".join(said))
    skip("no Postgres or Redis here\n" + "".join(said))
    raise SystemExit


def _environment() -> dict[str, str]:
    """Without settings for another installation."""
    return {name: value for name, value in os.environ.items() if not name.startswith("ASM_")}

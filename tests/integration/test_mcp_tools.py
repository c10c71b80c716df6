"""Tools of MCP servers: real servers, by pipe and by HTTP."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from asm_core.adapters import mcp_tools as module
from asm_core.adapters.anthropic import AnthropicAdapter
from asm_core.adapters.mcp_tools import McpServer, mcp_tools
from asm_core.domain.errors import AsmError
from asm_core.domain.provider_options import ProviderOptions
from asm_core.domain.tool import ToolAccess
from asm_core.process import launch
from tests.builders import an_execution, eventually
from tests.fakes import script as s
from tests.fakes.clis import KEY
from tests.fakes.server import ProviderServer

SERVER = str(Path(__file__).parents[1] / "fakes" / "mcp_server.py")
PIPED = {"command": sys.executable, "args": [SERVER], "env": {"GIVEN": "1"}}


@pytest.fixture(scope="module")
async def piped() -> AsyncIterator[McpServer]:
    async with mcp_tools({"calc": PIPED}, cwd=None) as [server]:
        yield server


async def test_a_server_tells_its_tools(piped: McpServer) -> None:
    """Under names that providers take; what only reads needs no permission."""
    specs = {spec.name: spec for spec in await piped.specs()}
    assert specs.keys() == {f"mcp__calc__{name}" for name in ("add", "fail", "its_environment", "die")}
    add = specs["mcp__calc__add"]
    assert (add.description, add.access) == ("Adds two numbers.", ToolAccess.READ)
    assert add.input_schema["properties"].keys() == {"a", "b"}
    assert specs["mcp__calc__fail"].access is ToolAccess.EXECUTE


async def test_its_tools_are_called(piped: McpServer) -> None:
    """What fails there, or is called wrongly, is a result that says so."""
    assert (await piped.call("mcp__calc__add", {"a": 1, "b": 2})).content == "3"
    failed = await piped.call("mcp__calc__fail", {})
    wrong = await piped.call("mcp__calc__add", {"a": "many"})
    assert failed.is_error
    assert (wrong.is_error, "a" in wrong.content) == (True, True)
    together = await asyncio.gather(*(piped.call("mcp__calc__add", {"a": n, "b": 0}) for n in range(5)))
    assert [result.content for result in together] == ["0", "1", "2", "3", "4"]


async def test_a_server_sees_a_clean_environment_and_is_gone_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker's secrets do not reach it, and nothing of it stays."""
    monkeypatch.setenv("SOME_SECRET_KEY", "x")
    async with mcp_tools({"calc": PIPED}, cwd=None) as [server]:
        pid, *names = (await server.call("mcp__calc__its_environment", {})).content.split()
        assert psutil.pid_exists(int(pid))
    assert "GIVEN" in names
    assert "SOME_SECRET_KEY" not in names
    assert not psutil.pid_exists(int(pid))


async def test_a_server_that_dies_fails_the_call_and_not_the_run() -> None:
    """The model is told; closing what is dead already is no error."""
    async with mcp_tools({"calc": PIPED}, cwd=None) as [server]:
        assert (await server.call("mcp__calc__die", {})).is_error
        assert (await server.call("mcp__calc__add", {"a": 1, "b": 2})).is_error


async def test_a_server_over_http() -> None:
    """With the headers that it is to get."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with launch([sys.executable, SERVER, str(port)], cwd="."):

        async def listens() -> None:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            await writer.wait_closed()

        async def answers() -> None:
            try:
                await listens()
            except OSError as error:
                raise AssertionError("not there yet") from error

        await eventually(answers, 20)
        given = {"url": f"http://127.0.0.1:{port}/mcp", "headers": {"x-test": "1"}}
        async with mcp_tools({"far": given}, cwd=None) as [server]:
            assert (await server.call("mcp__far__add", {"a": 1, "b": 2})).content == "3"


BAD: Mapping[str, tuple[Mapping[str, Any], str]] = {
    "absent": ({"command": "/no/such/command"}, "command not found"),
    "ends": ({"command": "sh", "args": ["-c", "echo its reason >&2; exit 3"]}, "did not start"),
    "unreachable": ({"url": "http://127.0.0.1:9/mcp"}, "did not start"),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_server_that_does_not_start_fails_the_run(name: str) -> None:
    """Named, with what it wrote to its error output; one that did start is closed."""
    given, told = BAD[name]
    before = set(psutil.Process().children())
    with pytest.raises(AsmError, match=told) as raised:
        async with mcp_tools({name: given, "calc": PIPED}, cwd=None):
            raise AssertionError("it did not start")
    assert (raised.value.code, raised.value.details["mcp_server"]) == ("tool_execution_failed", name)
    assert ("its reason" in raised.value.details.get("stderr", "")) == (name == "ends")
    assert set(psutil.Process().children()) <= before


async def test_a_server_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "START_S", 0.2)
    with pytest.raises(AsmError, match="did not tell its tools within"):
        async with mcp_tools({"mute": {"command": "sleep", "args": ["60"]}}, cwd=None):
            raise AssertionError("it said nothing")


async def test_without_the_package_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra that brings it, in one error."""
    monkeypatch.setitem(sys.modules, "mcp", None)
    with pytest.raises(AsmError) as raised:
        async with mcp_tools({"calc": PIPED}, cwd=None):
            raise AssertionError("there is no package")
    assert raised.value.code == "dependency_not_available"
    assert "agent-session-manager[mcp]" in raised.value.message


async def test_a_model_uses_them(providers: ProviderServer, tmp_path: Path) -> None:
    """Started for the run, offered, called, gone."""
    adapter = AnthropicAdapter(api_key=KEY, base_url=providers.url, model="some-model")
    providers.script.add(s.tool("mcp__calc__add", {"a": 1, "b": 2}), s.text("3"))
    given = {"command": sys.executable, "args": [SERVER]}
    options = ProviderOptions(mcp_servers={"calc": given}, cwd=str(tmp_path), denied_tools=["mcp__calc__die"])
    execution = replace(an_execution(prompt="add"), options=options)
    async with aclosing(adapter.execute(execution)) as items:
        kinds = [getattr(item, "type", "completion") async for item in items]
    assert "tool_call_completed" in kinds
    offered = {tool["name"] for tool in providers.requests[0].body["tools"]}
    assert offered == {"mcp__calc__add", "mcp__calc__fail", "mcp__calc__its_environment"}
    await adapter.aclose()

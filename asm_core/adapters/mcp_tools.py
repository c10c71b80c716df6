"""
Tools of MCP servers that a run names: started or connected to when the run begins, gone when it ends.

A server that is a command runs under our launcher, in a clean environment, so that neither it nor what it starts
outlives the worker. Each server has a task of its own, because the SDK wants to be closed by the task that opened it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import anyio
import httpx2

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.tool import ToolAccess, ToolResult, ToolSpec
from asm_core.optional import require
from asm_core.process import Child, Limits, clean_env, launch

if TYPE_CHECKING:
    from mcp import Client
    from mcp.types import CallToolResult, Tool

START_S = 30.0
"""For a server to tell its tools."""
CLOSE_S = 5.0
"""For a server to end; then its task is cancelled, which kills it."""
MAX_TOOLS = 1_000
"""Of one server."""
HTTP_TIMEOUT = httpx2.Timeout(30.0, read=300.0)
COMMAND_LIMITS = Limits(timeout_ms=None, max_output_bytes=4_096)
NAME = re.compile(r"[A-Za-z0-9_-]{1,48}")
NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]")
"""What providers do not take in the name of a tool."""


def check_servers(servers: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises AsmError `validation_error`, naming the server and what is wrong with it."""
    for name, server in servers.items():
        if not NAME.fullmatch(name):
            raise _invalid(name, "must have a name of letters, digits, - and _, at most 48 of them")
        if not _are_texts(server.get("args", ())):
            raise _invalid(name, "args must be a list of texts")
        for field in ("env", "headers"):
            given = server.get(field, {})
            if not isinstance(given, Mapping) or not _are_texts([*given.keys(), *given.values()]):
                raise _invalid(name, f"{field} must be a mapping of texts")


@asynccontextmanager
async def mcp_tools(servers: Mapping[str, Mapping[str, Any]], *, cwd: str | None) -> AsyncIterator[list[McpServer]]:
    """
    The servers, all started; closed at the end of the block, bounded.

    Args:
        servers: by name: `{command, args?, env?}` or `{url, headers?}`.
        cwd: where commands run.

    Raises:
        AsmError: `dependency_not_available`; `tool_execution_failed`, naming a server that did not start.
    """
    opened = [McpServer(name, server, cwd or ".") for name, server in servers.items()]
    try:
        await asyncio.gather(*(server.start() for server in opened))
        yield opened
    finally:
        await asyncio.gather(*(server.close() for server in opened))


class McpServer:
    """A `ToolSource`; its tools are named `mcp__server__tool`."""

    def __init__(self, name: str, given: Mapping[str, Any], cwd: str) -> None:
        self._name, self._given, self._cwd = name, given, cwd
        self._child: Child | None = None
        self._client: Client | None = None
        self._tools: dict[str, Tool] = {}
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await asyncio.to_thread(require, "mcp", "mcp", operation=f"the MCP server {self._name}")
        started = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._hold(started))
        try:
            async with asyncio.timeout(START_S):
                await asyncio.wait({self._task, started}, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError as cause:
            raise self._failed(f"did not tell its tools within {START_S:g} s") from cause
        if not started.done():
            error = self._task.exception()
            raise self._failed(f"did not start: {_reason(error)}") from error

    async def close(self) -> None:
        """Whatever state it is in."""
        if self._task is None:
            return
        self._closing.set()
        if self._client is not None:
            await asyncio.wait({self._task}, timeout=CLOSE_S)
        self._task.cancel()
        await asyncio.wait({self._task}, timeout=CLOSE_S)
        if self._task.done() and not self._task.cancelled():
            self._task.exception()  # told by `start`, or by every call since

    async def specs(self) -> Sequence[ToolSpec]:
        return [_spec(name, tool) for name, tool in self._tools.items()]

    async def call(self, name: str, input: Mapping[str, Any]) -> ToolResult:
        assert self._client is not None, "the server was started"
        try:
            return _result(await self._client.call_tool(self._tools[name].name, dict(input)))
        except Exception as error:
            return ToolResult(f"the MCP server {self._name} failed: {_reason(error)}", is_error=True)

    async def _hold(self, started: asyncio.Future[None]) -> None:
        from mcp import Client

        async with self._transport() as transport, Client(transport) as client:
            self._client, self._tools = client, await self._listed(client)
            started.set_result(None)
            await self._closing.wait()

    async def _listed(self, client: Client) -> dict[str, Tool]:
        found: dict[str, Tool] = {}
        cursor = None
        while len(found) < MAX_TOOLS:
            page = await client.list_tools(cursor=cursor)
            found |= {f"mcp__{self._name}__{NOT_IN_NAMES.sub('_', tool.name)}": tool for tool in page.tools}
            if (cursor := page.next_cursor) is None:
                break
        return found

    @asynccontextmanager
    async def _transport(self) -> AsyncIterator[AbstractAsyncContextManager[Any]]:
        """Not opened yet: the client does that."""
        if "command" in self._given:
            yield self._piped()
            return
        from mcp.client.streamable_http import streamable_http_client

        async with httpx2.AsyncClient(headers=self._given.get("headers"), timeout=HTTP_TIMEOUT) as http:
            yield streamable_http_client(self._given["url"], http_client=http)

    @asynccontextmanager
    async def _piped(self) -> AsyncIterator[tuple[Any, Any]]:
        """The streams of a server that is a command."""
        argv = [self._given["command"], *self._given.get("args", ())]
        env = clean_env(self._given.get("env"))
        async with launch(argv, cwd=self._cwd, env=env, stdin=True, limits=COMMAND_LIMITS) as self._child:
            heard, to_read = anyio.create_memory_object_stream[Any](0)
            to_write, said = anyio.create_memory_object_stream[Any](0)
            pumps = [asyncio.create_task(_hear(self._child, heard)), asyncio.create_task(_say(self._child, said))]
            try:
                yield to_read, to_write
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
                for stream in (heard, to_read, to_write, said):
                    stream.close()
                self._child.close_stdin()

    def _failed(self, problem: str) -> AsmError:
        details = {"reason": "mcp_server", "mcp_server": self._name}
        if self._child is not None and self._child.stderr.text:
            details["stderr"] = self._child.stderr.text
        return AsmError(ErrorCode.TOOL_EXECUTION_FAILED, f"the MCP server {self._name} {problem}", details=details)


async def _hear(child: Child, heard: Any) -> None:
    """What the server says, message by message; its end is the end of the stream."""
    from mcp.shared.message import SessionMessage
    from mcp.types import jsonrpc_message_adapter

    rest = ""
    with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
        async with heard:
            async for chunk in child:
                *lines, rest = (rest + chunk.text).split("\n") if chunk.stream == "stdout" else [rest]
                for line in filter(str.strip, lines):
                    try:
                        message = SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False))
                    except ValueError as error:
                        await heard.send(error)
                    else:
                        await heard.send(message)


async def _say(child: Child, said: Any) -> None:
    with suppress(BrokenPipeError, anyio.ClosedResourceError):
        async with said:
            async for message in said:
                line = message.message.model_dump_json(by_alias=True, exclude_unset=True)
                await child.write(line.encode() + b"\n")


def _spec(name: str, tool: Tool) -> ToolSpec:
    """A server's own word that a tool only reads counts: who may name servers is trusted."""
    reads = tool.annotations is not None and tool.annotations.read_only_hint
    return ToolSpec(
        name=name,
        description=tool.description or tool.name,
        input_schema=tool.input_schema,
        access=ToolAccess.READ if reads else ToolAccess.EXECUTE,
    )


def _result(result: CallToolResult) -> ToolResult:
    """Its texts, else what it says in structure; of anything else only the kind."""
    texts = [block.text if block.type == "text" else f"[{block.type}]" for block in result.content]
    said: Any = "\n".join(texts) if texts else result.structured_content
    return ToolResult(said, bool(result.is_error))


def _reason(error: BaseException | None) -> str:
    """Of a group of errors the first one."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    told = error.message if isinstance(error, AsmError) else str(error)
    return told or type(error).__name__


def _are_texts(values: object) -> bool:
    return isinstance(values, list | tuple) and all(isinstance(value, str) for value in values)


def _invalid(name: str, problem: str) -> AsmError:
    field = f"provider_options.mcp_servers.{name}"
    return AsmError(ErrorCode.VALIDATION_ERROR, f"{field} {problem}", details={"field": field})

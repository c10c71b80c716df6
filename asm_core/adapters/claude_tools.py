"""The tools that Claude Code may use in a run: its own, MCP servers', this process's; and who is asked before."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from asm_core.domain.provider_options import ProviderOptions
from asm_core.domain.tool import ToolAccess, ToolSpec, ToolUse, judge
from asm_core.ports.provider import Execution, ToolSource, allow_all
from asm_core.wire import dumps_text

HOST_SERVER = "asm"
"""The MCP server that this process is for the agent."""
HOST_PREFIX = f"mcp__{HOST_SERVER}__"
ANSWER = "StructuredOutput"
"""How the agent gives an answer that has a schema: no tool, though it looks like one."""
GATE_S = 7 * 86_400.0
"""How long a gate may take; the run's own limits are shorter."""

Hook = Callable[[Any, str | None, Any], Awaitable[dict[str, Any]]]


async def tool_options(execution: Execution, options: ProviderOptions, tools: ToolSource | None) -> dict[str, Any]:
    """
    The SDK's options that say it.

    Args:
        options: the run's, over the adapter's.
        tools: of this process; those that the run's mode does not open are not even offered.
    """
    servers: dict[str, Any] = {name: _server(config) for name, config in options.mcp_servers.items()}
    specs = await tools.specs() if tools else ()
    if tools and specs:
        servers[HOST_SERVER] = _host_server(tools, specs)
    opened = [spec for spec in specs if judge(_use(spec), options).is_allowed]
    closed = [spec for spec in specs if spec not in opened]
    given = {
        "mcp_servers": servers,
        "allowed_tools": [f"{HOST_PREFIX}{spec.name}" for spec in opened],
        "disallowed_tools": [*options.denied_tools, *(f"{HOST_PREFIX}{spec.name}" for spec in closed)],
    }
    if options.allowed_tools is not None:
        given["tools"] = [name for name in options.allowed_tools if not name.startswith("mcp__")]
    if options.allowed_tools is not None or execution.gate is not allow_all:
        given["hooks"] = {"PreToolUse": [_matcher(_gate(execution, options, specs))]}
    return given


def _use(spec: ToolSpec) -> ToolUse:
    """Any of it."""
    return ToolUse(id="", name=spec.name, input={}, access=spec.access)


def _server(config: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "stdio" if "command" in config else "http", **config}


def _host_server(tools: ToolSource, specs: Sequence[ToolSpec]) -> Any:
    import claude_agent_sdk as sdk

    def offered(spec: ToolSpec) -> Any:
        async def call(given: Mapping[str, Any]) -> dict[str, Any]:
            result = await tools.call(spec.name, given)
            text = result.content if isinstance(result.content, str) else dumps_text(result.content)
            return {"content": [{"type": "text", "text": text}], "is_error": result.is_error}

        return sdk.SdkMcpTool(spec.name, spec.description, dict(spec.input_schema), call)

    return sdk.create_sdk_mcp_server(HOST_SERVER, tools=[offered(spec) for spec in specs])


def _matcher(hook: Hook) -> Any:
    """Before any tool; a hook that fails lets nothing through."""
    import claude_agent_sdk as sdk

    return sdk.HookMatcher(hooks=[hook], timeout=GATE_S, on_failure="block")  # type: ignore[list-item]


def _gate(execution: Execution, options: ProviderOptions, specs: Sequence[ToolSpec]) -> Hook:
    """Asked before every use of a tool, in every mode; what passes it still has to pass the mode."""
    hosts: dict[str, ToolAccess] = {f"{HOST_PREFIX}{spec.name}": spec.access for spec in specs}

    async def ask(given: Any, tool_use_id: str | None, _context: Any) -> dict[str, Any]:
        told = given["tool_name"]
        name = told.removeprefix(HOST_PREFIX)
        if name == ANSWER:
            return {}
        if not options.permits(name):
            return _denied(f"the tool {name} is not allowed in this run")
        use = ToolUse(id=tool_use_id or "", name=name, input=given["tool_input"], access=hosts.get(told))
        verdict = await execution.gate(use)
        return {} if verdict.is_allowed else _denied(verdict.reason)

    return ask


def _denied(reason: str) -> dict[str, Any]:
    answer = {"permissionDecision": "deny", "permissionDecisionReason": reason}
    return {"hookSpecificOutput": {"hookEventName": "PreToolUse", **answer}}

"""
Provider `claude`: Claude Code by its own SDK, one command line per run, guarded by `agent_process.py`.

Each session has a home of its own for it, made from nothing, so that nobody's settings, logins or plugins have a part
in a run. The permission mode is a ceiling: the run's gate and its lists of tools can only narrow it, and what would ask
a human at a terminal is denied.

Source: spec/04 §3; spec/06 §6; docs/design/provider-servers.md.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from copy import copy
from dataclasses import fields, replace
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Any, Self

from asm_core.adapters.claude_tools import HOST_SERVER, tool_options
from asm_core.adapters.failures import CUT, MALFORMED, provider_failure
from asm_core.adapters.prompts import check_blocks, prompt, text_in
from asm_core.agent_process import AgentCommand, AgentFolder, AgentFolders, agent_command
from asm_core.config import ProviderAccess
from asm_core.domain.capability import Capability, CapabilityType
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import EventType
from asm_core.domain.messages import input_contents
from asm_core.domain.permission import native_options
from asm_core.domain.pricing import PriceList
from asm_core.domain.provider_error import ProviderErrorKind
from asm_core.domain.provider_options import NO_OPTIONS, ProviderOptions
from asm_core.domain.run import Continuation
from asm_core.optional import require
from asm_core.ports.provider import NATIVE_RESUME, Completion, Execution, RawEvent, ToolSource
from asm_core.process import clean_env

if TYPE_CHECKING:
    import claude_agent_sdk as sdk

    from asm_core.adapters.claude_events import ClaudeEvents
    from asm_core.adapters.claude_session import ClaudeSession

log = logging.getLogger(__name__)

Message = dict[str, Any]
"""As the SDK takes it."""

NAME = "claude"
EXTRA = "claude"
PACKAGE = "claude_agent_sdk"
STOP_S = 1.0
"""For an interrupted agent to come to its end; then it is killed."""
MESSAGE_BYTES = 64 * 1_048_576
"""The longest single message; a tool may return much."""
STDERR_LINES = 200
CONTINUE = "You were interrupted before you had finished. Go on from where you were, and do not repeat what is done."
LEAST_TOKENS = 2_048
"""Half of which is the least that models take for thinking."""
EFFORTS = ("low", "medium", "high", "xhigh", "max")
INHERITED = (
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS",
)  # fmt: skip
"""How the network is reached."""
OWN = frozenset({
    "allowed_tools", "can_use_tool", "cli_path", "continue_conversation", "cwd", "debug_stderr", "disallowed_tools",
    "enable_file_checkpointing", "env", "fork_session", "hooks", "include_partial_messages", "load_timeout_ms",
    "mcp_servers", "resume", "resume_drops_turn", "resume_session_at", "session_id", "session_store",
    "session_store_flush", "stderr", "strict_mcp_config", "tools",
})  # fmt: skip
"""Options of the SDK that are this adapter's to set."""


class ClaudeAdapter:
    """
    Args:
        folders: homes and working folders of the sessions.
        access: server, key and model; without a key the agent is not logged in.
        prices: of tokens until the agent tells what a run has cost.
        options: for runs that do not say otherwise.
        tools: of this process, offered to the agent as an MCP server.
        cli: the command line; the SDK's own, else the one on the PATH.
        grace_s: from TERM to KILL.

    Raises:
        AsmError: `dependency_not_available`.
    """

    name = NAME

    def __init__(
        self,
        folders: AgentFolders,
        access: ProviderAccess,
        *,
        prices: PriceList | None = None,
        options: ProviderOptions = NO_OPTIONS,
        tools: ToolSource | None = None,
        cli: Path | None = None,
        grace_s: float = 2.0,
    ) -> None:
        self._folders, self._access, self._prices = folders, access, prices or PriceList()
        self._options, self._tools, self._cli, self._grace_s = options, tools, cli, grace_s

    def capabilities(self) -> Sequence[Capability]:
        sampling, tool = CapabilityType.SAMPLING, CapabilityType.TOOL
        named = {
            "streaming": sampling, "tool_use": tool, "vision": CapabilityType.RESOURCE,
            "system_prompts": CapabilityType.PROMPT, "interrupt": sampling, "mcp": tool, "bash": tool,
            "file_operations": tool, "structured_output": sampling, NATIVE_RESUME: sampling,
        }  # fmt: skip
        return [Capability(name=name, type=kind) for name, kind in named.items()]

    def validate_input(self, value: Mapping[str, Any]) -> None:
        check_blocks(value)

    def validate_options(self, options: ProviderOptions) -> None:
        if options.reasoning_effort not in (None, *EFFORTS):
            raise _invalid("reasoning_effort", f"must be one of {', '.join(EFFORTS)}")
        if HOST_SERVER in options.mcp_servers:
            raise _invalid("mcp_servers", f"cannot have a server called {HOST_SERVER}: that is this process")
        if options.max_tokens is not None and options.max_tokens < LEAST_TOKENS:
            raise _invalid("max_tokens", f"must be at least {LEAST_TOKENS}: the agent needs some for thinking")
        if options.sdk_opts:
            known = {option.name for option in fields(_sdk().ClaudeAgentOptions)} - OWN
            if unknown := sorted(options.sdk_opts.keys() - known):
                raise _invalid("sdk_opts", f"cannot have {unknown[0]}: the SDK has no such option, or ASM sets it")

    async def execute(self, execution: Execution) -> AsyncGenerator[RawEvent | Completion, None]:
        sdk = await asyncio.to_thread(_sdk)  # the first time it takes a second
        from asm_core.adapters.claude_events import ClaudeEvents, Spending
        from asm_core.adapters.claude_session import ClaudeSession

        options = execution.options.over(self._options)
        folder = self._folders.of(execution.session.id, NAME)
        cwd = _working_folder(options, folder)
        kept = ClaudeSession(_config(folder) / "projects" / sdk.project_key_for_directory(cwd), execution.files)
        resumed = await _resumed(execution, kept)
        said = CONTINUE if resumed and execution.was_cut else _said(execution, replay=resumed is None)
        events = ClaudeEvents(Spending(self._prices, resumed.cost_usd if resumed else 0.0))
        stderr: deque[str] = deque(maxlen=STDERR_LINES)
        env = self._environment(folder, options)
        cli = [str(self._cli or _find_cli())]
        async with agent_command(cli, env=env, folder=folder.home, grace_s=self._grace_s) as guarded:
            chosen = await self._sdk_options(execution, options)
            resume = execution.resume if resumed else None
            client = sdk.ClaudeSDKClient(
                sdk.ClaudeAgentOptions(
                    **chosen, cwd=cwd, cli_path=guarded.path, resume=resume, stderr=stderr.append
                )
            )  # fmt: skip
            try:
                async with aclosing(_talk(client, said, events, kept)) as told:
                    async for event in told:
                        yield event
            except Exception as error:
                if not _is_of_sdk(error):
                    raise
                raise _failure(error, guarded, stderr) from error
            finally:
                execution.last_words.extend(await _leave(client, guarded, events))
                if events.has_begun:
                    await _save(kept, events, is_whole=events.result is not None)
        yield events.completion()

    @property
    def server(self) -> str:
        return self._access.base_url or "https://api.anthropic.com"

    def at(self, server: str) -> Self:
        other = copy(self)
        other._access = replace(self._access, base_url=server)
        return other

    async def aclose(self) -> None:
        """Holds nothing: a command line belongs to its execution."""

    def _environment(self, folder: AgentFolder, options: ProviderOptions) -> dict[str, str]:
        told = {
            "HOME": str(folder.home),
            "CLAUDE_CONFIG_DIR": str(_config(folder)),
            "CLAUDE_CODE_TMPDIR": str(folder.home),
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "CLAUDE_CODE_MAX_RETRIES": "0",
            "CLAUDE_CODE_ENTRYPOINT": "sdk-py",
            "IS_SANDBOX": "1" if os.geteuid() == 0 else None,
            "ANTHROPIC_BASE_URL": self._access.base_url,
            "ANTHROPIC_API_KEY": self._access.key,
            "CLAUDE_CODE_MAX_OUTPUT_TOKENS": str(options.max_tokens) if options.max_tokens else None,
        }
        return clean_env({name: value for name, value in told.items() if value is not None}, INHERITED)

    async def _sdk_options(self, execution: Execution, options: ProviderOptions) -> dict[str, Any]:
        """What is said, over `sdk_opts`, over what this adapter would have."""
        own: dict[str, Any] = {
            "setting_sources": [], "verbatim_prompts": True, "max_buffer_size": MESSAGE_BYTES,
            "system_prompt": {"type": "preset", "preset": "claude_code"},
        }  # fmt: skip
        said = {
            "model": execution.model or self._access.model,
            "max_turns": options.max_turns,
            "system_prompt": options.system_prompt,
            "effort": options.reasoning_effort,
            "output_format": options.output_schema and {"type": "json_schema", "schema": dict(options.output_schema)},
            **(native_options(NAME, options.permission_mode) if options.permission_mode else {}),
        }
        return {
            **own,
            **options.sdk_opts,
            **{name: value for name, value in said.items() if value is not None},
            "include_partial_messages": True,
            "strict_mcp_config": True,
            **await tool_options(execution, options, self._tools),
        }


def _sdk() -> Any:
    return require(PACKAGE, EXTRA, operation="the provider claude")


def _invalid(field: str, problem: str) -> AsmError:
    name = f"provider_options.{field}"
    return AsmError(ErrorCode.VALIDATION_ERROR, f"{name} {problem}", details={"field": name})


def _config(folder: AgentFolder) -> Path:
    return folder.home / ".claude"


def _working_folder(options: ProviderOptions, folder: AgentFolder) -> Path:
    cwd = Path(options.cwd) if options.cwd else folder.work
    if not cwd.is_dir():
        raise _invalid("cwd", f"must be a folder on the worker, not {str(cwd)!r}")
    return cwd


def _find_cli() -> Path:
    """
    Raises:
        AsmError: `dependency_not_available`.
    """
    bundled = Path(_sdk().__file__).parent / "_bundled" / "claude"
    found = str(bundled) if bundled.is_file() else which("claude")
    if found is None:
        raise _no_cli("claude-agent-sdk has no command line for this platform, and there is no claude on the PATH")
    return Path(found)


def _no_cli(message: str) -> AsmError:
    return provider_failure(NAME, message, (ErrorCode.DEPENDENCY_NOT_AVAILABLE, ProviderErrorKind.CLI_NOT_FOUND))


async def _resumed(execution: Execution, kept: ClaudeSession) -> Any:
    """
    The record of the provider's session that the run goes on in; None where it begins one.

    Raises:
        AsmError: `invalid_operation`: there is none, and nothing else to go on from.
    """
    if execution.resume is None:
        return None
    restored = await kept.restore(execution.resume, was_cut=execution.was_cut)
    options = execution.run.options
    begins_anew = execution.was_cut and (options is None or options.continuation is Continuation.NONE)
    if restored is None and execution.transcript is None and not begins_anew:
        message = f"the session {execution.resume} of claude is not kept whole: it cannot be resumed"
        raise AsmError(ErrorCode.INVALID_OPERATION, message, details={"field": "continuation"})
    return restored


def _said(execution: Execution, *, replay: bool) -> str | Message:
    """The prompt; a message with the input's images behind it, where there are any."""
    contents = input_contents(execution.run.input)
    texts = [{**message, "content": text_in(message["content"])} for message in contents]
    text = prompt(replace(execution, run=replace(execution.run, input={"messages": texts})), replay=replay)
    blocks = [block for message in contents if isinstance(message["content"], list) for block in message["content"]]
    images = [block for block in blocks if block["type"] == "image"]
    if not images:
        return text
    content = [{"type": "text", "text": text}, *images] if text else images
    return {"type": "user", "message": {"role": "user", "content": content}, "parent_tool_use_id": None}


async def _only(message: Message) -> AsyncGenerator[Message, None]:
    yield message


async def _talk(
    client: sdk.ClaudeSDKClient, said: str | Message, events: ClaudeEvents, kept: ClaudeSession
) -> AsyncGenerator[RawEvent, None]:
    """One prompt, to the agent's result or to the end of its words."""
    await client.connect()
    await client.query(said if isinstance(said, str) else _only(said))
    async for message in client.receive_response():
        for event in events.take(message):
            yield event
        if events.has_begun and type(message).__name__ in ("AssistantMessage", "UserMessage"):
            await _save(kept, events, is_whole=False)


async def _leave(client: sdk.ClaudeSDKClient, guarded: AgentCommand, events: ClaudeEvents) -> list[RawEvent]:
    """
    Interrupt an agent that is still at work, and let it write its record; whatever it does, it is gone behind this.

    Returns:
        What it still had to say, in whole messages.
    """
    said: list[RawEvent] = []
    if events.result is None:
        with suppress(Exception):  # the SDK's, of an agent that cannot be asked any more
            async with asyncio.timeout(STOP_S):
                await client.interrupt()
                async for message in client.receive_response():
                    said += [event for event in events.take(message) if event.type != EventType.MESSAGE_STREAMED]
        if events.result is None:
            guarded.stop(grace_s=0)
    ending = asyncio.get_running_loop().call_later(STOP_S, guarded.stop)  # what the agent has left in the background
    with suppress(Exception):  # the same; the guard does what is left to do
        await client.disconnect()
    ending.cancel()
    return said


async def _save(kept: ClaudeSession, events: ClaudeEvents, *, is_whole: bool) -> None:
    """A run is not held up by this: the next one finds a record that is not whole, and goes on from the transcript."""
    assert events.session_id is not None
    try:
        cost = events.result.total_cost_usd if events.result else None
        await kept.save(events.session_id, is_whole=is_whole, cost_usd=cost)
    except AsmError as error:
        log.warning("the record of claude's session %s was not kept: %s", events.session_id, error)


def _is_of_sdk(error: Exception) -> bool:
    """It raises plain exceptions too, when a request to the command line fails."""
    return isinstance(error, _sdk().ClaudeSDKError) or type(error) is Exception


def _failure(error: Exception, guarded: AgentCommand, stderr: deque[str]) -> AsmError:
    """The SDK's exception as an error of ours."""
    if guarded.failure is not None:
        return _no_cli(guarded.failure.message)
    code = getattr(error, "exit_code", None)
    told: dict[str, Any] = {"exit_code": code, "stderr": "\n".join(stderr) or None}
    match type(error).__name__:
        case "CLINotFoundError":
            return _no_cli(str(error))
        case "CLIJSONDecodeError" | "MessageParseError":
            return provider_failure(NAME, f"the agent sent what is no message: {error}", MALFORMED)
        case "ProcessError" if code is not None and 0 < code < 128:
            what = (ErrorCode.PROVIDER_ERROR, ProviderErrorKind.PROCESS_ERROR)
            return provider_failure(NAME, f"the agent ended with exit code {code}", what, **told)
        case "ResultError":
            what = (ErrorCode.PROVIDER_ERROR, ProviderErrorKind.PROCESS_ERROR)
            return provider_failure(NAME, str(error), what, **told)
    what = (CUT[0], ProviderErrorKind.TRANSPORT_EXIT)
    return provider_failure(NAME, f"the agent ended in the middle: {error}", what, **told)

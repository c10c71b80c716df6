"""
Provider `codex`: one turn of a Codex thread per run, in an app-server of the run's own.

The thread is the conversation: its id is the handle by which a later run goes on, here or on another worker. Commands
run in Codex's own sandbox, by the permission mode; what would leave that is asked of the host.

Source: spec/06 §7; spec/04 §4; docs/design/provider-servers.md.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, suppress
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from asm_core.adapters.agents import agent_env, agent_folder, check_names, check_options, check_prompt, session_gone
from asm_core.adapters.codex_events import Call, CodexTurn
from asm_core.adapters.codex_server import CodexServer, ServerSetup, app_server
from asm_core.adapters.codex_threads import CodexThreads, items_since
from asm_core.adapters.failures import provider_failure
from asm_core.adapters.prompts import prompt
from asm_core.agent_process import AgentFolders
from asm_core.config import ProviderAccess
from asm_core.domain.capability import Capability, CapabilityType
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import EventType
from asm_core.domain.permission import PermissionMode, native_options
from asm_core.domain.provider_error import ProviderErrorKind
from asm_core.domain.provider_options import ProviderOptions
from asm_core.domain.run import OnWorkerLost
from asm_core.domain.tool import ToolAccess, ToolUse
from asm_core.optional import require
from asm_core.ports.provider import NATIVE_RESUME, Completion, Execution, Gate, RawEvent

Item = RawEvent | Completion
Params = Mapping[str, Any]

OPENAI_URL = "https://api.openai.com/v1"
KEY_NAME = "CODEX_PROVIDER_KEY"
"""Names the key to Codex, and is kept from the commands it runs."""
GO_ON = "Your last turn was cut off. Go on from where it stopped; do not repeat what is done already."
END_S = 1.0
"""For the end of a turn that was interrupted."""
SEEN_S = 1.0
"""For the call that Codex asks about to be told of."""

APPROVALS = {"deny_all": "never", "on_request": "on-request"}
SANDBOXES = {"read_only": "read-only", "workspace_write": "workspace-write", "full_access": "danger-full-access"}
THREAD_OPTS = {"config": "config", "developer_instructions": "developerInstructions", "service_tier": "serviceTier"}
TURN_OPTS = {"summary": "summary", "personality": "personality"}
"""What `sdk_opts` may say, and the app-server's names for it."""
WITHOUT_ASKING = (PermissionMode.FULL_AUTO, PermissionMode.DANGEROUSLY_SKIP_PERMISSIONS)
KEPT_AFTER = (EventType.TOKEN_USAGE_UPDATED, EventType.TOOL_CALL_COMPLETED, EventType.TOOL_CALL_FAILED)
"""Where a run that another worker may go on with keeps its thread."""


class CodexAdapter:
    """
    Args:
        folders: where sessions have their homes and working folders.
        access: base URL, key and model.
    """

    name = "codex"

    def __init__(self, folders: AgentFolders, access: ProviderAccess) -> None:
        self._folders, self._access = folders, access

    def capabilities(self) -> Sequence[Capability]:
        return (
            Capability(name="streaming", type=CapabilityType.SAMPLING),
            Capability(name="tool_use", type=CapabilityType.TOOL),
            Capability(name="interrupt", type=CapabilityType.SAMPLING),
            Capability(name="mcp", type=CapabilityType.TOOL),
            Capability(name="file_operations", type=CapabilityType.TOOL),
            Capability(name="bash", type=CapabilityType.TOOL),
            Capability(name="system_prompts", type=CapabilityType.PROMPT),
            Capability(name="structured_output", type=CapabilityType.SAMPLING),
            Capability(name=NATIVE_RESUME, type=CapabilityType.SAMPLING),
        )

    def validate_input(self, value: Mapping[str, Any]) -> None:
        check_prompt(value)

    def validate_options(self, options: ProviderOptions) -> None:
        check_options(self.name, options, lacks=("allowed_tools", "denied_tools", "max_tokens"))
        check_names(options, THREAD_OPTS | TURN_OPTS)

    async def execute(self, execution: Execution) -> AsyncGenerator[Item, None]:
        setup = self._setup(execution)
        threads = CodexThreads(setup.home, execution.files, execution.run.id)
        run = CodexRun(execution, threads, model=execution.model or self._access.model, cwd=setup.cwd)
        try:
            async with app_server(setup, run.answer) as server, aclosing(run.events(server)) as events:
                async for event in events:
                    yield event
        except AsmError as error:
            if not run.turn.has_begun:
                raise
            run.turn.failure = error
        finally:
            await run.keep()
        for item in run.end():
            yield item

    def _setup(self, execution: Execution) -> ServerSetup:
        key = self._access.key
        if not key:
            what = (ErrorCode.PROVIDER_AUTHENTICATION_FAILED, ProviderErrorKind.AUTHENTICATION)
            raise provider_failure(self.name, "no key for Codex: set ASM_CODEX_API_KEY", what)
        folder, work = agent_folder(self._folders, execution, self.name)
        home = folder.home / ".codex"
        home.mkdir(exist_ok=True)
        program, tools = _program()
        env = agent_env({"HOME": str(folder.home), "CODEX_HOME": str(home), KEY_NAME: key}, tools)
        return ServerSetup(program, home, work, env, self._overrides())

    def _overrides(self) -> tuple[str, ...]:
        """A provider of our own; no retries, which are the run's alone; and nothing that calls elsewhere."""
        url = json.dumps(self._access.base_url or OPENAI_URL)
        return (
            'model_provider="asm"', 'model_providers.asm.name="asm"', f"model_providers.asm.base_url={url}",
            f'model_providers.asm.env_key="{KEY_NAME}"', 'model_providers.asm.wire_api="responses"',
            "model_providers.asm.request_max_retries=0", "model_providers.asm.stream_max_retries=0",
            "analytics.enabled=false", "features.plugins=false",
            f'shell_environment_policy.exclude=["{KEY_NAME}"]',
        )  # fmt: skip

    @property
    def server(self) -> str:
        return self._access.base_url or OPENAI_URL

    def at(self, server: str) -> Self:
        other = copy(self)
        other._access = replace(self._access, base_url=server)
        return other

    async def aclose(self) -> None:
        """Holds nothing: an app-server belongs to its execution."""


def _program() -> tuple[Path, Sequence[Path]]:
    """Codex, and the folders of what it uses itself."""
    package = require("codex_cli_bin", "codex")
    try:
        tools = package.bundled_path_dir()
        return package.bundled_codex_path(), [tools] if tools else []
    except FileNotFoundError as cause:
        what = (ErrorCode.DEPENDENCY_NOT_AVAILABLE, ProviderErrorKind.CLI_NOT_FOUND)
        raise provider_failure("codex", str(cause), what) from cause


@dataclass(slots=True)
class CodexRun:
    """One execution, in its server."""

    execution: Execution
    threads: CodexThreads
    model: str | None
    cwd: Path
    turn: CodexTurn = field(init=False)
    thread_id: str = ""
    rollout: Path | None = None
    prompt: str = ""
    is_resumed: bool = False
    _said_before: int = 0
    """Bytes of the rollout before the turn."""
    _is_kept: bool = False
    _is_interrupted: bool = False
    _heard: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by each notification."""

    def __post_init__(self) -> None:
        self.turn = CodexTurn(max_turns=self.execution.options.max_turns)

    async def events(self, server: CodexServer) -> AsyncGenerator[RawEvent, None]:
        """All of the turn; however it is left, the turn has ended."""
        await self._open(server)
        turn_id = await server.start_turn(self.thread_id, self.prompt, self._turn_params())
        try:
            while self.turn.status is None and not self.turn.exceeds:
                for event in await self._next(server, turn_id):
                    yield event
            if self.turn.exceeds:
                for event in await self._interrupt(server, turn_id):
                    yield event
        finally:
            self.execution.last_words.extend(await self._interrupt(server, turn_id))

    async def _next(self, server: CodexServer, turn_id: str) -> list[RawEvent]:
        method, params = await server.notification(turn_id)
        unseen = self._unseen() if method == "turn/completed" else []
        events = unseen + self.turn.observe(method, params)
        self._heard.set()
        is_due = self._may_go_on_elsewhere and any(event.type in KEPT_AFTER for event in events)
        if self.rollout and self.turn.has_begun and (is_due or not self._is_kept):
            await self.threads.keep(self.thread_id, self.rollout, is_whole=False)
            self._is_kept = True
        return events

    def _unseen(self) -> list[RawEvent]:
        """Of a resumed thread the server tells no raw output: refused calls are read from its rollout."""
        if not self.is_resumed or self.rollout is None:
            return []
        items = items_since(self.rollout, self._said_before)
        return [event for item in items for event in self.turn.observe("rawResponseItem/completed", {"item": item})]

    async def _interrupt(self, server: CodexServer, turn_id: str) -> list[RawEvent]:
        """Of a turn that has not ended: once, and until Codex says that it has; then its rollout says so too."""
        events: list[RawEvent] = []
        if self.turn.status is not None or self._is_interrupted:
            return events
        self._is_interrupted = True
        await server.interrupt(self.thread_id, turn_id)
        with suppress(TimeoutError, AsmError):
            async with asyncio.timeout(END_S):
                while self.turn.status is None:
                    events += self.turn.observe(*await server.notification(turn_id))
        return events + self.turn.close()

    def end(self) -> Iterator[Item]:
        """
        Raises:
            AsmError: the turn failed; where another try may help and nothing has come of it, before any event.
        """
        turn = self.turn
        if failure := self._failure():
            if turn.has_begun or not failure.retryable:
                yield from turn.begin()
                yield RawEvent(EventType.ERROR_OCCURRED, failure.to_event_data())
            raise failure
        told = {"thread_id": self.thread_id, "num_turns": turn.requests, "duration_ms": turn.duration_ms}
        yield Completion(output=self._output(), data=told)

    def _failure(self) -> AsmError | None:
        turn = self.turn
        if turn.exceeds and turn.status != "completed":
            message = f"the model has not come to an end within max_turns={turn.max_turns}"
            return provider_failure("codex", message, reason="max_turns", max_turns=turn.max_turns)
        if turn.status == "interrupted" and turn.failure is None:
            return AsmError(ErrorCode.CANCELLED, "Codex ended the turn", details={"reason": "interrupted"})
        return turn.failure

    def _output(self) -> dict[str, Any]:
        output: dict[str, Any] = {"content": self.turn.content}
        if self.execution.options.output_schema:
            with suppress(ValueError):
                output["object"] = json.loads(self.turn.content)
        return output

    # The thread

    async def _open(self, server: CodexServer) -> None:
        """The thread of the run: one that it goes on with, or a new one."""
        opened = await self._resumed(server) if self.execution.resume else None
        self.is_resumed = opened is not None
        if opened is None:
            opened = await server.start_thread(self._thread_params() | {"experimentalRawEvents": True})
            self.prompt = prompt(self.execution, replay=True)
        self.thread_id = opened.thread.id
        self.rollout = Path(opened.thread.path)
        if self.is_resumed:
            self._said_before = self.rollout.stat().st_size
        self.turn.about = self._about(opened)

    async def _resumed(self, server: CodexServer) -> Any:
        """None: begin anew, with the transcript where there is one."""
        execution, thread_id = self.execution, str(self.execution.resume)
        kept = await self.threads.restore(thread_id)
        is_own = kept is not None and kept.run_id == execution.run.id
        if kept is not None and (kept.is_whole or (execution.was_cut and is_own)):
            if kept.is_empty:
                return None  # nothing had come of it
            self.prompt = GO_ON if execution.was_cut and is_own else prompt(execution, replay=False)
            try:
                return await server.resume_thread(thread_id, self._thread_params())
            except AsmError as error:
                if error.code is not ErrorCode.PROVIDER_ERROR:
                    raise
        if gone := session_gone(execution):
            raise gone
        return None

    async def keep(self) -> None:
        """At the end; a turn that came to nothing, and may be repeated, leaves the thread as it was."""
        failure = self._failure()
        is_told = self.turn.has_begun or (failure is not None and not failure.retryable)
        if is_told and self.rollout:
            is_whole = self.turn.status is not None
            await self.threads.keep_if_possible(self.thread_id, self.rollout, is_whole=is_whole)

    @property
    def _may_go_on_elsewhere(self) -> bool:
        options = self.execution.run.options
        return options is not None and options.on_worker_lost is OnWorkerLost.RESUME

    # What Codex is told

    def _thread_params(self) -> dict[str, Any]:
        options = self.execution.options
        native = native_options("codex", options.permission_mode)
        said = {
            "model": self.model,
            "baseInstructions": options.system_prompt,
            "cwd": str(self.cwd),
            "approvalPolicy": APPROVALS[native["approval_mode"]],
            "approvalsReviewer": "user",
            "sandbox": SANDBOXES[native["sandbox"]],
        }
        lowest = {THREAD_OPTS[name]: value for name, value in options.sdk_opts.items() if name in THREAD_OPTS}
        servers = {name: _server(server, options.permission_mode) for name, server in options.mcp_servers.items()}
        if servers:
            lowest["config"] = {**lowest.get("config", {}), "mcp_servers": servers}
        return lowest | {name: value for name, value in said.items() if value is not None}

    def _turn_params(self) -> dict[str, Any]:
        options = self.execution.options
        said = {"effort": options.reasoning_effort, "outputSchema": options.output_schema}
        lowest = {TURN_OPTS[name]: value for name, value in options.sdk_opts.items() if name in TURN_OPTS}
        return lowest | {name: value for name, value in said.items() if value is not None}

    def _about(self, opened: Any) -> dict[str, Any]:
        effort = opened.reasoning_effort
        return {
            "thread_id": self.thread_id,
            "model": opened.model or self.model,
            "configured_model": self.model,
            "confirmed_model": opened.model,
            "confirmed_reasoning_effort": getattr(effort, "root", effort),
            "confirmation_source": "codex_cli.thread_started",
            "cwd": str(self.cwd),
            "permission_mode": str(self.execution.options.permission_mode or PermissionMode.DEFAULT),
        }

    # What Codex asks

    async def answer(self, method: str, params: Params) -> dict[str, Any]:
        """Codex's own words for yes and no; what we do not know is no."""
        gate = self.execution.gate
        if method == "item/commandExecution/requestApproval":
            return await self._decided(gate, params, ToolAccess.EXECUTE)
        if method == "item/fileChange/requestApproval":
            access = ToolAccess.EXECUTE if params.get("grantRoot") else ToolAccess.EDIT
            return await self._decided(gate, params, access)
        if method == "mcpServer/elicitation/request":
            return await self._elicited(gate, params)
        return {"decision": "decline"}

    async def _decided(self, gate: Gate, params: Params, access: ToolAccess) -> dict[str, Any]:
        call = await self._seen(lambda: self.turn.calls.get(params["itemId"]))
        if call is None:
            return {"decision": "decline"}
        return {"decision": "accept" if await self._allows(gate, call, access) else "decline"}

    async def _elicited(self, gate: Gate, params: Params) -> dict[str, Any]:
        """A tool of an MCP server; a server's own questions have nobody here to answer them."""
        about, server = params.get("_meta") or {}, params.get("serverName")
        if about.get("codex_approval_kind") != "mcp_tool_call":
            return {"action": "decline"}
        given = about.get("tool_params") or {}
        call = await self._seen(lambda: self.turn.open_call(f"{server}:", given))
        if call is None or not await self._allows(gate, call, ToolAccess.EXECUTE):
            return {"action": "decline"}
        return {"action": "accept", "content": {}}

    async def _allows(self, gate: Gate, call: Call, access: ToolAccess) -> bool:
        verdict = await gate(ToolUse(id=call.id, name=call.name, input=call.input, access=access))
        if not verdict.is_allowed:
            self.turn.refusals[call.id] = verdict.reason
        return verdict.is_allowed

    async def _seen(self, find: Callable[[], Call | None]) -> Call | None:
        """Codex has told of a call before it asks, but on another thread."""
        with suppress(TimeoutError):
            async with asyncio.timeout(SEEN_S):
                while (call := find()) is None:
                    self._heard.clear()
                    await self._heard.wait()
                return call
        return None


def _server(server: Mapping[str, Any], mode: PermissionMode | None) -> dict[str, Any]:
    """An MCP server in Codex's words; in the modes that never ask its tools are allowed beforehand."""
    told = {"http_headers" if name == "headers" else name: value for name, value in server.items()}
    return told | ({"default_tools_approval_mode": "approve"} if mode in WITHOUT_ASKING else {})

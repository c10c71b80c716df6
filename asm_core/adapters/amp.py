"""
Provider `amp`: one prompt to Amp's command line per run, in a thread that Amp's server keeps.

The thread's id is the handle by which a later run goes on, on any worker. What an agent may do is set by rules
beforehand: Amp has nobody whom it could ask.

Source: spec/06 §8; spec/04 §5; docs/design/provider-servers.md.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager, suppress
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, TypeVar, cast

from asm_core.adapters.agents import (
    agent_env,
    agent_folder,
    check_names,
    check_options,
    check_prompt,
    not_supported,
    session_gone,
)  # fmt: skip
from asm_core.adapters.amp_events import AmpTurn
from asm_core.adapters.failures import CUT, MALFORMED, provider_failure
from asm_core.adapters.prompts import prompt
from asm_core.agent_process import AgentCommand, AgentFolders, agent_command
from asm_core.config import ProviderAccess
from asm_core.domain.capability import Capability, CapabilityType
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import EventType
from asm_core.domain.permission import PermissionMode, native_options
from asm_core.domain.provider_error import ProviderErrorKind
from asm_core.domain.provider_options import ProviderOptions
from asm_core.optional import require
from asm_core.ports.provider import NATIVE_RESUME, Completion, Execution, RawEvent
from asm_core.wire import dumps_text

T = TypeVar("T")
Item = RawEvent | Completion

LACKS = ("max_tokens", "output_schema")
MODES = (PermissionMode.DEFAULT, PermissionMode.FULL_AUTO, PermissionMode.DANGEROUSLY_SKIP_PERMISSIONS)
"""Amp has no equal of the others, nor a next narrower one: its default changes files."""
EFFORTS = frozenset({"none", "minimal", "low", "medium", "high", "xhigh", "max"})
SDK_OPTS = frozenset({"mode", "visibility", "labels", "skills", "title"})
MODE = "smart"
CLI_PATH = "AMP_CLI_PATH"
"""Where the SDK looks for its command line; in the process's environment alone."""
USUAL_PLACES = ("~/.amp/bin/amp", "~/.local/bin/amp")
GO_ON = "Your last turn was cut off. Go on from where it stopped; do not repeat what is done already. You were told:"
END_S = 10.0
"""For the command line to end after its result."""


class AmpAdapter:
    """
    Args:
        folders: where sessions have their homes and working folders.
        access: base URL, key and model; the model is told of, Amp chooses its own by the mode.
        cli: its command line; None: the one on the PATH, or where its installer puts it.
        cut_short_s: for a result, after an answer without a reason to stop: Amp then waits for ever.
    """

    name = "amp"

    def __init__(
        self, folders: AgentFolders, access: ProviderAccess, cli: str | None = None, *, cut_short_s: float = 10.0
    ) -> None:
        self._folders, self._access, self._cli, self._cut_short_s = folders, access, cli, cut_short_s

    def capabilities(self) -> Sequence[Capability]:
        return (
            Capability(name="streaming", type=CapabilityType.SAMPLING, description="whole messages"),
            Capability(name="tool_use", type=CapabilityType.TOOL),
            Capability(name="interrupt", type=CapabilityType.SAMPLING),
            Capability(name="mcp", type=CapabilityType.TOOL),
            Capability(name="file_operations", type=CapabilityType.TOOL),
            Capability(name="bash", type=CapabilityType.TOOL),
            Capability(name=NATIVE_RESUME, type=CapabilityType.SAMPLING),
        )

    def validate_input(self, value: Mapping[str, Any]) -> None:
        check_prompt(value)

    def validate_options(self, options: ProviderOptions) -> None:
        check_options(self.name, options, LACKS)
        if (options.permission_mode or PermissionMode.DEFAULT) not in MODES:
            raise not_supported(self.name, "permission_mode", f" = {options.permission_mode}")
        if options.reasoning_effort is not None and options.reasoning_effort not in EFFORTS:
            raise not_supported(self.name, "reasoning_effort", f" = {options.reasoning_effort}")
        check_names(options, SDK_OPTS)

    async def execute(self, execution: Execution) -> AsyncGenerator[Item, None]:
        turn = self._turn(execution)
        try:
            async with aclosing(self._events(execution, turn, execution.resume)) as events:
                async for event in events:
                    yield event
        except AsmError as error:
            if turn.has_begun:
                turn.failure = error
            elif execution.resume is None or turn.thread_id is not None:
                raise
            elif gone := session_gone(execution, error):
                raise gone from error
            else:
                turn = self._turn(execution)
                async with aclosing(self._events(execution, turn, None)) as events:
                    async for event in events:
                        yield event
        for item in _end(turn):
            yield item

    def _turn(self, execution: Execution) -> AmpTurn:
        mode = str(execution.options.permission_mode or PermissionMode.DEFAULT)
        model = execution.model or self._access.model
        return AmpTurn({"model": model, "permission_mode": mode}, execution.options.max_turns)

    async def _events(self, execution: Execution, turn: AmpTurn, thread: str | None) -> AsyncGenerator[RawEvent, None]:
        """Of one prompt to one process."""
        sdk = await asyncio.to_thread(require, "amp_sdk", "amp")
        folder, work = agent_folder(self._folders, execution, self.name)
        env = agent_env(self._environment(folder.home))
        async with agent_command(self._command(), env=env, folder=folder.home) as guarded:
            options = _options(sdk, execution.options, work, _settings_file(folder.home), thread)
            messages = sdk.execute(_prompt(execution, thread), options)
            try:
                while message := await self._next(messages, guarded, turn):
                    for event in turn.observe(message):
                        yield event
                    if turn.exceeds:
                        return
            finally:  # thrown in, and not closed: only then the SDK ends its process and waits for it
                with suppress(asyncio.CancelledError, StopAsyncIteration, Exception):
                    await messages.athrow(asyncio.CancelledError())

    def _environment(self, home: Path) -> dict[str, str]:
        if not self._access.key:
            what = (ErrorCode.PROVIDER_AUTHENTICATION_FAILED, ProviderErrorKind.AUTHENTICATION)
            raise provider_failure(self.name, "no key for Amp: set ASM_AMP_API_KEY", what)
        env = {"HOME": str(home), "AMP_API_KEY": self._access.key, "AMP_SKIP_UPDATE_CHECK": "1"}
        return env | ({"AMP_URL": self._access.base_url} if self._access.base_url else {})

    def _command(self) -> list[str]:
        places = [self._cli] if self._cli else [shutil.which("amp"), *USUAL_PLACES]
        for place in places:
            path = Path(place or "").expanduser()
            if path.is_file():
                return ["node", str(path)] if path.suffix == ".js" else [str(path)]
        raise _no_cli(self._cli or "amp")

    async def _next(
        self, messages: AsyncGenerator[Any, None], guarded: AgentCommand, turn: AmpTurn
    ) -> Mapping[str, Any] | None:
        """The next message; None at the end, which has to be behind a result."""
        limit_s = END_S if turn.is_over else self._cut_short_s if turn.is_cut_short else None
        try:
            async with asyncio.timeout(limit_s):
                message = await _Found(guarded.path, anext(messages, None))
        except TimeoutError as cause:
            if turn.is_over:
                return None
            message = "Amp's answer was cut short, and no result followed"
            what = (ErrorCode.PROVIDER_ERROR, ProviderErrorKind.PROTOCOL_ERROR)
            raise provider_failure(self.name, message, what, reason="answer_cut_short") from cause
        except Exception as cause:
            if turn.is_over:
                return None  # it has said so itself
            raise guarded.failure or _failure(cause) from cause
        if message is None and not turn.is_over:
            raise provider_failure(self.name, "Amp ended without a result", CUT)
        return None if message is None else message.model_dump(mode="json")

    @property
    def server(self) -> str:
        return self._access.base_url or "https://ampcode.com"

    def at(self, server: str) -> Self:
        other = copy(self)
        other._access = replace(self._access, base_url=server)
        return other

    async def aclose(self) -> None:
        """Holds nothing: a command line belongs to its execution."""


def _options(sdk: Any, options: ProviderOptions, work: Path, settings_file: Path, thread: str | None) -> Any:
    """What is denied is rejected by a rule; rules count only where not all is allowed."""
    native = native_options("amp", options.permission_mode)
    allows_all = bool(native.get("dangerously_allow_all"))
    rules = [sdk.create_permission(tool, "reject") for tool in options.denied_tools]
    if rules and allows_all:
        rules.append(sdk.create_permission("*", "allow"))
    given = {
        **({"mode": MODE} | dict(options.sdk_opts)),
        "cwd": str(work),
        "settings_file": str(settings_file),
        "dangerously_allow_all": allows_all and not rules,
        "permissions": rules or None,
        "enabled_tools": list(options.allowed_tools) if options.allowed_tools is not None else None,
        "mcp_config": dumps_text(options.mcp_servers) if options.mcp_servers else None,  # the SDK loses a mapping
        "effort": options.reasoning_effort,
        "continue_thread": thread,
    }
    try:
        return sdk.AmpOptions(**given)
    except ValueError as cause:
        raise AsmError.wrap(ErrorCode.VALIDATION_ERROR, cause, "Amp does not take these options") from cause


def _settings_file(home: Path) -> Path:
    """Named to the SDK, which would otherwise go on from those of whoever runs the worker."""
    path = home / "settings.json"
    if not path.exists():
        path.write_text("{}")
    return path


def _prompt(execution: Execution, thread: str | None) -> str:
    """Amp has no system prompt: it comes first in what the user says."""
    told = prompt(execution, replay=thread is None)
    if thread is not None:
        return f"{GO_ON}\n\n{told}" if execution.was_cut else told
    return "\n\n".join(part for part in (execution.options.system_prompt, told) if part)


def _end(turn: AmpTurn) -> Iterator[Item]:
    """Raises what the run failed with; where another try may help and nothing has come of it, before any event."""
    failure = turn.failure
    if turn.exceeds and not turn.is_over:
        message = f"the model has not come to an end within max_turns={turn.max_turns}"
        failure = provider_failure("amp", message, reason="max_turns", max_turns=turn.max_turns)
    if failure is not None:
        if turn.has_begun or not failure.retryable:
            yield from turn.begin()
            yield RawEvent(EventType.ERROR_OCCURRED, failure.to_event_data())
        raise failure
    yield Completion(data={"stop_reason": "end_turn", **turn.told})


def _no_cli(path: str) -> AsmError:
    what = (ErrorCode.DEPENDENCY_NOT_AVAILABLE, ProviderErrorKind.CLI_NOT_FOUND)
    return provider_failure("amp", f"Amp's command line is not there: {path} (AMP_CLI_PATH names it)", what)


def _failure(cause: Exception) -> AsmError:
    """What the SDK raises, as an error of ours."""
    sdk = require("amp_sdk", "amp")
    if isinstance(cause, sdk.CLINotFoundError):
        return _no_cli(str(cause))
    if isinstance(cause, sdk.ProcessError):
        code = ErrorCode.PROVIDER_UNAVAILABLE if cause.signal else ErrorCode.PROVIDER_ERROR
        what = (code, ProviderErrorKind.TRANSPORT_EXIT if cause.signal else ProviderErrorKind.PROCESS_ERROR)
        return provider_failure("amp", str(cause), what, exit_code=cause.exit_code, stderr=cause.stderr)
    return provider_failure("amp", str(cause), MALFORMED)


class _Found(Awaitable[T]):
    """
    Awaits something that looks for Amp's command line before it waits for anything, as the SDK does: for that moment
    the environment names this path. Runs beside it have other paths.
    """

    def __init__(self, path: Path, inner: Awaitable[T]) -> None:
        self._path, self._inner = path, inner

    def __await__(self) -> Generator[Any, Any, T]:
        steps = self._inner.__await__()
        step: Callable[[Any], Any] = steps.send
        given: Any = None
        with _named(self._path):
            try:
                waited = step(given)
            except StopIteration as end:
                return cast(T, end.value)
        while True:
            try:
                step, given = steps.send, (yield waited)
            except BaseException as thrown:
                step, given = steps.throw, thrown
            try:
                waited = step(given)
            except StopIteration as end:
                return cast(T, end.value)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    before = os.environ.get(CLI_PATH)
    os.environ[CLI_PATH] = str(path)
    try:
        yield
    finally:
        if before is None:
            del os.environ[CLI_PATH]
        else:
            os.environ[CLI_PATH] = before

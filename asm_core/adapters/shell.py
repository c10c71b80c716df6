"""
Provider `shell`: one command per run, its stdout streamed, its exit code the run's outcome.

Source: spec/05 §15; spec/04 §6.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from asm_core.adapters.shell_rules import CommandRules
from asm_core.domain.capability import Capability, CapabilityType
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import EventType
from asm_core.domain.messages import check_messages, input_messages
from asm_core.domain.provider_options import ProviderOptions
from asm_core.domain.run import MAX_TIMEOUT_MS
from asm_core.ports.provider import Completion, Execution, RawEvent
from asm_core.process import CommandResult, Limits, clean_env, launch

Item = RawEvent | Completion

NEEDS_SHELL = re.compile(r"[\s|&;<>()$`\"'\\*?\[\]{}~#]")
STDERR_TAIL = 4_096
"""Characters of stderr that an error carries; the output holds all that was captured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a run asks for."""

    command: str
    args: tuple[str, ...] | None
    """None: `command` is a string for the shell."""
    cwd: str
    env: dict[str, str]
    """Over the adapter's own."""
    timeout_ms: int
    streaming: bool

    @property
    def shown(self) -> str:
        return " ".join((self.command, *(self.args or ())))


class ShellAdapter:
    """
    Args:
        cwd: folder of commands that name none; a request's own may be relative to it. It is not confined to it.
        timeout_ms: for commands that name no other.
        max_output_bytes: kept and streamed from each of stdout and stderr.
        env: for every command, over what is inherited; a request's own comes over that.
        inherit_env: names or patterns let through from the worker's environment; see `process.clean_env`.
        allowed_commands, denied_commands: base names; None means no list. Denied wins.
        success_exit_codes: any other exit fails the run.

    Raises:
        AsmError: `validation_error`: cwd is not an existing folder.
    """

    name = "shell"

    def __init__(
        self,
        cwd: str,
        *,
        timeout_ms: int = 30_000,
        max_output_bytes: int = 1_048_576,
        env: Mapping[str, object] | None = None,
        inherit_env: Sequence[str] = (),
        shell: str = "/bin/sh",
        allowed_commands: Sequence[str] | None = None,
        denied_commands: Sequence[str] | None = None,
        success_exit_codes: Sequence[int] = (0,),
        kill_grace_ms: int = 2_000,
    ) -> None:
        if not cwd or not Path(str(cwd)).is_dir():
            raise _invalid("cwd", f"cwd must be an existing folder, not {cwd!r}")
        self._cwd, self._shell, self._timeout_ms = cwd, shell, timeout_ms
        self._max_output_bytes, self._kill_grace_ms = max_output_bytes, kill_grace_ms
        self._env = _read_env("env", env)
        self._inherit_env = inherit_env
        self._rules = CommandRules(allowed_commands, denied_commands)
        self._success = frozenset(success_exit_codes)

    def capabilities(self) -> Sequence[Capability]:
        return (
            Capability(name="command_execution", type=CapabilityType.CODE_EXECUTION),
            Capability(name="streaming", type=CapabilityType.SAMPLING),
        )

    def validate_input(self, value: Mapping[str, Any]) -> None:
        self._judged(value)

    def validate_options(self, options: ProviderOptions) -> None:
        """A command knows none of them; its bounds are this provider's own."""

    async def execute(self, execution: Execution) -> AsyncGenerator[Item, None]:
        request = self._judged(execution.run.input or {})
        call = _tool_call(execution, request)
        yield RawEvent(EventType.RUN_STARTED, {"cwd": request.cwd, "command": request.shown})
        yield RawEvent(EventType.TOOL_CALL_STARTED, call)
        try:
            async with launch(
                self._argv(request), cwd=request.cwd, env=clean_env(self._env | request.env, self._inherit_env),
                limits=self._limits(request),
            ) as child:  # fmt: skip
                async for chunk in child:
                    if request.streaming and chunk.stream == "stdout" and chunk.captured:
                        data = {"content": chunk.captured, "delta": chunk.captured}
                        yield RawEvent(EventType.MESSAGE_STREAMED, data)
        except AsmError as error:
            for item in _did_not_run(call, error):
                yield item
            return
        result = child.result()
        for item in _ended(call, result, self._failure(request, result)):
            yield item

    async def aclose(self) -> None:
        """Holds nothing: a command belongs to its execution."""

    def _judged(self, value: Mapping[str, Any]) -> Request:
        request = self._request(value)
        self._rules.check_env(request.env)
        if request.args is None:
            self._rules.check_script(request.command)
        else:
            self._rules.check_argv([request.command, *request.args])
        return request

    def _request(self, value: Mapping[str, Any]) -> Request:
        """`messages` win over `command`, `command` over `prompt`."""
        if not isinstance(value, Mapping):
            raise AsmError(ErrorCode.INVALID_INPUT, f"the input must be a mapping, not {type(value).__name__}")
        if value.get("messages") is not None or "command" not in value:
            return self._with_options(_script_of(value), None, {})
        command = value["command"]
        if not isinstance(command, str) or not command.strip():
            raise _invalid("input.command", "input.command is required: text that is not empty")
        if value.get("args") is not None:
            return self._with_options(command, _read_args(value["args"]), value)
        command = command.strip()
        return self._with_options(command, None if NEEDS_SHELL.search(command) else (), value)

    def _with_options(self, command: str, args: tuple[str, ...] | None, value: Mapping[str, Any]) -> Request:
        cwd, timeout_ms = value.get("cwd") or ".", value.get("timeout_ms")
        if not isinstance(cwd, str):
            raise _invalid("input.cwd", f"cwd must be text, not {cwd!r}")
        if timeout_ms is None:
            timeout_ms = self._timeout_ms
        if type(timeout_ms) is not int or not 0 < timeout_ms <= MAX_TIMEOUT_MS:
            raise _invalid("input.timeout_ms", f"timeout_ms must be 1 to {MAX_TIMEOUT_MS}, not {timeout_ms!r}")
        if "\0" in "".join((command, cwd, *(args or ()))):
            raise _invalid("input.command", "a command cannot contain NUL")
        return Request(
            command=command,
            args=args,
            cwd=str(Path(self._cwd, cwd)),
            env=_read_env("input.env", value.get("env")),
            timeout_ms=timeout_ms,
            streaming=value.get("streaming") is not False,
        )

    def _argv(self, request: Request) -> list[str]:
        if request.args is not None:
            return [request.command, *request.args]
        is_like_option = request.command.startswith(("-", "+"))
        return [self._shell, "-c", f" {request.command}" if is_like_option else request.command]

    def _limits(self, request: Request) -> Limits:
        return Limits(
            timeout_ms=request.timeout_ms,
            max_output_bytes=self._max_output_bytes,
            kill_grace_ms=self._kill_grace_ms,
        )

    def _failure(self, request: Request, result: CommandResult) -> AsmError | None:
        if result.timed_out:
            code, reason = ErrorCode.TIMEOUT, "command_timeout"
            message = f"Command timed out after {request.timeout_ms}ms"
        elif result.exit_code not in self._success:
            code, reason = ErrorCode.TOOL_EXECUTION_FAILED, "command_failed"
            message = f"Command exited with code {result.exit_code}"
        else:
            return None
        provider_error = {
            "provider": "shell",
            "kind": reason,
            "message": message,
            "exit_code": result.exit_code,
            "stderr": result.stderr[-STDERR_TAIL:],
            "truncated": len(result.stderr) > STDERR_TAIL or result.stderr_truncated,
        }
        details = {"reason": reason, "exit_code": result.exit_code, "duration_ms": result.duration_ms}
        return AsmError(code, message, details=details, provider_error=provider_error)


def _invalid(field: str, message: str) -> AsmError:
    return AsmError(ErrorCode.VALIDATION_ERROR, message, details={"field": field})


def _script_of(value: Mapping[str, Any]) -> str:
    """The contents of the user's messages, or the prompt, as one shell string."""
    check_messages(value)
    for message in value.get("messages") or ():
        if not isinstance(message["content"], str):
            raise AsmError(ErrorCode.INVALID_INPUT, "the shell takes messages of plain text only")
    said = [message["content"] for message in input_messages(value) if message["role"] == "user"]
    if script := "\n".join(said).strip():
        return script
    raise _invalid("input.command", "input.command is required (or a prompt, or messages of the user)")


def _read_args(value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(arg, str | int | float) for arg in value):
        raise _invalid("input.args", "args must be a list of texts and numbers")
    return tuple(str(arg) for arg in value)


def _read_env(field: str, value: object) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(item, str | int | float) for item in value.values()):
        raise _invalid(field, f"{field} must map names to texts or numbers")
    env = {str(name): str(item) for name, item in value.items()}
    for name, item in env.items():
        if not name or "=" in name or "\0" in name + item:
            raise _invalid(field, f"{field} cannot hold {name!r}")
    return env


def _tool_call(execution: Execution, request: Request) -> dict[str, Any]:
    digest = blake2b(f"{execution.run.id}|{execution.attempt}".encode(), digest_size=8).hexdigest()
    args = [*(request.args or ())]
    return {
        "tool_call_id": f"tc_{digest}",
        "tool_name": "bash",
        "tool_input": {"command": request.command, "args": args, "cwd": request.cwd},
    }


def _did_not_run(call: dict[str, Any], error: AsmError) -> Iterator[Item]:
    output = {"output": "", "stderr": "", "exit_code": None, "duration_ms": 0}
    yield RawEvent(EventType.TOOL_CALL_FAILED, call | {"tool_output": output})
    yield _error_event(error)
    took: dict[str, Any] = {"exit_code": None, "duration_ms": 0}
    kept = {"content": "", "stderr": "", "timed_out": False, "tool_calls": []}
    yield Completion(output=kept | took, data=took, error=error)


def _ended(call: dict[str, Any], result: CommandResult, error: AsmError | None) -> Iterator[Item]:
    code, took = result.exit_code, {"exit_code": result.exit_code, "duration_ms": result.duration_ms}
    output = {"output": result.stdout, "stderr": result.stderr} | took
    if result.timed_out:
        output["timed_out"] = True
    if result.stdout_truncated or result.stderr_truncated:
        output["truncated"] = True
    kind = EventType.TOOL_CALL_FAILED if error else EventType.TOOL_CALL_COMPLETED
    yield RawEvent(kind, call | {"tool_output": output})
    if error:
        yield _error_event(error)
    else:
        yield RawEvent(EventType.MESSAGE_RECEIVED, {"content": result.stdout, "role": "tool"})
    kept = {"content": result.stdout, "stderr": result.stderr, "timed_out": result.timed_out, "tool_calls": []}
    yield Completion(output=kept | took, data={"stop_reason": f"exit_code_{code}"} | took, error=error)


def _error_event(error: AsmError) -> RawEvent:
    data = {"error_code": str(error.code), "error_message": error.message, "details": error.details}
    return RawEvent(EventType.ERROR_OCCURRED, data)

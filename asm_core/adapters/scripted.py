"""
Provider `scripted`: plays a script of steps, or echoes the last user message. Ships with the product: the offline
default, demos, tests, load.

Steps (DESIGN §8): `say`, `tool`, `usage`, `sleep_ms`, `fail`, `emit`, `crash`.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from asm_core.domain.capability import Capability, CapabilityType
from asm_core.domain.errors import AsmError, ErrorCode, valid_code
from asm_core.domain.event import EventType
from asm_core.domain.messages import check_messages, input_messages
from asm_core.domain.provider_options import ProviderOptions
from asm_core.ports.provider import Completion, Execution, RawEvent

Step = Mapping[str, Any]
Emitted = AsyncIterator[RawEvent]

MAX_CHUNKS = 100_000
MAX_WAIT_MS = 604_800_000


class ScriptedAdapter:
    """
    Args:
        allow_crash: whether the `crash` step may kill this process.
    """

    name = "scripted"

    def __init__(self, *, allow_crash: bool = False) -> None:
        self._allow_crash = allow_crash

    def capabilities(self) -> Sequence[Capability]:
        return (
            Capability(name="streaming", type=CapabilityType.SAMPLING),
            Capability(name="tool_use", type=CapabilityType.TOOL),
            Capability(name="interrupt", type=CapabilityType.SAMPLING),
        )

    def validate_input(self, value: Mapping[str, Any]) -> None:
        check_messages(value)
        if "script" not in value:
            if not input_messages(value):
                raise _invalid("input", "needs a script, messages or a prompt")
            return
        script = value["script"]
        if not isinstance(script, list):
            raise _invalid("input.script", f"must be a list of steps, not {type(script).__name__}")
        for index, step in enumerate(script):
            _check_step(step, f"input.script.{index}", self._allow_crash)

    def validate_options(self, options: ProviderOptions) -> None:
        """Takes them all, and needs none."""

    async def execute(self, execution: Execution) -> AsyncGenerator[RawEvent | Completion, None]:
        given = execution.run.input or {}
        script = given.get("script", [{"say": _last_user_message(given)}])
        yield RawEvent(EventType.RUN_STARTED, {"model": execution.model or "scripted"})
        for number, step in enumerate(script):
            async for event in STEPS[_kind(step)](step, execution, number):
                yield event
        yield Completion(data={"stop_reason": "end_turn"})

    async def aclose(self) -> None:
        """Holds nothing."""


async def _say(step: Step, _execution: Execution, _number: int) -> Emitted:
    text, chunks = step["say"], step.get("chunks", 1)
    for part in _split(text, chunks):
        await _delay(step)
        yield RawEvent(EventType.MESSAGE_STREAMED, {"content": part, "delta": part})
    yield RawEvent(EventType.MESSAGE_RECEIVED, {"content": text, "role": "assistant"})


async def _tool(step: Step, execution: Execution, number: int) -> Emitted:
    tool = step["tool"]
    call = {
        "tool_call_id": f"tc_{execution.run.id[-12:]}{number:04x}",
        "tool_name": tool["name"],
        "tool_input": tool.get("input") or {},
    }
    yield RawEvent(EventType.TOOL_CALL_STARTED, call)
    await _delay(step)
    failed = tool.get("fail", False)
    kind = EventType.TOOL_CALL_FAILED if failed else EventType.TOOL_CALL_COMPLETED
    yield RawEvent(kind, call | {"tool_output": tool.get("output")} | ({"is_error": True} if failed else {}))


async def _usage(step: Step, _execution: Execution, _number: int) -> Emitted:
    yield RawEvent(EventType.TOKEN_USAGE_UPDATED, {"input_tokens": 0, "output_tokens": 0} | dict(step["usage"]))


async def _sleep(step: Step, _execution: Execution, _number: int) -> Emitted:
    await asyncio.sleep(step["sleep_ms"] / 1000)
    return
    yield  # an async generator that emits nothing


async def _fail(step: Step, execution: Execution, _number: int) -> Emitted:
    if execution.attempt > step.get("fail_attempts", execution.attempt):
        return
    failure = step["fail"]
    details = {"retry_after_ms": failure["retry_after_ms"]} if "retry_after_ms" in failure else {}
    raise AsmError(failure["code"], failure.get("message"), details=details)
    yield


async def _emit(step: Step, _execution: Execution, _number: int) -> Emitted:
    yield RawEvent(step["emit"]["type"], step["emit"].get("data") or {})


async def _crash(_step: Step, _execution: Execution, _number: int) -> Emitted:
    await asyncio.sleep(0.05)  # lets the events before the crash reach the store
    os.kill(os.getpid(), signal.SIGKILL)
    return
    yield


STEPS: Mapping[str, Callable[[Step, Execution, int], Emitted]] = {
    "say": _say,
    "tool": _tool,
    "usage": _usage,
    "sleep_ms": _sleep,
    "fail": _fail,
    "emit": _emit,
    "crash": _crash,
}


def _kind(step: Step) -> str:
    return next(kind for kind in STEPS if kind in step)


async def _delay(step: Step) -> None:
    if delay := step.get("delay_ms", 0):
        await asyncio.sleep(delay / 1000)


def _split(text: str, chunks: int) -> list[str]:
    """`text` in `chunks` parts of nearly equal length; fewer when it is shorter than that."""
    chunks = max(1, min(chunks, len(text)))
    size, longer = divmod(len(text), chunks)
    ends = [(index + 1) * size + min(index + 1, longer) for index in range(chunks)]
    return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _last_user_message(given: Mapping[str, Any]) -> str:
    messages = input_messages(given)
    return next((message["content"] for message in reversed(messages) if message["role"] == "user"), "")


def _check_step(step: object, where: str, allow_crash: bool) -> None:
    if not isinstance(step, Mapping) or sum(kind in step for kind in STEPS) != 1:
        raise _invalid(where, f"must name exactly one of {', '.join(STEPS)}")
    kind = _kind(step)
    value = step[kind]
    checks: dict[str, bool] = {
        "say": isinstance(value, str) and _whole(step.get("chunks", 1), 1, MAX_CHUNKS),
        "tool": isinstance(value, Mapping) and isinstance(value.get("name"), str),
        "usage": isinstance(value, Mapping) and all(_whole(count, 0, 2**53) for count in value.values()),
        "sleep_ms": _whole(value, 0, MAX_WAIT_MS),
        "fail": isinstance(value, Mapping)
        and valid_code(value.get("code"))
        and isinstance(value.get("message") or "", str)
        and _whole(value.get("retry_after_ms", 0), 0, MAX_WAIT_MS)
        and _whole(step.get("fail_attempts", 1), 0, 99),
        "emit": isinstance(value, Mapping)
        and isinstance(value.get("type"), str)
        and isinstance(value.get("data") or {}, Mapping),
        "crash": value == "sigkill",
    }
    if not checks[kind] or not _whole(step.get("delay_ms", 0), 0, MAX_WAIT_MS):
        raise _invalid(where, f"is not a valid `{kind}` step: {value!r}")
    if kind == "crash" and not allow_crash:
        raise _invalid(where, "the crash step needs ASM_ALLOW_CRASH=1")


def _whole(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _invalid(field: str, message: str) -> AsmError:
    return AsmError(ErrorCode.INVALID_INPUT, f"{field} {message}", details={"field": field})

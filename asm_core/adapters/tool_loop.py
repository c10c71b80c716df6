"""
The loop of a run on a plain API: ask the model, run the tools that it asks for, tell it what they said, ask again.

Providers differ in a `ModelProtocol`: how a request is put together and what an answer's raw events mean. That part is
pure; its state is an `Answer`. Everything that happens in time is here.

Nothing is emitted before the model's first word, so that a refused first request can be repeated by the one retry
layer. A tool that is unknown, denied or fails is told to the model, and the loop goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Protocol

from asm_core.adapters.failures import CUT, MALFORMED, provider_failure
from asm_core.domain.errors import AsmError
from asm_core.domain.event import EventType
from asm_core.domain.fields import text_of
from asm_core.domain.messages import Role
from asm_core.domain.tool import ToolResult, ToolSpec, ToolUse
from asm_core.ports.provider import Completion, Execution, RawEvent, ToolSource
from asm_core.wire import loads

Item = RawEvent | Completion
Raw = Mapping[str, Any]
"""An event of the provider's stream, as plain JSON."""
Request = dict[str, Any]
"""What the SDK is called with."""
Open = Callable[[Request], AbstractAsyncContextManager[AsyncIterator[Raw]]]
"""Sends a request; raises AsmError. Leaving the context closes the connection."""

END_TURN = "end_turn"
"""The good end of an answer, in one word for all providers; every other stop reason is the provider's own."""
REFUSAL = "refusal"
MAX_RESULT = 1_048_576
"""Characters of a tool's result."""
NOT_RUN = "not run: the answer ended with {}"


@dataclass(frozen=True, slots=True)
class Call:
    """A use of a tool that the model asks for."""

    id: str
    name: str
    input: Mapping[str, Any]
    problem: str | None = None
    """Why it cannot be run as it is."""

    @classmethod
    def read(cls, id: str, name: str, text: str) -> Call:
        """From the input as JSON text; none at all means an empty one."""
        try:
            given = loads(text or "{}")
        except ValueError:
            given = None
        if isinstance(given, dict):
            return cls(id, name, given)
        return cls(id, name, {}, "the input is not a JSON object")

    def event(self, kind: EventType, **more: Any) -> RawEvent:
        """One of the three events of a tool's call."""
        told = {"tool_call_id": self.id, "tool_name": self.name, "tool_input": self.input}
        return RawEvent(kind, told | more)

    def ended(self, result: ToolResult) -> RawEvent:
        if result.is_error:
            return self.event(EventType.TOOL_CALL_FAILED, tool_output=result.content, is_error=True)
        return self.event(EventType.TOOL_CALL_COMPLETED, tool_output=result.content)


@dataclass(slots=True)
class Answer:
    """What one answer of the model has come to so far: the state of a protocol's mapper."""

    opens_run: bool = True
    tools: Sequence[str] = ()
    """What was offered to the model."""
    id: str | None = None
    text: list[str] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    """What is to be run here."""
    items: list[dict[str, Any]] = field(default_factory=list)
    """All of it in the provider's own words, to be sent back with the next request."""
    open: dict[Any, dict[str, Any]] = field(default_factory=dict)
    """Parts that are not complete, by their place."""
    usage: dict[str, int] = field(default_factory=dict)
    """In the words of `token_usage_updated`; empty until the provider tells."""
    stop_reason: str | None = None
    is_complete: bool = False
    """The provider has said so; a stream that ends without that was cut."""
    goes_on: bool = False
    """The model waits for the results of its calls, or to be sent its own answer again."""
    failure: AsmError | None = None
    """The answer is complete and cannot be used."""

    def begun(self, id: str | None, model: str) -> Iterator[RawEvent]:
        """The run's first event, if this is its first answer."""
        self.id = id
        if self.opens_run:
            yield RawEvent(EventType.RUN_STARTED, {"model": model, "tools": [*self.tools]}, self.metadata)

    def said(self, delta: str, **metadata: Any) -> Iterator[RawEvent]:
        if delta:
            self.text.append(delta)
            yield RawEvent(EventType.MESSAGE_STREAMED, {"content": delta, "delta": delta}, metadata)

    def called(self, call: Call) -> Iterator[RawEvent]:
        self.calls.append(call)
        yield call.event(EventType.TOOL_CALL_STARTED)

    def ended(self) -> Iterator[RawEvent]:
        """The message as a whole, and what it took."""
        data = {"content": "".join(self.text), "role": str(Role.ASSISTANT)}
        yield RawEvent(EventType.MESSAGE_RECEIVED, data, self.metadata)
        yield from self.used()

    def used(self) -> Iterator[RawEvent]:
        """The tokens not yet told."""
        usage, self.usage = self.usage, {}
        if usage:
            yield RawEvent(EventType.TOKEN_USAGE_UPDATED, {"input_tokens": 0, "output_tokens": 0} | usage)

    @property
    def metadata(self) -> dict[str, Any]:
        return {"provider_event_id": self.id} if self.id else {}


class ModelProtocol(Protocol):
    """What providers differ in. Pure, but for the answer that is written on."""

    def begin(self, execution: Execution, tools: Sequence[ToolSpec]) -> Request:
        """The first request."""

    def read(self, raw: Raw, answer: Answer) -> Iterable[RawEvent]:
        """What a raw event means; unknown ones mean nothing. Raises AsmError where it tells of a failure."""

    def go_on(self, request: Request, answer: Answer, results: Sequence[tuple[Call, ToolResult]]) -> Request:
        """The next request: with what the model said, and what its tools did."""


class Toolbox:
    """The tools of a run by name, those that its options permit."""

    def __init__(self, offered: Mapping[str, tuple[ToolSpec, ToolSource]]) -> None:
        self._offered = offered

    @classmethod
    async def of(cls, execution: Execution, sources: Iterable[ToolSource]) -> Toolbox:
        found = {spec.name: (spec, source) for source in sources for spec in await source.specs()}
        return cls({name: tool for name, tool in found.items() if execution.options.permits(name)})

    @property
    def specs(self) -> list[ToolSpec]:
        return [spec for spec, _ in self._offered.values()]

    async def use(self, call: Call, execution: Execution) -> ToolResult:
        """Every way in which it does not come to a result is one, for the model to read."""
        if call.problem is not None:
            return ToolResult(call.problem, is_error=True)
        if call.name not in self._offered:
            return ToolResult(f"there is no tool {call.name} in this run", is_error=True)
        spec, source = self._offered[call.name]
        use = ToolUse(id=call.id, name=call.name, input=call.input, access=spec.access)
        verdict = await execution.gate(use)
        if not verdict.is_allowed:
            return ToolResult(verdict.reason or "denied", is_error=True)
        return _bounded(await source.call(call.name, call.input))


@dataclass(frozen=True, slots=True)
class ToolLoop:
    """
    Args:
        provider: its name, for errors.
        open: sends a request.
    """

    provider: str
    protocol: ModelProtocol
    open: Open
    toolbox: Toolbox
    execution: Execution

    async def run(self) -> AsyncGenerator[Item, None]:
        """The run's events, and its completion. Raises AsmError."""
        request = self.protocol.begin(self.execution, self.toolbox.specs)
        for turn in count(1):
            answer = Answer(opens_run=turn == 1, tools=[spec.name for spec in self.toolbox.specs])
            async with aclosing(self._answered(request, answer)) as events:
                async for event in events:
                    yield event
            failure = answer.failure or self._out_of_turns(answer, turn)
            if failure or not answer.goes_on:
                for call in answer.calls:
                    why = failure.message if failure else NOT_RUN.format(answer.stop_reason)
                    yield call.ended(ToolResult(why, is_error=True))
                yield self._completion(answer, turn, failure)
                return
            results: dict[int, ToolResult] = {}
            async with aclosing(self._used(answer.calls, results)) as events:
                async for event in events:
                    yield event
            yield RawEvent(EventType.TURN_COMPLETED, {"turn": turn, "stop_reason": answer.stop_reason})
            ran = [(call, results[place]) for place, call in enumerate(answer.calls)]
            request = self.protocol.go_on(request, answer, ran)

    async def _answered(self, request: Request, answer: Answer) -> AsyncGenerator[RawEvent, None]:
        """One answer, to its whole message. Stopped before that, the tokens it took are told all the same."""
        try:
            async with self.open(request) as raws:
                async for raw in raws:
                    for event in self._read(raw, answer):
                        yield event
            if not answer.is_complete:
                raise self._cut()
            for event in answer.ended():
                yield event
        except BaseException:
            self.execution.last_words.extend(answer.used())
            raise

    def _read(self, raw: Raw, answer: Answer) -> list[RawEvent]:
        try:
            return [*self.protocol.read(raw, answer)]
        except (LookupError, TypeError, AttributeError, ValueError) as cause:
            message = f"the stream has an event of an unknown shape: {raw.get('type')}"
            raise provider_failure(self.provider, message, MALFORMED) from cause

    async def _used(self, calls: Sequence[Call], results: dict[int, ToolResult]) -> AsyncGenerator[RawEvent, None]:
        """All at once; each is told when it has ended. Being stopped stops them."""
        tasks = [asyncio.create_task(self.toolbox.use(call, self.execution)) for call in calls]
        running = {*tasks}
        try:
            while running:
                ended, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for place in sorted(map(tasks.index, ended)):
                    results[place] = tasks[place].result()
                    yield calls[place].ended(results[place])
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _completion(self, answer: Answer, turns: int, failure: AsmError | None) -> Completion:
        output: dict[str, Any] = {"stop_reason": answer.stop_reason}
        if self.execution.options.output_schema is not None and answer.stop_reason == END_TURN and not failure:
            try:
                output["object"] = loads("".join(answer.text))
            except ValueError:
                message = "the answer is not the JSON that output_schema asks for"
                failure = provider_failure(self.provider, message, MALFORMED)
        return Completion(output=output, data={"stop_reason": answer.stop_reason, "num_turns": turns}, error=failure)

    def _out_of_turns(self, answer: Answer, turn: int) -> AsmError | None:
        most = self.execution.options.max_turns
        if not answer.goes_on or most is None or turn < most:
            return None
        message = f"the model has not come to an end within max_turns={most}"
        return provider_failure(self.provider, message, reason="max_turns", max_turns=most)

    def _cut(self) -> AsmError:
        return provider_failure(self.provider, "the stream ended before the answer was complete", CUT)


def _bounded(result: ToolResult) -> ToolResult:
    """What is longer than any model reads is cut, before it gets into the log."""
    text = text_of(result.content)
    if len(text) <= MAX_RESULT:
        return result
    return ToolResult(f"{text[:MAX_RESULT]}… [{len(text) - MAX_RESULT} more characters]", result.is_error)


def told(result: ToolResult) -> str:
    """A tool's result as a model reads it."""
    return text_of(result.content)

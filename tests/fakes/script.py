"""What the servers answer: replies in no protocol's words, and the queues that a test fills with them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from email.utils import format_datetime
from enum import StrEnum
from itertools import count, repeat
from threading import Lock
from typing import Any

_numbers = count(1)


class Failure(StrEnum):
    """What a provider can refuse or break with; each protocol has its own status and words for it."""

    AUTH = "auth"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    INVALID = "invalid"
    CONTEXT_LENGTH = "context_length"
    TOO_LARGE = "too_large"
    RATE_LIMIT = "rate_limit"
    QUOTA = "quota"
    SERVER_ERROR = "server_error"
    OVERLOADED = "overloaded"


class Stop(StrEnum):
    """Why the model stopped; a tool call goes without saying."""

    DONE = "done"
    MAX_TOKENS = "max_tokens"
    REFUSAL = "refusal"
    CONTEXT_WINDOW = "context_window"
    PAUSE = "pause"


class Fault(StrEnum):
    """What goes wrong after the last piece of the answer, before the answer is closed."""

    CUT = "cut"
    """The connection drops within the body."""
    ENDED = "ended"
    """The body ends in good form, without the events that close an answer."""
    SILENT = "silent"
    """Nothing more comes, until the client leaves."""
    GARBAGE = "garbage"
    """One event is no JSON; the others follow."""


@dataclass(frozen=True)
class Usage:
    """Tokens of one reply."""

    input: int = 10
    """Without those read from or written to the cache; protocols that count them in add them."""
    output: int = 5
    cache_read: int = 0
    cache_write: int = 0
    reasoning: int = 0
    """A part of `output`."""


@dataclass(frozen=True)
class Text:
    """Visible text, streamed in pieces."""

    pieces: tuple[str, ...]
    endless: bool = False
    """The pieces again and again, until the client leaves."""

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def deltas(self) -> Iterator[str]:
        if self.endless:
            return (piece for pieces in repeat(self.pieces) for piece in pieces)
        return iter(self.pieces)


@dataclass(frozen=True)
class Thinking:
    """What the model shows of its reasoning."""

    text: str


@dataclass(frozen=True)
class ToolCall:
    """A tool that the model wants to be run."""

    name: str
    input: Mapping[str, Any] | str
    """Text is the input of one of OpenAI's custom tools, such as Codex's `apply_patch`."""
    id: str = field(default_factory=lambda: f"call_{next(_numbers):06d}")
    namespace: str | None = None
    """Under which Codex lists the tools of an MCP server."""


Part = Text | Thinking | ToolCall


@dataclass(frozen=True)
class StreamError:
    """An error told within a stream that began well."""

    failure: Failure
    as_response: bool = False
    """OpenAI Responses has two forms: the event `error`, and a response that failed."""


@dataclass(frozen=True)
class Reply:
    """One answer of a model."""

    parts: tuple[Part, ...]
    stop: Stop = Stop.DONE
    usage: Usage = Usage()
    fault: Fault | StreamError | None = None
    delay_s: float = 0.0
    """After every event."""

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.parts if isinstance(part, Text))

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        return tuple(part for part in self.parts if isinstance(part, ToolCall))

    def with_usage(self, **tokens: int) -> Reply:
        return replace(self, usage=Usage(**tokens))


@dataclass(frozen=True)
class Refused:
    """An HTTP error instead of an answer."""

    failure: Failure
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)


Answer = Reply | Refused


def text(*pieces: str) -> Reply:
    """The model says this."""
    return Reply((Text(pieces),))


def thinking(thought: str, said: str) -> Reply:
    return Reply((Thinking(thought), Text((said,))))


def tools(*calls: ToolCall, say: str = "") -> Reply:
    """The model asks for tools, more than one in parallel."""
    return Reply((*([Text((say,))] if say else []), *calls))


def tool(name: str, input: Mapping[str, Any] | str, say: str = "") -> Reply:
    return tools(ToolCall(name, input), say=say)


def max_tokens(said: str) -> Reply:
    """Cut short by the request's own limit."""
    return replace(text(said), stop=Stop.MAX_TOKENS)


def refusal(said: str = "I cannot help with that.") -> Reply:
    """The model, not the server, declines."""
    return replace(text(said), stop=Stop.REFUSAL)


def context_window(said: str) -> Reply:
    """The answer filled the model's window (Anthropic; elsewhere like `max_tokens`)."""
    return replace(text(said), stop=Stop.CONTEXT_WINDOW)


def broken(fault: Fault, said: str = "half an ans") -> Reply:
    return replace(text(said), fault=fault)


def stream_error(failure: Failure, said: str = "half an ans", as_response: bool = False) -> Reply:
    return replace(text(said), fault=StreamError(failure, as_response))


def slow(pieces: int, delay_s: float, piece: str = "word ") -> Reply:
    return replace(text(*[piece] * pieces), delay_s=delay_s)


def endless(piece: str = "word ", delay_s: float = 0.02) -> Reply:
    """For interrupts: it ends when the client leaves, and `Recorded.left` tells."""
    return Reply((Text((piece,), endless=True),), delay_s=delay_s)


def refused(failure: Failure, message: str | None = None, **headers: str) -> Refused:
    """An HTTP error; header names with underscores for dashes."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Refused(failure, message or f"scripted: {failure}", named)


def rate_limited(retry_after: int | datetime) -> Refused:
    """429 with `retry-after` in seconds, or as an HTTP date (an aware time in UTC)."""
    told = str(retry_after) if isinstance(retry_after, int) else format_datetime(retry_after, usegmt=True)
    return refused(Failure.RATE_LIMIT, retry_after=told)


def too_long() -> Refused:
    """The prompt does not fit the model."""
    return refused(Failure.CONTEXT_LENGTH)


@dataclass(frozen=True)
class Asked:
    """What in a request decides which queue answers."""

    model: str
    texts: tuple[str, ...]
    """The user's own texts, oldest first, without the results of tools."""
    streams: bool = True
    number: int = field(default_factory=lambda: next(_numbers))
    """Of the request; what carries the id of an answer is made from it."""


class Script:
    """
    Queues of answers, each taken once, in order.

    A request is answered from the queue whose word is in the newest user text that has one; without any, from its
    model's queue; without that, from the common one. An empty queue gives the standing answer, and without that a 400:
    a request that no test expected must not look like success.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._by_word: dict[str, deque[Answer]] = {}
        self._by_model: dict[str, deque[Answer]] = {}
        self._common: deque[Answer] = deque()
        self._standing: Answer | None = None
        self.unexpected: list[Asked] = []

    def add(self, *answers: Answer, prompt: str | None = None, model: str | None = None) -> None:
        """
        Queue answers.

        Args:
            prompt: only for requests with this word in a user text, so that concurrent runs can differ.
            model: only for requests to this model.
        """
        assert prompt is None or model is None, "a queue is chosen by a word or by a model"
        with self._lock:
            if prompt is not None:
                self._by_word.setdefault(prompt, deque()).extend(answers)
            elif model is not None:
                self._by_model.setdefault(model, deque()).extend(answers)
            else:
                self._common.extend(answers)

    def always(self, answer: Answer) -> None:
        """Answer so whatever no queue answers."""
        self._standing = answer

    def answer(self, asked: Asked) -> Answer:
        """Take the next answer for a request."""
        with self._lock:
            queue = self._queue_for(asked)
            if queue:
                return queue.popleft()
            if self._standing is not None:
                return self._standing
            self.unexpected.append(asked)
            return refused(Failure.INVALID, f"no answer is scripted for this request to {asked.model}")

    def _queue_for(self, asked: Asked) -> deque[Answer]:
        for told in reversed(asked.texts):
            for word, queue in self._by_word.items():
                if word in told:
                    return queue
        return self._by_model.get(asked.model, self._common)

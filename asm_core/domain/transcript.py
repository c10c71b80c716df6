"""
Transcript: a session's events as the conversation they record, for the next provider to go on from.

The events are folded in the order of the log. Streamed chunks gather per run, because runs of one session may stream
at once, until their complete message comes, the run says something else, or the run ends. The complete message counts
alone; where a tool call stood between its chunks, they keep their places and it adds nothing. What a dead attempt said
is taken back when its successor names the range it supersedes.

A transcript may be kept and extended by the events behind `last_sequence`: the result is that of a full rebuild, also
when the cut went through a stream or a supersession. To hand it to a provider, take it `within` a budget; extend the
whole one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import TERMINAL_EVENT_TYPES, Event, EventType, log_order
from asm_core.domain.fields import text_of, timestamp_text
from asm_core.domain.messages import Role

AWAITING_APPROVAL = "The call of this tool is paused: it is awaiting human approval."
"""What stands for the result of a tool that a person has not decided on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """
    One contribution: text, a call of a tool (assistant, no content), or the result of one (tool, no content).

    Source: spec/01 §10.
    """

    role: Role
    content: str | None = None
    tool_call_id: str | None = None
    tool_name: str | None = None
    tool_input: Mapping[str, Any] | None = None
    tool_output: Any = None
    streamed: bool = False
    """Put together from chunks; the complete message has not come."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """The event's own, and where it comes from: `event_id, run_id, timestamp, sequence_number`."""

    @property
    def is_tool_call(self) -> bool:
        return self.role is Role.ASSISTANT and self.content is None

    @property
    def is_tool_result(self) -> bool:
        return self.role is Role.TOOL and self.content is None

    @property
    def length(self) -> int:
        """Characters that a provider gets to read: the text, or a tool's name, input and output as JSON."""
        parts = (self.content, self.tool_name, self.tool_input, self.tool_output)
        return sum(len(text_of(part)) for part in parts if part is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """
    How much of a conversation is handed on; the newest messages stay. All bounds that are given hold.

    Raises:
        AsmError: `validation_error` naming a bound that is no integer from 1.
    """

    max_messages: int | None = None
    max_chars: int | None = None
    max_tokens_approx: int | None = None
    """In tokens of `chars_per_token` characters."""
    chars_per_token: int = 4

    def __post_init__(self) -> None:
        for name in ("max_messages", "max_chars", "max_tokens_approx", "chars_per_token"):
            value = getattr(self, name)
            if value is None and name != "chars_per_token":
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                message = f"{name} must be an integer from 1, not {value!r}"
                raise AsmError(ErrorCode.VALIDATION_ERROR, message, details={"field": name})

    @property
    def chars(self) -> int | None:
        """The smaller of both bounds on text; None: there is none."""
        by_tokens = None if self.max_tokens_approx is None else self.max_tokens_approx * self.chars_per_token
        return min((bound for bound in (self.max_chars, by_tokens) if bound is not None), default=None)

    def start(self, messages: Sequence[Message]) -> int:
        """The place of the first message that is within all bounds together with those behind it."""
        first = 0 if self.max_messages is None else max(0, len(messages) - self.max_messages)
        if self.chars is None:
            return first
        start, room = len(messages), self.chars
        while start > first and (room := room - messages[start - 1].length) >= 0:
            start -= 1
        return start


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """Source: spec/01 §10, §21 (46-50)."""

    session_id: str
    messages: tuple[Message, ...] = ()
    last_sequence: int | None = None
    """Extend by the events behind this one; None: no event had a number."""
    last_timestamp: datetime | None = None
    open_streams: int = 0
    """So many of the last messages, one per run, are still being streamed: an extension may complete them."""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_events(cls, events: Iterable[Event], session_id: str | None = None) -> Transcript:
        """
        The conversation that events of one session record.

        Args:
            events: in any order; those without a number stand behind the others, by time.
            session_id: that of the events when omitted.

        Raises:
            AsmError: `validation_error` without a session id and events, `session_mismatch` for a foreign event.
        """
        given = list(events)
        session_id = session_id or next((event.session_id for event in given), None)
        if session_id is None:
            raise AsmError(ErrorCode.VALIDATION_ERROR, "a transcript needs a session_id, or events that have one")
        return cls(session_id=session_id).extended_by(given)

    def extended_by(self, events: Iterable[Event]) -> Transcript:
        """
        The transcript with what happened since; numbered events that it knows already are passed over.

        Raises:
            AsmError: `session_mismatch` for an event of another session.
        """
        fresh = list(self._unseen(events))
        if not fresh:
            return self
        fold = _Fold(self)
        for event in fresh:
            fold.take(event)
        numbers = [event.sequence_number for event in fresh if event.sequence_number is not None]
        return replace(
            self,
            messages=fold.messages,
            open_streams=fold.open_streams,
            last_sequence=numbers[-1] if numbers else self.last_sequence,
            last_timestamp=fresh[-1].timestamp,
        )

    def within(self, budget: Budget) -> Transcript:
        """The newest part that the budget allows; it never begins between a tool's call and its result."""
        start = _whole_from(self.messages, budget.start(self.messages))
        kept = self.messages[start:]
        return replace(self, messages=kept, open_streams=min(self.open_streams, len(kept)))

    def _unseen(self, events: Iterable[Event]) -> Iterator[Event]:
        last = -1 if self.last_sequence is None else self.last_sequence
        for event in sorted(events, key=log_order):
            if event.session_id != self.session_id:
                message = f"event {event.id} belongs to session {event.session_id}, not {self.session_id}"
                raise AsmError(ErrorCode.SESSION_MISMATCH, message)
            if event.sequence_number is None:
                yield event
            elif event.sequence_number > last:
                last = event.sequence_number
                yield event


class _Stream:
    """Chunks of a message that is not complete yet."""

    def __init__(self, chunks: list[str], metadata: dict[str, Any]) -> None:
        self.chunks = chunks
        self.metadata = metadata

    @property
    def text(self) -> str:
        return "".join(self.chunks)

    def message(self) -> Message:
        return Message(role=Role.ASSISTANT, content=self.text, streamed=True, metadata=self.metadata)


class _Fold:
    """A transcript being built: what is said, and what each run is still saying."""

    def __init__(self, begun: Transcript) -> None:
        settled = len(begun.messages) - begun.open_streams
        self._settled = [*begun.messages[:settled]]
        self._streams = {
            message.metadata.get("run_id"): _Stream([message.content or ""], dict(message.metadata))
            for message in begun.messages[settled:]
        }

    @property
    def messages(self) -> tuple[Message, ...]:
        return (*self._settled, *(stream.message() for stream in self._streams.values()))

    @property
    def open_streams(self) -> int:
        return len(self._streams)

    def take(self, event: Event) -> None:
        if event.type in _EFFECTS:
            _EFFECTS[event.type](self, event)

    def chunk(self, event: Event) -> None:
        text = _text(event, "delta") or _text(event, "content")
        if not text:
            return
        stream = self._streams.setdefault(event.run_id, _Stream([], {}))
        stream.chunks.append(text)
        stream.metadata |= _metadata(event)

    def received(self, event: Event) -> None:
        role, content = _role(event, Role.ASSISTANT), _text(event, "content")
        if role is Role.ASSISTANT:
            stream = self._streams.get(event.run_id)
            streamed = stream.text if stream else ""
            content = content or streamed
            if self._complete(event.run_id, content.removesuffix(streamed)):
                content = ""  # it stands there already, in parts
            else:
                self._streams.pop(event.run_id, None)
        self._say(event, role, content)

    def sent(self, event: Event) -> None:
        self._say(event, _role(event, Role.USER), _text(event, "content"))

    def called(self, event: Event) -> None:
        given = event.data.get("tool_input")
        self._add(event, Role.ASSISTANT, tool_input=given if isinstance(given, Mapping) else None, **_tool(event))

    def returned(self, event: Event) -> None:
        self._add(event, Role.TOOL, tool_output=event.data.get("tool_output"), **_tool(event))

    def paused(self, event: Event) -> None:
        self._add(event, Role.TOOL, tool_output=AWAITING_APPROVAL, **_tool(event))

    def flush(self, event: Event) -> None:
        """The run says no more of what it was saying."""
        if stream := self._streams.pop(event.run_id, None):
            self._settled.append(stream.message())

    def take_back(self, event: Event) -> None:
        """What the run said in attempts that a later one replaces."""
        first, last = event.data.get("superseded_from"), event.data.get("superseded_to")
        if not isinstance(first, int) or not isinstance(last, int):
            return
        self._streams.pop(event.run_id, None)
        self._settled = [
            message
            for message in self._settled
            if message.metadata.get("run_id") != event.run_id
            or not first <= message.metadata.get("sequence_number", -1) <= last
        ]

    def _complete(self, run_id: str | None, text: str) -> bool:
        """Whether the run's last words are this text in parts, cut by tool calls; then they count as complete."""
        parts, rest = [], text
        for place in self._unfinished(run_id):
            content = self._settled[place].content or ""
            if not rest.endswith(content):
                break
            rest = rest.removesuffix(content)
            parts.append(place)
            if not rest:
                break
        if rest or not parts:
            return False
        for place in parts:
            self._settled[place] = replace(self._settled[place], streamed=False)
        return True

    def _unfinished(self, run_id: str | None) -> Iterator[int]:
        """The places of what the run has said in chunks since its last complete message, newest first."""
        for place in range(len(self._settled) - 1, -1, -1):
            message = self._settled[place]
            if message.metadata.get("run_id") != run_id or message.content is None:
                continue
            if not message.streamed:
                return
            yield place

    def _say(self, event: Event, role: Role, content: str) -> None:
        if content:
            self._add(event, role, content=content)
        else:
            self.flush(event)

    def _add(self, event: Event, role: Role, **fields: Any) -> None:
        self.flush(event)
        self._settled.append(Message(role=role, metadata=_metadata(event), **fields))


_T = EventType
_EFFECTS: Mapping[EventType, Callable[[_Fold, Event], None]] = {
    _T.MESSAGE_STREAMED: _Fold.chunk,
    _T.MESSAGE_RECEIVED: _Fold.received,
    _T.MESSAGE_SENT: _Fold.sent,
    _T.TOOL_CALL_STARTED: _Fold.called,
    _T.TOOL_CALL_COMPLETED: _Fold.returned,
    _T.TOOL_CALL_FAILED: _Fold.returned,
    _T.TOOL_APPROVAL_REQUESTED: _Fold.paused,
    _T.ERROR_RECOVERED: _Fold.take_back,
    **dict.fromkeys(TERMINAL_EVENT_TYPES, _Fold.flush),
}

TRANSCRIPT_EVENTS = frozenset(_EFFECTS)
"""The types a transcript is made of; a reader may leave out all others."""


def _metadata(event: Event) -> dict[str, Any]:
    """Where a message comes from stands over what the provider says about it."""
    origin = {
        "event_id": event.id,
        "run_id": event.run_id,
        "timestamp": timestamp_text(event.timestamp),
        "sequence_number": event.sequence_number,
    }
    return {key: value for key, value in {**event.metadata, **origin}.items() if value is not None}


def _text(event: Event, key: str) -> str:
    """What is said under this key; an empty list says nothing."""
    value = event.data.get(key)
    return "" if value in (None, [], {}) else text_of(value)


def _role(event: Event, default: Role) -> Role:
    role = event.data.get("role")
    return Role(role) if isinstance(role, str) and role in Role._value2member_map_ else default


def _tool(event: Event) -> dict[str, str | None]:
    return {key: text_of(event.data.get(key)) or None for key in ("tool_call_id", "tool_name")}


def _whole_from(messages: Sequence[Message], start: int) -> int:
    """The first place from `start` on behind which no tool result stands without its call."""
    for call, result in _pairs(messages):
        if call < start <= result:
            start = result + 1
    return start


def _pairs(messages: Sequence[Message]) -> Iterator[tuple[int, int]]:
    """The places of each result's call and of the result, in the order of the results."""
    calls: dict[tuple[Any, str | None], int] = {}
    for place, message in enumerate(messages):
        key = (message.metadata.get("run_id"), message.tool_call_id or message.tool_name)
        if message.is_tool_call:
            calls[key] = place
        elif message.is_tool_result and key in calls:
            yield calls[key], place

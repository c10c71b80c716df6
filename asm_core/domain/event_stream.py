"""
EventStream: the last events of one run in memory, with a reader's place in them.

A value: every operation that changes something gives a new stream. Numbers here are positions in the stream, from 0
where the events bring none of their own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Generic, Protocol, Self, TypeGuard, TypeVar

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import EventType
from asm_core.domain.session import require_text

DEFAULT_BUFFER_SIZE = 1_000
"""Events kept; the oldest fall out."""


class RunEvent(Protocol):
    """An `Event` or a `NormalizedEvent`."""

    @property
    def id(self) -> str: ...

    @property
    def type(self) -> EventType: ...

    @property
    def session_id(self) -> str: ...

    @property
    def run_id(self) -> str | None: ...

    @property
    def sequence_number(self) -> int | None: ...

    def with_sequence(self, number: int) -> Self: ...


E = TypeVar("E", bound=RunEvent)


class StreamStatus(StrEnum):
    OPEN = "open"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class EventStream(Generic[E]):
    """Source: spec/01 §7."""

    session_id: str
    run_id: str
    buffer_size: int = DEFAULT_BUFFER_SIZE
    status: StreamStatus = StreamStatus.OPEN
    cursor: int = 0
    """The number of the next event to read."""
    next_sequence: int = 0
    """For the next event that has no number."""
    events: tuple[E, ...] = ()
    """What is kept, by number."""

    @classmethod
    def new(cls, *, session_id: object, run_id: object, buffer_size: object = DEFAULT_BUFFER_SIZE) -> EventStream[E]:
        """An open, empty stream. Raises `validation_error` naming the field."""
        return cls(
            session_id=require_text("stream", "session_id", session_id),
            run_id=require_text("stream", "run_id", run_id),
            buffer_size=_whole("buffer_size", buffer_size, at_least=1),
        )

    @property
    def is_closed(self) -> bool:
        return self.status is StreamStatus.CLOSED

    def push(self, event: E) -> EventStream[E]:
        """
        The stream with one more event.

        Raises:
            AsmError: `stream_closed`, `session_mismatch`, `run_mismatch`.
        """
        self._require_open()
        if event.session_id != self.session_id:
            raise _mismatch(ErrorCode.SESSION_MISMATCH, event.id, "session", event.session_id)
        if event.run_id != self.run_id:
            raise _mismatch(ErrorCode.RUN_MISMATCH, event.id, "run", event.run_id)
        return self._with([event])

    def push_batch(self, events: Sequence[E]) -> EventStream[E]:
        """
        The stream with all of them, or none.

        Raises:
            AsmError: `stream_closed`, `context_mismatch` when one belongs to another session or run.
        """
        self._require_open()
        for event in events:
            if (event.session_id, event.run_id) != (self.session_id, self.run_id):
                raise _mismatch(ErrorCode.CONTEXT_MISMATCH, event.id, "run", event.run_id)
        return self._with(events)

    def get_events(
        self, *, from_cursor: bool = False, type: str | Collection[str] | None = None, limit: int | None = None
    ) -> tuple[E, ...]:
        """
        What is kept, by number; also of a closed stream.

        Args:
            from_cursor: only what has not been read yet.
            type: one event type or several.
            limit: the first so many of what is left, from 0.

        Raises:
            AsmError: `validation_error` for a limit that is none.
        """
        found = self._unread() if from_cursor else self.events
        if type is not None:
            wanted = {type} if isinstance(type, str) else set(type)
            found = tuple(event for event in found if event.type in wanted)
        return found if limit is None else found[: _whole("limit", limit, at_least=0)]

    def advance_cursor(self, position: int) -> EventStream[E]:
        """The stream read up to before `position`. Raises `invalid_cursor` for a step back."""
        if not _is_whole(position) or position < self.cursor:
            raise AsmError(ErrorCode.INVALID_CURSOR, f"the cursor cannot go from {self.cursor} to {position!r}")
        return replace(self, cursor=position)

    def peek(self, count: int) -> tuple[E, ...]:
        """The next `count` events; the cursor stays. Raises `validation_error` for a count that is none."""
        return self._unread()[: _whole("count", count, at_least=0)]

    def take(self, count: int) -> tuple[tuple[E, ...], EventStream[E]]:
        """The next `count` events, and the stream behind them. Raises as `peek`."""
        taken = self.peek(count)
        return taken, replace(self, cursor=_number(taken[-1]) + 1) if taken else self

    def count(self) -> int:
        """Events kept."""
        return len(self.events)

    def remaining(self) -> int:
        """Of these, not read yet."""
        return len(self._unread())

    def close(self) -> EventStream[E]:
        """The stream read to its end; nothing is taken in any more."""
        return replace(self, status=StreamStatus.CLOSED, cursor=max(self.cursor, self.next_sequence))

    def __iter__(self) -> Iterator[E]:
        """What has not been read yet."""
        return iter(self._unread())

    def _unread(self) -> tuple[E, ...]:
        return tuple(event for event in self.events if _number(event) >= self.cursor)

    def _require_open(self) -> None:
        if self.is_closed:
            raise AsmError(ErrorCode.STREAM_CLOSED, f"the stream of run {self.run_id} is closed")

    def _with(self, events: Sequence[E]) -> EventStream[E]:
        """Caller has checked that they belong here."""
        kept, following = [*self.events], self.next_sequence
        for event in events:
            numbered = event.with_sequence(following) if event.sequence_number is None else event
            following = max(following, _number(numbered) + 1)
            kept.append(numbered)
        kept.sort(key=_number)
        return replace(self, events=tuple(kept[-self.buffer_size :]), next_sequence=following)


def _number(event: RunEvent) -> int:
    """Every event in a stream has one."""
    return event.sequence_number or 0


def _mismatch(code: ErrorCode, event_id: str, what: str, found: str | None) -> AsmError:
    return AsmError(code, f"event {event_id} belongs to {what} {found}", details={"event_id": event_id})


def _whole(name: str, value: object, at_least: int) -> int:
    if not _is_whole(value) or value < at_least:
        message = f"{name} must be an integer from {at_least}, not {value!r}"
        raise AsmError(ErrorCode.VALIDATION_ERROR, message, details={"field": name})
    return value


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)

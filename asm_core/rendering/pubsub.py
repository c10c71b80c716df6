"""Events onto a publisher of one's own, by topic; or onto ASM's bus, where a session's followers find them."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal
from urllib.parse import quote

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import Event
from asm_core.domain.topics import session_topic
from asm_core.ports.bus import EventBus
from asm_core.rendering.sinks import takes
from asm_core.wire import dumps, frame_of_event

log = logging.getLogger(__name__)

PREFIX = "asm"
WRAPPER = "asm_event"
WIRE_VERSION = 1

Message = tuple[str, str, Event] | tuple[str, str, Event, str]
"""Tag, session id, event; and its text, when that is asked for."""
Publish = Callable[[str, Message], Awaitable[object] | object]
"""Sends a message to a topic: `lambda topic, message: redis.publish(topic, encode(message))`."""
Scope = Literal["session", "run", "type"]


class PubSubSink:
    """
    Args:
        pubsub: a function of topic and message, which may be a coroutine function; or an EventBus, which knows one
            topic, the session's, and takes stored events only.
        topic: always this one; or
        topic_fn: the event's topic, or several of them; or
        scope, prefix: topics by session, run or type: `asm:session:{id}`, `…:run:{id}`, `…:type:{type}`.
        message_wrapper: the message's tag.
        include_rendered: the text as the message's fourth part.

    Raises:
        AsmError: `validation_error` naming the option.

    Source: spec/05 §7.5.
    """

    def __init__(
        self,
        pubsub: EventBus | Publish,
        *,
        topic: str | None = None,
        topic_fn: Callable[[Event], str | Sequence[str]] | None = None,
        prefix: str = PREFIX,
        scope: Scope = "session",
        message_wrapper: str = WRAPPER,
        include_rendered: bool = False,
    ) -> None:
        self._publish = publisher(pubsub)
        self._topics = _strategy(topic, topic_fn, prefix, scope)
        self._wrapper = message_wrapper
        self._include_rendered = include_rendered
        self.broadcast_count = 0
        self.error_count = 0
        """Messages that did not go out; the sink goes on."""

    async def open(self) -> None:
        """The connection is the publisher's own."""

    async def write(self, text: str) -> None:
        """Only events are sent."""

    async def write_event(self, event: Event, text: str) -> None:
        message: Message = (self._wrapper, event.session_id, event)
        if self._include_rendered:
            message = (*message, text)
        for topic in self._topics(event):
            await self._broadcast(topic, message)

    async def flush(self) -> None:
        """Nothing is held back."""

    async def close(self) -> None:
        """The connection is the publisher's own."""

    async def _broadcast(self, topic: str, message: Message) -> None:
        try:
            answer = self._publish(topic, message)
            if inspect.isawaitable(answer):
                await answer
        except Exception as error:
            self.error_count += 1
            log.warning("event %s was not sent to %s: %s", message[2].id, topic, error)
        else:
            self.broadcast_count += 1


def publisher(pubsub: EventBus | Publish) -> Publish:
    """What sends, out of what was given."""
    if hasattr(pubsub, "publish") and hasattr(pubsub, "listen"):
        return _onto(pubsub)
    if not takes(pubsub, 2):
        raise _invalid("pubsub", "pubsub must be an event bus, or a function of topic and message")
    return pubsub


def _onto(bus: EventBus) -> Publish:
    async def publish(_topic: str, message: Message) -> None:
        event = message[2]
        if event.sequence_number is None:
            raise AsmError(
                ErrorCode.INVALID_OPERATION, f"event {event.id} is not stored: the bus takes what has a number"
            )
        await bus.publish([(event.session_id, [frame_of_event(event)])])

    return publish


def run_topic(session_id: str, run_id: str, prefix: str = PREFIX) -> str:
    return f"{_session(session_id, prefix)}:run:{_part(run_id)}"


def type_topic(session_id: str, kind: str, prefix: str = PREFIX) -> str:
    return f"{_session(session_id, prefix)}:type:{_part(kind)}"


def topic_of(event: Event, *, prefix: str = PREFIX, scope: Scope = "session") -> str:
    """
    An event's topic. One that belongs to no run has its session's topic in scope `run`.

    Raises:
        AsmError: `validation_error` for an invalid scope.
    """
    match _checked(scope):
        case "run" if event.run_id:
            return run_topic(event.session_id, event.run_id, prefix)
        case "type":
            return type_topic(event.session_id, event.type, prefix)
        case _:
            return _session(event.session_id, prefix)


def encode(message: Message) -> bytes:
    """A message as JSON, for brokers that carry bytes; `event.sequence_number` in it shows a reader what was lost."""
    wrapper, session_id, event, *rendered = message
    value = {"v": WIRE_VERSION, "wrapper": wrapper, "session_id": session_id, "event": event.to_map()}
    return dumps(value | {"rendered": rendered[0]} if rendered else value)


def _strategy(
    topic: str | None, topic_fn: Callable[[Event], str | Sequence[str]] | None, prefix: str, scope: Scope
) -> Callable[[Event], Sequence[str]]:
    if topic is not None and topic_fn is not None:
        raise _invalid("topic", "topic and topic_fn exclude each other")
    if topic is not None:
        return lambda _event: (topic,)
    if topic_fn is not None:
        if not takes(topic_fn, 1):
            raise _invalid("topic_fn", "topic_fn must be a function of an event")
        return lambda event: _several(topic_fn(event))
    _checked(scope)
    return lambda event: (topic_of(event, prefix=prefix, scope=scope),)


def _several(topics: str | Sequence[str]) -> Sequence[str]:
    return (topics,) if isinstance(topics, str) else topics


def _session(session_id: str, prefix: str) -> str:
    return session_topic(prefix, _part(session_id))


def _part(name: str) -> str:
    """An id may hold a colon; a part of a topic may not."""
    return quote(name, safe="")


def _checked(scope: Any) -> Scope:
    if scope not in ("session", "run", "type"):
        raise _invalid("scope", f"invalid scope: {scope!r}; it is session, run or type")
    checked: Scope = scope
    return checked


def _invalid(field: str, message: str) -> AsmError:
    return AsmError(ErrorCode.VALIDATION_ERROR, message, details={"field": field})

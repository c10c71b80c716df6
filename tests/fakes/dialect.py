"""What a protocol must be able to say."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import orjson

from tests.fakes.script import Asked, Failure, Refused, Reply, StreamError

Json = dict[str, Any]


class Dialect(ABC):
    """One protocol: how a request is read and a reply written."""

    statuses: ClassVar[Mapping[Failure, int]]
    """The HTTP status of each refusal."""
    end: ClassVar[bytes] = b""
    """What follows the last event of a stream."""
    garbage: ClassVar[bytes] = b'data: {"type": "garb\n\n'
    """An event that is no JSON."""

    @abstractmethod
    def read(self, body: Json) -> Asked:
        """What a request asks."""

    @abstractmethod
    def stream(self, reply: Reply, asked: Asked) -> Iterator[Json | None]:
        """The events of an answer in order; one None stands where a fault strikes, before the answer is closed."""

    @abstractmethod
    def whole(self, reply: Reply, asked: Asked) -> Json:
        """The answer to a request that did not ask for a stream."""

    @abstractmethod
    def error(self, refused: Refused) -> Json:
        """The body of an HTTP error."""

    @abstractmethod
    def error_event(self, error: StreamError, asked: Asked) -> Json:
        """An error within a stream."""

    def encode(self, event: Json) -> bytes:
        """One server-sent event, named by its type where it has one."""
        name = f"event: {event['type']}\n".encode() if "type" in event else b""
        return name + b"data: " + orjson.dumps(event) + b"\n\n"


def joined(content: Any, kinds: Iterable[str] = ("text",)) -> str:
    """The text in a message's content: a string, or the blocks of these kinds."""
    if isinstance(content, str):
        return content
    return "".join(block.get("text") or "" for block in content or [] if block.get("type") in kinds)

"""The servers: one HTTP server for all protocols, and a proxy that lets nothing out."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Self

import orjson
import uvicorn

from tests.fakes.amp_server import AmpServer, is_title_request
from tests.fakes.anthropic_messages import AnthropicMessages, count_tokens
from tests.fakes.dialect import Dialect, Json
from tests.fakes.openai_chat import OpenAIChat
from tests.fakes.openai_responses import OpenAIResponses
from tests.fakes.script import Asked, Fault, Refused, Reply, Script, StreamError, tool

START_S = STOP_S = 10.0
"""Guards against hanging."""
POLL_S = 0.005

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

DIALECTS: Mapping[str, Dialect] = {
    "/v1/messages": AnthropicMessages(),
    "/api/provider/anthropic/v1/messages": AnthropicMessages(),
    "/v1/responses": OpenAIResponses(),
    "/v1/chat/completions": OpenAIChat(),
}
MODELS = {"object": "list", "data": [], "has_more": False, "first_id": None, "last_id": None}


@dataclass
class Recorded:
    """One request as it came in."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str] = field(repr=False)
    """By lower-case name. Keys are in here, hence not in the repr."""
    body: Any = field(repr=False)
    """Parsed JSON, or None."""
    left: threading.Event = field(default_factory=threading.Event, repr=False)
    """Set when the client went away before the answer was complete."""
    answered: threading.Event = field(default_factory=threading.Event, repr=False)
    """Set when the whole answer was sent."""

    async def was_left(self) -> bool:
        """Whether the client went away early; waits for it."""
        return await asyncio.to_thread(self.left.wait, STOP_S)


class ProviderServer:
    """
    A serving HTTP server that pretends to be every provider. As a context manager it is stopped at the end.

    Set `script`, point a client to `url`, look at `requests`.
    """

    def __init__(self) -> None:
        self.script = Script()
        self.requests: list[Recorded] = []
        self.amp = AmpServer()
        config = uvicorn.Config(
            self._app, "127.0.0.1", 0, log_config=None, access_log=False, interface="asgi3", lifespan="off", ws="none",
            timeout_graceful_shutdown=1,
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, name="providers", daemon=True)
        self._thread.start()
        deadline = time.monotonic() + START_S
        while not self._server.started:
            assert self._thread.is_alive() and time.monotonic() < deadline, "the provider server did not start"
            time.sleep(POLL_S)
        self.port: int = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    @property
    def openai_url(self) -> str:
        return f"{self.url}/v1"

    def asked(self, path: str) -> list[Recorded]:
        """The requests to a path so far."""
        return [request for request in self.requests if request.path == path]

    def clear(self) -> None:
        """Forget the script, the requests and Amp's threads."""
        self.script.clear()
        self.requests.clear()
        self.amp.threads.clear()

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(STOP_S)
        assert not self._thread.is_alive(), "the provider server did not stop"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        request = _recorded(scope, await _body(receive))
        self.requests.append(request)
        exchange = Exchange(request, send)
        answering = asyncio.create_task(self._answer(request, exchange))
        leaving = asyncio.create_task(_left(receive))
        await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            request.left.set()
        answering.cancel()
        leaving.cancel()
        await asyncio.gather(answering, leaving, return_exceptions=True)
        if answering.done() and not answering.cancelled():
            answering.result()

    async def _answer(self, request: Recorded, exchange: Exchange) -> None:
        dialect = DIALECTS.get(request.path)
        if request.method == "POST" and dialect is not None:
            await self._speak(dialect, request, exchange)
        elif request.path == "/v1/messages/count_tokens":
            await exchange.json(200, count_tokens(request.body))
        elif request.path == "/api/internal":
            await exchange.json(200, self.amp.answer(request.body))
        elif request.path == "/v1/models":
            await exchange.json(200, MODELS)
        elif request.path == "/v1/responses":  # a WebSocket is refused so that Codex falls back to POST
            await exchange.json(426, {})
        else:
            await exchange.json(404, {"error": {"type": "not_found_error", "message": f"no {request.path} here"}})

    async def _speak(self, dialect: Dialect, request: Recorded, exchange: Exchange) -> None:
        asked = dialect.read(request.body)
        title = tool("set_title", {"title": "A title"})
        match title if is_title_request(request.body) else self.script.answer(asked):
            case Refused() as refused:
                body = dialect.error(refused)
                await exchange.json(dialect.statuses[refused.failure], body, refused.headers)
            case Reply() as reply if asked.streams:
                await exchange.stream(dialect, reply, asked)
            case Reply() as reply:
                await exchange.whole(dialect.whole(reply, asked), reply.fault)


class Exchange:
    """The answering half of one request."""

    def __init__(self, request: Recorded, send: Send) -> None:
        self._request = request
        self._send = send

    async def json(self, status: int, body: Json, headers: Mapping[str, str] | None = None) -> None:
        await self._begin(status, {"content-type": "application/json"} | dict(headers or {}))
        await self._end(orjson.dumps(body))

    async def whole(self, body: Json, fault: Fault | StreamError | None) -> None:
        """A body at once; a fault halves it."""
        written = orjson.dumps(body)
        await self._begin(200, {"content-type": "application/json"})
        if fault is None:
            await self._end(written)
        elif fault is Fault.SILENT:
            await self._wait_for_leaving()
        else:
            finish = self._write if fault is Fault.CUT else self._end
            await finish(written[: len(written) // 2])

    async def stream(self, dialect: Dialect, reply: Reply, asked: Asked) -> None:
        """Server-sent events, with the reply's fault in its place."""
        await self._begin(200, {"content-type": "text/event-stream", "cache-control": "no-cache"})
        for event in dialect.stream(reply, asked):
            if event is not None:
                await self._write(dialect.encode(event))
                await asyncio.sleep(reply.delay_s)
            elif await self._fail(dialect, reply.fault, asked):
                return
        await self._end(dialect.end)

    async def _fail(self, dialect: Dialect, fault: Fault | StreamError | None, asked: Asked) -> bool:
        """Do what goes wrong; whether that was the end."""
        match fault:
            case None:
                return False
            case Fault.GARBAGE:
                await self._write(dialect.garbage)
                return False
            case Fault.CUT:  # returning without an end of the body drops the connection
                return True
            case Fault.SILENT:
                await self._wait_for_leaving()
            case Fault.ENDED:
                await self._end(b"")
            case StreamError():
                await self._end(dialect.encode(dialect.error_event(fault, asked)))
        return True

    async def _begin(self, status: int, headers: Mapping[str, str]) -> None:
        named = {"request-id": f"req_{id(self._request):x}", "x-request-id": f"req_{id(self._request):x}"} | headers
        encoded = [(name.encode(), value.encode()) for name, value in named.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": encoded})

    async def _write(self, body: bytes) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def _end(self, body: bytes) -> None:
        await self._send({"type": "http.response.body", "body": body})
        self._request.answered.set()

    async def _wait_for_leaving(self) -> None:
        """Until the application cancels the answer."""
        await asyncio.Event().wait()


async def _body(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _recorded(scope: Scope, body: bytes) -> Recorded:
    headers = {name.decode().lower(): value.decode() for name, value in scope["headers"]}
    parsed = orjson.loads(body) if body.startswith((b"{", b"[")) else None
    return Recorded(scope["method"], scope["path"], scope["query_string"].decode(), headers, parsed)


class OutwardProxy:
    """An HTTP proxy that refuses everything and notes who was wanted: in tests nobody may be."""

    def __init__(self) -> None:
        self.wanted: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, name="outward", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(STOP_S)
                line = connection.recv(65536).split(b"\r\n", 1)[0]
                self.wanted.append(line.decode(errors="replace"))
                connection.sendall(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(STOP_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

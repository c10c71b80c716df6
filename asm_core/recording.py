"""
Recordings of what a provider's SDK or command line and the provider said to each other, byte for byte.

They are made and played at the one place that every SDK and command line has: the address of its server. A recording
run is pointed at a proxy on loopback, which passes everything on and keeps it; a played one at a server that answers
from the recording, and asks nobody. So what is tested against a recording is the whole adapter with the vendor's own
code.

A recording has no request headers (that is where keys are) and no secret that the redactor finds. A model that spells a
secret piece by piece, with the protocol's own text between the pieces, is not found out: recordings are made only when
asked for, by those who are trusted.

Source: DESIGN §8, §11.
"""

from __future__ import annotations

import asyncio
import base64
import socket
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterator,
    Mapping,
    MutableMapping,
    Sequence,
)
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from asm_core.domain.capability import Capability
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.provider_options import ProviderOptions
from asm_core.domain.redaction import REDACTOR, Redactor
from asm_core.ports.provider import Completion, Execution, ProviderAdapter, RawEvent, Recordable
from asm_core.wire import dumps, loads

VERSION = 1
HOST = "127.0.0.1"
START_S = 10.0
STOP_S = 5.0
TIMEOUT_S = 600.0
"""For the provider to go on with an answer."""

KEPT_HEADERS = ("content-type", "retry-after", "retry-after-ms", "request-id", "x-request-id", "x-should-retry")
"""Of answers: what SDKs act on."""
NOT_PASSED_ON = ("host", "connection", "content-length", "transfer-encoding", "accept-encoding")
"""Of requests: these are each connection's own, and answers come as they are."""

Item = RawEvent | Completion
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


@dataclass(slots=True, kw_only=True)
class Exchange:
    """One request and its answer."""

    method: str
    path: str
    """With the query, behind the base URL."""
    request: bytes
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=list)
    """Of the answer's body, as they came."""
    is_complete: bool = False
    """False: the connection broke within the answer; played, it breaks again."""


@dataclass(slots=True)
class Recording:
    provider: str
    exchanges: list[Exchange] = field(default_factory=list)

    def to_bytes(self, redactor: Redactor = REDACTOR) -> bytes:
        """JSON Lines: a header, then one exchange each."""
        header = {"v": VERSION, "provider": self.provider}
        return b"".join(line + b"\n" for line in (dumps(header), *(_line(each, redactor) for each in self.exchanges)))

    @classmethod
    def from_bytes(cls, data: bytes) -> Recording:
        """Raises AsmError `validation_error` for what is no recording of this version."""
        try:
            header, *lines = [loads(line) for line in data.splitlines()]
            if header["v"] != VERSION:
                raise ValueError(f"version {header['v']}")
            return cls(header["provider"], [_exchange(line) for line in lines])
        except (ValueError, KeyError, TypeError, IndexError) as cause:
            raise AsmError(ErrorCode.VALIDATION_ERROR, f"this is no recording: {cause}") from cause


class RecordingAdapter:
    """
    An adapter for one run, which is recorded; the recording is kept among the files of the provider's session, under
    the name that the run's output tells as `recording`.

    Raises:
        AsmError: `capability_not_supported`: the provider has no server to listen to.
    """

    def __init__(self, inner: ProviderAdapter, redactor: Redactor = REDACTOR) -> None:
        if not isinstance(inner, Recordable):
            message = f"the provider {inner.name} cannot be recorded: it asks no server"
            raise AsmError(ErrorCode.CAPABILITY_NOT_SUPPORTED, message, details={"field": "provider_options.record"})
        self._inner, self._recordable, self._redactor = inner, inner, redactor
        self._recording = Recording(inner.name)  # of repeated requests, too

    @property
    def name(self) -> str:
        return self._inner.name

    def capabilities(self) -> Sequence[Capability]:
        return self._inner.capabilities()

    def validate_input(self, value: Mapping[str, Any]) -> None:
        self._inner.validate_input(value)

    def validate_options(self, options: ProviderOptions) -> None:
        self._inner.validate_options(options)

    async def execute(self, execution: Execution) -> AsyncGenerator[Item, None]:
        name = f"recordings/{execution.run.id}-{execution.attempt}.jsonl"
        try:
            async with (
                recorded(self._recordable.server, self._recording) as url,
                self._asking(url, execution) as items,
            ):
                async for item in items:
                    if isinstance(item, Completion):
                        item = replace(item, output={**item.output, "recording": name})
                    yield item
        finally:
            if execution.files is not None:
                await execution.files.save(name, self._recording.to_bytes(self._redactor))

    @asynccontextmanager
    async def _asking(
        self, url: str, execution: Execution
    ) -> AsyncIterator[AsyncGenerator[RawEvent | Completion, None]]:
        asking = self._recordable.at(url)
        try:
            async with aclosing(asking.execute(execution)) as items:
                yield items
        finally:
            await asking.aclose()

    async def aclose(self) -> None:
        await self._inner.aclose()


@asynccontextmanager
async def recorded(upstream: str, recording: Recording) -> AsyncIterator[str]:
    """
    A proxy that keeps what passes through it.

    Args:
        upstream: the provider's base URL.

    Yields:
        The base URL to use instead.
    """
    import httpx2

    async with httpx2.AsyncClient(timeout=TIMEOUT_S) as client:

        async def pass_on(exchange: Exchange, headers: dict[str, str], send: Send) -> None:
            recording.exchanges.append(exchange)
            request = client.build_request(
                exchange.method, upstream.rstrip("/") + exchange.path, headers=headers, content=exchange.request
            )
            answer = await client.send(request, stream=True)
            try:
                exchange.status = answer.status_code
                exchange.headers = {name: answer.headers[name] for name in KEPT_HEADERS if name in answer.headers}
                await _begin(exchange, send)
                async for chunk in answer.aiter_raw():
                    exchange.chunks.append(chunk)
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                exchange.is_complete = True
                await send({"type": "http.response.body", "body": b""})
            finally:
                await answer.aclose()

        async with _serving(pass_on) as url:
            yield url


@asynccontextmanager
async def played(recording: Recording) -> AsyncIterator[str]:
    """
    A server that answers from a recording, each exchange once, those of one method and path in their order; anything
    else is answered with 404.

    Yields:
        The base URL to use instead of the provider's.
    """
    left = [*recording.exchanges]

    async def play(asked: Exchange, _headers: dict[str, str], send: Send) -> None:
        known = next((each for each in left if (each.method, each.path) == (asked.method, asked.path)), None)
        if known is None:
            await _begin(Exchange(method="", path="", request=b"", status=404), send)
            await send({"type": "http.response.body", "body": b'{"error":{"message":"not in the recording"}}'})
            return
        left.remove(known)
        await _begin(known, send)
        for chunk in known.chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await asyncio.sleep(0)
        if known.is_complete:
            await send({"type": "http.response.body", "body": b""})

    async with _serving(play) as url:
        yield url


async def _begin(exchange: Exchange, send: Send) -> None:
    headers = [(name.encode(), value.encode()) for name, value in exchange.headers.items()]
    await send({"type": "http.response.start", "status": exchange.status, "headers": headers})


@asynccontextmanager
async def _serving(answer: Callable[[Exchange, dict[str, str], Send], Awaitable[None]]) -> AsyncIterator[str]:
    """An HTTP server on loopback, on the running loop."""
    import uvicorn

    ready = asyncio.Event()

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready.set()

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield  # they are the process's own business

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"] + (f"?{scope['query_string'].decode()}" if scope["query_string"] else "")
        exchange = Exchange(method=scope["method"], path=path, request=await _body(receive))
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        passed = {name: value for name, value in headers.items() if name not in NOT_PASSED_ON}
        await answer(exchange, passed | {"accept-encoding": "identity"}, send)

    config = uvicorn.Config(
        app, log_config=None, log_level="critical", access_log=False, interface="asgi3", lifespan="off", ws="none",
        timeout_graceful_shutdown=1,
    )  # fmt: skip
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        server = Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            async with asyncio.timeout(START_S):
                await ready.wait()
            yield f"http://{HOST}:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await asyncio.wait({serving}, timeout=STOP_S)
            serving.cancel()


async def _body(receive: Receive) -> bytes:
    parts: list[bytes] = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


def _line(exchange: Exchange, redactor: Redactor) -> bytes:
    return dumps(
        {
            "method": exchange.method,
            "path": redactor.text(exchange.path),
            "request": _text(exchange.request, redactor),
            "status": exchange.status,
            "headers": exchange.headers,
            "chunks": _chunks(exchange.chunks, redactor),
            "is_complete": exchange.is_complete,
        }
    )


def _chunks(chunks: Sequence[bytes], redactor: Redactor) -> list[str]:
    """As they came; where a secret is in them, even across two, the body as one piece without it."""
    whole = _text(b"".join(chunks), redactor)
    pieces = [_text(chunk, redactor) for chunk in chunks]
    return pieces if b"".join(map(_unwrapped, pieces)) == _unwrapped(whole) else [whole]


def _text(data: bytes, redactor: Redactor) -> str:
    """Text without secrets; what is no text is kept as base64, behind a NUL."""
    try:
        return redactor.text(data.decode())
    except UnicodeDecodeError:
        return "\0" + base64.b64encode(data).decode()


def _unwrapped(text: str) -> bytes:
    return base64.b64decode(text[1:]) if text.startswith("\0") else text.encode()


def _exchange(line: dict[str, Any]) -> Exchange:
    return Exchange(
        method=line["method"],
        path=line["path"],
        request=_unwrapped(line["request"]),
        status=line["status"],
        headers=line["headers"],
        chunks=[_unwrapped(chunk) for chunk in line["chunks"]],
        is_complete=line["is_complete"],
    )

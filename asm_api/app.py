"""The API process: an application from settings, and a server that lets its streams end before it waits for them."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from asm_api import ws
from asm_api.auth import ApiKeyGate, check_exposure
from asm_api.errors import install_error_handlers, problem_response
from asm_api.routes import artifacts, events, ops, queries, runs, sessions
from asm_api.schemas import Problem
from asm_api.wiring import DepsFactory, open_deps
from asm_core.background import end_process_on_defect
from asm_core.config import Settings
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.process import deny_inspection

ROUTERS = (
    sessions.router, runs.router, events.router, artifacts.router, queries.router, ws.router, ops.router,
)  # fmt: skip


def serve(settings: Settings, host: str, port: int) -> None:
    """
    Serve until SIGTERM or SIGINT, then let streams and requests end within `shutdown_timeout_s`.

    Raises:
        AsmError: `unauthorized` when the host is not loopback and no API key is set.
    """
    end_process_on_defect()
    deny_inspection()
    build_server(settings, host, port).run()


def build_server(settings: Settings, host: str, port: int, deps_factory: DepsFactory = open_deps) -> ApiServer:
    """The server, not yet running. Raises as `serve`."""
    check_exposure(settings, host)
    app = create_app(settings, deps_factory)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        timeout_graceful_shutdown=settings.shutdown_timeout_s,
        ws="websockets-sansio",
        ws_max_size=settings.max_body_bytes,
        ws_per_message_deflate=False,  # it would compress every event once per client
        log_config=None,  # asm_core.logs has set up logging
        access_log=False,
        server_header=False,
    )
    return ApiServer(config, app)


def create_app(settings: Settings, deps_factory: DepsFactory = open_deps) -> FastAPI:
    """
    The ASGI application.

    Args:
        settings: read once by the caller.
        deps_factory: opens what the routes need when the application starts, and closes it when it ends.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with deps_factory(settings) as deps:
            app.state.deps = deps
            yield

    app = FastAPI(
        title="ASM",
        description="Submit runs of AI agent sessions, follow their events, operate their queues.",
        lifespan=lifespan,
        responses={"default": {"model": Problem, "description": "Any failure: application/problem+json"}},
    )
    for router in ROUTERS:
        app.include_router(router)
    install_error_handlers(app, settings.redactor)
    app.add_middleware(BodyLimit, limit=settings.max_body_bytes)
    if settings.api_key:
        app.add_middleware(ApiKeyGate, key=settings.api_key.get_secret_value())
    return app


class ApiServer(uvicorn.Server):
    """
    Uvicorn waits for open connections before it runs the application's own shutdown, and a stream never ends by
    itself; so the streams are told to end first.
    """

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.state.deps.hub.close_watches()
        await super().shutdown(sockets)
        for connection in [*self.server_state.connections]:  # of clients that do not read what they asked for
            connection.transport.abort()


class BodyLimit:
    """Refuses a body of more than `limit` bytes before it is held in memory, whether its length was declared or not."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and int(declared) > self._limit:
            error = AsmError(ErrorCode.PAYLOAD_TOO_LARGE, self._refusal, details={"max_body_bytes": self._limit})
            await problem_response(error)(scope, receive, send)
            return
        await self._app(scope, self._counted(receive), send)

    def _counted(self, receive: Receive) -> Receive:
        received = 0

        async def receive_counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._limit:
                raise HTTPException(413, self._refusal)
            return message

        return receive_counted

    @property
    def _refusal(self) -> str:
        return f"the body has more than {self._limit} bytes"

"""
A session's events and its controls on one WebSocket.

The server sends `{"event": …}`, and `{"reply": …, "ref": …}` or `{"error": problem, "ref": …}` to each request, which
is `{"op": "submit" | "cancel" | "interrupt" | "ping", "ref"?: any, …}`. A request that makes no sense is answered with
an error; the connection stays.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from fastapi import APIRouter, WebSocket
from pydantic import ValidationError
from starlette.websockets import WebSocketDisconnect, WebSocketDisconnected

from asm_api.auth import Tenant
from asm_api.errors import invalid_request, problem_of, unexpected
from asm_api.routes import Filter
from asm_api.routes.events import After, Types
from asm_api.routes.runs import control_map, submitted_map
from asm_api.schemas import RunReference, SocketSubmit
from asm_api.wiring import Deps, Wired
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.ports.store import EventFilter
from asm_core.wire import dumps_text, loads

log = logging.getLogger(__name__)

router = APIRouter(prefix="/v1/sessions/{session_id}", tags=["events"])

TRY_AGAIN = 1013


@router.websocket("/ws")
async def session_socket(
    socket: WebSocket,
    session_id: str,
    deps: Wired,
    tenant_id: Tenant,
    types: Types,
    after: After = 0,
    run_id: Filter = None,
) -> None:
    _check_origin(socket, deps)
    await deps.store.get_session(session_id, tenant_id)
    await socket.accept()
    where = EventFilter(after=after, types=types, run_id=run_id)
    desk = Desk(deps, tenant_id, session_id)
    sending = asyncio.create_task(_send_events(socket, deps, desk, where))
    answering = asyncio.create_task(_answer_requests(socket, desk))
    try:
        await asyncio.wait({sending, answering}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        sending.cancel()
        answering.cancel()
        ends = await asyncio.gather(sending, answering, return_exceptions=True)
    for end in ends:
        if isinstance(end, Exception) and not isinstance(end, WebSocketDisconnect | WebSocketDisconnected):
            raise end


def _check_origin(socket: WebSocket, deps: Deps) -> None:
    """Browsers let any page open a socket to this machine; where no key is asked for, only our own pages may."""
    origin = socket.headers.get("origin")
    if origin and not deps.settings.api_key and urlsplit(origin).netloc != socket.headers.get("host"):
        raise AsmError(ErrorCode.FORBIDDEN, f"pages of {origin[:80]} may not open this socket")


async def _send_events(socket: WebSocket, deps: Deps, desk: Desk, where: EventFilter) -> None:
    """Until the store fails or this process shuts down; then the client comes back with its cursor."""
    try:
        async with aclosing(deps.follower(desk.tenant_id).follow(desk.session_id, where)) as batches:
            async for frames in batches:
                for frame in frames:
                    await socket.send_text(f'{{"event":{frame.body.decode()}}}')
    except AsmError as error:
        log.info("socket of %s ends: %s", desk.session_id, error)
        await socket.close(TRY_AGAIN)


async def _answer_requests(socket: WebSocket, desk: Desk) -> None:
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            return
        await socket.send_text(dumps_text(await desk.answer(message.get("text"))))


@dataclass(frozen=True, slots=True)
class Desk:
    """Answers the requests of one connection, one after the other."""

    deps: Deps
    tenant_id: str
    session_id: str

    async def answer(self, text: str | None) -> dict[str, Any]:
        reference: dict[str, Any] = {}
        try:
            request = _parse(text)
            reference = {"ref": request.pop("ref")} if "ref" in request else {}
            return {"reply": await self._operation(request.pop("op", None))(request)} | reference
        except ValidationError as cause:
            error = invalid_request(cause.errors(include_url=False))
        except AsmError as refusal:
            error = refusal
        except Exception:
            log.exception("a request on the socket of %s failed", self.session_id)
            error = unexpected()
        return {"error": problem_of(error, redactor=self.deps.redactor)} | reference

    def _operation(self, name: object) -> Callable[[Mapping[str, Any]], Awaitable[dict[str, Any]]]:
        operations = {"submit": self._submit, "cancel": self._cancel, "interrupt": self._interrupt, "ping": self._ping}
        if not isinstance(name, str) or name not in operations:
            message = f"op: must be one of {', '.join(operations)}, not {str(name)[:80]!r}"
            raise AsmError(ErrorCode.VALIDATION_ERROR, message, details={"field": "op"})
        return operations[name]

    async def _submit(self, request: Mapping[str, Any]) -> dict[str, Any]:
        body = SocketSubmit.model_validate(request)
        submitted = await self.deps.submitter.submit(
            self.session_id, self.tenant_id, body.run_request(), body.idempotency_key
        )
        return submitted_map(submitted)

    async def _cancel(self, request: Mapping[str, Any]) -> dict[str, Any]:
        return control_map(await self.deps.control.cancel(await self._own_run(request), self.tenant_id))

    async def _interrupt(self, request: Mapping[str, Any]) -> dict[str, Any]:
        return control_map(await self.deps.control.interrupt(await self._own_run(request), self.tenant_id))

    async def _ping(self, request: Mapping[str, Any]) -> dict[str, Any]:
        return {"pong": True}

    async def _own_run(self, request: Mapping[str, Any]) -> str:
        """The id of a run of this session. Raises `run_not_found`."""
        run = await self.deps.store.get_run(RunReference.model_validate(request).run_id, self.tenant_id)
        if run.session_id != self.session_id:
            message = f"no run {run.id} in session {self.session_id}"
            raise AsmError(ErrorCode.RUN_NOT_FOUND, message, details={"run_id": run.id})
        return run.id


def _parse(text: str | None) -> dict[str, Any]:
    try:
        request = loads(text or "")
    except ValueError as cause:
        raise AsmError(ErrorCode.VALIDATION_ERROR, f"not a JSON text frame: {cause}") from cause
    if not isinstance(request, dict):
        raise AsmError(ErrorCode.VALIDATION_ERROR, f"a request must be a JSON object, not {type(request).__name__}")
    return request

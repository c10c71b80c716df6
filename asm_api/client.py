"""
Clients of a remote ASM server.

`AsyncAsmClient` is the one implementation; `AsmClient` is the same for code without an event loop, through a portal to
a loop of its own. Both return the server's JSON as it is, and raise the server's problems as `AsmError`.

What may safely be sent twice is: reads, cancels, and submits (each carries an idempotency key). These survive a lost
connection or a server that restarts. `follow` and `wait` go on across outages of up to `reconnect_s`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, NamedTuple, ParamSpec, Self, TypeVar
from urllib.parse import quote
from uuid import uuid4

import httpx2
from anyio.from_thread import start_blocking_portal

from asm_api.outages import Patience
from asm_api.outages import ServerUnreachable as ServerUnreachable
from asm_core.blocking import Facade, blocking, iterated
from asm_core.domain.errors import AsmError, ErrorCode, valid_code
from asm_core.domain.lifecycle import TERMINAL_RUNS
from asm_core.wire import dumps, loads

Json = dict[str, Any]
P = ParamSpec("P")
T = TypeVar("T")

DEFAULT_SERVER = "http://127.0.0.1:8420"
CONNECT_TIMEOUT_S = 5.0
RETRY_S = 1.0
"""How long one call is tried again; at least once."""
RECONNECT_S = 60.0
"""How long `follow` and `wait` try to reach a server that they had reached before."""
POLL_S = 25.0
"""One long poll of `wait`."""
SILENCE_S = 45.0
"""A stream without as much as a ping for this long is dead (the server pings every 15 s)."""
SYNC_BUFFER = 100
"""Events that `AsmClient.follow` reads ahead."""
_GATEWAY = (502, 503, 504)


class AsyncAsmClient:
    """
    Args:
        base_url: of the server, `http://…` or `https://…`.
        api_key: sent as a bearer token.
        timeout_s: for one answer, beside what a call waits for by itself.
        reconnect_s: how long `follow` and `wait` bear an outage of a server that they had reached.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_SERVER,
        api_key: str | None = None,
        timeout_s: float = 30.0,
        reconnect_s: float = RECONNECT_S,
    ) -> None:
        if not base_url.startswith(("http://", "https://")):
            message = f"a server's address begins with http:// or https://, not {base_url!r}"
            raise AsmError(ErrorCode.VALIDATION_ERROR, message, details={"field": "base_url"})
        self.base_url = base_url.rstrip("/")
        self._timeout_s = timeout_s
        self._reconnect_s = reconnect_s
        self._http = httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {api_key}"} if api_key else None,
            timeout=httpx2.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=20),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def create_session(self, /, agent_id: str, **fields: Any) -> Json:
        """
        Args:
            fields: `provider, model, context, metadata, tags, max_concurrent_runs, max_queued_runs`.
        """
        return await self._call("POST", "/v1/sessions", json={"agent_id": agent_id} | fields, repeatable=False)

    async def get_session(self, session_id: str) -> Json:
        return await self._call("GET", f"/v1/sessions/{session_id}")

    async def list_sessions(
        self,
        *,
        status: str | None = None,
        agent_id: str | None = None,
        tag: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Json:
        """`{sessions, cursor}`, newest first."""
        params = {"status": status, "agent_id": agent_id, "tag": tag, "limit": limit, "cursor": cursor}
        return await self._call("GET", "/v1/sessions", params=params)

    async def fork_session(self, /, session_id: str, *, at: int | None = None, **fields: Any) -> Json:
        """
        A new session that goes on from another's events up to number `at` (all, when omitted).

        Args:
            fields: where the new session is to differ, as of `create_session`, and `agent_id`.
        """
        body = fields if at is None else {"at": at} | fields
        return await self._call("POST", f"/v1/sessions/{session_id}/fork", json=body, repeatable=False)

    async def pause_session(self, session_id: str) -> Json:
        return await self._change(session_id, "pause")

    async def resume_session(self, session_id: str) -> Json:
        return await self._change(session_id, "resume")

    async def complete_session(self, session_id: str, *, queued: str = "refuse") -> Json:
        """
        Args:
            queued: `refuse` (queued runs prevent it) or `cancel` (they end with the session).
        """
        return await self._change(session_id, "complete", {"queued": queued})

    async def cancel_session(self, session_id: str, *, queued: str = "refuse") -> Json:
        """
        Args:
            queued: as of `complete_session`; with `cancel`, runs in flight are asked to stop too.
        """
        return await self._change(session_id, "cancel", {"queued": queued})

    async def drain_session(self, session_id: str, *, timeout_s: float = 60.0) -> Json:
        """Wait until the session is idle; its queue status. Raises `timeout`."""
        body = {"timeout_s": timeout_s}
        return await self._call("POST", f"/v1/sessions/{session_id}/drain", json=body, waits_s=timeout_s)

    async def submit(
        self, /, session_id: str, input: Mapping[str, Any], *, idempotency_key: str | None = None, **options: Any
    ) -> Json:
        """
        Queue a run; repeated by itself when the answer is lost, without queuing a second one.

        Args:
            input: `{"prompt": "…"}`, `{"messages": […]}` or what the provider takes.
            idempotency_key: made up when omitted.
            options: `provider, model, timeout_ms, queue_timeout_ms, max_attempts, on_worker_lost, metadata`.

        Returns:
            `{id, session_id, status, position, replayed}`

        Raises:
            AsmError: `session_not_found`, `validation_error`, `invalid_input`, `max_runs_exceeded`, `already_exists`,
                `invalid_operation`, `payload_too_large`, `storage_connection_failed`.
        """
        return await self._submit(f"/v1/sessions/{session_id}/runs", {"input": input} | options, idempotency_key)

    async def submit_once(
        self, /, input: Mapping[str, Any], *, idempotency_key: str | None = None, **options: Any
    ) -> Json:
        """Queue a run with a session of its own. As `submit`, with the options `agent_id` and `context` beside."""
        return await self._submit("/v1/runs", {"input": input} | options, idempotency_key)

    async def get_run(self, run_id: str) -> Json:
        return await self._call("GET", f"/v1/runs/{run_id}")

    async def list_runs(
        self,
        *,
        session_id: str | None = None,
        status: str | None = None,
        provider: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Json:
        """`{runs, cursor}`, newest first."""
        params = {"session_id": session_id, "status": status, "provider": provider, "limit": limit, "cursor": cursor}
        return await self._call("GET", "/v1/runs", params=params)

    async def wait(self, run_id: str, timeout_s: float = 3_600.0) -> Json:
        """
        The run, once it has ended.

        Raises:
            AsmError: `timeout`, `run_not_found`; ServerUnreachable when the server stays away.
        """
        deadline = time.monotonic() + timeout_s
        patience = Patience(RETRY_S)
        while True:
            poll_s = min(max(0.0, deadline - time.monotonic()), POLL_S)
            try:
                run = await self._once("GET", f"/v1/runs/{run_id}/wait", params={"timeout_s": poll_s}, waits_s=poll_s)
            except AsmError as error:
                await patience.pause(error)
                continue
            patience = Patience(self._reconnect_s)
            if run["status"] in TERMINAL_RUNS:
                return run
            if time.monotonic() >= deadline:
                message = f"run {run_id} is still {run['status']} after {timeout_s:g} s"
                raise AsmError(ErrorCode.TIMEOUT, message, details={"run_id": run_id, "status": run["status"]})

    async def cancel(self, run_id: str) -> Json:
        """`{id, session_id, status}`: a queued run has ended, one in flight soon will."""
        return await self._call("POST", f"/v1/runs/{run_id}/cancel")

    async def interrupt(self, run_id: str) -> Json:
        """As `cancel`, for runs in flight only. Raises `invalid_operation`."""
        return await self._call("POST", f"/v1/runs/{run_id}/interrupt", repeatable=False)

    async def events(
        self,
        session_id: str,
        *,
        after: int = 0,
        before: int | None = None,
        limit: int = 100,
        types: Sequence[str] = (),
        run_id: str | None = None,
        since: str | None = None,
        wait_ms: int = 0,
    ) -> Json:
        """`{events, next_after, latest}`. With `wait_ms`, an empty page waits for an event."""
        params = {
            "after": after,
            "before": before,
            "limit": limit,
            "type": ",".join(types) or None,
            "run_id": run_id,
            "since": since,
            "wait_ms": wait_ms,
        }
        return await self._call("GET", f"/v1/sessions/{session_id}/events", params=params, waits_s=wait_ms / 1000)

    async def follow(
        self,
        session_id: str,
        after: int = 0,
        types: Sequence[str] = (),
        run_id: str | None = None,
        until_idle: bool = False,
    ) -> AsyncGenerator[Json, None]:
        """
        Every event behind `after`, then each as it is stored: none lost, none twice, across lost connections and
        restarts of the server.

        Args:
            until_idle: end when everything is delivered and nothing is queued, in flight or parked.

        Raises:
            AsmError: `session_not_found`; ServerUnreachable when the server stays away.
        """
        params = {"type": ",".join(types) or None, "run_id": run_id, "until": "idle" if until_idle else None}
        path = f"/v1/sessions/{session_id}/events/stream"
        position, patience = after, Patience(RETRY_S)
        while True:
            try:
                async with aclosing(self._stream(path, params, position)) as frames:
                    async for frame in frames:
                        patience = Patience(self._reconnect_s)
                        if frame.comment == "idle":
                            return
                        if frame.number > position:
                            position = frame.number
                            yield loads(frame.data)
                error: AsmError = ServerUnreachable(self.base_url, "the stream ended")
            except AsmError as failure:
                error = failure
            await patience.pause(error)

    async def artifacts(self, session_id: str) -> Json:
        """`{artifacts}`, oldest first."""
        return await self._call("GET", f"/v1/sessions/{session_id}/artifacts")

    async def read_artifact(self, session_id: str, key: str) -> AsyncGenerator[bytes, None]:
        """
        Its bytes in chunks; one that is cut off raises.

        Raises:
            AsmError: `not_found`; ServerUnreachable, also in the middle.
        """
        path = f"/v1/sessions/{session_id}/artifacts/{quote(key, safe='')}"
        async with self._opened(path) as response:
            async for chunk in response.aiter_bytes():
                yield chunk

    async def search_events(
        self,
        *,
        session_ids: Sequence[str] = (),
        run_ids: Sequence[str] = (),
        types: Sequence[str] = (),
        providers: Sequence[str] = (),
        correlation_id: str | None = None,
        since: str | None = None,
        until: str | None = None,
        order_by: str = "sequence_asc",
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Json:
        """
        `{events, cursor, has_more}`, of all sessions.

        Args:
            since: ISO 8601, inclusive, as `until`.
            order_by: `sequence_asc`, `timestamp_asc` or `timestamp_desc`.
            cursor: of the page before, with the same filters and order.
        """
        params = {
            "session_id": list(session_ids),
            "run_id": list(run_ids),
            "type": list(types),
            "provider": list(providers),
            "correlation_id": correlation_id,
            "since": since,
            "until": until,
            "order_by": order_by,
            "limit": limit,
            "cursor": cursor,
        }
        return await self._call("GET", "/v1/events", params=params)

    async def audit(
        self,
        session_id: str,
        *,
        run_id: str | None = None,
        actions: Sequence[str] = (),
        since: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Json:
        """
        `{entries, cursor}`: what was done to a session and its runs, oldest first.

        Args:
            actions: any of these, `run.submitted`, `session.paused`, …
            since: ISO 8601, exclusive.
            cursor: of the page before, with the same filters.
        """
        params = {"run_id": run_id, "action": list(actions), "since": since, "limit": limit, "cursor": cursor}
        return await self._call("GET", f"/v1/sessions/{session_id}/audit", params=params)

    async def usage(
        self,
        *,
        session_id: str | None = None,
        agent_id: str | None = None,
        providers: Sequence[str] = (),
        since: str | None = None,
        until: str | None = None,
    ) -> Json:
        """`{usage, cost}`: tokens and US dollars of the runs that began within `since` and `until` (ISO 8601)."""
        params = {
            "session_id": session_id,
            "agent_id": agent_id,
            "provider": list(providers),
            "since": since,
            "until": until,
        }
        return await self._call("GET", "/v1/usage", params=params)

    async def queue(self, session_id: str) -> Json:
        """What is in flight and queued, and the session's limits."""
        return await self._call("GET", f"/v1/sessions/{session_id}/queue")

    async def stats(self) -> Json:
        """Sessions and runs by status, events, and the fleet's workers."""
        return await self._call("GET", "/v1/stats")

    async def providers(self) -> Json:
        return await self._call("GET", "/v1/providers")

    async def health(self) -> Json:
        """Whether the server answers at all. Raises ServerUnreachable."""
        return await self._call("GET", "/healthz")

    async def ready(self) -> Json:
        """Whether the server has what it needs. Raises `storage_connection_failed`, naming what is missing."""
        return await self._once("GET", "/readyz")

    async def _change(self, session_id: str, operation: str, body: Json | None = None) -> Json:
        return await self._call("POST", f"/v1/sessions/{session_id}/{operation}", json=body, repeatable=False)

    async def _submit(self, path: str, body: Json, key: str | None) -> Json:
        headers = {"Idempotency-Key": key or uuid4().hex}
        return await self._call("POST", path, json=body, headers=headers)

    async def _call(self, method: str, path: str, *, repeatable: bool = True, **request: Any) -> Json:
        """One request, again when that helps; one that is not repeatable only if it was never sent."""
        patience = Patience(RETRY_S)
        while True:
            try:
                return await self._once(method, path, **request)
            except AsmError as error:
                was_sent = not isinstance(error, ServerUnreachable) or error.was_sent
                if was_sent and not repeatable:
                    raise
                await patience.pause(error)

    async def _once(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: Any = None,
        headers: Mapping[str, str] | None = None,
        waits_s: float = 0.0,
    ) -> Json:
        """
        Args:
            waits_s: how long the server may wait on purpose before it answers.
        """
        headers = dict(headers or {})
        if json is not None:
            headers["Content-Type"] = "application/json"
        try:
            response = await self._http.request(
                method,
                self.base_url + path,
                params=_given(params),
                content=dumps(json) if json is not None else None,
                headers=headers,
                timeout=httpx2.Timeout(self._timeout_s + waits_s, connect=CONNECT_TIMEOUT_S),
            )
        except httpx2.TransportError as cause:
            raise self._unreachable(cause) from cause
        self._check(response)
        value: Json = loads(response.content)
        return value

    async def _stream(self, path: str, params: Mapping[str, Any], after: int) -> AsyncGenerator[_Frame, None]:
        """Frames until the connection ends. Raises AsmError."""
        headers = {"Last-Event-ID": str(after), "Accept": "text/event-stream"}
        async with self._opened(path, params=_given(params), headers=headers) as response:
            rest = b""
            async for chunk in response.aiter_bytes():
                *blocks, rest = (rest + chunk).split(b"\n\n")
                for block in blocks:
                    yield _Frame.parse(block)

    @asynccontextmanager
    async def _opened(self, path: str, **request: Any) -> AsyncIterator[httpx2.Response]:
        """An answer whose body is read inside of the block. Raises AsmError, also for what breaks meanwhile."""
        timeout = httpx2.Timeout(self._timeout_s, connect=CONNECT_TIMEOUT_S, read=SILENCE_S)
        try:
            async with self._http.stream("GET", self.base_url + path, timeout=timeout, **request) as response:
                if response.is_error:
                    await response.aread()
                self._check(response)
                yield response
        except httpx2.TransportError as cause:
            raise self._unreachable(cause) from cause

    def _check(self, response: httpx2.Response) -> None:
        """Raises what the server answered, unless it is a success."""
        if not response.is_error:
            return
        try:
            problem = loads(response.content)
            code, detail, details = problem["code"], problem["detail"], problem["details"]
        except (ValueError, KeyError, TypeError):
            if response.status_code in _GATEWAY:
                raise ServerUnreachable(self.base_url, f"a gateway answered {response.status_code}") from None
            message = f"{response.request.url} answered {response.status_code} without saying why"
            raise AsmError(ErrorCode.INTERNAL_ERROR, message, details={"status": response.status_code}) from None
        raise AsmError(code if valid_code(code) else ErrorCode.UNKNOWN_ERROR, detail, details=details)

    def _unreachable(self, cause: httpx2.TransportError) -> ServerUnreachable:
        was_sent = not isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout)
        return ServerUnreachable(self.base_url, type(cause).__name__, was_sent=was_sent)


class _Frame(NamedTuple):
    """One block of an event stream; written by our server, so its form is known."""

    number: int = 0
    data: bytes = b""
    comment: str = ""

    @classmethod
    def parse(cls, block: bytes) -> _Frame:
        lines = (line.partition(b": ") for line in block.split(b"\n"))
        fields = {name: value for name, _, value in lines}
        return cls(int(fields.get(b"id", 0)), fields.get(b"data", b""), fields.get(b"", b"").decode())


def _given(params: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (params or {}).items() if value is not None}


class AsmClient(Facade[AsyncAsmClient]):
    """
    `AsyncAsmClient` for code without an event loop, with the same arguments and methods; usable from any thread.

    It runs a loop in a thread of its own until it is closed.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_SERVER,
        api_key: str | None = None,
        timeout_s: float = 30.0,
        reconnect_s: float = RECONNECT_S,
    ) -> None:
        client = AsyncAsmClient(base_url, api_key, timeout_s, reconnect_s)
        self.base_url = client.base_url
        self._running = start_blocking_portal(name="asm-client")
        super().__init__(client, self._running.__enter__())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End what is still being followed, and the loop. Harmless when repeated."""
        with suppress(RuntimeError):  # closed before
            self._portal.call(self._inner.close)
            self._portal.call(self._portal.stop, True)
            self._running.__exit__(None, None, None)

    create_session = blocking(AsyncAsmClient.create_session)
    get_session = blocking(AsyncAsmClient.get_session)
    list_sessions = blocking(AsyncAsmClient.list_sessions)
    fork_session = blocking(AsyncAsmClient.fork_session)
    pause_session = blocking(AsyncAsmClient.pause_session)
    resume_session = blocking(AsyncAsmClient.resume_session)
    complete_session = blocking(AsyncAsmClient.complete_session)
    cancel_session = blocking(AsyncAsmClient.cancel_session)
    drain_session = blocking(AsyncAsmClient.drain_session)
    submit = blocking(AsyncAsmClient.submit)
    submit_once = blocking(AsyncAsmClient.submit_once)
    get_run = blocking(AsyncAsmClient.get_run)
    list_runs = blocking(AsyncAsmClient.list_runs)
    wait = blocking(AsyncAsmClient.wait)
    cancel = blocking(AsyncAsmClient.cancel)
    interrupt = blocking(AsyncAsmClient.interrupt)
    events = blocking(AsyncAsmClient.events)
    artifacts = blocking(AsyncAsmClient.artifacts)
    search_events = blocking(AsyncAsmClient.search_events)
    audit = blocking(AsyncAsmClient.audit)
    usage = blocking(AsyncAsmClient.usage)
    queue = blocking(AsyncAsmClient.queue)
    stats = blocking(AsyncAsmClient.stats)
    providers = blocking(AsyncAsmClient.providers)
    health = blocking(AsyncAsmClient.health)
    ready = blocking(AsyncAsmClient.ready)

    def follow(
        self,
        session_id: str,
        after: int = 0,
        types: Sequence[str] = (),
        run_id: str | None = None,
        until_idle: bool = False,
    ) -> Iterator[Json]:
        """As `AsyncAsmClient.follow`. Leaving the iteration ends the stream."""
        return iterated(self._portal, self._inner.follow(session_id, after, types, run_id, until_idle))

    def read_artifact(self, session_id: str, key: str) -> Iterator[bytes]:
        """As `AsyncAsmClient.read_artifact`."""
        return iterated(self._portal, self._inner.read_artifact(session_id, key))

"""A one-shot as a stream: a session made for a single run, followed from its first event to its last."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import Event
from asm_core.domain.session import Session
from asm_core.manager.session_manager import ExecutionResult, SessionManager

STREAM_IDLE_TIMEOUT_S = 120.0
"""Silence after which a stream's run is given up."""


class StreamSession:
    """
    A one-shot as a stream of its events, the session's own included.

        async with StreamSession(manager, {"prompt": "Hello"}) as stream:
            async for event in stream:
                ...
            print((await stream.result()).output["content"])

    Leaving the block early cancels the run, and waits for its end as long as `execute_run` does.

    Args:
        fields: `agent_id, context, metadata, tags` of the session.
        idle_timeout_s: without any event for this long the iteration raises `provider_timeout`.
    """

    def __init__(
        self,
        manager: SessionManager,
        input: Mapping[str, Any],
        *,
        idle_timeout_s: float = STREAM_IDLE_TIMEOUT_S,
        options: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> None:
        self._manager = manager
        self._input = input
        self._idle_timeout_s = idle_timeout_s
        self._options = options or {}
        self._fields = fields
        self._session: Session
        self._execution: asyncio.Task[ExecutionResult]

    @property
    def session_id(self) -> str:
        return self._session.id

    async def __aenter__(self) -> Self:
        self._session = await self._manager.open_session(**self._fields)
        work = self._manager.execute_and_end(self._session.id, self._input, **self._options)
        self._execution = asyncio.create_task(work)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._execution.cancel()
        await asyncio.gather(self._execution, return_exceptions=True)

    def __aiter__(self) -> AsyncGenerator[Event, None]:
        return self.events()

    async def events(self) -> AsyncGenerator[Event, None]:
        """Until the session has ended. Raises `provider_timeout` after too long a silence."""
        async with aclosing(self._manager.stream_session_events(self.session_id)) as events:
            while True:
                try:
                    async with asyncio.timeout(self._idle_timeout_s):
                        event = await anext(events)
                except TimeoutError as cause:
                    message = f"no event within {self._idle_timeout_s:g} s"
                    raise AsmError(ErrorCode.PROVIDER_TIMEOUT, message, details={"reason": "idle"}) from cause
                yield event
                if event.ends_session:
                    return

    async def result(self) -> ExecutionResult:
        """Of the run, once it has ended. Raises as `execute_run`."""
        return await asyncio.shield(self._execution)

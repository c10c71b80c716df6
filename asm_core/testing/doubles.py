"""Parts that misbehave or take notes: each stands before a real one and changes one thing. Everything else passes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import Event, EventFrame
from asm_core.domain.run import Run
from asm_core.domain.session import Session
from asm_core.ports.artifacts import ArtifactStore
from asm_core.ports.provider import Completion, Execution, ProviderAdapter, RawEvent
from asm_core.ports.store import EventFilter, SessionStore


class _Before:
    def __init__(self, real: Any) -> None:
        self.real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


class FlushRecorder(_Before):
    """A SessionStore that remembers what it was asked to flush."""

    def __init__(self, real: SessionStore) -> None:
        super().__init__(real)
        self.flushed: list[tuple[Session, Run, list[Event]]] = []

    async def flush(self, session: Session, run: Run, events: Sequence[Event]) -> list[Event]:
        self.flushed.append((session, run, [*events]))
        stored: list[Event] = await self.real.flush(session, run, events)
        return stored


class BlindStore(_Before):
    """A SessionStore in which no run has any event, though its session has them."""

    async def get_events(self, session_id: str, tenant_id: str, where: EventFilter, limit: int) -> list[EventFrame]:
        if where.run_id is not None:
            return []
        frames: list[EventFrame] = await self.real.get_events(session_id, tenant_id, where, limit)
        return frames


class RefusingStore(_Before):
    """A SessionStore that cannot store events of one type."""

    def __init__(self, real: SessionStore, refused_type: str) -> None:
        super().__init__(real)
        self.refused_type = refused_type

    async def append_events(self, events: Sequence[Event], tenant_id: str) -> list[Event]:
        """Raises AsmError `storage_error`; nothing was stored."""
        if any(event.type == self.refused_type for event in events):
            raise AsmError(ErrorCode.STORAGE_ERROR, f"cannot store events of type {self.refused_type}")
        stored: list[Event] = await self.real.append_events(events, tenant_id)
        return stored


class CrashingArtifactStore(_Before):
    """
    An ArtifactStore whose every call dies.

    Args:
        error: what each call raises, of whatever type.
    """

    def __init__(self, real: ArtifactStore, error: Exception) -> None:
        super().__init__(real)
        self.error = error

    async def put(self, *_: Any, **__: Any) -> Any:
        raise self.error

    put_stream = get = head = delete = put

    async def open_read(self, _key: str) -> AsyncGenerator[bytes, None]:
        raise self.error
        yield b""


class RecordingAdapter(_Before):
    """A ProviderAdapter that remembers what it was asked to execute, and what was broken off."""

    def __init__(self, real: ProviderAdapter) -> None:
        super().__init__(real)
        self.executions: list[Execution] = []
        self.broken_off: list[str] = []
        """Ids of runs whose execution was closed or cancelled before its completion."""

    @property
    def inputs(self) -> list[Mapping[str, Any] | None]:
        """Of the runs, in the order in which they were executed."""
        return [execution.run.input for execution in self.executions]

    async def execute(self, execution: Execution) -> AsyncGenerator[RawEvent | Completion, None]:
        self.executions.append(execution)
        is_over = False
        try:
            async with aclosing(self.real.execute(execution)) as items:
                async for item in items:
                    is_over = isinstance(item, Completion)
                    yield item
        except AsmError:
            is_over = True
            raise
        finally:
            if not is_over:
                self.broken_off.append(execution.run.id)

"""
Provider `replay`: plays what a run of before said and did, as if it happened again; nothing is asked of anybody.

    {"run_id": "run_…"}                 that run
    {"session_id": "ses_…"}             the run of the session that ended last
    {…, "speed": 1.0}                   at the pace of then; 0 (the default) without a pause

Usage is not played: what was spent was spent once.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import Any

from asm_core.domain.capability import Capability, CapabilityType
from asm_core.domain.errors import AsmError, ErrorCode, valid_code
from asm_core.domain.event import TERMINAL_EVENT_TYPES, Event, EventType
from asm_core.domain.provider_options import ProviderOptions
from asm_core.domain.run import Run
from asm_core.ports.clock import Clock
from asm_core.ports.provider import Completion, Execution, RawEvent
from asm_core.ports.store import EventFilter, SessionStore
from asm_core.wire import loads

PAGE = 1_000
MAX_SPEED = 1_000.0

PLAYED = (
    EventType.RUN_STARTED,
    EventType.MESSAGE_STREAMED,
    EventType.MESSAGE_RECEIVED,
    EventType.TOOL_CALL_STARTED,
    EventType.TOOL_CALL_COMPLETED,
    EventType.TOOL_CALL_FAILED,
    EventType.TURN_COMPLETED,
    EventType.ERROR_OCCURRED,
)
"""What a provider says. The rest of a log is the doing of the system that ran it."""

_HANDLES = ("session_id", "thread_id", "provider_session_id")
"""Names of the provider's own session: it is not resumed by playing it."""


class ReplayAdapter:
    """
    Args:
        store: where the runs of before are; only those of the playing run's tenant exist.
        clock: waits between events.
    """

    name = "replay"

    def __init__(self, store: SessionStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def capabilities(self) -> Sequence[Capability]:
        return (
            Capability(name="streaming", type=CapabilityType.SAMPLING),
            Capability(name="interrupt", type=CapabilityType.SAMPLING),
        )

    def validate_input(self, value: Mapping[str, Any]) -> None:
        named = [name for name in ("run_id", "session_id") if value.get(name) is not None]
        if len(named) != 1 or not isinstance(value[named[0]], str):
            raise _invalid("run_id", "name one run_id or one session_id to play")
        speed = value.get("speed", 0)
        if not isinstance(speed, int | float) or isinstance(speed, bool) or not 0 <= speed <= MAX_SPEED:
            raise _invalid("speed", f"must be a number from 0 to {MAX_SPEED:g}, not {speed!r}")

    def validate_options(self, options: ProviderOptions) -> None:
        """What was said then is said again, whatever is asked for now."""

    async def execute(self, execution: Execution) -> AsyncGenerator[RawEvent | Completion, None]:
        given = execution.run.input or {}
        source = await self._source(given, execution.run.tenant_id)
        speed = given.get("speed", 0)
        before: Event | None = None
        async for event in self._events(source):
            if speed and before is not None:
                await self._clock.sleep(max(0.0, (event.timestamp - before.timestamp).total_seconds()) / speed)
            if event.type in TERMINAL_EVENT_TYPES:
                yield _completion(event, source)
                return
            yield RawEvent(event.type, _data(event), {**event.metadata, "replayed_event_id": event.id})
            before = event
        raise AsmError(
            ErrorCode.INVALID_OPERATION, f"run {source.id} is {source.status}; only one that ended is played"
        )

    async def aclose(self) -> None:
        """Holds nothing."""

    async def _source(self, given: Mapping[str, Any], tenant_id: str) -> Run:
        if "run_id" in given:
            return await self._store.get_run(given["run_id"], tenant_id)
        session_id = given["session_id"]
        await self._store.get_session(session_id, tenant_id)
        page = await self._store.list_runs(tenant_id, session_id=session_id, limit=PAGE)
        ended = [run for run in page.items if run.ended_at is not None]
        if not ended:
            raise AsmError(ErrorCode.INVALID_OPERATION, f"session {session_id} has no run that ended")
        return max(ended, key=lambda run: (run.ended_at, run.id))

    async def _events(self, run: Run) -> AsyncIterator[Event]:
        """Of the run's last attempt: what a dead one said does not count."""
        where = EventFilter(run_id=run.id, types=[*PLAYED, *TERMINAL_EVENT_TYPES])
        while True:
            page = await self._store.get_events(run.session_id, run.tenant_id, where, PAGE)
            for frame in page:
                event = Event.from_map(loads(frame.body))
                if event.attempt in (None, run.attempt) or event.type in TERMINAL_EVENT_TYPES:
                    yield event
            if len(page) < PAGE:
                return
            where = where.behind(page[-1].sequence_number)


def _data(event: Event) -> Mapping[str, Any]:
    if event.type is not EventType.RUN_STARTED:
        return event.data
    return {name: value for name, value in event.data.items() if name not in _HANDLES}


def _completion(event: Event, source: Run) -> Completion:
    """The end as it was; one that was not reached is a failure here, too."""
    output = {name: value for name, value in (source.output or {}).items() if name not in ("content", "tool_calls")}
    data = {name: value for name, value in event.data.items() if name not in ("token_usage", "cost_usd")}
    if event.type is EventType.RUN_COMPLETED:
        return Completion(output=output, data=data)
    code = event.data.get("error_code") or {
        EventType.RUN_CANCELLED: ErrorCode.CANCELLED, EventType.RUN_TIMEOUT: ErrorCode.TIMEOUT,
    }.get(EventType(event.type), ErrorCode.PROVIDER_ERROR)  # fmt: skip
    message = str(event.data.get("error_message") or f"the run that is played ended as {source.status}")
    return Completion(output=output, error=AsmError(code if valid_code(code) else ErrorCode.PROVIDER_ERROR, message))


def _invalid(field: str, problem: str) -> AsmError:
    return AsmError(ErrorCode.INVALID_INPUT, f"{field}: {problem}", details={"field": f"input.{field}"})

"""What the contracts ask with, and how they read the answers. Everything built here has an id of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import Event, EventType
from asm_core.domain.lifecycle import RunStatus
from asm_core.domain.run import Run
from asm_core.domain.session import Session
from asm_core.ports.store import EventFilter, SessionStore
from asm_core.testing.builders import SESSION_ID, build_event, build_run, build_session
from asm_core.wire import loads

TENANT = "default"
ALL = 10_000
"""More events than any contract stores."""

_indexes = count(1)


def a_session(**fields: Any) -> Session:
    return build_session(next(_indexes), **fields)


def a_run(status: RunStatus = RunStatus.PENDING, **fields: Any) -> Run:
    return build_run(next(_indexes), status=status, **fields)


def an_event(kind: EventType = EventType.MESSAGE_RECEIVED, **fields: Any) -> Event:
    return build_event(next(_indexes), type=kind, **fields)


async def code_of(step: Awaitable[object]) -> ErrorCode:
    """What a step is refused with."""
    with pytest.raises(AsmError) as caught:
        await step
    return caught.value.code


async def log_of(store: SessionStore, session_id: str = SESSION_ID, limit: int = ALL, **where: Any) -> list[Event]:
    frames = await store.get_events(session_id, TENANT, EventFilter(**where), limit)
    return [Event.from_map(loads(frame.body)) for frame in frames]


async def numbers_of(store: SessionStore, session_id: str = SESSION_ID, **where: Any) -> list[int | None]:
    return [event.sequence_number for event in await log_of(store, session_id, **where)]


async def all_pages(ask: Callable[[str, Any], Awaitable[Any]], where: Any) -> list[Any]:
    """Every item of a QueryAPI's answer, page by page, as `has_more` says."""
    items: list[Any] = []
    while True:
        found = await ask(TENANT, where)
        items += found.items
        if not found.has_more:
            return items
        where = replace(where, cursor=found.cursor)

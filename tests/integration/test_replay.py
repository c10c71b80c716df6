"""Provider `replay`: a run of before, played again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from asm_core.adapters.replay import ReplayAdapter
from asm_core.adapters.scripted import ScriptedAdapter
from asm_core.clock import SystemClock
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import Event
from asm_core.library import Store, open_manager, open_store
from asm_core.manager.session_manager import ExecutionResult, SessionManager

SCRIPT = [
    {"say": "Let me look.", "chunks": 3},
    {"tool": {"name": "look", "input": {"at": "it"}, "output": "seen"}},
    {"usage": {"input_tokens": 7, "output_tokens": 3}},
    {"say": "Found it."},
]


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    async with open_store("memory://") as opened:
        yield opened


async def played(store: Store, given: dict[str, Any], **options: Any) -> ExecutionResult:
    async with open_manager(store, ReplayAdapter(store.records, SystemClock()), **options) as manager:
        return await manager.run_once(given)


async def recorded(manager: SessionManager, script: list[dict[str, Any]] = SCRIPT) -> ExecutionResult:
    return await manager.run_once({"prompt": "Find it", "script": script})


def told(events: Any) -> list[tuple[str, Any]]:
    """What a provider says, without the manager's part."""
    said: list[Event] = [event for event in events if event.type not in ("message_sent", "token_usage_updated")]
    return [(event.type, {**event.data, "session_id": None}) for event in said if event.type != "run_completed"]


async def test_a_run_is_played_as_it_was(store: Store) -> None:
    """The same events, the same output; nothing is spent a second time."""
    async with open_manager(store, ScriptedAdapter()) as manager:
        first = await recorded(manager)
    again = await played(store, {"run_id": first.run_id})
    assert told(again.events) == told(first.events)
    assert again.output == first.output
    assert (first.token_usage["input_tokens"], again.token_usage, again.cost_usd) == (7, {}, None)


async def test_a_session_plays_the_run_that_ended_last(store: Store) -> None:
    async with open_manager(store, ScriptedAdapter()) as manager:
        session = await manager.open_session()
        for text in ("one", "two"):
            run = await manager.start_run(session.id, {"prompt": text})
            await manager.execute_run(run.id)
    assert (await played(store, {"session_id": session.id})).output["content"] == "two"


async def test_a_failure_is_played_too(store: Store) -> None:
    """With what had been said before it."""
    async with open_manager(store, ScriptedAdapter()) as manager:
        with pytest.raises(AsmError) as first:
            await recorded(manager, [{"say": "Hm."}, {"fail": {"code": "provider_error", "message": "no"}}])
    with pytest.raises(AsmError) as again:
        await played(store, {"run_id": first.value.context["run_id"]})
    assert (again.value.code, again.value.message) == (ErrorCode.PROVIDER_ERROR, "no")


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"run_id": "a", "session_id": "b"},
        {"run_id": 7},
        {"run_id": "a", "speed": -1},
        {"run_id": "a", "speed": True},
    ],
)
async def test_what_cannot_be_played_is_refused_at_once(store: Store, given: dict[str, Any]) -> None:
    with pytest.raises(AsmError) as caught:
        await played(store, given)
    assert caught.value.code is ErrorCode.INVALID_INPUT


async def test_what_is_unknown_or_another_tenants_cannot_be_played(store: Store) -> None:
    async with open_manager(store, ScriptedAdapter(), tenant_id="them") as manager:
        theirs = await recorded(manager)
    for given, code in (
        ({"run_id": theirs.run_id}, ErrorCode.RUN_NOT_FOUND),
        ({"session_id": theirs.session_id}, ErrorCode.SESSION_NOT_FOUND),
    ):
        with pytest.raises(AsmError) as caught:
            await played(store, given)
        assert caught.value.code is code

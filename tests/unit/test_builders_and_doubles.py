"""The builders and doubles of `asm_core.testing`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import fields
from typing import Any

import pytest

from asm_core import AsmError, ErrorCode, EventType, RunStatus, ScriptedAdapter, open_store
from asm_core.ports.store import EventFilter, SessionStore
from asm_core.testing import (
    SCRIPTS,
    BlindStore,
    FlushRecorder,
    RecordingAdapter,
    RefusingStore,
    build_event,
    build_execution,
    build_run,
    build_session,
)

BUILDERS: tuple[Callable[..., Any], ...] = (build_session, build_run, build_event)


@pytest.fixture
async def store() -> AsyncIterator[SessionStore]:
    async with open_store("memory://") as opened:
        yield opened.records


def test_defaults_are_those_of_the_specification() -> None:
    session, run, event = (build() for build in BUILDERS)
    assert (session.id, run.id, event.id) == ("ses_test_000001", "run_test_000001", "evt_test_000001")
    assert (session.agent_id, run.input, event.type) == (
        "test-agent", {"prompt": "Test prompt"}, EventType.MESSAGE_RECEIVED,
    )  # fmt: skip
    assert {run.session_id, event.session_id} == {session.id}
    assert [build(12).id for build in BUILDERS] == ["ses_test_000012", "run_test_000012", "evt_test_000012"]


@pytest.mark.parametrize("build", BUILDERS)
def test_every_field_can_be_given(build: Callable[..., Any]) -> None:
    """And none is dropped."""
    for field in fields(build()):
        marker = object()
        assert getattr(build(**{field.name: marker}), field.name) is marker


@pytest.mark.parametrize("build", BUILDERS)
def test_an_unknown_field_is_named(build: Callable[..., Any]) -> None:
    with pytest.raises(AsmError, match="'agent'") as caught:
        build(agent="x")
    assert (caught.value.code, caught.value.details) == (ErrorCode.VALIDATION_ERROR, {"field": "agent"})


@pytest.mark.parametrize("status", RunStatus)
def test_a_run_follows_its_status(status: RunStatus) -> None:
    run = build_run(status=status)
    assert (run.started_at is None) == (run.position == 1) == (run.attempt == 0) == (status is RunStatus.PENDING)
    assert (run.ended_at is not None) == run.is_terminal


async def test_a_flush_is_remembered_and_done(store: SessionStore) -> None:
    recorder = FlushRecorder(store)
    given = (build_session(), build_run(), [build_event()])
    await recorder.flush(*given)
    assert recorder.flushed == [given]
    assert await recorder.get_session(given[0].id, "default") == given[0]


async def test_a_blind_store_sees_sessions_and_no_runs(store: SessionStore) -> None:
    blind = BlindStore(store)
    await blind.append_events([build_event(run_id="run_1")], "default")
    assert len(await blind.get_events("ses_test_000001", "default", EventFilter(), 10)) == 1
    assert await blind.get_events("ses_test_000001", "default", EventFilter(run_id="run_1"), 10) == []


async def test_a_refusing_store_refuses_one_type(store: SessionStore) -> None:
    refusing = RefusingStore(store, EventType.ERROR_OCCURRED)
    with pytest.raises(AsmError) as caught:
        await refusing.append_events([build_event(1), build_event(2, type=EventType.ERROR_OCCURRED)], "default")
    assert caught.value.code is ErrorCode.STORAGE_ERROR
    [stored] = await refusing.append_events([build_event(1)], "default")
    assert stored.sequence_number == 1


async def test_a_recording_adapter_tells_what_was_broken_off() -> None:
    """A failure is an end, too; leaving early is not."""
    adapter = RecordingAdapter(ScriptedAdapter())
    for name in ("simple_message", "rate_limited"):
        try:
            async for _ in adapter.execute(build_execution({"script": SCRIPTS[name]})):
                pass
        except AsmError as error:
            assert error.code is ErrorCode.PROVIDER_RATE_LIMITED
    assert adapter.broken_off == []
    async with aclosing(adapter.execute(build_execution({"script": SCRIPTS["never_ending"]}))) as items:
        await anext(items)
    assert adapter.broken_off == ["run_test_000001"]
    assert adapter.inputs == [{"script": SCRIPTS[name]} for name in ("simple_message", "rate_limited", "never_ending")]

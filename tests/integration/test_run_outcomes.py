"""What a run leaves behind in the library: the provider's words about itself, its failures, those of the store."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from asm_core import library
from asm_core.adapters.scripted import ScriptedAdapter
from asm_core.config import EventLimits, RunLimits
from asm_core.domain.capability import Capability
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import EventType
from asm_core.domain.lifecycle import RunStatus, SessionStatus
from asm_core.library import Store, open_manager, open_store
from asm_core.ports.provider import Completion, Execution, RawEvent
from asm_core.testing import BlindStore

FOREVER = {"prompt": "x", "script": [{"sleep_ms": 600_000}]}


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    async with open_store("memory://") as opened:
        yield opened


async def failure(call: Any) -> AsmError:
    with pytest.raises(AsmError) as caught:
        await call
    return caught.value


# What the provider tells of itself


class Introducing(ScriptedAdapter):
    """Tells the name of its own session, another one each time, and which model answers."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.threads = 0

    async def execute(self, execution: Execution) -> AsyncGenerator[RawEvent | Completion, None]:
        self.threads += 1
        async for item in super().execute(execution):
            if isinstance(item, RawEvent) and item.type is EventType.RUN_STARTED:
                item = RawEvent("run_started", {"thread_id": f"{self.name}-{self.threads}", "model": "m-1"})
            yield item


async def test_what_the_provider_tells_of_itself_stays_with_run_and_session(store: Store) -> None:
    """spec/01 checks 167, 171 to 174, 180; spec/02 check 253: taken from the stream, not read back from the store."""
    blind = replace(store, records=BlindStore(store.records))
    async with open_manager(blind, Introducing("one")) as one, open_manager(blind, Introducing("two")) as two:
        session = await one.open_session(metadata={"mine": 1})
        for manager in (one, one, two):
            run = await manager.start_run(session.id, {"prompt": "x"})
            await manager.execute_run(run.id)
        runs = await one.get_session_runs(session.id)
        kept = (await one.get_session(session.id)).metadata
    told = [(run.provider, run.provider_metadata, run.turn_count) for run in runs]
    assert told == [
        ("one", {"provider_session_id": "one-1", "model": "m-1"}, 1),
        ("one", {"provider_session_id": "one-2", "model": "m-1"}, 1),
        ("two", {"provider_session_id": "two-1", "model": "m-1"}, 1),
    ]
    assert kept == {
        "mine": 1,
        "provider_sessions": {
            "one": {"provider_session_id": "one-2", "model": "m-1"},
            "two": {"provider_session_id": "two-1", "model": "m-1"},
        },
    }, "the latest of each, and no copies beside them"


async def test_a_provider_is_not_asked_for_what_nobody_requires(store: Store) -> None:
    """spec/01 check 160."""

    class Silent(ScriptedAdapter):
        def capabilities(self) -> tuple[Capability, ...]:
            raise AssertionError("nobody asked")

    async with open_manager(store, Silent()) as manager:
        session = await manager.open_session()
        assert (await manager.start_run(session.id, {"prompt": "x"})).status is RunStatus.PENDING


# How it fails


class Misbehaving(ScriptedAdapter):
    """Says one thing, then does this."""

    def __init__(self, then: Callable[[], object]) -> None:
        super().__init__()
        self.then = then

    async def execute(self, execution: Execution) -> AsyncGenerator[RawEvent | Completion, None]:
        yield RawEvent(EventType.RUN_STARTED)
        self.then()


def dies_of(error: Exception) -> Callable[[], object]:
    def die() -> None:
        raise error

    return die


@pytest.mark.parametrize(
    ("then", "code"),
    [
        (dies_of(AsmError(ErrorCode.PROVIDER_UNAVAILABLE, "gone")), ErrorCode.PROVIDER_UNAVAILABLE),
        (dies_of(KeyError("odd")), ErrorCode.INTERNAL_ERROR),
        (dies_of(TimeoutError()), ErrorCode.INTERNAL_ERROR),
        (lambda: None, ErrorCode.PROVIDER_ERROR),
    ],
    ids=["unavailable", "foreign error", "its own timeout", "no completion"],
)
async def test_an_adapter_that_dies_fails_its_run_and_nothing_else(
    store: Store, then: Callable[[], object], code: ErrorCode
) -> None:
    """spec/01 check 186: whatever it raises has a code, in the row and in the one terminal event; the next run runs."""
    async with open_manager(store, Misbehaving(then)) as manager:
        error = await failure(manager.run_once({"prompt": "x"}))
        run = await manager.get_run(error.context["run_id"])
        events = await manager.get_session_events(run.session_id)
        again = await failure(manager.run_once({"prompt": "x"}))
    assert (error.code, run.status) == (code, RunStatus.FAILED)
    ended = [event.data["error_code"] for event in events if event.type == "run_failed"]
    assert ended == [code]
    assert (again.code, again.context["run_id"] != run.id) == (code, True)


async def test_a_run_past_its_time_limit_ends_as_timeout(store: Store) -> None:
    """spec/01 check 185, weakness 30: status, event and code say so; the one-shot's session has failed."""
    async with open_manager(store, ScriptedAdapter()) as manager:
        error = await failure(manager.run_once(FOREVER, timeout_ms=1))
        run = await manager.get_run(error.context["run_id"])
        events = await manager.get_session_events(run.session_id)
        session = await manager.get_session(run.session_id)
    assert (error.code, run.status, session.status) == (ErrorCode.TIMEOUT, RunStatus.TIMEOUT, SessionStatus.FAILED)
    assert [event.type for event in events][-2:] == ["run_timeout", "session_failed"]


async def test_a_provider_that_says_nothing_is_given_up(store: Store) -> None:
    """spec/01 weakness 37: by a timer of its own, not by the next event."""
    async with open_manager(store, ScriptedAdapter(), run_limits=RunLimits(idle_timeout_s=0.01)) as manager:
        error = await failure(manager.run_once(FOREVER))
        run = await manager.get_run(error.context["run_id"])
    assert (error.code, error.details["reason"], run.status) == (
        ErrorCode.PROVIDER_TIMEOUT, "idle", RunStatus.FAILED,
    )  # fmt: skip


# How the store fails


class GoneAtTheEnd:
    """A queue whose store is away when a run ends, again and again."""

    def __init__(self, real: Any) -> None:
        self.real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    async def finish(self, *_: Any) -> Any:
        raise AsmError(ErrorCode.STORAGE_CONNECTION_FAILED, "away")


@pytest.fixture
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "EventLimits", partial(EventLimits, outage_tolerance_s=0.0))


@pytest.mark.usefixtures("no_patience")
@pytest.mark.parametrize("step", [{"say": "x"}, {"fail": {"code": "provider_error"}}], ids=["completing", "failing"])
async def test_a_store_that_is_gone_when_a_run_ends_is_said_so(store: Store, step: dict[str, Any]) -> None:
    """spec/01 check 184, spec/02 check 251: not taken for the provider's failure, and no end is made up."""
    broken = replace(store, queue=GoneAtTheEnd(store.queue))
    async with open_manager(broken, ScriptedAdapter()) as manager:
        session = await manager.open_session()
        run = await manager.start_run(session.id, {"prompt": "x", "script": [step]})
        error = await failure(manager.execute_run(run.id))
        assert error.code is ErrorCode.STORAGE_CONNECTION_FAILED
        assert (await manager.get_run(run.id)).status is RunStatus.RUNNING

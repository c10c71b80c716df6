"""How a run goes on: in the provider's own session or by replay; again after a failure before its first event."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from asm_core.adapters.scripted import ScriptedAdapter
from asm_core.config import RunLimits
from asm_core.domain.capability import Capability, CapabilityType
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import EventType
from asm_core.domain.run import OnWorkerLost
from asm_core.library import Store, open_manager, open_store
from asm_core.manager.continuity import Conversations
from asm_core.manager.session_manager import ExecutionResult, SessionManager
from asm_core.ports.provider import NATIVE_RESUME, Completion, Execution, RawEvent
from tests.builders import World, an_outcome

QUICK = RunLimits(retries=2, max_retry_wait_s=0.2)


class Rememberer(ScriptedAdapter):
    """A provider with sessions of its own, one per conversation; tells what each of its runs was given."""

    def __init__(self, name: str = "rememberer") -> None:
        super().__init__()
        self.name = name
        self.given: list[tuple[str | None, int | None]] = []

    def capabilities(self) -> Sequence[Capability]:
        return (*super().capabilities(), Capability(name=NATIVE_RESUME, type=CapabilityType.SAMPLING))

    async def execute(self, execution: Execution) -> AsyncGenerator[RawEvent | Completion, None]:
        before = execution.transcript
        self.given.append((execution.resume, None if before is None else len(before.messages)))
        handle = execution.resume or f"{self.name}-{len(self.given)}"
        async for item in super().execute(execution):
            if isinstance(item, RawEvent) and item.type is EventType.RUN_STARTED:
                item = RawEvent(item.type, {**item.data, "session_id": handle})
            yield item


class Failing(ScriptedAdapter):
    """Fails before its first event, in these ways one after the other; then it does as it is told."""

    def __init__(self, *failures: AsmError) -> None:
        super().__init__()
        self.failures = [*failures]

    async def execute(self, execution: Execution) -> AsyncGenerator[RawEvent | Completion, None]:
        if self.failures:
            raise self.failures.pop(0)
        async for item in super().execute(execution):
            yield item


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    async with open_store("memory://") as opened:
        yield opened


async def say(manager: SessionManager, session_id: str, **options: Any) -> ExecutionResult:
    run = await manager.start_run(session_id, {"prompt": "x"}, **options)
    return await manager.execute_run(run.id)


async def failure(call: Any) -> AsmError:
    with pytest.raises(AsmError) as caught:
        await call
    return caught.value


async def test_auto_goes_on_in_the_providers_own_session(store: Store) -> None:
    """Beside the transcript, which an adapter may fall back to; the run says how it went on."""
    provider = Rememberer()
    async with open_manager(store, provider) as manager:
        session = await manager.open_session()
        await say(manager, session.id, continuation="auto")
        second = await say(manager, session.id, continuation="auto")
        replayed = await say(manager, session.id, continuation="replay")
    assert provider.given == [(None, 0), ("rememberer-1", 2), (None, 4)]
    assert second.provider_metadata["continuation"] == {"how": "native", "provider_session_id": "rememberer-1"}
    assert replayed.provider_metadata["continuation"] == {
        "how": "replay", "messages_replayed": 4, "messages_left_out": 0, "tool_messages_as_text": 0,
        "unfinished_messages": 0,
    }  # fmt: skip


async def test_what_another_provider_said_meanwhile_is_replayed(store: Store) -> None:
    """The provider's own session does not hold it; then its new session holds everything again."""
    first, other = Rememberer("first"), Rememberer("other")
    async with open_manager(store, first) as one, open_manager(store, other) as two:
        session = await one.open_session()
        for manager in (one, two, one, one):
            await say(manager, session.id, continuation="auto")
    assert first.given == [(None, 0), (None, 4), ("first-2", 6)]
    assert other.given == [(None, 2)]


async def test_a_run_that_knew_nothing_breaks_the_providers_session(store: Store) -> None:
    """A run without continuation began a provider session of its own, which lacks what was said before."""
    provider = Rememberer()
    async with open_manager(store, provider) as manager:
        session = await manager.open_session()
        await say(manager, session.id)
        await say(manager, session.id)
        await say(manager, session.id, continuation="auto")
    assert provider.given[-1] == (None, 4)


async def test_native_resumes_or_fails(store: Store) -> None:
    """Never another conversation than the one asked for; in a new session there is nothing to resume or to lose."""
    first, other = Rememberer("first"), Rememberer("other")
    async with open_manager(store, first) as one, open_manager(store, other) as two:
        session = await one.open_session()
        await say(one, session.id, continuation="native")
        await say(one, session.id, continuation="native")
        error = await failure(say(two, session.id, continuation="native"))
    assert first.given == [(None, None), ("first-1", None)]
    assert (error.code, other.given) == (ErrorCode.INVALID_OPERATION, [])
    assert "other" in error.message


async def test_bounds_of_the_conversation_are_reported(store: Store) -> None:
    async with open_manager(store, ScriptedAdapter()) as manager:
        session = await manager.open_session()
        for _ in range(3):
            await say(manager, session.id)
        result = await say(manager, session.id, continuation="auto", continuation_opts={"max_messages": 2})
    report: Mapping[str, Any] = result.provider_metadata["continuation"]
    assert (report["messages_replayed"], report["messages_left_out"]) == (2, 4)


async def test_a_session_prompt_reaches_every_run_and_a_runs_own_goes_before_it(store: Store) -> None:
    prompts: list[str | None] = []

    class Prompted(ScriptedAdapter):
        async def execute(self, execution: Execution) -> AsyncGenerator[RawEvent | Completion, None]:
            prompts.append(execution.options.system_prompt)
            async for item in super().execute(execution):
                yield item

    async with open_manager(store, Prompted()) as manager:
        session = await manager.open_session(context={"system_prompt": "Be brief"})
        await say(manager, session.id)
        await say(manager, session.id, provider_options={"system_prompt": "Be long"})
    assert prompts == ["Be brief", "Be long"]


RATE_LIMITED = AsmError(ErrorCode.PROVIDER_RATE_LIMITED, "slow down", details={"retry_after_ms": 1})


async def test_a_request_is_repeated_before_its_first_event(store: Store) -> None:
    """The run tells of each failure and of the wait, and completes."""
    provider = Failing(RATE_LIMITED, RATE_LIMITED)
    async with open_manager(store, provider, run_limits=QUICK) as manager:
        result = await manager.run_once({"prompt": "x"})
    told = [event.data for event in result.events if event.type is EventType.ERROR_OCCURRED]
    assert [(data["error_code"], data["will_retry"], data["retry_in_ms"]) for data in told] == [
        ("provider_rate_limited", True, 1)
    ] * 2
    assert result.output["content"] == "x"


@pytest.mark.parametrize(
    "failures",
    [
        (RATE_LIMITED, RATE_LIMITED, RATE_LIMITED),
        (AsmError(ErrorCode.PROVIDER_AUTHENTICATION_FAILED, "who are you"),),
        (AsmError(ErrorCode.PROVIDER_RATE_LIMITED, "later", details={"retry_after_ms": 60_000}),),
    ],
    ids=["too often", "another try does not help", "too long a wait"],
)
async def test_a_failure_that_stays_is_the_runs(store: Store, failures: tuple[AsmError, ...]) -> None:
    provider = Failing(*failures)
    async with open_manager(store, provider, run_limits=QUICK) as manager:
        error = await failure(manager.run_once({"prompt": "x"}))
    assert (error.code, error.message) == (failures[-1].code, failures[-1].message)
    assert provider.failures == []


async def test_nothing_is_repeated_once_the_provider_has_said_something(store: Store) -> None:
    """What it said may have had effects."""
    script = [{"say": "x"}, {"fail": {"code": "provider_rate_limited", "message": "slow down", "retry_after_ms": 1}}]
    async with open_manager(store, ScriptedAdapter(), run_limits=QUICK) as manager:
        error = await failure(manager.run_once({"prompt": "x", "script": script}))
        [session] = (await manager.store.list_sessions(manager.tenant_id)).items
        types = [event.type for event in await manager.get_session_events(session.id)]
    assert error.code is ErrorCode.PROVIDER_RATE_LIMITED
    assert types.count(EventType.MESSAGE_RECEIVED) == 1


async def test_a_dead_attempt_is_resumed_in_its_own_session(world: World) -> None:
    """`on_worker_lost: resume`: the next attempt gets the provider's session that the dead one had begun."""
    queue = world.queue
    lease = await world.running(options={"on_worker_lost": OnWorkerLost.RESUME, "max_attempts": 3})
    await world.append(lease, kind=EventType.RUN_STARTED, data={"session_id": "cut-1"})
    run = await world.store.get_run(lease.run_id, "default")
    session = await world.store.get_session(lease.session_id, "default")
    conversations = Conversations(world.store)
    first = await conversations.continued(replace(run, attempt=1), session, resumes=True)
    again = await conversations.continued(replace(run, attempt=2), session, resumes=True)
    from_start = await conversations.continued(replace(run, attempt=2), session, resumes=False)
    assert (first.resume, again.resume, again.was_cut, from_start.resume) == (None, "cut-1", True, None)
    await queue.finish(lease, an_outcome())

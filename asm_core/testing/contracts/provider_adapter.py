"""What every provider adapter promises to those who drive it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import pytest

from asm_core.domain.capability import Capability
from asm_core.domain.errors import AsmError
from asm_core.domain.event import EventType, valid_type
from asm_core.domain.provider_options import NO_OPTIONS
from asm_core.pipeline.normalize import NOT_FOR_ADAPTERS
from asm_core.pipeline.validate import shape_warnings
from asm_core.ports.provider import Completion, Execution, ProviderAdapter, RawEvent
from asm_core.testing.contracts.answers import an_event

PROMPTLY_S = 10.0
"""Bound of what must not wait for the provider."""
END_S = 60.0
"""Bound of one execution here."""
ODD_INPUTS: Sequence[Any] = (
    {}, {"messages": None}, {"messages": "text"}, {"messages": []}, {"messages": [None]}, {"messages": [{"role": 7}]},
    {"messages": [{"role": "user", "content": {"deep": [1]}}]}, {"prompt": None}, {"prompt": 7}, {"prompt": ""},
    {"prompt": "a\0b"}, {"prompt": "\ud800"}, {"unknown": {"k": [None]}}, {7: "text"}, [], None, "text", 7,
)  # fmt: skip


class ProviderAdapterContract:
    """
    Fixtures `adapter`: the ProviderAdapter; `execution`: an Execution that it completes; `long_execution`: one that
    would not end by itself within a minute, but emits something at once; `failing_execution`: one that fails.

    Where an adapter cannot be made to run long or to fail, let the fixture `pytest.skip` and say why.

    Source: spec/04 §1, §2; DESIGN §3.
    """

    pytestmark = pytest.mark.asyncio

    @pytest.fixture
    async def items(self, adapter: ProviderAdapter, execution: Execution) -> AsyncIterator[list[RawEvent | Completion]]:
        """Everything that the execution yields."""
        yield await all_of(adapter, execution)

    # What it says of itself

    async def test_it_has_one_name(self, adapter: ProviderAdapter) -> None:
        """It stands in settings, rows, prices and handles."""
        assert isinstance(adapter.name, str)
        assert adapter.name
        assert adapter.name == adapter.name.strip().lower()

    async def test_capabilities_are_unique(self, adapter: ProviderAdapter) -> None:
        """One of each name and type; asking twice answers alike."""
        capabilities = [*adapter.capabilities()]
        assert capabilities, "an adapter without capabilities fits no requirement"
        assert all(isinstance(capability, Capability) for capability in capabilities)
        named = [(capability.name, capability.type) for capability in capabilities]
        assert len(named) == len(set(named))
        assert [*adapter.capabilities()] == capabilities

    async def test_an_input_that_it_executes_is_valid(self, adapter: ProviderAdapter, execution: Execution) -> None:
        adapter.validate_input(execution.run.input or {})

    @pytest.mark.parametrize("value", ODD_INPUTS, ids=repr)
    async def test_odd_inputs_are_refused_with_a_code_or_taken(self, adapter: ProviderAdapter, value: Any) -> None:
        """Nothing but AsmError ever comes out: a bad request is told at submit, not found out in a run."""
        try:
            adapter.validate_input(value)
        except AsmError as error:
            assert error.message

    async def test_who_asks_for_nothing_is_refused_nothing(self, adapter: ProviderAdapter) -> None:
        """Options have a meaning only where they say something."""
        adapter.validate_options(NO_OPTIONS)

    # What it yields

    async def test_the_last_item_is_the_only_completion(self, items: list[RawEvent | Completion]) -> None:
        assert isinstance(items[-1], Completion)
        assert [type(item) for item in items[:-1]] == [RawEvent] * (len(items) - 1)
        assert items[-1].error is None

    async def test_it_begins_with_run_started(self, items: list[RawEvent | Completion]) -> None:
        kinds = [event.type for event in events_of(items)]
        assert kinds[:1] == [EventType.RUN_STARTED]
        assert kinds.count(EventType.RUN_STARTED) == 1

    async def test_types_are_known_and_the_adapters_own(self, items: list[RawEvent | Completion]) -> None:
        """The terminal event is written with the run's row, from the completion; session events are the manager's."""
        for event in events_of(items):
            assert valid_type(event.type), event.type
            assert EventType(event.type) not in NOT_FOR_ADAPTERS, event.type

    async def test_payloads_have_their_shape(self, items: list[RawEvent | Completion]) -> None:
        """What the event type demands is there, and all of it is JSON."""
        for event in events_of(items):
            assert shape_warnings(an_event(EventType(event.type), data=event.data)) == [], event
            require_json(event.data)
            require_json(event.metadata)
            assert event.timestamp is None or event.timestamp.tzinfo is not None

    async def test_the_completion_is_json(self, items: list[RawEvent | Completion]) -> None:
        completion = items[-1]
        assert isinstance(completion, Completion)
        require_json(completion.output)
        require_json(completion.data)

    async def test_tool_calls_that_began_end(self, items: list[RawEvent | Completion]) -> None:
        """Once each, under the id they began with."""
        events = events_of(items)
        begun = [event.data.get("tool_call_id") for event in events if event.type == EventType.TOOL_CALL_STARTED]
        ends = (EventType.TOOL_CALL_COMPLETED, EventType.TOOL_CALL_FAILED)
        ended = [event.data.get("tool_call_id") for event in events if event.type in ends]
        assert None not in begun
        assert sorted(map(str, begun)) == sorted(map(str, ended))
        assert len(begun) == len(set(begun))

    async def test_executions_are_apart(self, adapter: ProviderAdapter, execution: Execution) -> None:
        """Several at once yield what each yields alone."""
        alone = [event.type for event in events_of(await all_of(adapter, execution))]
        for items in await asyncio.gather(*(all_of(adapter, execution) for _ in range(3))):
            assert isinstance(items[-1], Completion)
            kinds = [event.type for event in events_of(items)]
            assert dict.fromkeys(kinds) == dict.fromkeys(alone)

    # How it fails and stops

    async def test_a_failure_is_an_asm_error(self, adapter: ProviderAdapter, failing_execution: Execution) -> None:
        """Raised, or in the completion where there is output to keep; still no terminal event."""
        items: list[RawEvent | Completion] = []
        error: AsmError | None = None
        try:
            async with asyncio.timeout(END_S):
                async for item in adapter.execute(failing_execution):
                    items.append(item)
        except AsmError as raised:
            error = raised
            assert not any(isinstance(item, Completion) for item in items)
        else:
            assert isinstance(items[-1], Completion)
            error = items[-1].error
        assert error is not None, "this execution must fail"
        require_json(error.to_map())
        assert not any(EventType(event.type) in NOT_FOR_ADAPTERS for event in events_of(items))

    async def test_closing_it_ends_it_promptly(self, adapter: ProviderAdapter, long_execution: Execution) -> None:
        """And leaves the adapter ready for others."""
        for _ in range(2):
            async with asyncio.timeout(PROMPTLY_S):
                async with aclosing(adapter.execute(long_execution)) as items:
                    assert isinstance(await anext(items), RawEvent)
                assert [item async for item in items] == []

    async def test_cancelling_its_consumer_ends_it_promptly(
        self, adapter: ProviderAdapter, long_execution: Execution
    ) -> None:
        """The cancellation passes through; it becomes no error and no completion."""
        begun = asyncio.Event()
        items: list[RawEvent | Completion] = []

        async def consume() -> None:
            async with aclosing(adapter.execute(long_execution)) as stream:
                async for item in stream:
                    items.append(item)
                    begun.set()

        async with asyncio.timeout(PROMPTLY_S):
            task = asyncio.create_task(consume())
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert not any(isinstance(item, Completion) for item in items)

    async def test_it_closes_twice(self, adapter: ProviderAdapter) -> None:
        async with asyncio.timeout(PROMPTLY_S):
            await adapter.aclose()
            await adapter.aclose()


async def all_of(adapter: ProviderAdapter, execution: Execution) -> list[RawEvent | Completion]:
    async with asyncio.timeout(END_S), aclosing(adapter.execute(execution)) as items:
        return [item async for item in items]


def events_of(items: Sequence[RawEvent | Completion]) -> list[RawEvent]:
    return [item for item in items if isinstance(item, RawEvent)]


def require_json(value: Mapping[str, Any]) -> None:
    """Raises TypeError or ValueError where the value is no JSON object of plain values."""
    assert isinstance(value, Mapping)
    json.dumps(dict(value), allow_nan=False)

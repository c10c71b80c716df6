"""The pure part of the event path, and the publisher behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from asm_core.domain.event import SESSION_EVENTS, TERMINAL_EVENT_TYPES, Event, EventFrame, EventType
from asm_core.domain.ids import event_id
from asm_core.pipeline import ingest, publish
from asm_core.pipeline.context import RunContext
from asm_core.pipeline.normalize import NOT_FOR_ADAPTERS
from asm_core.pipeline.publish import Publisher, merged
from asm_core.pipeline.validate import WARNINGS_KEY, shape_warnings
from asm_core.ports.bus import SessionBatch
from asm_core.ports.provider import RawEvent
from tests.builders import NOW, a_context, a_frame, an_event


def stored(kind: Any, data: Any = None, ctx: RunContext | None = None, **fields: Any) -> Event:
    [event] = ingest(RawEvent(kind, {} if data is None else data, **fields), ctx or a_context())
    return event


def warnings(kind: Any, data: dict[str, Any]) -> list[str]:
    return stored(kind, data).metadata.get(WARNINGS_KEY, [])


def test_identity_comes_from_the_run_and_never_from_the_provider() -> None:
    """spec/01 checks 40, 41, 42."""
    ctx = a_context(correlation_id="corr", attempt=2)
    event = stored("message_received", {"content": "x", "role": "a", "id": "evil", "session_id": "evil"}, ctx)
    assert (event.session_id, event.run_id, event.provider, event.attempt) == ("ses_1", "run_1", "scripted", 2)
    assert (event.correlation_id, event.timestamp, event.sequence_number) == ("corr", NOW, None)
    assert event.metadata == {}, "the provider stands on the event only"
    assert event.data["session_id"] == "evil", "payload is payload"


def test_events_are_numbered_within_their_term() -> None:
    """DESIGN §5: the id derives from run, fence and ordinal, so a repeated append stores nothing twice."""
    ctx = a_context(fence=7)
    made = [stored("message_streamed", {"content": "x "}, ctx).id for _ in range(3)]
    assert made == [event_id("run_1", 7, ordinal) for ordinal in range(3)]


def test_the_adapter_metadata_is_kept() -> None:
    """spec/01 check 44."""
    given = {"source": "cli", "latency_ms": 5, "deep": {1: EventType.RUN_STARTED}}
    event = stored("message_streamed", {"content": "x "}, metadata=given)
    assert event.metadata == {"source": "cli", "latency_ms": 5, "deep": {"1": "run_started"}}


def test_the_adapter_time_is_kept() -> None:
    """spec/01 check 43: when it is a datetime, in UTC; text is not guessed at."""
    at = datetime(2025, 5, 31, 8, 0, tzinfo=timezone(timedelta(hours=-2)))
    assert stored("turn_completed", timestamp=at).timestamp.isoformat() == "2025-05-31T10:00:00+00:00"
    assert stored("turn_completed", timestamp="2025-05-31T10:00:00Z").timestamp == NOW


@pytest.mark.parametrize("kind", ["message_received", EventType.MESSAGE_RECEIVED])
def test_types_may_be_text(kind: Any) -> None:
    """spec/01 check 45."""
    assert stored(kind).type is EventType.MESSAGE_RECEIVED


@pytest.mark.parametrize("kind", ["thinking", "", None, 5])
def test_an_unknown_type_is_stored_as_an_error_that_names_it(kind: Any) -> None:
    """spec/01 check 46; the payload stays."""
    event = stored(kind, {"text": "hm"})
    assert event.type is EventType.ERROR_OCCURRED
    assert event.data["original_type"] == kind
    assert event.data["text"] == "hm"
    assert event.data["error_code"] == "invalid_event_type"
    assert repr(kind) in event.data["error_message"]


@pytest.mark.parametrize("kind", sorted(NOT_FOR_ADAPTERS))
def test_an_adapter_cannot_end_its_run_or_touch_its_session(kind: str) -> None:
    """One terminal event per run (invariant 2): the manager's, written with the row."""
    event = stored(kind, {"error_message": "mine"})
    assert event.type is EventType.ERROR_OCCURRED
    assert event.data["original_type"] == kind
    assert event.data["error_message"] == "mine"


def test_what_is_reserved_for_the_manager() -> None:
    assert set(SESSION_EVENTS) | TERMINAL_EVENT_TYPES == NOT_FOR_ADAPTERS
    assert EventType.RUN_STARTED not in NOT_FOR_ADAPTERS, "the adapter's own"


@pytest.mark.parametrize("data", [None, [], "text", 5])
def test_a_payload_that_is_no_mapping_counts_as_empty(data: Any) -> None:
    """spec/01 §4.2 step 3: an adapter may be a stranger's; check 49's refusal would cost the run."""
    event = ingest(RawEvent("turn_completed", data, metadata=data), a_context())[0]
    assert (event.data, event.metadata) == ({}, {})


def test_payloads_become_plain_json_that_postgres_takes() -> None:
    """NUL and lone surrogates are refused by Postgres, NaN by JSON, huge integers by the encoder."""
    event = stored("turn_completed", {"a": "x\x00y\ud800", "b": float("nan"), "c": {1, 2}, "d": 2**80})
    assert event.data == {"a": "x\ufffdy\ufffd", "b": None, "c": [1, 2], "d": float(2**80)}


def test_a_wrong_shape_warns_and_is_stored_anyway() -> None:
    """spec/01 check 47: two warnings for an empty message."""
    assert warnings("message_received", {}) == ["content is missing", "role is missing"]
    assert warnings("message_received", {"content": 5, "role": "a"}) == ["content is int, not str"]


def test_a_warning_never_repeats_the_value() -> None:
    """It may be a secret."""
    assert "hunter2" not in str(warnings("error_occurred", {"error_message": ["hunter2"]}))


@pytest.mark.parametrize(
    ("kind", "needed"),
    [
        ("message_received", {"content": "", "role": ""}),
        ("message_streamed", {"content": ""}),
        ("token_usage_updated", {"input_tokens": 0, "output_tokens": 0}),
        ("error_occurred", {"error_message": ""}),
        ("policy_violation", {"policy": "", "kind": ""}),
        ("tool_call_started", {"tool_name": ""}),
        ("tool_call_completed", {"tool_name": ""}),
        ("tool_call_failed", {"tool_name": ""}),
        ("tool_approval_requested", {"tool_name": "", "policy_name": ""}),
        ("tool_approval_granted", {"tool_name": ""}),
        ("tool_approval_denied", {"tool_name": ""}),
    ],
)
def test_the_shapes_of_payloads(kind: str, needed: dict[str, Any]) -> None:
    """spec/01 check 50: each key is needed, with its type; more keys are welcome; a bool is no count."""
    assert warnings(kind, {**needed, "more": 1}) == []
    for key, value in needed.items():
        assert warnings(kind, {name: other for name, other in needed.items() if name != key}) == [f"{key} is missing"]
        wrong = True if isinstance(value, int) else None
        assert len(warnings(kind, {**needed, key: wrong})) == 1


@pytest.mark.parametrize(
    "kind", ["run_started", "message_sent", "error_recovered", "turn_completed", "workspace_snapshot_taken"]
)
def test_types_without_a_shape_never_warn(kind: str) -> None:
    """spec/01 check 51."""
    assert warnings(kind, {}) == []


def test_the_shape_of_a_completion() -> None:
    """spec/01 check 50; the manager's own, so no adapter's event brings it here."""
    assert shape_warnings(an_event(EventType.RUN_COMPLETED, data={"stop_reason": "end_turn"})) == []
    assert shape_warnings(an_event(EventType.RUN_COMPLETED)) == ["stop_reason is missing"]


def test_warnings_join_the_metadata() -> None:
    event = stored("message_streamed", {}, metadata={"source": "cli"})
    assert event.metadata == {"source": "cli", WARNINGS_KEY: ["content is missing"]}


# Publisher


class RecordingBus:
    """A bus whose first messages can be held up."""

    def __init__(self, *, held: bool = False) -> None:
        self.sent: list[list[SessionBatch]] = []
        self.open = asyncio.Event()
        if not held:
            self.open.set()

    async def publish(self, batch: Sequence[SessionBatch]) -> None:
        await self.open.wait()
        self.sent.append([(session_id, list(frames)) for session_id, frames in batch])

    def listen(self) -> Any:
        raise NotImplementedError


def told(batch: Sequence[SessionBatch]) -> list[tuple[str, list[int]]]:
    return [(session_id, [frame.sequence_number for frame in frames]) for session_id, frames in batch]


def frames_of(session_id: str, *numbers: int) -> list[EventFrame]:
    return [a_frame(number, session_id) for number in numbers]


async def test_what_is_committed_is_announced_in_order_one_message_per_session() -> None:
    """DESIGN §5: while one publication is under way, what follows gathers."""
    bus = RecordingBus(held=True)
    publisher = Publisher(bus, buffer=100)
    async with publisher.running():
        publisher.publish(frames_of("a", 1))
        await asyncio.sleep(0)
        for number in range(2, 5):
            publisher.publish([*frames_of("a", number), *frames_of("b", number - 1)])
        bus.open.set()
    assert [told(batch) for batch in bus.sent] == [[("a", [1])], [("a", [2, 3, 4]), ("b", [1, 2, 3])]]


async def test_a_full_buffer_sends_followers_to_the_store() -> None:
    """Never without bound, never silently: an empty message says that there is more."""
    bus = RecordingBus()
    publisher = Publisher(bus, buffer=3)
    for number in range(1, 6):
        publisher.publish(frames_of("a", number))
    publisher.publish(frames_of("b", 1))
    async with publisher.running():
        await publisher.settle(5)
        assert [told(batch) for batch in bus.sent] == [[("a", []), ("b", [])]]
        publisher.publish(frames_of("a", 6))
    assert told(bus.sent[-1]) == [("a", [6])]


async def test_settling_is_bounded_when_the_bus_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    bus = RecordingBus(held=True)
    publisher = Publisher(bus, buffer=3)
    monkeypatch.setattr(publish, "SETTLE_S", 0.01)
    async with publisher.running():
        publisher.publish(frames_of("a", 1))
    assert bus.sent == []


async def test_publishing_nothing_is_nothing() -> None:
    publisher = Publisher(RecordingBus(), buffer=3)
    publisher.publish([])
    await publisher.settle(0)


def test_merging_keeps_order_and_drops() -> None:
    assert told(merged([("a", frames_of("a", 1)), ("b", frames_of("b", 1)), ("a", frames_of("a", 2)), ("b", ())])) == [
        ("a", [1, 2]), ("b", []),
    ]  # fmt: skip

"""Raw provider payloads as normalized events."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any, cast

import pytest

from asm_core.clock import new_id
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import EventType
from asm_core.domain.normalized_event import (
    BatchResult,
    NormalizedEvent,
    filter_by_run,
    filter_by_session,
    filter_by_type,
    normalize_batch,
    normalize_payload,
    resolve_type,
    sort_events,
)
from tests.builders import NOW

CONTEXT: dict[str, Any] = {"session_id": "ses_1", "run_id": "run_1", "provider": "anthropic"}


def an_event(**fields: Any) -> NormalizedEvent:
    given = {
        "id": new_id("nevt"), "type": "message_received", "timestamp": NOW, "session_id": "ses_1", "run_id": "run_1",
    } | fields  # fmt: skip
    return NormalizedEvent.new(**given)


def normalized(raw: Any, context: Any = CONTEXT) -> NormalizedEvent:
    return normalize_payload(raw, context, id="nevt_1", now=NOW)


def batch(raws: list[Any], **context: Any) -> BatchResult:
    return normalize_batch(raws, CONTEXT | context, new_id=lambda: new_id("nevt"), now=NOW)


def refused(call: Callable[[], object]) -> AsmError:
    with pytest.raises(AsmError) as caught:
        call()
    return caught.value


# The value


@pytest.mark.parametrize("kind", EventType)
def test_a_new_event_takes_every_type(kind: EventType) -> None:
    """spec/01 checks 55, 58: as a member or as text."""
    for given in (kind, str(kind)):
        event = an_event(type=given)
        assert (event.type, event.timestamp, event.id[:5], event.is_valid) == (kind, NOW, "nevt_", True)


@pytest.mark.parametrize(
    ("change", "code", "named"),
    [
        ({"id": ""}, ErrorCode.VALIDATION_ERROR, "id"),
        ({"type": None}, ErrorCode.VALIDATION_ERROR, "type"),
        ({"type": "magic"}, ErrorCode.INVALID_EVENT_TYPE, "magic"),
        ({"session_id": None}, ErrorCode.VALIDATION_ERROR, "session_id"),
        ({"session_id": ""}, ErrorCode.VALIDATION_ERROR, "session_id"),
        ({"run_id": None}, ErrorCode.VALIDATION_ERROR, "run_id"),
        ({"run_id": ""}, ErrorCode.VALIDATION_ERROR, "run_id"),
        ({"timestamp": None}, ErrorCode.VALIDATION_ERROR, "timestamp"),
        ({"timestamp": "soon"}, ErrorCode.VALIDATION_ERROR, "timestamp"),
        ({"data": [1]}, ErrorCode.VALIDATION_ERROR, "data"),
        ({"type": "magic", "session_id": ""}, ErrorCode.INVALID_EVENT_TYPE, "magic"),
    ],
)
def test_malformed_events_are_refused_by_field(change: dict[str, Any], code: ErrorCode, named: str) -> None:
    """spec/01 checks 56, 60: new ones and written ones alike, the fields in order."""
    written = an_event().to_map() | change
    for call in (lambda: an_event(**change), lambda: NormalizedEvent.from_map(written)):
        error = refused(call)
        assert error.code is code
        assert named in error.message


def test_what_is_given_to_an_event_is_kept() -> None:
    """spec/01 check 57."""
    fields: dict[str, Any] = {
        "id": "mine", "sequence_number": 5, "parent_event_id": "nevt_0", "provider": "openai",
        "provider_event_id": "resp_1", "data": {"a": 1}, "metadata": {"b": 2},
    }  # fmt: skip
    event = an_event(**fields)
    assert {name: getattr(event, name) for name in fields} == fields
    assert an_event(data=None, metadata=None).data == {}


def test_an_event_as_a_map_comes_back() -> None:
    """spec/01 checks 59, 60: eleven keys, null for what is not there, the provider as text."""
    bare = json.loads(json.dumps(an_event().to_map()))
    assert list(bare) == [
        "id", "type", "timestamp", "session_id", "run_id", "sequence_number", "parent_event_id", "provider",
        "provider_event_id", "data", "metadata",
    ]  # fmt: skip
    assert [key for key, value in bare.items() if value is None] == [
        "sequence_number", "parent_event_id", "provider", "provider_event_id",
    ]  # fmt: skip
    event = an_event(provider="never-seen", sequence_number=3, data={"a": {"b": NOW.isoformat()}})
    assert NormalizedEvent.from_map(json.loads(json.dumps(event.to_map()))) == event
    for nothing in ({}, None, []):
        assert refused(lambda nothing=nothing: NormalizedEvent.from_map(nothing)).code is ErrorCode.VALIDATION_ERROR


def test_an_empty_one_built_by_hand_is_not_valid() -> None:
    """spec/01 check 61."""
    empty = NormalizedEvent(id="", type=cast(EventType, None), timestamp=NOW, session_id="", run_id="")
    assert not empty.is_valid
    strange = NormalizedEvent(id="x", type=cast(EventType, "magic"), timestamp=NOW, session_id="s", run_id="r")
    assert not strange.is_valid


def test_the_same_context_is_the_same_run() -> None:
    """spec/01 check 62."""
    event = an_event()
    assert event.same_context(an_event(type="run_started"))
    assert not event.same_context(an_event(run_id="run_2"))
    assert not event.same_context(an_event(session_id="ses_2"))


# The normalizer


def test_identity_comes_from_the_context() -> None:
    """spec/01 check 63: the provider is `generic` when nobody names one."""
    event = normalized({"type": "message_received", "session_id": "evil"}, CONTEXT | {"sequence_number": 4})
    assert (event.id, event.session_id, event.run_id, event.provider) == ("nevt_1", "ses_1", "run_1", "anthropic")
    assert (event.sequence_number, event.timestamp) == (4, NOW)
    assert normalized({}, {"session_id": "s", "run_id": "r"}).provider == "generic"


def test_the_payload_is_kept_and_read() -> None:
    """spec/01 check 64."""
    raw = {
        "type": "message_received", "id": "msg_1", "content": "hi", "delta": "i", "role": "assistant", "name": "ls",
        "tool_input": {"a": 1}, "tool_output": None, "model": "m", "stop_reason": "end_turn", "metadata": {"k": 1},
        "other": 5,
    }  # fmt: skip
    event = normalized(raw)
    assert event.data == {
        "raw": raw, "content": "hi", "delta": "i", "role": "assistant", "tool_name": "ls", "tool_input": {"a": 1},
        "tool_output": None,
    }  # fmt: skip
    assert event.metadata == {"k": 1, "model": "m", "stop_reason": "end_turn"}
    assert event.provider_event_id == "msg_1"
    bare = normalized({"type": "run_started", "message_id": 7, "metadata": "x"})
    assert (bare.data["raw"]["message_id"], bare.metadata, bare.provider_event_id) == (7, {}, "7")
    assert normalized({"tool_name": "a", "name": "b"}).data["tool_name"] == "a"


@pytest.mark.parametrize(
    "context", [{}, {"session_id": "s"}, {"run_id": "r"}, {"session_id": "", "run_id": "r"}, None, [], "x"]
)
def test_a_context_names_session_and_run(context: Any) -> None:
    """spec/01 check 65: for one payload and for many."""
    assert refused(lambda: normalized({}, context)).code is ErrorCode.VALIDATION_ERROR
    call = lambda: normalize_batch([], context, new_id=lambda: "x", now=NOW)  # noqa: E731
    assert refused(call).code is ErrorCode.VALIDATION_ERROR


@pytest.mark.parametrize("raw", [None, [], "text", 5])
def test_a_payload_is_a_mapping(raw: Any) -> None:
    assert refused(lambda: normalized(raw)).code is ErrorCode.VALIDATION_ERROR


def test_a_batch_is_numbered_in_its_order() -> None:
    """spec/01 check 66."""
    raws = [{"type": "message_streamed", "delta": letter} for letter in "abc"]
    result = batch(raws)
    assert [(event.sequence_number, event.data["delta"]) for event in result.events] == [(0, "a"), (1, "b"), (2, "c")]
    assert result.errors == ()
    assert [event.sequence_number for event in batch(raws[:2], sequence_offset=10).events] == [10, 11]
    assert refused(lambda: batch(raws, sequence_offset="ten")).code is ErrorCode.VALIDATION_ERROR


def test_an_item_without_a_type_is_an_error_event() -> None:
    """spec/01 check 67: the batch goes on in order."""
    events = batch([{"type": "run_started"}, {"content": "x"}, {"type": "message_sent"}]).events
    assert [str(event.type) for event in events] == ["run_started", "error_occurred", "message_sent"]
    assert "original_type" not in events[1].data


def test_an_item_that_is_no_mapping_costs_only_itself() -> None:
    """spec/01 §6: what failed and what did not are both told."""
    result = batch([{"type": "run_started"}, "junk", {"type": "message_sent"}])
    assert [event.sequence_number for event in result.events] == [0, 2]
    [failed] = result.errors
    assert (failed.sequence_number, failed.raw, failed.error.code) == (1, "junk", ErrorCode.VALIDATION_ERROR)


@pytest.mark.parametrize("kind", EventType)
def test_canonical_names_stand_for_themselves(kind: EventType) -> None:
    """spec/01 checks 68, 69."""
    assert resolve_type(kind) is resolve_type(str(kind)) is kind
    assert "original_type" not in normalized({"type": str(kind)}).data


@pytest.mark.parametrize("kind", ["delta", "run_start", "", 5, ["x"]])
def test_unknown_types_are_errors_that_name_them(kind: Any) -> None:
    """spec/01 check 68: there are no aliases."""
    assert resolve_type(kind) is resolve_type(None) is EventType.ERROR_OCCURRED
    event = normalized({"type": kind})
    assert (event.type, event.data["original_type"]) == (EventType.ERROR_OCCURRED, kind)


def test_a_long_batch_is_in_order() -> None:
    """spec/01 check 70."""
    events = batch([{"type": "message_streamed"} for _ in range(100)]).events
    assert [event.sequence_number for event in events] == list(range(100))
    assert [event.timestamp for event in events] == sorted(event.timestamp for event in events)
    assert len({event.id for event in events}) == 100


def test_sorting_gives_one_answer_whatever_the_order_was() -> None:
    """spec/01 checks 71, 73: by number, those without one last, then by time, then by id."""
    expected = [
        an_event(id="d", sequence_number=1, timestamp=NOW + timedelta(seconds=9)),
        an_event(id="b", sequence_number=2),
        an_event(id="c", sequence_number=2),
        an_event(id="z"),
        an_event(id="a", timestamp=NOW + timedelta(seconds=1)),
        an_event(id="b", timestamp=NOW + timedelta(seconds=1)),
    ]
    for seed in range(20):
        shuffled = random.Random(seed).sample(expected, len(expected))
        assert sort_events(shuffled) == expected


def test_filters() -> None:
    """spec/01 check 72: order is kept."""
    events = [an_event(run_id="a"), an_event(run_id="b", type="run_started"), an_event(session_id="s", run_id="a")]
    assert filter_by_run(events, "a") == [events[0], events[2]]
    assert filter_by_session(events, "s") == [events[2]]
    assert filter_by_type(events, "run_started") == [events[1]]
    assert filter_by_type(events, [EventType.RUN_STARTED, EventType.MESSAGE_RECEIVED]) == events
    assert filter_by_type(events, []) == []

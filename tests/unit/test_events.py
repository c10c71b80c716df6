"""The event record: its types, its wire form, its frame."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from asm_core.domain import event as events
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import TERMINAL_EVENT_TYPES, TERMINAL_EVENTS, Event, EventType, valid_type
from asm_core.domain.lifecycle import TERMINAL_RUNS
from asm_core.wire import event_fields, frame_of_event, frame_of_map
from tests.builders import NOW, an_event

GROUPS = {
    "session_": events.SESSION_EVENTS,
    "run_": events.RUN_EVENTS,
    "message_": events.MESSAGE_EVENTS,
    "tool_call_": events.TOOL_EVENTS,
    "error_": events.ERROR_EVENTS,
    "workspace_": events.WORKSPACE_EVENTS,
    "tool_approval_": events.APPROVAL_EVENTS,
    "policy_": events.POLICY_EVENTS,
}


def refused(call: Callable[[], object]) -> ErrorCode:
    with pytest.raises(AsmError) as caught:
        call()
    return caught.value.code


def test_there_are_28_types_and_each_is_valid() -> None:
    """spec/01 checks 28, 30."""
    assert len(EventType) == 28
    assert all(valid_type(kind) and valid_type(str(kind)) for kind in EventType)


@pytest.mark.parametrize("kind", ["run_done", "", None, 5, "RUN_STARTED", ["run_started"]])
def test_everything_else_is_no_type(kind: object) -> None:
    """spec/01 check 29."""
    assert not valid_type(kind)


@pytest.mark.parametrize("prefix", GROUPS)
def test_a_group_has_exactly_its_members(prefix: str) -> None:
    """spec/01 check 31."""
    assert {str(kind) for kind in GROUPS[prefix]} == {str(kind) for kind in EventType if kind.startswith(prefix)}


def test_every_type_is_in_one_group() -> None:
    """spec/01 checks 30, 32: with usage, the groups add up to all types; three of them are about approvals."""
    grouped = [*(kind for group in GROUPS.values() for kind in group), *events.USAGE_EVENTS]
    assert sorted(grouped) == sorted(EventType)
    assert len(events.APPROVAL_EVENTS) == 3


def test_every_terminal_status_has_its_event() -> None:
    """Invariant 2 rests on this table."""
    assert set(TERMINAL_EVENTS) == TERMINAL_RUNS
    assert len(TERMINAL_EVENT_TYPES) == len(TERMINAL_RUNS)
    assert all(str(kind) == f"run_{status}" for status, kind in TERMINAL_EVENTS.items())


def test_what_is_given_to_an_event_is_kept() -> None:
    """spec/01 checks 33, 37."""
    fields: dict[str, Any] = {
        "run_id": "run_1", "data": {"content": "x"}, "metadata": {"k": 1}, "sequence_number": 5, "schema_version": 2,
    }  # fmt: skip
    event = Event.new(id="evt_1", type="message_received", timestamp=NOW, session_id="ses_1", **fields)
    assert {name: getattr(event, name) for name in fields} == fields
    assert (event.id, event.type, event.timestamp) == ("evt_1", EventType.MESSAGE_RECEIVED, NOW)
    assert an_event().schema_version == 1


@pytest.mark.parametrize(
    ("kind", "session_id", "code"),
    [
        (None, "ses_1", ErrorCode.VALIDATION_ERROR),
        ("run_done", "ses_1", ErrorCode.INVALID_EVENT_TYPE),
        ("run_done", "", ErrorCode.INVALID_EVENT_TYPE),
        ("run_started", None, ErrorCode.VALIDATION_ERROR),
        ("run_started", "", ErrorCode.VALIDATION_ERROR),
    ],
)
def test_an_event_needs_a_type_and_a_session(kind: object, session_id: object, code: ErrorCode) -> None:
    """spec/01 check 34; the type is looked at first."""
    assert refused(lambda: Event.new(id="evt_1", type=kind, timestamp=NOW, session_id=session_id)) is code


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"id": ""}, "id"),
        ({"timestamp": None}, "timestamp"),
        ({"timestamp": "soon"}, "timestamp"),
        ({"data": "text"}, "data"),
        ({"data": []}, "data"),
        ({"metadata": 5}, "metadata"),
    ],
)
def test_malformed_fields_of_a_new_event_are_refused_by_name(change: dict[str, Any], field: str) -> None:
    """spec/01 check 49."""
    fields: dict[str, Any] = {"id": "evt_1", "type": "run_started", "timestamp": NOW, "session_id": "ses_1"} | change
    with pytest.raises(AsmError) as caught:
        Event.new(**fields)
    assert (caught.value.code, caught.value.details) == (ErrorCode.VALIDATION_ERROR, {"field": field})


def test_an_event_without_data_has_empty_ones() -> None:
    """spec/01 check 49, §1."""
    event = Event.new(id="e", type="run_started", timestamp=NOW, session_id="ses_1", data=None, metadata=None)
    assert (event.data, event.metadata) == ({}, {})


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("tool_approval_requested", {"tool_name": "rm", "policy_name": "careful", "tool_input": {}}),
        ("tool_approval_granted", {"tool_name": "rm", "approved_by": "me"}),
        ("tool_approval_denied", {"tool_name": "rm", "denial_reason": "no"}),
    ],
)
def test_approval_events_carry_their_payloads(kind: str, data: dict[str, Any]) -> None:
    """spec/01 check 39."""
    assert Event.new(id="evt_1", type=kind, timestamp=NOW, session_id="ses_1", data=data).to_map()["data"] == data


def test_the_wire_form_has_its_keys_in_order_and_comes_back() -> None:
    """spec/01 checks 35, 36, 37; DESIGN §8."""
    event = an_event(data={1: {"a": NOW}}, run_id="run_1", sequence_number=3, schema_version=2, attempt=1)
    written = json.loads(json.dumps(event.to_map()))
    assert list(written) == [
        "id", "type", "timestamp", "session_id", "run_id", "sequence_number", "data", "metadata", "schema_version",
        "provider", "correlation_id", "attempt",
    ]  # fmt: skip
    assert written["type"] == "message_received"
    assert written["data"] == {"1": {"a": "2025-06-01T12:00:00.000000Z"}}
    assert Event.from_map(written).to_map() == event.to_map()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"id": None}, ErrorCode.VALIDATION_ERROR),
        ({"type": None}, ErrorCode.VALIDATION_ERROR),
        ({"type": "run_done"}, ErrorCode.INVALID_EVENT_TYPE),
        ({"type": "run_done", "schema_version": None}, ErrorCode.INVALID_EVENT_TYPE),
        ({"session_id": ""}, ErrorCode.VALIDATION_ERROR),
        ({"timestamp": "soon"}, ErrorCode.VALIDATION_ERROR),
        ({"timestamp": None}, ErrorCode.VALIDATION_ERROR),
        ({"schema_version": None}, ErrorCode.VALIDATION_ERROR),
        ({"schema_version": "1"}, ErrorCode.VALIDATION_ERROR),
        ({"schema_version": 0}, ErrorCode.VALIDATION_ERROR),
        ({"schema_version": True}, ErrorCode.VALIDATION_ERROR),
    ],
)
def test_malformed_event_maps_are_refused(change: dict[str, Any], code: ErrorCode) -> None:
    """spec/01 checks 36, 38: no default for the schema version."""
    assert refused(lambda: Event.from_map(an_event().to_map() | change)) is code


@pytest.mark.parametrize("value", [{}, None, [], "x", 1])
def test_what_is_no_event_map_is_refused(value: object) -> None:
    """spec/01 check 36."""
    assert refused(lambda: Event.from_map(value)) is ErrorCode.VALIDATION_ERROR


def test_an_event_is_frozen_and_gets_its_number_as_a_copy() -> None:
    event = an_event()
    assert (event.with_sequence(4).sequence_number, event.sequence_number) == (4, None)
    with pytest.raises(FrozenInstanceError):
        event.sequence_number = 1  # type: ignore[misc]


def test_a_frame_is_the_event_encoded_once() -> None:
    """DESIGN §6: followers get its bytes, and what ordering and filtering need beside them."""
    event = an_event(EventType.RUN_COMPLETED, run_id="run_1", sequence_number=9, data={"text": "a\nb"})
    frame = frame_of_event(event)
    assert json.loads(frame.body) == event.to_map()
    assert (frame.session_id, frame.sequence_number, frame.type, frame.run_id) == ("ses_1", 9, "run_completed", "run_1")
    assert frame.is_terminal
    assert not frame_of_event(an_event(sequence_number=1)).is_terminal
    assert frame.sse is frame.sse
    assert frame.sse == b"id: 9\nevent: run_completed\ndata: " + frame.body + b"\n\n"
    assert b"\n" not in frame.body, "one line, or the stream breaks"
    assert frame_of_map(json.loads(frame.body)) == frame


def test_what_an_append_sends_leaves_out_what_the_lease_says() -> None:
    """Identity, fence and number are the lease's and the store's."""
    assert not {"session_id", "run_id", "sequence_number", "attempt"} & set(event_fields(an_event()))

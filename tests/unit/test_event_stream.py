"""The in-memory buffer of one run's events, with a cursor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from asm_core.clock import new_id
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import Event, EventType
from asm_core.domain.event_stream import DEFAULT_BUFFER_SIZE, EventStream, StreamStatus
from asm_core.domain.normalized_event import NormalizedEvent
from tests.builders import NOW, an_event


def a_stream(**fields: Any) -> EventStream[Event]:
    return EventStream.new(**{"session_id": "ses_1", "run_id": "run_1"} | fields)


def one(number: int | None = None, kind: EventType = EventType.MESSAGE_STREAMED, **fields: Any) -> Event:
    return an_event(kind, **{"run_id": "run_1", "sequence_number": number} | fields)


def filled(how_many: int, **fields: Any) -> EventStream[Event]:
    return a_stream(**fields).push_batch([one() for _ in range(how_many)])


def numbers(events: Any) -> list[int]:
    return [event.sequence_number for event in events]


def refused(call: Callable[[], object]) -> ErrorCode:
    with pytest.raises(AsmError) as caught:
        call()
    return caught.value.code


def test_a_new_stream_is_open_and_empty() -> None:
    """spec/01 check 74."""
    stream = a_stream()
    assert (stream.events, stream.cursor, stream.status, stream.next_sequence) == ((), 0, StreamStatus.OPEN, 0)
    assert stream.buffer_size == DEFAULT_BUFFER_SIZE == 1_000
    assert a_stream(buffer_size=3).buffer_size == 3


@pytest.mark.parametrize(
    "fields",
    [{"session_id": None}, {"session_id": ""}, {"run_id": None}, {"run_id": ""}, {"buffer_size": 0},
     {"buffer_size": "9"}, {"buffer_size": True}],
)  # fmt: skip
def test_a_stream_needs_its_run_and_room(fields: dict[str, Any]) -> None:
    """spec/01 check 75."""
    assert refused(lambda: a_stream(**fields)) is ErrorCode.VALIDATION_ERROR


def test_what_has_no_number_gets_the_next_one() -> None:
    """spec/01 check 76: also behind numbers that came with the events; the receiver stays as it was."""
    empty = a_stream()
    assert numbers(empty.push(one()).push(one()).push(one()).events) == [0, 1, 2]
    assert empty.count() == 0
    assert numbers(empty.push(one(7)).push(one()).push(one(3)).push(one()).events) == [3, 7, 8, 9]


def test_foreign_events_and_closed_streams_are_refused() -> None:
    """spec/01 check 77: the session is looked at first."""
    stream = a_stream()
    assert refused(lambda: stream.push(one(session_id="x", run_id="x"))) is ErrorCode.SESSION_MISMATCH
    assert refused(lambda: stream.push(one(run_id="x"))) is ErrorCode.RUN_MISMATCH
    assert refused(lambda: stream.push(one(run_id=None))) is ErrorCode.RUN_MISMATCH
    assert refused(lambda: stream.close().push(one(run_id="x"))) is ErrorCode.STREAM_CLOSED
    assert refused(lambda: stream.close().push_batch([])) is ErrorCode.STREAM_CLOSED


def test_a_full_buffer_keeps_the_highest_numbers() -> None:
    """spec/01 check 78; one that is older than all that is kept does not get in."""
    stream = a_stream(buffer_size=3)
    for number in range(1, 6):
        stream = stream.push(one(number))
    assert numbers(stream.events) == [3, 4, 5]
    assert numbers(stream.push(one(1)).events) == [3, 4, 5]
    assert numbers(filled(5, buffer_size=3).events) == [2, 3, 4]


def test_a_batch_is_taken_in_whole_or_not_at_all() -> None:
    """spec/01 check 79."""
    stream = filled(2)
    added = stream.push_batch([one(), one(), one()])
    assert numbers(added.events) == [0, 1, 2, 3, 4]
    for stranger in (one(run_id="x"), one(session_id="x")):
        batch = [one(), stranger]
        assert refused(lambda batch=batch: stream.push_batch(batch)) is ErrorCode.CONTEXT_MISMATCH
    assert stream.count() == 2


def test_events_are_read_in_order_and_filtered() -> None:
    """spec/01 check 80: cursor, then type, then limit."""
    stream = a_stream()
    for number in (4, 2, 0, 3, 1):
        stream = stream.push(one(number, EventType.TOOL_CALL_STARTED if number % 2 else EventType.MESSAGE_STREAMED))
    assert numbers(stream.get_events()) == [0, 1, 2, 3, 4]
    ahead = stream.advance_cursor(2)
    assert numbers(ahead.get_events(from_cursor=True)) == [2, 3, 4]
    assert numbers(ahead.get_events()) == [0, 1, 2, 3, 4]
    assert numbers(stream.get_events(limit=2)) == [0, 1]
    assert numbers(stream.get_events(type="tool_call_started")) == [1, 3]
    assert numbers(stream.get_events(type=[EventType.TOOL_CALL_STARTED, "message_streamed"], limit=3)) == [0, 1, 2]
    assert numbers(ahead.get_events(from_cursor=True, type="message_streamed", limit=1)) == [2]


@pytest.mark.parametrize("count", [-1, "2", True, 1.5])
def test_counts_that_are_none_are_refused(count: Any) -> None:
    for call in (
        lambda: filled(2).get_events(limit=count),
        lambda: filled(2).peek(count),
        lambda: filled(2).take(count),
    ):
        assert refused(call) is ErrorCode.VALIDATION_ERROR


def test_the_cursor_never_goes_back() -> None:
    """spec/01 check 81."""
    stream = filled(5).advance_cursor(3)
    assert stream.advance_cursor(3).cursor == 3
    assert stream.advance_cursor(9).cursor == 9
    for position in (2, -1, "4", None):
        assert refused(lambda position=position: stream.advance_cursor(position)) is ErrorCode.INVALID_CURSOR


def test_a_closed_stream_is_read_to_its_end() -> None:
    """spec/01 check 82: reading goes on."""
    closed = filled(10).close()
    assert (closed.cursor, closed.is_closed, closed.remaining()) == (10, True, 0)
    assert len(closed.get_events()) == 10
    assert a_stream().close().cursor == 0
    assert a_stream().advance_cursor(5).close().cursor == 5, "not back"


def test_peeking_moves_nothing() -> None:
    """spec/01 check 83."""
    stream = filled(5).advance_cursor(2)
    assert numbers(stream.peek(2)) == numbers(stream.peek(2)) == [2, 3]
    assert stream.peek(0) == ()


def test_taking_moves_on() -> None:
    """spec/01 check 84."""
    stream, seen = filled(5), []
    for _ in range(3):
        taken, stream = stream.take(2)
        seen += numbers(taken)
    assert seen == [0, 1, 2, 3, 4]
    taken, after = stream.take(2)
    assert (taken, after) == ((), stream)


def test_counting_and_iterating() -> None:
    """spec/01 check 85."""
    stream = filled(5).advance_cursor(2)
    assert (stream.count(), stream.remaining()) == (5, 3)
    assert numbers(stream) == [2, 3, 4]


def test_normalized_events_flow_as_well() -> None:
    """Whatever belongs to a run and can be numbered."""
    event = NormalizedEvent.new(
        id=new_id("nevt"), type="run_started", timestamp=NOW, session_id="ses_1", run_id="run_1"
    )
    stream: EventStream[NormalizedEvent] = EventStream.new(session_id="ses_1", run_id="run_1")
    assert stream.push(event).events == (event.with_sequence(0),)

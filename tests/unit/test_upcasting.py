"""Events of older schema versions are brought up to date when they are read; what is unknown stays as it is stored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from asm_core.bus.frames import pack, unpack
from asm_core.domain.errors import AsmError
from asm_core.domain.event import Event, EventType
from asm_core.domain.upcasting import UPCASTERS, Upcasters
from asm_core.wire import frame_of_event, loads, up_to_date
from tests.builders import an_event

KIND = EventType.MESSAGE_RECEIVED


@pytest.fixture
def upcasters() -> Upcasters:
    return Upcasters()


@pytest.fixture
def registered() -> Iterator[Upcasters]:
    """The process's own, with one step for KIND."""
    UPCASTERS.register(KIND, 1, lambda event: {"data": {"text": event["data"]["content"]}})
    yield UPCASTERS
    UPCASTERS.unregister(KIND, 1)


def wire(**fields: Any) -> dict[str, Any]:
    given = {"id": "evt_1", "data": {"content": "hi"}, "run_id": "run_1", "sequence_number": 3} | fields
    return an_event(given.pop("type", KIND), **given).to_map()


def to_text(event: dict[str, Any]) -> dict[str, Any]:
    return {"data": {"text": event["data"].pop("content")}}


def test_without_a_step_every_event_is_what_it_is(upcasters: Upcasters) -> None:
    assert all(upcasters.is_current(kind, 1) for kind in EventType)
    assert upcasters.apply(wire()) == wire()


def test_steps_follow_each_other_version_by_version(upcasters: Upcasters) -> None:
    """Each step sees the version it was written for; registered in any order."""
    seen = []

    def to_list(event: dict[str, Any]) -> dict[str, Any]:
        seen.append(event["schema_version"])
        return {"data": {"texts": [event["data"]["text"]]}, "provider": "claude"}

    upcasters.register(KIND, 2, to_list)
    upcasters.register(KIND, 1, to_text)
    expected = {"data": {"texts": ["hi"]}, "provider": "claude", "schema_version": 3}
    assert upcasters.apply(wire()) == wire() | expected
    assert upcasters.apply(wire(schema_version=2, data={"text": "hi"})) == wire() | expected
    assert upcasters.apply(wire() | expected) == wire() | expected
    assert seen == [2, 2]


def test_other_types_are_left_alone(upcasters: Upcasters) -> None:
    upcasters.register(KIND, 1, to_text)
    assert not upcasters.is_current(KIND, 1)
    assert upcasters.is_current(EventType.MESSAGE_SENT, 1)
    upcasters.unregister(KIND, 1)
    upcasters.unregister(KIND, 7)
    assert upcasters.is_current(KIND, 1)


def test_a_newer_version_stays_as_it_is_stored_and_is_marked(upcasters: Upcasters) -> None:
    newer = wire(schema_version=2, metadata={"k": 1})
    marked = newer | {"metadata": {"k": 1, "_unknown_version": 2}}
    assert upcasters.apply(newer) == marked
    assert upcasters.apply(marked) == marked, "twice is the same"


def test_a_way_that_breaks_off_leaves_the_stored_form(upcasters: Upcasters) -> None:
    """A missing step, as much as one that fails half-way, must not lose the log."""
    upcasters.register(KIND, 1, to_text)
    upcasters.register(KIND, 3, to_text)
    marked = wire() | {"metadata": {"_unknown_version": 1}}
    assert upcasters.apply(wire()) == marked
    for result in (None, {"data": "text"}, {"metadata": None}, 7):
        upcasters.register(KIND, 2, lambda event, result=result: result)
        assert upcasters.apply(wire()) == marked, result


def test_a_step_changes_neither_what_is_stored_nor_an_events_identity(upcasters: Upcasters) -> None:
    """Readers order, number and find events by the rest."""
    stored = wire()
    upcasters.register(KIND, 1, lambda event: to_text(event) | {"id": "evt_2", "sequence_number": 9, "new": 1})
    upcast = upcasters.apply(stored)
    assert stored == wire()
    assert upcast == wire() | {"data": {"text": "hi"}, "schema_version": 2}


@pytest.mark.parametrize(("kind", "version"), [("no_such_type", 1), (KIND, 0), (KIND, True), (KIND, "1")])
def test_a_step_that_can_never_apply_is_refused(upcasters: Upcasters, kind: str, version: Any) -> None:
    with pytest.raises(AsmError) as caught:
        upcasters.register(kind, version, to_text)
    assert caught.value.code in ("validation_error", "invalid_event_type")


def test_a_frame_is_brought_up_to_date_by_whoever_reads_it(registered: Upcasters) -> None:
    """A publisher sends what is stored: it need not know what readers make of it."""
    sent = frame_of_event(Event.from_map(wire()))
    assert loads(sent.body)["data"] == {"content": "hi"}
    [received] = unpack("ses_1", pack([sent]))
    assert received == sent
    read = up_to_date(received)
    assert (loads(read.body)["data"], read.schema_version) == ({"text": "hi"}, 2)
    assert (read.sequence_number, read.type, read.run_id) == (sent.sequence_number, sent.type, sent.run_id)
    assert up_to_date(read) is read


def test_a_frame_that_is_up_to_date_is_not_touched() -> None:
    """The hot path: nothing is parsed, nothing encoded."""
    frame = frame_of_event(Event.from_map(wire()))
    assert up_to_date(frame) is frame

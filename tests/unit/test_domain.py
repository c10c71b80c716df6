"""Session, run, usage, ids, plain JSON, messages, results: values without I/O."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asm_core.clock import new_id
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import EventType
from asm_core.domain.fields import MAX_DEPTH, parse_datetime, text_of, timestamp_text, to_jsonable
from asm_core.domain.ids import event_id
from asm_core.domain.lifecycle import RunStatus, SessionStatus
from asm_core.domain.messages import check_messages, input_messages
from asm_core.domain.reducer import RunResult
from asm_core.domain.run import OnWorkerLost, Run, RunOptions, add_usage
from asm_core.domain.session import Session
from asm_core.wire import dumps, loads, request_hash
from tests.builders import NOW, a_run, a_session, an_event

LATER = NOW + timedelta(seconds=5)


def refused(call: Callable[[], object]) -> AsmError:
    with pytest.raises(AsmError) as caught:
        call()
    return caught.value


# Session


def new_session(**fields: Any) -> Session:
    return Session.new(**{"id": new_id("ses"), "agent_id": "tester", "now": NOW} | fields)


def test_a_new_session_is_pending_and_has_both_times() -> None:
    """spec/01 checks 1, 4: pending, created and updated at the same instant, empty defaults."""
    session = Session.new(id="ses_1", agent_id="a", now=NOW)
    assert (session.status, session.created_at, session.updated_at) == (SessionStatus.PENDING, NOW, NOW)
    assert (session.metadata, session.context, list(session.tags), session.parent_session_id) == ({}, {}, [], None)
    assert (session.max_concurrent_runs, session.max_queued_runs) == (1, 100)


def test_what_is_given_to_a_session_is_kept() -> None:
    """spec/01 checks 3, 4: id, metadata, context, tags, parent; None counts as empty."""
    fields = {"metadata": {"k": 1}, "context": {"system_prompt": "x"}, "tags": ("a",), "parent_session_id": "ses_0"}
    session = new_session(id="mine", **fields)
    assert session.id == "mine"
    assert {name: getattr(session, name) for name in fields} == fields
    emptied = new_session(metadata=None, context=None, tags=None)
    assert (emptied.metadata, emptied.context, emptied.tags) == ({}, {}, ())


def test_ids_carry_their_prefix_and_differ() -> None:
    """spec/01 checks 2, 14, 16: `ses_` and 32 hex digits, never twice, ordered by creation."""
    made = [new_id("ses") for _ in range(100)]
    assert len(set(made)) == 100
    assert all(len(one) == 36 and one.startswith("ses_") and int(one[4:], 16) for one in made)


@pytest.mark.parametrize("agent_id", [None, "", 7, ["a"]])
def test_a_session_needs_an_agent(agent_id: object) -> None:
    """spec/01 checks 5, 6: the message names the field."""
    error = refused(lambda: Session.new(id="ses_1", agent_id=agent_id, now=NOW))
    assert error.code is ErrorCode.VALIDATION_ERROR
    assert "agent_id" in error.message
    assert error.details == {"field": "agent_id"}


@pytest.mark.parametrize("id_", [None, "", 7])
def test_an_empty_id_is_no_id(id_: object) -> None:
    """spec/01 §1: ids are given from outside, and are kept as they are when they are any."""
    for make in (lambda: new_session(id=id_), lambda: Run.new(id=id_, session_id="ses_1", now=NOW)):
        assert refused(make).details == {"field": "id"}


@pytest.mark.parametrize("name", ["metadata", "context"])
def test_what_must_be_a_mapping_is_refused_otherwise(name: str) -> None:
    """spec/01 §1: None is empty, everything else is a mistake."""
    assert refused(lambda: new_session(**{name: ["x"]})).details == {"field": name}


@pytest.mark.parametrize("bound", [0, -1, 1.5, "2", True])
def test_a_session_needs_room_for_one_run(bound: object) -> None:
    """spec/03 checks 8, 9."""
    assert refused(lambda: new_session(max_concurrent_runs=bound)).details == {"field": "max_concurrent_runs"}


def test_a_queue_may_have_no_room_but_not_less() -> None:
    """spec/03 check 25."""
    assert new_session(max_queued_runs=0).max_queued_runs == 0
    assert refused(lambda: new_session(max_queued_runs=-1)).details == {"field": "max_queued_runs"}


@pytest.mark.parametrize("status", SessionStatus)
def test_a_session_takes_each_status_and_the_original_stays(status: SessionStatus) -> None:
    """spec/01 checks 7, 9: a new value with a later time."""
    before = a_session()
    after = before.with_status(str(status), LATER)
    assert (after.status, after.updated_at) == (status, LATER)
    assert (before.status, before.updated_at) == (SessionStatus.PENDING, NOW)


def test_unknown_statuses_are_refused_and_the_known_listed() -> None:
    """spec/01 checks 8, 18."""
    for value in (a_session(), a_run()):
        error = refused(lambda value=value: value.with_status("done", NOW))
        assert error.code is ErrorCode.INVALID_STATUS
        assert "'done'" in error.message
        assert "completed" in error.message


def test_a_status_given_to_a_new_session_is_ignored() -> None:
    """spec/01 check 14."""
    assert new_session(status="completed").status is SessionStatus.PENDING


def test_a_session_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        a_session().status = SessionStatus.ACTIVE  # type: ignore[misc]


def test_a_session_as_a_map_is_plain_json_and_comes_back() -> None:
    """spec/01 checks 10, 11."""
    session = a_session(metadata={"deep": {1: SessionStatus.ACTIVE}}, tags=("x", "y"), provider="scripted")
    written = json.loads(json.dumps(session.to_map()))
    assert written["status"] == "pending"
    assert written["metadata"] == {"deep": {"1": "active"}}
    assert written["created_at"] == "2025-06-01T12:00:00.000000Z"
    assert written["deleted_at"] is None
    again = Session.from_map(written)
    for name in ("id", "agent_id", "status", "tags", "provider", "created_at", "max_queued_runs"):
        assert getattr(again, name) == getattr(session, name)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"id": None}, ErrorCode.VALIDATION_ERROR),
        ({"id": ""}, ErrorCode.VALIDATION_ERROR),
        ({"agent_id": 5}, ErrorCode.VALIDATION_ERROR),
        ({"status": None}, ErrorCode.VALIDATION_ERROR),
        ({"status": "done"}, ErrorCode.INVALID_STATUS),
        ({"created_at": "yesterday"}, ErrorCode.VALIDATION_ERROR),
        ({"updated_at": None}, ErrorCode.VALIDATION_ERROR),
    ],
)
def test_malformed_session_maps_are_refused(change: dict[str, Any], code: ErrorCode) -> None:
    """spec/01 checks 12, 13."""
    assert refused(lambda: Session.from_map(a_session().to_map() | change)).code is code
    for nothing in ({}, None, [], "x"):
        assert refused(lambda nothing=nothing: Session.from_map(nothing)).code is ErrorCode.VALIDATION_ERROR


def test_an_unreadable_deletion_time_counts_as_absent() -> None:
    """spec/01 check 13."""
    assert Session.from_map(a_session().to_map() | {"deleted_at": "once"}).deleted_at is None


# Run


def test_a_new_run_is_pending_and_empty() -> None:
    """spec/01 checks 15, 16; `started_at` is the start mark (DESIGN §3), not the creation."""
    run = Run.new(id="run_1", session_id="ses_1", now=NOW, input={"prompt": "x"}, metadata={"k": 1})
    assert (run.id, run.status, run.input, run.metadata) == ("run_1", RunStatus.PENDING, {"prompt": "x"}, {"k": 1})
    assert (run.turn_count, run.token_usage, run.output, run.error, run.attempt) == (0, {}, None, None, 0)
    assert (run.created_at, run.started_at, run.ended_at) == (NOW, None, None)


@pytest.mark.parametrize("session_id", [None, "", 3])
def test_a_run_needs_its_session(session_id: object) -> None:
    """spec/01 check 17."""
    error = refused(lambda: Run.new(id="run_1", session_id=session_id, now=NOW))
    assert error.code is ErrorCode.VALIDATION_ERROR
    assert "session_id" in error.message


@pytest.mark.parametrize("status", RunStatus)
def test_only_a_terminal_status_ends_a_run(status: RunStatus) -> None:
    """spec/01 checks 18, 19."""
    run = a_run().with_status(str(status), LATER)
    assert run.status is status
    assert (run.ended_at == LATER) == run.is_terminal == (status in {"completed", "failed", "cancelled", "timeout"})


def test_an_output_completes_a_run() -> None:
    """spec/01 check 20: the original stays as it was."""
    before = a_run(RunStatus.RUNNING)
    run = before.with_output({"content": "x"}, LATER)
    assert (run.output, run.status, run.ended_at) == ({"content": "x"}, RunStatus.COMPLETED, LATER)
    assert (before.output, before.status, before.ended_at) == (None, RunStatus.RUNNING, None)


def test_an_error_fails_a_run() -> None:
    """spec/01 check 21."""
    payload = AsmError(ErrorCode.TIMEOUT, "late").to_payload()
    run = a_run(RunStatus.RUNNING).with_error(payload, LATER)
    assert (run.error, run.status, run.ended_at) == (payload, RunStatus.FAILED, LATER)


def test_turns_are_counted() -> None:
    """spec/01 check 22."""
    assert [run.turn_count for run in (a_run(), a_run().with_turn(), a_run().with_turn().with_turn())] == [0, 1, 2]


def test_a_run_without_metadata_has_empty_ones() -> None:
    """spec/01 §1: None is the default, not a value."""
    assert Run.new(id="run_1", session_id="ses_1", now=NOW, metadata=None).metadata == {}
    assert refused(lambda: Run.new(id="run_1", session_id="ses_1", now=NOW, metadata=5)).details == {
        "field": "metadata"
    }


def test_usage_adds_up_per_key() -> None:
    """spec/01 checks 23, 24: numbers are summed, other values replaced, new keys added; a bool is no number."""
    run = a_run().with_usage({"input_tokens": 100, "output_tokens": 50})
    run = run.with_usage({"input_tokens": 200, "output_tokens": 100, "cache_read_tokens": 5, "model": "a"})
    assert run.token_usage == {"input_tokens": 300, "output_tokens": 150, "cache_read_tokens": 5, "model": "a"}
    assert add_usage({"a": 1, "b": True, "c": "x"}, {"a": "many", "b": True, "c": 2}) == {
        "a": "many",
        "b": True,
        "c": 2,
    }


@pytest.mark.parametrize("status", RunStatus)
def test_a_run_as_a_map_is_plain_json_and_comes_back(status: RunStatus) -> None:
    """spec/01 checks 25, 26."""
    run = a_run(status, input={"messages": [{"role": "user", "content": "x"}]}, metadata={"a": {"b": 1}}, cost_usd=0.5)
    written = json.loads(json.dumps(run.to_map()))
    assert written["status"] == str(status)
    assert a_run().to_map()["cost_usd"] is None
    again = Run.from_map(written)
    for name in ("id", "session_id", "status", "input", "metadata", "cost_usd", "attempt", "started_at", "ended_at"):
        assert getattr(again, name) == getattr(run, name)


@pytest.mark.parametrize(("written", "read"), [(2, 2.0), (0.25, 0.25), (None, None), ("2", None), (True, None)])
def test_the_cost_of_a_run_is_a_float_or_nothing(written: object, read: float | None) -> None:
    """spec/01 checks 26, 27."""
    cost = Run.from_map(a_run().to_map() | {"cost_usd": written}).cost_usd
    assert cost == read
    assert cost is None or type(cost) is float


def test_defaults_and_refusals_of_a_run_map() -> None:
    """spec/01 checks 26, 27: a null turn count is 0, an empty map is refused."""
    assert Run.from_map(a_run().to_map() | {"turn_count": None, "ended_at": "?"}).turn_count == 0
    assert refused(lambda: Run.from_map({})).code is ErrorCode.VALIDATION_ERROR
    assert refused(lambda: Run.from_map(a_run().to_map() | {"status": "done"})).code is ErrorCode.INVALID_STATUS


def test_options_travel_in_the_row() -> None:
    """What `to_map` writes, `from_map` reads; unknown keys of a newer version are passed over."""
    options = RunOptions(provider="claude", model="m", timeout_ms=5, max_attempts=3, on_worker_lost=OnWorkerLost.RESUME)
    assert RunOptions.from_map(options.to_map() | {"from_the_future": 1}) == options
    assert RunOptions.from_map({"provider": "x"}) == RunOptions(provider="x")


# Ids of events


def test_the_same_facts_make_the_same_event_id() -> None:
    """DESIGN §5, exactly once: run, fence and ordinal decide; each of them matters."""
    run_id = new_id("run")
    made = {event_id(run_id, fence, ordinal) for fence in range(3) for ordinal in range(50)}
    assert len(made) == 150
    assert event_id(run_id, 1, 1) in made
    assert event_id(new_id("run"), 1, 1) not in made
    assert event_id("a-foreign-id", 1, 12) != event_id("a-foreign-id", 11, 2)
    assert all(len(one) == 36 and one.startswith("evt_") and int(one[4:], 16) for one in made)


# Plain JSON


class Colour(Enum):
    RED = "red"


def test_everything_becomes_plain_json() -> None:
    """Text keys, enum values, ISO times, sorted sets, no NaN, no NUL, no lone surrogate, no bytes."""
    value = {
        1: Colour.RED, Colour.RED: {3, 1, 2}, "at": NOW, "nan": float("nan"), "inf": float("-inf"), "d": Decimal("1.5"),
        "nul\x00": "a\x00b", "bad": "\ud800", "bytes": b"\xff", "tuple": (1, None, True), "error": ValueError("secret"),
    }  # fmt: skip
    assert to_jsonable(value) == {
        "1": "red", "red": [1, 2, 3], "at": "2025-06-01T12:00:00.000000Z", "nan": None, "inf": None, "d": 1.5,
        "nul\ufffd": "a\ufffdb", "bad": "\ufffd", "bytes": "\ufffd", "tuple": [1, None, True], "error": "ValueError",
    }  # fmt: skip


def test_nested_keys_and_enums_become_text() -> None:
    """spec/01 check 146: also inside lists; the argument stays as it was."""
    value = {"a": [{1: RunStatus.FAILED, "b": {Colour.RED: True}}]}
    assert to_jsonable(value) == {"a": [{"1": "failed", "b": {"red": True}}]}
    assert value["a"][0][1] is RunStatus.FAILED


@pytest.mark.parametrize(
    ("value", "text"),
    [("a\x00", "a\ufffd"), (None, ""), (5, "5"), (True, "true"), ({"ä": [1, None]}, '{"ä": [1, null]}'),
     (NOW, "2025-06-01T12:00:00.000000Z"), (RunStatus.FAILED, "failed")],
)  # fmt: skip
def test_anything_as_text(value: object, text: str) -> None:
    """spec/01 §0: containers as JSON, the rest as they are."""
    assert text_of(value) == text


def test_nesting_is_cut() -> None:
    """Hostile depth neither exhausts the stack nor the encoder."""
    deep: Any = "bottom"
    for _ in range(5_000):
        deep = [deep]
    flat = orjson.dumps(to_jsonable(deep))
    assert flat.count(b"[") == MAX_DEPTH + 1


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.binary() | st.datetimes(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters()) | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(ANYTHING)
def test_whatever_an_adapter_says_can_be_encoded(value: Any) -> None:
    """One strange value must not stop the writer of the whole process: the encoder takes what `to_jsonable` gives."""
    assert orjson.loads(orjson.dumps(to_jsonable(value))) is not Ellipsis


@given(ANYTHING)
def test_the_encoder_never_raises(value: Any) -> None:
    """Nor does it when nobody has cleaned the value before: a client's input comes as it is."""
    assert loads(dumps(value)) is not Ellipsis


def test_numbers_beyond_64_bits_stay_numbers_where_they_can() -> None:
    """JSON has no bound, orjson has; a provider's counter must not be lost for that."""
    assert loads(dumps({"a": 2**70, "b": -(2**70), "c": 2**64 - 1, "d": 10**400})) == {
        "a": float(2**70), "b": -float(2**70), "c": 2**64 - 1, "d": None,
    }  # fmt: skip


def test_times_are_utc_text_in_time_order() -> None:
    """Six digits and Z; another zone is converted, a naive time counts as UTC."""
    east = datetime(2025, 6, 1, 14, 0, tzinfo=timezone(timedelta(hours=2)))
    assert timestamp_text(east) == "2025-06-01T12:00:00.000000Z"
    assert parse_datetime("2025-06-01T12:00:00.000000Z") == NOW
    assert parse_datetime(datetime(2025, 6, 1, 12)) == NOW
    assert parse_datetime(east).tzinfo is UTC
    for value in (None, 5, "soon", ""):
        with pytest.raises(ValueError):
            parse_datetime(value)


def test_the_same_request_has_the_same_hash_whatever_its_key_order() -> None:
    """FM-14: the idempotency key belongs to one request."""
    assert request_hash({"a": 1, "b": [2]}) == request_hash({"b": [2], "a": 1})
    assert request_hash({"a": 1}) != request_hash({"a": 2})


# Messages of an input


@pytest.mark.parametrize(
    ("value", "messages"),
    [
        ({"prompt": "hi"}, [("user", "hi")]),
        ({"prompt": ""}, []),
        (None, []),
        ({"other": 1}, []),
        ({"messages": [{"role": "SYSTEM", "content": "s"}, {"content": "u"}]}, [("system", "s"), ("user", "u")]),
        ({"messages": [{"role": "user", "content": ""}, {"role": "user"}, "x", {"content": None}]}, []),
        ({"messages": [{"role": "user", "content": [1]}], "prompt": "not this"}, [("user", "[1]")]),
        ({"messages": [{"content": [{"text": "é"}]}]}, [("user", '[{"text": "é"}]')]),
    ],
)
def test_the_messages_of_an_input(value: Any, messages: list[tuple[str, str]]) -> None:
    """spec/01 §12.3: messages win over a prompt; what has no content is left out, what is no text becomes JSON."""
    assert [(message["role"], message["content"]) for message in input_messages(value)] == messages


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({"prompt": 5}, "input.prompt"),
        ({"messages": "hi"}, "input.messages"),
        ({"messages": [{"role": "user"}]}, "input.messages.0"),
        ({"messages": [{"content": "x"}, "y"]}, "input.messages.1"),
    ],
)
def test_malformed_messages_are_refused_by_place(value: Any, field: str) -> None:
    error = refused(lambda: check_messages(value))
    assert (error.code, error.details["field"]) == (ErrorCode.INVALID_INPUT, field)


# The result of a run


def observed(*events: tuple[EventType, dict[str, Any]]) -> RunResult:
    result = RunResult()
    for kind, data in events:
        result.observe(an_event(kind, data=data))
    return result


def test_streamed_chunks_count_only_until_their_message_is_complete() -> None:
    streamed = [(EventType.MESSAGE_STREAMED, {"delta": part, "content": part}) for part in ("Hel", "lo")]
    assert observed(*streamed).content == "Hello"
    complete = observed(*streamed, (EventType.MESSAGE_RECEIVED, {"content": "Hello", "role": "assistant"}))
    assert (complete.content, complete.turn_count) == ("Hello", 1)
    assert observed(*streamed, (EventType.MESSAGE_RECEIVED, {"content": ""})).content == "Hello"


def test_the_content_is_that_of_the_final_turn() -> None:
    """What was said before the last tool result counts only when nothing follows it."""
    before = (EventType.MESSAGE_RECEIVED, {"content": "let me look"})
    call = {"tool_call_id": "1", "tool_name": "ls", "tool_input": {}, "tool_output": "a"}
    tool = (EventType.TOOL_CALL_COMPLETED, call)
    assert observed(before, tool, (EventType.MESSAGE_RECEIVED, {"content": "done"})).content == "done"
    result = observed(before, tool)
    assert result.output == {
        "content": "let me look", "tool_calls": [{"id": "1", "name": "ls", "input": {}, "output": "a"}],
    }  # fmt: skip
    assert not result.is_empty
    assert RunResult().is_empty


@pytest.mark.parametrize("key", ["provider_session_id", "session_id", "thread_id"])
def test_the_provider_handle_is_remembered(key: str) -> None:
    """Native resume needs it, whatever the provider calls it."""
    assert observed((EventType.RUN_STARTED, {key: "h", "model": "m", "tools": None})).provider_metadata == {
        "provider_session_id": "h", "model": "m",
    }  # fmt: skip


def test_malformed_texts_do_not_disturb_a_result() -> None:
    """An adapter may be a stranger's."""
    result = observed(
        (EventType.MESSAGE_STREAMED, {"delta": 5}), (EventType.MESSAGE_RECEIVED, {"content": ["x"]}),
        (EventType.TOOL_CALL_FAILED, {}),
    )  # fmt: skip
    assert result.output == {"content": "", "tool_calls": [{}]}

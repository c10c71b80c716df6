"""Events as the conversation they record."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import TERMINAL_EVENT_TYPES, Event, EventType
from asm_core.domain.messages import Role
from asm_core.domain.transcript import TRANSCRIPT_EVENTS, Budget, Message, Transcript
from tests.builders import NOW, an_event

_T = EventType


def said(number: int | None, kind: EventType, run: str | None = "run_1", **data: Any) -> Event:
    """An event whose id follows from its number, so that two builds of it are equal."""
    return an_event(kind, id=f"evt_{number}", run_id=run, sequence_number=number, data=data)


def user(number: int | None, text: Any, run: str | None = "run_1") -> Event:
    return said(number, _T.MESSAGE_SENT, run, role="user", content=text)


def chunk(number: int, text: Any, run: str | None = "run_1") -> Event:
    return said(number, _T.MESSAGE_STREAMED, run, content=text, delta=text)


def answer(number: int, text: Any, run: str | None = "run_1", **data: Any) -> Event:
    return said(number, _T.MESSAGE_RECEIVED, run, content=text, role="assistant", **data)


def call(number: int, call_id: str = "tc_1", name: str = "ls", run: str = "run_1", **given: Any) -> Event:
    return said(number, _T.TOOL_CALL_STARTED, run, tool_call_id=call_id, tool_name=name, tool_input=given)


def result(number: int, output: Any = "ok", call_id: str = "tc_1", name: str = "ls", run: str = "run_1") -> Event:
    return said(number, _T.TOOL_CALL_COMPLETED, run, tool_call_id=call_id, tool_name=name, tool_output=output)


def transcript(*events: Event) -> Transcript:
    return Transcript.from_events(events)


def lines(built: Transcript) -> list[str]:
    """One word per message: `user hi`, `assistant ls(…)`, `tool -> …`."""
    return [_line(message) for message in built.messages]


def _line(message: Message) -> str:
    if message.is_tool_call:
        return f"{message.role} {message.tool_name}({message.tool_call_id})"
    if message.is_tool_result:
        return f"{message.role} {message.tool_call_id} -> {message.tool_output}"
    return f"{message.role} {message.content}"


def refused(run: Callable[[], object]) -> AsmError:
    with pytest.raises(AsmError) as caught:
        run()
    return caught.value


# What events become


CONVERSATION = (
    user(1, "list it"),
    call(2, path="/tmp"),
    result(3, {"files": ["a"]}),
    answer(4, "one file"),
    said(5, _T.RUN_COMPLETED, stop_reason="end_turn"),
)


def test_messages_stand_in_the_order_of_the_log() -> None:
    """spec/01 check 132: whatever the order they come in; the last number is the largest."""
    for seed in range(10):
        built = transcript(*random.Random(seed).sample(CONVERSATION, len(CONVERSATION)))
        assert lines(built) == ["user list it", "assistant ls(tc_1)", "tool tc_1 -> {'files': ['a']}",
                                "assistant one file"]  # fmt: skip
        assert (built.session_id, built.last_sequence, built.last_timestamp) == ("ses_1", 5, NOW)


def test_messages_are_built_from_the_canonical_keys() -> None:
    """spec/01 check 133: where each comes from stands in its metadata, above what the provider says there."""
    messages = transcript(*CONVERSATION).messages
    assert messages[0].role is Role.USER
    assert (messages[1].role, messages[1].content, messages[1].tool_input) == (Role.ASSISTANT, None, {"path": "/tmp"})
    assert (messages[2].role, messages[2].tool_name, messages[2].tool_output) == (Role.TOOL, "ls", {"files": ["a"]})
    assert messages[3].metadata == {
        "event_id": "evt_4", "run_id": "run_1", "timestamp": "2025-06-01T12:00:00.000000Z", "sequence_number": 4,
    }  # fmt: skip
    event = an_event(_T.MESSAGE_SENT, data={"content": "x"}, metadata={"source": "cli", "run_id": "forged", "n": None})
    [message] = transcript(event).messages
    assert (message.metadata["source"], message.metadata.get("run_id")) == ("cli", None)


def test_old_names_of_tool_fields_are_not_read() -> None:
    """spec/01 check 134."""
    old = {
        "call_id": "x",
        "tool_use_id": "x",
        "id": "x",
        "input": {"a": 1},
        "arguments": {},
        "output": "y",
        "name": "z",
    }
    built = transcript(said(1, _T.TOOL_CALL_STARTED, **old), said(2, _T.TOOL_CALL_FAILED, **old))
    for message in built.messages:
        assert (message.tool_call_id, message.tool_name, message.tool_input, message.tool_output) == (
            None, None, None, None,
        )  # fmt: skip
    assert [message.role for message in built.messages] == [Role.ASSISTANT, Role.TOOL]
    [message] = transcript(said(1, _T.TOOL_CALL_STARTED, tool_input="ls -l")).messages
    assert message.tool_input is None, "a mapping or nothing"


def test_events_without_a_number_come_last() -> None:
    """spec/01 check 135: by time, then by id."""
    later = NOW + timedelta(seconds=1)
    events = [
        an_event(_T.MESSAGE_SENT, id="b", timestamp=later, data={"content": "fourth"}),
        an_event(_T.MESSAGE_SENT, id="a", timestamp=later, data={"content": "third"}),
        an_event(_T.MESSAGE_SENT, id="z", data={"content": "second"}),
        an_event(_T.MESSAGE_SENT, timestamp=later + later.resolution, sequence_number=9, data={"content": "first"}),
    ]
    built = Transcript.from_events(events)
    assert lines(built) == ["user first", "user second", "user third", "user fourth"]
    assert (built.last_sequence, built.last_timestamp) == (9, later)
    assert Transcript.from_events(events[:1]).last_sequence is None


def test_chunks_and_their_complete_message_are_one() -> None:
    """spec/01 check 136: the complete text counts; where it is empty, the chunks do."""
    chunks = (chunk(1, "Hel"), said(2, _T.MESSAGE_STREAMED, delta="lo"), said(3, _T.MESSAGE_STREAMED, content="!"))
    for complete in ("Hello!", "", None):
        built = transcript(*chunks, answer(4, complete))
        assert lines(built) == ["assistant Hello!"]
        assert (built.open_streams, built.messages[0].streamed) == (0, False)
        assert built.messages[0].metadata["event_id"] == "evt_4", "the chunks may be pruned"
    assert lines(transcript(*chunks, answer(4, "Hello there"))) == ["assistant Hello there"]


def test_a_reader_may_leave_out_the_chunks_of_complete_messages() -> None:
    """spec/01 §21 (49): most of a log is chunks."""
    chunks = (chunk(2, "one "), chunk(3, "file"))
    rest = (user(1, "?"), answer(4, "one file"), said(5, _T.RUN_COMPLETED))
    assert transcript(*rest, *chunks) == transcript(*rest)


def test_a_message_that_a_tool_call_cuts_apart_is_told_once() -> None:
    """A provider announces the complete text behind the call that it led up to; the parts keep their places."""
    led_up = (chunk(1, "Let me "), chunk(2, "look."), call(3))
    expected = ["assistant Let me look.", "assistant ls(tc_1)", "tool tc_1 -> ok"]
    assert lines(transcript(*led_up, answer(4, "Let me look."), result(5))) == expected
    assert lines(transcript(*led_up, result(4), answer(5, "Let me look."))) == expected
    cut = transcript(*led_up, chunk(4, " Wait."), answer(5, "Let me look. Wait."))
    assert lines(cut) == [*expected[:2], "assistant  Wait."]
    other = transcript(*led_up, answer(4, "Something else."))
    assert lines(other) == [*expected[:2], "assistant Something else."]


def test_a_repeated_answer_is_told_twice() -> None:
    """Only the chunks of a message are taken for it, and only once."""
    twice = (chunk(1, "OK"), call(2), answer(3, "OK"), result(4), answer(5, "OK"), answer(6, "OK"))
    assert [line for line in lines(transcript(*twice)) if line == "assistant OK"] == ["assistant OK"] * 3


def test_the_chunks_of_another_run_are_not_taken_for_an_answer() -> None:
    """spec/01 §21 (47)."""
    built = transcript(chunk(1, "OK", "b"), call(2, run="b"), answer(3, "OK", "a"), answer(4, "OK", "b"))
    assert [message.metadata["run_id"] for message in built.messages] == ["b", "b", "a"]
    assert lines(built) == ["assistant OK", "assistant ls(tc_1)", "assistant OK"]


def test_a_pending_approval_stands_for_the_result() -> None:
    """spec/01 check 137."""
    [called, paused] = transcript(
        call(1, name="rm"), said(2, _T.TOOL_APPROVAL_REQUESTED, tool_call_id="tc_1", tool_name="rm", policy_name="p")
    ).messages
    assert called.is_tool_call
    assert (paused.role, paused.tool_call_id, paused.tool_name) == (Role.TOOL, "tc_1", "rm")
    assert "awaiting human approval" in paused.tool_output


@pytest.mark.parametrize("kind", sorted(set(EventType) - TRANSCRIPT_EVENTS))
def test_everything_else_adds_nothing(kind: EventType) -> None:
    """spec/01 check 138: nor does it end what is being said."""
    built = transcript(chunk(1, "Hel"), said(2, kind, content="x", tool_name="y", role="user"), chunk(3, "lo"))
    assert lines(built) == ["assistant Hello"]
    assert built.last_sequence == 3


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (said(1, _T.MESSAGE_RECEIVED, content="x"), "assistant x"),
        (said(1, _T.MESSAGE_RECEIVED, content="x", role="tool"), "tool x"),
        (said(1, _T.MESSAGE_RECEIVED, content="x", role="wizard"), "assistant x"),
        (said(1, _T.MESSAGE_RECEIVED, content="x", role=["user"]), "assistant x"),
        (said(1, _T.MESSAGE_SENT, content="x"), "user x"),
        (said(1, _T.MESSAGE_SENT, content="x", role="system"), "system x"),
        (said(1, _T.MESSAGE_SENT, content=[{"type": "text", "text": "é"}]), 'user [{"type": "text", "text": "é"}]'),
        (said(1, _T.MESSAGE_SENT, content=5), "user 5"),
    ],
)
def test_roles_have_defaults_and_content_becomes_text(event: Event, line: str) -> None:
    """spec/01 §10: unknown roles fall back; what is no text is shown as JSON."""
    assert lines(transcript(event)) == [line]


@pytest.mark.parametrize("content", [None, "", [], {}])
def test_what_says_nothing_is_no_message(content: Any) -> None:
    """spec/01 §10."""
    built = transcript(user(1, content), chunk(2, content), answer(3, content))
    assert (built.messages, built.last_sequence) == ((), 3)


def test_a_transcript_needs_a_session() -> None:
    """spec/01 check 144: from the argument or from the events, and only one."""
    assert refused(lambda: Transcript.from_events([])).code is ErrorCode.VALIDATION_ERROR
    assert Transcript.from_events([], "ses_9") == Transcript(session_id="ses_9")
    foreign = an_event(session_id="ses_2", sequence_number=2)
    assert refused(lambda: transcript(user(1, "x"), foreign)).code is ErrorCode.SESSION_MISMATCH
    assert refused(lambda: Transcript.from_events([user(1, "x")], "ses_2")).code is ErrorCode.SESSION_MISMATCH


# Streams


@pytest.mark.parametrize(
    ("next_event", "line"),
    [
        (user(2, "go on"), "user go on"),
        (call(2), "assistant ls(tc_1)"),
        (result(2), "tool tc_1 -> ok"),
        (said(2, _T.MESSAGE_RECEIVED, content="out", role="tool"), "tool out"),
    ],
)
def test_what_was_only_streamed_stands_before_what_follows(next_event: Event, line: str) -> None:
    """spec/01 check 145."""
    assert lines(transcript(chunk(1, "Hel"), next_event)) == ["assistant Hel", line]


def test_what_is_still_streamed_stands_at_the_end() -> None:
    """spec/01 check 145."""
    built = transcript(user(1, "hi"), chunk(2, "Hel"), chunk(3, "lo"))
    assert lines(built) == ["user hi", "assistant Hello"]
    assert (built.open_streams, built.messages[1].streamed) == (1, True)
    assert built.messages[1].metadata["sequence_number"] == 3


def test_streams_of_concurrent_runs_are_kept_apart() -> None:
    """spec/01 §21 (47)."""
    built = transcript(
        chunk(1, "Hel", "a"), chunk(2, "Gu", "b"), user(3, "b?", "b"), chunk(4, "lo", "a"), chunk(5, "ten", "b"),
        answer(6, "Hello", "a"), chunk(7, " Tag", "b"),
    )  # fmt: skip
    assert lines(built) == ["assistant Gu", "user b?", "assistant Hello", "assistant ten Tag"]


@pytest.mark.parametrize("kind", sorted(TERMINAL_EVENT_TYPES))
def test_the_end_of_a_run_ends_its_stream(kind: EventType) -> None:
    """spec/01 §21 (47): and not that of another."""
    built = transcript(
        chunk(1, "Other", "b"), chunk(2, "Hel"), said(3, kind), user(4, "again", "c"), chunk(5, "Hello", "c")
    )
    assert lines(built) == ["assistant Hel", "user again", "assistant Other", "assistant Hello"]
    assert built.open_streams == 2


# Dead attempts


def recovered(number: int, first: int | None, last: int | None, run: str = "run_1") -> Event:
    return said(number, _T.ERROR_RECOVERED, run, attempt=2, superseded_from=first, superseded_to=last)


def test_what_a_dead_attempt_said_is_left_out() -> None:
    """DESIGN §3: only that run's, only in that range; the new attempt says its input again."""
    built = transcript(
        user(1, "before"), answer(2, "yes", "other"), user(3, "do it"), call(4), answer(5, "meanwhile", "other"),
        chunk(6, "I am wor"), recovered(7, 3, 6), user(8, "do it"), chunk(9, "Done"), answer(10, "Done."),
    )  # fmt: skip
    assert lines(built) == [
        "user before", "assistant yes", "assistant meanwhile", "user do it", "assistant Done.",
    ]  # fmt: skip


@pytest.mark.parametrize(("first", "last"), [(None, None), (1, None), ("1", "2")])
def test_a_recovery_without_a_range_takes_nothing_back(first: Any, last: Any) -> None:
    """The attempt before had not said anything; or a provider recovered by itself."""
    assert lines(transcript(user(1, "x"), chunk(2, "y"), recovered(3, first, last))) == ["user x", "assistant y"]


# Extending


def test_an_extension_adds_only_what_is_new() -> None:
    """spec/01 check 143: known events are passed over, the cursor moves on."""
    built = transcript(user(1, "a"), answer(2, "b"))
    extended = built.extended_by([answer(2, "b"), user(3, "c"), user(1, "a")])
    assert lines(extended) == ["user a", "assistant b", "user c"]
    assert (extended.last_sequence, built.last_sequence) == (3, 2)
    assert extended.extended_by([]) is extended
    assert extended.extended_by([user(3, "c")]) is extended


def test_an_extension_completes_a_stream_and_takes_back_a_dead_attempt() -> None:
    """spec/03 §3.12: a cut through either changes nothing."""
    streaming = transcript(user(1, "a"), chunk(2, "He"))
    assert lines(streaming.extended_by([chunk(3, "llo")])) == ["user a", "assistant Hello"]
    assert lines(streaming.extended_by([answer(3, "Hello!")])) == ["user a", "assistant Hello!"]
    again = streaming.extended_by([recovered(3, 1, 2), user(4, "a")])
    assert (lines(again), again.open_streams) == (["user a"], 0)
    assert again.messages[0].metadata["sequence_number"] == 4


RUNS = st.sampled_from(["run_1", "run_2", None])
WORDS = st.sampled_from(["a", "b", "ab", ""])
STEPS = st.one_of(
    st.tuples(st.just("user"), RUNS, WORDS),
    st.tuples(st.just("chunk"), RUNS, WORDS),
    st.tuples(st.just("chunk"), RUNS, WORDS),
    st.tuples(st.just("answer"), RUNS, WORDS),
    st.tuples(st.just("call"), RUNS, WORDS),
    st.tuples(st.just("result"), RUNS, WORDS),
    st.tuples(st.just("end"), RUNS, WORDS),
    st.tuples(st.just("recovered"), RUNS, WORDS),
)


def log_of(steps: Sequence[tuple[str, str | None, str]]) -> list[Event]:
    makers: dict[str, Callable[[int, str | None, str], Event]] = {
        "user": lambda number, run, word: user(number, word, run),
        "chunk": lambda number, run, word: chunk(number, word, run),
        "answer": lambda number, run, word: answer(number, word, run),
        "call": lambda number, run, word: call(number, f"tc_{word}", run=run),  # type: ignore[arg-type]
        "result": lambda number, run, word: result(number, word, f"tc_{word}", run=run),  # type: ignore[arg-type]
        "end": lambda number, run, _word: said(number, _T.RUN_FAILED, run),
        "recovered": lambda number, run, _word: recovered(number, 1, number - 1, run),  # type: ignore[arg-type]
    }
    return [makers[kind](number, run, word) for number, (kind, run, word) in enumerate(steps, 1)]


@given(st.lists(STEPS, max_size=25), st.data())
def test_an_extended_transcript_is_a_rebuilt_one(steps: list[tuple[str, str | None, str]], data: st.DataObject) -> None:
    """spec/03 §3.12: wherever the log is cut, however often."""
    events = log_of(steps)
    whole = Transcript.from_events(events, "ses_1")
    cuts = sorted(data.draw(st.lists(st.integers(0, len(events)), max_size=3)))
    built = Transcript(session_id="ses_1")
    for start, end in zip([0, *cuts], [*cuts, len(events)], strict=True):
        built = built.extended_by(events[start:end])
    assert built == whole


# Budgets


def texts(*lengths: int) -> Transcript:
    """A conversation of user messages of these lengths."""
    return transcript(*(user(number, "x" * length) for number, length in enumerate(lengths, 1)))


def lengths(built: Transcript) -> list[int]:
    return [message.length for message in built.messages]


@pytest.mark.parametrize(
    ("budget", "kept"),
    [
        (Budget(), [5, 1, 4, 2]),
        (Budget(max_chars=7), [1, 4, 2]),
        (Budget(max_chars=6), [4, 2]),
        (Budget(max_chars=5), [2]),
        (Budget(max_chars=1), []),
        (Budget(max_tokens_approx=1), [2]),
        (Budget(max_tokens_approx=3), [5, 1, 4, 2]),
        (Budget(max_tokens_approx=3, chars_per_token=2), [4, 2]),
        (Budget(max_messages=2), [4, 2]),
        (Budget(max_messages=9), [5, 1, 4, 2]),
        (Budget(max_messages=3, max_chars=6), [4, 2]),
        (Budget(max_messages=1, max_chars=6), [2]),
        (Budget(max_chars=100, max_tokens_approx=1), [2]),
        (Budget(max_chars=2, max_tokens_approx=100), [2]),
    ],
)
def test_the_newest_that_fit_are_kept(budget: Budget, kept: list[int]) -> None:
    """spec/01 checks 139-142; §21 (48): of two bounds on text the smaller one holds."""
    built = texts(5, 1, 4, 2)
    assert lengths(built.within(budget)) == kept
    assert built.within(budget).last_sequence == 4


def test_a_message_that_does_not_fit_ends_the_walk() -> None:
    """spec/01 §10: older, shorter ones are not picked out behind it."""
    assert lengths(texts(1, 9, 1).within(Budget(max_chars=5))) == [1]


def test_the_length_of_a_tool_message_is_what_the_provider_reads() -> None:
    """spec/01 §21 (48, 50): name, input and output as JSON."""
    [called, returned] = transcript(call(1, path="/tmp"), result(2, {"files": ["ä"]})).messages
    assert called.length == len("ls" + '{"path": "/tmp"}')
    assert returned.length == len("ls" + '{"files": ["ä"]}')
    assert lengths(transcript(result(1, "x" * 9, name="")))[0] == 9


TOOLS = (
    user(1, "?"), call(2, "a"), call(3, "b"), result(4, "1", "a"), result(5, "2", "b"), answer(6, "both"),
    call(7, "c"), result(8, "3", "c"), answer(9, "done"),
)  # fmt: skip


@pytest.mark.parametrize(("most", "first"), [(9, 0), (8, 1), (7, 5), (6, 5), (5, 5), (4, 5), (3, 6), (2, 8), (1, 8)])
def test_no_budget_cuts_between_a_call_and_its_result(most: int, first: int) -> None:
    """spec/01 §21 (48): a provider refuses a result whose call it has not seen; parallel calls stay together."""
    built = transcript(*TOOLS)
    assert built.within(Budget(max_messages=most)).messages == built.messages[first:]


def test_calls_of_different_runs_are_not_confused() -> None:
    """Providers number their calls per conversation."""
    built = transcript(
        call(1, "1", run="a"), result(2, "x", "1", run="a"), call(3, "1", run="b"), result(4, "y", "1", run="b")
    )
    assert lines(built.within(Budget(max_messages=2))) == lines(built)[2:]
    assert lines(built.within(Budget(max_messages=3))) == lines(built)[2:]


@given(st.lists(STEPS, max_size=25), st.integers(1, 8), st.integers(1, 20))
def test_a_budget_holds_whatever_was_said(
    steps: list[tuple[str, str | None, str]], max_messages: int, max_chars: int
) -> None:
    """spec/01 checks 139, 141: the end of the conversation, within both bounds, and it can be extended."""
    built = Transcript.from_events(log_of(steps), "ses_1")
    kept = built.within(Budget(max_messages=max_messages, max_chars=max_chars))
    assert len(kept.messages) <= max_messages
    assert sum(lengths(kept)) <= max_chars
    assert built.messages[len(built.messages) - len(kept.messages) :] == kept.messages
    assert kept.extended_by([user(99, "next", "run_3")]).messages[-1 - kept.open_streams].content == "next"


@pytest.mark.parametrize("name", ["max_messages", "max_chars", "max_tokens_approx", "chars_per_token"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "5", True])
def test_bounds_that_are_none_are_refused_by_name(name: str, value: Any) -> None:
    """DESIGN §8: never clamped, nor passed over."""
    error = refused(lambda: Budget(**{name: value}))
    assert (error.code, error.details) == (ErrorCode.VALIDATION_ERROR, {"field": name})

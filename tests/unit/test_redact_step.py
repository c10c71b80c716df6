"""The step of the event path behind which there is no secret: events, and texts that stream."""

from __future__ import annotations

from typing import Any

import pytest

from asm_core.domain.event import Event, EventType
from asm_core.domain.redaction import OFF, RedactionOptions, Redactor
from asm_core.domain.reducer import RunResult
from asm_core.pipeline import ingest, ingest_end
from asm_core.pipeline.context import RunContext
from asm_core.pipeline.validate import WARNINGS_KEY
from asm_core.ports.provider import RawEvent
from tests.builders import a_context
from tests.fixtures.secrets import PLANTED, REFERENCE

MARK = "[REDACTED]"
GITHUB = REFERENCE[6].secret
WHOLE = f"use {GITHUB} here."


def a_chunk(text: str, **data: Any) -> RawEvent:
    return RawEvent(EventType.MESSAGE_STREAMED, {"content": text, "delta": text} | data)


def played(ctx: RunContext, *raws: RawEvent) -> list[Event]:
    return [event for raw in raws for event in ingest(raw, ctx)]


def texts(events: list[Event]) -> list[str]:
    """Content of the chunks; delta is the same."""
    chunks = [event for event in events if event.type is EventType.MESSAGE_STREAMED]
    assert all(chunk.data["content"] == chunk.data["delta"] for chunk in chunks)
    return [chunk.data["content"] for chunk in chunks]


def test_what_an_adapter_emits_is_stored_without_secrets() -> None:
    """spec/01 check 52, spec/02 check 206: data and metadata; no warning is added."""
    raw = RawEvent("tool_call_completed", {"tool_name": "x", "tool_output": [GITHUB]}, {"note": GITHUB})
    [event] = ingest(raw, a_context())
    assert (event.data["tool_output"], event.metadata) == ([MARK], {"note": MARK})


def test_options_come_with_the_run() -> None:
    """spec/02 checks 200, 234; off: untouched, spec/01 check 52."""
    raw = RawEvent("message_received", {"content": GITHUB, "role": "assistant"})
    categorized = Redactor(RedactionOptions(replacement="categorized"))
    [event] = ingest(raw, a_context(redactor=categorized))
    assert event.data["content"] == "[REDACTED:github_pat]"
    [event] = ingest(raw, a_context(redactor=OFF))
    assert event.data["content"] == GITHUB
    assert texts(played(a_context(redactor=OFF), a_chunk(GITHUB[:9]), a_chunk(GITHUB[9:]))) == [GITHUB[:9], GITHUB[9:]]


def test_warnings_are_about_what_was_sent() -> None:
    """spec/02 check 200: redaction adds none and hides none."""
    [event] = ingest(RawEvent("message_received", {"content": GITHUB}), a_context())
    assert event.metadata[WARNINGS_KEY] == ["role is missing"]


def test_an_unknown_type_may_be_a_secret_too() -> None:
    [event] = ingest(RawEvent(GITHUB, {}), a_context())
    assert GITHUB not in str(event)


@pytest.mark.parametrize("cut", range(1, len(WHOLE)))
def test_a_secret_in_two_chunks_is_replaced(cut: int) -> None:
    """spec/02 check 236: every chunk stays an event, under its own id and in its order."""
    ctx = a_context()
    events = [*played(ctx, a_chunk(WHOLE[:cut]), a_chunk(WHOLE[cut:])), *ingest_end(ctx)]
    assert "".join(texts(events)) == f"use {MARK} here."
    assert len({event.id for event in events}) == len(events) == 2


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.kind)
def test_a_streamed_answer_reads_like_its_message(planted: Any) -> None:
    """Chunk by chunk the same as the message as a whole, and neither shows the secret."""
    ctx = a_context()
    parts = [planted.text[at : at + 7] for at in range(0, len(planted.text), 7)]
    message = RawEvent(EventType.MESSAGE_RECEIVED, {"content": planted.text, "role": "assistant"})
    events = played(ctx, *map(a_chunk, parts), message)
    assert "".join(texts(events)) == events[-1].data["content"]
    assert len(events) == len(parts) + 1
    assert planted.secret not in events[-1].data["content"]
    assert not ingest_end(ctx)


def test_chunks_that_cannot_become_a_secret_pass_as_they_are() -> None:
    """DESIGN §5: token-rate streaming stays."""
    ctx = a_context()
    chunks = ["The quick ", "brown fox. ", "It jumps, ", "12 times!\n"]
    assert texts(played(ctx, *map(a_chunk, chunks))) == chunks
    assert not ingest_end(ctx)


@pytest.mark.parametrize(
    "kind", [kind for kind in EventType if kind.startswith(("message_re", "tool_", "turn_", "token"))]
)
def test_what_is_held_back_comes_before_anything_else(kind: str) -> None:
    """The chunk waits as a whole; nothing is lost when no secret came of it."""
    ctx = a_context()
    assert ingest(a_chunk(f"see {GITHUB[:20]}"), ctx) == []
    held, other = ingest(RawEvent(kind, {"n": 1}), ctx)
    assert (texts([held]), other.type) == ([f"see {GITHUB[:20]}"], kind)


def test_a_secret_around_another_event_is_never_whole() -> None:
    """The beginning had to go; the rest is still known for what it is."""
    ctx = a_context()
    usage = RawEvent(EventType.TOKEN_USAGE_UPDATED, {"input_tokens": 1, "output_tokens": 1})
    events = played(ctx, a_chunk(GITHUB[:20]), usage, a_chunk(f"{GITHUB[20:]} end."))
    assert "".join(texts(events)) == f"{GITHUB[:20]}{MARK} end."


def test_a_new_message_does_not_go_on_with_the_one_before() -> None:
    ctx = a_context()
    message = RawEvent(EventType.MESSAGE_RECEIVED, {"content": "the password", "role": "assistant"})
    events = played(ctx, a_chunk("the password"), message, a_chunk(": is what you need. "))
    assert texts(events) == ["the password", ": is what you need. "]


def test_texts_that_stream_at_the_same_time_are_kept_apart() -> None:
    ctx = a_context()
    halves = GITHUB[:20], GITHUB[20:]
    chunks = [a_chunk(half, item_id=item) for half in halves for item in ("a", "b")]
    events = [*played(ctx, *chunks), *ingest_end(ctx)]
    for item in ("a", "b"):
        assert "".join(texts([event for event in events if event.data["item_id"] == item])) == MARK


def test_what_is_held_back_at_the_end_is_let_go() -> None:
    """Once; the run's result has it too."""
    ctx = a_context()
    result = RunResult()
    events = [*played(ctx, a_chunk("Enter your password"), a_chunk(":")), *ingest_end(ctx)]
    for event in events:
        result.observe(event)
    assert result.content == "Enter your password:"
    assert ingest_end(ctx) == []


def test_only_the_increment_counts_where_an_adapter_adds_up() -> None:
    """`content` may be all the text so far: it shows no more than its redacted beginning."""
    ctx = a_context()
    so_far, contents, deltas = "", [], []
    for part in (WHOLE[:14], WHOLE[14:50], " Bye."):
        so_far += part
        for event in played(ctx, RawEvent(EventType.MESSAGE_STREAMED, {"content": so_far, "delta": part})):
            contents.append(event.data["content"])
            deltas.append(event.data["delta"])
    assert "".join(deltas) == f"use {MARK} here. Bye."
    assert contents == [f"use {MARK} here.", f"use {MARK} here.", f"use {MARK} here. Bye."]


@pytest.mark.parametrize("data", [{}, {"content": None}, {"content": ["x"]}, {"content": "", "delta": ""}])
def test_a_chunk_without_text_is_an_event_like_any_other(data: Any) -> None:
    [event] = ingest(RawEvent(EventType.MESSAGE_STREAMED, data | {"more": GITHUB}), a_context())
    assert event.data == data | {"more": MARK}


@pytest.mark.parametrize("key", ["content", "delta"])
def test_the_text_may_stand_under_one_key(key: str) -> None:
    ctx = a_context()
    events = [
        *played(ctx, RawEvent(EventType.MESSAGE_STREAMED, {key: f"a {GITHUB}", "more": GITHUB})),
        *ingest_end(ctx),
    ]
    assert [event.data for event in events] == [{key: f"a {MARK}", "more": MARK}]

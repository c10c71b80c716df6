"""The pipeline and its sinks: what each gets, and that the failure of one is nobody else's."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from asm_core.bus.memory import MemoryBus
from asm_core.domain.errors import AsmError
from asm_core.domain.event import Event
from asm_core.rendering import (
    CallbackSink,
    CompactRenderer,
    FileSink,
    JSONLSink,
    PassthroughRenderer,
    PubSubSink,
    TTYSink,
    VerboseRenderer,
    arender_stream,
    render_stream,
)
from asm_core.rendering.pubsub import Message, encode, run_topic, topic_of, type_topic
from asm_core.testing.builders import build_event
from tests.fixtures.rendering import EVERYTHING, GOLDEN, SIMPLE, TOOL, an_event

PLAIN = CompactRenderer


class Told:
    """A sink that remembers what it is told, and fails where it should."""

    def __init__(self, failing: str = "") -> None:
        self.calls: list[str] = []
        self.events: list[Event] = []
        self._failing = failing

    async def open(self) -> None:
        self._call("open")

    async def write(self, text: str) -> None:
        self._call("write")

    async def write_event(self, event: Event, text: str) -> None:
        self.events.append(event)
        self._call("write_event")

    async def flush(self) -> None:
        self._call("flush")

    async def close(self) -> None:
        self._call("close")

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name == self._failing:
            raise OSError(f"{name} failed")


def compact() -> CompactRenderer:
    return CompactRenderer(color=False)


# Pipeline


async def test_every_sink_gets_every_event_and_the_same_text() -> None:
    """Also from an asynchronous stream; the report counts."""
    seen: list[tuple[str, str]] = []
    screen = io.StringIO()

    async def live() -> AsyncIterator[Event]:
        for event in TOOL:
            yield event

    callback = CallbackSink(lambda event, text: seen.append((event.type, text)))
    report = await arender_stream(live(), renderer=compact(), sinks=[TTYSink(screen), callback])
    assert screen.getvalue().encode() == (GOLDEN / "compact-tool.txt").read_bytes()
    assert [kind for kind, _ in seen] == [event.type for event in TOOL]
    assert "".join(text for _, text in seen) in screen.getvalue()
    assert (report.events, report.tools, report.sink_errors, report.stopped_by) == (8, 1, (), "end")


def test_the_same_without_an_event_loop() -> None:
    screen = io.StringIO()
    assert render_stream(SIMPLE, renderer=compact(), sinks=[TTYSink(screen)]).events == 6
    assert screen.getvalue().encode() == (GOLDEN / "compact-simple.txt").read_bytes()


def test_a_stream_without_events_succeeds() -> None:
    told = Told()
    assert render_stream([], renderer="compact", sinks=[told]).events == 0
    assert told.calls == ["open", "write", "flush", "close"]


def test_with_the_passthrough_the_events_are_told_all_the_same() -> None:
    texts: list[str] = []
    render_stream(EVERYTHING, renderer="passthrough", sinks=[CallbackSink(lambda _, text: texts.append(text))])
    assert texts == [""] * len(EVERYTHING)


def test_a_sink_that_cannot_be_opened_stops_it_before_the_first_event() -> None:
    """Those opened before are closed."""
    first, last = Told(), Told()

    def untouched() -> Iterator[Event]:
        raise AssertionError("an event was taken")
        yield

    with pytest.raises(OSError, match="open failed"):
        render_stream(untouched(), renderer="compact", sinks=[first, Told("open"), last])
    assert (first.calls, last.calls) == (["open", "close"], [])


@pytest.mark.parametrize("failing", ["write_event", "write", "flush", "close"])
def test_a_failing_sink_is_left_out_and_the_others_go_on(failing: str) -> None:
    """Told in the report, closed, and asked no more; the others lack nothing."""
    bad, good = Told(failing), Told()
    report = render_stream(SIMPLE, renderer="compact", sinks=[bad, good])
    assert good.events == SIMPLE and good.calls[-3:] == ["write", "flush", "close"]
    assert [(error.sink, str(error.error)) for error in report.sink_errors] == [("Told", f"{failing} failed")]
    assert bad.calls.count(failing) == 1 and bad.calls[-1] == "close"
    assert report.stopped_by == "end"


def test_a_sink_that_fails_before_it_waits_is_no_different() -> None:
    """One whose method is a plain function."""

    class Plain(Told):
        def write_event(self, event: Event, text: str) -> None:  # type: ignore[override]
            raise OSError("plain")

    good = Told()
    report = render_stream(SIMPLE, renderer="compact", sinks=[Plain(), good])
    assert [str(error.error) for error in report.sink_errors] == ["plain"] and good.events == SIMPLE


def test_a_failure_is_raised_in_the_end_on_request() -> None:
    good = Told()
    with pytest.raises(OSError, match="write_event failed"):
        render_stream(SIMPLE, renderer="compact", sinks=[Told("write_event"), good], strict=True)
    assert good.events == SIMPLE


def test_when_nobody_is_left_it_stops() -> None:
    """An endless stream does not hold a command whose reader has gone."""
    bad = Told("write_event")
    report = render_stream(SIMPLE, renderer="compact", sinks=[bad])
    assert (report.stopped_by, report.events) == ("no_sink_left", 1)


def test_a_stream_that_breaks_leaves_sinks_flushed_and_closed() -> None:
    told = Told()

    def broken() -> Iterator[Event]:
        yield SIMPLE[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render_stream(broken(), renderer="compact", sinks=[told])
    assert told.calls == ["open", "write_event", "write", "flush", "close"]


def test_a_full_disk_loses_nothing_of_the_others(tmp_path: Path) -> None:
    """One log on a full device, one on a good one."""
    log = tmp_path / "run.log"
    report = render_stream(
        TOOL,
        renderer=compact(),
        sinks=[FileSink("/dev/full"), JSONLSink("/dev/full"), FileSink(log), JSONLSink(tmp_path / "run.jsonl")],
    )
    assert {error.sink for error in report.sink_errors} == {"FileSink", "JSONLSink"}
    assert log.read_bytes() == (GOLDEN / "compact-tool.txt").read_bytes()
    assert len((tmp_path / "run.jsonl").read_text().splitlines()) == len(TOOL)


def test_a_sink_may_have_a_renderer_of_its_own(tmp_path: Path) -> None:
    """A log beside a terminal; a renderer that several sinks share is asked once."""
    log, screen = tmp_path / "run.log", io.StringIO()
    verbose = VerboseRenderer(color=False)
    sinks = [TTYSink(screen), (FileSink(log), verbose), (TTYSink(io.StringIO()), verbose)]
    render_stream(SIMPLE, renderer=compact(), sinks=sinks)
    assert screen.getvalue().encode() == (GOLDEN / "compact-simple.txt").read_bytes()
    assert log.read_bytes() == (GOLDEN / "verbose-simple.txt").read_bytes()
    assert verbose.event_count == len(SIMPLE)


def test_a_renderer_that_fails_takes_only_its_text_along() -> None:
    class Broken(PassthroughRenderer):
        def render_event(self, _event: Event) -> str:
            raise ValueError("no")

    told = Told()
    render_stream(SIMPLE, renderer=Broken(), sinks=[told])
    assert told.events == SIMPLE


def test_an_unknown_renderer_is_refused() -> None:
    with pytest.raises(AsmError, match="renderer must be one of compact"):
        render_stream([], renderer="loud")


async def test_a_coroutine_function_is_awaited() -> None:
    """And fails, alone, where there is no event loop to wait in."""
    seen: list[Event] = []

    async def slow(event: Event, _text: str) -> None:
        await asyncio.sleep(0)
        seen.append(event)

    await arender_stream(SIMPLE, renderer="compact", sinks=[CallbackSink(slow)])
    assert seen == SIMPLE
    told = Told()
    report = render_stream(SIMPLE, renderer="compact", sinks=[CallbackSink(slow), told])
    assert "arender_stream" in str(report.sink_errors[0].error) and told.events == SIMPLE


# Sinks


def test_a_terminal_gets_the_text_as_it_is() -> None:
    screen = io.StringIO()
    render_stream(SIMPLE, renderer=PLAIN(), sinks=[TTYSink(screen)])
    assert screen.getvalue().encode() == (GOLDEN / "compact-color-simple.txt").read_bytes()


def test_a_terminal_that_lacks_a_character_shows_another() -> None:
    raw = io.BytesIO()
    screen = io.TextIOWrapper(raw, encoding="ascii")
    report = render_stream(SIMPLE, renderer="studio", sinks=[TTYSink(screen)])
    assert not report.sink_errors and b"session started" in raw.getvalue()


def test_a_file_holds_no_codes(tmp_path: Path) -> None:
    """Nor returns to a line's start; its folders are made; an open file is left open, with what stands in it."""
    path = tmp_path / "new" / "run.log"
    render_stream(TOOL, renderer=PLAIN(), sinks=[FileSink(path)])
    assert path.read_bytes() == (GOLDEN / "compact-tool.txt").read_bytes()
    handle = io.StringIO("header\n")
    handle.seek(0, io.SEEK_END)
    sink = FileSink(io=handle)
    assert not sink.owns_io and FileSink(path).owns_io
    asyncio.run(sink.write("line one\r\x1b[2Kline two\n\x1b]0;x\x07\x1b[?25l"))
    render_stream([], renderer="passthrough", sinks=[sink])
    assert handle.getvalue() == "header\nline oneline two\n"


def test_a_file_may_be_added_to(tmp_path: Path) -> None:
    path = tmp_path / "run.log"
    for append in (False, True, True):
        render_stream(SIMPLE, renderer=compact(), sinks=[FileSink(path, append=append)])
    assert path.read_bytes() == (GOLDEN / "compact-simple.txt").read_bytes() * 3


@pytest.mark.parametrize("make", [FileSink, JSONLSink])
def test_a_file_needs_a_path(make: Any, tmp_path: Path) -> None:
    with pytest.raises(AsmError, match="path or io option is required"):
        make()
    with pytest.raises(AsmError, match=f"cannot open {tmp_path}: Is a directory"):
        render_stream([], renderer="compact", sinks=[make(tmp_path)])


async def test_lines_are_in_the_file_before_it_is_closed(tmp_path: Path) -> None:
    text, lines = tmp_path / "a.log", tmp_path / "a.jsonl"
    sinks = (FileSink(text), JSONLSink(lines))
    for sink in sinks:
        await sink.open()
        await sink.write_event(SIMPLE[0], "a line\n")
        await sink.flush()
    assert text.read_text() == "a line\n" and len(lines.read_text().splitlines()) == 1
    for sink in (*sinks, *sinks):
        await sink.close()


def jsonl(events: list[Event], path: Path, **options: Any) -> list[dict[str, Any]]:
    render_stream(events, renderer="compact", sinks=[JSONLSink(path, **options)])
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_full_lines_hold_the_whole_event(tmp_path: Path) -> None:
    """Without what is empty, and with what it takes to write the event again."""
    lines = jsonl([*SIMPLE, build_event(type="message_streamed", data={"set": {1}})], tmp_path / "a.jsonl")
    assert lines[0] == {
        "ts": "2025-06-01T12:00:00.000000Z", "type": "run_started", "data": SIMPLE[0].data,
        "session_id": "ses_test_123", "run_id": "run_test_456", "seq": 1, "id": "evt_test_000001", "schema_version": 1,
    }  # fmt: skip
    assert [line["type"] for line in lines[:6]] == [event.type for event in SIMPLE]
    assert lines[6]["data"] == {"set": [1]} and "run_id" not in lines[6]


def test_compact_lines_say_kinds_and_sizes(tmp_path: Path) -> None:
    """The event's own time; bytes, not characters."""
    extra = [
        an_event("message_streamed", delta=""),
        an_event("message_streamed", content="ü"),
        an_event("tool_call_completed", tool_name="x", tool_output={"a": 1}),
        an_event("token_usage_updated", cost_usd=0.5),
        an_event("run_failed", error_message="x" * 121),
        an_event("error_occurred"),
        an_event("run_cancelled"),
        an_event("policy_violation"),
    ]
    lines = jsonl([*TOOL, *extra], tmp_path / "a.jsonl", mode="compact")
    assert {line["t"] for line in lines} == {1748779200000}
    assert [line["e"] for line in lines] == [
        {"t": "rs", "m": "sonnet-4-5"}, {"t": "ms", "l": 22}, {"t": "ts", "n": "Read"},
        {"t": "tc", "n": "Read", "l": 20}, {"t": "ms", "l": 29}, {"t": "mr"}, {"t": "tu", "i": 200, "o": 80},
        {"t": "rc", "sr": "end"}, {"t": "ms", "l": 0}, {"t": "ms", "l": 2}, {"t": "tc", "n": "x", "l": 7},
        {"t": "tu", "i": None, "o": None, "$": 0.5}, {"t": "rf", "x": f"{'x' * 120}..."}, {"t": "er"}, {"t": "rx"},
        {"t": "policy_violation"},
    ]  # fmt: skip


def test_json_lines_steer_no_terminal(tmp_path: Path) -> None:
    """Control characters are escaped, and read back as they were."""
    text = "\x1b[2J\x9b31m\x7f ü"
    path = tmp_path / "a.jsonl"
    [line] = jsonl([an_event("message_streamed", delta=text)], path)
    assert line["data"]["delta"] == text
    assert not [c for c in path.read_text() if c != "\n" and (c < " " or "\x7f" <= c <= "\x9f")]


def test_an_unknown_mode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AsmError, match="mode must be full or compact"):
        JSONLSink(tmp_path / "x", mode="loud")  # type: ignore[arg-type]


@pytest.mark.parametrize("callback", [None, "x", lambda event: None])
def test_a_callback_takes_an_event_and_its_text(callback: Any) -> None:
    with pytest.raises(AsmError, match="callback must be a function"):
        CallbackSink(callback)


# Publishing


class Sent:
    def __init__(self, failing: bool = False) -> None:
        self.messages: list[tuple[str, Message]] = []
        self._failing = failing

    def __call__(self, topic: str, message: Message) -> None:
        if self._failing:
            raise ConnectionError("down")
        self.messages.append((topic, message))


def published(sent: Sent, **options: Any) -> PubSubSink:
    sink = PubSubSink(sent, **options)
    render_stream(SIMPLE, renderer=compact(), sinks=[sink])
    return sink


def test_events_are_published_by_session() -> None:
    """In order, as tag, session and the same event; each that went out is counted."""
    sent = Sent()
    sink = published(sent)
    assert sent.messages == [("asm:session:ses_test_123", ("asm_event", "ses_test_123", event)) for event in SIMPLE]
    assert (sink.broadcast_count, sink.error_count) == (6, 0)


@pytest.mark.parametrize(
    ("options", "topics"),
    [
        ({"topic": "all"}, ["all"]),
        ({"scope": "run"}, ["asm:session:ses_test_123:run:run_test_456"]),
        ({"scope": "type", "prefix": "p"}, ["p:session:ses_test_123:type:run_started"]),
        ({"topic_fn": lambda event: event.type}, ["run_started"]),
        ({"topic_fn": lambda event: [event.type, "all"]}, ["run_started", "all"]),
    ],
)
def test_topics_by_choice(options: dict[str, Any], topics: list[str]) -> None:
    sent = Sent()
    sink = published(sent, **options)
    assert [topic for topic, _ in sent.messages][: len(topics)] == topics
    assert sink.broadcast_count == len(SIMPLE) * len(topics)


def test_tag_and_text_by_choice() -> None:
    sent = Sent()
    published(sent, message_wrapper="mine", include_rendered=True)
    assert sent.messages[0][1] == ("mine", "ses_test_123", SIMPLE[0], "r+ sonnet-4-5")
    assert json.loads(encode(sent.messages[0][1])) == {
        "v": 1, "wrapper": "mine", "session_id": "ses_test_123", "event": SIMPLE[0].to_map(),
        "rendered": "r+ sonnet-4-5",
    }  # fmt: skip


def test_what_does_not_go_out_is_counted_and_the_sink_goes_on() -> None:
    sink = published(Sent(failing=True))
    assert (sink.broadcast_count, sink.error_count) == (0, 6)


@pytest.mark.parametrize(
    ("pubsub", "options", "said"),
    [
        (None, {}, "pubsub must be"),
        (None, {"topic": "x", "topic_fn": str}, "pubsub must be"),
        (lambda message: None, {}, "pubsub must be"),
        (Sent(), {"topic": "x", "topic_fn": str}, "exclude each other"),
        (Sent(), {"topic_fn": lambda: ""}, "function of an event"),
        (Sent(), {"scope": "fleet"}, "invalid scope"),
    ],
)
def test_bad_options_of_publishing(pubsub: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(AsmError, match=said):
        PubSubSink(pubsub, **options)


def test_topics_as_they_are_built() -> None:
    """An id cannot pretend to be a part of the topic."""
    assert topic_of(SIMPLE[0]) == "asm:session:ses_test_123"
    assert topic_of(SIMPLE[0], prefix="p") == "p:session:ses_test_123"
    assert topic_of(build_event(), scope="run") == "asm:session:ses_test_000001"
    assert run_topic("a:run:b", "c") == "asm:session:a%3Arun%3Ab:run:c"
    assert type_topic("s", "run_started") == "asm:session:s:type:run_started"
    with pytest.raises(AsmError, match="invalid scope"):
        topic_of(SIMPLE[0], scope="fleet")  # type: ignore[arg-type]


async def test_the_bus_takes_stored_events_to_a_sessions_followers() -> None:
    """One without a number is no message of the bus."""
    bus = MemoryBus()
    async with bus.listen() as listener:
        await listener.watch("ses_test_123")
        sink = PubSubSink(bus)
        await arender_stream([*SIMPLE, build_event()], renderer="passthrough", sinks=[sink])
        messages = listener.messages()
        numbers = [(await anext(messages))[1][0].sequence_number for _ in SIMPLE]
    assert numbers == [1, 2, 3, 4, 5, 6]
    assert (sink.broadcast_count, sink.error_count) == (6, 1)

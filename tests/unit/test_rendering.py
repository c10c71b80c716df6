"""Renderers: golden outputs byte for byte, what each event looks like, and text that means harm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asm_core.domain.event import Event, EventType
from asm_core.ports.rendering import Renderer
from asm_core.rendering import RENDERERS as BY_NAME
from asm_core.rendering import (
    CompactRenderer,
    LinesRenderer,
    PassthroughRenderer,
    StudioRenderer,
    VerboseRenderer,
    ansi,
    without_superseded,
)
from asm_core.rendering.ansi import strip_ansi
from asm_core.rendering.text import cost, first_present, short_model, short_reason, truncate
from tests.fixtures.rendering import EVERYTHING, GOLDEN, SIMPLE, STREAMS, TOOL, an_event, shown

RENDERERS: dict[str, Callable[[], Renderer]] = {
    "compact": lambda: CompactRenderer(color=False),
    "compact-color": CompactRenderer,
    "compact-basic": lambda: CompactRenderer(color=False, extended=False),
    "verbose": lambda: VerboseRenderer(color=False),
    "verbose-color": VerboseRenderer,
    "studio": lambda: StudioRenderer(color=False),
    "studio-tty": lambda: StudioRenderer(tty=True),
    "studio-full": lambda: StudioRenderer(color=False, tool_output="full"),
    "lines": lambda: LinesRenderer(color=False),
    "lines-label": lambda: LinesRenderer(label="agent-1"),
    "passthrough": PassthroughRenderer,
}
NAMES = [f"{name}-{stream}" for name in RENDERERS for stream in STREAMS]

SPECIFIED = {
    "compact-simple": "r+ sonnet-4-5 >> Hello world\nmsg Hello world tk:100/20 r-:end\n6 events, 0 tools\n",
    "compact-tool": (
        "r+ sonnet-4-5 >> Let me read that file.\nt+Read t-Read tr:defmodule Foo do\nend >> The file contains module"
        " Foo.\nmsg Let me read that file. The file contains module Foo. tk:200/80 r-:end\n8 events, 1 tools\n"
    ),
    "verbose-simple": (
        "[run_started] model=claude-sonnet-4-5-20250929 session_id=ses_test_123\nHello world\n[message_received]"
        " role=assistant content=Hello world\n[token_usage] input=100 output=20\n[run_completed] stop_reason=end_turn"
        " tokens=100/50\n--- 6 events, 0 tools ---\n"
    ),
    "verbose-tool": (
        "[run_started] model=claude-sonnet-4-5-20250929 session_id=ses_test_123\nLet me read that file.\n"
        '[tool_call_started] name=Read id=tu_001 input={"path":"/foo/bar.ex"}\n[tool_call_completed] name=Read'
        " output=defmodule Foo do\nend\nThe file contains module Foo.\n[message_received] role=assistant content=Let me"
        " read that file. The file contains module Foo.\n[token_usage] input=200 output=80\n[run_completed]"
        " stop_reason=end_turn tokens=100/50\n--- 8 events, 1 tools ---\n"
    ),
    "studio-simple": (
        "\n  ● claude-sonnet-4-5-20250929 session started\n\n  Hello world\n\n"
        "  ● Session complete (end_turn) — 100/20 tokens, 0 tools\n"
    ),
    "studio-tool": (
        "\n  ● claude-sonnet-4-5-20250929 session started\n\n  Let me read that file.\n  ◐ Reading /foo/bar.ex\n"
        "  ✓ Read /foo/bar.ex (2 lines)\n\n  The file contains module Foo.\n\n"
        "  ● Session complete (end_turn) — 200/80 tokens, 1 tools\n"
    ),
}
"""Spec 05 §8, letter by letter."""


@pytest.mark.parametrize("name", NAMES)
def test_golden(name: str) -> None:
    """Byte for byte what tests/golden/rendering holds."""
    renderer, _, stream = name.rpartition("-")
    assert shown(RENDERERS[renderer](), STREAMS[stream]).encode() == (GOLDEN / f"{name}.txt").read_bytes()


@pytest.mark.parametrize("name", SPECIFIED)
def test_the_golden_files_are_those_of_the_specification(name: str) -> None:
    assert (GOLDEN / f"{name}.txt").read_bytes() == SPECIFIED[name].encode()


# Primitives


@pytest.mark.parametrize(
    ("model", "short"),
    [
        ("claude-sonnet-4-5-20250929", "sonnet-4-5"), ("claude-opus-4-6-20250801", "opus-4-6"),
        ("gpt-5.3-codex", "gpt-5.3-codex"), ("anthropic.claude", "claude"), (None, ""), ("", ""),
    ],
)  # fmt: skip
def test_a_models_name_is_shortened(model: Any, short: str) -> None:
    assert short_model(model) == short


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [
        (0.01234, 4, "0.0123"), (0.5, 4, "0.5"), (2, 4, "2.0"), (0.00001, 6, "0.00001"), (0.0, 4, "0.0"),
        (None, 4, ""), (True, 4, ""), ("1", 4, ""), (float("nan"), 4, ""), (10**400, 4, ""),
    ],
)  # fmt: skip
def test_a_cost_is_never_scientific(value: Any, decimals: int, text: str) -> None:
    """Trailing zeros go but for one; what is no number is no cost."""
    assert cost(value, decimals) == text


def test_reasons_previews_and_what_counts_as_present() -> None:
    assert [short_reason(reason) for reason in ("tool_use", "END_TURN", "max_tokens", None)] == [
        "tool", "end", "max_tokens", "",
    ]  # fmt: skip
    assert [truncate("abcd", 4), truncate("abcde", 4), truncate(None, 4)] == ["abcd", "abcd...", ""]
    assert truncate({"ü": [1, 2]}, 99) == '{"ü":[1,2]}'
    assert first_present(None, False, "", "x") == ""


def test_colours_and_symbols() -> None:
    """Exact codes; nothing for empty text, the text itself where colours are off."""
    painted = [paint("x", True) for paint in (ansi.red, ansi.green, ansi.blue, ansi.magenta, ansi.cyan)]
    assert painted == [f"\x1b[0;{number}mx\x1b[0m" for number in (31, 32, 34, 35, 36)]
    assert [ansi.dim("x", True), ansi.bold("x", True)] == ["\x1b[2mx\x1b[0m", "\x1b[1mx\x1b[0m"]
    assert (ansi.red("x", False), ansi.red("", True)) == ("x", "")
    assert (ansi.SUCCESS, ansi.FAILURE, ansi.INFO, ansi.RUNNING) == ("✓", "✗", "●", "◐")
    assert ansi.CLEAR_LINE == "\r\x1b[2K"


# Compact


def test_compact_counts_and_shows_its_state() -> None:
    renderer = CompactRenderer()
    assert (renderer.color, CompactRenderer(color=False).color) == (True, False)
    for event in TOOL[:3]:
        renderer.render_event(event)
    assert (renderer.event_count, renderer.tool_count) == (3, 1)
    assert (renderer.current_tool, renderer.current_tool_id) == ("Read", "tu_001")
    renderer.render_event(TOOL[3])
    assert (renderer.current_tool, renderer.current_tool_id) == (None, None)


def test_compact_ignores_names_of_other_times() -> None:
    """`tool_use_id` and `name` say nothing."""
    renderer = CompactRenderer(color=False)
    assert renderer.render_event(an_event("tool_call_started", tool_use_id="tu_1", name="Read")) == "t+unknown"
    assert renderer.current_tool_id is None


@pytest.mark.parametrize(
    ("kind", "data", "token"),
    [
        ("token_usage_updated", {"input_tokens": 1, "cost_usd": 0.01234}, "tk:1/0 $0.0123"),
        ("run_completed", {"stop_reason": "tool_use", "cost_usd": 0.11111}, "r-:tool $0.1111"),
        ("run_completed", {}, "r-"),
        ("run_failed", {"error_message": "it broke"}, "! it broke"),
        ("run_failed", {}, "! unknown error"),
        ("run_cancelled", {}, "! cancelled"),
        ("run_timeout", {}, "! timeout"),
        ("message_streamed", {"delta": "", "content": "x"}, ">> "),
        ("tool_call_completed", {"tool_name": "bash", "tool_output": {"exit_code": 0}}, 't-bash tr:{"exit_code":0}'),
        ("tool_call_completed", {"tool_name": "x", "tool_output": "a" * 2001}, f"t-x tr:{'a' * 2000}..."),
        ("brand_new", {}, "?:brand_new"),
    ],
)  # fmt: skip
def test_compact_tokens(kind: str, data: dict[str, Any], token: str) -> None:
    assert CompactRenderer(color=False).render_event(an_event(kind, **data)) == token


def test_without_the_extension_only_the_ten_core_types_are_known() -> None:
    renderer = CompactRenderer(color=False, extended=False)
    unknown = [event.type for event in EVERYTHING if "?:" in renderer.render_event(event)]
    assert "tool_call_failed" in unknown and "session_created" in unknown and "message_sent" in unknown


# Verbose


@pytest.mark.parametrize(
    ("kind", "data", "line"),
    [
        ("tool_call_started", {"tool_name": "Read", "tool_input": {}}, "[tool_call_started] name=Read id="),
        ("tool_call_completed", {"tool_name": "Read", "tool_output": None}, "[tool_call_completed] name=Read"),
        ("tool_call_completed", {"tool_output": {"a": 1}}, '[tool_call_completed] name=unknown output={"a":1}'),
        ("token_usage_updated", {"cost_usd": 0.012345}, "[token_usage] input=0 output=0 cost=$0.012345"),
        ("message_received", {"content": "x"}, "[message_received] role=assistant content=x"),
        ("run_completed", {"token_usage": {"input_tokens": 200, "output_tokens": 100}, "cost_usd": 0.111111},
         "[run_completed] stop_reason=end_turn tokens=200/100 cost=$0.111111"),
        ("run_failed", {}, "[run_failed] error_code=unknown error_message=unknown error"),
        ("run_cancelled", {"reason": "user"}, "[run_cancelled]"),
        ("error_occurred", {"error_code": "e", "error_message": "m"}, "[error] error_code=e error_message=m"),
        ("brand_new", {"a": 1}, '[event] type=brand_new data={"a":1}'),
    ],
)  # fmt: skip
def test_verbose_lines(kind: str, data: dict[str, Any], line: str) -> None:
    assert VerboseRenderer(color=False).render_event(an_event(kind, **data)) == f"{line}\n"


# Lines


def test_lines_carry_the_number_that_a_reader_goes_on_behind() -> None:
    text = shown(LinesRenderer(color=False), SIMPLE)
    assert "    6 run_completed          end_turn\n" in text


def test_lines_with_a_label_stand_whole_beside_others() -> None:
    """Streamed text waits for its message, which then says it."""
    text = shown(LinesRenderer(label="agent-1", color=False), SIMPLE)
    assert all(line.startswith("agent-1 ") for line in text.splitlines())
    assert "assistant: Hello world" in text


# All of them


def test_the_passthrough_says_nothing() -> None:
    assert shown(PassthroughRenderer(), EVERYTHING) == ""


@pytest.mark.parametrize("name", RENDERERS)
def test_every_event_type_is_known(name: str) -> None:
    """No type of ours is shown as a question mark (only the basic compact form does, on purpose)."""
    renderer = RENDERERS[name]()
    shown_types = "".join(renderer.render_event(an_event(kind)) for kind in EventType)
    assert ("?:" in shown_types or "? " in strip_ansi(shown_types)) is (name == "compact-basic")


def test_what_dead_attempts_said_can_be_left_out() -> None:
    standing = without_superseded(EVERYTHING)
    assert [event.sequence_number for event in standing] == [1, 2, 3, *range(11, len(EVERYTHING) + 1)]


HOSTILE = "\x1b]0;title\x07\x1b[2J\x1b[31mred\x9b1m\x9d\x7f\x00\r\x08\x1b\x1b[0m[5m\u202e\ud800\tend\n"
texts = st.sampled_from([HOSTILE, "\x1b", "\x9b31m", "plain", "", "a\nb"]) | st.text(max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
KEYS = (
    "model", "session_id", "delta", "content", "role", "tool_name", "tool_call_id", "tool_input", "tool_output",
    "exit_code", "duration_ms", "status", "input_tokens", "output_tokens", "cost_usd", "stop_reason", "token_usage",
    "error_code", "error_message", "attempt", "superseded_from", "superseded_to", "policy", "kind", "label", "reason",
    "files_changed",
)  # fmt: skip
tool_inputs = st.dictionaries(
    st.sampled_from(["command", "args", "file_path", "path", "pattern", "url", "query", "description", "content"]),
    values | st.just("http://[x"),
    max_size=3,
)
payloads = st.dictionaries(st.sampled_from(KEYS), values, max_size=5) | st.builds(
    dict,
    tool_name=st.sampled_from(["bash", "Read", "Write", "Edit", "Glob", "Grep", "Task", "WebFetch", "WebSearch"]),
    tool_call_id=st.sampled_from(["t1", "t2"]),
    tool_input=tool_inputs,
    tool_output=values,
)
events = st.builds(
    lambda kind, data: replace(SIMPLE[0], type=kind, data=data, provider=HOSTILE),
    st.sampled_from([*EventType, HOSTILE]),
    payloads | values,
)


@settings(max_examples=150)
@given(st.lists(events, max_size=8))
def test_no_event_breaks_a_renderer_or_reaches_the_terminal_raw(stream: list[Event]) -> None:
    """Whatever events say: no error, and beside our own codes no control character but line ends and tabs."""
    for name, make in RENDERERS.items():
        text = strip_ansi(shown(make(), stream))
        assert not [c for c in text if c not in "\n\t" and (c < " " or "\x7f" <= c <= "\x9f")], name
        text.encode()


def test_a_hostile_text_keeps_its_words() -> None:
    """What would steer the terminal goes, the rest stays."""
    assert ansi.harmless(HOSTILE) == "red1m[5m\u202e\tend\n"


def test_renderers_are_found_by_name() -> None:
    assert {name: type(make()).__name__ for name, make in BY_NAME.items()} == {
        "compact": "CompactRenderer", "verbose": "VerboseRenderer", "studio": "StudioRenderer",
        "lines": "LinesRenderer", "passthrough": "PassthroughRenderer",
    }  # fmt: skip

"""Studio: phases, tools side by side, their summaries, and the live area of a terminal."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from asm_core.rendering import StudioRenderer, arender_stream
from asm_core.rendering.ansi import CLEAR_LINE, strip_ansi
from asm_core.rendering.studio.live import LiveSink
from asm_core.rendering.studio.tool_summary import (
    ToolInfo,
    format_duration,
    format_size,
    preview_lines,
    shorten_path,
    spinner_text,
    summary_line,
)
from tests.fixtures.rendering import SIMPLE, TOOL, an_event, shown


def plain(**options: Any) -> StudioRenderer:
    return StudioRenderer(color=False, **options)


def started(name: str, call: str = "t1", **given: Any) -> Any:
    return an_event("tool_call_started", tool_name=name, tool_call_id=call, tool_input=given)


def completed(name: str, output: Any, call: str = "t1", **data: Any) -> Any:
    return an_event("tool_call_completed", tool_name=name, tool_call_id=call, tool_output=output, **data)


def test_defaults_and_options() -> None:
    """Custom values are kept; an unknown form of tool output means the summary."""
    renderer = StudioRenderer()
    assert (renderer.color, renderer.tool_output, renderer.show_spinner, renderer.indent) == (True, "summary", True, 2)
    other = StudioRenderer(tool_output="full", show_spinner=False, indent=4, tty=True)
    assert (other.tool_output, other.show_spinner, other.indent, other.is_tty) == ("full", False, 4, True)
    assert StudioRenderer(tool_output="loud").tool_output == "summary"
    assert "\x1b" not in shown(plain(), TOOL)


def test_text_is_a_block_and_goes_on_letter_by_letter() -> None:
    renderer = plain()
    assert renderer.render_event(an_event("message_streamed", delta="a")) == "\n  a"
    assert renderer.render_event(an_event("message_streamed", delta=" b\nc")) == " b\nc"
    assert renderer.phase == "text"
    assert renderer.render_event(started("Read", path="lib/sink.ex")) == "\n  ◐ Reading lib/sink.ex\n"
    assert renderer.phase == "tool"


def test_an_empty_delta_changes_nothing() -> None:
    renderer = plain()
    assert renderer.render_event(an_event("message_streamed", delta="")) == ""
    assert renderer.render_event(an_event("message_streamed", delta="a")) == "\n  a"


def test_a_message_is_shown_unless_it_was_streamed() -> None:
    """Providers that do not stream are heard too."""
    assert [plain().render_event(event) for event in SIMPLE[3:4]] == ["\n  Hello world"]
    renderer = plain()
    assert [renderer.render_event(event) for event in SIMPLE[1:4]][-1] == ""


def test_text_then_tool_then_text_has_an_empty_line_between() -> None:
    assert "\n\n  The file contains" in shown(plain(), TOOL)


def test_on_a_terminal_the_summary_replaces_the_line_of_the_start() -> None:
    renderer = StudioRenderer(tty=True, color=False)
    renderer.render_event(an_event("message_streamed", delta="a"))
    assert renderer.render_event(started("bash", command="mix test")) == "\n  ◐ Running: mix test"
    ended = renderer.render_event(completed("bash", "x" * 156, exit_code=0))
    assert ended == f"{CLEAR_LINE}  ✓ Ran: mix test (exit 0, 156 chars)\n"


def test_elsewhere_both_lines_stand_and_nothing_is_cleared() -> None:
    text = shown(plain(), TOOL)
    assert "◐ Reading" in text and "✓ Read" in text and "\r" not in text


def test_tools_side_by_side_keep_their_own_summaries() -> None:
    """An open line is ended before any other output, and only its own tool's end replaces it."""
    renderer = StudioRenderer(tty=True, color=False)
    said = [
        renderer.render_event(event)
        for event in (
            started("Read", "a", path="one"),
            started("Read", "b", path="two"),
            completed("Read", "1", "a"),
            an_event("error_occurred", error_message="oh"),
            completed("Read", "1\n2", "b"),
        )
    ]
    assert said == [
        "  ◐ Reading one",
        "\n  ◐ Reading two",
        "\n  ✓ Read one (1 lines)\n",
        "  ✗ oh\n",
        "  ✓ Read two (2 lines)\n",
    ]


def test_text_during_a_tool_ends_its_line() -> None:
    renderer = StudioRenderer(tty=True, color=False)
    said = [
        renderer.render_event(event)
        for event in (started("Read", path="one"), an_event("message_streamed", delta="hm"), completed("Read", "1"))
    ]
    assert said == ["  ◐ Reading one", "\n\n  hm", "\n  ✓ Read one (1 lines)\n"]


def test_a_line_that_is_open_in_the_end_is_ended() -> None:
    """Also when the reader was interrupted."""
    assert shown(plain(), SIMPLE[:2]).endswith("Hello\n")
    assert shown(plain(), SIMPLE).endswith("tools\n")


def test_a_spinner_may_be_a_dot() -> None:
    assert plain(show_spinner=False).render_event(started("Read", path="x")) == "  ● Reading x\n"


@pytest.mark.parametrize("data", [{"status": "failed"}, {"exit_code": 1}, {"tool_output": {"exit_code": 2}}])
def test_a_status_or_an_exit_code_says_failed(data: dict[str, Any]) -> None:
    event = an_event("tool_call_completed", **{"tool_name": "bash", "tool_input": {"command": "make"}, **data})
    assert plain().render_event(event).startswith("  ✗ Bash failed: make (exit ")


def test_a_failed_tool_does_not_claim_success() -> None:
    event = an_event("tool_call_failed", tool_name="Read", tool_input={"path": "x"}, tool_output="no such file")
    assert plain().render_event(event) == "  ✗ Read failed: x\n"


def test_the_tools_output_as_preview_and_in_full() -> None:
    output = "one\n\n  two\nthree\nfour\n"
    preview = plain(tool_output="preview").render_event(completed("x", output))
    assert preview.splitlines()[1:] == ["    │ two", "    │ three", "    │ four"]
    full = plain(tool_output="full").render_event(completed("x", output))
    assert full.splitlines()[1:] == ["    ┊ one", "    ┊   two", "    ┊ three", "    ┊ four"]


def test_the_end_tells_tokens_and_tools_of_its_run() -> None:
    """Usage as told last, else that of the end; a second run begins at nothing."""
    renderer = plain()
    usage = an_event("token_usage_updated", input_tokens=847, output_tokens=312)
    end = an_event("run_completed", stop_reason="end_turn", token_usage={"input_tokens": 1, "output_tokens": 2})
    assert renderer.render_event(usage) == "" and renderer.usage["input_tokens"] == 847
    renderer.render_event(started("Read"))
    assert "Session complete (end_turn) — 847/312 tokens, 1 tools\n" in renderer.render_event(end)
    renderer.render_event(an_event("run_started"))
    assert "— 1/2 tokens, 0 tools\n" in renderer.render_event(end)


@pytest.mark.parametrize(
    ("name", "given", "doing"),
    [
        ("bash", {"command": "mix test"}, "Running: mix test"),
        ("Bash", {"command": "ls", "args": ["-l", 1]}, "Running: ls -l 1"),
        ("bash", {"command": "a" * 61}, f"Running: {'a' * 60}..."),
        ("bash", None, "Running bash"),
        ("Read", {"file_path": "a", "path": "b"}, "Reading a"),
        ("Read", {}, "Reading file"),
        ("Write", {"path": "x"}, "Writing x"),
        ("Edit", {"path": "x"}, "Editing x"),
        ("Glob", {"pattern": "*.py"}, "Searching for *.py"),
        ("Grep", {"pattern": "x", "path": "lib"}, 'Searching "x" in lib'),
        ("Grep", {}, 'Searching "pattern" in .'),
        ("Task", {"description": "tidy"}, "Running task: tidy"),
        ("WebFetch", {"url": "https://example.org/a?b"}, "Fetching example.org"),
        ("WebFetch", {"url": "http://[x"}, "Fetching web resource"),
        ("WebSearch", {"query": "q"}, 'Searching: "q"'),
        ("deploy", {}, "Using deploy"),
        (None, {}, "Using tool"),
    ],
)
def test_what_a_tool_is_doing(name: Any, given: Any, doing: str) -> None:
    assert spinner_text(ToolInfo.started({"tool_name": name, "tool_input": given})) == doing


LONG = "/".join(["root", *["part"] * 15, "two", "last.py"])


@pytest.mark.parametrize(
    ("data", "done"),
    [
        ({"tool_name": "bash", "tool_input": {"command": "mix test"}, "tool_output": "x" * 156, "duration_ms": 3200},
         "Ran: mix test (exit 0, 156 chars, 3.2s)"),
        ({"tool_name": "bash", "tool_input": {"command": "mix compile"}, "tool_output": "x" * 2400, "exit_code": 1},
         "Bash failed: mix compile (exit 1, 2.4k chars)"),
        ({"tool_name": "bash", "tool_output": {"output": "abc", "exit_code": 0}}, "Ran: bash (exit 0, 3 chars)"),
        ({"tool_name": "Read", "tool_input": {"path": LONG}, "tool_output": "x\n" * 72},
         "Read root/.../two/last.py (72 lines)"),
        ({"tool_name": "Write", "tool_input": {"path": "x", "content": "a\n" * 138}}, "Wrote x (138 lines)"),
        ({"tool_name": "Edit", "tool_input": {"path": "x"}}, "Edited x"),
        ({"tool_name": "Glob", "tool_output": "a\n" * 24}, "Found 24 files matching *"),
        ({"tool_name": "Grep", "tool_input": {"pattern": "x"}, "tool_output": "a\n" * 8}, 'Found 8 matches for "x"'),
        ({"tool_name": "Task", "tool_input": {"description": "tidy"}, "duration_ms": 45_200},
         "Task complete: tidy (45.2s)"),
        ({"tool_name": "deploy", "tool_output": "x" * 234}, "deploy complete (234 chars)"),
        ({"tool_name": "deploy", "tool_output": ""}, "deploy complete"),
        ({"tool_output": None}, "tool complete"),
    ],
)  # fmt: skip
def test_what_a_tool_has_done(data: dict[str, Any], done: str) -> None:
    assert summary_line(ToolInfo.ended(data, ToolInfo(), failed=False)) == done


def test_sizes_times_paths_and_previews() -> None:
    sizes = [format_size(length) for length in (None, 0, 500, 1000, 1500, 9999, 15_000)]
    assert sizes == ["", "0 chars", "500 chars", "1.0k chars", "1.5k chars", "10.0k chars", "15k chars"]
    assert [format_duration(ms) for ms in (None, 2000, 2001, True)] == ["", "", "2.0s", ""]
    assert [shorten_path(path) for path in ("a/b", None, LONG)] == ["a/b", "file", "root/.../two/last.py"]
    outputs = [preview_lines(ToolInfo(output=output), 3) for output in (None, "", "a\n\nb", {"output": "1\n2\n3\n4"})]
    assert outputs == [[], [], ["a", "b"], ["2", "3", "4"]]


async def test_on_a_terminal_spinners_stand_below_what_is_said() -> None:
    """While tools run the area names each; in the end only what a log would show is left, in order."""
    screen, renderer = io.StringIO(), plain(live=True)
    console = Console(file=screen, force_terminal=True, width=60, color_system=None)
    sink = LiveSink(renderer, console)

    async def story() -> Any:
        for event in (started("Read", "a", path="one"), started("bash", "b", command="make")):
            yield event
        await sink.flush()
        assert "Reading one" in screen.getvalue() and "Running: make" in screen.getvalue()
        for event in (completed("Read", "1", "a"), completed("bash", "", "b"), *SIMPLE):
            yield event
        yield an_event("message_streamed", delta="word " * 30)

    report = await arender_stream(story(), renderer=renderer, sinks=[sink])
    assert not report.sink_errors
    left = [line.strip() for line in strip_ansi(screen.getvalue()).split("\n")]
    kept = ["✓ Read one (1 lines)", "✓ Ran: make (exit 0)", f"● {'claude-sonnet-4-5-20250929'} session started"]
    places = [next(place for place, line in enumerate(left) if line.endswith(text)) for text in kept]
    assert places == sorted(places)
    assert "Hello world" in screen.getvalue() and screen.getvalue().count("word") >= 30

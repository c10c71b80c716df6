"""What the command line prints: colours where they are wanted, types of newer servers, text that means harm."""

from __future__ import annotations

import json

import pytest

from asm_api.cli.common import Render, print_json, print_table, print_text
from asm_api.cli.events import event_of, show_events
from tests.fixtures.rendering import GOLDEN, SIMPLE


@pytest.fixture(autouse=True)
def no_wishes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)


@pytest.mark.parametrize("form", [form for form in Render if form != "jsonl"])
def test_without_a_terminal_there_are_no_codes(form: Render, capsys: pytest.CaptureFixture[str]) -> None:
    """Plain text, as in the golden files."""
    show_events(SIMPLE, form)
    assert capsys.readouterr().out.encode() == (GOLDEN / f"{form}-simple.txt").read_bytes()


def test_colours_can_be_forced_and_forbidden(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`NO_COLOR` wins."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    show_events(SIMPLE, Render.COMPACT)
    assert capsys.readouterr().out.encode() == (GOLDEN / "compact-color-simple.txt").read_bytes()
    monkeypatch.setenv("NO_COLOR", "1")
    show_events(SIMPLE, Render.COMPACT)
    assert capsys.readouterr().out.encode() == (GOLDEN / "compact-simple.txt").read_bytes()


def test_json_lines_are_events(capsys: pytest.CaptureFixture[str]) -> None:
    show_events(SIMPLE, Render.JSONL)
    assert [json.loads(line)["seq"] for line in capsys.readouterr().out.splitlines()] == [1, 2, 3, 4, 5, 6]


def test_a_type_of_a_newer_server_is_shown_as_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    """What is read over HTTP is the event again; one that is unknown here breaks nothing."""
    rows = [event.to_map() for event in SIMPLE]
    assert [event_of(row) for row in rows] == SIMPLE
    show_events([event_of(rows[0] | {"type": "thought_occurred"})], Render.COMPACT)
    assert capsys.readouterr().out.startswith("?:thought_occurred")


HOSTILE = "[red]\x1b[2J\x9b31mwords"


def test_no_text_of_others_steers_the_terminal(
    capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in tables, where it is no markup either, nor in JSON, nor as the result of a run."""
    print_table([{"agent_id": HOSTILE}], ["agent_id"])
    print_json({"agent_id": HOSTILE})
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    print_text(HOSTILE)
    shown = capfdbinary.readouterr().out.decode()
    assert not [c for c in shown if c != "\n" and (c < " " or "\x7f" <= c <= "\x9f")]
    assert shown.count("[red]") == 3 and json.loads(shown.splitlines()[2]) == {"agent_id": HOSTILE}

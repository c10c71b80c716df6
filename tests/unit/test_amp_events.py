"""What Amp's command line writes, as events: recorded sequences, and what no recording has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from asm_core.adapters.amp_events import AmpTurn, failure_of
from asm_core.domain.errors import ErrorCode
from tests.golden.played import FOLDER, events_of

E = ErrorCode


@pytest.mark.parametrize("path", sorted((FOLDER / "amp").glob("*.json")), ids=lambda path: path.stem)
def test_recorded_runs(path: Path) -> None:
    """The events of what the stand-in has said, as the real one was seen to say it, are what they were."""
    recorded = json.loads(path.read_text())
    assert events_of("amp", recorded["raw"]) == recorded["events"]


def said(turn: AmpTurn, *content: dict[str, Any], **more: Any) -> list[tuple[str, Any]]:
    message = {"content": list(content), "stop_reason": "end_turn"} | more
    parent = message.pop("parent", None)
    events = turn.observe({"type": "assistant", "message": message, "parent_tool_use_id": parent})
    return [(str(event.type), event.data) for event in events if event.type != "run_started"]


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def test_several_messages_of_one_request_are_counted_once() -> None:
    """spec/04 check 94: each is a message, and all of them the content."""
    turn = AmpTurn()
    usage = {"input_tokens": 1, "output_tokens": None}
    assert [kind for kind, _ in said(turn, text("Part 1 "), id="m", usage=usage)] == [
        "message_streamed", "message_received", "token_usage_updated",
    ]  # fmt: skip
    assert [kind for kind, _ in said(turn, text("Part 2"), id="m", usage=usage)] == [
        "message_streamed",
        "message_received",
    ]
    assert turn.requests == 1


def test_what_an_agent_of_the_agent_says_is_not_the_answer() -> None:
    """Its tokens count."""
    assert [kind for kind, _ in said(AmpTurn(), text("aside"), parent="tu", usage={"input_tokens": 1})] == [
        "token_usage_updated"
    ]


def test_a_result_of_an_unknown_call() -> None:
    """spec/04 check 110; a result that is neither well nor ill gives no event."""
    block = {"type": "tool_result", "tool_use_id": "t", "content": "x", "is_error": False}
    events = AmpTurn().observe({"type": "user", "message": {"content": [block]}})
    assert events[-1].data == {"tool_call_id": "t", "tool_name": None, "tool_input": {}, "tool_output": "x"}
    assert AmpTurn().observe({"type": "user", "message": {"content": [block | {"is_error": None}]}}) == []


def test_a_result_whose_text_nobody_has_said_is_said() -> None:
    turn = AmpTurn()
    kinds = [str(event.type) for event in turn.observe({"type": "result", "is_error": False, "result": "done"})]
    assert kinds == ["run_started", "message_streamed", "message_received"]
    assert turn.is_over


def test_an_answer_without_a_reason_to_stop_is_cut_short() -> None:
    """Amp waits for ever behind it; an agent of the agent may go on."""
    turn = AmpTurn()
    said(turn, text("aside"), stop_reason=None, parent="tu")
    assert not turn.is_cut_short
    said(turn, text("look"), {"type": "tool_use", "id": "t", "name": "Bash"}, stop_reason=None)
    assert not turn.is_cut_short
    said(turn, text("half"), stop_reason=None)
    assert turn.is_cut_short


@pytest.mark.parametrize(
    ("error", "code", "kind"),
    [
        ("Unauthorized Check your access token.", E.PROVIDER_AUTHENTICATION_FAILED, "authentication"),
        ("Model Provider Overloaded Try again in a few seconds.", E.PROVIDER_UNAVAILABLE, "overloaded"),
        ('429 {"error": {"type": "rate_limit_error"}}', E.PROVIDER_RATE_LIMITED, "rate_limit"),
        ('400 {"error": {"type": "overloaded_error"}}', E.PROVIDER_UNAVAILABLE, "overloaded"),
        ("500 <html>", E.PROVIDER_UNAVAILABLE, "overloaded"),
        ("something else", E.PROVIDER_ERROR, "unknown"),
        (None, E.PROVIDER_ERROR, "unknown"),
    ],
)
def test_failures_by_the_status_that_amp_tells(error: str | None, code: E, kind: str) -> None:
    failure = failure_of({"error": error})
    assert (failure.code, (failure.provider_error or {})["kind"]) == (code, kind)


def test_what_was_denied_is_told_with_the_failure() -> None:
    """spec/04 checks 100, 101."""
    failure = failure_of({"error": "no", "permission_denials": ["Bash"], "subtype": "error_max_turns"})
    assert (failure.details["permission_denials"], failure.details["reason"]) == (["Bash"], "max_turns")

"""What Codex's app-server tells, as events: recorded sequences, and what no recording has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from asm_core.adapters.codex_events import CodexTurn, failure_of
from asm_core.domain.errors import ErrorCode
from tests.golden.played import FOLDER, events_of

E = ErrorCode
BOUNDS = {"bounded": 1}


@pytest.mark.parametrize("path", sorted((FOLDER / "codex").glob("*.json")), ids=lambda path: path.stem)
def test_recorded_turns(path: Path) -> None:
    """The events of what the real command line has said are what they were."""
    recorded = json.loads(path.read_text())
    assert events_of("codex", recorded["raw"], BOUNDS.get(path.stem)) == recorded["events"]


def begun(**given: Any) -> CodexTurn:
    turn = CodexTurn(**given)
    turn.observe("turn/started", {"turn": {"id": "turn_1"}})
    return turn


def completed(turn: CodexTurn, item: dict[str, Any]) -> list[tuple[str, Any]]:
    events = turn.observe("item/completed", {"item": {"id": "i1"} | item})
    return [(str(event.type), event.data) for event in events if event.type != "run_started"]


def asks(call_id: str) -> dict[str, Any]:
    return {"item": {"type": "function_call", "call_id": call_id, "name": "exec_command", "arguments": '{"cmd": "ls"}'}}


def usage(total: int) -> dict[str, Any]:
    tokens = {"inputTokens": 10, "cachedInputTokens": 4, "outputTokens": 5, "reasoningOutputTokens": 1}
    return {"tokenUsage": {"last": tokens, "total": tokens | {"inputTokens": total}}}


def test_what_opens_a_run_comes_with_the_first_word_of_the_model() -> None:
    """A request that the server refuses has no event, so that it can be repeated; keys without a value are left out."""
    turn = begun(about={"thread_id": "t", "model": None})
    assert turn.observe("item/started", {"item": {"id": "u", "type": "userMessage"}}) == []
    [opening, _] = turn.observe("item/agentMessage/delta", {"itemId": "m", "delta": "hi"})
    assert (opening.type, opening.data) == ("run_started", {"thread_id": "t", "turn_id": "turn_1"})


def test_a_message_that_was_not_streamed_is_streamed_whole() -> None:
    """spec/04 checks 78, 81: the last message is the content; a streamed one is not streamed again."""
    turn = begun()
    assert [kind for kind, _ in completed(turn, {"type": "agentMessage", "text": "one"})] == [
        "message_streamed",
        "message_received",
    ]
    turn.observe("item/agentMessage/delta", {"itemId": "m2", "delta": "two"})
    assert [kind for kind, _ in completed(turn, {"id": "m2", "type": "agentMessage", "text": "two"})] == [
        "message_received"
    ]
    assert turn.content == "two"


def test_usage_is_told_once_per_request() -> None:
    """spec/06 §7: the last request's, again when only limits change; our input is without what came from the cache."""
    turn = begun()
    told = [turn.observe("thread/tokenUsage/updated", usage(total)) for total in (10, 10, 20)]
    assert [len(events) for events in told] == [2, 0, 1]
    assert turn.requests == 2
    assert told[2][0].data["input_tokens"] == 6
    assert told[2][0].data["cache_read_tokens"] == 4


def test_an_item_that_only_ends_is_a_call_too() -> None:
    """spec/04 check 80: a web search is told of at its end."""
    search = {"type": "webSearch", "query": "asm", "status": "completed"}
    assert completed(begun(), search) == [
        ("tool_call_started", {"tool_call_id": "i1", "tool_name": "web_search", "tool_input": {"query": "asm"}}),
        ("tool_call_completed", {"tool_call_id": "i1", "tool_name": "web_search", "tool_input": {"query": "asm"},
                                 "tool_output": {"status": "completed"}}),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("result", "wrapped"), [([1], {"items": [1]}), (3, {"value": 3}), (None, {}), ({"a": 1}, {"a": 1})]
)
def test_an_output_is_always_a_mapping(result: Any, wrapped: Any) -> None:
    """spec/04 checks 82, 83."""
    item = {"type": "mcpToolCall", "server": "s", "tool": "t", "arguments": "junk", "result": result}
    [(_, started), (kind, ended)] = completed(begun(), item | {"status": "completed"})
    assert (started["tool_name"], started["tool_input"], kind) == ("s:t", {}, "tool_call_completed")
    assert ended["tool_output"] == wrapped
    [_, (kind, ended)] = completed(begun(), item | {"status": "failed", "error": {"message": "no"}})
    assert (kind, ended["tool_output"]) == ("tool_call_failed", {"message": "no"})


@pytest.mark.parametrize("kind", ["reasoning", "userMessage", "contextCompaction", "plan"])
def test_what_is_no_call_gives_no_event(kind: str) -> None:
    """spec/04 check 84; unknown notifications neither."""
    assert completed(begun(), {"type": kind}) == []
    assert begun().observe("thread/name/updated", {"name": "x"}) == []


@pytest.mark.parametrize(
    ("name", "output", "failed"),
    [
        ("no_such", "unsupported call: no_such", True),
        ("exec_command", "approval policy is Never; reject command", True),
        ("exec_command", "Wall time: 0 s\nProcess exited with code 1\n", True),
        ("exec_command", "Wall time: 0 s\nProcess exited with code 0\n", False),
        ("view_image", [{"type": "input_text", "text": "an image"}], False),
        ("view_image", "unsupported call: view_image", True),
    ],
)
def test_a_call_without_an_item_was_refused_unless_it_is_a_quiet_one(name: str, output: Any, failed: bool) -> None:
    turn = begun()
    call = {"type": "function_call", "call_id": "c", "name": name, "arguments": "{}"}
    assert turn.observe("rawResponseItem/completed", {"item": call}) == []
    events = turn.observe(
        "rawResponseItem/completed", {"item": {"type": "function_call_output", "call_id": "c", "output": output}}
    )
    assert [str(event.type) for event in events] == [
        "run_started", "tool_call_started", "tool_call_failed" if failed else "tool_call_completed",
    ]  # fmt: skip


def test_the_call_that_would_need_one_request_too_many() -> None:
    """The bound is on requests: it is reached when the last one asks for a tool, not when it answers."""
    turn = begun(max_turns=2)
    turn.observe("rawResponseItem/completed", asks("c1"))
    turn.observe("thread/tokenUsage/updated", usage(1))
    assert not turn.exceeds
    turn.observe("item/completed", {"item": {"id": "m", "type": "agentMessage", "text": "done"}})
    turn.observe("thread/tokenUsage/updated", usage(2))
    assert not turn.exceeds
    turn.observe("rawResponseItem/completed", asks("c2"))
    assert turn.exceeds


def test_without_raw_output_the_answer_without_a_message_tells() -> None:
    turn = begun(max_turns=1)
    turn.observe("thread/tokenUsage/updated", usage(1))
    assert turn.exceeds


def test_open_calls_end_with_their_turn() -> None:
    turn = begun()
    turn.observe("item/started", {"item": {"id": "c", "type": "commandExecution", "command": "sleep", "cwd": "/"}})
    [ended] = turn.observe("turn/completed", {"turn": {"status": "interrupted"}})
    assert (ended.type, ended.data["tool_output"], turn.status) == ("tool_call_failed", "interrupted", "interrupted")


@pytest.mark.parametrize(
    ("info", "message", "code", "kind"),
    [
        ({"httpConnectionFailed": {"httpStatusCode": 401}}, "", E.PROVIDER_AUTHENTICATION_FAILED, "authentication"),
        ({"httpConnectionFailed": {"httpStatusCode": None}}, "", E.PROVIDER_UNAVAILABLE, "protocol_error"),
        ({"responseTooManyFailedAttempts": {"httpStatusCode": 429}}, "", E.PROVIDER_RATE_LIMITED, "rate_limit"),
        ({"responseStreamDisconnected": {}}, "", E.PROVIDER_UNAVAILABLE, "protocol_error"),
        ("usageLimitExceeded", "", E.PROVIDER_QUOTA_EXCEEDED, "quota"),
        ("contextWindowExceeded", "", E.PROVIDER_ERROR, "context_overflow"),
        ("serverOverloaded", "", E.PROVIDER_UNAVAILABLE, "overloaded"),
        ("unauthorized", "", E.PROVIDER_AUTHENTICATION_FAILED, "authentication"),
        ("cyberPolicy", "", E.PROVIDER_ERROR, "refusal"),
        ("other", "stream disconnected before completion: x", E.PROVIDER_UNAVAILABLE, "protocol_error"),
        ("other", '{"error": {"code": "context_length_exceeded"}}', E.PROVIDER_ERROR, "context_overflow"),
        ("other", '["a"]', E.PROVIDER_ERROR, "unknown"),
        ("somethingNew", "", E.PROVIDER_ERROR, "unknown"),
        (None, "", E.PROVIDER_ERROR, "unknown"),
    ],
)
def test_failures_by_what_codex_calls_them(info: Any, message: str, code: E, kind: str) -> None:
    """spec/04 checks 85, 86."""
    error = failure_of({"codexErrorInfo": info, "message": message})
    told = error.provider_error or {}
    assert (error.code, told["kind"], told["provider"]) == (code, kind, "codex")
    assert told["stderr"] is None
    assert "retryable" not in told


def test_a_retry_of_codex_itself_is_told() -> None:
    [_, told] = begun().observe("error", {"willRetry": True, "error": {"message": "again"}})
    assert (told.type, told.data["will_retry"]) == ("error_occurred", True)

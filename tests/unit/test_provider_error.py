"""Providers' failures in one shape."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.provider_error import (
    NO_MESSAGE,
    ProviderErrorKind,
    TextLimits,
    normalize_error,
    normalize_provider_error,
)
from tests.builders import NOW

KEYS = ["provider", "kind", "message", "exit_code", "stderr", "truncated"]


def normalized(attrs: Any, provider: str | None = "codex", **limits: int) -> dict[str, Any]:
    return normalize_provider_error(provider, attrs, TextLimits(**limits))[0].to_map()


def details_of(attrs: Any) -> dict[str, Any]:
    return normalize_provider_error("codex", attrs)[1]


# The provider's side


def test_a_provider_error_has_six_fields_and_takes_them_out_of_the_details() -> None:
    """spec/01 check 129: `exit_status` is the exit code; other details stay."""
    attrs = {
        "kind": "process_error", "message": "died", "retryable": True,
        "details": {"exit_status": 2, "stderr": "oops", "stderr_truncated": True, "exit_code": None, "thread": "t"},
    }  # fmt: skip
    assert normalized(attrs) == {
        "provider": "codex", "kind": "process_error", "message": "died", "exit_code": 2, "stderr": "oops",
        "truncated": True,
    }  # fmt: skip
    assert list(normalized(attrs)) == KEYS
    assert details_of(attrs) == {"thread": "t"}
    assert attrs["details"]["stderr"] == "oops", "the argument is not touched"


@pytest.mark.parametrize(
    ("claimed", "called", "provider"),
    [
        ("claude", "router", "claude"),
        (" Claude ", "router", "claude"),
        ("unknown", "codex", "codex"),
        ("Some Vendor", "mine", "mine"),
        (None, "mine", "mine"),
        (5, None, "unknown"),
        (None, None, "unknown"),
        ("gemini", None, "gemini"),
    ],
)
def test_a_known_name_in_the_payload_wins_over_who_was_called(claimed: Any, called: Any, provider: str) -> None:
    """spec/01 §9.3, §12.7: behind a router the real provider counts; a missing name is the caller's."""
    assert normalized({"provider": claimed}, called)["provider"] == provider


@pytest.mark.parametrize(
    ("attrs", "kind"),
    [
        ({"kind": " Parse_Error "}, "parse_error"),
        ({"kind": ProviderErrorKind.REFUSAL}, "refusal"),
        ({"details": {"kind": "timeout"}}, "timeout"),
        ({"kind": "cli_not_found", "details": {"kind": "timeout"}}, "cli_not_found"),
        ({"kind": "weird"}, "unknown"),
        ({"kind": None}, "unknown"),
        ({"kind": 5}, "unknown"),
        ({}, "unknown"),
    ],
)
def test_the_kind_is_one_of_a_closed_set(attrs: dict[str, Any], kind: str) -> None:
    """spec/01 §9.3, §21 (53): a missing one is unknown, never null."""
    assert normalized(attrs)["kind"] == kind


@pytest.mark.parametrize(
    ("attrs", "message"),
    [
        ({"message": "a", "details": {"message": "b"}, "stderr": "c"}, "a"),
        ({"message": "", "details": {"message": "b"}, "stderr": "c"}, "b"),
        ({"message": 5, "details": {"message": ""}, "stderr": "\n  first  \nsecond"}, "first"),
        ({"stderr": " \n "}, NO_MESSAGE),
        ({}, NO_MESSAGE),
        ("it broke", "it broke"),
        ({"a": 1}.items(), "dict_items([('a', 1)])"),
        ([1, "x"], '[1, "x"]'),
    ],
)
def test_the_message_comes_from_what_there_is(attrs: Any, message: str) -> None:
    """spec/01 check 131; attributes that are no mapping count as the message."""
    assert normalized(attrs)["message"] == message


@pytest.mark.parametrize(
    ("attrs", "code"),
    [
        ({"exit_code": 1}, 1),
        ({"exit_code": "2"}, 2),
        ({"exit_code": "-9"}, -9),
        ({"exit_code": "2x"}, None),
        ({"exit_code": " 2"}, None),
        ({"exit_code": True}, None),
        ({"exit_code": 1.5}, None),
        ({"exit_code": "9" * 5_000}, None),
        ({"exit_code": 0, "details": {"exit_code": 3}}, 0),
        ({"details": {"exit_code": 3, "exit_status": 4}}, 3),
        ({"details": {"exit_status": "4"}}, 4),
        ({}, None),
    ],
)
def test_the_exit_code_is_an_integer_or_nothing(attrs: dict[str, Any], code: int | None) -> None:
    """spec/01 check 131."""
    assert normalized(attrs)["exit_code"] == code


def test_the_error_output_is_cut_by_lines_then_by_bytes() -> None:
    """spec/01 check 130."""
    six = "\n".join(f"line{number}" for number in range(1, 7))
    cut = normalized({"stderr": six}, max_lines=3, max_bytes=11)
    assert (cut["stderr"], cut["truncated"]) == ("line1\nline2", True)
    assert normalized({"stderr": six}, max_lines=3)["stderr"] == "line1\nline2\nline3"
    assert normalized({"stderr": six}, max_lines=0, max_bytes=-1)["stderr"] == six
    assert normalized({"details": {"stderr": six}}, max_lines=1)["stderr"] == "line1"


def test_the_error_output_is_cut_between_characters() -> None:
    """spec/01 check 131: a half character is left out."""
    assert normalized({"stderr": "aé€"}, max_bytes=5)["stderr"] == "aé"
    assert normalized({"stderr": "aé€"}, max_bytes=6) | {"stderr": "aé€", "truncated": None} == normalized(
        {"stderr": "aé€"}
    )


@given(st.text(st.characters()), st.integers(1, 40), st.integers(1, 5))
def test_the_error_output_never_exceeds_its_limits(text: str, max_bytes: int, max_lines: int) -> None:
    """Whatever a program writes, it can be stored; what was cut is said to be."""
    kept = normalized({"stderr": text}, max_bytes=max_bytes, max_lines=max_lines)
    assert len(kept["stderr"].encode()) <= max_bytes
    assert len(kept["stderr"].split("\n")) <= max_lines
    assert (kept["truncated"] is True) == (len(kept["stderr"]) < len(text))


@pytest.mark.parametrize(
    ("attrs", "truncated"),
    [
        ({"stderr": "x", "truncated": True}, True),
        ({"stderr": "x", "stderr_truncated": "true"}, True),
        ({"stderr": "x", "details": {"stderr_truncated": "1"}}, True),
        ({"stderr": ["a", "b"]}, True),
        ({"stderr": "x", "truncated": False}, None),
        ({"stderr": "x", "truncated": "no"}, None),
        ({"stderr": "x"}, None),
        ({}, None),
    ],
)
def test_truncated_is_true_or_unknown(attrs: dict[str, Any], truncated: bool | None) -> None:
    """spec/01 §9.3: never false; an output that is no text is shown as JSON and flagged."""
    assert normalized(attrs)["truncated"] is truncated


# The error of a run or session


def test_an_error_of_the_provider_gets_a_normalized_account() -> None:
    """spec/01 checks 155, 183: message, details and the adapter's name fill what the provider left out."""
    error = AsmError(
        ErrorCode.PROVIDER_ERROR, "claude failed", details={"exit_code": 2, "stderr": "boom", "request_id": "r"},
        context={"run_id": "run_1"}, stacktrace="…", timestamp=NOW,
    )  # fmt: skip
    result = normalize_error(error, "claude")
    assert result.to_payload() == {
        "code": "provider_error",
        "message": "claude failed",
        "provider_error": {
            "provider": "claude", "kind": "unknown", "message": "claude failed", "exit_code": 2, "stderr": "boom",
            "truncated": None,
        },
        "details": {"request_id": "r"},
    }  # fmt: skip
    assert (result.context, result.stacktrace, result.timestamp) == ({"run_id": "run_1"}, "…", NOW)


def test_the_error_output_is_not_repeated_in_the_details() -> None:
    """spec/01 §12.7: the reference put it back, uncut, from the error's own details."""
    error = AsmError(
        ErrorCode.PROVIDER_ERROR, "x",
        details={"stderr": "s" * 99_999, "exit_status": 1, "mine": 1},
        provider_error={"stderr": "s" * 99_999, "kind": "process_error", "details": {"theirs": 2}},
    )  # fmt: skip
    payload = normalize_error(error, "codex").to_payload()
    assert payload["details"] == {"mine": 1, "theirs": 2}
    assert len(payload["provider_error"]["stderr"]) == TextLimits().max_bytes
    assert len(json.dumps(payload)) < 20_000


def test_the_provider_is_named_even_where_the_payload_does_not() -> None:
    """spec/01 §12.7, §21 (53): the reference lost the hint and wrote `unknown`."""
    for raw in (None, {}, {"provider": None}, {"provider": "unknown"}):
        error = AsmError(ErrorCode.PROVIDER_TIMEOUT, "late", provider_error=raw)
        account = normalize_error(error, "amp").provider_error
        assert account is not None
        assert account["provider"] == "amp"


@pytest.mark.parametrize(
    ("code", "raw", "kind"),
    [
        ("provider_rate_limited", {}, "rate_limit"),
        ("provider_timeout", {"kind": "weird"}, "timeout"),
        ("provider_quota_exceeded", None, "quota"),
        ("provider_authentication_failed", None, "authentication"),
        ("provider_rate_limited", {"kind": "overloaded"}, "overloaded"),
        ("provider_unavailable", None, "unknown"),
    ],
)
def test_the_code_says_the_kind_where_the_provider_does_not(code: str, raw: Any, kind: str) -> None:
    """spec/04 §3: a rate limit is one whether or not the payload says so."""
    account = normalize_error(AsmError(code, provider_error=raw), "claude").provider_error
    assert account is not None
    assert account["kind"] == kind


def test_errors_of_our_own_have_no_provider_error() -> None:
    """spec/01 §12.7: unless they bring one along; their details are theirs."""
    own = AsmError(ErrorCode.TOOL_EXECUTION_FAILED, "exit 1", details={"exit_code": 1, "stderr": "x"})
    assert normalize_error(own, "shell") is own
    brought = normalize_error(AsmError(ErrorCode.CANCELLED, "stop", provider_error={"kind": "refusal"}), "claude")
    assert brought.provider_error is not None
    assert (brought.provider_error["kind"], brought.provider_error["message"]) == ("refusal", "stop")
    assert "details" not in brought.to_payload()


@pytest.mark.parametrize(
    ("error", "message"),
    [(ValueError("broken"), "broken"), (KeyError(), "KeyError"), ("text", "text"), ({"a": 1}, '{"a": 1}')],
)
def test_what_is_no_error_of_ours_is_an_internal_one(error: object, message: str) -> None:
    """spec/01 §12.7."""
    assert normalize_error(error, "claude").to_payload() == {"code": "internal_error", "message": message}


def test_normalizing_twice_changes_nothing() -> None:
    """The adapter may have done it before the manager does, and the store may again."""
    error = AsmError(
        ErrorCode.PROVIDER_RATE_LIMITED, "slow down", details={"stderr": "x\n" * 500, "exit_code": "3", "a": 1},
        provider_error={"provider": "claude"},
    )  # fmt: skip
    once = normalize_error(error, "router")
    assert normalize_error(once, "router").to_payload() == once.to_payload()
    assert normalize_error(AsmError.from_map(once.to_payload()), "other").to_payload() == once.to_payload()


def test_the_failing_event_tells_what_the_run_holds() -> None:
    """spec/01 checks 154, 183: the same facts under the names of `run_failed` and `session_failed`."""
    error = normalize_error(AsmError(ErrorCode.PROVIDER_ERROR, "x", details={"a": 1}), "claude")
    payload = error.to_payload()
    assert error.to_event_data() == {
        "error_code": "provider_error", "error_message": "x", "provider_error": payload["provider_error"],
        "details": {"a": 1},
    }  # fmt: skip
    assert AsmError(ErrorCode.TIMEOUT, "late").to_event_data() == {"error_code": "timeout", "error_message": "late"}

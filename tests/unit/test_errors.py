"""The one error type and its closed taxonomy."""

from __future__ import annotations

import json
import pickle
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any

import pytest

from asm_core.domain.errors import (
    CODES,
    Action,
    AsmError,
    ErrorCategory,
    ErrorCode,
    LeaseLost,
    category,
    codes_of,
    is_retryable,
    valid_code,
)
from tests.builders import NOW

ADDED = {
    "query_error", "maintenance_error", "persistence_error", "unauthorized", "forbidden", "payload_too_large",
    "rate_limited",
}  # fmt: skip
"""DESIGN §8: beyond the 45 of spec/01."""

RETRYABLE = {
    "provider_timeout",
    "provider_rate_limited",
    "provider_unavailable",
    "storage_connection_failed",
    "timeout",
}


def test_the_taxonomy_is_closed() -> None:
    """spec/01 check 118: 45 codes, and ours."""
    assert len(ErrorCode) == 45 + len(ADDED)
    assert {str(code) for code in ErrorCode} >= ADDED
    assert set(CODES) == set(ErrorCode)
    assert all(valid_code(code) and valid_code(str(code)) for code in ErrorCode)


@pytest.mark.parametrize("code", ["oops", "", None, 404, [], "TIMEOUT"])
def test_everything_else_is_no_code(code: object) -> None:
    """spec/01 check 118."""
    assert not valid_code(code)


def test_a_new_error_is_bare() -> None:
    """spec/01 check 119."""
    error = AsmError("timeout", "too late")
    assert (error.code, error.message, error.details, error.context) == (ErrorCode.TIMEOUT, "too late", {}, {})
    assert error.provider_error is None
    assert error.stacktrace is None
    assert error.timestamp.tzinfo is not None


@pytest.mark.parametrize("code", ErrorCode)
def test_every_code_has_words_of_its_own(code: ErrorCode) -> None:
    """spec/01 check 120."""
    assert AsmError(code).message == CODES[code].default_message != ""


def test_what_is_given_to_an_error_is_kept() -> None:
    """spec/01 check 121."""
    fields: dict[str, Any] = {
        "details": {"reason": "x"}, "provider_error": {"kind": "timeout"}, "stacktrace": "…",
        "context": {"run_id": "r"}, "timestamp": NOW,
    }  # fmt: skip
    error = AsmError(ErrorCode.PROVIDER_ERROR, "no", **fields)
    assert {name: getattr(error, name) for name in fields} == fields


def test_wrapping_keeps_class_and_message() -> None:
    """spec/01 check 122."""
    plain = AsmError.wrap(ErrorCode.INTERNAL_ERROR, KeyError("k"))
    assert (plain.message, plain.details) == ("'k'", {"original_exception": "KeyError"})
    told = AsmError.wrap(ErrorCode.INTERNAL_ERROR, ValueError("v"), "it broke")
    assert told.message == "it broke"
    assert told.details == {"original_exception": "ValueError", "original_message": "v"}


def test_an_error_as_a_map_is_plain_json_and_comes_back() -> None:
    """spec/01 check 123; also through pickle."""
    error = AsmError(
        ErrorCode.PROVIDER_TIMEOUT, "late", details={1: {"at": NOW}}, provider_error={"stderr": "a\x00b"}, timestamp=NOW
    )
    written = json.loads(json.dumps(error.to_map()))
    assert list(written) == ["code", "message", "details", "provider_error", "stacktrace", "context", "timestamp"]
    assert (written["code"], written["stacktrace"]) == ("provider_timeout", None)
    assert written["details"] == {"1": {"at": "2025-06-01T12:00:00.000000Z"}}
    for again in (AsmError.from_map(written), pickle.loads(pickle.dumps(error))):
        assert again.to_map() == error.to_map()


def test_the_payload_of_a_run_has_only_what_there_is() -> None:
    """spec/01 §12.7: `code, message, provider_error?, details?`."""
    assert AsmError(ErrorCode.TIMEOUT, "x").to_payload() == {"code": "timeout", "message": "x"}
    full = AsmError(ErrorCode.TIMEOUT, "x", details={"a": 1}, provider_error={"b": 2}).to_payload()
    assert list(full) == ["code", "message", "provider_error", "details"]
    assert AsmError.from_map(full).to_payload() == full


@pytest.mark.parametrize(
    "value",
    [{}, None, {"code": "oops", "message": "x"}, {"code": "timeout"}, {"code": "timeout", "message": 5},
     {"code": "timeout", "message": "x", "timestamp": "soon"}],
)  # fmt: skip
def test_malformed_error_maps_are_refused(value: object) -> None:
    """spec/01 check 124."""
    with pytest.raises(AsmError) as caught:
        AsmError.from_map(value)
    assert caught.value.code is ErrorCode.VALIDATION_ERROR


@pytest.mark.parametrize(
    ("wanted", "how_many", "member", "stranger"),
    [
        (ErrorCategory.VALIDATION, 4, "invalid_input", "timeout"),
        (ErrorCategory.STATE, 10, "invalid_transition", "not_found"),
        (ErrorCategory.RESOURCE, 6, "run_not_found", "validation_error"),
        (ErrorCategory.PROVIDER, 6, "provider_timeout", "timeout"),
        (ErrorCategory.STORAGE, 9, "storage_error", "provider_error"),
        (ErrorCategory.RUNTIME, 5, "timeout", "provider_timeout"),
        (ErrorCategory.CONCURRENCY, 4, "max_runs_exceeded", "rate_limited"),
        (ErrorCategory.TOOL, 4, "tool_not_found", "not_found"),
        (ErrorCategory.ACCESS, 4, "forbidden", "tool_permission_denied"),
    ],
)
def test_codes_by_category(wanted: ErrorCategory, how_many: int, member: str, stranger: str) -> None:
    """spec/01 checks 125, 126."""
    codes = codes_of(wanted)
    assert (len(codes), member in codes, stranger in codes) == (how_many, True, False)
    assert all(category(code) is wanted for code in codes)


def test_an_unknown_code_has_an_unknown_category() -> None:
    """spec/01 check 126; and every known one has a category."""
    assert category("oops") is ErrorCategory.UNKNOWN
    assert sum(len(codes_of(one)) for one in ErrorCategory) == len(ErrorCode)


def test_exactly_these_codes_are_retryable() -> None:
    """spec/01 check 127: read from the table, for codes and errors."""
    assert {str(code) for code in ErrorCode if is_retryable(code)} == RETRYABLE
    assert {str(code) for code in ErrorCode if AsmError(code).retryable} == RETRYABLE
    assert not is_retryable("oops")


def test_the_action_a_workflow_should_take() -> None:
    """spec/01 §9.2; for what is none of these: abort."""
    assert {str(code): str(rule.action) for code, rule in CODES.items() if rule.action is not Action.ABORT} == {
        "provider_timeout": "retry", "storage_connection_failed": "retry", "timeout": "retry",
        "provider_rate_limited": "wait_and_retry", "max_runs_exceeded": "wait_and_retry",
        "rate_limited": "wait_and_retry", "provider_unavailable": "failover",
        "cancelled": "cancel", "policy_violation": "cancel",
    }  # fmt: skip


def test_an_error_reads_code_and_message() -> None:
    """spec/01 check 128; without a code it is unknown."""
    assert str(AsmError(ErrorCode.NOT_FOUND, "no manifest x")) == "[not_found] no manifest x"
    with pytest.raises(AsmError, match="unknown_error"):
        raise AsmError


def test_a_lost_lease_is_no_asm_error() -> None:
    """STYLE §7: it is not a failure, so nothing that catches failures catches it."""
    assert not isinstance(LeaseLost("run_1"), AsmError)
    assert str(LeaseLost("run_1")) == "the lease of run_1 is gone"


async def test_a_lost_lease_passes_through_context_managers() -> None:
    """contextlib writes the traceback of what passes; an exception that forbids it would be replaced by another."""

    @contextmanager
    def plain() -> Iterator[None]:
        yield

    @asynccontextmanager
    async def awaited() -> AsyncIterator[None]:
        yield

    with pytest.raises(LeaseLost):
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(awaited())
            with plain():
                raise LeaseLost("run_1")

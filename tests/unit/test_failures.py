"""Failures of providers: which code, which kind, how long to wait."""

from __future__ import annotations

import pytest

from asm_core.adapters.failures import CUT, classify, provider_failure, retry_after_ms
from asm_core.domain.errors import ErrorCode
from tests.builders import NOW

E = ErrorCode


@pytest.mark.parametrize(
    ("status", "type", "code", "kind"),
    [
        (429, None, E.PROVIDER_RATE_LIMITED, "rate_limit"),
        (429, "insufficient_quota", E.PROVIDER_QUOTA_EXCEEDED, "quota"),
        (402, None, E.PROVIDER_QUOTA_EXCEEDED, "quota"),
        (401, None, E.PROVIDER_AUTHENTICATION_FAILED, "authentication"),
        (403, "permission_error", E.PROVIDER_AUTHENTICATION_FAILED, "authentication"),
        (408, None, E.PROVIDER_TIMEOUT, "timeout"),
        (504, None, E.PROVIDER_TIMEOUT, "timeout"),
        (200, "overloaded_error", E.PROVIDER_UNAVAILABLE, "overloaded"),
        (529, None, E.PROVIDER_UNAVAILABLE, "overloaded"),
        (500, None, E.PROVIDER_UNAVAILABLE, "overloaded"),
        (503, None, E.PROVIDER_UNAVAILABLE, "overloaded"),
        (409, None, E.PROVIDER_UNAVAILABLE, "overloaded"),
        (413, None, E.PROVIDER_ERROR, "context_overflow"),
        (400, "context_length_exceeded", E.PROVIDER_ERROR, "context_overflow"),
        (400, None, E.PROVIDER_ERROR, "invalid_request"),
        (404, "not_found_error", E.PROVIDER_ERROR, "invalid_request"),
        (200, "new_word", E.PROVIDER_ERROR, "unknown"),
        (None, None, E.PROVIDER_ERROR, "unknown"),
    ],
)
def test_the_type_counts_before_the_status(status: int | None, type: str | None, code: E, kind: str) -> None:
    """spec/04 §2.10: an error within a stream has status 200, and its type tells."""
    error = provider_failure("anthropic", "no", classify(status, type), status=status)
    assert (error.code, (error.provider_error or {})["kind"]) == (code, kind)


def test_only_what_may_pass_is_worth_another_try() -> None:
    retryable = {classify(status)[0] for status in (401, 402, 404, 413, 429, 500, 529)} | {CUT[0]}
    assert {code for code in retryable if provider_failure("x", "no", (code, CUT[1])).retryable} == {
        E.PROVIDER_RATE_LIMITED, E.PROVIDER_UNAVAILABLE,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("headers", "ms"),
    [
        ({"retry-after-ms": "250", "retry-after": "9"}, 250),
        ({"retry-after": "3"}, 3_000),
        ({"retry-after": "1.5"}, 1_500),
        ({"retry-after": "Sun, 01 Jun 2025 12:00:07 GMT"}, 7_000),
        ({"retry-after": "Sun, 01 Jun 2025 11:00:00 GMT"}, 0),
        ({"retry-after": "soon"}, None),
        ({}, None),
    ],
)
def test_a_provider_says_when_to_come_again(headers: dict[str, str], ms: int | None) -> None:
    """Milliseconds, seconds or a date."""
    assert retry_after_ms(headers, NOW) == ms

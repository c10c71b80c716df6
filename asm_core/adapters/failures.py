"""
A provider's failure as an error of ours: by the type that it names first, by the HTTP status second, by its text never.

The code decides whether another try may help (`domain/errors.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.provider_error import ProviderErrorKind

_E, _K = ErrorCode, ProviderErrorKind

_RATE_LIMIT = (_E.PROVIDER_RATE_LIMITED, _K.RATE_LIMIT)
_QUOTA = (_E.PROVIDER_QUOTA_EXCEEDED, _K.QUOTA)
_AUTHENTICATION = (_E.PROVIDER_AUTHENTICATION_FAILED, _K.AUTHENTICATION)
_TIMEOUT = (_E.PROVIDER_TIMEOUT, _K.TIMEOUT)
_OVERLOADED = (_E.PROVIDER_UNAVAILABLE, _K.OVERLOADED)
_INVALID = (_E.PROVIDER_ERROR, _K.INVALID_REQUEST)
OVERFLOW = (_E.PROVIDER_ERROR, _K.CONTEXT_OVERFLOW)
_UNKNOWN = (_E.PROVIDER_ERROR, _K.UNKNOWN)

CUT = (_E.PROVIDER_UNAVAILABLE, _K.PROTOCOL_ERROR)
"""The stream ended without the provider's word that it is complete, or the connection broke."""
UNAUTHENTICATED = _AUTHENTICATION
"""There is no key to send."""
MALFORMED = (_E.PROVIDER_ERROR, _K.PARSE_ERROR)

BY_TYPE: Mapping[str, tuple[ErrorCode, ProviderErrorKind]] = {
    **dict.fromkeys(("rate_limit_error", "rate_limit_exceeded", "rate_limit"), _RATE_LIMIT),
    **dict.fromkeys(("billing_error", "insufficient_quota", "usage_limit_exceeded"), _QUOTA),
    **dict.fromkeys(
        ("authentication_error", "authentication_failed", "permission_error", "invalid_api_key"), _AUTHENTICATION
    ),
    **dict.fromkeys(("timeout_error",), _TIMEOUT),
    **dict.fromkeys(("overloaded_error", "api_error", "server_error", "server_is_overloaded"), _OVERLOADED),
    **dict.fromkeys(("request_too_large", "context_length_exceeded"), OVERFLOW),
    **dict.fromkeys(("invalid_request_error", "not_found_error", "invalid_prompt"), _INVALID),
}
BY_STATUS: Mapping[int, tuple[ErrorCode, ProviderErrorKind]] = {
    401: _AUTHENTICATION,
    402: _QUOTA,
    403: _AUTHENTICATION,
    408: _TIMEOUT,
    409: _OVERLOADED,
    413: OVERFLOW,
    429: _RATE_LIMIT,
    504: _TIMEOUT,
}


def classify(status: int | None = None, type: str | None = None) -> tuple[ErrorCode, ProviderErrorKind]:
    """
    Args:
        status: of HTTP; 200 for an error within a stream says nothing.
        type: the provider's own word, or its code.

    Source: spec/04 §2.10.
    """
    if type is not None and type in BY_TYPE:
        return BY_TYPE[type]
    if status is None or status < 400:
        return _UNKNOWN
    return BY_STATUS.get(status) or (_OVERLOADED if status >= 500 else _INVALID)


def provider_failure(
    provider: str,
    message: str,
    what: tuple[ErrorCode, ProviderErrorKind] = _UNKNOWN,
    *,
    retry_after_ms: int | None = None,
    exit_code: int | None = None,
    stderr: str | None = None,
    **details: Any,
) -> AsmError:
    """
    Args:
        what: of `classify`, or one of this module's own.
        details: facts worth keeping (`status`, `type`, `request_id`); None is left out.
    """
    code, kind = what
    told = {**details, "retry_after_ms": retry_after_ms}
    return AsmError(
        code,
        message,
        details={name: value for name, value in told.items() if value is not None},
        provider_error={
            "provider": provider, "kind": str(kind), "message": message, "exit_code": exit_code, "stderr": stderr,
        },
    )  # fmt: skip


def retry_after_ms(headers: Mapping[str, str], now: datetime) -> int | None:
    """What a response asks for: `retry-after-ms`, else `retry-after` in seconds or as a date."""
    for name, unit in (("retry-after-ms", 1), ("retry-after", 1000)):
        try:
            return max(0, round(float(headers[name]) * unit))
        except (KeyError, ValueError):
            continue
    try:
        at = parsedate_to_datetime(headers["retry-after"])
    except (KeyError, ValueError):
        return None
    return max(0, round((at - now).total_seconds() * 1000)) if at.tzinfo else None

"""
A provider's failure in one shape, whatever SDK or program it came from, and how a failed run or session tells of it.

What a provider wrote to its error output is cut here, once, so that neither a run's row nor its terminal event carries
megabytes; and it stands in one place, `provider_error.stderr`, never in `details` as well.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from asm_core.domain.errors import AsmError, ErrorCategory, ErrorCode, category
from asm_core.domain.fields import clean_text, text_of

UNKNOWN = "unknown"

PROVIDERS = frozenset({"anthropic", "openai", "claude", "codex", "amp", "gemini", "shell", "scripted", "replay"})
"""Names that a payload may claim for itself; any other comes from whoever called the provider."""


class ProviderErrorKind(StrEnum):
    TRANSPORT_EXIT = "transport_exit"
    PROCESS_ERROR = "process_error"
    PARSE_ERROR = "parse_error"
    PROTOCOL_ERROR = "protocol_error"
    CLI_NOT_FOUND = "cli_not_found"
    TIMEOUT = "timeout"
    RATE_LIMIT = "rate_limit"
    QUOTA = "quota"
    AUTHENTICATION = "authentication"
    OVERLOADED = "overloaded"
    INVALID_REQUEST = "invalid_request"
    CONTEXT_OVERFLOW = "context_overflow"
    REFUSAL = "refusal"
    UNKNOWN = "unknown"


_E, _K = ErrorCode, ProviderErrorKind

KIND_OF_CODE: Mapping[ErrorCode, ProviderErrorKind] = {
    _E.PROVIDER_TIMEOUT: _K.TIMEOUT,
    _E.PROVIDER_RATE_LIMITED: _K.RATE_LIMIT,
    _E.PROVIDER_QUOTA_EXCEEDED: _K.QUOTA,
    _E.PROVIDER_AUTHENTICATION_FAILED: _K.AUTHENTICATION,
}
"""What a code says about the kind, where the provider says nothing."""

NO_MESSAGE = "The provider gave no reason"

MOVED = frozenset({"stderr", "stderr_truncated", "exit_code", "exit_status"})
"""Keys of `details` that `provider_error` says better."""


@dataclass(frozen=True, slots=True)
class TextLimits:
    """What is kept of an error output; 0 or less means all of it."""

    max_bytes: int = 16_384
    max_lines: int = 200


DEFAULT_LIMITS = TextLimits()


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderError:
    """Source: spec/01 §9.3, spec/04 §2.10."""

    provider: str
    kind: ProviderErrorKind
    message: str
    exit_code: int | None = None
    stderr: str | None = None
    truncated: bool | None = None
    """True when something is missing from `stderr`; None, never False, when nobody knows of it."""

    def to_map(self) -> dict[str, Any]:
        return {
            "provider": self.provider,
            "kind": str(self.kind),
            "message": self.message,
            "exit_code": self.exit_code,
            "stderr": self.stderr,
            "truncated": self.truncated,
        }


def normalize_provider_error(
    provider: str | None, attrs: object, limits: TextLimits = DEFAULT_LIMITS
) -> tuple[ProviderError, dict[str, Any]]:
    """
    A provider's own account of a failure, and what else it says.

    Args:
        provider: who was called; counts unless `attrs` names a known provider itself (behind a router the real one).
        attrs: `provider, kind, message, exit_code, stderr, truncated, details`, each optional; what is no mapping
            counts as the message.

    Returns:
        The error in its six fields, and `attrs.details` without what these fields say. Never raises.
    """
    given = attrs if isinstance(attrs, Mapping) else {"message": text_of(attrs)}
    details = _details(given)
    stderr, was_cut = _stderr(_first(given.get("stderr"), details.get("stderr")), limits)
    flags = (given.get("truncated"), given.get("stderr_truncated"), details.get("stderr_truncated"))
    normalized = ProviderError(
        provider=_provider(given.get("provider"), provider),
        kind=_kind(_first(given.get("kind"), details.get("kind"))),
        message=_message(given.get("message"), details.get("message"), stderr),
        exit_code=_exit_code(
            _first(given.get("exit_code"), _first(details.get("exit_code"), details.get("exit_status")))
        ),
        stderr=stderr,
        truncated=True if was_cut or any(_is_set(flag) for flag in flags) else None,
    )
    return normalized, {key: value for key, value in details.items() if key not in MOVED}


def normalize_error(error: object, provider: str | None = None, limits: TextLimits = DEFAULT_LIMITS) -> AsmError:
    """
    The error that a run or session is said to have failed with; its `to_payload` is what `run.error` holds.

    An error with a `provider_error`, or with a code of the provider's category, gets a normalized one. Anything that
    is no `AsmError` becomes `internal_error`. Doing it twice changes nothing.

    Args:
        provider: the adapter's name.

    Source: spec/01 §12.7.
    """
    if not isinstance(error, AsmError):
        return AsmError(ErrorCode.INTERNAL_ERROR, _text_of_failure(error))
    if error.provider_error is None and category(error.code) is not ErrorCategory.PROVIDER:
        return error
    raw = error.provider_error or {}
    attrs = {**raw, "message": raw.get("message") or error.message, "details": {**error.details, **_details(raw)}}
    normalized, details = normalize_provider_error(provider, attrs, limits)
    if normalized.kind is ProviderErrorKind.UNKNOWN:
        normalized = replace(normalized, kind=KIND_OF_CODE.get(error.code, ProviderErrorKind.UNKNOWN))
    return AsmError(
        error.code,
        error.message,
        details=details,
        provider_error=normalized.to_map(),
        stacktrace=error.stacktrace,
        context=error.context,
        timestamp=error.timestamp,
    )


def _details(attrs: Mapping[str, Any]) -> Mapping[str, Any]:
    details = attrs.get("details")
    return details if isinstance(details, Mapping) else {}


def _first(preferred: Any, otherwise: Any) -> Any:
    return otherwise if preferred is None else preferred


def _provider(claimed: object, called: str | None) -> str:
    name = claimed.strip().lower() if isinstance(claimed, str) else ""
    return name if name in PROVIDERS else called or UNKNOWN


def _kind(value: object) -> ProviderErrorKind:
    name = value.strip().lower() if isinstance(value, str) else ""
    return ProviderErrorKind(name) if name in ProviderErrorKind._value2member_map_ else ProviderErrorKind.UNKNOWN


def _message(own: object, detailed: object, stderr: str | None) -> str:
    for candidate in (own, detailed, (stderr or "").strip().partition("\n")[0].strip()):
        if isinstance(candidate, str) and candidate:
            return candidate
    return NO_MESSAGE


def _exit_code(value: object) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return int(value) if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value) else None


def _is_set(flag: object) -> bool:
    return flag is True or flag in ("true", "1")


def _stderr(value: object, limits: TextLimits) -> tuple[str | None, bool]:
    """The output within its limits, lines first, and whether it is less than what there was."""
    if value is None:
        return None, False
    text = clean_text(value) if isinstance(value, str) else text_of(value)
    kept = text
    if limits.max_lines > 0:
        kept = "\n".join(kept.split("\n", limits.max_lines)[: limits.max_lines])
    if limits.max_bytes > 0:
        kept = kept.encode()[: limits.max_bytes].decode(errors="ignore")
    return kept, kept != text or not isinstance(value, str)


def _text_of_failure(error: object) -> str:
    if isinstance(error, BaseException):
        return str(error) or type(error).__name__
    return text_of(error)

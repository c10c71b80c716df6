"""
The one error type of ASM and its closed set of codes.

Whether an error may be retried, and what a workflow should do about it, is read from `CODES` and nowhere else: never
from a message. Foreign errors (drivers, SDKs, pydantic) are turned into `AsmError` at the edge where they appear, with
the cause kept by `raise … from`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NamedTuple

from asm_core.domain.fields import parse_datetime, timestamp_text, to_jsonable


class ErrorCategory(StrEnum):
    VALIDATION = "validation"
    STATE = "state"
    RESOURCE = "resource"
    PROVIDER = "provider"
    STORAGE = "storage"
    RUNTIME = "runtime"
    CONCURRENCY = "concurrency"
    TOOL = "tool"
    ACCESS = "access"
    UNKNOWN = "unknown"


class Action(StrEnum):
    """What a workflow engine should do with a failed step."""

    RETRY = "retry"
    WAIT_AND_RETRY = "wait_and_retry"
    FAILOVER = "failover"
    CANCEL = "cancel"
    ABORT = "abort"


class ErrorCode(StrEnum):
    VALIDATION_ERROR = "validation_error"
    INVALID_INPUT = "invalid_input"
    MISSING_REQUIRED_FIELD = "missing_required_field"
    INVALID_FORMAT = "invalid_format"
    INVALID_STATUS = "invalid_status"
    INVALID_TRANSITION = "invalid_transition"
    INVALID_EVENT_TYPE = "invalid_event_type"
    INVALID_CAPABILITY_TYPE = "invalid_capability_type"
    MISSING_REQUIRED_CAPABILITY = "missing_required_capability"
    STREAM_CLOSED = "stream_closed"
    CONTEXT_MISMATCH = "context_mismatch"
    INVALID_CURSOR = "invalid_cursor"
    SESSION_MISMATCH = "session_mismatch"
    RUN_MISMATCH = "run_mismatch"
    NOT_FOUND = "not_found"
    SESSION_NOT_FOUND = "session_not_found"
    RUN_NOT_FOUND = "run_not_found"
    CAPABILITY_NOT_FOUND = "capability_not_found"
    ALREADY_EXISTS = "already_exists"
    DUPLICATE_CAPABILITY = "duplicate_capability"
    PROVIDER_ERROR = "provider_error"
    PROVIDER_UNAVAILABLE = "provider_unavailable"
    PROVIDER_RATE_LIMITED = "provider_rate_limited"
    PROVIDER_TIMEOUT = "provider_timeout"
    PROVIDER_AUTHENTICATION_FAILED = "provider_authentication_failed"
    PROVIDER_QUOTA_EXCEEDED = "provider_quota_exceeded"
    STORAGE_ERROR = "storage_error"
    STORAGE_CONNECTION_FAILED = "storage_connection_failed"
    DEPENDENCY_NOT_AVAILABLE = "dependency_not_available"
    MIGRATION_REQUIRED = "migration_required"
    STORAGE_WRITE_FAILED = "storage_write_failed"
    STORAGE_READ_FAILED = "storage_read_failed"
    QUERY_ERROR = "query_error"
    MAINTENANCE_ERROR = "maintenance_error"
    PERSISTENCE_ERROR = "persistence_error"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    POLICY_VIOLATION = "policy_violation"
    INTERNAL_ERROR = "internal_error"
    UNKNOWN_ERROR = "unknown_error"
    MAX_SESSIONS_EXCEEDED = "max_sessions_exceeded"
    MAX_RUNS_EXCEEDED = "max_runs_exceeded"
    CAPABILITY_NOT_SUPPORTED = "capability_not_supported"
    INVALID_OPERATION = "invalid_operation"
    TOOL_ERROR = "tool_error"
    TOOL_NOT_FOUND = "tool_not_found"
    TOOL_EXECUTION_FAILED = "tool_execution_failed"
    TOOL_PERMISSION_DENIED = "tool_permission_denied"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    PAYLOAD_TOO_LARGE = "payload_too_large"
    RATE_LIMITED = "rate_limited"


class CodeRule(NamedTuple):
    category: ErrorCategory
    default_message: str
    retryable: bool = False
    action: Action = Action.ABORT


_C, _A, _E = ErrorCategory, Action, ErrorCode
CODES: Mapping[ErrorCode, CodeRule] = {
    _E.VALIDATION_ERROR: CodeRule(_C.VALIDATION, "A value is not valid"),
    _E.INVALID_INPUT: CodeRule(_C.VALIDATION, "The input is not valid"),
    _E.MISSING_REQUIRED_FIELD: CodeRule(_C.VALIDATION, "A required field is missing"),
    _E.INVALID_FORMAT: CodeRule(_C.VALIDATION, "A value has the wrong format"),
    _E.INVALID_STATUS: CodeRule(_C.STATE, "Unknown status"),
    _E.INVALID_TRANSITION: CodeRule(_C.STATE, "This change of status is not allowed"),
    _E.INVALID_EVENT_TYPE: CodeRule(_C.STATE, "Unknown event type"),
    _E.INVALID_CAPABILITY_TYPE: CodeRule(_C.STATE, "Unknown capability type"),
    _E.MISSING_REQUIRED_CAPABILITY: CodeRule(_C.STATE, "A required capability is missing"),
    _E.STREAM_CLOSED: CodeRule(_C.STATE, "The stream is closed"),
    _E.CONTEXT_MISMATCH: CodeRule(_C.STATE, "The event belongs to another context"),
    _E.INVALID_CURSOR: CodeRule(_C.STATE, "The cursor is not valid"),
    _E.SESSION_MISMATCH: CodeRule(_C.STATE, "The event belongs to another session"),
    _E.RUN_MISMATCH: CodeRule(_C.STATE, "The event belongs to another run"),
    _E.NOT_FOUND: CodeRule(_C.RESOURCE, "Not found"),
    _E.SESSION_NOT_FOUND: CodeRule(_C.RESOURCE, "Session not found"),
    _E.RUN_NOT_FOUND: CodeRule(_C.RESOURCE, "Run not found"),
    _E.CAPABILITY_NOT_FOUND: CodeRule(_C.RESOURCE, "Capability not found"),
    _E.ALREADY_EXISTS: CodeRule(_C.RESOURCE, "Already exists"),
    _E.DUPLICATE_CAPABILITY: CodeRule(_C.RESOURCE, "The capability is there already"),
    _E.PROVIDER_ERROR: CodeRule(_C.PROVIDER, "The provider failed"),
    _E.PROVIDER_UNAVAILABLE: CodeRule(_C.PROVIDER, "The provider is not available", True, _A.FAILOVER),
    _E.PROVIDER_RATE_LIMITED: CodeRule(_C.PROVIDER, "The provider limits the rate", True, _A.WAIT_AND_RETRY),
    _E.PROVIDER_TIMEOUT: CodeRule(_C.PROVIDER, "The provider did not answer in time", True, _A.RETRY),
    _E.PROVIDER_AUTHENTICATION_FAILED: CodeRule(_C.PROVIDER, "The provider refused the credentials"),
    _E.PROVIDER_QUOTA_EXCEEDED: CodeRule(_C.PROVIDER, "The provider's quota is used up"),
    _E.STORAGE_ERROR: CodeRule(_C.STORAGE, "The store failed"),
    _E.STORAGE_CONNECTION_FAILED: CodeRule(_C.STORAGE, "The store cannot be reached", True, _A.RETRY),
    _E.DEPENDENCY_NOT_AVAILABLE: CodeRule(_C.STORAGE, "A needed package or program is not installed"),
    _E.MIGRATION_REQUIRED: CodeRule(_C.STORAGE, "The database schema is not up to date; run `asm migrate`"),
    _E.STORAGE_WRITE_FAILED: CodeRule(_C.STORAGE, "The store could not be written"),
    _E.STORAGE_READ_FAILED: CodeRule(_C.STORAGE, "The store could not be read"),
    _E.QUERY_ERROR: CodeRule(_C.STORAGE, "The query failed"),
    _E.MAINTENANCE_ERROR: CodeRule(_C.STORAGE, "The maintenance operation failed"),
    _E.PERSISTENCE_ERROR: CodeRule(_C.STORAGE, "The record could not be kept"),
    _E.TIMEOUT: CodeRule(_C.RUNTIME, "The time limit has passed", True, _A.RETRY),
    _E.CANCELLED: CodeRule(_C.RUNTIME, "Cancelled", False, _A.CANCEL),
    _E.POLICY_VIOLATION: CodeRule(_C.RUNTIME, "A policy was violated", False, _A.CANCEL),
    _E.INTERNAL_ERROR: CodeRule(_C.RUNTIME, "Internal error"),
    _E.UNKNOWN_ERROR: CodeRule(_C.RUNTIME, "Unknown error"),
    _E.MAX_SESSIONS_EXCEEDED: CodeRule(_C.CONCURRENCY, "The limit of parallel sessions is reached"),
    _E.MAX_RUNS_EXCEEDED: CodeRule(_C.CONCURRENCY, "The limit of runs is reached", False, _A.WAIT_AND_RETRY),
    _E.CAPABILITY_NOT_SUPPORTED: CodeRule(_C.CONCURRENCY, "The provider cannot do this"),
    _E.INVALID_OPERATION: CodeRule(_C.CONCURRENCY, "This operation is not possible now"),
    _E.TOOL_ERROR: CodeRule(_C.TOOL, "The tool failed"),
    _E.TOOL_NOT_FOUND: CodeRule(_C.TOOL, "Tool not found"),
    _E.TOOL_EXECUTION_FAILED: CodeRule(_C.TOOL, "The tool's execution failed"),
    _E.TOOL_PERMISSION_DENIED: CodeRule(_C.TOOL, "The tool is not permitted"),
    _E.UNAUTHORIZED: CodeRule(_C.ACCESS, "An API key is needed"),
    _E.FORBIDDEN: CodeRule(_C.ACCESS, "This API key may not do this"),
    _E.PAYLOAD_TOO_LARGE: CodeRule(_C.ACCESS, "The request is too large"),
    _E.RATE_LIMITED: CodeRule(_C.ACCESS, "Too many requests", False, _A.WAIT_AND_RETRY),
}


def valid_code(code: object) -> bool:
    """True for a member of the taxonomy or its exact text."""
    return isinstance(code, str) and code in ErrorCode._value2member_map_


def category(code: str) -> ErrorCategory:
    """The category of a code; `unknown` for anything outside the taxonomy."""
    return CODES[ErrorCode(code)].category if valid_code(code) else ErrorCategory.UNKNOWN


def codes_of(wanted: ErrorCategory) -> list[ErrorCode]:
    """All codes of one category, in the order of the taxonomy."""
    return [code for code, rule in CODES.items() if rule.category is wanted]


def is_retryable(error: AsmError | str) -> bool:
    """Whether repeating the same call may succeed; False for unknown codes."""
    code = error.code if isinstance(error, AsmError) else error
    return valid_code(code) and CODES[ErrorCode(code)].retryable


class AsmError(Exception):
    """
    Every failure that ASM reports, in Python, over HTTP and in stored runs.

    Args:
        code: a member of the taxonomy.
        message: what happened, naming the offending value; the code's own text when omitted.
        details: plain JSON facts a program may read (`reason`, `field`, `retry_after_ms`, …).
        provider_error: the provider's side of it (`provider, kind, message, exit_code, stderr, truncated`).
        context: ids around the failure.
        timestamp: aware UTC; now when omitted.

    Source: spec/01 §9.
    """

    def __init__(
        self,
        code: ErrorCode | str = ErrorCode.UNKNOWN_ERROR,
        message: str | None = None,
        *,
        details: Mapping[str, Any] | None = None,
        provider_error: Mapping[str, Any] | None = None,
        stacktrace: str | None = None,
        context: Mapping[str, Any] | None = None,
        timestamp: datetime | None = None,
    ) -> None:
        self.code = ErrorCode(code)
        self.message = message or CODES[self.code].default_message
        self.details = dict(details or {})
        self.provider_error = dict(provider_error) if provider_error else None
        self.stacktrace = stacktrace
        self.context = dict(context or {})
        self.timestamp = timestamp or datetime.now(UTC)
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"[{self.code}] {self.message}"

    def __reduce__(self) -> tuple[Any, ...]:
        return (AsmError.from_map, (self.to_map(),))

    @property
    def retryable(self) -> bool:
        return is_retryable(self)

    @classmethod
    def wrap(cls, code: ErrorCode | str, cause: BaseException, message: str | None = None) -> AsmError:
        """An AsmError standing for a foreign exception; raise it `from cause`."""
        details: dict[str, Any] = {"original_exception": type(cause).__name__}
        if message:
            details["original_message"] = str(cause)
        return cls(code, message or str(cause), details=details)

    def to_payload(self) -> dict[str, Any]:
        """The shape kept in a run's `error` and in terminal events: `code, message, provider_error?, details?`."""
        payload: dict[str, Any] = {"code": str(self.code), "message": self.message}
        if self.provider_error:
            payload["provider_error"] = to_jsonable(self.provider_error)
        if self.details:
            payload["details"] = to_jsonable(self.details)
        return payload

    def to_event_data(self) -> dict[str, Any]:
        """The same facts in an event: `error_code, error_message, provider_error?, details?`."""
        payload = self.to_payload()
        return {"error_code": payload.pop("code"), "error_message": payload.pop("message"), **payload}

    def to_map(self) -> dict[str, Any]:
        return {
            "code": str(self.code),
            "message": self.message,
            "details": to_jsonable(self.details),
            "provider_error": to_jsonable(self.provider_error),
            "stacktrace": self.stacktrace,
            "context": to_jsonable(self.context),
            "timestamp": timestamp_text(self.timestamp),
        }

    @classmethod
    def from_map(cls, value: object) -> AsmError:
        """The error that `to_map` or `to_payload` wrote. Raises `validation_error` for anything else."""
        if not isinstance(value, Mapping):
            raise AsmError(ErrorCode.VALIDATION_ERROR, f"an error must be a mapping, not {type(value).__name__}")
        code, message = value.get("code"), value.get("message")
        if not valid_code(code):
            raise AsmError(ErrorCode.VALIDATION_ERROR, f"unknown error code: {code!r}")
        if not isinstance(message, str):
            raise AsmError(ErrorCode.VALIDATION_ERROR, f"an error's message must be text, not {message!r}")
        at = value.get("timestamp")
        try:
            timestamp = parse_datetime(at) if at is not None else None
        except ValueError as cause:
            raise AsmError(ErrorCode.VALIDATION_ERROR, f"not a timestamp: {at!r}") from cause
        return cls(
            str(code),
            message,
            details=value.get("details"),
            provider_error=value.get("provider_error"),
            stacktrace=value.get("stacktrace"),
            context=value.get("context"),
            timestamp=timestamp,
        )


@dataclass(unsafe_hash=True)  # not frozen: contextlib writes the traceback of what passes through it
class LeaseLost(Exception):
    """The run belongs to another worker now: write nothing more about it, leave."""

    run_id: str

    def __str__(self) -> str:
        return f"the lease of {self.run_id} is gone"

"""Session: a container for runs that share a context, a queue and one numbered log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.fields import parse_datetime, timestamp_text, to_jsonable
from asm_core.domain.lifecycle import TERMINAL_SESSIONS, SessionStatus

DEFAULT_TENANT = "default"


def require_text(record: str, name: str, value: object) -> str:
    """`value` as non-empty text. Raises `validation_error` naming the field."""
    problem = (
        "is required" if value is None
        else "must be text" if not isinstance(value, str)
        else "must not be empty" if not value
        else None
    )  # fmt: skip
    if problem is not None:
        raise AsmError(ErrorCode.VALIDATION_ERROR, f"{record} {name} {problem}", details={"field": name})
    return str(value)


def require_datetime(record: str, name: str, value: object) -> datetime:
    """`value` as an aware datetime. Raises `validation_error` naming the field."""
    try:
        return parse_datetime(value)
    except ValueError as cause:
        raise AsmError(ErrorCode.VALIDATION_ERROR, f"{record} {name}: {cause}", details={"field": name}) from cause


def require_mapping(record: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise AsmError(ErrorCode.VALIDATION_ERROR, f"a {record} must be a mapping, not {type(value).__name__}")
    return value


def optional_mapping(record: str, name: str, value: object) -> Mapping[str, Any]:
    """`value`, or an empty mapping for None. Raises `validation_error` naming the field."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        message = f"{record} {name} must be a mapping, not {type(value).__name__}"
        raise AsmError(ErrorCode.VALIDATION_ERROR, message, details={"field": name})
    return value


def optional_datetime(value: object) -> datetime | None:
    """An unreadable optional time counts as absent."""
    try:
        return parse_datetime(value)
    except ValueError:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Source: spec/01 §2, DESIGN §8."""

    id: str
    agent_id: str
    created_at: datetime
    updated_at: datetime
    tenant_id: str = DEFAULT_TENANT
    status: SessionStatus = SessionStatus.PENDING
    parent_session_id: str | None = None
    forked_at: int | None = None
    """Of a fork: the log begins with the parent's events up to this number, by reference; its own follow behind."""
    provider: str | None = None
    """Provider of runs that name none."""
    model: str | None = None
    """Model of runs that name none."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    context: Mapping[str, Any] = field(default_factory=dict)
    """Shared by all runs: `system_prompt`, …"""
    tags: Sequence[str] = ()
    max_concurrent_runs: int = 1
    max_queued_runs: int = 100
    deleted_at: datetime | None = None

    @classmethod
    def new(cls, *, id: object, agent_id: object, now: datetime, **fields: Any) -> Session:
        """
        A pending session. `status` cannot be given; None for a mapping or list means empty.

        Raises:
            AsmError: `validation_error` naming `id`, `agent_id`, a mapping or a bound.
        """
        fields.pop("status", None)
        for name in ("metadata", "context"):
            fields[name] = optional_mapping("session", name, fields.get(name))
        if fields.get("tags") is None:
            fields["tags"] = ()
        session = cls(
            id=require_text("session", "id", id),
            agent_id=require_text("session", "agent_id", agent_id),
            created_at=now,
            updated_at=now,
            **fields,
        )
        _require_bound("max_concurrent_runs", session.max_concurrent_runs, at_least=1)
        _require_bound("max_queued_runs", session.max_queued_runs, at_least=0)
        return session

    @property
    def is_terminal(self) -> bool:
        return self.status in TERMINAL_SESSIONS

    def with_status(self, status: str, now: datetime) -> Session:
        """The same session under another status. Raises `invalid_status` for an unknown one."""
        return replace(self, status=parse_session_status(status), updated_at=now)

    def to_map(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "agent_id": self.agent_id,
            "status": str(self.status),
            "parent_session_id": self.parent_session_id,
            "forked_at": self.forked_at,
            "provider": self.provider,
            "model": self.model,
            "metadata": to_jsonable(self.metadata),
            "context": to_jsonable(self.context),
            "tags": list(self.tags),
            "max_concurrent_runs": self.max_concurrent_runs,
            "max_queued_runs": self.max_queued_runs,
            "created_at": timestamp_text(self.created_at),
            "updated_at": timestamp_text(self.updated_at),
            "deleted_at": timestamp_text(self.deleted_at) if self.deleted_at else None,
        }

    @classmethod
    def from_map(cls, value: object) -> Session:
        """The session that `to_map` wrote. Raises `validation_error`, `invalid_status`."""
        given = require_mapping("session", value)
        return cls(
            id=require_text("session", "id", given.get("id")),
            agent_id=require_text("session", "agent_id", given.get("agent_id")),
            status=parse_session_status(require_text("session", "status", given.get("status"))),
            created_at=require_datetime("session", "created_at", given.get("created_at")),
            updated_at=require_datetime("session", "updated_at", given.get("updated_at")),
            tenant_id=given.get("tenant_id") or DEFAULT_TENANT,
            parent_session_id=given.get("parent_session_id"),
            forked_at=given.get("forked_at"),
            provider=given.get("provider"),
            model=given.get("model"),
            metadata=given.get("metadata") or {},
            context=given.get("context") or {},
            tags=tuple(given.get("tags") or ()),
            max_concurrent_runs=given.get("max_concurrent_runs", 1),
            max_queued_runs=given.get("max_queued_runs", 100),
            deleted_at=optional_datetime(given.get("deleted_at")),
        )


def parse_session_status(text: str) -> SessionStatus:
    """Raises `invalid_status`, listing the valid ones."""
    if text not in SessionStatus._value2member_map_:
        known = ", ".join(SessionStatus)
        raise AsmError(ErrorCode.INVALID_STATUS, f"unknown session status {text!r}; one of: {known}")
    return SessionStatus(text)


def _require_bound(name: str, value: object, at_least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
        raise AsmError(
            ErrorCode.VALIDATION_ERROR,
            f"{name} must be an integer from {at_least}, not {value!r}",
            details={"field": name},
        )

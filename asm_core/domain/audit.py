"""The audit log: who did what to a session or run, and when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from asm_core.domain.fields import timestamp_text, to_jsonable
from asm_core.domain.session import DEFAULT_TENANT


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """
    One thing that happened. Entries are never changed, and stay when their session is deleted.

    Source: spec/03 §10.
    """

    action: str
    """`run.submitted`, `session.paused`, … where a transaction tells of itself; an event type where a logger does."""
    tenant_id: str = DEFAULT_TENANT
    session_id: str | None = None
    run_id: str | None = None
    actor: str | None = None
    """On whose behalf; None where the store was not told."""
    data: Mapping[str, Any] = field(default_factory=dict)
    id: int | None = None
    """Rises with every entry of a session, not without gaps; None until stored."""
    at: datetime | None = None
    """The store's clock; None until stored."""

    def to_map(self) -> dict[str, Any]:
        """The wire form; the tenant is the caller's own."""
        return {
            "id": self.id,
            "at": None if self.at is None else timestamp_text(self.at),
            "action": self.action,
            "session_id": self.session_id,
            "run_id": self.run_id,
            "actor": self.actor,
            "data": to_jsonable(self.data),
        }

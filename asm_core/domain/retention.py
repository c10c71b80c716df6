"""How long sessions and events are kept, and which are kept whatever their age."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import TERMINAL_EVENT_TYPES, EventType, valid_type
from asm_core.domain.lifecycle import TERMINAL_SESSIONS, SessionStatus

_T = EventType

PROTECTED_TYPES = frozenset(
    {
        _T.SESSION_CREATED,
        *(EventType(f"session_{status}") for status in TERMINAL_SESSIONS),
        _T.RUN_STARTED,
        *TERMINAL_EVENT_TYPES,
        _T.ERROR_OCCURRED,
        _T.ERROR_RECOVERED,
    }
)
"""Never pruned: what begins and ends sessions and runs, what went wrong, what tells a dead attempt from a live one."""

INFINITY_TEXTS = ("infinity", "inf")
MAX_BATCH_SIZE = 10_000
"""A statement takes so many parameters and no more."""


class Archive(Protocol):
    """Where pruned events go first; every artifact store is one."""

    async def put(self, key: str, data: bytes) -> object: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionPolicy:
    """
    None means infinity. A policy is checked when it is used, or by `validate`.

    Source: spec/02 §10.1.
    """

    max_session_age_days: int | None = None
    """Since creation; older sessions that are not exempt are soft-deleted."""
    max_completed_session_age_days: int | None = 90
    """Since the last change; as above."""
    max_events_per_session: int | None = None
    max_total_events: int | None = None
    """Of one tenant; beyond it the oldest events go, wherever they are."""
    hard_delete_after_days: int | None = 30
    """Since the soft delete; exemptions no longer count."""
    archive_before_prune: bool = False
    """Write events to `archive_store` before they are pruned; what could not be written stays."""
    archive_store: Archive | None = None
    exempt_statuses: Sequence[str] = (SessionStatus.ACTIVE, SessionStatus.PAUSED)
    """Sessions that are neither soft-deleted nor pruned."""
    exempt_tags: Sequence[str] = ("pinned",)
    """As above, for sessions that carry any of them."""
    prune_event_types_first: Sequence[str] = (EventType.MESSAGE_STREAMED, EventType.TOKEN_USAGE_UPDATED)
    """Worth the least. Protected types cannot be named."""
    batch_size: int = 100
    """Sessions or rows per transaction."""

    @property
    def max_session_age(self) -> timedelta | None:
        return _days(self.max_session_age_days)

    @property
    def max_completed_session_age(self) -> timedelta | None:
        return _days(self.max_completed_session_age_days)

    @property
    def hard_delete_after(self) -> timedelta | None:
        return _days(self.hard_delete_after_days)

    def validate(self) -> None:
        """Raises AsmError `validation_error`, naming the first field that is wrong."""
        for name in ("max_session_age_days", "max_completed_session_age_days", "hard_delete_after_days"):
            _require_bound(name, getattr(self, name))
        for name in ("max_events_per_session", "max_total_events"):
            _require_bound(name, getattr(self, name))
        _require_count("batch_size", self.batch_size)
        if self.batch_size > MAX_BATCH_SIZE:
            raise _invalid("batch_size", f"must be at most {MAX_BATCH_SIZE}, not {self.batch_size}")
        if self.archive_before_prune and self.archive_store is None:
            raise _invalid("archive_store", "is required with archive_before_prune")
        for status in self.exempt_statuses:
            if status not in SessionStatus._value2member_map_:
                raise _invalid("exempt_statuses", f"names an unknown status: {status!r}")
        for kind in self.prune_event_types_first:
            if not valid_type(kind) or kind in PROTECTED_TYPES:
                raise _invalid("prune_event_types_first", f"names an unknown or protected event type: {kind!r}")


def parse_bound(value: object) -> object:
    """A bound as configuration texts give it: `infinity` and `inf` mean none."""
    return None if isinstance(value, str) and value.strip().lower() in INFINITY_TEXTS else value


def _days(days: int | None) -> timedelta | None:
    return None if days is None else timedelta(days=days)


def _require_bound(name: str, value: object) -> None:
    if value is not None:
        _require_count(name, value)


def _require_count(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _invalid(name, f"must be an integer from 1, not {value!r}")


def _invalid(name: str, problem: str) -> AsmError:
    return AsmError(ErrorCode.VALIDATION_ERROR, f"{name} {problem}", details={"field": name})

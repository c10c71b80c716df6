"""What is kept and for how long: the policy's defaults, its contradictions, its configuration."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from asm_core.config import Settings
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import TERMINAL_EVENT_TYPES
from asm_core.domain.retention import PROTECTED_TYPES, RetentionPolicy

FOREVER = RetentionPolicy(max_completed_session_age_days=None, hard_delete_after_days=None)


class Shelf:
    async def put(self, key: str, data: bytes) -> None: ...


def test_defaults() -> None:
    """Check 136."""
    policy = RetentionPolicy()
    assert policy.max_session_age_days is None
    assert policy.max_completed_session_age_days == 90
    assert policy.max_events_per_session is policy.max_total_events is None
    assert policy.hard_delete_after_days == 30
    assert policy.batch_size == 100
    assert list(policy.exempt_statuses) == ["active", "paused"]
    assert list(policy.exempt_tags) == ["pinned"]
    assert list(policy.prune_event_types_first) == ["message_streamed", "token_usage_updated"]


@pytest.mark.parametrize(
    "policy",
    [
        RetentionPolicy(),
        FOREVER,
        RetentionPolicy(max_session_age_days=1, batch_size=1, exempt_statuses=(), exempt_tags=()),
        RetentionPolicy(archive_before_prune=True, archive_store=Shelf()),
    ],
)
def test_sound_policies(policy: RetentionPolicy) -> None:
    """Checks 137, 139."""
    policy.validate()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_session_age_days", -1),
        ("max_completed_session_age_days", 0),
        ("hard_delete_after_days", "30"),
        ("max_events_per_session", 0),
        ("max_total_events", 1.5),
        ("batch_size", 0),
        ("batch_size", True),
        ("batch_size", None),
        ("batch_size", 10_001),
        ("exempt_statuses", ["done"]),
        ("prune_event_types_first", ["chatter"]),
        ("prune_event_types_first", ["run_completed"]),
    ],
)
def test_contradictions_are_named(field: str, value: Any) -> None:
    """Check 138; a protected event type cannot be pruned first."""
    with pytest.raises(AsmError) as caught:
        replace(RetentionPolicy(), **{field: value}).validate()
    assert caught.value.code is ErrorCode.VALIDATION_ERROR
    assert field in caught.value.message


def test_an_archive_needs_a_store() -> None:
    """Check 139; the first thing that is wrong is the one that is told."""
    with pytest.raises(AsmError, match="archive_store"):
        RetentionPolicy(archive_before_prune=True).validate()
    with pytest.raises(AsmError, match="batch_size"):
        RetentionPolicy(archive_before_prune=True, batch_size=0).validate()


def test_what_ends_a_run_is_protected() -> None:
    """Without it `verify` could not tell how the run ended."""
    assert TERMINAL_EVENT_TYPES <= PROTECTED_TYPES
    assert {"session_created", "run_started", "run_completed", "run_failed", "error_occurred"} <= PROTECTED_TYPES


def test_configured_defaults_are_read_when_settings_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks 137, 140: six defaults come from the configuration, and are varied from there."""
    assert Settings().retention == RetentionPolicy()
    for name, value in (
        ("MAX_COMPLETED_AGE_DAYS", "7"),
        ("HARD_DELETE_AFTER_DAYS", "Infinity"),
        ("EXEMPT_STATUSES", "[]"),
        ("EXEMPT_TAGS", '["gold"]'),
        ("PRUNE_EVENT_TYPES_FIRST", '["turn_completed"]'),
        ("BATCH_SIZE", "5"),
    ):
        monkeypatch.setenv(f"ASM_RETENTION_{name}", value)
    configured = Settings().retention
    configured.validate()
    assert (configured.max_completed_session_age_days, configured.hard_delete_after_days) == (7, None)
    assert (configured.exempt_statuses, configured.exempt_tags) == ((), ("gold",))
    assert (configured.prune_event_types_first, configured.batch_size) == (("turn_completed",), 5)
    assert replace(configured, batch_size=6).max_completed_session_age_days == 7

"""The two state machines, walked."""

from __future__ import annotations

import runpy
from itertools import product
from pathlib import Path

import pytest

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.lifecycle import (
    CLAIMABLE_SESSIONS,
    RUN_TRANSITIONS,
    SESSION_TRANSITIONS,
    TERMINAL_RUNS,
    TERMINAL_SESSIONS,
    RunStatus,
    SessionStatus,
    check_session_transition,
    session_sources_of,
    sources_of,
)

RUNS = {
    "pending": "running cancelled failed timeout",
    "running": "completed failed cancelled timeout pending awaiting_approval",
    "awaiting_approval": "pending cancelled failed timeout",
}
SESSIONS = {
    "pending": "active failed cancelled",
    "active": "paused completed failed cancelled",
    "paused": "active completed failed cancelled",
}


@pytest.mark.parametrize("status", RunStatus)
def test_a_run_may_become(status: RunStatus) -> None:
    """DESIGN §3; what is not in the table is terminal."""
    assert RUN_TRANSITIONS[status] == set(RUNS.get(status, "").split())


@pytest.mark.parametrize("status", SessionStatus)
def test_a_session_may_become(status: SessionStatus) -> None:
    """spec/01 §2, the intended machine; active and paused are left for any end."""
    assert SESSION_TRANSITIONS[status] == set(SESSIONS.get(status, "").split())


def test_terminal_is_what_nothing_leaves() -> None:
    """Written once: completed, failed, cancelled, and for runs timeout."""
    assert {"completed", "failed", "cancelled", "timeout"} == TERMINAL_RUNS
    assert {"completed", "failed", "cancelled"} == TERMINAL_SESSIONS
    assert {"pending", "active"} == CLAIMABLE_SESSIONS


def test_every_status_can_be_reached_and_left_for_an_end() -> None:
    """No status is a trap, none is unreachable."""
    for transitions, terminal, first in (
        (RUN_TRANSITIONS, TERMINAL_RUNS, "pending"),
        (SESSION_TRANSITIONS, TERMINAL_SESSIONS, "pending"),
    ):
        reached = {first}
        for _ in transitions:
            reached |= {after for before in reached for after in transitions[before]}  # type: ignore[index]
        assert reached == set(transitions)
        assert all(leads_to & terminal for status, leads_to in transitions.items() if status not in terminal)


def test_sources_are_the_table_read_backwards() -> None:
    """The SQL guards are built from them."""
    for before, after in product(RunStatus, RunStatus):
        assert (before in sources_of(after)) == (after in RUN_TRANSITIONS[before])
    for old, new in product(SessionStatus, SessionStatus):
        assert (old in session_sources_of(new)) == (new in SESSION_TRANSITIONS[old])


@pytest.mark.parametrize(("old", "new"), [*product(SessionStatus, SessionStatus)])
def test_a_forbidden_change_names_both_sides(old: SessionStatus, new: SessionStatus) -> None:
    """`invalid_transition`, which the reference never raised (DESIGN §10)."""
    if new in SESSION_TRANSITIONS[old]:
        check_session_transition("ses_1", old, new)
        return
    with pytest.raises(AsmError) as caught:
        check_session_transition("ses_1", old, new)
    assert caught.value.code is ErrorCode.INVALID_TRANSITION
    assert caught.value.details == {"session_id": "ses_1", "from": str(old), "to": str(new)}


def test_the_drawing_follows_the_tables() -> None:
    """docs/lifecycle.md is drawn, not written: `python docs/draw_lifecycle.py`."""
    drawing = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "draw_lifecycle.py"))
    assert drawing["PAGE"].read_text(encoding="utf-8") == drawing["page"]()
    for reasons, transitions in (("RUN_REASONS", RUN_TRANSITIONS), ("SESSION_REASONS", SESSION_TRANSITIONS)):
        assert all(after in transitions[before] for before, after in drawing[reasons]), (
            "no reason for what cannot happen"
        )

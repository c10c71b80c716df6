"""Draws docs/lifecycle.md from the transition tables: `python docs/draw_lifecycle.py`. A test keeps it up to date."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

from asm_core.domain.lifecycle import RUN_TRANSITIONS, SESSION_TRANSITIONS, TERMINAL_RUNS, TERMINAL_SESSIONS

PAGE = Path(__file__).with_name("lifecycle.md")

# Why a run or a session changes; the tables say only whether it may.
RUN_REASONS = {
    ("pending", "running"): "claimed",
    ("pending", "cancelled"): "cancelled in its queue",
    ("pending", "timeout"): "waited too long",
    ("pending", "failed"): "can never run",
    ("running", "completed"): "the provider is done",
    ("running", "failed"): "the provider failed, or the worker died",
    ("running", "cancelled"): "cancel or interrupt",
    ("running", "timeout"): "time limit",
    ("running", "pending"): "handed back, or taken from a dead worker",
    ("running", "awaiting_approval"): "parked for a person",
    ("awaiting_approval", "pending"): "decided",
    ("awaiting_approval", "cancelled"): "cancelled",
    ("awaiting_approval", "failed"): "denied",
    ("awaiting_approval", "timeout"): "nobody decided",
}
SESSION_REASONS = {
    ("pending", "active"): "started",
    ("active", "paused"): "paused",
    ("paused", "active"): "resumed",
}


def page() -> str:
    """The whole of docs/lifecycle.md."""
    return f"""# Lifecycles

Drawn from the tables in `asm_core/domain/lifecycle.py` by `docs/draw_lifecycle.py`; change those, not this page. What
is not drawn is refused with `invalid_transition`. A status that leads nowhere is terminal: it is written once, together
with its one event, and the database refuses to change it.

## Run

{_diagram(RUN_TRANSITIONS, TERMINAL_RUNS, RUN_REASONS)}

A run that goes back to `pending` keeps its place in the queue. While it awaits approval it holds no slot of a worker or
a limiter, but still one of its session: the next turn of the conversation must not overtake it.

## Session

{_diagram(SESSION_TRANSITIONS, TERMINAL_SESSIONS, SESSION_REASONS)}

Runs are claimed while a session is `pending` or `active`, and submitted also while it is `paused`. A one-shot's session
ends with its run.
"""


def _diagram(
    transitions: Mapping[StrEnum, frozenset[StrEnum]],
    terminal: frozenset[StrEnum],
    reasons: Mapping[tuple[str, str], str],
) -> str:
    order = list(transitions)
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {order[0]}"]
    for source in order:
        for target in sorted(transitions[source], key=order.index):
            reason = reasons.get((source, target))
            lines.append(f"    {source} --> {target}" + (f": {reason}" if reason else ""))
    lines += [f"    {status} --> [*]" for status in order if status in terminal]
    return "\n".join([*lines, "```"])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

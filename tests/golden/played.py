"""Recorded messages, played to the mappers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from asm_core.adapters.amp_events import AmpTurn
from asm_core.adapters.codex_events import CodexTurn

FOLDER = Path(__file__).parent


def events_of(provider: str, raw: list[Any], max_turns: int | None = None) -> list[dict[str, Any]]:
    """What becomes of them, and how the run stands at their end."""
    turn: Any = CodexTurn(max_turns=max_turns) if provider == "codex" else AmpTurn(max_turns=max_turns)
    events = [
        event for said in raw for event in (turn.observe(*said) if isinstance(said, list) else turn.observe(said))
    ]
    told = [{"type": str(event.type), "data": dict(event.data)} for event in events]
    failure = turn.failure.to_payload() if turn.failure else None
    return [*told, {"failure": failure, "requests": turn.requests, "exceeds": turn.exceeds}]

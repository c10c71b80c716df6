"""
Is what is stored sound? The invariants of DESIGN §9, each with its verdict.

`asm verify`, every integration and fleet test and every chaos run end here. The queries belong to the store
(`asm_core.stores.sql.verify`); it reads one snapshot, so that a system at work can be verified without false alarms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

MAX_SHOWN = 20
"""Violations of one invariant that are listed; all are counted."""

INVARIANTS: Mapping[int, str] = {
    1: "numbers",
    2: "terminal events",
    3: "fences",
    4: "order of claims",
    5: "slots",
    6: "usage and cost",
    7: "liveness",
}
"""Number in DESIGN §9, and a short name. Number 8 (no secret is stored) needs the redaction patterns, not a query."""


class Inspection(Protocol):
    """One snapshot of a store."""

    async def find(self, invariant: int, *, shown: int, now: datetime | None) -> tuple[int, Sequence[str]]:
        """
        What breaks an invariant.

        Args:
            invariant: its number.
            shown: how many violations to describe at most.
            now: the time against which waiting is measured; the snapshot's own when None.

        Returns:
            How many violations there are, and the first of them, one sentence each.

        Raises:
            AsmError: `storage_connection_failed`, `migration_required`, `query_error`.
        """


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found about one invariant."""

    number: int
    name: str
    count: int
    violations: Sequence[str] = ()
    """The first of them."""

    @property
    def is_sound(self) -> bool:
        return self.count == 0

    def to_map(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "name": self.name,
            "sound": self.is_sound,
            "count": self.count,
            "violations": list(self.violations),
        }


@dataclass(frozen=True, slots=True)
class Report:
    verdicts: Sequence[Verdict]

    @property
    def is_sound(self) -> bool:
        return all(verdict.is_sound for verdict in self.verdicts)

    @property
    def violations(self) -> list[str]:
        """Everything that is listed, each with the number of its invariant."""
        return [f"({verdict.number}) {text}" for verdict in self.verdicts for text in verdict.violations]

    def to_map(self) -> dict[str, Any]:
        return {"sound": self.is_sound, "invariants": [verdict.to_map() for verdict in self.verdicts]}


async def verify(source: Inspection, *, now: datetime | None = None) -> Report:
    """
    Check every invariant against one snapshot.

    Args:
        source: the open snapshot.
        now: for the invariants about waiting; the snapshot's own time when omitted.

    Raises:
        AsmError: `storage_connection_failed`, `migration_required`, `query_error`: nothing is known.

    Source: DESIGN §9.
    """
    return Report([await _verdict(source, number, name, now) for number, name in INVARIANTS.items()])


async def _verdict(source: Inspection, number: int, name: str, now: datetime | None) -> Verdict:
    count, violations = await source.find(number, shown=MAX_SHOWN, now=now)
    return Verdict(number, name, count, violations)

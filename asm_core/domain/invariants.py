"""What must hold of everything stored (DESIGN §9), and what a check of it came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

INVARIANTS: Mapping[int, str] = {
    1: "numbers",
    2: "terminal events",
    3: "fences",
    4: "order of claims",
    5: "slots",
    6: "usage and cost",
    7: "liveness",
    8: "secrets",
}
"""Number in DESIGN §9, and a short name."""

SECRETS = 8

MAX_SHOWN = 20
"""Violations of one invariant that are described; all are counted."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found about one invariant."""

    number: int
    count: int = 0
    violations: Sequence[str] = ()
    """The first of them, one sentence each."""

    @property
    def name(self) -> str:
        return INVARIANTS[self.number]

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
    """One verdict per invariant, all about the same snapshot."""

    verdicts: Sequence[Verdict]
    left_out: Mapping[int, str] = field(default_factory=dict)
    """Number of an invariant that was not looked at, and why."""

    @property
    def is_sound(self) -> bool:
        return all(verdict.is_sound for verdict in self.verdicts)

    @property
    def verdict(self) -> str:
        """In one phrase."""
        broken = [f"{verdict.name} ({verdict.count})" for verdict in self.verdicts if not verdict.is_sound]
        return f"violated: {', '.join(broken)}" if broken else f"sound, {len(self.verdicts)} invariants hold"

    @property
    def violations(self) -> list[str]:
        """Everything that is described, each with the number of its invariant."""
        return [f"({verdict.number}) {text}" for verdict in self.verdicts for text in verdict.violations]

    def lines(self) -> list[str]:
        """For people: a line per invariant, its violations below it, the verdict last."""
        told: list[str] = []
        for verdict in self.verdicts:
            told.append(f"{verdict.number} {verdict.name}: {_found(verdict.count)}")
            told += [f"    {text}" for text in verdict.violations]
            if verdict.count > len(verdict.violations):
                told.append(f"    and {verdict.count - len(verdict.violations)} more")
        told += [f"{number} {INVARIANTS[number]}: left out, {reason}" for number, reason in self.left_out.items()]
        return [*told, self.verdict]

    def to_map(self) -> dict[str, Any]:
        return {
            "sound": self.is_sound,
            "invariants": [verdict.to_map() for verdict in self.verdicts],
            "left_out": [
                {"number": number, "name": INVARIANTS[number], "reason": reason}
                for number, reason in self.left_out.items()
            ],
        }


def _found(count: int) -> str:
    return "ok" if count == 0 else "1 violation" if count == 1 else f"{count} violations"

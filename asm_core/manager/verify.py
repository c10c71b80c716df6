"""
Is what is stored sound? The invariants of DESIGN §9, each with its verdict.

`asm verify`, every integration and fleet test and every chaos run end here. The queries belong to the store
(`asm_core.stores.sql.verify`, whose `verify_database` is the entry for a URL); they read one snapshot, so that a system
at work can be verified without false alarms.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Protocol

from asm_core.domain.invariants import INVARIANTS, Report, Verdict


class Inspection(Protocol):
    """One snapshot of a store."""

    @property
    def left_out(self) -> Mapping[int, str]:
        """Number of each invariant that is not looked at here, and why."""

    async def examine(self, invariant: int, *, now: datetime | None = None) -> Verdict:
        """
        What breaks an invariant.

        Args:
            invariant: its number.
            now: the time against which waiting is measured; the snapshot's own when None.

        Raises:
            AsmError: `storage_connection_failed`, `migration_required`, `query_error`.
        """


async def verify(source: Inspection, *, now: datetime | None = None) -> Report:
    """
    Check every invariant that applies against one snapshot.

    Args:
        source: the open snapshot.
        now: for the invariant about waiting; the snapshot's own time when omitted.

    Raises:
        AsmError: `storage_connection_failed`, `migration_required`, `query_error`: nothing is known.

    Source: DESIGN §9.
    """
    left_out = source.left_out
    asked = [number for number in INVARIANTS if number not in left_out]
    return Report([await source.examine(number, now=now) for number in asked], left_out)

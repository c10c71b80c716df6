"""Lease: the right of one worker process to write for one run, and the number that proves it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Lease:
    """
    A claimed run's slot.

    Every write for the run names it; the database accepts the write only while the row (run, fence) is there. A
    takeover deletes the row, so whatever the former holder still sends matches nothing and is refused.
    """

    run_id: str
    session_id: str
    fence: int
    """Grows by one with every claim in the session."""
    worker_id: str
    tenant_id: str = "default"

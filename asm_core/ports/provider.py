"""A provider adapter: turns one run into a stream of events and one completion."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from asm_core.domain.capability import Capability
from asm_core.domain.errors import AsmError
from asm_core.domain.run import Run
from asm_core.domain.session import Session
from asm_core.domain.transcript import Transcript


@dataclass(frozen=True, slots=True)
class RawEvent:
    """What an adapter emits: the canonical type name and payload of spec/04 §2.3; identity and number come later."""

    type: str
    data: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    timestamp: datetime | None = None
    """When the provider says it happened; None: now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """
    The last thing an execution yields.

    It becomes the run's one terminal event in the finish transaction; adapters never emit terminal events themselves.
    """

    output: Mapping[str, Any] = field(default_factory=dict)
    """Merged over what the run's events add up to (`content`, `tool_calls`)."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """For the terminal event: `stop_reason`, `exit_code`, `duration_ms`, …"""
    error: AsmError | None = None
    """Set when the run failed although there is output to keep (a command that exits non-zero)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """One attempt at one run."""

    run: Run
    session: Session
    attempt: int
    """From 1."""
    model: str | None = None
    transcript: Transcript | None = None
    """What was said before in the session, for a run that goes on from it; the run's own input is not in it."""


class ProviderAdapter(Protocol):
    """
    Configuration and clients of one provider; serves many executions at once, each isolated from the others.

    Source: spec/04 §1, §2.
    """

    @property
    def name(self) -> str:
        """The provider's stable name: `claude`, `shell`, `scripted`, …"""

    def capabilities(self) -> Sequence[Capability]: ...

    def validate_input(self, value: Mapping[str, Any]) -> None:
        """
        Checks at submit what can be known then; does no I/O.

        Raises:
            AsmError: `invalid_input`, `validation_error`, `policy_violation`.
        """

    def execute(self, execution: Execution) -> AsyncGenerator[RawEvent | Completion, None]:
        """
        The run's events in order, then exactly one `Completion`.

        Closing the generator, or cancelling the task that consumes it, stops the provider and releases connections
        and child processes within a bounded time.

        Raises:
            AsmError: the run failed; the code says how and whether a repetition may help.
        """

    async def aclose(self) -> None:
        """Releases what the adapter itself holds."""

"""What every event of one execution has in common."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from asm_core.domain.ids import event_id
from asm_core.domain.pricing import PriceList
from asm_core.domain.redaction import REDACTOR, Redactor
from asm_core.ports.clock import Clock

if TYPE_CHECKING:
    from asm_core.pipeline.redact import Streamed


@dataclass(slots=True)
class RunContext:
    session_id: str
    run_id: str
    fence: int
    attempt: int
    provider: str
    clock: Clock
    correlation_id: str | None = None
    model: str | None = None
    """Asked for, until the provider names the one it uses."""
    prices: PriceList = field(default_factory=PriceList)
    emitted: int = field(default=0)
    """Events made so far in this execution: the ordinal of the next one."""
    redactor: Redactor = REDACTOR
    streams: dict[tuple[str, ...], Streamed] = field(default_factory=dict)
    """Texts that are streaming, with what redaction holds back of them."""

    def next_event_id(self) -> str:
        """Derived, so that an append repeated after an unknown commit stores nothing twice."""
        made = event_id(self.run_id, self.fence, self.emitted)
        self.emitted += 1
        return made

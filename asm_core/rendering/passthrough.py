"""No text at all: for sinks that take the events themselves."""

from __future__ import annotations

from asm_core.domain.event import Event


class PassthroughRenderer:
    """Source: spec/05 §6."""

    def render_event(self, _event: Event) -> str:
        return ""

    def finish(self) -> str:
        return ""

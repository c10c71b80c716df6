"""What counts of a run that was begun more than once."""

from __future__ import annotations

from collections.abc import Sequence

from asm_core.domain.event import Event, EventType
from asm_core.rendering.text import payload


def without_superseded(events: Sequence[Event]) -> list[Event]:
    """The events without those that a later attempt of their run replaces, as its `error_recovered` says."""
    replaced = [
        (event.run_id, data["superseded_from"], data["superseded_to"])
        for event in events
        if event.type == EventType.ERROR_RECOVERED
        and isinstance((data := payload(event)).get("superseded_from"), int)
        and isinstance(data.get("superseded_to"), int)
    ]

    def counts(event: Event) -> bool:
        number = event.sequence_number or 0
        return not any(event.run_id == run_id and first <= number <= last for run_id, first, last in replaced)

    return [event for event in events if counts(event)]

"""
A follower's place in a session's log: deliver, hold, refill or drop, decided without I/O.

Numbers are contiguous and become visible in order, so a frame with the next number can be delivered, one with a
smaller number has been, and a larger one means that something is missing: it is held for a moment, because two
workers may publish out of order, and then the store is asked.
"""

from __future__ import annotations

from collections.abc import Iterable

from asm_core.domain.event import EventFrame

MAX_HELD = 4_096
"""Frames kept beyond a gap; past it they are dropped, the store has them."""


class Cursor:
    """
    Args:
        position: the number of the last event delivered; 0 before the first.
    """

    def __init__(self, position: int) -> None:
        self.position = position
        self._held: dict[int, EventFrame] = {}

    @property
    def has_gap(self) -> bool:
        """Whether something between the position and what is held is missing."""
        return bool(self._held)

    def offer(self, frames: Iterable[EventFrame]) -> list[EventFrame]:
        """The frames that can be delivered now, in order, given these arrived live."""
        for frame in frames:
            if self._has_room_for(frame.sequence_number):
                self._held[frame.sequence_number] = frame
        ready = []
        while self.position + 1 in self._held:
            self.position += 1
            ready.append(self._held.pop(self.position))
        return ready

    def _has_room_for(self, number: int) -> bool:
        """The next one always gets in: it lets the held ones out."""
        return number == self.position + 1 or (number > self.position and len(self._held) < MAX_HELD)

    def refill(self, frames: Iterable[EventFrame]) -> list[EventFrame]:
        """The frames that can be delivered now, given these were read from the store behind the position."""
        ready = [frame for frame in frames if frame.sequence_number > self.position]
        if ready:
            self.position = ready[-1].sequence_number
        self._held = {number: frame for number, frame in self._held.items() if number > self.position}
        return ready + self.offer(())

    def skip_to(self, position: int) -> None:
        """Everything up to `position` has been looked at (by a filtered read of the store)."""
        self.position = max(self.position, position)
        self._held = {number: frame for number, frame in self._held.items() if number > self.position}

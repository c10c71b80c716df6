"""The gap-safe cursor: whatever is lost, doubled or reordered, a follower sees 1, 2, 3 …"""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from asm_core.domain.cursor import MAX_HELD, Cursor
from asm_core.domain.event import EventFrame
from tests.builders import a_frame


def frames(*numbers: int) -> list[EventFrame]:
    return [a_frame(number) for number in numbers]


def numbers(delivered: Sequence[EventFrame]) -> list[int]:
    return [frame.sequence_number for frame in delivered]


def test_frames_in_order_pass_at_once() -> None:
    cursor = Cursor(0)
    assert numbers(cursor.offer(frames(1, 2))) == [1, 2]
    assert numbers(cursor.offer(frames(3))) == [3]
    assert (cursor.position, cursor.has_gap) == (3, False)


def test_what_was_seen_is_dropped() -> None:
    """Also what lies before the place where the follower began."""
    cursor = Cursor(5)
    assert numbers(cursor.offer(frames(4, 5, 6, 6))) == [6]
    assert numbers(cursor.offer(frames(6, 7))) == [7]


def test_frames_behind_a_gap_are_held_until_it_closes() -> None:
    """Two workers may publish out of order."""
    cursor = Cursor(0)
    assert numbers(cursor.offer(frames(3, 2))) == []
    assert cursor.has_gap
    assert numbers(cursor.offer(frames(1))) == [1, 2, 3]
    assert not cursor.has_gap


def test_the_store_closes_a_gap_and_releases_what_was_held() -> None:
    cursor = Cursor(0)
    cursor.offer(frames(3, 4, 7))
    assert numbers(cursor.refill(frames(1, 2, 3))) == [1, 2, 3, 4]
    assert (cursor.position, cursor.has_gap) == (4, True)
    assert numbers(cursor.refill(frames(5, 6))) == [5, 6, 7]


def test_a_refill_that_comes_late_changes_nothing() -> None:
    cursor = Cursor(0)
    cursor.offer(frames(1, 2, 3))
    assert cursor.refill(frames(1, 2)) == []
    assert cursor.refill([]) == []
    assert cursor.position == 3


def test_skipping_forward_never_goes_back() -> None:
    cursor = Cursor(0)
    cursor.offer(frames(4, 9))
    cursor.skip_to(6)
    cursor.skip_to(2)
    assert (cursor.position, cursor.has_gap) == (6, True)
    assert numbers(cursor.offer(frames(7, 8))) == [7, 8, 9]


def test_what_is_held_is_bounded_and_the_missing_frame_still_gets_in() -> None:
    """A full hold must not refuse the very frame that empties it."""
    cursor = Cursor(0)
    cursor.offer(frames(*range(2, MAX_HELD + 1_000)))
    assert numbers(cursor.offer(frames(1))) == [*range(1, MAX_HELD + 2)]
    assert not cursor.has_gap


@st.composite
def journeys(draw: st.DrawFn) -> tuple[int, list[list[int]], list[int]]:
    """A log of n events, the live messages that arrive (lost, doubled, shuffled), and after which the store is read."""
    n = draw(st.integers(1, 40))
    arrived = draw(st.lists(st.lists(st.integers(1, n), max_size=6), max_size=30))
    reads = draw(st.lists(st.integers(0, 30), max_size=8))
    return n, arrived, reads


@given(journeys(), st.integers(0, 5), st.integers(1, 10))
def test_any_loss_doubling_and_order_ends_in_the_whole_log_once(
    journey: tuple[int, list[list[int]], list[int]], start: int, page: int
) -> None:
    """DESIGN §6: drop what is seen, hold what is early, ask the store for what is missing."""
    n, arrived, reads = journey
    start = min(start, n)
    cursor = Cursor(start)
    seen: list[int] = []

    def refill() -> None:
        seen.extend(numbers(cursor.refill(frames(*range(cursor.position + 1, n + 1)[:page]))))

    for index, message in enumerate(arrived):
        seen.extend(numbers(cursor.offer(frames(*message))))
        assert seen == [*range(start + 1, cursor.position + 1)], "in order, without gap or double, at every moment"
        if index in reads:
            refill()
    while cursor.position < n:
        refill()
    assert seen == [*range(start + 1, n + 1)]
    assert not cursor.has_gap

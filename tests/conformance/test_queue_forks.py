"""Forks: sessions whose log begins with a reference to another's first events, seen as one with their own."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import EventFrame
from asm_core.domain.session import Session
from asm_core.ports.store import EventFilter
from asm_core.wire import loads
from tests.builders import World, a_session, an_outcome

ALL = EventFilter()


async def a_parent(world: World, *, events: int = 5) -> str:
    """A session with a finished run: two events of its own, then the run's, then its end."""
    lease = await world.running()
    await world.append(lease, events)
    await world.queue.finish(lease, an_outcome())
    return lease.session_id


async def forked(world: World, parent_id: str, at: int | None = None, **fields: str) -> Session:
    return (await world.queue.fork_session(a_session(parent_session_id=parent_id, **fields), at)).session


async def log(world: World, session_id: str, where: EventFilter = ALL, limit: int = 1000) -> list[EventFrame]:
    return await world.store.get_events(session_id, "default", where, limit)


def numbers(frames: Sequence[EventFrame]) -> list[int]:
    return [frame.sequence_number for frame in frames]


async def refused(world: World, parent_id: str, at: int | None, **fields: str) -> AsmError:
    with pytest.raises(AsmError) as caught:
        await forked(world, parent_id, at, **fields)
    return caught.value


async def test_a_fork_begins_with_its_parents_events_and_goes_on_with_its_own(world: World) -> None:
    """The first events are the parent's, whole and uncopied; the numbers go on without a gap."""
    parent_id = await a_parent(world)
    before = await world.how_many("events")
    fork = await forked(world, parent_id, 4)
    assert (fork.parent_session_id, fork.forked_at, fork.status) == (parent_id, 4, "active")
    found = await log(world, fork.id)
    assert numbers(found) == [1, 2, 3, 4, 5, 6]
    assert [frame.body for frame in found[:4]] == [frame.body for frame in await log(world, parent_id)][:4]
    assert [frame.type for frame in found[4:]] == ["session_created", "session_started"]
    assert loads(found[4].body)["data"] == {"parent_session_id": parent_id, "forked_at": 4}
    assert await world.how_many("events") == before + 2
    assert (await world.store.latest_sequences([fork.id])) == {fork.id: 6}
    assert (await world.store.get_session(fork.id, "default")).forked_at == 4


async def test_parent_and_fork_go_their_own_ways(world: World) -> None:
    """What either writes afterwards is not in the other's log."""
    parent_id = await a_parent(world)
    fork = await forked(world, parent_id)
    last = fork.forked_at or 0
    assert last == len(await log(world, parent_id))
    for session_id in (parent_id, fork.id):
        lease = await world.running(session_id=session_id)
        await world.append(lease, 3, data={"content": session_id})
        await world.queue.finish(lease, an_outcome())
    mine, theirs = await log(world, fork.id), await log(world, parent_id)
    assert numbers(mine) == [*range(1, len(mine) + 1)]
    assert numbers(theirs) == [*range(1, len(theirs) + 1)]
    assert {loads(frame.body)["session_id"] for frame in mine[last:]} == {fork.id}
    assert {loads(frame.body)["session_id"] for frame in theirs} == {parent_id}


async def test_a_fork_of_a_fork_reads_the_whole_chain(world: World) -> None:
    """At any depth, and also when it is cut within what its parent inherited itself."""
    root = await a_parent(world)
    middle = await forked(world, root, 5)
    lease = await world.running(session_id=middle.id)
    await world.append(lease, 4)
    await world.queue.finish(lease, an_outcome())
    within, behind = await forked(world, middle.id, 3), await forked(world, middle.id, 9)
    sources = [loads(frame.body)["session_id"] for frame in await log(world, behind.id)]
    assert sources == [root] * 5 + [middle.id] * 4 + [behind.id] * 2
    sources = [loads(frame.body)["session_id"] for frame in await log(world, within.id)]
    assert sources == [root] * 3 + [within.id] * 2
    parts = await world.rows("inherited_events", session_id=within.id)
    assert [(part["source_session_id"], part["first_sequence"], part["last_sequence"]) for part in parts] == [
        (root, 1, 3)
    ]


@pytest.mark.parametrize("size", [1, 2, 3, 100])
async def test_pages_and_filters_cross_the_border(world: World, size: int) -> None:
    """By cursor every event once, in order; bounds, types and runs narrow inherited events like any others."""
    parent_id = await a_parent(world)
    fork = await forked(world, parent_id, 6)
    seen: list[int] = []
    while page := await log(world, fork.id, ALL.behind(seen[-1] if seen else 0), size):
        seen += numbers(page)
    assert seen == [*range(1, 9)]
    assert numbers(await log(world, fork.id, EventFilter(after=2, before=8), size)) == [*range(3, 8)][:size]
    created = await log(world, fork.id, EventFilter(types=["session_created"]), size)
    assert numbers(created) == [1, 7][:size]
    run_id = (await log(world, parent_id))[2].run_id
    assert numbers(await log(world, fork.id, EventFilter(run_id=run_id), size)) == [3, 4, 5, 6][:size]


@pytest.mark.parametrize("at", [-1, 0, 9])
async def test_a_number_that_the_parent_does_not_have_is_refused(world: World, at: int) -> None:
    """Naming the numbers that there are; nothing is stored."""
    parent_id = await a_parent(world, events=5)
    error = await refused(world, parent_id, at)
    assert error.code is ErrorCode.VALIDATION_ERROR
    assert f"forked at {at}: its events have the numbers 1 to 8" in error.message
    assert await world.how_many("sessions") == 1
    assert await world.how_many("inherited_events") == 0


async def test_what_is_unknown_or_another_tenants_cannot_be_forked(world: World) -> None:
    theirs = await world.session(tenant_id="them")
    for parent_id in ("ses_nobody", theirs):
        assert (await refused(world, parent_id, None)).code is ErrorCode.SESSION_NOT_FOUND


async def test_forking_again_under_the_same_id_changes_nothing(world: World) -> None:
    """A commit whose answer was lost is safe to repeat."""
    parent_id = await a_parent(world)
    fork = a_session(parent_session_id=parent_id)
    first = await world.queue.fork_session(fork, 3)
    again = await world.queue.fork_session(fork, 3)
    assert (len(first.events), len(again.events)) == (2, 0)
    assert numbers(await log(world, fork.id)) == [1, 2, 3, 4, 5]


async def test_what_a_fork_refers_to_cannot_be_deleted_before_it(world: World) -> None:
    """The fork first, then its parent; nothing of either is left."""
    parent_id = await a_parent(world)
    fork = await forked(world, parent_id, 4)
    with pytest.raises(AsmError) as caught:
        await world.store.delete_session(parent_id, "default")
    assert caught.value.code is ErrorCode.INVALID_OPERATION
    assert numbers(await log(world, fork.id)) == [1, 2, 3, 4, 5, 6]
    for session_id in (fork.id, parent_id):
        await world.store.delete_session(session_id, "default")
    for table in ("sessions", "events", "inherited_events", "session_sequences"):
        assert await world.how_many(table) == 0


async def test_inherited_events_are_counted_once(world: World) -> None:
    await forked(world, await a_parent(world), 4)
    assert (await world.store.stats("default")).events == await world.how_many("events")

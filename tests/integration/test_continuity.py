"""What a process remembers of conversations: never anything else than a full reading gives."""

from __future__ import annotations

import random

import pytest

from asm_core.domain.event import Event, EventType
from asm_core.domain.lease import Lease
from asm_core.domain.lifecycle import RunStatus
from asm_core.domain.transcript import Transcript
from asm_core.manager import continuity
from asm_core.manager.continuity import Conversations
from asm_core.ports.store import EventFilter
from asm_core.wire import loads
from tests.builders import World, a_run, an_outcome, open_memory_world

T = EventType
SAYINGS = (
    (T.MESSAGE_SENT, {"role": "user", "content": "ask"}),
    (T.MESSAGE_STREAMED, {"delta": "part "}),
    (T.MESSAGE_STREAMED, {"delta": "part "}),
    (T.MESSAGE_RECEIVED, {"role": "assistant", "content": "part part "}),
    (T.MESSAGE_RECEIVED, {"role": "assistant", "content": "whole"}),
    (T.TOOL_CALL_STARTED, {"tool_call_id": "t", "tool_name": "look", "tool_input": {}}),
    (T.TOOL_CALL_COMPLETED, {"tool_call_id": "t", "tool_name": "look", "tool_output": "seen"}),
)


async def heard(conversations: Conversations, session_id: str) -> Transcript:
    return await conversations.before(a_run(session_id=session_id))


async def written(world: World, session_id: str, unfinished: set[str]) -> Transcript:
    """The same, put together from the whole log at once."""
    frames = await world.store.get_events(session_id, "default", EventFilter(), 1000)
    events = [Event.from_map(loads(frame.body)) for frame in frames if frame.run_id not in unfinished]
    return Transcript.from_events(events, session_id)


class Talk:
    """Runs of one session that speak at once, and sometimes lose their worker."""

    def __init__(self, world: World, session_id: str, worker_id: str, dice: random.Random) -> None:
        self.world, self.session_id, self.worker_id, self.dice = world, session_id, worker_id, dice
        self.running: list[Lease] = []

    async def step(self) -> None:
        if not self.running or (len(self.running) < 3 and self.dice.random() < 0.2):
            self.running.append(await self.world.running(session_id=self.session_id, worker_id=self.worker_id))
            return
        lease = self.dice.choice(self.running)
        if self.dice.random() < 0.25:
            self.running.remove(lease)
            status = self.dice.choice([RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED])
            await self.world.queue.finish(lease, an_outcome(status))
            return
        kind, data = self.dice.choice(SAYINGS)
        await self.world.append(lease, kind=kind, data=data)


@pytest.mark.parametrize("seed", range(6))
async def test_what_is_remembered_is_what_a_full_reading_gives(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """spec/03 §3.12: at any moment, with runs that stream at once, page by page, after any number of extensions."""
    dice = random.Random(seed)
    monkeypatch.setattr(continuity, "PAGE", dice.choice([1, 3, 1000]))
    async with open_memory_world() as world:
        session_id, worker_id = await world.session(max_concurrent_runs=3), await world.worker()
        talk, remembering = Talk(world, session_id, worker_id, dice), Conversations(world.store)
        for _ in range(150):
            await talk.step()
            if dice.random() < 0.4:
                unfinished = {lease.run_id for lease in talk.running}
                transcript = await heard(remembering, session_id)
                assert transcript.messages == (await written(world, session_id, unfinished)).messages


async def test_only_what_came_since_is_read_again() -> None:
    """And only so many conversations are remembered; a forgotten one is read from its beginning."""
    async with open_memory_world() as world:
        sessions = [await world.session() for _ in range(3)]
        for session_id in sessions:
            lease = await world.running(session_id=session_id)
            await world.append(lease, 5, kind=T.MESSAGE_RECEIVED, data={"content": "x"})
            await world.queue.finish(lease, an_outcome())
        asked = Asked(world)
        conversations = Conversations(asked, remembered=2)  # type: ignore[arg-type]
        for session_id in (sessions[0], sessions[0], sessions[1], sessions[2], sessions[2], sessions[0]):
            assert len((await heard(conversations, session_id)).messages) == 5
        assert asked.cursors == [0, 8, 0, 0, 8, 0]


class Asked:
    """The world's store; notes from where events were read."""

    def __init__(self, world: World) -> None:
        self.cursors: list[int] = []
        self._store = world.store
        self.latest_sequences, self.queue_status = world.store.latest_sequences, world.store.queue_status

    async def get_events(self, session_id: str, tenant_id: str, where: EventFilter, limit: int) -> list[Event]:
        self.cursors.append(where.after)
        return await self._store.get_events(session_id, tenant_id, where, limit)  # type: ignore[return-value]

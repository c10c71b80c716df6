"""
What was said in a session before a run, for a provider to go on from.

A process remembers the conversations that it has put together last, as far as they can change no more, and reads only
what came behind them. What it remembers is what a full reading would give; forgetting it costs time alone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from dataclasses import replace

from asm_core.domain.event import Event, EventFrame
from asm_core.domain.run import Continuation, Run
from asm_core.domain.transcript import TRANSCRIPT_EVENTS, Budget, Transcript
from asm_core.ports.store import EventFilter, SessionStore
from asm_core.wire import loads

PAGE = 1_000
REMEMBERED = 64
"""Conversations that a process remembers."""


class Conversations:
    """
    Args:
        store: where the events are.
        remembered: how many conversations are kept in memory, those asked for last.
    """

    def __init__(self, store: SessionStore, remembered: int = REMEMBERED) -> None:
        self._store = store
        self._remembered = remembered
        self._settled: OrderedDict[str, Transcript] = OrderedDict()

    async def before(self, run: Run) -> Transcript | None:
        """
        The conversation that a run continues, within its bounds; None for a run that continues nothing.

        What runs in flight are still saying is left out, the run's own earlier attempts too: a conversation is made of
        what has been said.

        Raises:
            AsmError: `session_not_found`, `storage_connection_failed`.

        Source: spec/03 §3.12.
        """
        options = run.options
        if options is None or options.continuation is Continuation.NONE:
            return None
        # in this order: what is stored by now belongs to runs that are seen in flight, or have ended
        last = (await self._store.latest_sequences([run.session_id])).get(run.session_id, 0)
        unfinished = {run.id, *(await self._store.queue_status(run.session_id, run.tenant_id)).in_flight_runs}
        settled = self._settled.pop(run.session_id, None) or Transcript(session_id=run.session_id)
        unsettled: list[EventFrame] = []
        async for page in self._pages(run, settled.last_sequence or 0):
            end = 0 if unsettled else _end_of_settled(page, last, unfinished)
            settled = _extended(settled, page[:end])
            unsettled += page[end:]
        self._remember(settled)
        said = _extended(settled, (frame for frame in unsettled if frame.run_id not in unfinished))
        return said.within(Budget(**options.continuation_opts))

    async def _pages(self, run: Run, after: int) -> AsyncIterator[Sequence[EventFrame]]:
        where = EventFilter(after=after, types=[str(kind) for kind in TRANSCRIPT_EVENTS])
        while True:
            page = await self._store.get_events(run.session_id, run.tenant_id, where, PAGE)
            if page:
                yield page
            if len(page) < PAGE:
                return
            where = where.behind(page[-1].sequence_number)

    def _remember(self, settled: Transcript) -> None:
        self._settled[settled.session_id] = settled
        if len(self._settled) > self._remembered:
            self._settled.popitem(last=False)


def _end_of_settled(page: Sequence[EventFrame], last: int, unfinished: Collection[str]) -> int:
    """The place of the first event that may not be the last word, or may not belong to the conversation yet."""
    for place, frame in enumerate(page):
        if frame.sequence_number > last or frame.run_id in unfinished:
            return place
    return len(page)


def _extended(transcript: Transcript, frames: Iterable[EventFrame]) -> Transcript:
    """A fork's first events carry the name of the session that wrote them."""
    events = (Event.from_map(loads(frame.body)) for frame in frames)
    return transcript.extended_by([replace(event, session_id=transcript.session_id) for event in events])

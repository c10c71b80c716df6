"""
What was said in a session before a run, for a provider to go on from.

A process remembers the conversations that it has put together last, as far as they can change no more, and reads only
what came behind them. What it remembers is what a full reading would give; forgetting it costs time alone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import Event, EventFrame, EventType
from asm_core.domain.reducer import provider_handle
from asm_core.domain.run import Continuation, OnWorkerLost, Run
from asm_core.domain.session import Session
from asm_core.domain.transcript import TRANSCRIPT_EVENTS, Budget, Transcript
from asm_core.ports.store import EventFilter, SessionStore
from asm_core.wire import loads

PAGE = 1_000
RECENT = 20
"""Runs of a session among which the one that ended last is looked for."""
REMEMBERED = 64
"""Conversations that a process remembers."""


class Continued(NamedTuple):
    """How a run goes on from what was said before."""

    resume: str | None = None
    """The provider's own session."""
    transcript: Transcript | None = None
    left_out: int = 0
    """Messages that the bounds of the run kept back."""
    was_cut: bool = False
    """The provider's session is that of a dead attempt of this very run."""

    def report(self, used: str | None) -> Mapping[str, Any]:
        """
        What of the conversation reached the provider, for the run's row.

        Args:
            used: the provider's session that the run really used.
        """
        if self.resume is not None and used == self.resume:
            return {"how": "native", "provider_session_id": self.resume}
        if self.transcript is None:
            return {"how": "none"}
        said = self.transcript.messages
        return {
            "how": "replay",
            "messages_replayed": len(said),
            "messages_left_out": self.left_out,
            "tool_messages_as_text": sum(message.is_tool_call or message.is_tool_result for message in said),
            "unfinished_messages": sum(message.streamed for message in said),
        }


NOTHING = Continued()


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

    async def continued(self, run: Run, session: Session, *, resumes: bool, chars_per_token: int = 4) -> Continued:
        """
        How the run goes on: natively where the provider can and its session holds all that was said, else by replay.

        Args:
            resumes: whether the run's provider can resume its own sessions.
            chars_per_token: for a bound in tokens.

        Raises:
            AsmError: `invalid_operation` (the run insists on resuming, and there is nothing to resume from),
                `session_not_found`, `storage_connection_failed`.
        """
        options = run.options
        if options is None:
            return NOTHING
        may_resume = resumes and run.attempt > 1 and options.on_worker_lost is OnWorkerLost.RESUME
        if may_resume and (cut := await self._cut_session(run)):
            return Continued(cut, was_cut=True)
        if options.continuation is Continuation.NONE:
            return NOTHING
        handle = await self._handle(run, session) if resumes else None
        if options.continuation is Continuation.NATIVE:
            return Continued(resume=handle) if handle else await self._nothing_to_resume(run)
        whole = await self.before(run)
        said = whole.within(Budget(chars_per_token=chars_per_token, **options.continuation_opts))
        left_out = len(whole.messages) - len(said.messages)
        return Continued(handle if options.continuation is Continuation.AUTO else None, said, left_out)

    async def _cut_session(self, run: Run) -> str | None:
        """The provider's session of the attempt that died last."""
        where = EventFilter(run_id=run.id, types=[EventType.RUN_STARTED])
        started = await self._store.get_events(run.session_id, run.tenant_id, where, PAGE)
        return provider_handle(loads(started[-1].body)["data"]) if started else None

    async def _handle(self, run: Run, session: Session) -> str | None:
        """The provider's session, if it holds everything that was said: that is up to the run that ended last."""
        options = run.options
        known = session.metadata.get("provider_sessions", {}).get(options.provider if options else None) or {}
        handle = known.get("provider_session_id")
        if handle is None:
            return None
        page = await self._store.list_runs(run.tenant_id, session_id=run.session_id, limit=RECENT)
        ended = [other for other in page.items if other.is_terminal and other.ended_at is not None]
        last = max(ended, key=lambda other: (other.ended_at, other.id), default=None)
        if last is None or last.provider_metadata.get("provider_session_id") != handle:
            return None
        is_first = len(ended) == 1 and page.cursor is None and session.forked_at is None
        went_on = last.options is not None and last.options.continuation is not Continuation.NONE
        return str(handle) if is_first or went_on else None

    async def _nothing_to_resume(self, run: Run) -> Continued:
        """Fine for a session in which nothing was said yet."""
        if (await self.before(run)).messages:
            provider = run.options.provider if run.options else ""
            message = f"session {run.session_id} cannot be resumed by {provider}: its own session does not hold it all"
            raise AsmError(ErrorCode.INVALID_OPERATION, message, details={"field": "continuation"})
        return NOTHING

    async def before(self, run: Run) -> Transcript:
        """
        The whole conversation of a run's session.

        What runs in flight are still saying is left out, the run's own earlier attempts too: a conversation is made of
        what has been said.

        Raises:
            AsmError: `session_not_found`, `storage_connection_failed`.

        Source: spec/03 §3.12.
        """
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
        return _extended(settled, (frame for frame in unsettled if frame.run_id not in unfinished))

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

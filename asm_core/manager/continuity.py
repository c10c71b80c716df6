"""What was said in a session before a run, for a provider to go on from."""

from __future__ import annotations

from dataclasses import replace

from asm_core.domain.event import Event
from asm_core.domain.run import Continuation, Run
from asm_core.domain.transcript import TRANSCRIPT_EVENTS, Budget, Transcript
from asm_core.ports.store import EventFilter, SessionStore
from asm_core.wire import loads

PAGE = 1_000


async def conversation_before(store: SessionStore, run: Run, chars_per_token: int) -> Transcript | None:
    """
    The conversation that a run continues, within its bounds; None for a run that continues nothing.

    What runs in flight are still saying is left out, the run's own earlier attempts too: a conversation is made of
    what has been said.

    Args:
        chars_per_token: for a bound in tokens.

    Raises:
        AsmError: `session_not_found`, `storage_connection_failed`.
    """
    options = run.options
    if options is None or options.continuation is Continuation.NONE:
        return None
    unfinished = {run.id, *(await store.queue_status(run.session_id, run.tenant_id)).in_flight_runs}
    transcript = Transcript(session_id=run.session_id)
    where = EventFilter(types=[str(kind) for kind in TRANSCRIPT_EVENTS])
    while True:
        page = await store.get_events(run.session_id, run.tenant_id, where, PAGE)
        events = [Event.from_map(loads(frame.body)) for frame in page if frame.run_id not in unfinished]
        # a fork's first events carry the name of the session that wrote them
        transcript = transcript.extended_by(replace(event, session_id=run.session_id) for event in events)
        if len(page) < PAGE:
            return transcript.within(Budget(chars_per_token=chars_per_token, **options.continuation_opts))
        where = where.behind(page[-1].sequence_number)

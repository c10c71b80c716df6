"""Runs in flight without any worker: what `append` and `growth` write for."""

from __future__ import annotations

from _common import SystemClock, new_id

from asm_core.domain.event import Event, EventType
from asm_core.domain.lease import Lease
from asm_core.domain.run import RunOptions
from asm_core.domain.session import DEFAULT_TENANT, Session
from asm_core.pipeline import ingest
from asm_core.pipeline.context import RunContext
from asm_core.ports.provider import RawEvent
from asm_core.ports.queue import Claimed, Submission
from asm_core.stores.postgres.queue import PostgresRunQueue

WORKER = "wrk_bench"
TEXT = "a chunk of streamed text, as long as models send them: some words"
RAW = RawEvent(EventType.MESSAGE_STREAMED, {"content": TEXT, "delta": TEXT})


async def register(queue: PostgresRunQueue) -> None:
    """The worker that claims below; it never beats."""
    await queue.register_worker(WORKER, hostname="bench", pid=1, slots=1_000)


async def submission(queue: PostgresRunQueue) -> Submission:
    """A run for a session that has just been created."""
    session = Session.new(id=new_id("ses"), now=SystemClock().now(), agent_id="bench")
    await queue.create_session(session)
    options = RunOptions(provider="scripted")
    return Submission(
        run_id=new_id("run"), session_id=session.id, tenant_id=DEFAULT_TENANT, input={}, options=options
    )  # fmt: skip


async def lease(queue: PostgresRunQueue) -> Lease:
    """A run of its own session, past its start mark."""
    submitted = await queue.submit(await submission(queue))
    claim = await queue.claim(submitted.session_id, WORKER)
    assert isinstance(claim, Claimed)
    await queue.start(claim.lease)
    return claim.lease


def context(held: Lease) -> RunContext:
    return RunContext(held.session_id, held.run_id, held.fence, 1, "scripted", SystemClock())


def chunk(ctx: RunContext) -> list[Event]:
    """One provider event, through the pure part of the pipeline."""
    return ingest(RAW, ctx)

"""
One execution of one run: events from the adapter into the log until it completes, fails or is stopped.

Whatever happens becomes a `RunOutcome`; only `LeaseLost` passes through, because then there is nothing left to say.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import aclosing, suppress
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from asm_core.config import RunLimits
from asm_core.domain.errors import AsmError, ErrorCode, LeaseLost
from asm_core.domain.event import EventType
from asm_core.domain.lifecycle import RunStatus
from asm_core.domain.messages import input_messages
from asm_core.domain.pricing import PriceList
from asm_core.domain.provider_error import TextLimits, normalize_error
from asm_core.domain.redaction import REDACTOR, Redactor
from asm_core.domain.reducer import RunResult
from asm_core.domain.run import RunOutcome
from asm_core.manager.retries import Retries
from asm_core.manager.signals import RunSignals, StopCause
from asm_core.manager.snapshots import RunWorkspace
from asm_core.pipeline import ingest, ingest_end
from asm_core.pipeline.context import RunContext
from asm_core.pipeline.persist import RunWriter
from asm_core.ports.clock import Clock
from asm_core.ports.provider import Completion, Execution, ProviderAdapter, RawEvent
from asm_core.ports.queue import Started

log = logging.getLogger(__name__)

INTERRUPTED = "interrupted"
"""What stands for the result of a tool whose run ended before it."""


class Attempt(NamedTuple):
    """What an execution works with."""

    execution: Execution
    started: Started
    adapter: ProviderAdapter
    writer: RunWriter
    signals: RunSignals
    prices: PriceList
    redactor: Redactor = REDACTOR
    """For what is stored, here and with the outcome."""
    workspace: RunWorkspace | None = None
    """The folder that the run changes, if it is to be looked at."""


async def execute_run(attempt: Attempt, limits: RunLimits, clock: Clock) -> RunOutcome:
    """
    Drive the adapter, store each of its events, stop it when told to, and say what came of it.

    Args:
        attempt: the run with its start mark, its adapter and its way into the log.
        limits: how long silence and stopping may last.
        clock: for the events' timestamps.

    Returns:
        The outcome. Status pending means: hand the run back, this worker shuts down.

    Raises:
        LeaseLost: the run belongs to another worker; every write of this one is void.
    """
    result = RunResult()
    if attempt.started.cancel_kind:
        return RunOutcome(status=RunStatus.CANCELLED)
    ctx = _context(attempt, clock)
    pump = asyncio.create_task(_pump(attempt, ctx, result, limits))
    try:
        cause = await _stopped_or_done(pump, attempt.signals, attempt.started.remaining_ms / 1000)
    finally:
        await _end(pump, limits.cancel_grace_s)
    if attempt.signals.cause is StopCause.LEASE_LOST:
        raise LeaseLost(attempt.writer.lease.run_id)
    await _store_rest(attempt, ctx, result)
    outcome = _outcome_of_stop(cause, result) if cause else _outcome_of(pump, result)
    if attempt.workspace:
        outcome = await attempt.workspace.concluded(
            outcome, partial(_store, ctx=ctx, writer=attempt.writer, result=result)
        )
    outcome = _told(await _flushed(attempt.writer, outcome), attempt.adapter.name, limits.error_text)
    return attempt.redactor.outcome(outcome)


async def _pump(attempt: Attempt, ctx: RunContext, result: RunResult, limits: RunLimits) -> Completion:
    """Store what opens the attempt, then everything the adapter emits."""
    for raw in _takeover(attempt):
        await _store(raw, ctx, attempt.writer, result)
    if attempt.workspace:
        await attempt.workspace.begin(partial(_store, ctx=ctx, writer=attempt.writer, result=result))
        await attempt.writer.flush()  # known before the provider acts, whatever becomes of this worker
    for raw in _input(attempt):
        await _store(raw, ctx, attempt.writer, result)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(limits.idle_timeout_s) as idle:

            async def tell(error: AsmError, wait_s: float) -> None:
                await _store(_retried(error, wait_s), ctx, attempt.writer, result)
                idle.reschedule(loop.time() + wait_s + limits.idle_timeout_s)

            item, stream = await Retries(limits, ctx.clock, tell).open(attempt.adapter, attempt.execution)
            async with aclosing(stream):
                while item is not None:
                    if isinstance(item, Completion):
                        return item
                    await _store(item, ctx, attempt.writer, result)
                    idle.reschedule(loop.time() + limits.idle_timeout_s)
                    item = await anext(stream, None)
    except TimeoutError as cause:
        if not idle.expired():
            raise
        message = f"the provider {attempt.adapter.name} was silent for {limits.idle_timeout_s:g} s"
        raise AsmError(ErrorCode.PROVIDER_TIMEOUT, message, details={"reason": "idle"}) from cause
    raise AsmError(ErrorCode.PROVIDER_ERROR, f"the provider {attempt.adapter.name} ended its stream without a result")


def _retried(error: AsmError, wait_s: float) -> RawEvent:
    """A failure that does not end the run."""
    data = error.to_event_data() | {"will_retry": True, "retry_in_ms": round(wait_s * 1000)}
    return RawEvent(EventType.ERROR_OCCURRED, data)


async def _store(raw: RawEvent, ctx: RunContext, writer: RunWriter, result: RunResult) -> None:
    for event in ingest(raw, ctx):
        result.observe(event)
        await writer.put(event)


async def _store_rest(attempt: Attempt, ctx: RunContext, result: RunResult) -> None:
    """
    However the stream came to its end: what redaction still holds back of it belongs to the run, and what the adapter
    could not yield any more; and no call of a tool stays open.
    """
    with suppress(AsmError):  # the writer's own, which its flush raises again
        for event in ingest_end(ctx):
            result.observe(event)
            await attempt.writer.put(event)
        for raw in attempt.execution.last_words:
            await _store(raw, ctx, attempt.writer, result)
        for call in list(result.open_calls.values()):
            await _store(_interrupted(call), ctx, attempt.writer, result)


def _interrupted(call: Mapping[str, Any]) -> RawEvent:
    return RawEvent(EventType.TOOL_CALL_FAILED, {**call, "tool_output": INTERRUPTED, "is_error": True})


def _takeover(attempt: Attempt) -> list[RawEvent]:
    """The notice of a later attempt, so that readers can fold the dead one away."""
    if attempt.started.attempt == 1:
        return []
    first, last = attempt.started.superseded or (None, None)
    data = {"attempt": attempt.started.attempt, "superseded_from": first, "superseded_to": last}
    return [RawEvent(EventType.ERROR_RECOVERED, data)]


def _input(attempt: Attempt) -> list[RawEvent]:
    return [RawEvent(EventType.MESSAGE_SENT, message) for message in input_messages(attempt.execution.run.input)]


def _context(attempt: Attempt, clock: Clock) -> RunContext:
    execution, lease = attempt.execution, attempt.writer.lease
    correlation_id = execution.session.metadata.get("correlation_id")
    return RunContext(
        session_id=lease.session_id,
        run_id=lease.run_id,
        fence=lease.fence,
        attempt=execution.attempt,
        provider=attempt.adapter.name,
        clock=clock,
        correlation_id=correlation_id if isinstance(correlation_id, str) else None,
        model=execution.model,
        prices=attempt.prices,
        redactor=attempt.redactor,
    )


async def _stopped_or_done(pump: asyncio.Task[Completion], signals: RunSignals, remaining_s: float) -> StopCause | None:
    """None when the adapter came to its own end."""
    stopped = asyncio.create_task(signals.wait())
    try:
        await asyncio.wait({pump, stopped}, timeout=remaining_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
    if pump.done():
        return None
    return signals.cause or StopCause.DEADLINE


async def _end(pump: asyncio.Task[Completion], grace_s: float) -> None:
    """Stop the adapter; one that does not stop within its grace is left behind, the run is not held up by it."""
    if pump.done():
        return
    pump.cancel()
    await asyncio.wait({pump}, timeout=grace_s)
    if not pump.done():
        log.error("an adapter did not stop within %g s and was left behind", grace_s)


def _outcome_of(pump: asyncio.Task[Completion], result: RunResult) -> RunOutcome:
    failure = asyncio.CancelledError() if pump.cancelled() else pump.exception()
    if failure is None:
        return _outcome_of_completion(pump.result(), result)
    if isinstance(failure, LeaseLost):
        raise failure
    if not isinstance(failure, AsmError):
        log.error("an execution failed", exc_info=failure)
        failure = AsmError.wrap(ErrorCode.INTERNAL_ERROR, failure, f"the adapter failed: {failure!r}")
    return _failed(failure, result)


def _outcome_of_completion(completion: Completion, result: RunResult) -> RunOutcome:
    status = RunStatus.FAILED if completion.error else RunStatus.COMPLETED
    data = dict(completion.data)
    if status is RunStatus.COMPLETED:
        data.setdefault("stop_reason", "end_turn")
    return RunOutcome(
        status=status,
        output={**result.output, **completion.output},
        error=completion.error,
        data=data,
        provider_metadata=result.provider_metadata,
        turn_count=result.turn_count,
    )


def _failed(error: AsmError, result: RunResult, status: RunStatus = RunStatus.FAILED) -> RunOutcome:
    return RunOutcome(
        status=status,
        output=None if result.is_empty else result.output,
        error=error,
        provider_metadata=result.provider_metadata,
        turn_count=result.turn_count,
    )


def _outcome_of_stop(cause: StopCause, result: RunResult) -> RunOutcome:
    if cause is StopCause.SHUTDOWN:
        return RunOutcome(status=RunStatus.PENDING, data={"reason": "worker_shutdown"})
    if cause is StopCause.DEADLINE:
        error = AsmError(ErrorCode.TIMEOUT, "the run's time limit has passed", details={"reason": "run_timeout"})
        return _failed(error, result, RunStatus.TIMEOUT)
    return RunOutcome(
        status=RunStatus.CANCELLED,
        output=None if result.is_empty else result.output,
        provider_metadata=result.provider_metadata,
        turn_count=result.turn_count,
    )


def _told(outcome: RunOutcome, provider: str, limits: TextLimits) -> RunOutcome:
    """With a provider's failure in the one shape that all have."""
    if outcome.error is None:
        return outcome
    return replace(outcome, error=normalize_error(outcome.error, provider, limits))


async def _flushed(writer: RunWriter, outcome: RunOutcome) -> RunOutcome:
    """All events of the run are stored before it ends; where the store refused one, the run has failed."""
    try:
        await writer.flush()
    except AsmError as error:
        return RunOutcome(status=RunStatus.FAILED, output=outcome.output, error=error)
    return outcome

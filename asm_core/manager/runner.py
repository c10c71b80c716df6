"""From a claim to a finished run, in a worker of the fleet and in the library alike: start, execute, finish, tell."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

from asm_core.config import RunLimits
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.lease import Lease
from asm_core.domain.lifecycle import RunStatus
from asm_core.domain.pricing import PriceList
from asm_core.domain.provider_options import NO_OPTIONS, ProviderOptions
from asm_core.domain.redaction import Redactor
from asm_core.domain.run import Run, RunOutcome
from asm_core.domain.session import Session
from asm_core.domain.tool import ToolUse, Verdict, judge
from asm_core.manager.continuity import NOTHING, Continued, Conversations
from asm_core.manager.execute import Attempt, execute_run
from asm_core.manager.signals import RunSignals
from asm_core.manager.snapshots import Snapshots
from asm_core.pipeline.patience import patiently
from asm_core.pipeline.persist import EventWriter
from asm_core.pipeline.publish import Publisher
from asm_core.ports.clock import Clock
from asm_core.ports.provider import Execution, Gate, ProviderAdapter, ProviderFiles, can_resume
from asm_core.ports.queue import Claimed, RunQueue, Started
from asm_core.ports.wakeups import Wakeups
from asm_core.recording import RecordingAdapter

T = TypeVar("T")


class Done(NamedTuple):
    status: RunStatus
    """Pending: the run was handed back."""
    error: AsmError | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Runner:
    """
    Args:
        adapter_of: a provider's adapter by name; raises `validation_error` for an unknown one.
        files_of: where a provider, by name, keeps its own session for the holder of a lease.
        outage_tolerance_s: how long a run waits for a store that does not answer.
    """

    queue: RunQueue
    conversations: Conversations
    writer: EventWriter
    publisher: Publisher
    wakeups: Wakeups
    adapter_of: Callable[[str], ProviderAdapter]
    files_of: Callable[[Lease, str], ProviderFiles]
    snapshots: Snapshots
    prices: PriceList
    redactor: Redactor
    limits: RunLimits
    outage_tolerance_s: float
    clock: Clock

    async def work(self, claim: Claimed, signals: RunSignals, on_started: Callable[[], None]) -> Done:
        """
        Execute a claimed run to its end.

        Args:
            on_started: called once the start mark is set.

        Raises:
            LeaseLost: the run was taken over.
            AsmError: the store stayed away for longer than is tolerated.
        """
        outcome = await self._outcome(claim, signals, on_started)
        finished = await self._patiently(lambda: self.queue.finish(claim.lease, outcome))
        self.publisher.publish(finished.events)
        self.wakeups.wake(finished.wake)
        return Done(finished.status, outcome.error)

    async def _outcome(self, claim: Claimed, signals: RunSignals, on_started: Callable[[], None]) -> RunOutcome:
        """Every failure of a provider becomes an outcome; a store that stays away passes through."""
        options = claim.run.options
        assert options is not None, "a claimed run has options"
        try:
            adapter = self.adapter_of(options.provider)
            if options.provider_options.record:
                adapter = RecordingAdapter(adapter, self.redactor)
        except AsmError as error:
            return self.redactor.outcome(RunOutcome(status=RunStatus.FAILED, error=error))
        started = await self._patiently(lambda: self.queue.start(claim.lease))
        on_started()
        run = replace(claim.run, attempt=started.attempt)
        resumes = can_resume(adapter)
        try:
            before = await self._patiently(
                lambda: self.conversations.continued(
                    run, claim.session, resumes=resumes, chars_per_token=self.limits.chars_per_token
                )
            )
        except AsmError as error:
            if error.code is not ErrorCode.INVALID_OPERATION:
                raise
            return self.redactor.outcome(RunOutcome(status=RunStatus.FAILED, error=error))
        attempt = self._attempt(claim, run, started, adapter, before, signals)
        folder = attempt.execution.options.cwd
        async with self.snapshots.around(options.workspace, folder, claim.lease, signals) as workspace:
            outcome = await execute_run(attempt._replace(workspace=workspace), self.limits, self.clock)
        return _with_report(outcome, before)

    def _attempt(
        self,
        claim: Claimed,
        run: Run,
        started: Started,
        adapter: ProviderAdapter,
        before: Continued,
        signals: RunSignals,
    ) -> Attempt:
        assert run.options is not None
        said = run.options.provider_options.over(_said_by(claim.session))
        return Attempt(
            execution=Execution(
                run=run,
                session=claim.session,
                attempt=started.attempt,
                model=run.options.model,
                options=said,
                transcript=before.transcript,
                resume=before.resume,
                was_cut=before.was_cut,
                files=self.files_of(claim.lease, adapter.name),
                gate=_gate(said),
            ),
            started=started,
            adapter=adapter,
            writer=self.writer.bind(claim.lease),
            signals=signals,
            prices=self.prices,
            redactor=self.redactor,
        )

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        return await patiently(call, self.outage_tolerance_s, self.clock)


def _said_by(session: Session) -> ProviderOptions:
    """What the session asks of all its runs."""
    prompt = session.context.get("system_prompt")
    return ProviderOptions(system_prompt=prompt) if isinstance(prompt, str) and prompt else NO_OPTIONS


def _gate(options: ProviderOptions) -> Gate:
    async def gate(use: ToolUse) -> Verdict:
        return judge(use, options)

    return gate


def _with_report(outcome: RunOutcome, before: Continued) -> RunOutcome:
    """How the run went on from what was said before, kept with the run."""
    if before is NOTHING:
        return outcome
    report = before.report(outcome.provider_metadata.get("provider_session_id"))
    return replace(outcome, provider_metadata={**outcome.provider_metadata, "continuation": report})

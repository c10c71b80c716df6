"""From a claim to a finished run, in a worker of the fleet and in the library alike: start, execute, finish, tell."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

from asm_core.config import RunLimits
from asm_core.domain.errors import AsmError
from asm_core.domain.lifecycle import RunStatus
from asm_core.domain.pricing import PriceList
from asm_core.domain.redaction import Redactor
from asm_core.domain.run import RunOutcome
from asm_core.manager.continuity import Conversations
from asm_core.manager.execute import Attempt, execute_run
from asm_core.manager.signals import RunSignals
from asm_core.pipeline.patience import patiently
from asm_core.pipeline.persist import EventWriter
from asm_core.pipeline.publish import Publisher
from asm_core.ports.clock import Clock
from asm_core.ports.provider import Execution, ProviderAdapter
from asm_core.ports.queue import Claimed, RunQueue
from asm_core.ports.wakeups import Wakeups

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
        outage_tolerance_s: how long a run waits for a store that does not answer.
    """

    queue: RunQueue
    conversations: Conversations
    writer: EventWriter
    publisher: Publisher
    wakeups: Wakeups
    adapter_of: Callable[[str], ProviderAdapter]
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
        except AsmError as error:
            return self.redactor.outcome(RunOutcome(status=RunStatus.FAILED, error=error))
        started = await self._patiently(lambda: self.queue.start(claim.lease))
        on_started()
        run = replace(claim.run, attempt=started.attempt)
        transcript = await self._patiently(lambda: self.conversations.before(run))
        attempt = Attempt(
            execution=Execution(
                run=run, session=claim.session, attempt=started.attempt, model=options.model, transcript=transcript
            ),
            started=started,
            adapter=adapter,
            writer=self.writer.bind(claim.lease),
            signals=signals,
            prices=self.prices,
            redactor=self.redactor,
        )
        return await execute_run(attempt, self.limits, self.clock)

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        return await patiently(call, self.outage_tolerance_s, self.clock)

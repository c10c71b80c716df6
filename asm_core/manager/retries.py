"""
The one place where a provider's request is repeated: before its first event, when another try may help.

Once an event has come, something may have happened at the provider; then a failure is the run's. The SDKs' own retries
are off: they would wait in secret and multiply with these.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from asm_core.config import RunLimits
from asm_core.domain.errors import AsmError
from asm_core.ports.clock import Clock
from asm_core.ports.provider import Completion, Execution, ProviderAdapter, RawEvent

Item = RawEvent | Completion
OnRetry = Callable[[AsmError, float], Awaitable[None]]
"""Told of the failure and the seconds until the next try."""

_BACKOFF = wait_exponential_jitter(multiplier=0.5, max=30.0, jitter=0.5)


@dataclass(frozen=True, slots=True)
class Retries:
    limits: RunLimits
    clock: Clock
    on_retry: OnRetry

    async def open(
        self, adapter: ProviderAdapter, execution: Execution
    ) -> tuple[Item | None, AsyncGenerator[Item, None]]:
        """
        The adapter's first item, None when it has none at all, and the stream behind it: the caller closes that.

        Raises:
            AsmError: as the adapter, when no further try is left or would help.
        """
        retrying = AsyncRetrying(
            stop=stop_after_attempt(self.limits.retries + 1),
            wait=lambda state: _wait_s(state),
            retry=retry_if_exception(self._may_help),
            sleep=self.clock.sleep,
            before_sleep=self._tell,
            reraise=True,
        )
        return await retrying(_first, adapter, execution)

    def _may_help(self, error: BaseException) -> bool:
        return (
            isinstance(error, AsmError) and error.retryable and (_asked_s(error) or 0) <= self.limits.max_retry_wait_s
        )

    async def _tell(self, state: RetryCallState) -> None:
        error, action = _error_of(state), state.next_action
        if isinstance(error, AsmError) and action is not None:
            await self.on_retry(error, action.sleep)


async def _first(adapter: ProviderAdapter, execution: Execution) -> tuple[Item | None, AsyncGenerator[Item, None]]:
    stream = adapter.execute(execution)
    try:
        return await anext(stream, None), stream
    except BaseException:
        await stream.aclose()
        raise


def _error_of(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome is not None else None


def _asked_s(error: BaseException | None) -> float | None:
    """What the provider asks for."""
    asked = error.details.get("retry_after_ms") if isinstance(error, AsmError) else None
    return asked / 1000 if isinstance(asked, int | float) else None


def _wait_s(state: RetryCallState) -> float:
    asked = _asked_s(_error_of(state))
    return _BACKOFF(state) if asked is None else asked

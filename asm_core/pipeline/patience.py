"""Waiting out a store that does not answer."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from itertools import count
from typing import TypeVar

from asm_core.domain.backoff import exponential
from asm_core.domain.errors import AsmError
from asm_core.ports.clock import Clock

log = logging.getLogger(__name__)

FIRST_DELAY_S = 0.05
MAX_DELAY_S = 2.0

T = TypeVar("T")


async def patiently(call: Callable[[], Awaitable[T]], tolerance_s: float, clock: Clock) -> T:
    """
    `call()`, repeated while it fails in a way that repeating may mend.

    Args:
        call: safe to repeat after an unknown commit, as every transaction of the queue is.
        tolerance_s: after this long the failure is raised.
    """
    give_up_at = clock.monotonic() + tolerance_s
    for tries in count(1):
        try:
            return await call()
        except AsmError as error:
            if not error.retryable or clock.monotonic() >= give_up_at:
                raise
            log.warning("the store is tried again: %s", error)
        await clock.sleep(exponential(tries, FIRST_DELAY_S, MAX_DELAY_S))
    raise AssertionError("unreachable")

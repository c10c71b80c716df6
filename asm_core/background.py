"""
Work that lasts as long as its owner.

A worker whose writer, beat or listener has died looks alive and is not: it would take runs and never store an event.
So in a process of ours (`end_process_on_defect`) a defect in such work ends the process at once, as SIGKILL would, and
the fleet recovers as it does from that. A library does not end its host: there the defect is logged.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, NoReturn

log = logging.getLogger(__name__)

EXIT_BROKEN = 70
"""Exit code of a process that ended itself; a supervisor starts another."""


def end_process(reason: str, error: BaseException | None = None) -> NoReturn:
    """Log and leave without any clean-up. From any thread."""
    log.critical("%s: ending this process", reason, exc_info=error)
    logging.shutdown()
    os._exit(EXIT_BROKEN)


def _report(reason: str, error: BaseException) -> None:
    log.critical(reason, exc_info=error)


_on_defect: Callable[[str, BaseException], None] = _report


def end_process_on_defect() -> None:
    """For processes of our own, at their start."""
    global _on_defect
    _on_defect = end_process


@asynccontextmanager
async def background(*works: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run all of them beside the block and cancel them at its end; none may raise before."""
    tasks = [asyncio.create_task(work) for work in works]
    for task in tasks:
        task.add_done_callback(_check)
    try:
        yield
    finally:
        for task in tasks:
            task.remove_done_callback(_check)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _check(task: asyncio.Task[None]) -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None:
        _on_defect(f"background work failed ({getattr(task.get_coro(), '__qualname__', '?')})", error)

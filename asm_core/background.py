"""
Work that lasts as long as its process.

A process whose writer, beat or listener has died looks alive and is not: it would take runs and never store an event.
So a defect in such work ends the process at once, as SIGKILL would, and the fleet recovers as it does from that.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, NoReturn

log = logging.getLogger(__name__)

EXIT_BROKEN = 70
"""Exit code of a process that ended itself; a supervisor starts another."""


@asynccontextmanager
async def background(*works: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run all of them beside the block and cancel them at its end; one that raises before ends the process."""
    tasks = [asyncio.create_task(work) for work in works]
    for task in tasks:
        task.add_done_callback(_end_if_broken)
    try:
        yield
    finally:
        for task in tasks:
            task.remove_done_callback(_end_if_broken)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def end_process(reason: str, error: BaseException | None = None) -> NoReturn:
    """Log and leave without any clean-up. From any thread."""
    log.critical("%s: ending this process", reason, exc_info=error)
    logging.shutdown()
    os._exit(EXIT_BROKEN)


def _end_if_broken(task: asyncio.Task[None]) -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None:
        end_process(f"background work failed ({getattr(task.get_coro(), '__qualname__', '?')})", error)

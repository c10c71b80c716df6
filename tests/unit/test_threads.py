"""Blocking work beside the event loop."""

from __future__ import annotations

import asyncio
import threading

import pytest

from asm_core.stores.artifacts.threads import in_thread


async def test_the_answer_and_the_error_come_back() -> None:
    assert await in_thread(int, "ff", base=16) == 255
    with pytest.raises(ZeroDivisionError):
        await in_thread(divmod, 1, 0)


async def test_a_cancelled_caller_waits_for_its_thread() -> None:
    """Else it would remove a file that the thread is writing."""
    started, may_end, done = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        may_end.wait()
        done.set()

    task = asyncio.create_task(in_thread(work))
    try:
        while not started.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not task.done()
    finally:
        may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done.is_set()

"""The process's one event loop, in a thread of its own; Celery's task threads hand it a coroutine and wait."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class RunLoop:
    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="asm-loop", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Execute on the loop and wait for the result; from any other thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    def stop(self, timeout_s: float) -> None:
        """Cancel what still runs, bounded, and end the thread."""
        asyncio.run_coroutine_threadsafe(_cancel_all(timeout_s), self.loop).result(timeout_s + 1)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self.loop.close()


async def _cancel_all(timeout_s: float) -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=timeout_s)

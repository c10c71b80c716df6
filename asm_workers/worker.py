"""
A worker process: Celery in the main thread with its task threads, one event loop beside it.

TERM or INT: stop claiming, let runs finish for the drain timeout, hand back what may start again, fail the rest, say
goodbye. QUIT, or a second signal: the same without the wait.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
import warnings
from concurrent.futures import Future
from contextlib import AsyncExitStack
from typing import Any

from celery import Celery, signals
from celery.apps.worker import Worker as CeleryWorker
from celery.exceptions import SecurityWarning

from asm_core.background import end_process_on_defect
from asm_core.config import Settings
from asm_core.process import deny_inspection
from asm_workers.app import CANARY_TASK, VERSION, WAKEUP_TASK, build_app, canary_queue, shard_queues
from asm_workers.loop import RunLoop
from asm_workers.pool import WakingPool
from asm_workers.wiring import Worker, open_worker

log = logging.getLogger(__name__)

EXIT_REPLACE_ME = 75
"""The worker left because its consumer was dead; a supervisor starts another."""
STOP_S = 10.0


class WorkerProcess:
    """
    Args:
        settings: of the installation.
        slots: runs at once; each occupies a (mostly idle) thread.
        name: distinguishes workers of one host in Flower.
    """

    def __init__(self, settings: Settings, *, slots: int, name: str | None = None) -> None:
        self._settings = settings
        self._slots = slots
        self._node = f"{name or f'asm-{os.getpid()}'}@{socket.gethostname()}"
        self._app = build_app(settings)
        self._own_queue = canary_queue(self._node)
        self._loop = RunLoop()
        self._worker: Worker | None = None
        self._stack = AsyncExitStack()
        self._drained: Future[None] | None = None

    def run(self) -> int:
        """
        Work until told to stop.

        Returns:
            The process's exit code.

        Raises:
            AsmError: `storage_connection_failed`, `migration_required`: nothing was started.
        """
        end_process_on_defect()
        deny_inspection()
        warnings.simplefilter("ignore", SecurityWarning)  # about pickle under root; only JSON is accepted here
        self._loop.start()
        try:
            self._worker = self._loop.run(self._open())
            self._register_tasks(self._app)
            signals.worker_shutting_down.connect(self._on_shutting_down, weak=False)
            celery_worker = self._celery_worker()
            celery_worker.start()
            self._finish_drain()
            return celery_worker.exitcode or 0
        finally:
            self._loop.run(self._stack.aclose())
            self._loop.stop(STOP_S)

    async def _open(self) -> Worker:
        leave = asyncio.Event()
        worker = await self._stack.enter_async_context(
            open_worker(
                self._settings,
                app=self._app,
                node=self._node,
                canary_queue=self._own_queue.name,
                slots=self._slots,
                leave=leave,
            )
        )
        self._leaving = asyncio.create_task(_leave_when(leave))
        return worker

    def _register_tasks(self, app: Celery) -> None:
        worker, loop = self._worker, self._loop
        assert worker is not None

        @app.task(name=WAKEUP_TASK, send_events=False, ignore_result=True)
        def wakeup(session_id: str, version: int) -> str:
            if version != VERSION:
                log.warning("a wakeup of version %s is not for this worker", version)
                return "unknown_version"
            return loop.run(worker.handle(session_id))

        @app.task(name=CANARY_TASK, send_events=False, ignore_result=True)
        def canary() -> None:
            worker.canary.heard()

        app.finalize()

    def _celery_worker(self) -> CeleryWorker:
        self._app.conf.task_queues = [*self._app.conf.task_queues, self._own_queue]
        return self._app.Worker(
            hostname=self._node,
            pool_cls=WakingPool,
            concurrency=self._slots,
            queues=[*shard_queues(self._settings), self._own_queue.name],
            loglevel=self._settings.log_level,
            task_events=True,
            without_gossip=True,
            without_mingle=True,
            quiet=True,
        )

    def _on_shutting_down(self, how: str = "Warm", **_: Any) -> None:
        """In the main thread, inside Celery's signal handling: start the drain and return."""
        assert self._worker is not None
        timeout_s = self._settings.drain_timeout_ms / 1000 if how.lower() == "warm" else 0.0
        self._drained = asyncio.run_coroutine_threadsafe(self._worker.drain(timeout_s), self._loop.loop)

    def _finish_drain(self) -> None:
        if self._drained is not None:
            self._drained.result()


async def _leave_when(leave: asyncio.Event) -> None:
    await leave.wait()
    log.critical("this worker has drained itself and ends")
    threading.Timer(1.0, os._exit, (EXIT_REPLACE_ME,)).start()

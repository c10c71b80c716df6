"""
Runs as Flower sees them: one Celery task per run, its uuid the run id.

The wakeups themselves are silent; the executor speaks in Celery's event vocabulary for the run it executes. Events
carry ids, provider, state and error code, never payloads.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from celery import Celery

from asm_core.domain.lifecycle import RunStatus
from asm_core.domain.run import Run
from asm_workers.app import RUN_TASK
from asm_workers.broker import BrokerThread

MAX_WAITING = 1_000
"""Events kept while the broker is away; beyond it the oldest is dropped."""


class TaskEvents:
    """
    Args:
        node: the Celery node name under which Flower lists this worker.
    """

    def __init__(self, app: Celery, broker: BrokerThread, node: str) -> None:
        self._app = app
        self._broker = broker
        self._node = node
        self._waiting: deque[tuple[str, dict[str, Any]]] = deque(maxlen=MAX_WAITING)

    def received(self, run: Run) -> None:
        provider = run.options.provider if run.options else run.provider
        told = {"name": RUN_TASK, "args": repr((run.session_id, provider)), "kwargs": "{}", "retries": run.attempt}
        self._send("task-sent", run.id, queue="asm.runs", **told)
        self._send("task-received", run.id, eta=None, expires=None, **told)

    def started(self, run_id: str) -> None:
        self._send("task-started", run_id)

    def finished(self, run_id: str, status: RunStatus, error_code: str | None, runtime_s: float) -> None:
        """`failed` and `timeout` show as failure, `cancelled` as revoked, a run handed back as retried."""
        match status:
            case RunStatus.COMPLETED:
                self._send("task-succeeded", run_id, result=repr(str(status)), runtime=runtime_s)
            case RunStatus.CANCELLED:
                self._send("task-revoked", run_id, terminated=True, signum=None, expired=False)
            case RunStatus.PENDING:
                self._send("task-retried", run_id, exception="handed back", traceback="")
            case _:
                self._send("task-failed", run_id, exception=error_code or str(status), traceback="", runtime=runtime_s)

    def _send(self, kind: str, run_id: str, **fields: Any) -> None:
        self._waiting.append((kind, fields | {"uuid": run_id, "timestamp": time.time()}))
        self._broker.put(self._flush, keep=False)

    def _flush(self, producer: Any) -> None:
        """All that waits as one message (Celery's own `task.multi`): a message costs more than its events."""
        if not self._waiting:
            return
        connection = producer.connection
        with self._app.events.Dispatcher(connection, hostname=self._node, buffer_group={"task"}) as dispatcher:
            for _ in range(len(self._waiting)):
                kind, fields = self._waiting.popleft()
                dispatcher.send(kind, **fields)
            dispatcher.flush()

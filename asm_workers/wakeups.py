"""Wakeups through Celery."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celery import Celery

from asm_core.config import Settings
from asm_workers.app import VERSION, WAKEUP_TASK, build_app, shard_of
from asm_workers.broker import BrokerThread


class CeleryWakeups:
    """
    Args:
        broker: the process's broker thread; one of its own when omitted.
    """

    def __init__(self, settings: Settings, broker: BrokerThread | None = None, app: Celery | None = None) -> None:
        self._settings = settings
        self._app = app or build_app(settings)
        self._broker = broker or BrokerThread(self._app)

    def wake(self, session_ids: Sequence[str]) -> None:
        """One wakeup per session, in the background; kept while the broker is away."""
        for session_id in session_ids:
            self._broker.put(self._message(session_id), keep=True)

    def close(self) -> None:
        self._broker.close()

    def _message(self, session_id: str) -> Any:
        def send(producer: Any) -> None:
            self._app.send_task(
                WAKEUP_TASK,
                args=(session_id, VERSION),
                queue=shard_of(session_id, self._settings),
                producer=producer,
                retry=False,
                ignore_result=True,
            )

        return send

"""
One thread that talks to the broker for its process, so that no request and no run ever waits for it.

What must arrive sooner or later (wakeups) is kept and tried again until the broker answers; what is only for the eye
(task events) is dropped when it cannot be sent at once.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from celery import Celery

log = logging.getLogger(__name__)

MAX_WAITING = 10_000
"""Messages kept for a broker that is away; beyond it the oldest is dropped (the sweeper makes wakeups good)."""
RETRY_S = 0.5

Send = Callable[[Any], None]
"""Sends one message through the kombu producer it is given."""


class BrokerThread:
    def __init__(self, app: Celery) -> None:
        self._app = app
        self._waiting: deque[tuple[Send, bool]] = deque(maxlen=MAX_WAITING)
        self._news = threading.Condition()
        self._closing = False
        self._is_down = False
        self._thread = threading.Thread(target=self._run, name="asm-broker", daemon=True)
        self._thread.start()

    def put(self, send: Send, *, keep: bool) -> None:
        """Queue a message. Returns at once; never raises."""
        with self._news:
            if keep or not self._is_down:
                self._waiting.append((send, keep))
                self._news.notify()

    def close(self, timeout_s: float = 2.0) -> None:
        """Send what is waiting, for as long as the broker answers and the time lasts."""
        with self._news:
            self._closing = True
            self._news.notify()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while (entry := self._next()) is not None:
            send, keep = entry
            try:
                with self._app.producer_or_acquire() as producer:
                    send(producer)
                self._is_down = False
            except Exception as error:  # whatever the transport raises: the broker is an observer here
                self._went_down(error, send if keep else None)
        self._app.close()

    def _next(self) -> tuple[Send, bool] | None:
        with self._news:
            while not self._waiting:
                if self._closing:
                    return None
                self._news.wait()
            return self._waiting.popleft()

    def _went_down(self, error: Exception, again: Send | None) -> None:
        """A pooled connection that died is replaced at once; after a second failure the broker is given a pause."""
        was_down, self._is_down = self._is_down, True
        with self._news:
            if again is not None and not (self._closing and was_down):
                self._waiting.appendleft((again, True))
            if was_down:
                log.warning("the broker does not answer (%s)", type(error).__name__)
                self._news.wait_for(lambda: self._closing, RETRY_S)

"""
Celery's thread pool, except that a thread which becomes free says so to the consumer.

A worker whose slots are all taken asks the broker for nothing. Celery looks again when its event loop turns, and
nothing turns it when a thread is done: a free slot would stay empty until the next timer, for up to a second.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from celery.concurrency.thread import TaskPool
from kombu.asynchronous import get_event_loop


class WakingPool(TaskPool):
    def on_apply(self, *args: Any, **kwargs: Any) -> Any:
        result = super().on_apply(*args, **kwargs)
        result.f.add_done_callback(_wake_consumer)
        return result


def _wake_consumer(_done: Future[Any]) -> None:
    """In the pool's thread, once the request has left Celery's books."""
    hub = get_event_loop()
    if hub is not None:
        hub.call_soon(_nothing)


def _nothing() -> None: ...

"""
The Celery app: it carries wakeups and nothing else.

Its acknowledgements, time limits, retries, revocation and ETA play no part in correctness: a wakeup may be lost,
doubled or late. Hence early acknowledgement, no result backend, no prefetch, no priorities.
"""

from __future__ import annotations

from zlib import crc32

from celery import Celery
from kombu import Queue

from asm_core.config import Settings

WAKEUP_TASK = "asm.wakeup"
CANARY_TASK = "asm.canary"
RUN_TASK = "asm.run"
"""The name under which Flower shows a run; never sent as a message."""
VERSION = 1
"""Of the wakeup's arguments; a worker leaves wakeups of a version it does not know to others."""
CANARY_EXPIRES_S = 300.0
BROKER_TIMEOUT_S = 1.0


def build_app(settings: Settings) -> Celery:
    """The app of one installation; `settings.redis_prefix` separates it from others on the same broker."""
    app = Celery("asm", broker=settings.broker_url, set_as_current=False)
    app.conf.update(
        task_queues=[_queue(name) for name in shard_queues(settings)],
        task_default_queue=shard_queues(settings)[0],
        task_create_missing_queues=False,
        task_acks_late=False,
        task_reject_on_worker_lost=False,
        task_ignore_result=True,
        task_send_sent_event=False,
        task_serializer="json",
        accept_content=["json"],
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_send_task_events=True,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "global_keyprefix": f"{settings.redis_prefix}:",
            "priority_steps": [0],
            "socket_connect_timeout": BROKER_TIMEOUT_S,
            "socket_keepalive": True,
            "health_check_interval": 10,
            "retry_on_timeout": False,
        },
        timezone="UTC",
    )
    return app


def shard_queues(settings: Settings) -> list[str]:
    return [f"asm.runs.{shard}" for shard in range(settings.queue_shards)]


def shard_of(session_id: str, settings: Settings) -> str:
    """The queue that carries a session's wakeups."""
    return f"asm.runs.{crc32(session_id.encode()) % settings.queue_shards}"


def _queue(name: str) -> Queue:
    return Queue(name, routing_key=name)


def canary_queue(node: str) -> Queue:
    """One worker's own queue; it disappears with its worker."""
    name = f"asm.canary.{node}"
    return Queue(name, routing_key=name, expires=CANARY_EXPIRES_S)

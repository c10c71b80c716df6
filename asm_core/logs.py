"""Logging, set up once at the rim: ASM's records and those of Celery, uvicorn and the rest in one form, to stderr."""

from __future__ import annotations

import logging
import sys
from typing import Literal

import structlog

NOISY = ("celery.worker.strategy", "celery.app.trace", "celery.redirected", "uvicorn.access", "psycopg.pool", "alembic")
"""Loggers that speak once per message or connection; heard from WARNING on."""


def configure_logging(level: str = "INFO", form: Literal["console", "json"] = "console") -> None:
    """Send every logger's records through one handler."""
    before: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper("iso"),
    ]
    render: list[structlog.typing.Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if form == "json"
        else [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=before,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in NOISY:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))

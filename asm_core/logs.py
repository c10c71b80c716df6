"""
Logging, set up once at the rim: ASM's records and those of Celery, uvicorn and the rest in one form, to stderr.

Secrets are replaced when a record is written: in its message with the arguments put in, in bound values, in the text of
an exception. Local variables are never shown beside a trace.
"""

from __future__ import annotations

import logging
import sys
from typing import Literal

import structlog

from asm_core.domain.redaction import REDACTOR, Redactor

NOISY = ("celery.worker.strategy", "celery.app.trace", "celery.redirected", "uvicorn.access", "psycopg.pool", "alembic")
"""Loggers that speak once per message or connection; heard from WARNING on."""


def configure_logging(
    level: str = "INFO", form: Literal["console", "json"] = "console", redactor: Redactor = REDACTOR
) -> None:
    """Send every logger's records through one handler."""
    before: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper("iso"),
    ]
    render: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=before,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                Redaction(redactor),
                render,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in NOISY:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


class Redaction:
    """A processor that leaves no secret in a record; behind the one that turns exceptions into text."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor

    def __call__(
        self, _logger: structlog.typing.WrappedLogger, _method: str, record: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        # bound values of any type are rendered by their repr: that is the text which has to be clean
        shown = {key: value if isinstance(value, _PLAIN) else repr(value) for key, value in record.items()}
        return dict(self._redactor.value(shown))


_PLAIN = (str, int, float, bool, type(None), list, dict, tuple)

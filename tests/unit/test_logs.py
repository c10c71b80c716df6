"""What the one log handler writes."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest
import structlog

from asm_core.domain.redaction import OFF
from asm_core.logs import configure_logging
from tests.fixtures.secrets import PLANTED, REFERENCE

SECRET = REFERENCE[6].secret
FORMS = ("console", "json")


Written = Callable[[], str]


@pytest.fixture
def written(capsys: pytest.CaptureFixture[str]) -> Iterator[Written]:
    """What was logged so far; the root logger is as before afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield lambda: capsys.readouterr().err
    root.handlers[:] = handlers
    root.setLevel(level)


def fail(secret: str) -> None:
    local_secret = secret
    raise ValueError(f"no {local_secret}")


@pytest.mark.parametrize("form", FORMS)
def test_no_secret_is_logged(written: Written, form: Literal["console", "json"]) -> None:
    """In a message, its arguments, an exception, its cause, and what is bound by structlog."""
    configure_logging("INFO", form)
    log = logging.getLogger("asm.test")
    log.warning("bad key %s", SECRET)
    log.warning("bad key %(k)s", {"k": SECRET})
    log.warning("in %r", {"password": "hunter2"})
    try:
        try:
            fail(SECRET)
        except ValueError as cause:
            raise RuntimeError(SECRET) from cause
    except RuntimeError:
        log.exception("failed with %s", SECRET)
    for planted in PLANTED:
        log.info("got %s", planted.text)
    said = written()
    assert "hunter2" not in said
    assert "RuntimeError" in said and "ValueError" in said and "fail(SECRET)" in said, "the trace is there"
    assert [planted.kind for planted in PLANTED if planted.secret in said] == []
    assert [planted.kind for planted in PLANTED if json.dumps(planted.secret)[1:-1] in said] == []


def test_json_lines_stay_json(written: Written) -> None:
    configure_logging("INFO", "json")
    for planted in PLANTED:
        logging.getLogger("asm.test").info("got %s", planted.text)
    lines: list[dict[str, Any]] = [json.loads(line) for line in written().splitlines()]
    assert len(lines) == len(PLANTED)
    assert all(line["event"].startswith("got ") and line["level"] == "info" for line in lines)


def test_bound_values_are_redacted_as_they_are_shown(written: Written) -> None:
    configure_logging("INFO", "json")
    processor = structlog.stdlib.ProcessorFormatter.wrap_for_formatter
    log = structlog.wrap_logger(logging.getLogger("asm.test"), processors=[processor])
    log.warning("bound", error=ValueError(SECRET), api_key="x", deep={"a": [SECRET]}, count=3)
    line = json.loads(written())
    assert (line["error"], line["api_key"], line["count"]) == ("ValueError('[REDACTED]')", "[REDACTED]", 3)
    assert line["deep"] == {"a": ["[REDACTED]"]}


def test_redaction_can_be_off(written: Written) -> None:
    configure_logging("INFO", "json", OFF)
    logging.getLogger("asm.test").warning(SECRET)
    assert SECRET in written()

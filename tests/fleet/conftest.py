"""The fleet's fixtures, and its processes' last words in the report of a test that failed."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from tests.fixtures.fleet import Fleet, fleet, servers

__all__ = ["fleet", "servers"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: Any) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    given = getattr(item, "funcargs", {}).get("fleet")
    if report.failed and isinstance(given, Fleet):
        report.sections += given.last_words()
    return report

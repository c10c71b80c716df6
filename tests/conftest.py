"""The fixtures that every test may ask for."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

pytest_plugins = [
    "tests.fixtures.postgres", "tests.fixtures.sqlite", "tests.fixtures.sql", "tests.fixtures.redis",
    "tests.fixtures.api", "tests.fixtures.artifacts", "tests.fixtures.providers", "tests.fixtures.processes",
]  # fmt: skip


class FileByFile(LoadScopeScheduling):
    """Where tests run in two processes, a file stays together, and fleets come one after the other."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "fleet" if file.startswith("tests/fleet/") else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FileByFile:
    return FileByFile(config, log)


settings.register_profile("asm", deadline=None)  # a busy machine is no failure
settings.load_profile("asm")

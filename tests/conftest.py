"""The fixtures that every test may ask for."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

pytest_plugins = [
    "tests.fixtures.postgres", "tests.fixtures.sqlite", "tests.fixtures.sql", "tests.fixtures.redis",
    "tests.fixtures.api", "tests.fixtures.artifacts", "tests.fixtures.providers", "tests.fixtures.processes",
]  # fmt: skip

FLEET = Path(__file__).parent / "fleet"


@pytest.hookimpl(tryfirst=True)  # before the groups are read
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where tests run in two processes, a file stays together, and fleets come one after the other."""
    for item in items:
        group = "fleet" if FLEET in item.path.parents else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))


settings.register_profile("asm", deadline=None)  # a busy machine is no failure
settings.load_profile("asm")

"""The fixtures that every test may ask for."""

from __future__ import annotations

from hypothesis import settings

pytest_plugins = [
    "tests.fixtures.postgres", "tests.fixtures.sqlite", "tests.fixtures.sql", "tests.fixtures.redis",
    "tests.fixtures.api", "tests.fixtures.artifacts", "tests.fixtures.providers", "tests.fixtures.processes",
]  # fmt: skip

settings.register_profile("asm", deadline=None)  # a busy machine is no failure
settings.load_profile("asm")

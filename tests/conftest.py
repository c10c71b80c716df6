"""The fixtures that every test may ask for."""

pytest_plugins = ["tests.fixtures.postgres", "tests.fixtures.redis", "tests.fixtures.api", "tests.fixtures.artifacts"]

"""
What every implementation of a port promises, as pytest classes to inherit from:

    class TestMyStore(SessionStoreContract):
        @pytest.fixture
        async def store(self):
            yield MyStore()

Each class says which fixtures it wants. Needs pytest and pytest-asyncio.
"""

from __future__ import annotations

from asm_core.optional import require

MODULES = ("answers", "artifact_store", "maintenance", "provider_adapter", "query_api", "session_store")

for needed in ("pytest", "pytest_asyncio"):
    require(needed, "testing", operation="asm_core.testing.contracts")

import pytest  # noqa: E402 - the error above is the clearer one

pytest.register_assert_rewrite(*(f"{__name__}.{name}" for name in MODULES))

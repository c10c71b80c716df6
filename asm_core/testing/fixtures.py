"""
Fixtures for tests of what you build on ASM: in `conftest.py`, `pytest_plugins = ["asm_core.testing.fixtures"]`.

Everything lies in memory and is gone after the test. Override one to have another store or adapter under the rest.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from asm_core.adapters.scripted import ScriptedAdapter
from asm_core.library import Store, open_manager, open_store
from asm_core.manager.runtime import SessionRuntime
from asm_core.manager.session_manager import SessionManager
from asm_core.optional import require
from asm_core.ports.provider import ProviderAdapter
from asm_core.testing.doubles import RecordingAdapter

require("pytest_asyncio", "testing", operation=__name__)

import pytest  # noqa: E402 - the error above is the clearer one
import pytest_asyncio  # noqa: E402


@pytest_asyncio.fixture
async def asm_store() -> AsyncIterator[Store]:
    """Queue and records, in memory."""
    async with open_store("memory://") as store:
        yield store


@pytest.fixture
def asm_adapter() -> ProviderAdapter:
    """The scripted provider; `asm_adapter.executions` holds what it was asked."""
    return RecordingAdapter(ScriptedAdapter())


@pytest_asyncio.fixture
async def asm_manager(asm_store: Store, asm_adapter: ProviderAdapter) -> AsyncIterator[SessionManager]:
    async with open_manager(asm_store, asm_adapter) as manager:
        yield manager


@pytest_asyncio.fixture
async def asm_runtime(asm_manager: SessionManager) -> AsyncIterator[SessionRuntime]:
    """Serves the queue of a session of agent `test-agent`, one run at a time."""
    session = await asm_manager.start_session(agent_id="test-agent", max_concurrent_runs=1)
    await asm_manager.activate_session(session.id)
    async with SessionRuntime(asm_manager, session.id) as runtime:
        yield runtime

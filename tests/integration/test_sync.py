"""The blocking form of the library: queue, queries and retention without an event loop."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import asm_core
from asm_core import sync
from asm_core.adapters.scripted import ScriptedAdapter
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.lifecycle import RunStatus
from asm_core.domain.retention import RetentionPolicy
from asm_core.ports.query import EventSearch, RunSearch, SessionSearch, UsageSearch

TENANT = "default"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[sync.Store]:
    with sync.open_store(f"sqlite:///{tmp_path / 'asm.db'}") as opened:
        yield opened


def test_a_runtime_serves_its_queue(store: sync.Store) -> None:
    """Submits from several threads, in order; subscribe until nothing is left."""
    with store.open_manager(ScriptedAdapter()) as manager:
        session = manager.start_session("worker", max_concurrent_runs=1)
        manager.activate_session(session.id)
        with manager.runtime(session.id) as runtime:
            submitted = [runtime.submit_run({"prompt": str(number)}) for number in range(5)]
            threads = [threading.Thread(target=runtime.await_run, args=(one.run_id,)) for one in submitted]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(30)
            runtime.drain()
            assert runtime.status().is_idle
            ended = [event.run_id for event in runtime.subscribe(until_idle=True) if event.type == "run_completed"]
            assert ended == [one.run_id for one in submitted]
            held = runtime.submit_run({"script": [{"sleep_ms": 600_000}]})
            assert runtime.cancel_run(held.run_id) in (RunStatus.RUNNING, RunStatus.CANCELLED)
            assert runtime.await_run(held.run_id).status is RunStatus.CANCELLED


@pytest.mark.parametrize("name", ["SessionManager", "SessionRuntime"])
def test_every_verb_has_its_blocking_form(name: str) -> None:
    asynchronous = vars(getattr(asm_core, name))
    verbs = {verb for verb, call in asynchronous.items() if inspect.iscoroutinefunction(call) and verb[0] != "_"}
    assert verbs <= set(dir(getattr(sync, name)))


def test_queries_and_retention_answer_like_the_asynchronous_ones(store: sync.Store) -> None:
    with store.open_manager(ScriptedAdapter()) as manager:
        result = manager.run_once({"script": [{"say": "x"}, {"usage": {"input_tokens": 3, "output_tokens": 2}}]})
    queries, maintenance = store.queries(), store.maintenance()
    assert [session.id for session in queries.search_sessions(TENANT, SessionSearch()).items] == [result.session_id]
    assert [run.id for run in queries.search_runs(TENANT, RunSearch()).items] == [result.run_id]
    assert queries.get_usage_summary(TENANT, UsageSearch()).totals.input_tokens == 3
    found = queries.search_events(TENANT, EventSearch(run_ids=[result.run_id]))
    assert len(found.items) == queries.count_events(TENANT, EventSearch(run_ids=[result.run_id]))
    assert queries.export_session(result.session_id, TENANT).session.id == result.session_id
    assert maintenance.execute(RetentionPolicy(), TENANT).errors == []
    assert maintenance.health_check(TENANT) == []


def test_a_store_in_memory_says_what_it_lacks() -> None:
    with sync.open_store("memory://") as store, pytest.raises(AsmError) as caught:
        store.queries()
    assert caught.value.code is ErrorCode.CAPABILITY_NOT_SUPPORTED


async def test_it_may_be_used_beside_a_running_loop() -> None:
    """From a thread, as a web framework would."""

    def work() -> str:
        with sync.open_manager("memory://", ScriptedAdapter()) as manager:
            return str(manager.run_once({"prompt": "Hello"}).output["content"])

    assert await asyncio.gather(*(asyncio.to_thread(work) for _ in range(3))) == ["Hello"] * 3

"""The same on Postgres: migrated once, then shared; two managers work in one session and its log has no gap."""

from __future__ import annotations

import asyncio

from _common import claim, main, refusal, skip, temporary_folder

from asm_core import (
    DEFAULT_TENANT,
    AsmError,
    EventFilter,
    RunStatus,
    ScriptedAdapter,
    SessionManager,
    migrate,
    open_manager,
    open_store,
    run_once,
)
from asm_core.devservers import start_postgres

COUNTING = {"script": [{"say": "one two three", "chunks": 13}]}


async def example() -> None:
    with temporary_folder() as folder:
        try:
            server = start_postgres(folder, durable=False)
        except AsmError as error:
            skip(f"no Postgres here ({error.message})")
            return
        try:
            await share(server.url)
        finally:
            server.discard()


async def share(url: str) -> None:
    error = await refusal(run_once(url, ScriptedAdapter(), {"prompt": "Hello"}))
    claim("a database without tables says what it needs", error.code == "migration_required")
    revision = await asyncio.to_thread(migrate, url)
    claim("migrating again changes nothing", await asyncio.to_thread(migrate, url) == revision)

    async with open_manager(url, ScriptedAdapter()) as one, open_manager(url, ScriptedAdapter()) as other:
        session = await one.open_session("shared")
        await asyncio.gather(*(count(manager, session.id) for manager in (one, other, one, other)))
        await one.complete_session(session.id)
        claim("what one completes is completed for the other", (await other.get_session(session.id)).is_terminal)

    async with open_store(url) as store:
        frames = await store.records.get_events(session.id, DEFAULT_TENANT, EventFilter(), 1_000)
        runs = await store.records.list_runs(DEFAULT_TENANT, session_id=session.id)
        stats = await store.queries().get_session_stats(session.id, DEFAULT_TENANT)
        await store.records.delete_session(session.id, DEFAULT_TENANT)
        gone = await refusal(store.records.get_session(session.id, DEFAULT_TENANT))
    claim("all runs are there", [run.status for run in runs.items] == [RunStatus.COMPLETED] * 4)
    claim("four at once, no gap", [frame.sequence_number for frame in frames] == list(range(1, len(frames) + 1)))
    claim("statistics agree", (stats.run_count, stats.event_count) == (4, len(frames)))
    claim("a deleted session is gone", gone.code == "session_not_found")


async def count(manager: SessionManager, session_id: str) -> None:
    run = await manager.start_run(session_id, COUNTING)
    await manager.execute_run(run.id)


if __name__ == "__main__":
    main(example)

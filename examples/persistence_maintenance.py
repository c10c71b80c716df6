"""Retention: old sessions go, long logs are pruned, what is exempt stays; health is checked before and after."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from _common import claim, main, refusal, temporary_folder

from asm_core import (
    DEFAULT_TENANT,
    EventSearch,
    RetentionPolicy,
    ScriptedAdapter,
    SessionManager,
    SessionSearch,
    Store,
    open_manager,
    open_store,
)

POLICY = RetentionPolicy(max_completed_session_age_days=90, hard_delete_after_days=30, max_events_per_session=10)


async def talk(
    manager: SessionManager, store: Store, *, age_days: int = 0, chunks: int = 1, tags: tuple[str, ...] = ()
) -> str:
    """A completed session that nobody has touched for so long."""
    script = [{"say": "x" * chunks, "chunks": chunks}]
    result = await manager.run_once({"prompt": "Hello", "script": script}, tags=tags)
    session = await manager.get_session(result.session_id)
    await store.records.save_session(replace(session, updated_at=session.updated_at - timedelta(days=age_days)))
    return session.id


async def example() -> None:
    with temporary_folder() as folder:
        async with (
            open_store(f"sqlite:///{folder / 'agents.db'}") as store,
            open_manager(store, ScriptedAdapter()) as manager,
        ):
            fresh = await talk(manager, store, chunks=40)
            old = await talk(manager, store, age_days=100)
            pinned = await talk(manager, store, age_days=100, chunks=40, tags=("pinned",))
            active = (await manager.open_session("still-busy")).id
            await retain(store, fresh, old, pinned, active)
            await look_after(store, manager, old)


async def retain(store: Store, fresh: str, old: str, pinned: str, active: str) -> None:
    care, query = store.maintenance(), store.queries()
    claim("all is well before", await care.health_check(DEFAULT_TENANT) == [])
    report = await care.execute(POLICY, DEFAULT_TENANT)
    print("  ", {name: value for name, value in report.to_map().items() if name != "duration_ms"})
    claim("the old session is gone, softly", (report.sessions_soft_deleted, report.sessions_hard_deleted) == (1, 0))
    listed = await query.search_sessions(DEFAULT_TENANT, SessionSearch())
    claim("what is fresh, pinned or active stays", {session.id for session in listed.items} == {fresh, pinned, active})
    hidden = await query.search_sessions(DEFAULT_TENANT, SessionSearch(include_deleted=True))
    claim("who asks for deleted sessions still finds it", old in {session.id for session in hidden.items})

    left = await query.search_events(DEFAULT_TENANT, EventSearch(session_ids=[fresh]))
    claim("a long log is pruned to its bound", len(left.items) == 10)
    claim("and its end is still its end", left.items[-1].type == "session_completed")
    whole = await query.count_events(DEFAULT_TENANT, EventSearch(session_ids=[pinned]))
    claim("a pinned one keeps its whole log", whole > 40)
    claim("nothing is left to do", (await care.execute(POLICY, DEFAULT_TENANT)).sessions_soft_deleted == 0)


async def look_after(store: Store, manager: SessionManager, old: str) -> None:
    care = store.maintenance()
    in_a_month = datetime.now(UTC) + timedelta(days=31)
    step = await care.hard_delete_expired_sessions(POLICY, DEFAULT_TENANT, now=in_a_month)
    claim("after a month it is gone for good", step.count == 1 and not step.errors)
    claim("nobody finds it any more", (await refusal(manager.get_session(old))).code == "session_not_found")
    claim("nor its events", await store.queries().count_events(DEFAULT_TENANT, EventSearch(session_ids=[old])) == 0)
    claim("and all is well after", await care.health_check(DEFAULT_TENANT) == [])


if __name__ == "__main__":
    main(example)

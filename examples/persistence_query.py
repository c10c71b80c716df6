"""Questions across sessions, each of them: search, count, add up, export; page by page where there is much."""

from __future__ import annotations

import json
from dataclasses import replace

from _common import Acting, claim, main, refusal, temporary_folder

from asm_core import (
    DEFAULT_TENANT,
    EventSearch,
    RunSearch,
    SessionSearch,
    Store,
    UsageSearch,
    event_of,
    open_manager,
    open_store,
)

RUNS = [  # session, provider, model, input and output tokens
    ("billing", "claude", "claude-haiku-4-5", 1_000, 200),
    ("billing", "claude", "claude-haiku-4-5", 2_000, 300),
    ("support", "codex", "gpt-4o-mini", 4_000, 100),
    ("night-watch", "in-house", "owl-1", 500, 50),
]


async def fill(store: Store) -> dict[str, str]:
    """Three sessions with four runs; agent to session id."""
    sessions: dict[str, str] = {}
    for agent, provider, model, tokens_in, tokens_out in RUNS:
        async with open_manager(store, Acting(provider)) as manager:
            if agent not in sessions:
                tags = ("daily", "eu") if agent == "billing" else ("daily",)
                sessions[agent] = (await manager.open_session(agent, tags=tags)).id
            usage = {"usage": {"input_tokens": tokens_in, "output_tokens": tokens_out}}
            run = await manager.start_run(sessions[agent], {"script": [{"say": agent}, usage]}, model=model)
            await manager.execute_run(run.id)
    async with open_manager(store, Acting("claude")) as manager:
        await manager.complete_session(sessions["billing"])
    return sessions


async def example() -> None:
    with temporary_folder() as folder:
        async with open_store(f"sqlite:///{folder / 'agents.db'}") as store:
            sessions = await fill(store)
            await search_sessions_and_runs(store, sessions)
            await search_events(store, sessions)
            await add_up(store, sessions)
            await export(store, sessions["billing"])


async def search_sessions_and_runs(store: Store, sessions: dict[str, str]) -> None:
    query, tenant = store.queries(), DEFAULT_TENANT
    where = SessionSearch(tags=["daily"], order_by="created_at_asc", limit=2)
    first = await query.search_sessions(tenant, where)
    rest = await query.search_sessions(tenant, replace(where, cursor=first.cursor))
    found = [session.id for session in (*first.items, *rest.items)]
    claim("pages of sessions follow each other", found == [*sessions.values()] and first.has_more and not rest.has_more)
    claim("and tell how many there are in all", first.total_count == 3)
    completed = await query.search_sessions(tenant, SessionSearch(status="completed", tags=["daily", "eu"]))
    claim("sessions by status and tags", [session.agent_id for session in completed.items] == ["billing"])
    error = await refusal(query.search_sessions(tenant, SessionSearch(cursor=first.cursor)))
    claim("a cursor holds for the search that gave it", error.code == "invalid_cursor")

    heaviest = await query.search_runs(tenant, RunSearch(order_by="token_usage_desc", min_tokens=1_000, limit=1))
    claim("runs by their tokens", [run.provider for run in heaviest.items] == ["codex"] and heaviest.has_more)
    runs = await query.search_runs(tenant, RunSearch(session_id=sessions["billing"], provider=["claude"]))
    claim("runs of a session", len(runs.items) == 2)


async def search_events(store: Store, sessions: dict[str, str]) -> None:
    query, tenant = store.queries(), DEFAULT_TENANT
    where = EventSearch(types=["message_received"], order_by="timestamp_asc", limit=3)
    texts: list[str] = []
    while (page := await query.search_events(tenant, where)).items:
        texts += [event_of(frame).data["content"] for frame in page.items]
        where = replace(where, cursor=page.cursor)
    claim("events across sessions, page by page", texts == [agent for agent, *_ in RUNS])
    claim("events are counted", await query.count_events(tenant, EventSearch(types=["run_completed"])) == 4)
    mine = EventSearch(session_ids=[sessions["billing"]])
    stats = await query.get_session_stats(sessions["billing"], tenant)
    claim("a session's statistics agree", stats.event_count == await query.count_events(tenant, mine))
    claim("and add up its runs", (stats.run_count, stats.token_totals.total_tokens) == (2, 3_500))


async def add_up(store: Store, sessions: dict[str, str]) -> None:
    query, tenant = store.queries(), DEFAULT_TENANT
    usage = await query.get_usage_summary(tenant, UsageSearch())
    claim("usage of all", (usage.run_count, usage.totals.input_tokens, usage.totals.output_tokens) == (4, 7_500, 650))
    claim("usage by provider", usage.by_provider["claude"].total_tokens == 3_500)
    cost = await query.get_cost_summary(tenant, UsageSearch())
    print(f"  {cost.total_cost_usd:.5f} USD:", {name: of.cost_usd for name, of in cost.by_provider.items()})
    claim("runs whose price nobody knows are counted apart", (cost.run_count, cost.unmapped_runs) == (4, 1))
    one = await query.get_cost_summary(tenant, UsageSearch(session_id=sessions["support"]))
    claim("cost by model", [*one.by_model] == ["gpt-4o-mini"] and one.total_cost_usd < cost.total_cost_usd)


async def export(store: Store, session_id: str) -> None:
    query, tenant = store.queries(), DEFAULT_TENANT
    whole = (await query.export_session(session_id, tenant)).to_map()
    claim("an export has everything", (len(whole["runs"]), whole["session"]["id"]) == (2, session_id))
    text = b"".join([chunk async for chunk in query.stream_export(session_id, tenant)])
    lines = [json.loads(line) for line in text.splitlines()]
    claim("as a stream, too", [line["event"] for line in lines if "event" in line] == whole["events"])


if __name__ == "__main__":
    main(example)

"""One session, three providers: each run has its own, the log is one."""

from __future__ import annotations

from _common import Acting, claim, main, temporary_folder

from asm_core import DEFAULT_TENANT, Store, UsageSearch, open_manager, open_store

TURNS = [("claude", "Here is a plan."), ("codex", "Here is the code."), ("amp", "Here is the review.")]


async def take_turns(store: Store) -> str:
    """Each provider has a manager of its own, over the same store."""
    session_id = ""
    for number, (provider, answer) in enumerate(TURNS, start=1):
        async with open_manager(store, Acting(provider)) as manager:
            session_id = session_id or (await manager.open_session("team")).id
            usage = {"usage": {"input_tokens": 100 * number, "output_tokens": 10 * number}}
            asked = {"prompt": f"Your turn, {provider}", "script": [{"say": answer, "chunks": 3}, usage]}
            run = await manager.start_run(session_id, asked)
            result = await manager.execute_run(run.id)
            print(f"  {provider}: {result.output['content']}  ({result.cost_usd} USD)")
    return session_id


async def example() -> None:
    with temporary_folder() as folder:
        async with open_store(f"sqlite:///{folder / 'agents.db'}") as store:
            session_id = await take_turns(store)
            query = store.queries()
            stats = await query.get_session_stats(session_id, DEFAULT_TENANT)
            usage = await query.get_usage_summary(DEFAULT_TENANT, UsageSearch(session_id=session_id))
            async with open_manager(store, Acting("claude")) as manager:
                runs = await manager.get_session_runs(session_id)
                events = await manager.get_session_events(session_id)

    claim("each run has its own provider", [run.provider for run in runs] == [name for name, _ in TURNS])
    claim("the session names all of them", sorted(stats.providers_used) == ["amp", "claude", "codex"])
    claim("their tokens add up", usage.totals.total_tokens == 110 + 220 + 330)
    claim("to what each has used", [usage.by_provider[name].total_tokens for name, _ in TURNS] == [110, 220, 330])
    claim("the log is one", [event.sequence_number for event in events] == list(range(1, len(events) + 1)))
    said = [event for event in events if event.type == "message_received"]
    claim("and says who said what", [(event.provider, event.data["content"]) for event in said] == TURNS)


if __name__ == "__main__":
    main(example)

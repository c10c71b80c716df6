"""The same code for every provider: two prompts in one session, its events by run, and what it all took."""

from __future__ import annotations

from collections import Counter

from _common import MEMORY, claim, every_provider, main, pretended_providers, temporary_folder

from asm_core import ProviderAdapter, SessionStatus, open_manager


async def talk(adapter: ProviderAdapter) -> None:
    async with open_manager(MEMORY, adapter) as manager:
        session = await manager.open_session()
        for prompt in ("Hello", "And again"):
            run = await manager.start_run(session.id, {"prompt": prompt}, continuation="auto")
            await manager.execute_run(run.id)
        session = await manager.complete_session(session.id)
        runs = await manager.get_session_runs(session.id)
        per_run = Counter(event.run_id for event in await manager.get_session_events(session.id))
    spent = Counter[str]()
    for run in runs:
        spent.update({name: count for name, count in run.token_usage.items() if isinstance(count, int)})
    print(f"  {adapter.name}: {[per_run[run.id] for run in runs]} events, {dict(spent)}")
    claim(f"{adapter.name} answered twice", all(run.output and run.output["content"] for run in runs))
    claim("each run left events, and the session is completed", session.status is SessionStatus.COMPLETED)


async def example() -> None:
    with pretended_providers() as (script, server), temporary_folder() as folder:
        for adapter in every_provider(script, server, folder):
            await talk(adapter)
            await adapter.aclose()


if __name__ == "__main__":
    main(example)

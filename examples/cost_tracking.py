"""What runs cost: built-in prices, prices of one's own, failed runs too, and the sum of it all."""

from __future__ import annotations

from typing import Any

from _common import Acting, claim, main, temporary_folder

from asm_core import DEFAULT_TENANT, AsmError, Run, RunStatus, Store, UsageSearch, open_manager, open_store, options

HAIKU = "claude-haiku-4-5-20251001"
USAGE = {"usage": {"input_tokens": 1_000, "output_tokens": 200}}
ANSWER = {"script": [{"say": "Here you are."}, USAGE]}
FAILURE = {"script": [USAGE, {"fail": {"code": "provider_error", "message": "the provider broke off"}}]}

OWN_PRICES = {  # USD per token
    "claude": {"models": {"claude-haiku-4-5": {"input": 0.000002, "output": 0.00001}}},
    "in-house": {"default": {"input": 0.0000001, "output": 0.0000001}},
}


async def run_of(store: Store, provider: str, model: str | None = None, given: dict[str, Any] = ANSWER) -> Run:
    """One run, whatever it comes to."""
    async with open_manager(store, Acting(provider)) as manager:
        try:
            run_id = (await manager.run_once(given, model=model)).run_id
        except AsmError as error:
            run_id = error.context["run_id"]
        run = await manager.get_run(run_id)
    print(f"  {provider} {model or ''}: {run.status}, {run.cost_usd} USD")
    return run


async def example() -> None:
    with temporary_folder() as folder:
        async with open_store(f"sqlite:///{folder / 'agents.db'}") as store:
            haiku = await run_of(store, "claude", HAIKU)
            claim("a dated model costs what its model does", haiku.cost_usd == (1_000 * 0.8 + 200 * 4) / 1_000_000)
            failed = await run_of(store, "claude", HAIKU, FAILURE)
            claim("a failed run has failed", failed.status is RunStatus.FAILED)
            claim("and has cost what it used", failed.cost_usd == haiku.cost_usd)
            unknown = await run_of(store, "in-house")
            claim("a price that nobody knows is not 0", unknown.cost_usd is None)

            with options.override(pricing_table=OWN_PRICES):
                dearer = await run_of(store, "claude", HAIKU)
                claim("own prices go before the built-in ones", dearer.cost_usd == 0.004)
                opus = await run_of(store, "claude", "claude-opus-4-6")
                claim("what they say nothing about keeps its price", opus.cost_usd == 0.03)
            await add_up(store)


async def add_up(store: Store) -> None:
    costs = await store.queries().get_cost_summary(DEFAULT_TENANT, UsageSearch())
    claim("runs of all ends are in the sum", costs.total_cost_usd == 0.0016 + 0.0016 + 0.004 + 0.03)
    claim("by provider", [*costs.by_provider] == ["claude"] and costs.by_provider["claude"].run_count == 4)
    claim("by model", {name: of.cost_usd for name, of in costs.by_model.items()} == {
        HAIKU: 0.0072, "claude-opus-4-6": 0.03
    })  # fmt: skip
    claim("the run without a price is told apart", (costs.run_count, costs.unmapped_runs) == (5, 1))
    with options.override(pricing_table=OWN_PRICES):
        later = await store.queries().get_cost_summary(DEFAULT_TENANT, UsageSearch())
    claim("a price that becomes known later is applied", later.by_provider["in-house"].cost_usd == 0.00012)
    claim("to runs without a cost alone", later.by_provider["claude"] == costs.by_provider["claude"])


if __name__ == "__main__":
    main(example)

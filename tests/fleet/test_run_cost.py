"""What a run costs when real workers execute it: by the price list, however the run ends."""

from __future__ import annotations

import json

from asm_core.domain.lifecycle import RunStatus
from tests.fixtures.fleet import Fleet

PRICES = {"scripted": {"models": {"mine": {"input": 0.000002, "output": 0.000007}}}}
USAGE = {"usage": {"input_tokens": 100, "output_tokens": 10}}
COST, TWICE, WITH_REPORTED = 0.00027, 0.00054, 0.50027
FOREVER = {"sleep_ms": 600_000}


async def test_a_run_costs_what_its_tokens_cost_however_it_ends(fleet: Fleet) -> None:
    """spec/01 §21 (41), invariant 6: also failed, cancelled and timed out; what the provider reports wins."""
    await fleet.start()
    await fleet.add_workers(1, ASM_PRICING_TABLE=json.dumps(PRICES))
    session = await fleet.session(max_concurrent_runs=10)
    fail = {"fail": {"code": "provider_error", "message": "no"}}
    reported = {"emit": {"type": "token_usage_updated", "data": {**USAGE["usage"], "cost_usd": 0.5}}}
    expected = {
        await fleet.submit(session, USAGE, USAGE, {"say": "hi"}, model="mine"): (RunStatus.COMPLETED, TWICE),
        await fleet.submit(session, USAGE, fail, model="mine"): (RunStatus.FAILED, COST),
        await fleet.submit(session, USAGE, FOREVER, model="mine", timeout_ms=500): (RunStatus.TIMEOUT, COST),
        await fleet.submit(session, USAGE, reported, model="mine"): (RunStatus.COMPLETED, WITH_REPORTED),
        await fleet.submit(session, USAGE, model="claude-opus-4-5"): (RunStatus.COMPLETED, 0.00075),
        await fleet.submit(session, USAGE): (RunStatus.COMPLETED, None),
    }
    cancelled = await fleet.submit(session, USAGE, FOREVER, model="mine")
    await fleet.emitted(cancelled, "token_usage_updated")
    await fleet.cancel(cancelled)
    expected[cancelled] = (RunStatus.CANCELLED, COST)
    for run_id, (status, cost) in expected.items():
        run = await fleet.ended(run_id)
        assert (run.status, run.cost_usd) == (status, cost)
        assert (await fleet.events_of(run_id))[-1]["data"].get("cost_usd") == cost
    await fleet.ends_well()

"""The pipeline's cost step: usage events without a cost get one where the model's price is known."""

from __future__ import annotations

from typing import Any

import pytest

from asm_core.domain.event import Event, EventType
from asm_core.domain.pricing import PriceList, Rates
from asm_core.pipeline import ingest
from asm_core.pipeline.context import RunContext
from asm_core.pipeline.cost import add_cost
from asm_core.pipeline.validate import WARNINGS_KEY
from asm_core.ports.provider import RawEvent
from tests.builders import a_context, an_event

USAGE = {"input_tokens": 1_000, "output_tokens": 500}


def emitted(ctx: RunContext, kind: str, data: dict[str, Any]) -> Event:
    [event] = ingest(RawEvent(kind, data), ctx)
    return event


def spent(ctx: RunContext, **data: Any) -> Any:
    """The cost on a usage event that has gone through the pipeline."""
    return emitted(ctx, "token_usage_updated", {**USAGE, **data}).data.get("cost_usd")


def codex(**fields: Any) -> RunContext:
    return a_context(provider="codex", model="o3", **fields)


def test_a_usage_gets_the_cost_of_its_own_tokens() -> None:
    """spec/01 check 231 on the event path; counts are per turn, so each event is priced by itself."""
    ctx = codex()
    assert [spent(ctx), spent(ctx), spent(ctx, output_tokens=0)] == [0.03, 0.03, 0.01]


def test_the_rest_of_the_event_stays_as_it_is() -> None:
    before = an_event(EventType.TOKEN_USAGE_UPDATED, data=USAGE | {"total_tokens": 1_500}, provider="codex")
    [after] = add_cost(before, codex())
    assert after.data == before.data | {"cost_usd": 0.03}
    assert {**after.to_map(), "data": None} == {**before.to_map(), "data": None}


@pytest.mark.parametrize("reported", [0.5, 0, 1e-9, "free"])
def test_the_cost_that_the_provider_reports_wins(reported: object) -> None:
    """Nothing is a price too."""
    assert spent(codex(), cost_usd=reported) == reported


@pytest.mark.parametrize("reported", [None, float("nan")])
def test_a_cost_that_is_not_there_is_added(reported: object) -> None:
    assert spent(codex(), cost_usd=reported) == 0.03


@pytest.mark.parametrize(("provider", "model"), [("scripted", "o3"), ("scripted", None), ("unheard-of", "o3")])
def test_a_usage_that_nobody_can_price_has_no_cost(provider: str, model: str | None) -> None:
    """Never 0: spec/07 §8.1."""
    event = emitted(a_context(provider=provider, model=model), "token_usage_updated", USAGE)
    assert event.data == USAGE


def test_the_prices_in_force_are_those_of_the_run() -> None:
    prices = PriceList(catalogue=lambda provider, model, _tokens: Rates.per_million("1000", "2000"))
    assert spent(a_context(provider="scripted", model="any", prices=prices)) == 2.0


def test_the_model_that_the_provider_names_is_the_one_that_is_priced() -> None:
    """spec/04 check 213: it may be another than the one asked for, or none was asked for."""
    ctx = a_context(provider="codex")
    assert spent(ctx) == 0.0105, "the provider's default"
    emitted(ctx, "run_started", {"model": "gpt-4o"})
    assert spent(ctx) == 0.0075
    emitted(ctx, "run_started", {"model": "o3"})
    assert spent(ctx) == 0.03


@pytest.mark.parametrize("named", [{}, {"model": None}, {"model": ""}, {"model": ["gpt-4o"]}])
def test_a_provider_that_names_no_model_uses_the_one_asked_for(named: dict[str, Any]) -> None:
    ctx = codex()
    emitted(ctx, "run_started", named)
    assert spent(ctx) == 0.03


def test_only_usage_costs() -> None:
    """A terminal event repeats the run's usage; that must not be counted twice."""
    for kind in EventType:
        if kind is not EventType.TOKEN_USAGE_UPDATED:
            event = an_event(kind, data=USAGE, provider="codex")
            assert [*add_cost(event, codex())] == [event]


@pytest.mark.parametrize("count", ["many", None, -1, 1e300, True, {}])
def test_counts_that_are_none_cost_nothing_and_do_not_stop_the_run(count: object) -> None:
    event = emitted(codex(), "token_usage_updated", {"input_tokens": count, "output_tokens": 500})
    assert event.data["cost_usd"] == 0.02


def test_warnings_of_the_shape_are_kept() -> None:
    event = emitted(codex(), "token_usage_updated", {"input_tokens": 1_000})
    assert event.data["cost_usd"] == 0.01
    assert event.metadata == {WARNINGS_KEY: ["output_tokens is missing"]}

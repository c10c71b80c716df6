"""
A usage event that carries no cost gets one from the price list.

A run's cost is the sum over its usage events, however the run ends (DESIGN §9, invariant 6), so this is where cost
enters a run. What the provider reports itself counts: its adapter puts it on the event as `cost_usd`, for the tokens of
that event alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from asm_core.domain.event import Event, EventType
from asm_core.domain.pricing import usd
from asm_core.pipeline.context import RunContext


def add_cost(event: Event, ctx: RunContext) -> Iterable[Event]:
    """The event with `cost_usd`; as it is when it has one, or when nobody knows the model's price."""
    if event.type is EventType.RUN_STARTED:
        _remember_model(event, ctx)
    if event.type is not EventType.TOKEN_USAGE_UPDATED or event.data.get("cost_usd") is not None:
        return (event,)
    nanos = ctx.prices.cost_nanos(event.data, event.provider, ctx.model)
    if nanos is None:
        return (event,)
    return (replace(event, data={**event.data, "cost_usd": usd(nanos)}),)


def _remember_model(event: Event, ctx: RunContext) -> None:
    """The model that the provider says it uses may be another than the one it was asked for, or none was asked for."""
    model = event.data.get("model")
    if isinstance(model, str) and model:
        ctx.model = model

"""
Prices from the `genai-prices` package, for models that our own table does not name.

Its data come with the package and are read in memory: no call here uses the network (its updater is never started).
Importing it takes a while; whoever prices runs imports this module when the process starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from decimal import Decimal
from typing import Any

from genai_prices import Usage, calc_price
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import TieredPrices

from asm_core.domain.pricing import NANOS_PER_USD, PriceList, Rates, parse_price_table

VENDORS: Mapping[str, str] = {"anthropic": "anthropic", "claude": "anthropic", "openai": "openai", "codex": "openai"}
"""Who makes a provider's models; of other providers the model's name must say it."""


def price_list(overrides: object) -> PriceList:
    """
    All prices in force.

    Args:
        overrides: a price table as plain JSON (see `parse_price_table`), asked before all others: the setting
            `pricing_table`, or a caller's own.

    Raises:
        AsmError: `validation_error`.
    """
    return PriceList(parse_price_table(overrides), catalogue_rates)


def catalogue_rates(provider: str, model: str, input_tokens: int) -> Rates | None:
    """A `Catalogue`: today's prices; None for an unknown model, and for one that is not paid by the token."""
    try:
        found = calc_price(Usage(), model, provider_id=VENDORS.get(provider))
    except LookupError:
        return None
    prices = found.model_price
    per_input = _at(prices.input_mtok, input_tokens)
    if per_input is None:
        return None
    return Rates.per_million(
        per_input,
        _at(prices.output_mtok, input_tokens) or Decimal(0),
        _at(prices.cache_read_mtok, input_tokens),
        _at(prices.cache_write_mtok, input_tokens),
    )


def priced_models(provider: str, prices: PriceList) -> list[dict[str, Any]]:
    """The models of a provider that are paid by the token: `{id, usd_per_million_tokens}`, by these prices."""
    vendor = next((known for known in get_snapshot().providers if known.id == VENDORS.get(provider)), None)
    found = ((model.id, prices.rates(provider, model.id)) for model in (vendor.models if vendor else ()))
    return [{"id": id, "usd_per_million_tokens": _usd(rates)} for id, rates in found if rates and rates.output]


def _usd(rates: Rates) -> dict[str, float]:
    return {name: nanos / NANOS_PER_USD for name, nanos in asdict(rates).items() if nanos is not None}


def _at(price: Decimal | TieredPrices | None, input_tokens: int) -> Decimal | None:
    """The price per million tokens in a request of that size: the last tier below it holds for the whole of it."""
    if not isinstance(price, TieredPrices):
        return price
    reached = [tier.price for tier in price.tiers if input_tokens > tier.start]
    return reached[-1] if reached else price.base

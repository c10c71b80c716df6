"""
What tokens cost: prices by provider and model, and the rule by which a model finds its price.

Units. Money is whole nano-dollars (1e-9 USD: the nine decimals that a run's row keeps). A price is whole nano-dollars
per million tokens, so that every price in use is a whole number, $0.0375 per million too (37_500_000). A cost is exact
until it is rounded, once per usage, to the nearest nano-dollar, halves up; where a token costs whole nano-dollars, as
with every built-in price, there is nothing to round. Floats (USD) stand at the edges only: price tables as people write
them (USD per token) and `usd` for JSON.

Token counts do not overlap: `input_tokens` excludes what was read from or written to a cache. Adapters see to that.

No price is no error: a usage that nobody can price costs None, never 0.

Source: spec/01 §14, §15; DESIGN §9 (6).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, TypeGuard

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.run import Run

NANOS_PER_USD = 1_000_000_000
MILLION = 1_000_000

MAX_USD_PER_TOKEN = 1_000
"""No price is higher; it keeps every cost within what a float can hold."""
MAX_COUNT = 2**63 - 1
"""What claims to be more tokens is no count."""

DATE = re.compile(r"[-@:](\d{8}|\d{4}-\d{2}-\d{2}|\d{4}|latest)(-v\d+(:\d+)?)?$")
"""What may follow a model's name without making it another model: `-20251001`, `-2024-08-06`, `@latest`."""


def _nanos(dollars: Decimal | str) -> int:
    return round(Decimal(dollars) * NANOS_PER_USD)


@dataclass(frozen=True, slots=True)
class Rates:
    """The prices of one model, in nano-dollars per million tokens."""

    input: int
    output: int
    cache_read: int | None = None
    """None: as `input`."""
    cache_creation: int | None = None
    """None: as `input`."""

    @classmethod
    def per_million(
        cls,
        input: Decimal | str,
        output: Decimal | str,
        cache_read: Decimal | str | None = None,
        cache_creation: Decimal | str | None = None,
    ) -> Rates:
        """From USD per million tokens, as vendors quote their prices."""
        return cls(
            input=_nanos(input),
            output=_nanos(output),
            cache_read=None if cache_read is None else _nanos(cache_read),
            cache_creation=None if cache_creation is None else _nanos(cache_creation),
        )

    def cost_nanos(self, usage: Mapping[str, Any]) -> int:
        """The cost of a usage, or of the sum of several; its keys are those of `token_usage_updated`."""
        cache_read = self.input if self.cache_read is None else self.cache_read
        cache_creation = self.input if self.cache_creation is None else self.cache_creation
        millionfold = (
            count_of(usage, "input_tokens") * self.input
            + count_of(usage, "output_tokens") * self.output
            + count_of(usage, "cache_read_tokens") * cache_read
            + count_of(usage, "cache_creation_tokens") * cache_creation
        )
        return (millionfold + MILLION // 2) // MILLION


@dataclass(frozen=True, slots=True)
class ProviderPrices:
    """What one provider's models cost."""

    default: Rates | None = None
    """For models without a price of their own, and where the model is not known."""
    models: Mapping[str, Rates] = field(default_factory=dict)

    def named(self, model: str | None) -> Rates | None:
        """The price of a model under its name, or under the part of it before a date: `o3-pro` is not an `o3`."""
        if not model:
            return None
        return self.models.get(model) or self.models.get(DATE.sub("", model))


PriceTable = Mapping[str, ProviderPrices]
"""By provider."""

_usd = Rates.per_million
BUILT_IN: PriceTable = {
    "claude": ProviderPrices(
        default=_usd("3", "15"),
        models={
            "claude-opus-4-6": _usd("15", "75", "1.5", "18.75"),
            "claude-sonnet-4-5": _usd("3", "15", "0.3", "3.75"),
            "claude-haiku-4-5": _usd("0.8", "4", "0.08", "1"),
        },
    ),
    "codex": ProviderPrices(
        default=_usd("3", "15"),
        models={
            "o3": _usd("10", "40"),
            "o3-mini": _usd("1.1", "4.4"),
            "gpt-4o": _usd("2.5", "10"),
            "gpt-4o-mini": _usd("0.15", "0.6"),
        },
    ),
    "amp": ProviderPrices(default=_usd("3", "15")),
}

DEFAULT_MODELS: Mapping[str, str] = {
    "claude": "claude-haiku-4-5-20251001",
    "anthropic": "claude-haiku-4-5-20251001",
    "openai": "gpt-5-mini",
}
"""What a provider is asked for when nobody names a model; the others pick one themselves."""

Catalogue = Callable[[str, str, int], Rates | None]
"""
A larger collection of prices: those of a provider's model for one request with that many input tokens (long requests
may cost more per token), or None.
"""


@dataclass(frozen=True, slots=True)
class PriceList:
    """
    All prices in force; the one source for a run's cost, for cost limits and for summaries.

    Where several know a model's price the first one counts: `overrides`; the built-in table, by the model's name; the
    `catalogue`; the provider's built-in default.
    """

    overrides: PriceTable = field(default_factory=dict)
    catalogue: Catalogue | None = None

    def rates(self, provider: str | None, model: str | None, *, input_tokens: int = 0) -> Rates | None:
        """
        A model's prices; None where nobody knows them (`no_rates`).

        Args:
            input_tokens: of the one request that is priced, cached ones included; 0 for a sum over several requests.
        """
        if provider is None:
            return None
        built_in = BUILT_IN.get(provider, ProviderPrices())
        return (
            resolve_rates(provider, model, self.overrides)
            or built_in.named(model)
            or (self.catalogue(provider, model, input_tokens) if self.catalogue and model else None)
            or built_in.default
        )

    def cost_nanos(self, usage: Mapping[str, Any], provider: str | None, model: str | None) -> int | None:
        """The cost of one request's usage; None where there is no price."""
        inputs = ("input_tokens", "cache_read_tokens", "cache_creation_tokens")
        rates = self.rates(provider, model, input_tokens=sum(count_of(usage, key) for key in inputs))
        return rates.cost_nanos(usage) if rates else None

    def price_of(self, provider: str | None, model: str | None, usage: Mapping[str, Any]) -> Decimal | None:
        """The cost of a sum over several requests in exact dollars; None where there is no price."""
        rates = self.rates(provider, model)
        return Decimal(rates.cost_nanos(usage)) / NANOS_PER_USD if rates else None


def resolve_rates(provider: str | None, model: str | None, table: PriceTable) -> Rates | None:
    """The price of a model by one table alone: its own or the provider's default; None where it says nothing."""
    prices = table.get(provider) if provider is not None else None
    return prices.named(model) or prices.default if prices else None


def run_cost_nanos(run: Run, prices: PriceList) -> int | None:
    """What a run's tokens cost at these prices, whatever cost it carries; None where there is no price."""
    used, asked = run.provider_metadata.get("model"), run.options.model if run.options else None
    rates = prices.rates(run.provider, used if isinstance(used, str) else asked)
    return rates.cost_nanos(run.token_usage) if rates else None


def usd(nanos: int) -> float:
    """Dollars for JSON; as decimal text exact up to a million dollars."""
    return nanos / NANOS_PER_USD


def count_of(usage: Mapping[str, Any], key: str) -> int:
    """A token count, fractions cut off; 0 for what is missing, negative or no count."""
    value = usage.get(key)
    return int(value) if _is_within(value, MAX_COUNT) else 0


def default_model(provider: str) -> str | None:
    """The model a provider is asked for when nobody names one; None: it picks one itself."""
    return DEFAULT_MODELS.get(provider)


def model_names(table: PriceTable = BUILT_IN) -> list[str]:
    """The models that a table names, sorted."""
    return sorted({name for prices in table.values() for name in prices.models})


def parse_price_table(value: object) -> PriceTable:
    """
    A price table from plain JSON, in USD per token.

    Args:
        value: `{provider: {"default": rates?, "models": {model: rates}?}}` with rates
            `{"input", "output", "cache_read"?, "cache_creation"?}`. The older `{provider: rates}` is read as that
            provider's default.

    Raises:
        AsmError: `validation_error`, naming the place and what is wrong there.
    """
    entries = _mapping(value, "the price table")
    return {str(provider): _provider_prices(entry, str(provider)) for provider, entry in entries.items()}


def _provider_prices(value: object, where: str) -> ProviderPrices:
    entry = _mapping(value, where)
    if "input" in entry or "output" in entry:
        return ProviderPrices(default=_rates(entry, where))
    _only(entry, ("default", "models"), where)
    default = entry.get("default")
    models = _mapping(entry.get("models") or {}, f"{where}.models")
    return ProviderPrices(
        default=None if default is None else _rates(default, f"{where}.default"),
        models={str(name): _rates(rates, f"{where}.models.{name}") for name, rates in models.items()},
    )


def _rates(value: object, where: str) -> Rates:
    given = _mapping(value, where)
    _only(given, Rates.__slots__, where)
    prices = {name: price for name, price in given.items() if price is not None}
    if missing := [name for name in ("input", "output") if name not in prices]:
        raise _invalid(where, f"lacks {' and '.join(missing)}")
    return Rates.per_million(**{name: _usd_per_million(price, f"{where}.{name}") for name, price in prices.items()})


def _usd_per_million(per_token: object, where: str) -> Decimal:
    if not _is_within(per_token, MAX_USD_PER_TOKEN):
        raise _invalid(where, f"must be a number of USD per token from 0 to {MAX_USD_PER_TOKEN}, not {per_token!r}")
    return Decimal(str(per_token)) * MILLION


def _is_within(value: object, most: int) -> TypeGuard[int | float]:
    """A number from 0 to `most`; NaN is not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= most


def _mapping(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _invalid(where, f"must be a mapping, not {type(value).__name__}")
    return value


def _only(given: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    if unknown := sorted(str(key) for key in given if key not in known):
        raise _invalid(where, f"has no {', '.join(unknown)}; known: {', '.join(known)}")


def _invalid(where: str, problem: str) -> AsmError:
    return AsmError(ErrorCode.VALIDATION_ERROR, f"pricing: {where} {problem}", details={"field": where})

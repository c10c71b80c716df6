"""What tokens cost: the built-in prices, finding a model's price, exact sums, tables from outside, the catalogue."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest

from asm_core.domain.errors import AsmError
from asm_core.domain.lifecycle import RunStatus
from asm_core.domain.pricing import (
    BUILT_IN,
    PriceList,
    Rates,
    default_model,
    model_names,
    parse_price_table,
    resolve_rates,
    run_cost_nanos,
    usd,
)
from asm_core.domain.run import RunOptions
from asm_core.model_prices import catalogue_rates, price_list
from tests.builders import a_run

MILLION_EACH = {"input_tokens": 1_000_000, "output_tokens": 1_000_000}
MINE = {"claude": {"models": {"claude-haiku-4-5": {"input": 0.1, "output": 0.2}}}}


def cost_usd(
    usage: Mapping[str, Any], provider: str | None, model: str | None, prices: PriceList | None = None
) -> float | None:
    nanos = (prices or PriceList()).cost_nanos(usage, provider, model)
    return None if nanos is None else usd(nanos)


def per_million(provider: str | None, model: str | None, prices: PriceList | None = None) -> float | None:
    """What a million tokens each way cost."""
    return cost_usd(MILLION_EACH, provider, model, prices)


def refusal(value: object) -> AsmError:
    with pytest.raises(AsmError) as caught:
        parse_price_table(value)
    assert caught.value.code == "validation_error"
    return caught.value


# Models and their built-in prices


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("claude", "claude-haiku-4-5-20251001"),
        ("anthropic", "claude-haiku-4-5-20251001"),
        ("openai", "gpt-5-mini"),
        ("codex", None),
        ("amp", None),
        ("unheard-of", None),
    ],
)
def test_the_model_asked_for_when_nobody_names_one(provider: str, model: str | None) -> None:
    """spec/01 check 229."""
    assert default_model(provider) == model


def test_all_models_that_have_a_price() -> None:
    """spec/01 check 230: the names, sorted."""
    assert model_names() == [
        "claude-haiku-4-5", "claude-opus-4-6", "claude-sonnet-4-5", "gpt-4o", "gpt-4o-mini", "o3", "o3-mini",
    ]  # fmt: skip
    assert model_names(parse_price_table(MINE)) == ["claude-haiku-4-5"]


@pytest.mark.parametrize(
    ("provider", "model", "input", "output", "cache_read", "cache_creation"),
    [
        ("claude", None, 3.0, 15.0, None, None),
        ("claude", "claude-opus-4-6", 15.0, 75.0, 1.5, 18.75),
        ("claude", "claude-sonnet-4-5", 3.0, 15.0, 0.3, 3.75),
        ("claude", "claude-haiku-4-5", 0.8, 4.0, 0.08, 1.0),
        ("codex", None, 3.0, 15.0, None, None),
        ("codex", "o3", 10.0, 40.0, None, None),
        ("codex", "o3-mini", 1.1, 4.4, None, None),
        ("codex", "gpt-4o", 2.5, 10.0, None, None),
        ("codex", "gpt-4o-mini", 0.15, 0.6, None, None),
        ("amp", None, 3.0, 15.0, None, None),
    ],
)
def test_the_built_in_prices(
    provider: str, model: str | None, input: float, output: float, cache_read: float, cache_creation: float
) -> None:
    """spec/01 check 230: USD per million tokens; without a price of its own a cached token costs what an input does."""
    assert cost_usd({"input_tokens": 1_000_000}, provider, model) == input
    assert cost_usd({"output_tokens": 1_000_000}, provider, model) == output
    assert cost_usd({"cache_read_tokens": 1_000_000}, provider, model) == (cache_read or input)
    assert cost_usd({"cache_creation_tokens": 1_000_000}, provider, model) == (cache_creation or input)


# Finding a price


@pytest.mark.parametrize(
    ("provider", "model", "found"),
    [
        ("codex", "o3-mini", 5.5),
        ("codex", "o3-mini-2025-01-31", 5.5),
        ("codex", "gpt-4o-mini-2024-07-18", 0.75),
        ("claude", "claude-haiku-4-5-20251001", 4.8),
        ("claude", "claude-haiku-4-5@20251001", 4.8),
        ("claude", "claude-haiku-4-5-20251001-v1:0", 4.8),
        ("claude", "claude-haiku-4-5-latest", 4.8),
        ("claude", None, 18.0),
        ("claude", "", 18.0),
        ("claude", "claude-next", 18.0),
        ("codex", "gpt-5.3-codex", 18.0),
        ("unheard-of", "o3", None),
        (None, "o3", None),
        ("", None, None),
    ],
)
def test_a_model_is_priced_by_its_name_its_dated_name_or_its_provider(
    provider: str | None, model: str | None, found: float | None
) -> None:
    """spec/01 checks 231, 234: exact, the longest known name before a date, the provider's default, no price."""
    assert per_million(provider, model) == found


@pytest.mark.parametrize("model", ["o3-pro", "o30", "o3-mini-high", "o3-9", "o3.1", "o3-2025-01-31-turbo"])
def test_another_model_whose_name_begins_alike_is_another_model(model: str) -> None:
    """A prefix is enough for dated ids only: `o3-pro` costs twice what `o3` does."""
    table = parse_price_table({"codex": {"models": {"o3": {"input": 1, "output": 1}}}})
    assert resolve_rates("codex", model, table) is None


def test_a_dated_name_with_a_price_of_its_own_keeps_it() -> None:
    names = {"m": {"input": 1, "output": 1}, "m-2024-05-13": {"input": 2, "output": 2}}
    table = parse_price_table({"p": {"models": names}})
    assert resolve_rates("p", "m-2024-05-13", table) == Rates.per_million("2000000", "2000000")
    assert resolve_rates("p", "m-2024-08-06", table) == Rates.per_million("1000000", "1000000")


def test_a_table_may_know_models_and_no_default() -> None:
    table = parse_price_table(MINE)
    assert resolve_rates("claude", "claude-haiku-4-5", table) is not None
    assert resolve_rates("claude", "claude-opus-4-6", table) is None
    assert resolve_rates("claude", None, table) is None


# Costs


def test_a_cost_is_the_sum_of_its_four_parts() -> None:
    """spec/01 checks 231, 232."""
    usage = {"input_tokens": 1_000, "output_tokens": 500, "cache_read_tokens": 2_000, "cache_creation_tokens": 100}
    cached = PriceList().cost_nanos(usage, "claude", "claude-sonnet-4-5")
    assert cached == 1_000 * 3_000 + 500 * 15_000 + 2_000 * 300 + 100 * 3_750
    plain = PriceList().cost_nanos(usage, "codex", "o3")
    assert plain == (1_000 + 2_000 + 100) * 10_000 + 500 * 40_000


def test_a_cache_that_costs_nothing_is_not_charged_as_input() -> None:
    free = Rates.per_million("1", "1", "0", "0")
    assert free.cost_nanos({"cache_read_tokens": 5, "cache_creation_tokens": 5}) == 0


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({}, 0),
        ({"input_tokens": 0, "output_tokens": 0}, 0),
        ({"output_tokens": None}, 0),
        ({"input_tokens": -5}, 0),
        ({"input_tokens": "7"}, 0),
        ({"input_tokens": True}, 0),
        ({"input_tokens": float("nan")}, 0),
        ({"input_tokens": float("inf")}, 0),
        ({"input_tokens": 1e300}, 0),
        ({"input_tokens": 10**400}, 0),
        ({"input_tokens": 7.9}, 7),
        ({"input_tokens": 7, "total_tokens": 99, "thoughts": "many"}, 7),
    ],
)
def test_what_is_no_count_costs_nothing(usage: dict[str, Any], tokens: int) -> None:
    """spec/01 check 233; total_tokens repeats the others."""
    assert PriceList().cost_nanos(usage, "codex", "o3") == tokens * 10_000


def test_sums_of_costs_are_exact() -> None:
    """In floats a thousand of these add up to 0.15000000000000113."""
    one = PriceList().cost_nanos({"input_tokens": 1_000}, "codex", "gpt-4o-mini")
    assert one is not None
    assert usd(one) == 0.00015
    assert usd(sum([one] * 1_000)) == 0.15


def test_only_fractions_of_a_nano_dollar_are_rounded() -> None:
    """Half up, once for the whole usage, not per token."""
    rates = Rates.per_million("0.0375", "0.0004")  # 37.5 and 0.4 nano-dollars a token
    assert rates == Rates(37_500_000, 400_000)
    assert [rates.cost_nanos({"input_tokens": count}) for count in (1, 2, 3)] == [38, 75, 113]
    assert [rates.cost_nanos({"output_tokens": count}) for count in (1, 2, 5)] == [0, 1, 2]


@pytest.mark.parametrize("nanos", [0, 1, 10, 123_456_789, 10**9 + 1, 10**15 - 1])
def test_dollars_as_text_keep_every_nano_dollar(nanos: int) -> None:
    """What a float becomes in JSON is what Postgres reads as an exact decimal."""
    assert Decimal(repr(usd(nanos))) * 10**9 == nanos


def test_the_highest_price_and_the_highest_counts_are_still_a_number() -> None:
    dearest = parse_price_table({"p": {"input": 1_000, "output": 1_000}})
    kinds = ["input_tokens", "output_tokens", "cache_read_tokens", "cache_creation_tokens"]
    usage = dict.fromkeys(kinds, 2**63 - 1)
    assert cost_usd(usage, "p", None, PriceList(dearest)) == pytest.approx(4 * 2**63 * 1_000)


# A run's cost


def test_a_run_is_priced_by_its_provider_its_model_and_its_tokens() -> None:
    """spec/01 check 234: the model that the provider named, else the one asked for."""
    run = a_run(
        RunStatus.FAILED,
        provider="codex",
        options=RunOptions(provider="codex", model="o3"),
        provider_metadata={"model": "gpt-4o"},
        token_usage={"input_tokens": 1_000_000},
        cost_usd=99.0,
    )
    assert run_cost_nanos(run, PriceList()) == 2_500_000_000, "whatever cost it carries"
    for unnamed in ({}, {"model": None}, {"model": ["gpt-4o"]}):
        asked = a_run(provider="codex", options=run.options, provider_metadata=unnamed, token_usage=run.token_usage)
        assert run_cost_nanos(asked, PriceList()) == 10_000_000_000


@pytest.mark.parametrize("provider", [None, "unheard-of"])
def test_a_run_of_no_or_an_unknown_provider_has_no_price(provider: str | None) -> None:
    """spec/01 check 234."""
    run = a_run(provider=provider, options=None, token_usage={"input_tokens": 5})
    assert run_cost_nanos(run, PriceList()) is None


def test_stored_and_computed_costs_add_up_and_what_has_no_price_is_counted() -> None:
    """spec/01 check 236, the calculation: 12.5 stored and 2.0 computed."""
    prices = PriceList(parse_price_table({"claude": {"models": {"model-a": {"input": 0.1, "output": 0.2}}}}))
    usage = {"input_tokens": 10, "output_tokens": 5}
    stored = a_run(provider="claude", provider_metadata={"model": "model-b"}, cost_usd=12.5)
    computed = a_run(provider="claude", provider_metadata={"model": "model-a"}, token_usage=usage)
    unpriced = a_run(provider="elsewhere", token_usage=usage)
    found = [run_cost_nanos(run, prices) for run in (computed, unpriced)]
    assert found == [2_000_000_000, None]
    assert (stored.cost_usd or 0) + usd(found[0] or 0) == 14.5


def test_a_sum_over_requests_is_priced_as_many_short_ones() -> None:
    """A long request may cost more per token; many short ones that add up to as much do not."""
    long = 1_000_000
    prices = PriceList(catalogue=lambda _provider, _model, tokens: Rates(1, 1) if tokens < long else Rates(2, 2))
    usage = {"input_tokens": long}
    run = a_run(provider="anthropic", provider_metadata={"model": "m"}, token_usage=usage)
    assert (prices.cost_nanos(usage, "anthropic", "m"), run_cost_nanos(run, prices)) == (2, 1)


def test_cached_tokens_count_for_a_requests_length() -> None:
    asked: list[int] = []
    prices = PriceList(catalogue=lambda _provider, _model, tokens: asked.append(tokens))
    usage = {"input_tokens": 1, "cache_read_tokens": 20, "cache_creation_tokens": 300, "output_tokens": 4_000}
    assert prices.cost_nanos(usage, "anthropic", "m") is None
    assert asked == [321]


# Tables from outside


def test_a_table_is_read_in_dollars_per_token() -> None:
    """spec/01 §14: the shape in which people write it; spec/01 check 235: a structured table keeps its structure."""
    rates = {"input": 0.000003, "output": 1.5e-05, "cache_read": 3e-07, "cache_creation": None}
    table = parse_price_table({"p": {"default": rates, "models": {"m": {"input": 1, "output": 0}}}, "q": {}})
    assert table["p"].default == Rates.per_million("3", "15", "0.3")
    assert table["p"].models == {"m": Rates.per_million("1000000", "0")}
    assert (table["q"].default, table["q"].models) == (None, {})


def test_the_older_flat_form_is_a_providers_default() -> None:
    """spec/01 check 235; entry by entry, so one structured entry does not hide a flat one."""
    flat = {"input": 0.000003, "output": 0.000015}
    structured = {"default": flat}
    assert parse_price_table({"p": flat, "q": flat}) == parse_price_table({"p": structured, "q": structured})
    assert parse_price_table({"p": flat, "q": structured}) == parse_price_table({"p": structured, "q": structured})


@pytest.mark.parametrize(
    ("table", "where"),
    [
        (None, "the price table"),
        ([], "the price table"),
        ({"p": 5}, "p"),
        ({"p": {"input": 1}}, "p"),
        ({"p": {"input": None, "output": 1}}, "p"),
        ({"p": {"modles": {}}}, "p"),
        ({"p": {"default": 5}}, "p.default"),
        ({"p": {"default": {"input": 1, "output": 1, "cache_raed": 1}}}, "p.default"),
        ({"p": {"models": ["m"]}}, "p.models"),
        ({"p": {"models": {"m": {"output": 1}}}}, "p.models.m"),
        ({"p": {"models": {"m": {"input": "1", "output": 1}}}}, "p.models.m.input"),
        ({"p": {"models": {"m": {"input": True, "output": 1}}}}, "p.models.m.input"),
        ({"p": {"input": 1, "output": 1, "cache_read": -1}}, "p.cache_read"),
        ({"p": {"input": 1, "output": float("nan")}}, "p.output"),
        ({"p": {"input": 1, "output": float("inf")}}, "p.output"),
        ({"p": {"input": 1, "output": 1_001}}, "p.output"),
        ({"p": {"input": 1, "output": 10**400}}, "p.output"),
    ],
)
def test_a_table_that_is_wrong_is_refused_where_it_is_wrong(table: object, where: str) -> None:
    """A price that cannot be read would otherwise be a cost that silently is not there."""
    error = refusal(table)
    assert error.details == {"field": where}
    assert where in error.message


# All prices together


def test_the_cost_of_a_sum_is_told_in_exact_dollars() -> None:
    """What queries price runs by; None where there is no price."""
    prices = price_list(MINE)
    assert prices.price_of("claude", "claude-haiku-4-5", {"input_tokens": 3, "output_tokens": 1}) == Decimal("0.5")
    assert prices.price_of("in-house", None, MILLION_EACH) is None


def test_own_prices_go_before_all_others() -> None:
    prices = price_list(MINE)
    assert per_million("claude", "claude-haiku-4-5-20251001", prices) == 300_000.0
    assert per_million("claude", "claude-opus-4-6", prices) == per_million("claude", "claude-opus-4-6")
    assert per_million("codex", "o3", prices) == per_million("codex", "o3")


def test_an_own_price_for_a_provider_holds_for_all_its_models() -> None:
    """Built-in and catalogue prices of single models would not be what was agreed on."""
    prices = price_list({"claude": {"input": 0.000001, "output": 0.000001}})
    for model in (None, "claude-opus-4-6", "claude-opus-4-5", "claude-next"):
        assert per_million("claude", model, prices) == 2.0


def test_the_catalogue_knows_what_the_table_does_not_name() -> None:
    prices = price_list({})
    assert per_million("claude", "claude-opus-4-5-20251101", prices) == 30.0
    assert per_million("codex", "gpt-5", prices) == 11.25
    assert per_million("anthropic", "claude-opus-4-5", prices) == 30.0
    assert per_million("openai", "gpt-5", prices) == 11.25
    assert per_million("amp", "claude-opus-4-5", prices) == 30.0
    assert per_million("scripted", "gpt-5", prices) == 11.25


def test_the_table_goes_before_the_catalogue() -> None:
    assert catalogue_rates("codex", "o3", 0) != BUILT_IN["codex"].models["o3"]
    assert price_list({}).rates("codex", "o3") == BUILT_IN["codex"].models["o3"]


def test_what_nobody_knows_costs_the_providers_default_or_has_no_price() -> None:
    prices = price_list({})
    assert per_million("claude", "gpt-5", prices) == 18.0, "not Anthropic's"
    assert per_million("claude", None, prices) == 18.0
    for provider, model in [("openai", "claude-opus-4-5"), ("scripted", "scripted"), ("scripted", None), ("shell", "")]:
        assert per_million(provider, model, prices) is None


def test_the_catalogue_prices_a_request_by_its_length() -> None:
    """Above 200,000 input tokens this model costs more, for all of them."""
    short, long = (catalogue_rates("anthropic", "claude-sonnet-4-5", tokens) for tokens in (200_000, 200_001))
    assert short == Rates.per_million("3", "15", "0.3", "3.75")
    assert long == Rates.per_million("6", "22.5", "0.6", "7.5")


def test_a_model_that_is_not_paid_by_the_token_has_no_price() -> None:
    """Speech by the second, pictures by the piece: what its tokens cost cannot be said."""
    assert catalogue_rates("openai", "whisper-1", 0) is None


def test_the_catalogue_uses_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    assert catalogue_rates("anthropic", "claude-haiku-4-5", 0) is not None
    assert catalogue_rates("anthropic", "unheard-of", 0) is None


def test_an_own_table_is_checked() -> None:
    with pytest.raises(AsmError, match="claude lacks output"):
        price_list({"claude": {"input": 1}})


def test_tables_are_values() -> None:
    table = parse_price_table(MINE)
    with pytest.raises(AttributeError):
        table["claude"].default = None  # type: ignore[misc]

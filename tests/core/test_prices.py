"""
Prices: which one a model has, and what a round's tokens come to.
"""

import pytest

from reconciler.core.adapter import Adapter, Budget, Output, Usage, overspent
from reconciler.core.prices import Price, price_of, reckon, unpriced_reason
from reconciler.specs.layers import builtin_adapters, builtin_prices

CHEAP = Price(input=1.0, cached_input=0.1, output=10.0)
DEAR = Price(input=100.0, output=1000.0)
TOKENS = Usage(input_tokens=1_000_000, cached_tokens=2_000_000, output_tokens=100_000)


@pytest.mark.parametrize(
    ("model", "price"),
    [
        ("flash", CHEAP),
        ("flash-2026-03-05", CHEAP),
        ("flash-20260305", CHEAP),
        ("flash-001", CHEAP),
        ("flash@20260305", CHEAP),
        ("vendor/flash", CHEAP),
        ("gateway/vendor/flash-2026-03-05", CHEAP),
        ("flash-4", DEAR),
        ("flash-4-2026-03-05", DEAR),
        ("flash-pro", None),
        ("flash-pro-2026-03-05", None),
        ("flash-5", None),
        ("flashy", None),
        ("fla", None),
        ("", None),
        (None, None),
    ],
)
def test_a_version_of_a_model_has_the_models_price_and_another_model_has_not(model, price):
    assert price_of(model, {"flash": CHEAP, "flash-4": DEAR}) == price


def test_a_version_with_a_price_of_its_own_has_that():
    assert price_of("flash-001", {"flash": CHEAP, "flash-001": DEAR}) == DEAR
    assert price_of("vendor/flash", {"flash": CHEAP, "vendor/flash": DEAR}) == DEAR


def test_tokens_are_priced_and_cached_ones_apart():
    usage = reckon(TOKENS, Adapter(name="cli"), ["flash"], {"flash": CHEAP})

    assert usage.cost_usd == usage.reckoned_usd == 1.0 + 0.2 + 1.0
    assert overspent(Budget(cost_usd=2), usage) == "budget spent: 2.2 of 2 US dollars"


def test_cached_tokens_cost_as_others_where_nothing_else_is_said():
    assert reckon(TOKENS, None, ["dear"], {"dear": DEAR}).cost_usd == 100 + 200 + 100


def test_what_a_cli_reports_stands():
    reports = Adapter(name="cli", output=Output(cost_usd="[-1].cost"))

    assert reckon(TOKENS, reports, ["flash"], {"flash": CHEAP}) == TOKENS
    paid = TOKENS.model_copy(update={"cost_usd": 0.5})
    assert reckon(paid, None, ["flash"], {"flash": CHEAP}) == paid


def test_a_model_without_a_price_is_not_for_nothing():
    usage = reckon(TOKENS, None, ["new", None], {"flash": CHEAP})

    assert (usage.cost_usd, usage.unpriced_tokens) == (0, 3_100_000)
    assert unpriced_reason(usage, "new") == (
        "3100000 tokens of model new have no price and are in no budget of US dollars"
    )
    assert unpriced_reason(reckon(Usage(), None, [None], {}), None) is None


def test_the_model_that_a_cli_names_counts_before_that_of_the_task():
    prices = {"flash": CHEAP, "other": DEAR}

    assert reckon(TOKENS, None, ["other", "flash"], prices).cost_usd == 400
    assert reckon(TOKENS, None, ["auto", "flash"], prices).cost_usd == 2.2


def test_sums_keep_what_was_reckoned_apart():
    reckoned = reckon(TOKENS, None, ["flash"], {"flash": CHEAP})
    unpriced = reckon(TOKENS, None, ["new"], {})
    both = reckoned + unpriced + Usage(cost_usd=1.0)

    assert (both.cost_usd, both.reckoned_usd, both.unpriced_tokens) == (3.2, 2.2, 3_100_000)
    assert both - unpriced - Usage(cost_usd=1.0) == reckoned


def test_the_built_in_table_has_a_day_and_every_model_once():
    prices = builtin_prices()

    assert prices.date
    assert all(price.input <= price.output for price in prices.models.values())
    assert all((price.cached_input or 0) <= price.input for price in prices.models.values())


def test_every_built_in_adapter_reports_money_or_tokens_or_neither():
    silent = {
        name
        for name, adapter in builtin_adapters().items()
        if not adapter.output.cost_usd and not adapter.output.input_tokens
    }

    assert silent == {"script", "copilot", "kimi"}  # these two tell nothing of what they use

"""
Prices: what tokens cost, for CLIs that count tokens and report no money.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Annotated

from pydantic import Field

from reconciler.core.adapter import Adapter, Usage
from reconciler.core.fields import Frozen, Text

PRICES_FILE = "specs/prices.yaml"

Dollars = Annotated[float, Field(ge=0, le=10**6)]
"""US dollars for a million tokens."""


class Price(Frozen):
    """What a million tokens of a model cost, in US dollars."""

    input: Dollars
    """Input tokens that came from no cache."""
    cached_input: Dollars | None = None
    """Input tokens that came from a cache; as other ones, if left out."""
    output: Dollars
    """Output tokens, those of thoughts among them."""


class PricesSpec(Frozen):
    """What models cost. `specs/prices.yaml`, laid over the built-in table model by model."""

    date: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d$")] | None = None
    """Day that the prices are of, such as `"2026-11-01"`: for people."""
    models: dict[Text, Price] = Field(default_factory=dict)
    """Price by model: `{gpt-5.4: {input: 2.5, cached_input: 0.25, output: 15}}`."""


_VERSION = re.compile(r"[-@:](\d{4}|\d{3}\Z)")
"""Beginning of what follows the name of a model in that of one of its versions: a date, or a number."""

MILLION = 1_000_000


def price_of(model: str | None, prices: Mapping[str, Price]) -> Price | None:
    """
    Return the price of a model; None if it has none.

    The price under its whole name counts; else that of the longest name it is a
    version of (`gpt-5.4-2026-03-05` of `gpt-5.4`, `gemini-2.0-flash-001` of
    `gemini-2.0-flash`); else, without the provider before the last `/`, the same again.
    """
    if model is None:
        return None
    if price := prices.get(model):
        return price
    bases = [model[: match.start()] for match in _VERSION.finditer(model)]
    priced = next((prices[base] for base in reversed(bases) if base in prices), None)
    _, slash, name = model.rpartition("/")
    return priced or (price_of(name, prices) if slash else None)


def reckon(
    usage: Usage, adapter: Adapter | None, models: Iterable[str | None], prices: Mapping[str, Price]
) -> Usage:
    """
    Return what a round took, with its tokens priced if its CLI reports no money.

    `models` are names of its model, the most exact first. Tokens of a model without
    a price are counted as `unpriced_tokens`, never as costing nothing.
    """
    tokens = usage.input_tokens + usage.cached_tokens + usage.output_tokens
    if usage.cost_usd or not tokens or reports_money(adapter):
        return usage
    price = next((price for model in models if (price := price_of(model, prices))), None)
    if price is None:
        return usage.model_copy(update={"unpriced_tokens": tokens})
    cost = _cost(usage, price)
    return usage.model_copy(update={"cost_usd": cost, "reckoned_usd": cost})


def reports_money(adapter: Adapter | None) -> bool:
    """Return whether an adapter has a rule for money: then what it finds stands."""
    return adapter is not None and adapter.output.cost_usd is not None


def unpriced_reason(usage: Usage, model: str | None) -> str | None:
    """Return, as text, that tokens of a round have no price; None if all have."""
    if not usage.unpriced_tokens:
        return None
    whose = f"model {model}" if model else "a model that nobody named"
    return f"{usage.unpriced_tokens} tokens of {whose} have no price and are in no budget of US dollars"


def _cost(usage: Usage, price: Price) -> float:
    cached = price.input if price.cached_input is None else price.cached_input
    dollars = (
        usage.input_tokens * price.input + usage.cached_tokens * cached + usage.output_tokens * price.output
    )
    return round(dollars / MILLION, 6)

"""
Costs: what rounds took, summed up by task, repo, adapter, account, host, day or model.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import NamedTuple, Protocol

from reconciler.core.adapter import Usage
from reconciler.core.times import format_time


class Spent(Protocol):
    """What one round took."""

    @property
    def at(self) -> datetime:
        """When it was put on record."""

    @property
    def task(self) -> str:
        """Its task."""

    @property
    def repo(self) -> str | None:
        """Its code repository."""

    @property
    def adapter(self) -> str | None:
        """Its agent's CLI."""

    @property
    def account(self) -> str | None:
        """Account whose credential it used; None for the adapter's own."""

    @property
    def host(self) -> str | None:
        """Where it ran."""

    @property
    def model(self) -> str | None:
        """Its model."""

    @property
    def usage(self) -> Usage:
        """Tokens, time and money."""

    @property
    def tries(self) -> int:
        """1 if a variant ended with it."""

    @property
    def wins(self) -> int:
        """1 if that was the one that was chosen."""


NONE = "-"
"""Stands for those without: a task without a repo, a run without a named model."""
KEYS: Mapping[str, Callable[[Spent], str | None]] = {
    "task": lambda spent: spent.task,
    "repo": lambda spent: spent.repo,
    "adapter": lambda spent: spent.adapter,
    "account": lambda spent: spent.account,
    "host": lambda spent: spent.host,
    "day": lambda spent: format_time(spent.at)[:10],
    "model": lambda spent: spent.model,
}
"""What sums can be made by; days are those of UTC."""

Sums = Mapping[str, Usage]


def sums_by_name(spent: Iterable[Spent], by: str) -> Sums:
    """Return sums by name, the dearest first; days in their order."""
    sums: dict[str, Usage] = {}
    for each in spent:
        name = KEYS[by](each) or NONE
        sums[name] = sums.get(name, Usage()) + each.usage
    order = sorted(sums) if by == "day" else sorted(sums, key=lambda name: (*_dearness(sums[name]), name))
    return {name: sums[name] for name in order}


class Contest(NamedTuple):
    """How often variants were tried, and how often chosen."""

    wins: int = 0
    tries: int = 0


def contests_by_name(spent: Iterable[Spent], by: str) -> Mapping[str, Contest]:
    """Return who won where: by name, of those that had variants."""
    contests: dict[str, Contest] = {}
    for each in spent:
        if each.tries:
            name = KEYS[by](each) or NONE
            wins, tries = contests.get(name, Contest())
            contests[name] = Contest(wins + each.wins, tries + each.tries)
    return contests


def _dearness(usage: Usage) -> tuple[float, int]:
    return -usage.cost_usd, -(usage.input_tokens + usage.output_tokens)


def total(sums: Sums) -> Usage:
    """Return the sum of the sums."""
    return sum(sums.values(), start=Usage())


def money(usage: Usage) -> str:
    """Return what was spent, as text: how much of it is reckoned, and what has no price."""
    reckoned = f" (reckoned: {usage.reckoned_usd:.2f})" if usage.reckoned_usd else ""
    unpriced = f" and {usage.unpriced_tokens:,} tokens without a price" if usage.unpriced_tokens else ""
    return f"{usage.cost_usd:.2f} USD{reckoned}{unpriced}"

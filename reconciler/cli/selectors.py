"""
Selectors of things by their labels: `gpu,!slow`, `team=web`.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import click


class Requirement(NamedTuple):
    """A label that a thing must have, or must not."""

    label: str
    is_wanted: bool

    def fits(self, labels: Collection[str]) -> bool:
        """Return whether labels are as required; `team` is had by `team=web` too."""
        has = any(each == self.label or each.partition("=")[0] == self.label for each in labels)
        return has == self.is_wanted


Selector = tuple[Requirement, ...]


def parse_selector(text: str) -> Selector:
    """Return what `gpu,!slow,team=web,stage!=test` requires: all of it. Raises ValueError."""
    return tuple(_requirement(word.strip()) for word in text.split(","))


def _requirement(word: str) -> Requirement:
    if " in (" in word or " notin " in word or word.endswith(")"):
        raise ValueError("sets of values cannot be asked for: write label=value, and call it once for each")
    key, unequal, value = word.partition("!=")
    if unequal and key:
        return Requirement(f"{key.strip()}={value.strip()}", is_wanted=False)
    label = word.removeprefix("!").replace("==", "=").strip()
    if not label:
        raise ValueError("a label is missing: write such as gpu, !gpu or team=web, with commas in between")
    return Requirement(label, is_wanted=not word.startswith("!"))


def selects(selectors: Sequence[Selector], labels: Collection[str]) -> bool:
    """Return whether labels are as all selectors require."""
    return all(each.fits(labels) for selector in selectors for each in selector)


class SelectorParam(click.ParamType[Selector]):
    """A selector on the command line."""

    name = "selector"

    def convert(
        self, value: str | Selector, param: click.Parameter | None, ctx: click.Context | None
    ) -> Selector:
        """Return what it requires."""
        if not isinstance(value, str):
            return value
        try:
            return parse_selector(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


selector_option = click.option(
    "-l",
    "--selector",
    "selectors",
    type=SelectorParam(),
    multiple=True,
    help="Only those with these labels, such as gpu,!slow or team=web; of agents, their capabilities.",
)

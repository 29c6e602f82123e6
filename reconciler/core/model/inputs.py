"""
Inputs of a decision that git does not have: what the choice of a host rested on beside specs and record.

They stand in the trailer `Decision-Inputs` of the commit that assigns a run, and `reconciler replay`
makes the decision again with them.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from reconciler.core.adapter import Usage

Spending = Mapping[str, Usage]
"""What was spent, by kind and name: `host/alpha`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionInputs:
    """What told the candidates of one decision apart, and is on neither branch."""

    load: Mapping[str, float] = field(default_factory=dict)
    """Load per core of the host that was chosen, and of those that would have been if they were idle."""
    floor: float | None = None
    """The least load of further such hosts, where there are too many to name."""
    half_open: tuple[str, ...] = ()
    """Those of `load` that get one run to see whether runs can start again."""
    kept: Mapping[str, str] = field(default_factory=dict)
    """Hosts whose free slots were kept for a task that takes several, and for which."""
    spent: Spending = field(default_factory=dict)
    """What was spent today of the daily budgets that count."""
    week: Spending = field(default_factory=dict)
    """What was spent since Monday of the weekly budgets that count."""
    capabilities: tuple[str, ...] = ()
    """Labels that the outside agent which got the task had then."""

    def __str__(self) -> str:
        """Return it as JSON in one line, without what is empty; an empty text for nothing at all."""
        values = {each.name: _plain(getattr(self, each.name)) for each in fields(self)}
        there = {name: value for name, value in values.items() if value not in (None, {}, [])}
        return json.dumps(there, separators=(",", ":"), ensure_ascii=True) if there else ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the inputs that a trailer holds. Raises ValueError."""
        values: dict[str, Any] = json.loads(text) if text else {}
        if not isinstance(values, dict) or values.keys() - {each.name for each in fields(cls)}:
            raise ValueError("these are no inputs of a decision")
        try:
            return cls(**{name: _READERS.get(name, _same)(value) for name, value in values.items()})
        except (TypeError, AttributeError) as error:
            raise ValueError(str(error)) from error


NO_INPUTS = DecisionInputs()
"""Nothing beside specs and record."""


def _same(value: Any) -> Any:
    return value


def _load(value: Any) -> Mapping[str, float]:
    return {str(host): float(load) for host, load in value.items()}


def _spending(value: Any) -> Spending:
    return {str(scope): Usage.model_validate(usage) for scope, usage in value.items()}


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "load": _load,
    "floor": float,
    "half_open": tuple,
    "kept": dict,
    "spent": _spending,
    "week": _spending,
    "capabilities": tuple,
}


def _plain(value: Any) -> Any:
    """Return a value as JSON has it."""
    if isinstance(value, Usage):
        return value.model_dump(exclude_defaults=True, exclude={"turns", "seconds"})
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    return list(value) if isinstance(value, tuple) else value

"""
Row: one measurement beside its floor or its peer, and the aim for it.
"""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypedDict, Unpack

AIMS = {"≤": float.__le__, "≥": float.__ge__}


class Beside(TypedDict, total=False):
    """What a row says beside its figure; see the fields of `Row`."""

    beside: str
    aim: str
    behind: str


class Skipped(Exception):
    """What a benchmark needs is not on this machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """
    One line of a benchmark.

    `ours` is a median, `low` and `high` are the quartiles around it, all in
    `unit`. `floor` is what it stands beside, in the same unit and from the same
    run: the least that the work can cost, another program, or a smaller fleet.
    """

    name: str
    unit: str
    ours: float
    low: float
    high: float
    floor: float | None = None
    beside: str = ""
    """What the floor is."""
    aim: str = ""
    """`≤ 1.2` or `≥ 20`: of the ratio where there is a floor, else of `ours`; empty if there is none."""
    behind: str = ""
    """Why the aim is missed, where it is."""

    @property
    def ratio(self) -> float | None:
        """Return `ours` for each unit of the floor."""
        return self.ours / self.floor if self.floor else None

    @property
    def is_met(self) -> bool:
        """Return whether the aim is met; true if there is none."""
        if not self.aim:
            return True
        sign, _, number = self.aim.partition(" ")
        value = self.ours if self.ratio is None else self.ratio
        return AIMS[sign](float(value), float(number.replace(",", "")))

    def to_json(self) -> dict[str, Any]:
        """Return the row for a JSON file, numbers in four digits, empty fields left out."""
        fields = {**asdict(self), "ratio": self.ratio}
        return {name: _short(value) for name, value in fields.items() if value not in (None, "")}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "Row":
        """Return the row that a JSON file holds."""
        return cls(**{name: value for name, value in document.items() if name != "ratio"})


def row(
    name: str,
    unit: str,
    ours: Sequence[float],
    floor: Sequence[float] = (),
    *,
    scale: float = 1,
    **more: Unpack[Beside],
) -> Row:
    """
    Return the row of samples, and of the samples of their floor, if there is one.

    `scale` brings the samples into `unit`.
    """
    samples = sorted(sample * scale for sample in ours)
    low, middle, high = statistics.quantiles(samples, method="inclusive") if len(samples) > 1 else samples * 3
    return Row(
        name=name,
        unit=unit,
        ours=middle,
        low=low,
        high=high,
        floor=statistics.median(floor) * scale if floor else None,
        **more,
    )


def number(value: float) -> str:
    """Return a figure as people read it: three digits that count, thousands set off."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _short(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value

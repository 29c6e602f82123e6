"""
Live figures as commands show them.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from reconciler.core.figures import LiveFigures
from reconciler.core.times import Age, format_time

if TYPE_CHECKING:
    from reconciler.cli.shapes import LiveShape


def live_text(figures: LiveFigures, age: Age) -> str:
    """Return how far a live run is, in a few words."""
    at = figures.last_output_at
    texts = (*count_texts(figures), f"last output {age(at)} ago" if at else "")
    return ", ".join(filter(None, texts))


def count_texts(figures: LiveFigures) -> Sequence[str]:
    """Return the turns and tokens of a live run in words, as far as its CLI tells them as it goes."""
    turns = f"{figures.turns} turn{'s' * (figures.turns != 1)}" if figures.turns is not None else ""
    kinds = (("in", figures.input_tokens), ("cached", figures.cached_tokens), ("out", figures.output_tokens))
    tokens = " + ".join(f"{count:,} {kind}" for kind, count in kinds if count is not None)
    return [text for text in (turns, f"tokens {tokens}" if tokens else "") if text]


def live_document(figures: LiveFigures) -> "LiveShape":
    """Return how far a live run is as `-o json` prints it."""
    return {
        "last_output_at": format_time(figures.last_output_at) if figures.last_output_at else None,
        "turns": figures.turns,
        "input_tokens": figures.input_tokens,
        "output_tokens": figures.output_tokens,
        "cached_tokens": figures.cached_tokens,
    }

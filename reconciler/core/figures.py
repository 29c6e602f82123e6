"""
Live figures: how far the round of a live run is, for who shows it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveFigures:
    """How far the round of a live run is: from where it is followed, never on record."""

    last_output_at: datetime | None = None
    """When it printed last."""
    turns: int | None = None
    """Turns so far. None here and below: its CLI does not tell as it goes."""
    input_tokens: int | None = None
    """Input tokens so far, cached ones not counted."""
    output_tokens: int | None = None
    """Output tokens so far."""
    cached_tokens: int | None = None
    """Input tokens so far that came from a cache."""

    @property
    def tokens(self) -> int | None:
        """Tokens so far as far as they are told, cached ones not counted."""
        counts = [count for count in (self.input_tokens, self.output_tokens) if count is not None]
        return sum(counts) if counts else None


FiguresOf = Callable[[str, int], LiveFigures | None]
"""Return how far a round of a run is; None where it is not followed, or has printed nothing."""

"""
Backoff: increasing waits after failures.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

RETRY = timedelta(seconds=1)
RETRY_CAP = timedelta(seconds=30)


@dataclass
class Backoff:
    """Exponential backoff after failures in a row; a success forgets them."""

    delay: timedelta = RETRY
    """How long to wait after the next failure."""
    until: datetime | None = None
    why: str = ""
    """The last failure; empty after a success."""

    def fail(self, why: str, now: datetime) -> timedelta:
        """Record a failure; return how long to wait."""
        wait, self.delay = self.delay, min(self.delay * 2, RETRY_CAP)
        self.until, self.why = now + wait, why
        return wait

    def succeed(self) -> None:
        """Forget the failures."""
        self.delay, self.until, self.why = RETRY, None, ""

    def remaining(self, now: datetime) -> timedelta:
        """Return how long there is still to wait."""
        rest = self.until - now if self.until is not None else timedelta()
        return rest if timedelta() < rest <= RETRY_CAP else timedelta()  # the clock may be set back

"""
Rate limits: a token bucket for each client, refilled at a steady rate.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

from reconciler.api.problems import TooMany


class Rate(NamedTuple):
    """How many requests are allowed."""

    per_second: float
    """In the long run."""
    burst: int
    """At once."""


class RateLimits(NamedTuple):
    """How much one caller may ask for."""

    token: Rate = Rate(per_second=100, burst=400)
    """Requests with one token: hundreds of tasks may be reported on with it."""
    peer: Rate = Rate(per_second=20, burst=200)
    """Requests without a good token, and webhooks without a good signature, from one address."""
    visitors: Rate = Rate(per_second=400, burst=2000)
    """Requests of browsers, from one address: a few hundred pages may follow the same change."""
    proposals: Rate = Rate(per_second=0.1, burst=20)
    """Tasks proposed with one token: each is a branch, and a person's time."""
    waits: int = 1000
    """Requests for a task that wait with one token: each holds one of the connections."""
    streams: int = 8
    """Open streams of events with one token."""


class Buckets:
    """A bucket for everybody who asks; those that were used least recently are forgotten first."""

    MOST = 10_000

    def __init__(self, rate: Rate, now: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._now = now
        self._buckets: dict[str, tuple[float, float]] = {}
        """How much is left, and as of when; in the order of the last use."""

    def take(self, who: str) -> None:
        """Take one request out of somebody's bucket. Raises TooMany if it is empty."""
        now, left = self._now(), self._left(who)
        self._buckets.pop(who, None)
        self._buckets[who] = (left - (left >= 1), now)
        if len(self._buckets) > self.MOST:
            del self._buckets[next(iter(self._buckets))]
        self._require(left)

    def check(self, who: str) -> None:
        """Raise TooMany if somebody's bucket is empty."""
        self._require(self._left(who))

    def _left(self, who: str) -> float:
        now = self._now()
        left, at = self._buckets.get(who, (float(self._rate.burst), now))
        return min(left + (now - at) * self._rate.per_second, self._rate.burst)

    def _require(self, left: float) -> None:
        if left < 1:
            wait = (1 - left) / self._rate.per_second
            raise TooMany(f"more than {self._rate.per_second:g} requests a second: ask less often", wait)

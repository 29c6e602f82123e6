"""
Clock jumps: when the clock is set, deadlines move with it, so that durations stay as they were.
"""

import logging
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

from reconciler.controller.cache import FleetCache
from reconciler.controller.ports import Clock
from reconciler.core.model.status import Phase
from reconciler.core.planning.schedule import JUMP

log = logging.getLogger(__name__)


class ClockJumps:
    """Jump detection: compares the wall clock with `monotonic`."""

    def __init__(self, cache: FleetCache, clock: Clock, monotonic: Callable[[], float]) -> None:
        self._cache = cache
        self._clock = clock
        self._monotonic = monotonic
        self._times = clock(), monotonic()
        """What both clocks said when they were last compared."""

    def compare(self) -> timedelta:
        """Return by how much the clock was set since the last call, and shift the cache's deadlines by it."""
        before, self._times = self._times, (self._clock(), self._monotonic())
        by = self._times[0] - before[0] - timedelta(seconds=self._times[1] - before[1])
        if abs(by) <= JUMP:
            return timedelta()
        log.warning(
            "the clock was set by %+.0f s; leases and time limits go on as before", by.total_seconds()
        )
        drift = self._cache.drift
        self._cache.drift = {key: drift.get(key, timedelta()) + by for key in self._terms()}
        return by

    def _terms(self) -> Iterator[tuple[str, datetime]]:
        """Yield what has a deadline that is computed from a time on record."""
        for status in self._cache.statuses.values():
            if status.run and (status.phase.is_live or status.phase is Phase.FAILED):
                yield status.run.key, status.since
        for name, host in self._cache.hosts.items():
            if not host.reachable:
                yield name, host.since

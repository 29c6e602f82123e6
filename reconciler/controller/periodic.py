"""
Errands to hosts and repos: sweeps, probes, looks. They run beside the loop, which never waits for them.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

Place = TypeVar("Place")


class PeriodicTasks(Generic[Place]):
    """
    One kind of errand, to each of some places again and again.

    Never two at once to the same place, and no place waits for another. One
    that fails by a mistake of ours is told in the log and sent again in its
    turn. `done` is called whenever one has ended.
    """

    def __init__(self, job: Callable[[Place], Awaitable[None]], done: Callable[[], None]) -> None:
        self._job = job
        self._done = done
        self._due: dict[str, datetime] = {}
        self._running: dict[str, asyncio.Task[None]] = {}

    def send(self, places: Mapping[str, Place], now: datetime, interval: timedelta) -> None:
        """Start the errand to every place where it is due."""
        latest = now + interval  # nothing is due later, unless the clock was set back
        self._due = {name: min(time, latest) for name, time in self._due.items() if name in places}
        for name, place in places.items():
            if name not in self._running and self._due.get(name, now) <= now:
                self._due[name] = latest
                self._running[name] = asyncio.create_task(self._run(name, place))

    def notify(self, names: Iterable[str]) -> None:
        """Let the errand to these places be due now; where one is under way, once more after it."""
        for name in names:
            self._due.pop(name, None)

    def advance(self, name: str, time: datetime) -> None:
        """Let the errand to a place be due at that time, unless it is earlier."""
        if name in self._due:
            self._due[name] = min(time, self._due[name])

    def next(self) -> datetime | None:
        """Return when the next one is due, those under way apart."""
        return min((time for name, time in self._due.items() if name not in self._running), default=None)

    def is_idle(self, places: Iterable[str]) -> bool:
        """Return whether none is under way and every one of the places had its turn."""
        return not self._running and all(name in self._due for name in places)

    async def close(self) -> None:
        """Call back those under way, and wait until they are back."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._running.clear()  # one that never began has not taken itself off

    async def _run(self, name: str, place: Place) -> None:
        try:
            await self._job(place)
        except Exception:
            log.exception("an errand to %s failed; the others go on", name)
        finally:
            self._running.pop(name, None)
            self._done()

"""
Virtual time: a clock that passes when nothing is left to do, and what happens at its times.
"""

import asyncio
import heapq
import math
from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import count
from typing import Any


class VirtualTime:
    """
    Clock, monotonic clock and pause of a controller whose outside is simulated.

    What is simulated happens at the times that it was set for. The controller
    sees it in steps of `tick`, as it would if each of its looks took that long;
    between two looks nothing that can run is left waiting, so that the same
    seed always gives the same order.
    """

    def __init__(self, start: datetime, tick: timedelta) -> None:
        self.start, self.now, self.tick = start, start, tick
        self.end = datetime.max.replace(tzinfo=start.tzinfo)
        """When the simulation is over."""
        self.at_end: Callable[[], None] = lambda: None
        self._events: list[tuple[datetime, int, Callable[[], object]]] = []
        self._numbers = count()

    def __call__(self) -> datetime:
        return self.now

    def seconds(self) -> float:
        """Return the seconds since the beginning."""
        return (self.now - self.start).total_seconds()

    def after(self, seconds: float, do: Callable[[], object]) -> None:
        """Let something happen in so many seconds."""
        self.at(self.now + timedelta(seconds=seconds), do)

    def at(self, time: datetime, do: Callable[[], object]) -> None:
        """Let something happen at a time; what is set for the same time happens in the order of the calls."""
        heapq.heappush(self._events, (time, next(self._numbers), do))

    async def sleep(self, seconds: float) -> None:
        """Wait for so many seconds to pass."""
        passed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.after(seconds, lambda: None if passed.done() else passed.set_result(None))
        await passed

    def end_now(self) -> None:
        """Let the simulation be over at the end of this tick."""
        self.end = self.now

    async def pause(self, news: asyncio.Event, longest: timedelta | None) -> None:
        """Let time pass to the end of a tick in which something happens, or until it is enough."""
        await self._settle()
        until = self.now if longest is None else self.now + max(longest, timedelta())
        while True:
            next_time = self.now if news.is_set() else self._next(until if longest is not None else None)
            self._pass(self._round_up(next_time))
            await self._settle()
            if self.now >= self.end:  # also where there is always news
                self.at_end()
                return
            if news.is_set() or (longest is not None and self.now >= until):
                return

    def _next(self, until: datetime | None) -> datetime:
        times = [self.end, *([until] if until else []), *([self._events[0][0]] if self._events else [])]
        return min(times)

    def _round_up(self, time: datetime) -> datetime:
        """Return the next end of a tick, at the given time or later, and later than now."""
        ticks = max(
            math.ceil((time - self.start) / self.tick), math.floor((self.now - self.start) / self.tick) + 1
        )
        return self.start + ticks * self.tick

    def _pass(self, until: datetime) -> None:
        """Let all happen that is due, each at its own time."""
        while self._events and self._events[0][0] <= until:
            time, _, do = heapq.heappop(self._events)
            self.now = max(self.now, time)
            do()
        self.now = until

    @staticmethod
    async def _settle() -> None:
        """Let every coroutine run that can."""
        loop: Any = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(0)
            if not loop._ready:
                return

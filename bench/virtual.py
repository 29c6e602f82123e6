"""
Virtual time: a clock that passes when nothing is left to do, and what happens at its times.
"""

import asyncio
import heapq
import math
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from itertools import count
from typing import Any


class VirtualTime:
    """
    Clock and monotonic clock of controllers whose outside is simulated.

    What is simulated happens at the times that it was set for. The controllers
    see it in steps of `tick`, as they would if each of their looks took that long.
    They look one after the other, and between two looks nothing that can run is
    left waiting, so that the same seed always gives the same order.
    """

    def __init__(self, start: datetime, tick: timedelta) -> None:
        self.start, self.now, self.tick = start, start, tick
        self.end = datetime.max.replace(tzinfo=start.tzinfo)
        """When the simulation is over."""
        self.at_end: list[Callable[[], None]] = []
        """Called then."""
        self._turns: list[Turn] = []
        """Of the controllers that have not ended."""
        self._queue: deque[Turn] = deque()
        """Of those that look before time passes."""
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

    def join(self) -> "Turn":
        """Let one more controller take its turn."""
        turn = Turn(self)
        self._turns.append(turn)
        self._queue.append(turn)
        return turn

    def leave(self, turn: "Turn") -> None:
        """Go on without a controller that has ended."""
        self._turns.remove(turn)

    async def hand_on(self) -> None:
        """
        Give the turn to the next controller.

        If none is left, time passes to the end of a tick in which something happens, or is enough for one.
        """
        await self.settle()
        while self._turns and not self._queue:
            self._pass(
                self._round_up(self.now if any(turn.has_news for turn in self._turns) else self._next())
            )
            await self.settle()
            if self.now >= self.end:  # also where there is always news
                for end in self.at_end:
                    end()
                self._queue += self._turns
            else:
                self._queue += [turn for turn in self._turns if turn.is_due]
        if self._queue:
            self._queue.popleft().go.set_result(None)

    def _next(self) -> datetime:
        ends = [turn.until for turn in self._turns if turn.until is not None]
        return min([self.end, *ends, *([self._events[0][0]] if self._events else [])])

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
    async def settle() -> None:
        """Let every coroutine run that can."""
        loop: Any = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(0)
            if not loop._ready:
                return


class Turn:
    """The turn of one of the controllers of a virtual time."""

    def __init__(self, world: VirtualTime) -> None:
        self.go: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done once it may look."""
        self.until: datetime | None = None
        """When its pause is long enough."""
        self._world = world
        self._news = asyncio.Event()

    @property
    def has_news(self) -> bool:
        """Whether something happened that it should look at."""
        return self._news.is_set()

    @property
    def is_due(self) -> bool:
        """Whether it is to look now."""
        return self.has_news or (self.until is not None and self._world.now >= self.until)

    async def run(self, run: Callable[[], Awaitable[None]]) -> None:
        """Run a controller to its end."""
        await self.go
        try:
            await run()
        finally:
            self._world.leave(self)
            await self._world.hand_on()

    async def pause(self, news: asyncio.Event, longest: timedelta | None) -> None:
        """Wait for news, or until it is enough: the pause of a controller."""
        await self._world.settle()
        self._news, self.go = news, asyncio.get_running_loop().create_future()
        self.until = None if longest is None else self._world.now + max(longest, timedelta())
        await self._world.hand_on()
        await self.go

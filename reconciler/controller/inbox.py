"""
The inbox: what has happened and is not on record yet, and the bell that wakes the loop.
"""

import asyncio
from collections.abc import Sequence

from reconciler.controller.ports import Fact


class Inbox:
    """Inbox: facts in the order of their arrival. Everybody may put something in; only the loop takes out."""

    def __init__(self) -> None:
        self.facts: list[Fact] = []
        self.news = asyncio.Event()
        self.is_notified = True
        """Whether specs or record may have moved; so it is at the start."""
        self.waiters: list[asyncio.Future[None]] = []

    def wake(self) -> None:
        """Let the loop take a look."""
        self.news.set()

    def notify(self) -> None:
        """Say that specs or record may have moved: a hint to look."""
        self.is_notified = True
        self.news.set()

    def emit(self, fact: Fact) -> None:
        """Take a fact from whoever follows a run, a pull request or a host."""
        self.facts.append(fact)
        self.news.set()

    async def wait_recorded(self) -> None:
        """Wait until what follows from every fact so far is on record."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiters.append(waiter)
        self.news.set()
        await waiter

    def release(self, waiters: Sequence[asyncio.Future[None]]) -> None:
        """Let these go on: everything that was here when they came is on record."""
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        self.waiters = [waiter for waiter in self.waiters if not waiter.done()]

"""
Inbox: facts that are not on record yet, and the event that wakes the loop.
"""

import asyncio
from collections.abc import Sequence

from reconciler.controller.ports import Fact


class Inbox:
    """Inbox: facts in the order of their arrival. Many producers; the loop is the only consumer."""

    def __init__(self) -> None:
        self.facts: list[Fact] = []
        self.news = asyncio.Event()
        self.is_notified = True
        """Whether specs or record may have moved; true at the start."""
        self.waiters: list[asyncio.Future[None]] = []

    def wake(self) -> None:
        """Wake the loop."""
        self.news.set()

    def notify(self) -> None:
        """Wake the loop and let it read specs and record, which may have moved."""
        self.is_notified = True
        self.news.set()

    def emit(self, fact: Fact) -> None:
        """Add a fact about a run, a pull request or a host."""
        self.facts.append(fact)
        self.news.set()

    async def wait_recorded(self) -> None:
        """Wait until what follows from every fact so far is on record."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiters.append(waiter)
        self.news.set()
        await waiter

    def release(self, waiters: Sequence[asyncio.Future[None]]) -> None:
        """Wake these waiters: every fact from before their call is on record."""
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        self.waiters = [waiter for waiter in self.waiters if not waiter.done()]

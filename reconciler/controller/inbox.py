"""
Inbox: facts that are not on record yet, and the event that wakes the loop.
"""

import asyncio
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from reconciler.controller.ports import Fact
from reconciler.core.events import RunEnded, RunSeen

_MOST_LINGERING = timedelta(seconds=5)
"""How long at most a fact waits for others; people watch agents start."""


class Waiter(NamedTuple):
    """Somebody who waits until what follows from facts is on record."""

    tasks: frozenset[str]
    """Tasks that the facts are about."""
    recorded: asyncio.Future[None]

    def is_settled(self, moved: Collection[str]) -> bool:
        """Return whether nothing follows any more, as of its tasks none moved in a round."""
        return self.tasks.isdisjoint(moved)


class Inbox:
    """Inbox: facts in the order of their arrival. Many producers; the loop is the only consumer."""

    def __init__(self) -> None:
        self.facts: list[Fact] = []
        self._later: list[Fact] = []
        """Facts that nobody waits for: they go on record with the next that somebody does."""
        self.lingering = timedelta(0)
        """How long such a fact may wait for others."""
        self.news = asyncio.Event()
        self.is_notified = True
        """Whether specs or record may have moved; true at the start."""
        self.waiters: list[Waiter] = []

    def wake(self) -> None:
        """Wake the loop."""
        self.news.set()

    def notify(self) -> None:
        """Wake the loop and let it read specs and record, which may have moved."""
        self.is_notified = True
        self.news.set()

    @property
    def is_empty(self) -> bool:
        """Whether every fact is on record."""
        return not self.facts and not self._later

    def has_end_of(self, run: str, number: int) -> bool:
        """Return whether the end of a round has arrived, and is not on record yet."""
        ends = (fact for fact in self.facts if isinstance(fact, RunEnded))
        return any((end.run, end.round) == (run, number) for end in ends)

    def emit(self, fact: Fact) -> None:
        """Add a fact about a run, a pull request or a host."""
        if isinstance(fact, RunSeen):
            self.emit_later(fact)
            return
        self._take_later()
        self.facts.append(fact)
        self.news.set()

    def emit_later(self, fact: Fact) -> None:
        """Add a fact for which nobody waits."""
        self._later.append(fact)
        self.news.set()

    def linger(self, commit: timedelta) -> None:
        """
        Group commit: let facts that nobody waits for wait for others, the longer the longer a commit takes.

        A push for each of them would take a slow remote from those that are waited for.
        """
        self.lingering = min(3 * commit, _MOST_LINGERING)

    def next(self) -> datetime | None:
        """Return when facts that wait for others have waited long enough."""
        first = min((fact.at for fact in self._later), default=None)
        return first + self.lingering if first is not None else None

    def ripen(self, now: datetime) -> None:
        """Let all facts go on record if one has waited long enough."""
        due = self.next()
        if due is not None and not now < due <= now + self.lingering:  # after a clock set back, too
            self._take_later()

    def _take_later(self) -> None:
        self.facts += self._later
        self._later.clear()

    async def wait_recorded(self, tasks: Collection[str]) -> None:
        """
        Wait until what follows from every fact so far about some tasks is on record.

        Others are not waited for: in a busy fleet there is no round without any.
        """
        self._take_later()
        waiter = Waiter(frozenset(tasks), asyncio.get_running_loop().create_future())
        self.waiters.append(waiter)
        self.news.set()
        await waiter.recorded

    def release(self, waiters: Sequence[Waiter], moved: Collection[str]) -> None:
        """Wake those of these waiters, all from before a round, for whose tasks nothing followed in it."""
        for waiter in waiters:
            if waiter.is_settled(moved) and not waiter.recorded.done():
                waiter.recorded.set_result(None)
        self.waiters = [waiter for waiter in self.waiters if not waiter.recorded.done()]

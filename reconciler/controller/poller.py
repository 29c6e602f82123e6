"""
Pollers: periodic polls of hosts, repos and forges, in tasks of their own beside the loop.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Generic, NamedTuple, TypeVar
from zlib import crc32

from reconciler import log_fields
from reconciler.controller.ports import Clock, WaitForNews, wait_for_news
from reconciler.core.errors import ReconcilerError
from reconciler.core.faults import bug_message

log = logging.getLogger(__name__)

LASTING = timedelta(minutes=10)
"""How long a poll has to fail before it is reported: each report is a commit, and so is its end."""

Subject = TypeVar("Subject")


@dataclass(slots=True)
class Latch:
    """
    Countdown latch: calls `done`, once, when everybody who holds it has released it.

    It is held once from the beginning, by whoever makes it.
    """

    done: Callable[[], None]
    _holders: int = field(default=1, init=False)

    def hold(self) -> None:
        """Be one more whose release is waited for."""
        self._holders += 1

    def release(self) -> None:
        """Be waited for no more."""
        self._holders -= 1
        if not self._holders:
            self.done()


class _Failure(NamedTuple):
    since: datetime
    why: str
    """The first error: each other message would be a commit."""


@dataclass(kw_only=True)
class Poller(Generic[Subject]):
    """
    Poller: polls each of its subjects at an interval, and at once when it is notified.

    Never two polls of one key at a time, and no key waits for another. A
    subject that is another than the last time, as its spec was edited, is
    polled at once. A poll fails with a `ReconcilerError`; any other exception is a
    bug of ours, and logged with its traceback. Both are reported and retried in their turn.
    """

    poll: Callable[[Subject], Awaitable[None]]
    subjects: Callable[[], Mapping[str, Subject]]
    """What is to be polled now, by key."""
    interval: Callable[[], timedelta]
    clock: Clock
    failure: str
    """Log message of a failed poll: text between its key and the error."""
    spread: float = 0.0
    """
    Share of the interval by which polls come earlier, from none of it to all by key.

    Polls that began together, at the start or after an outage, drift apart then.
    """
    retry: Callable[[], timedelta] | None = None
    """Delay before a failed key is polled again, if that is sooner than the interval."""
    only_pushes: bool = False
    """Whether of all webhooks only those of pushes concern it."""
    done: Callable[[], None] = lambda: None
    """Called whenever a poll has ended."""
    due: dict[str, datetime] = field(default_factory=dict)
    """Time of the next poll by key; a key that is missing is polled at once."""

    running: dict[str, asyncio.Task[None]] = field(default_factory=dict, init=False)
    """Polls under way, by key."""
    polled: dict[str, Subject] = field(default_factory=dict, init=False)
    """Subject of the last poll by key, whatever its outcome."""
    _failures: dict[str, _Failure] = field(default_factory=dict, init=False)
    _latches: dict[str, list[Latch]] = field(default_factory=dict, init=False)
    """Latches that are released once a poll of the key has succeeded."""
    _rest: "_Rest | None" = field(default=None, init=False)
    """None: something happened since subjects were last walked over."""
    _news: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    async def run(self, pause: WaitForNews = wait_for_news) -> None:
        """Poll until cancelled. Not for a poller that the loop drives with `poll_due` and `next`."""
        try:
            while True:
                self._news.clear()
                now = self.clock()
                self.poll_due(now)
                due = self.next()
                await pause(self._news, due - now if due else self.interval())
        finally:
            await self.close()

    def notify(
        self, keys: Iterable[str] = (), at: datetime | None = None, latch: Latch | None = None
    ) -> None:
        """
        Poll these keys now, or at a time if that is sooner than planned.

        A key whose poll is running is polled once more afterwards; unknown keys are ignored.
        Without keys, subjects and interval are only looked up again. `latch` is held until
        each of the keys was polled, from here on, and successfully.
        """
        keys, self._rest = tuple(keys), None
        if latch is not None:
            for key in self.subjects().keys() & set(keys):
                latch.hold()
                self._latches.setdefault(key, []).append(latch)
        for key in keys:
            if at is None:
                self.due.pop(key, None)
            elif key in self.due:
                self.due[key] = min(at, self.due[key])
        self._news.set()

    def poll_due(self, now: datetime) -> None:
        """Start the poll of every key that is due."""
        subjects, interval = self.subjects(), self.interval()
        if not self._is_any_due(now, subjects, interval):
            return
        latest, self._rest = now + interval, None
        self.polled = {key: last for key, last in self.polled.items() if key in subjects}
        for key, last in self.polled.items():
            if key not in self.running and _differ(last, subjects[key]):
                self.due.pop(key, None)
                self._failures.pop(key, None)
        self._failures = {key: failure for key, failure in self._failures.items() if key in subjects}
        # Nothing is due later than that, unless the clock was set back.
        self.due = {key: min(time, latest) for key, time in self.due.items() if key in subjects}
        for key in self._latches.keys() - subjects.keys():  # nothing is left to be done about it
            self._release(self._latches.pop(key))
        for key, subject in subjects.items():
            if key not in self.running and self.due.get(key, now) <= now:
                self.due[key] = latest - interval * self.spread * _share(key)
                self.running[key] = asyncio.create_task(self._run(key, subject))
        self._rest = _Rest(subjects, interval, now, self.next())

    def _is_any_due(self, now: datetime, subjects: Mapping[str, Subject], interval: timedelta) -> bool:
        """Return whether there may be something to do, without a walk over a thousand subjects."""
        rest = self._rest
        if rest is None or rest.subjects is not subjects or rest.interval != interval or now < rest.since:
            return True
        return rest.until is not None and rest.until <= now

    def next(self) -> datetime | None:
        """Return when the next poll is due, apart from running ones."""
        if self._rest is not None:
            return self._rest.until
        return min((time for key, time in self.due.items() if key not in self.running), default=None)

    def is_idle(self) -> bool:
        """Return whether no poll is running and every subject was polled."""
        return not self.running and self.subjects().keys() <= self.due.keys()

    def failing(self) -> Mapping[str, str]:
        """Return why polls fail, by key."""
        return {key: failure.why for key, failure in self._failures.items()}

    def lasting_failures(self, now: datetime) -> Mapping[str, str]:
        """Return the errors of polls that have failed for longer than `LASTING`, by key."""
        return {key: why for key, (since, why) in self._failures.items() if since + LASTING <= now}

    async def close(self) -> None:
        """Cancel the polls under way, and wait until they have ended."""
        tasks = list(self.running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.running.clear()  # one that never began has not taken itself off

    async def _run(self, key: str, subject: Subject) -> None:
        log_fields.bind(subject=key)
        latches = self._latches.pop(key, [])  # those that come during the poll wait for the next one
        try:
            await self.poll(subject)
        except ReconcilerError as error:
            self._fail(key, str(error))
        except Exception as error:
            log.exception("%s: %s, with an unexpected error; others go on", key, self.failure)
            self._fail(key, bug_message(error))
        else:
            self._failures.pop(key, None)
            self._release(latches)
            latches = []
        finally:
            if latches:
                self._latches[key] = [*latches, *self._latches.get(key, [])]
            self.polled[key] = subject
            self.running.pop(key, None)
            self._rest = None
            self._news.set()
            self.done()

    @staticmethod
    def _release(latches: Iterable[Latch]) -> None:
        for latch in latches:
            latch.release()

    def _fail(self, key: str, why: str) -> None:
        level = logging.INFO if key in self._failures else logging.WARNING
        log.log(level, "%s: %s: %s", key, self.failure, why)
        self._failures.setdefault(key, _Failure(self.clock(), why))
        if self.retry is not None:
            self.notify([key], at=self.clock() + self.retry())


class _Rest(NamedTuple):
    """Nothing is to be polled, as far as is known."""

    subjects: Mapping[str, Any]
    interval: timedelta
    since: datetime
    until: datetime | None


def _share(key: str) -> float:
    """Return a number from 0 to below 1, always the same for a key."""
    return crc32(key.encode()) / 2**32


def _differ(one: object, other: object) -> bool:
    return one is not other and one != other

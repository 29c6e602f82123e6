"""
Notifier: keeps the book of the notifications, beside the loop, and has its messages sent.

The loop waits for nothing here, and neither does the end of the process: what
is not sent by then is in the book, and sent by the next one.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from reconciler.controller.ports import (
    BookStore,
    Clock,
    NotificationSender,
    StepReader,
    WaitForNews,
    wait_for_news,
)
from reconciler.core.adapter import Secret
from reconciler.core.errors import NotFound, ReconcilerError, Unavailable
from reconciler.core.faults import bug_message
from reconciler.core.model.specs import NotifySpec
from reconciler.core.notifications.book import (
    Book,
    OutboxEntry,
    Situation,
    TargetReport,
    advance,
    begin_book,
    delivered,
    next_change,
    target_reports,
    to_send,
    undelivered,
    unsent,
)
from reconciler.core.notifications.messages import Message
from reconciler.core.notifications.quiet import timezone_of
from reconciler.core.notifications.rules import match_signals
from reconciler.core.notifications.signals import FleetSnapshot, current_signals, step_signals
from reconciler.core.transitions import TransitionRecord

log = logging.getLogger(__name__)

LONGEST_WAIT = timedelta(seconds=15)
"""Between two looks at what tells nobody that it changed: forges, and the loop itself."""
PACE, SLOWEST = timedelta(seconds=0.5), timedelta(seconds=5)
"""Least time between two looks, and the longest: while much happens, one is for all of it."""
IDLE_SHARE = 9
"""How many times as long as a look took nothing is looked at: in a large fleet it takes a while."""
MOST_STEPS = 500
"""Steps that are read back at once."""


class Notifier:
    """Notifications of one fleet; a look does not begin before the one before is on disk."""

    def __init__(
        self,
        *,
        snapshot: Callable[[], FleetSnapshot | None],
        steps: StepReader,
        sender: NotificationSender,
        store: BookStore,
        clock: Clock,
        fleet: str = "",
        url: str = "",
    ) -> None:
        """`snapshot` returns None before anything was read; `fleet` is a word for it, `url` of its pages."""
        self._snapshot, self._steps, self._sender, self._store = snapshot, steps, sender, store
        self._clock, self._fleet, self._url = clock, fleet, url
        self._book = store.read()
        self._written = self._book
        self._news = asyncio.Event()
        self._sending: dict[str, asyncio.Task[None]] = {}
        """Messages under way, or whose end is not in the book yet, by target."""
        self._results: list[tuple[OutboxEntry, str]] = []
        """Messages that were sent, and why one was not taken; empty if it was."""
        self._last: FleetSnapshot | None = None

    def begin(self, head: str, *, has_rules: bool) -> None:
        """
        Tell nothing of what was before, if nothing was ever told; `head` is the newest commit on record.

        That is on disk when this returns: what happens from now on is told, whatever becomes of this process.
        """
        self._book = begin_book(self._book, head, self._clock())
        if has_rules and self._book != self._written:
            self._write(self._book)

    def wake(self, *_: object) -> None:
        """Look soon: something happened."""
        self._news.set()

    def reports(self) -> Mapping[str, TargetReport]:
        """Return how each target is served, by name."""
        spec = self._last.desired.fleet.notify if self._last else None
        return target_reports(self._book, spec.targets) if spec else {}

    async def run(self, pause: WaitForNews = wait_for_news) -> None:
        """Look and send until cancelled."""
        try:
            while True:
                self._news.clear()
                began = asyncio.get_running_loop().time()
                wait = await self.look()
                took = timedelta(seconds=asyncio.get_running_loop().time() - began)
                await pause(asyncio.Event(), min(max(PACE, took * IDLE_SHARE), SLOWEST))
                await pause(self._news, wait)
        finally:
            for task in self._sending.values():
                task.cancel()
            self._end()

    def _end(self) -> None:
        """Note what was sent since the last look: the next process shall not send it again."""
        had_rules = self._last is not None and self._last.desired.fleet.notify is not None
        self._take_results(self._clock())
        if had_rules and self._book != self._written:
            self._write(self._book)

    async def look(self) -> timedelta:
        """Bring the book up to date and start what is to be sent; return how long to wait for news."""
        fleet, now = self._snapshot(), self._clock()
        if fleet is None:
            return LONGEST_WAIT
        spec = fleet.desired.fleet.notify
        self._take_results(now)
        if spec is None:
            await self._save(self._forget(fleet, now))
            self._last = fleet
            return LONGEST_WAIT
        fleet = replace(fleet, unsent=unsent(target_reports(self._book, spec.targets)))
        await self._advance(fleet, spec, now)
        self._last = fleet
        await self._save(self._book)
        for entry in to_send(self._book, now):
            if entry.target not in self._sending and entry.target in spec.targets:
                self._start(entry, spec.targets[entry.target])
        due = next_change(self._book, spec, timezone_of(fleet.desired.fleet), now, self._sending)
        return min(LONGEST_WAIT, max(due - now, timedelta())) if due else LONGEST_WAIT

    def _forget(self, fleet: FleetSnapshot, now: datetime) -> Book:
        """Begin anew in memory, and return what is to be on disk: rules that come later are about later."""
        self._book = begin_book(Book(), fleet.head, now)
        return Book()

    async def _advance(self, fleet: FleetSnapshot, spec: NotifySpec, now: datetime) -> None:
        if self._is_idle(fleet, spec, now):
            return
        records, cursor = await self._new_steps(fleet, spec)
        # In a thread: with ten thousand tasks it takes a while, and the loop has other things to do.
        book = await asyncio.to_thread(self._advanced, fleet, spec, records, now)
        # The cursor moves with what the steps led to, in one value: neither is on disk without the other.
        self._book = book.model_copy(update={"cursor": cursor})

    def _is_idle(self, fleet: FleetSnapshot, spec: NotifySpec, now: datetime) -> bool:
        """Return whether nothing is another than at the last look, and nothing is due."""
        due = next_change(self._book, spec, timezone_of(fleet.desired.fleet), now, self._sending)
        is_read = self._book.cursor == fleet.head
        return (
            is_read and self._last is not None and _is_same(self._last, fleet) and (due is None or due > now)
        )

    def _advanced(
        self, fleet: FleetSnapshot, spec: NotifySpec, records: Sequence[TransitionRecord], now: datetime
    ) -> Book:
        current = [*current_signals(fleet)]
        situation = Situation(
            spec=spec,
            timezone=timezone_of(fleet.desired.fleet),
            now=now,
            current=current,
            matches=match_signals(spec, current, step_signals(records, current, fleet.desired)),
            fleet=self._fleet,
            url=self._url,
        )
        return advance(self._book, situation)

    async def _new_steps(
        self, fleet: FleetSnapshot, spec: NotifySpec
    ) -> tuple[Sequence[TransitionRecord], str]:
        """Return the steps on record that were not read yet, if any rule is about steps; and up to where."""
        cursor = self._book.cursor
        if fleet.head == cursor or not any(rule.transitions for rule in spec.rules):
            return (), fleet.head
        try:
            records = await self._steps(fleet.head, cursor, MOST_STEPS)
        except NotFound as error:
            log.warning("the record went back, and steps in between are not told: %s", error)
            return (), fleet.head
        except Unavailable as error:
            log.warning("steps cannot be read for notifications now: %s", error)
            return (), cursor
        if len(records) < MOST_STEPS:
            return records, fleet.head
        self._news.set()
        return records, records[-1].commit

    async def _save(self, book: Book) -> None:
        """Write the book if it changed."""
        if book != self._written:
            await asyncio.to_thread(self._write, book)

    def _write(self, book: Book) -> None:
        """Write the book. Where that fails messages are sent all the same, maybe twice."""
        try:
            self._store.write(book)
        except OSError as error:
            log.warning("the book of notifications cannot be written: %s", error.strerror or error)
        else:
            self._written = book

    # --- Sending -------------------------------------------------------------

    def _start(self, entry: OutboxEntry, secret: Secret) -> None:
        task = asyncio.create_task(self._send(entry, secret))
        self._sending[entry.target] = task
        task.add_done_callback(self.wake)

    async def _send(self, entry: OutboxEntry, secret: Secret) -> None:
        message = Message(title=entry.title, body=entry.body)
        try:
            await self._sender.send(entry.target, secret, message)
        except ReconcilerError as error:
            why = str(error)
            log.log(
                logging.INFO if entry.attempts else logging.WARNING,
                "a message to %s is not sent, and tried again: %s",
                entry.target,
                why,
            )
            self._results.append((entry, why))
        except Exception as error:
            log.exception("a message to %s is not sent, by an unexpected error", entry.target)
            self._results.append((entry, bug_message(error)))
        else:
            log.info("sent to %s: %s", entry.target, entry.title)
            self._results.append((entry, ""))

    def _take_results(self, now: datetime) -> None:
        """Note how messages ended; only then is another sent to the same target."""
        for entry, why in self._results:
            self._sending.pop(entry.target, None)
            ended = undelivered(self._book, entry.number, why, now) if why else None
            self._book = ended or delivered(self._book, entry.number)
        self._results.clear()


def _is_same(one: FleetSnapshot, other: FleetSnapshot) -> bool:
    """Return whether nothing that is replaced as a whole was."""
    parts = ("desired", "statuses", "hosts", "damaged")
    is_same = all(getattr(one, part) is getattr(other, part) for part in parts)
    small = ("planned", "head", "forges", "unasked", "unready", "unsent")
    return is_same and all(getattr(one, part) == getattr(other, part) for part in small)

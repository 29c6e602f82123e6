"""
Outside agents, between their requests and the loop: who waits for a task, who has said what.

The loop takes both up at its next look, puts what follows on record, and only
then answers.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from reconciler.core.errors import ReconcilerError, Unavailable
from reconciler.core.events import Event, WorkerReport
from reconciler.core.lifecycle import transition
from reconciler.core.model.specs import Desired
from reconciler.core.model.status import AtWorker, LeaseRequest, Status
from reconciler.core.runs.leases import holder, report_event

log = logging.getLogger(__name__)
LOOK_LIMIT = 5.0
"""Seconds beyond its own wait that a bid may take until a look was taken with it: a push may last minutes."""


def _future() -> asyncio.Future[Any]:
    return asyncio.get_running_loop().create_future()


@dataclass(eq=False, slots=True)
class _Bidding:
    """A bid, and everybody who waits for its end: the same request may have been sent twice."""

    bid: LeaseRequest
    won: asyncio.Future[str] = field(default_factory=_future)
    seen: asyncio.Future[None] = field(default_factory=_future)
    """Done once a look was taken with it: only then there is no task for it."""
    waiters: int = 0


@dataclass(eq=False, slots=True)
class PendingReport:
    """What an agent said, and the answer it waits for."""

    said: WorkerReport
    answer: asyncio.Future[Status] = field(default_factory=_future)
    after: Status | None = None
    """Where it brings its task: the answer, once that is on record."""

    def refuse(self, error: Exception) -> None:
        """Answer with an error; whoever asked may be gone."""
        if not self.answer.done():
            self.answer.set_exception(error)
            self.answer.exception()  # nobody may be left to hear it


class WorkerLeases:
    """Who waits for a task, who said what, and until when leases last. `wake` lets the loop look."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._biddings: dict[tuple[str, str], _Bidding] = {}
        self._words: list[PendingReport] = []
        self.leases: dict[str, datetime] = {}
        """By run key; only in memory, where a restart renews them all."""

    # --- What agents ask ---------------------------------------------------

    async def bid(self, bid: LeaseRequest, wait: timedelta) -> str | None:
        """
        Return the task that the agent gets; None if there was none for so long.

        Raises Unavailable if no look was taken in time: it may have won all the
        same, and asking again with the same request key brings that.
        """
        bidding = self._biddings.setdefault((bid.agent, bid.request_key), _Bidding(bid))
        bidding.waiters += 1
        until = asyncio.get_running_loop().time() + wait.total_seconds()
        self._wake()
        try:
            looked, _ = await asyncio.wait(
                (bidding.won, bidding.seen),
                timeout=wait.total_seconds() + LOOK_LIMIT,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if not looked:
                raise Unavailable(
                    "the reconciler is busy with its record (a slow remote, perhaps); "
                    "send the same request again, with the same request_key"
                )
            left = until - asyncio.get_running_loop().time()
            done, _ = await asyncio.wait((bidding.won,), timeout=max(left, 0))
            return bidding.won.result() if done else None
        finally:
            bidding.waiters -= 1
            if not bidding.waiters:
                self._biddings.pop((bid.agent, bid.request_key), None)

    async def hear(self, said: WorkerReport) -> Status:
        """Return the status of the task once what was said is on record."""
        word = PendingReport(said)
        self._words.append(word)
        self._wake()
        return await word.answer

    # --- What the loop makes of it -----------------------------------------

    def bids(self) -> tuple[LeaseRequest, ...]:
        """Return the bids that wait, in the order in which they came."""
        return tuple(bidding.bid for bidding in self._biddings.values() if not bidding.won.done())

    def words(self, unwritable: Collection[str] = ()) -> Sequence[PendingReport]:
        """Return what was said and is not answered yet; what is about a task without a record is refused."""
        for word in self._words:
            if word.said.task in unwritable:
                word.refuse(Unavailable(f"nothing can be recorded of task {word.said.task} now"))
        return [word for word in self._words if not word.answer.done()]

    def meaning(
        self, words: Iterable[PendingReport], desired: Desired, statuses: Mapping[str, Status], now: datetime
    ) -> Sequence[Event]:
        """Return what words mean; who is refused learns why at once, the others once it is on record."""
        events, known = list[Event](), dict(statuses)
        for word in words:
            said = word.said
            try:
                name, status = holder(desired.tasks, known, said.task, said.agent, said.epoch)
                said = replace(said, task=name)
                meant = report_event(desired.tasks.get(name), status, said, now, desired.fleet)
                after = status
                for event in meant:
                    after = transition(after, event) or after
            except ReconcilerError as error:
                word.refuse(error)
                continue
            except Exception as error:
                log.exception("task %s: the word of agent %s cannot be thought about", said.task, said.agent)
                word.refuse(error)
                continue
            self.renew(status, now + desired.fleet.lease)
            status = after
            known[name] = word.after = status
            events += meant
        return events

    def settle(
        self, seen: Iterable[LeaseRequest], heard: Iterable[PendingReport], statuses: Mapping[str, Status]
    ) -> None:
        """Answer what a look has taken up and put on record; `statuses` are those of all open tasks."""
        for word in heard:
            if word.after is not None and not word.answer.done():
                word.answer.set_result(word.after)
        self._words = list(self.words())
        held = _held_tasks(statuses) if self._biddings else {}
        for bid in seen:
            bidding = self._biddings.get((bid.agent, bid.request_key))
            if bidding is None or bidding.won.done():
                continue
            task = held.get((bid.agent, bid.request_key))
            if task is not None:
                bidding.won.set_result(task)
            elif not bidding.seen.done():
                bidding.seen.set_result(None)

    def refuse(self, error: ReconcilerError) -> None:
        """Answer everybody with an error; nothing of what they asked is on record."""
        for word in self.words():
            word.refuse(error)
        self._words = []
        for bidding in self._biddings.values():
            if not bidding.won.done():
                bidding.won.set_exception(error)
                bidding.won.exception()  # nobody may be left to hear it

    # --- Leases ------------------------------------------------------------

    def renew(self, status: Status, until: datetime) -> None:
        """Let the lease of a run last until a time."""
        self.leases[status.run or ""] = until

    def shift(self, by: timedelta) -> None:
        """Let every lease last as long as it would have, now that the clock was set."""
        self.leases = {run: until + by for run, until in self.leases.items()}

    def watch(self, statuses: Iterable[Status], until: datetime) -> None:
        """
        Give a lease to every run that agents hold and that has none: it is new, or we are.

        Those of runs that are over go.
        """
        runs = [status.run for status in statuses if status.phase.is_live and status.assigned_agent]
        self.leases = {run: self.leases.get(run, until) for run in runs if run}


def open_requests(bids: Sequence[LeaseRequest], statuses: Mapping[str, Status]) -> tuple[LeaseRequest, ...]:
    """Return the bids of agents that do not hold what they asked for already."""
    held = _held_tasks(statuses) if bids else {}
    return tuple(bid for bid in bids if (bid.agent, bid.request_key) not in held)


def _held_tasks(statuses: Mapping[str, Status]) -> Mapping[tuple[str, str], str]:
    """Return the tasks that agents hold, by the agent and the key with which it asked."""
    return {
        (status.holder.agent, status.holder.request_key): name
        for name, status in statuses.items()
        if status.phase.is_live and isinstance(status.holder, AtWorker) and status.holder.claim is None
    }

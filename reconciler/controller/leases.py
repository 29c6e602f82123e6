"""
Worker leases: requests for tasks and reports, held until the loop has handled them.

The loop takes both up at its next look, puts what follows on record, and only
then answers.
"""

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from reconciler.controller.assigned import AssignedSpecs
from reconciler.controller.cache import FleetCache
from reconciler.controller.clock_jumps import ClockJumps
from reconciler.controller.inbox import Inbox
from reconciler.controller.ports import Clock
from reconciler.core.errors import ReconcilerError, Refused, Unavailable
from reconciler.core.events import Event, WorkerReport
from reconciler.core.lifecycle import transition
from reconciler.core.model.runs import Assignment
from reconciler.core.model.specs import Desired
from reconciler.core.model.status import AtWorker, LeaseRequest, Status
from reconciler.core.planning.plan import why_end
from reconciler.core.prices import reckon
from reconciler.core.runs.leases import holder, report_event, require_held

log = logging.getLogger(__name__)
REPORT_LIMIT = 30.0
"""Seconds within which a report is answered; one that is sent again is answered like the first."""
_BUSY = "the reconciler is busy with its record (a slow remote, perhaps); send the same {}"
LOOK_LIMIT = 5.0
"""Seconds a lease request may wait for the loop beyond its own wait: a push may last minutes."""


def _future() -> asyncio.Future[Any]:
    return asyncio.get_running_loop().create_future()


@dataclass(eq=False, slots=True)
class _Waiter:
    """A lease request, and everybody who waits for its result: it may have been sent twice."""

    lease_request: LeaseRequest
    won: asyncio.Future[str] = field(default_factory=_future)
    seen: asyncio.Future[None] = field(default_factory=_future)
    """Done once a round considered it without giving it a task."""
    waiters: int = 0


@dataclass(eq=False, slots=True)
class PendingReport:
    """A worker's report, and the answer it waits for."""

    report: WorkerReport
    answer: asyncio.Future[Status] = field(default_factory=_future)
    after: Status | None = None
    """Status of its task after it: the answer, once that is on record."""

    def refuse(self, error: Exception) -> None:
        """Answer with an error; the caller may be gone."""
        if not self.answer.done():
            self.answer.set_exception(error)
            self.answer.exception()  # nobody may be left to await it


class WorkerLeases:
    """Lease requests, pending reports and the ends of leases; see controller.ports.LeaseService."""

    def __init__(
        self, cache: FleetCache, inbox: Inbox, assigned: AssignedSpecs, clock: Clock, jumps: ClockJumps
    ) -> None:
        self._assigned = assigned
        self._cache = cache
        self._inbox = inbox
        self._clock = clock
        self._jumps = jumps
        self._is_open = False
        """Whether requests can be recorded now."""
        self._waiters: dict[tuple[str, str], _Waiter] = {}
        self._pending: list[PendingReport] = []
        self.leases: dict[str, datetime] = {}
        """End of each lease, by run key; only in memory: a restart renews them all."""
        self._is_at_rest = False
        """Whether the last look left nothing to do, so that without news another finds the same."""
        self._rests_until: datetime | None = None
        self._watched: str | None = None
        """Commit of the record by which leases were last given."""

    # --- What agents ask ---------------------------------------------------

    async def acquire(self, lease_request: LeaseRequest, wait: timedelta) -> str | None:
        """
        Return the name of the task that the agent holds now; see controller.ports.LeaseService.

        Raises Unavailable if no round considered it in time: it may have won all the
        same, and asking again with the same request key brings that.
        """
        agent = self._cache.desired.agents.get(lease_request.agent)
        if agent is None or agent.desired == "suspended":
            why = "suspended in its spec" if agent else "not in specs/agents"
            raise Refused(f"agent {lease_request.agent} gets no task: it is {why}")
        self._require_open()
        is_futile = self._is_futile(lease_request)
        if is_futile and not wait:
            return None
        waiter = self._waiters.setdefault(
            (lease_request.agent, lease_request.request_key), _Waiter(lease_request)
        )
        waiter.waiters += 1
        until = asyncio.get_running_loop().time() + wait.total_seconds()
        if not is_futile:
            self._inbox.wake()
        elif not waiter.seen.done():
            waiter.seen.set_result(None)
        try:
            looked, _ = await asyncio.wait(
                (waiter.won, waiter.seen),
                timeout=wait.total_seconds() + LOOK_LIMIT,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if not looked:
                raise Unavailable(_BUSY.format("request again, with the same request_key"))
            left = until - asyncio.get_running_loop().time()
            done, _ = await asyncio.wait((waiter.won,), timeout=max(left, 0))
            return waiter.won.result() if done else None
        finally:
            waiter.waiters -= 1
            if not waiter.waiters:
                self._waiters.pop((lease_request.agent, lease_request.request_key), None)

    async def submit(self, report: WorkerReport) -> Status:
        """Return the task's status after a worker's report; see controller.ports.LeaseService."""
        self._require_open()
        pending = PendingReport(report)
        self._pending.append(pending)
        self._inbox.wake()
        done, _ = await asyncio.wait((pending.answer,), timeout=REPORT_LIMIT)
        if not done:  # it is answered all the same, to nobody
            raise Unavailable(_BUSY.format("report again"))
        return pending.answer.result()

    def heartbeat(self, task: str, agent: str, epoch: int) -> str | None:
        """Renew the lease; return why the agent should stop; see controller.ports.LeaseService."""
        self.follow_clock()
        desired = self._cache.desired
        name, status = holder(desired.tasks, self._cache.statuses, task, agent, epoch)
        require_held(name, status)
        why = why_end(None if name in desired.broken else desired.tasks.get(name), status)
        if why is None:
            self._renew(status, self._clock())
        return why

    async def assignment(self, task: str) -> Assignment:
        """Return what the holder of a task is to carry out; see controller.ports.LeaseService."""
        return await self._assigned.assignment(task)

    def _require_open(self) -> None:
        if not self._is_open or not self._cache.desired.revision:
            raise Unavailable("the reconciler cannot record anything now; try again in a few seconds")

    # --- What the loop makes of it -----------------------------------------

    def begin_look(self) -> None:
        """Take no request for futile until the look is over."""
        self._is_at_rest = False

    def rest(self, until: datetime | None) -> None:
        """Take note that a look left nothing to do, and when something changes by itself; None: never."""
        self._is_at_rest, self._rests_until = True, until

    def _is_futile(self, lease_request: LeaseRequest) -> bool:
        """
        Return whether a look would find no task for a request: nothing is new, and nothing is on offer.

        Agents that ask again and again while there is no work cost no look each.
        """
        return (
            self._is_at_rest
            and not self._inbox.news.is_set()
            and not self._cache.planner.has_offers
            and (self._rests_until is None or self._clock() < self._rests_until)
            and bool(open_requests([lease_request], held_tasks(self._cache, [lease_request])))
        )

    def lease_requests(self) -> tuple[LeaseRequest, ...]:
        """Return the lease requests that wait, in the order in which they came."""
        return tuple(waiter.lease_request for waiter in self._waiters.values() if not waiter.won.done())

    def pending_reports(self, unwritable: Collection[str] = ()) -> Sequence[PendingReport]:
        """Return the reports not answered yet; one about a task without a record is refused."""
        for pending in self._pending:
            if pending.report.task in unwritable:
                pending.refuse(Unavailable(f"nothing can be recorded of task {pending.report.task} now"))
        return [pending for pending in self._pending if not pending.answer.done()]

    def judge_reports(
        self, reports: Collection[PendingReport], touched: Mapping[str, Status | None], now: datetime
    ) -> Sequence[Event]:
        """
        Return the events that reports lead to.

        A report that is refused is answered at once, any other once its events are on record.

        `touched` is where the facts of the same look bring their tasks.
        """
        events, desired = list[Event](), self._cache.desired
        current = self._cache.at_work({pending.report.task for pending in reports}) if reports else {}
        current |= {name: status for name, status in touched.items() if status}
        for pending in reports:
            report = pending.report
            try:
                name, status = holder(desired.tasks, current, report.task, report.agent, report.epoch)
                report = _priced(replace(report, task=name), status, desired)
                following = report_event(desired.tasks.get(name), status, report, now, desired.fleet)
                after = status
                for event in following:
                    after = transition(after, event) or after
            except ReconcilerError as error:
                pending.refuse(error)
                continue
            except Exception as error:
                log.exception("task %s: the report of agent %s cannot be judged", report.task, report.agent)
                pending.refuse(error)
                continue
            self._renew(status, now)
            current[name] = pending.after = after
            events += following
        return events

    def settle(self, seen: Collection[LeaseRequest], reports: Iterable[PendingReport]) -> None:
        """Answer what a look has taken up and put on record."""
        for pending in reports:
            if pending.after is not None and not pending.answer.done():
                pending.answer.set_result(pending.after)
        self._pending = list(self.pending_reports())
        held = held_tasks(self._cache, seen)
        for lease_request in seen:
            waiter = self._waiters.get((lease_request.agent, lease_request.request_key))
            if waiter is None or waiter.won.done():
                continue
            task = held.get((lease_request.agent, lease_request.request_key))
            if task is not None:
                waiter.won.set_result(task)
            elif not waiter.seen.done():
                waiter.seen.set_result(None)

    def open(self) -> None:
        """Take what is asked from now on."""
        self._is_open = True

    def close(self) -> None:
        """Take nothing more; what was asked is still answered."""
        self._is_open = False

    def refuse(self, error: ReconcilerError) -> None:
        """Answer everybody with an error, until `open`; nothing of what they asked is on record."""
        self._is_open = False
        for pending in self.pending_reports():
            pending.refuse(error)
        self._pending = []
        for waiter in self._waiters.values():
            if not waiter.won.done():
                waiter.won.set_exception(error)
                waiter.won.exception()  # nobody may be left to await it

    # --- Leases ------------------------------------------------------------

    def follow_clock(self) -> None:
        """Let every lease last as long as it would have, if somebody has set the clock."""
        if by := self._jumps.compare():
            self.leases = {run: until + by for run, until in self.leases.items()}

    def _renew(self, status: Status, now: datetime) -> None:
        self.leases[status.last_run.key] = now + self._cache.desired.fleet.lease

    def watch(self, now: datetime) -> None:
        """
        Give a lease to every run that agents hold and that has none: it is new, or we are.

        Those of runs that are over go. It is the record that counts: what a look is about
        to record may never get there.
        """
        if self._watched == self._cache.head:
            return
        self._watched = self._cache.head
        until = now + self._cache.desired.fleet.lease
        statuses = self._cache.in_group("at worker").values()
        runs = [run.key for status in statuses if (run := status.live_run) and status.assigned_agent]
        self.leases = {run: self.leases.get(run, until) for run in runs}


def _priced(report: WorkerReport, status: Status, desired: Desired) -> WorkerReport:
    """Return a report with the tokens of its claim priced, if it has one."""
    claim = report.claim
    if claim is None or status.run is None:
        return report
    usage = reckon(claim.usage, None, (status.run.model,), desired.prices)
    return replace(report, claim=claim.model_copy(update={"usage": usage}))


def open_requests(
    lease_requests: Sequence[LeaseRequest], held: Mapping[tuple[str, str], str]
) -> tuple[LeaseRequest, ...]:
    """Return the bids of agents that do not hold what they asked for already."""
    return tuple(
        lease_request
        for lease_request in lease_requests
        if (lease_request.agent, lease_request.request_key) not in held
    )


def held_tasks(cache: FleetCache, lease_requests: Iterable[LeaseRequest]) -> Mapping[tuple[str, str], str]:
    """Return the tasks that those who ask hold, by the agent and the key with which it asked."""
    agents = {lease_request.agent for lease_request in lease_requests}
    return {
        (status.holder.agent, status.holder.request_key): name
        for agent in agents
        for name, status in cache.in_group("held by", agent).items()
        if isinstance(status.holder, AtWorker)
    }

"""
The loop: what happened, what should be, what to do; on record before in motion.

One coroutine reads the inbox and nobody else changes state. Runs are never
awaited here: whoever follows them sends facts.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from reconciler.controller.ports import Clock, Dispatch, Fact, Specs, State
from reconciler.core.command import order
from reconciler.core.errors import Conflict, SpecError, Unavailable
from reconciler.core.events import Event, RunEnded, Started
from reconciler.core.lifecycle import Transition, fold, transition
from reconciler.core.model import (
    Desired,
    FailureClass,
    Host,
    HostStatus,
    Observed,
    Order,
    Phase,
    Reason,
    Report,
    Status,
    Task,
    Verdict,
)
from reconciler.core.plan import Follow, Plan, Stop, needs_attention, plan
from reconciler.core.rounds import judge

log = logging.getLogger(__name__)

Until = Literal["stopped", "idle", "started"]
"""When to end: when told to; when nothing more happens by itself; when all that can start has started."""

Pause = Callable[[asyncio.Event, timedelta | None], Awaitable[None]]
"""Wait until there is news, but no longer than the time given."""


async def wait_for_news(news: asyncio.Event, longest: timedelta | None) -> None:
    """Wait until there is news, but no longer than the time given."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(None if longest is None else max(longest.total_seconds(), 0)):
            await news.wait()


RETRY = timedelta(seconds=1)
RETRY_CAP = timedelta(minutes=1)


@dataclass
class Loop:
    """
    The controller of one fleet.

    `run` converges until told otherwise; `knock` says that there may be news;
    `stop` ends it. All three belong to one event loop.
    """

    specs: Specs
    state: State
    dispatch: Dispatch
    clock: Clock
    sweep_interval: timedelta = timedelta(hours=1)
    on_transition: Callable[[Transition], None] = lambda _: None
    pause: Pause = wait_for_news

    desired: Desired = field(default_factory=Desired, init=False)
    statuses: Mapping[str, Status] = field(default_factory=dict, init=False)
    hosts: Mapping[str, HostStatus] = field(default_factory=dict, init=False)
    attention: set[str] = field(default_factory=set, init=False)
    last_plan: Plan = field(default_factory=Plan, init=False)

    _facts: list[Fact] = field(default_factory=list, init=False)
    _news: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    _knocked: bool = field(default=True, init=False)
    _stopped: bool = field(default=False, init=False)
    _delay: timedelta = field(default=RETRY, init=False)
    _sweep_at: datetime | None = field(default=None, init=False)
    _unswept: set[str] = field(default_factory=set, init=False)
    _sweeps: dict[str, asyncio.Task[None]] = field(default_factory=dict, init=False)

    # --- What others may say -----------------------------------------------

    def knock(self) -> None:
        """Say that specs or state may have moved: a hint to look."""
        self._knocked = True
        self._news.set()

    def stop(self) -> None:
        """End `run` at the next step; live runs go on without us."""
        self._stopped = True
        self._news.set()

    def emit(self, fact: Fact) -> None:
        """Take a fact from whoever follows a run."""
        self._facts.append(fact)
        self._news.set()

    # --- The loop ----------------------------------------------------------

    async def run(self, until: Until = "stopped") -> None:
        """Converge, wait for news, and again, until the time to end has come."""
        try:
            await self._reload()
            while not self._stopped:
                self._news.clear()
                wait = await self._look()
                if self._is_over(until) or self._stopped:
                    return
                await self.pause(self._news, wait)
        finally:
            for sweep in list(self._sweeps.values()):
                sweep.cancel()
            await self.dispatch.close()

    async def _look(self) -> timedelta | None:
        """Take one look at everything that may have changed; return how long to wait for news."""
        try:
            if self._knocked:
                await self._read_specs()
            await self._converge()
        except Unavailable as error:
            log.warning("%s; trying again in %s", error, self._delay)
            wait, self._delay = self._delay, min(self._delay * 2, RETRY_CAP)
            return wait
        self._delay = RETRY
        self._sweep()
        return self._until_due()

    def _until_due(self) -> timedelta | None:
        due = [time for time in (self.last_plan.due, self._sweep_at) if time is not None]
        return min(due) - self.clock() if due else None

    def _is_over(self, until: Until) -> bool:
        if until == "stopped" or self._knocked or self._facts:
            return False
        phases = {self.statuses[name].phase for name in self.attention if name in self.statuses}
        if until == "started":
            return Phase.ASSIGNED not in phases
        backoff = any(waiting.reason is Reason.BACKOFF for waiting in self.last_plan.waiting.values())
        is_swept = not self._unswept and not self._sweeps
        return is_swept and not backoff and not any(phase.is_live for phase in phases)

    # --- Reading -----------------------------------------------------------

    async def _reload(self) -> None:
        """Read the recorded state anew; what was only in memory is gone, as it should be."""
        delay = RETRY
        while not self._stopped:
            try:
                self.statuses, self.hosts = await self.state.load()
            except Unavailable as error:
                log.warning("%s; trying again in %s", error, delay)
                await self.pause(self._news, delay)
                delay = min(delay * 2, RETRY_CAP)
            else:
                self.attention = self._attention(self.desired.tasks.keys() | self.statuses.keys())
                return

    async def _read_specs(self) -> None:
        self._knocked = False
        try:
            desired = await self.specs.read(self.statuses)
        except Unavailable:
            self._knocked = True
            raise
        if desired is self.desired:
            return
        for problem in desired.problems:
            if problem not in self.desired.problems:
                log.warning("%s", problem)
        before, self.desired = self.desired, desired
        changed = {
            name
            for name in before.tasks.keys() | desired.tasks.keys()
            if before.tasks.get(name) is not desired.tasks.get(name)
        }
        changed |= before.broken.keys() | desired.broken.keys()
        if not before.revision:
            changed |= self.statuses.keys()
        self._notice(changed)

    def _notice(self, names: set[str]) -> None:
        self.attention -= names
        self.attention |= self._attention(names)

    def _attention(self, names: set[str]) -> set[str]:
        tasks, statuses = self.desired.tasks, self.statuses
        return {name for name in names if needs_attention(tasks.get(name), statuses.get(name))} | (
            names & self.desired.broken.keys()
        )

    # --- Converging --------------------------------------------------------

    async def _converge(self) -> None:
        """Plan, put on record, act; again until the plan changes nothing any more."""
        while not self._stopped:
            now, facts = self.clock(), list(self._facts)
            statuses, seen = self._fold(self.statuses, self._events(facts, now))
            observed = Observed(statuses, self.hosts, {}, self._followed())
            self.last_plan = plan(self.desired, observed, now, self.attention)
            statuses, intended = self._fold(statuses, self.last_plan.events)
            if not await self._commit(statuses, [*seen, *intended]):
                continue
            del self._facts[: len(facts)]
            await self._act(self.last_plan)
            if not seen and not intended:
                return

    @staticmethod
    def _fold(
        statuses: Mapping[str, Status], events: Sequence[Event]
    ) -> tuple[Mapping[str, Status], Sequence[Transition]]:
        """Fold, but spare the copy of a large fleet when there is nothing to fold."""
        return fold(statuses, events) if events else (statuses, ())

    def _followed(self) -> frozenset[tuple[str, int]]:
        """Return the rounds that need no follower: they have one, or their end waits to be recorded."""
        ended = {(fact.run, fact.round) for fact in self._facts if isinstance(fact, RunEnded)}
        return self.dispatch.followed | ended

    def _events(self, facts: list[Fact], now: datetime) -> list[Event]:
        """Turn facts into what they mean; one about a run that is over by now means nothing."""
        touched, events = dict[str, Status | None](), list[Event]()
        for fact in facts:
            status = touched.get(fact.task, self.statuses.get(fact.task))
            event = self._meaning(fact, status, now)
            if event is not None:
                touched[fact.task] = transition(status, event)
                events.append(event)
        return events

    def _meaning(self, fact: Fact, status: Status | None, now: datetime) -> Event | None:
        if status is None or (status.run, status.round) != (fact.run, fact.round):
            return None
        if not status.phase.is_live:
            return None
        if isinstance(fact, RunEnded):
            return judge(self.desired.tasks.get(fact.task), status, fact, now, self.desired.fleet)
        if status.phase is not Phase.ASSIGNED and status.prompt_sha256 == fact.prompt_sha256:
            return None
        return Started(
            task=fact.task,
            at=fact.at,
            run=fact.run,
            cause="host",
            reason=f"the agent of round {fact.round} was seen alive",
            prompt_sha256=fact.prompt_sha256,
        )

    async def _commit(self, statuses: Mapping[str, Status], transitions: Sequence[Transition]) -> bool:
        """Put transitions on record; False if somebody wrote first and it must be thought anew."""
        if not transitions:
            return True
        try:
            await self.state.commit(transitions)
        except Conflict as conflict:
            log.info("%s; thinking again", conflict)
            await self._reload()
            return False
        self.statuses = statuses
        self._notice({name for step in transitions for name in (step.task, step.old)})
        for step in transitions:
            log.info("%s: %s", step.task, step.event.reason)
            self.on_transition(step)
        if any(step.after is None or step.after.phase.is_settled for step in transitions):
            self._unswept |= self.desired.hosts.keys()
        return True

    async def _act(self, planned: Plan) -> None:
        for action in planned.actions:
            if not isinstance(action, Follow | Stop):
                continue
            status = self.statuses.get(action.task)
            if status is None or (status.run, status.round) != (action.run, action.round):
                continue
            try:
                work = await self._order(action.task, status)
            except SpecError as error:
                self._give_up(action.task, status, str(error))
                continue
            if isinstance(action, Stop):
                self.dispatch.stop(work, action.reason, self.emit)
            else:
                self.dispatch.follow(work, self.emit)

    async def _order(self, name: str, status: Status) -> Order:
        """Return what to carry out: by the spec the run was assigned with, not by a newer one."""
        task: Task | None = self.desired.tasks.get(name)
        if task is None or task.generation != status.generation:
            task = await self.specs.recall(name, status.generation) or task
        if task is None:
            raise SpecError(())
        return order(task, status, self.desired)

    def _give_up(self, name: str, status: Status, why: str) -> None:
        verdict = Verdict(outcome="failed", kind=FailureClass.CONFIG, message=why or "its spec is lost")
        run, number = status.run or "", status.round
        report = Report(verdict=verdict)
        self.emit(RunEnded(task=name, run=run, round=number, at=self.clock(), report=report))

    # --- Cleaning up -------------------------------------------------------

    def _sweep(self) -> None:
        """Relieve each host, beside the loop, of what nobody needs any more."""
        now = self.clock()
        if self._sweep_at is None or self._sweep_at <= now:
            self._sweep_at = now + self.sweep_interval
            self._unswept = set(self.desired.hosts)
        for name in self._unswept - self._sweeps.keys():
            self._unswept.discard(name)
            if (host := self.desired.hosts.get(name)) is not None:
                self._sweeps[name] = asyncio.create_task(self._sweep_host(host))

    async def _sweep_host(self, host: Host) -> None:
        def keep() -> frozenset[str]:
            return runs_to_keep(self.statuses, self.clock(), self.desired.fleet.keep_failed)

        try:
            await self.dispatch.sweep(host, keep)
        except Unavailable as error:
            log.info("%s is not swept now: %s", host.name, error)
        finally:
            del self._sweeps[host.name]
            self._news.set()


def runs_to_keep(statuses: Mapping[str, Status], now: datetime, keep_failed: timedelta) -> frozenset[str]:
    """Return the runs whose workspaces may still be needed: of open tasks, and of fresh failures."""
    return frozenset(
        status.run
        for status in statuses.values()
        if status.run is not None
        and (
            not status.phase.is_settled or (status.phase is Phase.FAILED and now - status.since < keep_failed)
        )
    )

"""
The loop: what happened, what should be, what to do; on record before in motion.

One coroutine reads the inbox and nobody else changes state. Runs are never
awaited here: whoever follows them sends facts.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Literal

from reconciler.controller.breakers import Breakers
from reconciler.controller.hosts import HostMaintenance, unrunnable
from reconciler.controller.leases import PendingReport, WorkerLeases, open_requests
from reconciler.controller.ports import Clock, Dispatch, Fact, Forges, Prober, Specs, State, Step
from reconciler.controller.pull_requests import PullRequestController
from reconciler.core.adapter import Usage
from reconciler.core.attribution import attribute
from reconciler.core.errors import Conflict, Problem, Refused, Rewound, SpecError, Unavailable
from reconciler.core.events import (
    Completed,
    Event,
    HostSeen,
    MergeSeen,
    Origin,
    PullRequestSeen,
    RunEnded,
    RunSeen,
    Started,
    WorkerReport,
)
from reconciler.core.faults import OUTCOME, fault_words
from reconciler.core.forge.pull_request import follow
from reconciler.core.hosts import HostChange, host_change, host_removal
from reconciler.core.lifecycle import Transition, fold, transition
from reconciler.core.model.runs import Assignment, RunRequest
from reconciler.core.model.specs import Desired, Task
from reconciler.core.model.status import (
    BudgetScope,
    HostStatus,
    LeaseRequest,
    Observed,
    Phase,
    Reason,
    Status,
)
from reconciler.core.planning.limits import has_daily_budget, midnight, with_expenses
from reconciler.core.planning.plan import FollowRun, Plan, StopRun, needs_attention, plan, why_end
from reconciler.core.planning.schedule import JUMP
from reconciler.core.runs.command import assignment, build_run_request
from reconciler.core.runs.decide import next_event
from reconciler.core.runs.leases import holder, require_held

log = logging.getLogger(__name__)

StopWhen = Literal["stopped", "idle", "started"]
"""When to end: when told to; when nothing more happens by itself; when all that can start has started."""

WaitForNews = Callable[[asyncio.Event, timedelta | None], Awaitable[None]]
"""Wait until there is news, but no longer than the time given."""


async def wait_for_news(news: asyncio.Event, longest: timedelta | None) -> None:
    """Wait until there is news, but no longer than the time given."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(None if longest is None else max(longest.total_seconds(), 0)):
            await news.wait()


TaskFact = RunSeen | RunEnded | MergeSeen | PullRequestSeen

RETRY = timedelta(seconds=1)
RETRY_CAP = timedelta(seconds=30)


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
    prober: Prober
    clock: Clock
    sweep_interval: timedelta = timedelta(hours=1)
    probe_interval: timedelta = timedelta(minutes=1)
    machine: str | None = None
    takes_over: bool = False
    steady: Callable[[], float] | None = None
    """Seconds of a clock that nobody sets; by it is seen that somebody has set the other one."""
    forges: Forges | None = None
    address: str = ""
    """Where people find a task, with its name to be added; empty if nowhere."""
    on_step: Callable[[Step], None] = lambda _: None
    on_specs: Callable[[], None] = lambda: None
    """Called when specs were read that are new."""
    pause: WaitForNews = wait_for_news

    desired: Desired = field(default_factory=Desired, init=False)
    statuses: Mapping[str, Status] = field(default_factory=dict, init=False)
    hosts: Mapping[str, HostStatus] = field(default_factory=dict, init=False)
    attention: set[str] = field(default_factory=set, init=False)
    last_plan: Plan = field(default_factory=Plan, init=False)
    drift: Mapping[tuple[str, datetime], timedelta] = field(default_factory=dict, init=False)
    """How far the clock was set since what is on record; see `Observed.drift`."""
    head: str = field(default="", init=False)
    """Commit that `statuses` and `hosts` are on record with."""
    trouble: str = field(default="", init=False)
    """Why it cannot go on now; empty if it can."""

    _facts: list[Fact] = field(default_factory=list, init=False)
    _news: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    _knocked: bool = field(default=True, init=False)
    _stopped: bool = field(default=False, init=False)
    _is_running: bool = field(default=False, init=False)
    _until: StopWhen = field(default="stopped", init=False)
    _delay: timedelta = field(default=RETRY, init=False)
    _retry_at: datetime | None = field(default=None, init=False)
    _spent: Mapping[BudgetScope, Usage] = field(default_factory=dict, init=False)
    _spent_since: datetime | None = field(default=None, init=False)
    _agents: WorkerLeases = field(init=False)
    _breakers: Breakers = field(default_factory=Breakers, init=False)
    _outside: HostMaintenance = field(init=False)
    _pulls: PullRequestController | None = field(default=None, init=False)
    _digesting: list[asyncio.Future[None]] = field(default_factory=list, init=False)
    _times: tuple[datetime, float] | None = field(default=None, init=False)
    """What both clocks said when they were last compared."""
    _faults: dict[str, str] = field(default_factory=dict, init=False)
    """Tasks of which something came that could not be thought about, or recorded, and that in words."""
    _hopeless: set[tuple[str, int]] = field(default_factory=set, init=False)
    """Rounds whose end could not be thought about: to follow them again would bring the same."""
    _unwritable: set[str] = field(default_factory=set, init=False)
    """Tasks whose steps cannot be put on record."""

    def __post_init__(self) -> None:
        self._agents = WorkerLeases(self._news.set)
        self._outside = HostMaintenance(
            self,
            lambda: self.attention,
            self.dispatch,
            self.prober,
            self.emit,
            self.clock,
            self._news.set,
            sweep_interval=self.sweep_interval,
            probe_interval=self.probe_interval,
            machine=self.machine,
        )
        if self.forges is not None:
            self._pulls = PullRequestController(
                self.forges,
                self,
                self.emit,
                self.wait_recorded,
                clock=self.clock,
                wake=self._news.set,
                address=self.address,
            )

    # --- What others may say -----------------------------------------------

    def notify(self) -> None:
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

    def hint(self, repo: str, numbers: Collection[int], delivery: str) -> None:
        """Say that pull requests of a repo may have changed: a hint to look."""
        if self._pulls is not None:
            self._pulls.hint(repo, numbers, delivery)
            self._news.set()

    async def wait_recorded(self) -> None:
        """Wait until what follows from every fact so far is on record."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._digesting.append(done)
        self._news.set()
        await done

    # --- What outside agents may say (controller.ports.Desk) ----------------

    async def bid(self, bid: LeaseRequest, wait: timedelta) -> str | None:
        """Return the name of the task that the agent holds now; see controller.ports.Desk."""
        agent = self.desired.agents.get(bid.agent)
        if agent is None or agent.desired == "suspended":
            why = "suspended in its spec" if agent else "not in specs/agents"
            raise Refused(f"agent {bid.agent} gets no task: it is {why}")
        self._require_service()
        return await self._agents.bid(bid, wait)

    async def hear(self, said: WorkerReport) -> Status:
        """Return the task's status after what an agent said; see controller.ports.Desk."""
        self._require_service()
        return await self._agents.hear(said)

    def beat(self, task: str, agent: str, epoch: int) -> str | None:
        """Renew the lease; return why the agent should stop; see controller.ports.Desk."""
        self._compare_clocks()
        name, status = holder(self.desired.tasks, self.statuses, task, agent, epoch)
        require_held(name, status)
        spec = None if name in self.desired.broken else self.desired.tasks.get(name)
        why = why_end(spec, status)
        if why is None:
            self._agents.renew(status, self.clock() + self.desired.fleet.lease)
        return why

    async def assignment(self, task: str) -> Assignment:
        """Return what the holder of a task is to carry out; see controller.ports.Desk."""
        status = self.statuses[task]
        return assignment(await self._spec_of(task, status), status, self.desired)

    def _require_service(self) -> None:
        if not self._is_running or self._stopped or self._retry_at or not self.desired.revision:
            raise Unavailable("the reconciler cannot record anything now; try again in a few seconds")

    # --- The loop ----------------------------------------------------------

    async def run(self, until: StopWhen = "stopped") -> None:
        """Converge, wait for news, and again, until the time to end has come."""
        self._is_running, self._until = True, until
        try:
            await self._reload()
            while not self._stopped:
                self._news.clear()
                wait = await self._look()
                if self._is_over(until) or self._stopped:
                    return
                await self.pause(self._news, wait)
        finally:
            self._is_running = False
            self._agents.refuse(Unavailable("the reconciler is being stopped; try again in a few seconds"))
            if self._pulls is not None:
                await self._pulls.close()
            await self._outside.close()
            await self.dispatch.close()

    async def _look(self) -> timedelta | None:
        """
        Take one look at everything that may have changed; return how long to wait for news.

        What cannot be reached is left alone for a while: hints do not make it quicker.
        """
        self._compare_clocks()
        if (wait := self._rest()) > timedelta(0):
            return wait
        try:
            if self._knocked:
                if self.state.has_moved():
                    await self._reload()
                await self._read_specs()
            await self._converge()
            due = self._send_out(self.clock())
        except Unavailable as error:
            log.warning("%s; trying again in %s", error, self._delay)
            return self._try_later(error)
        except Exception:
            log.exception("a look failed by a mistake of ours; trying again in %s", self._delay)
            return self._try_later(Unavailable("the reconciler made a mistake; its log has more"))
        self._delay, self._retry_at, self.trouble = RETRY, None, ""
        return due

    def _compare_clocks(self) -> None:
        """Find out whether somebody has set the clock; what has a term lasts as long as it would have."""
        if self.steady is None:
            return
        before, self._times = self._times, (self.clock(), self.steady())
        if before is None:
            return
        by = self._times[0] - before[0] - timedelta(seconds=self._times[1] - before[1])
        if abs(by) > JUMP:
            log.warning(
                "the clock was set by %+.0f s; leases and time limits go on as before", by.total_seconds()
            )
            self._agents.shift(by)
            self.drift = {key: self.drift.get(key, timedelta()) + by for key in self._terms()}

    def _terms(self) -> Iterator[tuple[str, datetime]]:
        """Yield what has a term that counts from a time on record."""
        for status in self.statuses.values():
            if status.run and (status.phase.is_live or status.phase is Phase.FAILED):
                yield status.run, status.since
        for name, host in self.hosts.items():
            if not host.reachable:
                yield name, host.since

    def _send_out(self, now: datetime) -> timedelta | None:
        """Send somebody wherever it is time; return in what time there is something to do again."""
        self._outside.send(now)
        if self._pulls is not None:
            self._pulls.send(now)
        return self._until_due(now)

    def _try_later(self, error: Unavailable) -> timedelta:
        """Leave everything alone for a while, each time for longer; return for how long."""
        self._agents.refuse(error)
        self._retry_at, self.trouble = self.clock() + self._delay, str(error)
        wait, self._delay = self._delay, min(self._delay * 2, RETRY_CAP)
        return wait

    def _rest(self) -> timedelta:
        """Return how long to leave alone what could not be reached."""
        rest = self._retry_at - self.clock() if self._retry_at is not None else timedelta(0)
        return rest if rest <= RETRY_CAP else timedelta(0)  # the clock was set back

    def _until_due(self, now: datetime) -> timedelta | None:
        pulls = self._pulls.next() if self._pulls is not None else None
        times = (self.last_plan.due, self._outside.next(), self._breakers.next(now), pulls)
        return min((time - now for time in times if time is not None), default=None)

    def _is_over(self, until: StopWhen) -> bool:
        if until == "stopped" or self._knocked or self._facts or self._retry_at is not None:
            return False
        open_ = self._open()
        phases = {status.phase for name, status in open_.items() if name not in self._faults}
        reasons = {waiting.reason for waiting in self.last_plan.waiting.values()}
        probed = self._outside.has_probed()
        if until == "started":
            is_asked = self._outside.has_asked() or Reason.REPO not in reasons
            return Phase.ASSIGNED not in phases and is_asked and (probed or Reason.HOST not in reasons)
        is_shown = self._pulls is None or self._pulls.is_idle()
        is_done = probed and is_shown and self._outside.has_swept() and self._outside.has_asked()
        return is_done and Reason.BACKOFF not in reasons and not any(phase.is_live for phase in phases)

    # --- Reading -----------------------------------------------------------

    async def _reload(self) -> None:
        """Read the recorded state anew; what was only in memory is gone, as it should be."""
        delay = RETRY
        while not self._stopped:
            try:
                self.statuses, self.hosts = await self.state.load()
            except Exception as error:
                if isinstance(error, Rewound) and self._until != "stopped":
                    raise  # it goes on when a person wants it to, not by itself
                is_ours = not isinstance(error, Unavailable)
                log.warning("%s; trying again in %s", error, delay, exc_info=error if is_ours else None)
                self._agents.refuse(error if isinstance(error, Unavailable) else Unavailable(str(error)))
                self._retry_at, self.trouble = self.clock() + delay, str(error)
                await self.pause(self._news, delay)
                self._news.clear()
                delay = min(delay * 2, RETRY_CAP)
            else:
                self._retry_at, self.trouble = None, ""
                self._spent_since, self.head = None, self.state.head
                self.attention = self._attention(self.desired.tasks.keys() | self.statuses.keys())
                if self._pulls is not None:
                    self._pulls.begin(self.statuses)
                return

    async def _read_specs(self) -> None:
        self._knocked = False
        try:
            desired = await self.specs.read(self.statuses)
        except Exception:
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
        self._forgive(changed)
        self._notice(changed)
        self._outside.probe_anew(before)
        self._breakers.forget(desired.hosts)
        self.on_specs()

    def _notice(self, names: set[str]) -> None:
        self.attention -= names
        self.attention |= self._attention(names)
        if self._pulls is not None:
            self._pulls.notice(names)

    def _attention(self, names: set[str]) -> set[str]:
        tasks, statuses = self.desired.tasks, self.statuses
        return {name for name in names if needs_attention(tasks.get(name), statuses.get(name))} | (
            names & self.desired.broken.keys()
        )

    # --- Mistakes of ours --------------------------------------------------

    def _give_up_on(self, task: str, error: Exception, fact: TaskFact | None = None) -> None:
        """Leave a task as it is, and say why, until its spec changes or something else comes of it."""
        self._faults[task] = fault_words(error, OUTCOME)
        if fact is not None:
            self._abandon(fact)

    def _abandon(self, fact: TaskFact) -> None:
        """Pass over a fact without asking for it again at once."""
        if isinstance(fact, RunEnded):
            self._hopeless.add((fact.run, fact.round))

    @property
    def damaged(self) -> Mapping[str, Problem]:
        """What is wrong with status files that cannot be read, by task."""
        return self.state.damaged

    def _forgive(self, names: Collection[str]) -> None:
        """Try again what failed of these tasks."""
        runs = {status.run for name in names if (status := self.statuses.get(name))}
        self._hopeless = {(run, number) for run, number in self._hopeless if run not in runs}
        self._unwritable.difference_update(names)
        for name in names:
            self._faults.pop(name, None)

    def _tell_faults(self, before: Plan) -> None:
        """Tell of mistakes in planning, once for as long as they last."""
        for name, error in self.last_plan.faults.items():
            if name not in before.faults:
                log.error("task %s cannot be planned; others go on", name, exc_info=error)

    # --- Converging --------------------------------------------------------

    async def _converge(self) -> None:
        """Plan, put on record, act; again until the plan changes nothing any more."""
        while not self._stopped:
            now, facts, digesting = self.clock(), list(self._facts), list(self._digesting)
            words, bids = self._agents.words(self._unwritable), self._agents.bids()
            hosts, news = self._hosts_now(facts, now)
            statuses, seen = self._fold(self.statuses, await self._events(facts, words, now))
            observed = await self._observed(statuses, hosts, seen, now, bids)
            before, self.last_plan = self.last_plan, plan(self.desired, observed, now, self.attention)
            self._tell_faults(before)
            statuses, intended = self._fold(statuses, self.last_plan.events)
            steps = self._writable([*news, *seen, *intended])
            if not await self._commit(steps):
                continue
            self.statuses, self.hosts, self.head = statuses, hosts, self.state.head
            self._take_note(steps)
            del self._facts[: len(facts)]
            await self._act(self.last_plan, intended)
            self._agents.settle(bids, words, self._open())
            if not steps:
                self._digest(digesting)
                return

    def _digest(self, digesting: Sequence[asyncio.Future[None]]) -> None:
        """Tell those who waited when this look began that everything that was said by then is on record."""
        for done in digesting:
            if not done.done():
                done.set_result(None)
        self._digesting = [done for done in self._digesting if not done.done()]

    async def _observed(
        self,
        statuses: Mapping[str, Status],
        hosts: Mapping[str, HostStatus],
        seen: Sequence[Transition],
        now: datetime,
        bids: Sequence[LeaseRequest],
    ) -> Observed:
        """Return what is, with the steps that were seen and are not on record yet."""
        known = statuses.keys() | self.damaged.keys()
        new = [name for name in self.attention if name in self.desired.tasks and name not in known]
        open_ = self._open()
        self._agents.watch(open_.values(), now + self.desired.fleet.lease)
        return Observed(
            statuses=statuses,
            hosts=hosts,
            load=self._outside.load,
            followed=self._followed(),
            bids=open_requests(bids, open_),
            leases=self._agents.leases,
            asked=frozenset(self._outside.asked),
            on_trial=self._breakers.on_trial(hosts, now),
            unready=self._outside.unready(),
            troubles=self._troubles(now),
            past=await self.state.past_attempts(new) if new else {},
            spent=await self._spent_today(seen, now),
            damaged=self.damaged,
            drift=self.drift,
            faults=self._faults,
            machine=self.machine,
            takes_over=self.takes_over,
        )

    def _troubles(self, now: datetime) -> Mapping[str, str]:
        """Return what is tried again and again, by run key."""
        shown = self._pulls.troubles(now) if self._pulls is not None else {}
        return {**shown, **self._outside.troubles.lasting(now), **self.dispatch.troubles}

    async def _spent_today(self, seen: Sequence[Transition], now: datetime) -> Mapping[BudgetScope, Usage]:
        """Return what was spent today; the record is read once a day, and if somebody else wrote to it."""
        if not has_daily_budget(self.desired):
            return {}
        today = midnight(now)
        if self._spent_since != today:
            self._spent, self._spent_since = await self.state.spent(today), today
        return with_expenses(self._spent, seen, today)

    def _hosts_now(
        self, facts: Sequence[Fact], now: datetime
    ) -> tuple[Mapping[str, HostStatus], Sequence[HostChange]]:
        """Return what is known of the hosts after these facts, and what of it is news for the record."""
        hosts, changes = dict(self.hosts), list[HostChange]()
        self._outside.probe_soon(self._breakers.note(facts, self.statuses, now))
        for fact in facts:
            if isinstance(fact, HostSeen) and fact.host in self.desired.hosts:
                before = hosts.get(fact.host)
                try:
                    status = self._breakers.seen(fact, before)
                    change = host_change(fact.host, before, status, fact.at)
                except Exception:
                    log.exception("host %s: what its probe found is passed over", fact.host)
                    continue
                if change is not None:
                    hosts[fact.host] = status
                    changes += [change] if self._is_to_tell(before) else []
        for change in self._breakers.changes(hosts, now):
            hosts |= {change.host: change.after} if change.after else {}
            changes += [change] if self._is_to_tell(change.before) else []
        if self.desired.revision:
            changes += [
                host_removal(name, hosts.pop(name), now) for name in self.hosts.keys() - self.desired.hosts
            ]
        return hosts, changes

    def _is_to_tell(self, before: HostStatus | None) -> bool:
        """Return whether the record of a host is ours: a local host is another on each machine."""
        machine = before.machine if before else None
        return self.takes_over or machine is None or machine == self.machine

    @staticmethod
    def _fold(
        statuses: Mapping[str, Status], events: Sequence[Event]
    ) -> tuple[Mapping[str, Status], Sequence[Transition]]:
        """Fold, but spare the copy of a large fleet when there is nothing to fold."""
        return fold(statuses, events) if events else (statuses, ())

    def _followed(self) -> frozenset[tuple[str, int]]:
        """Return the rounds that need no follower: they have one, or their end waits to be recorded."""
        ended = {(fact.run, fact.round) for fact in self._facts if isinstance(fact, RunEnded)}
        return self.dispatch.followed | ended | self._hopeless

    async def _events(
        self, facts: Sequence[Fact], words: Sequence[PendingReport], now: datetime
    ) -> list[Event]:
        """Turn facts and words into what they mean; one about a run that is over by now means nothing."""
        touched, events = dict[str, Status | None](), list[Event]()
        for told in facts:
            if isinstance(told, HostSeen):
                continue
            task = told.task if isinstance(told, MergeSeen | PullRequestSeen) else self._task_of(told)
            fact, status = replace(told, task=task), touched.get(task, self.statuses.get(task))
            if task in self._unwritable:
                self._abandon(fact)
                continue
            if isinstance(fact, RunEnded) and not (status and _is_about(fact, status)):
                self._outside.sweep_soon(self.desired.hosts)  # who swept before had to spare its folders
            try:
                meant, touched[task] = await self._meant(fact, status, now)
            except Unavailable:
                raise
            except Exception as error:
                log.exception("task %s: what came of it cannot be thought about; others go on", task)
                self._give_up_on(task, error, fact)
            else:
                events += meant
                if not isinstance(fact, RunSeen):
                    self._faults.pop(task, None)
        spoken_of = {word.said.task for word in words}
        known = {**self._open(spoken_of), **{name: status for name, status in touched.items() if status}}
        return [*events, *self._agents.meaning(words, self.desired, known, now)]

    async def _meant(
        self, fact: TaskFact, status: Status | None, now: datetime
    ) -> tuple[Sequence[Event], Status | None]:
        """Return everything that a fact means for its task, and where that brings it."""
        events = list[Event]()
        while (event := await self._meaning(fact, status, now)) is not None:
            before, status = status, transition(status, event)
            if status == before:
                break  # it would mean the same again, and again
            events.append(event)
        return events, status

    def _open(self, more: Collection[str] = ()) -> Mapping[str, Status]:
        """Return the statuses of open tasks, and of some more."""
        names = self.attention.union(more)
        return {name: self.statuses[name] for name in names if name in self.statuses}

    def _task_of(self, fact: RunSeen | RunEnded) -> str:
        """Return the task whose run it is, by the name it has by now: its file may have moved."""
        names = (fact.task, *self.attention)
        runs = ((name, status.run) for name in names if (status := self.statuses.get(name)))
        return next((name for name, run in runs if run == fact.run), fact.task)

    async def _meaning(self, fact: TaskFact, status: Status | None, now: datetime) -> Event | None:
        if isinstance(fact, MergeSeen):
            return _merged(fact, status)
        if isinstance(fact, PullRequestSeen):
            return self._followed_up(fact, status)
        if status is None or not _is_about(fact, status):
            return None
        if isinstance(fact, RunEnded):
            task = self.desired.tasks.get(fact.task)
            task = task or await self.specs.recall(fact.task, status.generation)
            meaning = next_event(task, status, fact, now, self.desired.fleet)
            return attribute(self.desired, meaning) if meaning else None
        if status.phase is not Phase.ASSIGNED and fact.prompt_sha256 in {None, status.prompt_sha256}:
            return None
        return Started(
            task=fact.task,
            origin=Origin(fact.at, f"the agent of round {fact.round} was seen alive", cause="host"),
            run=fact.run,
            prompt_sha256=fact.prompt_sha256,
        )

    async def _commit(self, steps: Sequence[Step]) -> bool:
        """Put steps on record; False if somebody wrote first and it must be thought anew."""
        if not steps:
            return True
        try:
            await self.state.commit(steps)
        except Conflict as conflict:
            log.info("%s; thinking again", conflict)
            await self._reload()
            return False
        except Unavailable:
            raise
        except Exception:
            log.exception("not everything can be put on record; what can be is")
            await self._commit_apart(steps)
            await self._reload()
            return False
        return True

    async def _commit_apart(self, steps: Sequence[Step]) -> None:
        """Put on record what can be, task by task, and remember what cannot."""
        found = dict[str, Exception]()
        for name in dict.fromkeys(_subject(step) for step in steps):
            try:
                await self.state.commit([step for step in steps if _subject(step) == name])
            except Conflict:
                return  # what else is wrong is found when it was thought about anew
            except Unavailable:
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is, it is told of what it is about
                found[name] = error
        if not found:
            return
        self._unwritable |= found.keys()
        for name, why in found.items():
            log.error("%s: it cannot be put on record; others go on", name, exc_info=why)
            self._give_up_on(name, why)

    def _writable(self, steps: Sequence[Step]) -> Sequence[Step]:
        return [step for step in steps if _subject(step) not in self._unwritable]

    def _take_note(self, steps: Sequence[Step]) -> None:
        """Tell of what is on record now, and let it have its consequences here."""
        taken = [step for step in steps if isinstance(step, Transition)]
        self._notice({name for step in taken for name in (step.task, step.old)})
        if self._spent_since is not None:
            self._spent = with_expenses(self._spent, taken, self._spent_since)
        for step in steps:
            log.info(
                "%s: %s",
                _subject(step),
                step.event.origin.reason if isinstance(step, Transition) else step.reason,
            )
            self.on_step(step)
        settled = [step.after is None or step.after.phase.is_settled for step in taken]
        returned = [step.host for step in steps if isinstance(step, HostChange) and _is_back(step)]
        self._outside.sweep_soon(self.desired.hosts if any(settled) else returned)

    async def _act(self, planned: Plan, intended: Sequence[Transition]) -> None:
        """Send somebody to every run that needs it; to those, too, that their tasks went on without."""
        left = {step.before.run: step.before for step in intended if step.before and step.before.run}
        for action in planned.actions:
            if not isinstance(action, FollowRun | StopRun):
                continue
            status = self.statuses.get(action.task)
            if isinstance(action, StopRun):
                status = left.get(action.run, status)
            if status is None or (status.run, status.round) != (action.run, action.round):
                continue
            try:
                work = await self._order(action.task, status)
                if isinstance(action, StopRun):
                    self.dispatch.stop(work, action.reason, self.emit)
                else:
                    self.dispatch.follow(work, self.emit)
            except SpecError as error:
                self.emit(unrunnable(action.task, status, str(error), self.clock()))
            except Unavailable:
                raise
            except Exception as error:
                log.exception("task %s: nobody can be sent to its run; others go on", action.task)
                self._give_up_on(action.task, error)
                self._hopeless.add((action.run, action.round))
                self._news.set()

    async def _order(self, name: str, status: Status) -> RunRequest:
        """Return what to carry out: by the spec the run was assigned with, not by a newer one."""
        return build_run_request(await self._spec_of(name, status), status, self.desired)

    async def _spec_of(self, name: str, status: Status) -> Task:
        """Return the spec that a live run was assigned with. Raises SpecError if it is lost."""
        task: Task | None = self.desired.tasks.get(name)
        if task is None or task.generation != status.generation:
            task = await self.specs.recall(name, status.generation) or task
        if task is None:
            raise SpecError(())
        return task

    def _followed_up(self, fact: PullRequestSeen, status: Status | None) -> Event | None:
        """Return the next thing that a pull request means for its task."""
        task = self.desired.tasks.get(fact.task)
        repo = self.desired.repos.get(task.repo or "") if task else None
        if task is None or status is None or repo is None:
            return None
        return follow(task, status, fact.pull, repo, fact.at, bot=fact.bot, delivery=fact.delivery)


def _is_about(fact: RunSeen | RunEnded, status: Status) -> bool:
    """Return whether a fact is about the round that is under way."""
    return status.phase.is_live and (status.run, status.round) == (fact.run, fact.round)


def _subject(step: Step) -> str:
    """Return what a step is about."""
    return step.task if isinstance(step, Transition) else f"host {step.host}"


def _merged(fact: MergeSeen, status: Status | None) -> Event | None:
    if status is None or status.phase is not Phase.REVIEW_PENDING or status.head_commit != fact.head:
        return None
    return Completed(task=fact.task, origin=Origin(fact.at, f"merged into {fact.base}", cause="person"))


def _is_back(change: HostChange) -> bool:
    return change.after is not None and change.after.reachable

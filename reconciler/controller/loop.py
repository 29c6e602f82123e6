"""
Reconcile loop: read specs and facts, plan, record, act.

One coroutine does this; nothing else changes the record. Runs are never
awaited here: their followers send facts to the inbox.
"""

import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal, TypeVar

from reconciler import log_fields
from reconciler.controller.act import Actuator
from reconciler.controller.backoff import Backoff
from reconciler.controller.cache import FleetCache
from reconciler.controller.hosts import HostMaintenance
from reconciler.controller.inbox import Inbox, Waiter
from reconciler.controller.leases import PendingReport, WorkerLeases, held_tasks, open_requests
from reconciler.controller.observe import HostObserver, TaskObserver, observe_accounts
from reconciler.controller.poller import Poller
from reconciler.controller.ports import ControllerSettings, Fact, LookOutcome, Ports, Step, subject
from reconciler.controller.pull_requests import PullRequestController
from reconciler.controller.quarantine import Quarantine
from reconciler.controller.record import Recorder
from reconciler.controller.spending import DailySpending
from reconciler.controller.variants import VariantController
from reconciler.core.errors import ReconcilerError, Rewound, Unavailable
from reconciler.core.events import Event, RunEnded
from reconciler.core.faults import culprits
from reconciler.core.hosts import HostChange
from reconciler.core.lifecycle import Transition
from reconciler.core.model.specs import LOCAL
from reconciler.core.model.status import HostStatus, LeaseRequest, Observed, Phase, Reason, Status

log = logging.getLogger(__name__)

T = TypeVar("T")

_FAULT: LookOutcome = "fault"

StopWhen = Literal["stopped", "idle", "started"]
"""When `run` ends: on `stop`; when nothing more happens by itself; when all that can start has started."""


@dataclass(frozen=True, slots=True)
class Controllers:
    """Controllers beside the loop: each has its own pace, and sends facts to the inbox."""

    leases: WorkerLeases
    hosts: HostMaintenance
    pulls: PullRequestController
    variants: VariantController

    @property
    def pollers(self) -> Sequence[Poller[Any]]:
        """All pollers that the loop drives."""
        return *self.hosts.pollers, self.pulls.poller, self.variants.poller

    async def close(self) -> None:
        """Cancel the polls that are under way."""
        for poller in self.hosts.pollers:
            await poller.close()
        await self.pulls.close()


@dataclass(frozen=True, slots=True)
class Stages:
    """Stages of a round, and the quarantine to which each adds what it cannot handle."""

    tasks: TaskObserver
    hosts: HostObserver
    recorder: Recorder
    actuator: Actuator
    spending: DailySpending
    quarantine: Quarantine


@dataclass(slots=True)
class Listeners:
    """Callbacks of the loop."""

    steps: list[Callable[[Step], None]] = field(default_factory=list)
    """Called with each step that is on record now."""
    specs: list[Callable[[], object]] = field(default_factory=list)
    """Called after new specs were read."""

    def tell_of_step(self, step: Step) -> None:
        """Call those who listen for steps; whoever fails costs nobody else the news."""
        for listener in self.steps:
            try:
                listener(step)
            except Exception:
                log.exception(
                    "a listener failed at a step of %s; it stays on record, and others hear of it",
                    subject(step),
                )

    def tell_of_specs(self) -> None:
        """Call those who listen for specs, likewise."""
        for listener in tuple(self.specs):
            try:
                listener()
            except Exception:
                log.exception("a listener failed at new specs; others hear of them")


@dataclass
class Loop:
    """
    Reconcile loop of one fleet.

    `run` converges until told otherwise, and `stop` ends it; both belong to one
    event loop. `inbox.notify` says that there may be news.
    """

    ports: Ports
    settings: ControllerSettings
    cache: FleetCache
    inbox: Inbox
    controllers: Controllers
    stages: Stages

    listeners: Listeners = field(default_factory=Listeners, init=False)
    backoff: Backoff = field(default_factory=Backoff, init=False)
    has_looked: bool = field(default=False, init=False)
    """Whether a look came to its end."""
    _is_loaded: bool = field(default=False, init=False)
    """Whether the cache holds the record as last read or written."""
    _is_stopped: bool = field(default=False, init=False)

    def stop(self) -> None:
        """End `run` at the next step; live runs go on without us."""
        self._is_stopped = True
        self.controllers.leases.close()
        self.inbox.wake()

    async def run(self, until: StopWhen = "stopped") -> None:
        """
        Converge and wait for news, repeatedly, until it is time to end.

        Raises Rewound if the record was rewound, unless it is to run until it is stopped.
        """
        self._is_loaded = False
        try:
            while not self._is_stopped:
                # Cleared before the look: what arrives during it is news for the next.
                self.inbox.news.clear()
                wait = await self._look(until)
                if self._is_stopped or self._is_over(until):
                    return
                await self.ports.pause(self.inbox.news, wait)
        finally:
            self.controllers.leases.refuse(
                Unavailable("the reconciler is being stopped; try again in a few seconds")
            )
            await self.controllers.close()
            await self._close_dispatch()

    async def _close_dispatch(self) -> None:
        """Stop following runs; a bug in it must not keep whoever comes next from closing."""
        try:
            await self.ports.dispatch.close()
        except Exception:
            log.exception("following runs could not be ended as it should; they go on, and are found again")

    @property
    def unready(self) -> str:
        """Why tasks are not looked after now, in words; empty if they are."""
        if self._is_stopped:
            return "the reconciler is stopping"
        if self.backoff.why:
            return self.backoff.why
        return "" if self.has_looked else "the first look at the fleet is not done yet"

    async def _look(self, until: StopWhen = "stopped") -> timedelta | None:
        """
        Take one look at everything that may have changed; return how long to wait for news.

        After an outage the next look is delayed; hints do not shorten that.
        """
        self.controllers.leases.follow_clock()  # first: all deadlines are judged by it
        if rest := self.backoff.remaining(self.ports.clock()):
            return rest
        began, outcome = self.ports.monotonic(), _FAULT
        try:
            await self._converge()
            due = self._send_out(self.ports.clock())
        except Unavailable as error:
            outcome = "unavailable"
            if isinstance(error, Rewound) and not self._is_loaded and until != "stopped":
                raise  # it goes on after a person's decision, not by itself
            log.warning("%s; trying again in %s", error, self.backoff.delay)
            return self._back_off(error)
        except Exception:
            log.exception("a look failed with an unexpected error; trying again in %s", self.backoff.delay)
            return self._back_off(Unavailable("an unexpected error; see the log of the reconciler"))
        else:
            outcome = "ok"
        finally:
            self.ports.meter.look(self.ports.monotonic() - began, outcome)
        self.has_looked = True
        self.backoff.succeed()
        self.controllers.leases.open()
        return due

    def _back_off(self, error: ReconcilerError) -> timedelta:
        """Pause with exponential backoff; return for how long."""
        self.controllers.leases.refuse(error)
        return self.backoff.fail(str(error), self.ports.clock())

    def _send_out(self, now: datetime) -> timedelta | None:
        """Start every poll that is due; return the time until the next one."""
        pollers = self.controllers.pollers
        for poller in pollers:
            poller.poll_due(now)
        times = (
            self.cache.last_plan.due,
            self.inbox.next(),
            self.stages.hosts.breakers.next(now),
            *(each.next() for each in pollers),
        )
        return min((time - now for time in times if time is not None), default=None)

    def _is_over(self, until: StopWhen) -> bool:
        if (
            until == "stopped"
            or self.inbox.is_notified
            or not self.inbox.is_empty
            or self.backoff.until is not None
        ):
            return False
        hosts = self.controllers.hosts
        statuses, faults = self.cache.open_statuses(), self.stages.quarantine.faults
        phases = {status.phase for name, status in statuses.items() if name not in faults}
        starting = [
            status
            for name, status in statuses.items()
            if status.phase is Phase.ASSIGNED and name not in faults and not _is_queued(status)
        ]
        reasons = {waiting.reason for waiting in self.cache.waiting.values()}
        if until == "started":
            is_asked = hosts.contacts.is_idle() or Reason.REPO not in reasons
            is_probed = hosts.probes.is_idle() or Reason.HOST not in reasons
            return not starting and is_asked and is_probed
        is_busy = any(phase.is_live for phase in phases) or self.controllers.pulls.is_validating
        is_at_rest = Reason.BACKOFF not in reasons and not is_busy
        return is_at_rest and all(poller.is_idle() for poller in self.controllers.pollers)

    # --- Read --------------------------------------------------------------

    async def _read(self) -> None:
        """Read record and specs if they may have moved."""
        # The record first: its generations tell which version of a broken spec is in force.
        if not self._is_loaded or (self.inbox.is_notified and self.ports.state.has_moved()):
            await self._load()
        if self.inbox.is_notified:
            await self._read_specs()
        await self._read_archive()

    async def _read_archive(self) -> None:
        """Take back from the archive what is on record of tasks whose specs came, or came back."""
        cache, faults = self.cache, self.stages.quarantine.faults
        names = [name for name in cache.groups.names("new") if name not in faults]
        for archived in await self._asked_apart(self.ports.state.archived, names) if names else ():
            if taken := archived.statuses.keys() | archived.damaged.keys():
                cache.statuses = {**cache.statuses, **archived.statuses}
                cache.damaged = {**cache.damaged, **archived.damaged}
                self._notice(taken)

    async def _load(self) -> None:
        """Load the record, and drop state that was only in memory."""
        self._is_loaded = False
        cache, state = self.cache, self.ports.state
        cache.statuses, cache.hosts = await state.load()
        cache.head, cache.damaged, cache.accounts = state.head, state.damaged, state.accounts
        cache.forget()
        self.stages.spending.forget()
        self.controllers.pulls.begin(cache.statuses)
        self._notice(cache.desired.tasks.keys() | cache.statuses.keys())
        self._is_loaded = True
        self.controllers.leases.open()

    async def _read_specs(self) -> None:
        self.inbox.is_notified = False  # before the read: a hint that comes meanwhile counts
        try:
            before, desired = self.cache.desired, await self.ports.specs.read(self.cache.statuses)
        except Exception:
            self.inbox.is_notified = True
            raise
        if desired is before:
            return
        for problem in desired.problems:
            if problem not in before.problems:
                log.warning("%s", problem)
        self.cache.desired = desired
        log_fields.bind(revision=desired.revision)
        names = before.tasks.keys() | desired.tasks.keys()
        changed = {name for name in names if before.tasks.get(name) is not desired.tasks.get(name)}
        changed |= before.broken.keys() | desired.broken.keys()
        if not before.revision:
            changed |= self.cache.statuses.keys()
        self.stages.quarantine.release(changed, self.cache)
        self._notice(changed)
        self.controllers.hosts.probe_for_adapters()
        self.listeners.tell_of_specs()

    def _notice(self, names: Collection[str]) -> None:
        """Tell the controllers about tasks whose spec or status is new."""
        self.cache.refresh(names)
        for name, error in culprits(self.controllers.pulls.notice, list(names)).items():
            log.error("task %s cannot be shown or followed on its forge; others are", name, exc_info=error)

    # --- Converge ----------------------------------------------------------

    async def _converge(self) -> None:
        """Run rounds until one changes nothing, each on the newest specs: there may be steps all the time."""
        while True:
            await self._read()
            if self._is_stopped or not await self._reconcile_once():
                return

    async def _reconcile_once(self) -> bool:
        """Run one round: observe, plan, record, act; return whether another may find something to do."""
        cache, quarantine, batch = self.cache, self.stages.quarantine, self._batch()
        hosts, news = self._observe_hosts(batch)
        # Events are folded before the plan: a run that has ended leaves its slot to what
        # is planned now, and is not waited for, stopped or given out once more.
        statuses, seen = quarantine.fold(cache.statuses, await self._observe_tasks(batch))
        cache.planner.notice(name for step in seen for name in (step.task, step.old))
        limits = observe_accounts(cache, batch.facts, batch.now)
        observed = await self._observed(batch, statuses, hosts, seen)
        self._plan(replace(observed, accounts=limits.accounts), batch.now)
        statuses, planned = quarantine.fold(statuses, cache.last_plan.events)
        # Record before acting: after a crash, whatever was begun is in the record, where the
        # next start finds it. Steps stay in order, as each builds on the one before:
        # first what was observed, then what was planned because of it.
        steps = quarantine.writable([*news, *limits.changes, *seen, *planned])
        if not await self.stages.recorder.commit(steps):
            await self._load()
            return True
        cache.statuses, cache.hosts, cache.head = statuses, hosts, self.ports.state.head
        cache.accounts = limits.accounts
        self._publish(steps)
        self.inbox.linger(self.stages.recorder.took)
        # Facts are dropped only now: had the commit failed, they would have to be judged again.
        del self.inbox.facts[: len(batch.facts)]
        await self.stages.actuator.act(cache.last_plan, planned)
        # Workers are answered last: what they are told has to be on record.
        self.controllers.leases.settle(batch.lease_requests, batch.reports)
        if quarantine.faults != batch.faults:
            return True
        # Only a round in which it takes no step shows that for a task nothing follows any more.
        self.inbox.release(batch.waiters, {name for step in steps for name in _names(step)})
        return bool(steps)

    def _batch(self) -> "_Batch":
        """Take a snapshot of the input before the first await: later arrivals belong to the next round."""
        leases, quarantine, now = self.controllers.leases, self.stages.quarantine, self.ports.clock()
        self.inbox.ripen(now)
        return _Batch(
            now=now,
            facts=tuple(self.inbox.facts),
            waiters=tuple(self.inbox.waiters),
            reports=leases.pending_reports(quarantine.unwritable),
            lease_requests=leases.lease_requests(),
            faults=dict(quarantine.faults),
        )

    def _observe_hosts(self, batch: "_Batch") -> tuple[Mapping[str, HostStatus], Sequence[HostChange]]:
        observation = self.stages.hosts.observe(batch.facts, batch.now)
        self.controllers.hosts.probes.notify(observation.recovered)
        return observation.hosts, observation.changes

    async def _observe_tasks(self, batch: "_Batch") -> Sequence[Event]:
        observation = await self.stages.tasks.observe(batch.facts, batch.now)
        if observation.has_late_end:
            self.controllers.hosts.sweeps.notify(self.cache.desired.hosts)
        # Facts before reports: a worker whose run has just ended is told so, and not believed.
        reported = self.controllers.leases.judge_reports(batch.reports, observation.statuses, batch.now)
        return [*observation.events, *reported]

    async def _observed(
        self,
        batch: "_Batch",
        statuses: Mapping[str, Status],
        hosts: Mapping[str, HostStatus],
        seen: Sequence[Transition],
    ) -> Observed:
        """Return the observed state, including observed steps that are not on record yet."""
        cache, beside, stages = self.cache, self.controllers, self.stages
        beside.leases.watch(batch.now)
        return Observed(
            statuses=statuses,
            hosts=hosts,
            load=beside.hosts.load,
            followed=self._followed(),
            lease_requests=open_requests(batch.lease_requests, held_tasks(cache, batch.lease_requests)),
            leases=beside.leases.leases,
            probed=frozenset(beside.hosts.probed),
            half_open=stages.hosts.breakers.half_open(hosts, batch.now, cache.at_work),
            unready=beside.hosts.unready(),
            retry_reasons=self._retry_reasons(batch.now),
            agent_over=self.ports.dispatch.agent_over,
            past=await self._past_attempts(statuses),
            spent=await stages.spending.today(cache.desired, seen, batch.now),
            spent_in_week=await stages.spending.in_week(cache.desired, seen, batch.now),
            damaged=cache.damaged,
            drift=cache.drift,
            faults=stages.quarantine.faults,
            machine=self.settings.machine,
            takes_over=self.settings.takes_over,
        )

    def _retry_reasons(self, now: datetime) -> Mapping[str, str]:
        """Return why steps of runs are being retried, by run key."""
        pulls, hosts = self.controllers.pulls, self.controllers.hosts
        return {**pulls.retry_reasons(now), **hosts.retry_reasons(now), **self.ports.dispatch.retry_reasons}

    async def _past_attempts(self, statuses: Mapping[str, Status]) -> Mapping[str, int]:
        """Return the last attempts, by name, of new tasks whose name was in use before."""
        names = [name for name in self.cache.groups.names("new") if name not in statuses]
        parts = await self._asked_apart(self.ports.state.past_attempts, names) if names else ()
        return {name: attempt for part in parts for name, attempt in part.items()}

    async def _asked_apart(
        self, ask: Callable[[Sequence[str]], Awaitable[T]], names: Sequence[str]
    ) -> Sequence[T]:
        """
        Return what is on record of tasks from before they were new.

        A task of which a bug keeps that from being read is set aside.
        """
        try:
            return [await ask(names)]
        except ReconcilerError:
            raise
        except Exception as error:
            log.exception("what is on record of %s cannot be read; others go on", ", ".join(names))
            if len(names) == 1:
                self.stages.quarantine.add(names[0], error)
                return []
        middle = len(names) // 2
        return [
            part for half in (names[:middle], names[middle:]) for part in await self._asked_apart(ask, half)
        ]

    def _followed(self) -> frozenset[tuple[str, int]]:
        """Return the rounds that need no new follower: they have one, or their end waits to be recorded."""
        ended = {(fact.run, fact.round) for fact in self.inbox.facts if isinstance(fact, RunEnded)}
        return self.ports.dispatch.followed | ended | self.stages.quarantine.rounds

    def _plan(self, observed: Observed, now: datetime) -> None:
        """Plan for the open tasks; each fault in it is logged once while it lasts."""
        before, cache = self.cache.last_plan, self.cache
        cache.last_plan = cache.planner.plan(cache.desired, observed, now)
        for name, error in cache.last_plan.faults.items():
            if name not in before.faults:
                log.error("task %s cannot be planned; others go on", name, exc_info=error)

    def _publish(self, steps: Sequence[Step]) -> None:
        """Pass recorded steps to the listeners and controllers."""
        transitions = [step for step in steps if isinstance(step, Transition)]
        self._notice({name for step in transitions for name in (step.task, step.old)})
        self.stages.spending.add(transitions)
        for step in steps:
            log.info(
                "%s: %s",
                subject(step),
                step.event.origin.reason if isinstance(step, Transition) else step.reason,
            )
            self.listeners.tell_of_step(step)
        returned = [step.host for step in steps if isinstance(step, HostChange) and _is_back(step)]
        left = [host for step in transitions for host in self._hosts_left(step)]
        self.controllers.hosts.sweeps.notify({*returned, *left})

    def _hosts_left(self, step: Transition) -> Collection[str]:
        """Return the hosts on which a task that is settled now leaves something; hourly all are swept."""
        status = step.after or step.before
        if status is None or (step.after and not step.after.phase.is_settled):
            return ()
        if status.checks and not status.assigned_host:  # a worker's work was validated on one of them
            return self.cache.desired.hosts
        repo = self.cache.desired.repos.get((status.run and status.run.repo) or "")
        queue = [repo.validate_on or LOCAL] if repo and repo.merge == "queue" else []
        return [status.assigned_host, *queue] if status.assigned_host else queue


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """Input of one round: all that had arrived when it began."""

    now: datetime
    facts: Sequence[Fact]
    waiters: Sequence[Waiter]
    reports: Sequence[PendingReport]
    lease_requests: Sequence[LeaseRequest]
    faults: Mapping[str, str]
    """Faults known before the round."""


def _names(step: Step) -> Collection[str]:
    """Return what a step is about; of a task that was renamed both names."""
    return {subject(step), step.old} if isinstance(step, Transition) else {subject(step)}


def _is_back(change: HostChange) -> bool:
    """Return whether a host answers that did not before; another CLI on it leaves nothing to sweep."""
    was_there = change.before is not None and change.before.reachable
    return change.after is not None and change.after.reachable and not was_there


def _is_queued(status: Status) -> bool:
    """Return whether a run is handed over to the queue of its host, which starts it."""
    return status.waiting is not None and status.waiting.reason is Reason.QUEUE

"""
What the loop sends people out for: hosts that are probed and swept, merges, work that agents say is done.

What they find comes back as facts; nobody waits for them.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from reconciler.controller.assigned import AssignedSpecs
from reconciler.controller.cache import FleetCache
from reconciler.controller.failing import FailingTries
from reconciler.controller.inbox import Inbox
from reconciler.controller.periodic import PeriodicTasks
from reconciler.controller.ports import Clock, ControllerSettings, Dispatch, Prober
from reconciler.controller.repo_health import RepoHealth
from reconciler.core.errors import SpecError, Unavailable
from reconciler.core.events import HostSeen, MergeSeen, RunEnded
from reconciler.core.model.runs import Claim, FailureClass, Report, Verdict
from reconciler.core.model.specs import Desired, DesiredState, ExecutionMode, Host, Repo, Task
from reconciler.core.model.status import Phase, Reason, Status
from reconciler.core.runs.leases import verdict_of
from reconciler.core.runs.retention import Retention, retention

log = logging.getLogger(__name__)

_READY = frozenset({Reason.REPO, Reason.SLOT, Reason.HOST})
"""Waits that end without a time or a person: whoever waits so may start at any moment."""
INSPECTION = timedelta(seconds=30)
"""How soon work is looked at again that could not be checked."""


@dataclass
class HostMaintenance:
    """Errands to hosts and to code repositories."""

    controller: FleetCache
    inbox: Inbox
    assigned: AssignedSpecs
    dispatch: Dispatch
    prober: Prober
    clock: Clock
    settings: ControllerSettings

    load: dict[str, float] = field(default_factory=dict, init=False)
    """Load per core of the last probe, by host."""
    probed: set[str] = field(default_factory=set, init=False)
    """Hosts that were probed, answer or no answer."""
    troubles: FailingTries = field(default_factory=FailingTries, init=False)
    """Looks that failed and are taken again, by run key."""
    _contacts: RepoHealth = field(default_factory=RepoHealth, init=False)
    _adapters: set[str] = field(default_factory=set, init=False)
    """Those that open tasks were given to when the specs were last read."""

    def __post_init__(self) -> None:
        self._sweeps = PeriodicTasks(self._sweep, self.inbox.wake)
        self._probes = PeriodicTasks(self._probe, self.inbox.wake)
        self._merges = PeriodicTasks(self._look_for_merges, self.inbox.wake)
        self._inspections = PeriodicTasks(self._inspect, self.inbox.wake)
        self._asks = PeriodicTasks(self._ask, self.inbox.wake)

    # --- What the loop says -------------------------------------------------

    def send(self, now: datetime) -> None:
        """Send somebody wherever it is time."""
        desired = self.controller.desired
        self._sweeps.send(desired.hosts, now, self.settings.sweep_interval)
        self._probes.send(self._hosts_in_use(), now, self.settings.probe_interval)
        self._merges.send(self._repos_in_review(), now, desired.fleet.poll_interval)
        self._inspections.send(self._to_inspect(), now, INSPECTION)
        repos = self._repos_to_start_on()
        self._contacts.keep(repos)
        self._asks.send(self._contacts.to_ask(repos, now), now, desired.fleet.poll_interval)
        self.troubles.keep({status.run for _, status in self._open_statuses() if status.run})

    def next(self) -> datetime | None:
        """Return when somebody is to be sent next."""
        jobs = (self._sweeps, self._probes, self._merges, self._inspections, self._asks)
        anew = self._contacts.next(self._repos_to_start_on().values(), self.clock())
        times = (*(job.next() for job in jobs), anew)
        return min((time for time in times if time), default=None)

    def unready(self) -> Mapping[str, str]:
        """Return why no run may start on a code repository now, by name."""
        return self._contacts.unready(self.controller.desired.repos)

    def has_asked(self) -> bool:
        """Return whether every repo that tasks wait to start on was asked, and nobody is under way to one."""
        return self._asks.is_idle(self._contacts.to_ask(self._repos_to_start_on(), self.clock()))

    def has_probed(self) -> bool:
        """Return whether every host in use was asked, and nobody is under way to one."""
        return self._probes.is_idle(self._hosts_in_use())

    def has_swept(self) -> bool:
        """Return whether every host was swept, and nobody is under way to one."""
        return self._sweeps.is_idle(self.controller.desired.hosts)

    def probe_anew(self, before: Desired) -> None:
        """Let hosts be probed soon whose specs are new; all of them, if open tasks name more adapters."""
        previous, self._adapters = self._adapters, self._named_adapters()
        is_asked_more = not self._adapters <= previous
        hosts = self.controller.desired.hosts.items()
        self._probes.notify(name for name, host in hosts if is_asked_more or before.hosts.get(name) != host)

    def probe_soon(self, hosts: Iterable[str]) -> None:
        """Let these hosts be probed soon."""
        self._probes.notify(hosts)

    def sweep_soon(self, hosts: Iterable[str]) -> None:
        """Let these hosts be swept soon."""
        self._sweeps.notify(hosts)

    async def close(self) -> None:
        """Call back who is under way."""
        for job in (self._inspections, self._sweeps, self._probes, self._merges, self._asks):
            await job.close()

    # --- Errands -----------------------------------------------------------

    async def _sweep(self, host: Host) -> None:
        """Relieve a host of what nobody needs any more."""

        def needed() -> Retention:
            return retention(
                self.controller.statuses,
                self.clock(),
                self.controller.desired.fleet,
                damaged=self.controller.damaged,
                drift=self.controller.drift,
            )

        try:
            await self.dispatch.sweep(host, needed)
        except Unavailable as error:
            log.info("%s is not swept now: %s", host.name, error)

    def _repos_to_start_on(self) -> Mapping[str, Repo]:
        """Return the repos of tasks that want to start here, and wait for no time or person."""
        desired = self.controller.desired
        tasks = (
            desired.tasks[name] for name, status in self._open_statuses() if self._may_start(name, status)
        )
        names = {task.repo for task in tasks}
        return {name: repo for name, repo in desired.repos.items() if name in names}

    def _may_start(self, name: str, status: Status) -> bool:
        task, wait = self.controller.desired.tasks.get(name), self.controller.last_plan.waiting.get(name)
        if task is None or task.desired is not DesiredState.ACTIVE or status.phase is not Phase.CREATED:
            return False
        return task.execution_mode is ExecutionMode.SSH_CLI and (wait is None or wait.reason in _READY)

    async def _ask(self, repo: Repo) -> None:
        """See whether a code repository answers."""
        try:
            await self.dispatch.reach(repo)
        except Unavailable as error:
            log.info("repo %s does not answer: %s", repo.name, error)
            self._contacts.failed(repo, str(error), self.clock())
        else:
            self._contacts.answered(repo, self.clock())

    def _to_inspect(self) -> Mapping[str, str]:
        """
        Return the tasks of which an agent has said what came of them, by run.

        One that needs no look is here only if a crash cut off its verdict, which goes on record after it.
        """
        return {
            status.run or "": name
            for name, status in self._open_statuses()
            if status.phase.is_live
            and status.claim is not None
            and name not in self.controller.desired.broken
        }

    async def _inspect(self, name: str) -> None:
        """Judge what an agent says came of its work; what cannot be told now is looked at again."""
        status = self.controller.statuses.get(name)
        if status is None or status.claim is None:
            return
        try:
            report = await self._judged(name, status, status.claim)
        except Unavailable as error:
            log.warning("task %s: what its agent finished cannot be checked now: %s", name, error)
            why = f"what its agent finished cannot be checked: {error}"
            self.troubles.failed(status.run or "", why, self.clock())
            return
        except SpecError as error:
            self.inbox.emit(unrunnable(name, status, str(error), self.clock()))
            return
        run = status.run or ""
        self.inbox.emit(RunEnded(task=name, run=run, round=status.round, at=self.clock(), report=report))

    async def _judged(self, name: str, status: Status, claim: Claim) -> Report:
        """Return what the word of an agent comes to, looked at if it has to be."""
        verdict = verdict_of(status, claim)
        if verdict is not None:
            return Report(verdict=verdict)
        return await self.dispatch.verify(await self.assigned.assignment(name), claim)

    def _repos_in_review(self) -> Mapping[str, Repo]:
        """Return the repos in which delivered work waits to be merged."""
        names = {task.repo for task, _ in self._in_review()}
        return {name: repo for name, repo in self.controller.desired.repos.items() if name in names}

    def _in_review(self) -> Iterator[tuple[Task, Status]]:
        for name in self.controller.open:
            task, status = self.controller.desired.tasks.get(name), self.controller.statuses.get(name)
            if task and status and status.phase is Phase.REVIEW_PENDING and task.review != "pull_request":
                yield task, status

    async def _look_for_merges(self, repo: Repo) -> None:
        """Ask once for all of a repo's tasks whether their work was merged."""
        waiting = {
            task.name: status.head_commit for task, status in self._in_review() if task.repo == repo.name
        }
        try:
            merged = await self.dispatch.merged(repo, {head for head in waiting.values() if head})
        except Unavailable as error:
            log.info("repo %s is not looked at now: %s", repo.name, error)
            for run in self._runs_of(waiting):
                self.troubles.failed(run, f"whether it was merged cannot be told: {error}", self.clock())
            return
        for run in self._runs_of(waiting):
            self.troubles.worked(run)
        for task, head in waiting.items():
            if head in merged:
                self.inbox.emit(MergeSeen(task=task, head=head, at=self.clock(), base=repo.base))

    def _runs_of(self, tasks: Iterable[str]) -> list[str]:
        statuses = (self.controller.statuses.get(name) for name in tasks)
        return [status.run for status in statuses if status and status.run]

    def _hosts_in_use(self) -> Mapping[str, Host]:
        return {
            name: host for name, host in self.controller.desired.hosts.items() if host.desired == "active"
        }

    async def _probe(self, host: Host) -> None:
        """Ask a host what it is, and for the CLIs that open tasks or its spec name."""
        names = self._named_adapters() | (host.adapters or {}).keys()
        adapters = {
            name: adapter for name, adapter in self.controller.desired.adapters.items() if name in names
        }
        status, load = await self.prober.probe(host, adapters, self.controller.hosts.get(host.name))
        self.probed.add(host.name)
        if load is not None:
            self.load[host.name] = load
        if host.is_local:
            status = status.model_copy(update={"machine": self.settings.machine})
        self.inbox.emit(HostSeen(host=host.name, at=self.clock(), status=status))

    def _named_adapters(self) -> set[str]:
        """Return the adapters that open tasks are given to."""
        tasks = (self.controller.desired.tasks.get(name) for name in self.controller.open)
        return {task.adapter for task in tasks if task}

    def _open_statuses(self) -> Iterator[tuple[str, Status]]:
        statuses = self.controller.statuses
        return ((name, statuses[name]) for name in self.controller.open if name in statuses)


def unrunnable(name: str, status: Status, why: str, at: datetime) -> RunEnded:
    """Return the end of a run that cannot go on: a person must mend a file first."""
    verdict = Verdict(outcome="failed", kind=FailureClass.CONFIG, message=why or "its spec is lost")
    run, report = status.run or "", Report(verdict=verdict)
    return RunEnded(task=name, run=run, round=status.round, at=at, report=report)

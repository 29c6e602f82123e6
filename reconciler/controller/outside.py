"""
What the loop sends people out for: hosts that are probed and swept, merges, work that agents say is done.

What they find comes back as facts; nobody waits for them.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from reconciler.controller.errands import Errands
from reconciler.controller.ports import Clock, Desk, Dispatch, Emit, Prober
from reconciler.controller.quarantine import fault_message
from reconciler.core.errors import SpecError, Unavailable
from reconciler.core.events import HostSeen, MergeSeen, RunEnded
from reconciler.core.model import (
    Claim,
    Desired,
    FailureClass,
    Host,
    Phase,
    Repo,
    Report,
    Status,
    Task,
    Verdict,
)
from reconciler.core.needs import Needs, needs
from reconciler.core.pull import verdict_of

log = logging.getLogger(__name__)

INSPECTION = timedelta(seconds=30)
"""How soon work is looked at again that could not be checked."""


@dataclass
class Outside:
    """Errands to hosts and to code repositories; `open` are the names of the tasks that may need one."""

    desk: Desk
    open: Callable[[], Collection[str]]
    dispatch: Dispatch
    prober: Prober
    emit: Emit
    clock: Clock
    wake: Callable[[], None]
    sweep_interval: timedelta
    probe_interval: timedelta
    machine: str | None

    load: dict[str, float] = field(default_factory=dict, init=False)
    """Load per core of the last probe, by host."""
    asked: set[str] = field(default_factory=set, init=False)
    """Hosts that were probed, answer or no answer."""
    _adapters: set[str] = field(default_factory=set, init=False)
    """Those that open tasks were given to when the specs were last read."""

    def __post_init__(self) -> None:
        self._sweeps = Errands(self._sweep, self.wake)
        self._probes = Errands(self._probe, self.wake)
        self._merges = Errands(self._look_for_merges, self.wake)
        self._inspections = Errands(self._inspect, self.wake)

    # --- What the loop says -------------------------------------------------

    def send(self, now: datetime) -> None:
        """Send somebody wherever it is time."""
        desired = self.desk.desired
        self._sweeps.send(desired.hosts, now, self.sweep_interval)
        self._probes.send(self._hosts_in_use(), now, self.probe_interval)
        self._merges.send(self._repos_in_review(), now, desired.fleet.poll_interval)
        self._inspections.send(self._to_inspect(), now, INSPECTION)

    def next(self) -> datetime | None:
        """Return when somebody is to be sent next."""
        errands = (self._sweeps, self._probes, self._merges, self._inspections)
        return min((time for errand in errands if (time := errand.next())), default=None)

    def has_probed(self) -> bool:
        """Return whether every host in use was asked, and nobody is under way to one."""
        return self._probes.is_idle(self._hosts_in_use())

    def has_swept(self) -> bool:
        """Return whether every host was swept, and nobody is under way to one."""
        return self._sweeps.is_idle(self.desk.desired.hosts)

    def probe_anew(self, before: Desired) -> None:
        """Let hosts be probed soon whose specs are new; all of them, if open tasks name more adapters."""
        asked, self._adapters = self._adapters, self._named_adapters()
        is_asked_more = not self._adapters <= asked
        hosts = self.desk.desired.hosts.items()
        self._probes.hurry(name for name, host in hosts if is_asked_more or before.hosts.get(name) != host)

    def sweep_soon(self, hosts: Iterable[str]) -> None:
        """Let these hosts be swept soon."""
        self._sweeps.hurry(hosts)

    async def close(self) -> None:
        """Call back who is under way."""
        for errand in (self._inspections, self._sweeps, self._probes, self._merges):
            await errand.close()

    # --- Errands -----------------------------------------------------------

    async def _sweep(self, host: Host) -> None:
        """Relieve a host of what nobody needs any more."""

        def needed() -> Needs:
            return needs(self.desk.statuses, self.clock(), self.desk.desired.fleet)

        try:
            await self.dispatch.sweep(host, needed)
        except Unavailable as error:
            log.info("%s is not swept now: %s", host.name, error)

    def _to_inspect(self) -> Mapping[str, str]:
        """
        Return the tasks of which an agent has said what came of them, by run.

        One that needs no look is here only if a crash cut off its verdict, which goes on record after it.
        """
        return {
            status.run or "": name
            for name, status in self._open_statuses()
            if status.phase.is_live and status.claim is not None and name not in self.desk.desired.broken
        }

    async def _inspect(self, name: str) -> None:
        """Judge what an agent says came of its work; what cannot be told now is looked at again."""
        status = self.desk.statuses.get(name)
        if status is None or status.claim is None:
            return
        try:
            report = await self._judged(name, status, status.claim)
        except Unavailable as error:
            log.warning("task %s: what its agent finished cannot be checked now: %s", name, error)
            return
        except SpecError as error:
            self.emit(given_up(name, status, str(error), self.clock()))
            return
        except Exception as error:
            log.exception("what the agent of task %s finished cannot be checked", name)
            self.emit(given_up(name, status, fault_message(error), self.clock()))
            return
        run = status.run or ""
        self.emit(RunEnded(task=name, run=run, round=status.round, at=self.clock(), report=report))

    async def _judged(self, name: str, status: Status, claim: Claim) -> Report:
        """Return what the word of an agent comes to, looked at if it has to be."""
        verdict = verdict_of(status, claim)
        if verdict is not None:
            return Report(verdict=verdict)
        return await self.dispatch.verify(await self.desk.assignment(name), claim)

    def _repos_in_review(self) -> Mapping[str, Repo]:
        """Return the repos in which delivered work waits to be merged."""
        names = {task.repo for task, _ in self._in_review()}
        return {name: repo for name, repo in self.desk.desired.repos.items() if name in names}

    def _in_review(self) -> Iterator[tuple[Task, Status]]:
        for name in self.open():
            task, status = self.desk.desired.tasks.get(name), self.desk.statuses.get(name)
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
            return
        for task, head in waiting.items():
            if head in merged:
                self.emit(MergeSeen(task=task, head=head, at=self.clock(), base=repo.base))

    def _hosts_in_use(self) -> Mapping[str, Host]:
        return {name: host for name, host in self.desk.desired.hosts.items() if host.desired == "active"}

    async def _probe(self, host: Host) -> None:
        """Ask a host what it is, and for the CLIs that open tasks or its spec name."""
        names = self._named_adapters() | (host.adapters or {}).keys()
        adapters = {name: adapter for name, adapter in self.desk.desired.adapters.items() if name in names}
        status, load = await self.prober.probe(host, adapters, self.desk.hosts.get(host.name))
        self.asked.add(host.name)
        if load is not None:
            self.load[host.name] = load
        if host.is_local:
            status = status.model_copy(update={"machine": self.machine})
        self.emit(HostSeen(host=host.name, at=self.clock(), status=status))

    def _named_adapters(self) -> set[str]:
        """Return the adapters that open tasks are given to."""
        tasks = (self.desk.desired.tasks.get(name) for name in self.open())
        return {task.adapter for task in tasks if task}

    def _open_statuses(self) -> Iterator[tuple[str, Status]]:
        statuses = self.desk.statuses
        return ((name, statuses[name]) for name in self.open() if name in statuses)


def given_up(name: str, status: Status, why: str, at: datetime) -> RunEnded:
    """Return the end of a run that cannot go on: a person must mend a file first."""
    verdict = Verdict(outcome="failed", kind=FailureClass.CONFIG, message=why or "its spec is lost")
    run, report = status.run or "", Report(verdict=verdict)
    return RunEnded(task=name, run=run, round=status.round, at=at, report=report)

"""
Host maintenance: pollers that probe and sweep hosts, and ask code repositories what was merged.

Results arrive as facts in the inbox; nothing waits for them.
"""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from reconciler.controller.assigned import AssignedSpecs
from reconciler.controller.cache import FleetCache
from reconciler.controller.inbox import Inbox
from reconciler.controller.poller import Poller
from reconciler.controller.ports import Clock, ControllerSettings, Dispatch, Prober
from reconciler.core.adapter import Adapter
from reconciler.core.errors import ReconcilerError, SpecError
from reconciler.core.events import HostSeen, MergeSeen, RunEnded
from reconciler.core.faults import bug_message
from reconciler.core.model.runs import Claim, FailureClass, Report, Verdict
from reconciler.core.model.specs import Host, Repo, Task
from reconciler.core.model.status import HostStatus, Status
from reconciler.core.runs.leases import report_of
from reconciler.core.runs.retention import Retention, retention

log = logging.getLogger(__name__)

INSPECTION = timedelta(seconds=30)
"""Delay before work that could not be checked is inspected again."""
SPREAD = 0.25
"""Of the intervals of probes and sweeps: a thousand hosts that were asked at once soon are not any more."""
UNCHECKED = "its agent's finished work cannot be checked"
GOOD_FOR = timedelta(minutes=5)
"""How long a repository counts as reachable after it answered, while tasks wait to start on it."""
_FAR = re.compile(r"(?!file:)[A-Za-z][A-Za-z0-9+.-]*://|[^/:\s]+:(?!//)")
"""Addresses of remote code repositories: a run on one gets a slot only after it has answered."""


@dataclass
class HostMaintenance:
    """Pollers of hosts and of code repositories; the loop drives them."""

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
    _adapters: set[str] = field(default_factory=set, init=False)
    """Adapters that open tasks named when the specs were last read."""

    _active: tuple[Mapping[str, Host], Mapping[str, Host]] = field(default=({}, {}), init=False)
    """All hosts, and those of them that are probed."""

    def __post_init__(self) -> None:
        poller = partial(Poller, clock=self.clock, done=self.inbox.wake)
        settings, poll_interval = self.settings, lambda: self.controller.desired.fleet.poll_interval
        self.sweeps: Poller[Host] = poller(
            poll=self._sweep,
            subjects=lambda: self.controller.desired.hosts,
            interval=lambda: settings.sweep_interval,
            spread=SPREAD,
            failure="is not swept now",
        )
        self.probes: Poller[Host] = poller(
            poll=self._probe,
            subjects=self._hosts_in_use,
            interval=lambda: settings.probe_interval,
            spread=SPREAD,
            failure="is not probed now",
        )
        self.merges: Poller[Repo] = poller(
            poll=self._look_for_merges,
            subjects=self._repos_in_review,
            interval=poll_interval,
            failure="is not looked at now",
        )
        self.inspections: Poller[str] = poller(
            poll=self._inspect, subjects=self._to_inspect, interval=lambda: INSPECTION, failure=UNCHECKED
        )
        self.contacts: Poller[Repo] = poller(
            poll=self.dispatch.reach,
            subjects=self._repos_to_start_on,
            interval=lambda: GOOD_FOR,
            retry=poll_interval,
            failure="does not answer",
        )

    # --- What the loop asks ------------------------------------------------

    @property
    def pollers(self) -> Sequence[Poller[Any]]:
        """All of them, in the order in which they are driven."""
        return self.sweeps, self.probes, self.merges, self.inspections, self.contacts

    def unready(self) -> Mapping[str, str]:
        """Return why no run may start on a code repository now, by name; empty if it was not asked yet."""
        failing, reasons = self.contacts.failing(), {}
        for name, repo in self.controller.desired.repos.items():
            if self.contacts.polled.get(name) != repo:
                if _FAR.match(repo.url):
                    reasons[name] = ""
            elif name in failing:
                reasons[name] = failing[name]
        return reasons

    def retry_reasons(self, now: datetime) -> Mapping[str, str]:
        """Return lasting failures of checks on live runs and work in review, by run key."""
        unmerged = self.merges.lasting_failures(now)
        return {
            status.last_run.key: f"whether it was merged cannot be told: {unmerged[task.repo or '']}"
            for task, status in self._in_review()
            if task.repo in unmerged
        } | {run: f"{UNCHECKED}: {why}" for run, why in self.inspections.lasting_failures(now).items()}

    def probe_for_adapters(self) -> None:
        """Schedule probes of all hosts if open tasks name adapters that they did not at the last call."""
        before, self._adapters = self._adapters, self._named_adapters()
        if not self._adapters <= before:
            self.probes.notify(self.controller.desired.hosts)

    # --- Polls -------------------------------------------------------------

    async def _sweep(self, host: Host) -> None:
        """Remove from a host what is no longer needed."""

        def needed() -> Retention:
            groups = self.controller.groups
            return retention(
                self.controller.statuses,
                self.clock(),
                self.controller.desired.fleet,
                live=groups.of("live run"),
                open_runs=groups.of("open run"),
                failed=groups.names("failed"),
                damaged=self.controller.damaged,
                repos=self.controller.desired.repos,
                drift=self.controller.drift,
            )

        await self.dispatch.sweep(host, needed)

    def _repos_to_start_on(self) -> Mapping[str, Repo]:
        """Return the repos of tasks that could start as soon as their repo answers."""
        names = self.controller.groups.of("ready in")
        return {name: repo for name, repo in self.controller.desired.repos.items() if name in names}

    def _to_inspect(self) -> Mapping[str, str]:
        """
        Return the tasks with an agent's claim to check, by run.

        One that needs no look is here only if a crash cut off its verdict, which goes on record after it.
        """
        return {
            run.key: name
            for name, status in self.controller.in_group("claimed").items()
            if (run := status.live_run) and name not in self.controller.desired.broken
        }

    async def _inspect(self, name: str) -> None:
        """Check an agent's claim and emit the verdict."""
        status = self.controller.statuses.get(name)
        if status is None or status.claim is None:
            return
        try:
            report = await self._judged(name, status, status.claim)
        except SpecError as error:
            self.inbox.emit(unrunnable(name, status, str(error), self.clock()))
            return
        run, number = status.last_run.round_key
        self.inbox.emit(RunEnded(task=name, run=run, round=number, at=self.clock(), report=report))

    async def _judged(self, name: str, status: Status, claim: Claim) -> Report:
        """Return the report that a claim leads to, after an inspection if one is needed."""
        report = report_of(status, claim)
        if report is not None:
            return report
        return await self.dispatch.verify(await self.assigned.assignment(name), claim)

    def _repos_in_review(self) -> Mapping[str, Repo]:
        """Return the repos in which delivered work waits to be merged."""
        names = {task.repo for task, _ in self._in_review()}
        return {name: repo for name, repo in self.controller.desired.repos.items() if name in names}

    def _in_review(self) -> Iterator[tuple[Task, Status]]:
        """Yield the tasks of which no pull request tells whether their work was merged."""
        for name in self.controller.groups.names("delivered"):
            task, status = self.controller.desired.tasks.get(name), self.controller.statuses.get(name)
            if task and status:
                yield task, status

    async def _look_for_merges(self, repo: Repo) -> None:
        """Ask once for all of a repo's tasks whether their work was merged."""
        waiting = {
            task.name: status.head_commit for task, status in self._in_review() if task.repo == repo.name
        }
        merged = await self.dispatch.merged(repo, {head for head in waiting.values() if head})
        for task, head in waiting.items():
            if head in merged:
                self.inbox.emit(MergeSeen(task=task, head=head, at=self.clock(), base=repo.base))

    def _hosts_in_use(self) -> Mapping[str, Host]:
        hosts = self.controller.desired.hosts
        if hosts is not self._active[0]:
            self._active = hosts, {name: host for name, host in hosts.items() if host.desired == "active"}
        return self._active[1]

    async def _probe(self, host: Host) -> None:
        """Probe a host, with the CLIs that open tasks or its spec name."""
        names = self._named_adapters() | (host.adapters or {}).keys()
        adapters = {
            name: adapter for name, adapter in self.controller.desired.adapters.items() if name in names
        }
        status, load = await self._ask_prober(host, adapters)
        self.probed.add(host.name)
        if load is not None:
            self.load[host.name] = round(load, 3)  # as it goes on record
        if host.is_local:
            status = status.model_copy(update={"machine": self.settings.machine})
        self.inbox.emit(HostSeen(host=host.name, at=self.clock(), status=status))

    async def _ask_prober(
        self, host: Host, adapters: Mapping[str, Adapter]
    ) -> tuple[HostStatus, float | None]:
        """Probe a host; a bug in that goes on record as its fault: no run starts there, live ones go on."""
        before = self.controller.hosts.get(host.name)
        try:
            return await self.prober.probe(host, adapters, before)
        except ReconcilerError:
            raise
        except Exception as error:
            log.exception("host %s: it cannot be probed; others are", host.name)
            why = f"probing it meets {bug_message(error)}"
            status = before or HostStatus(reachable=True, since=self.clock())
            return status.model_copy(update={"message": why, "fault": why}), None

    def _named_adapters(self) -> set[str]:
        """Return the adapters that open tasks are given to."""
        return self.controller.groups.of("adapter")


def unrunnable(name: str, status: Status, why: str, at: datetime) -> RunEnded:
    """Return a failed end of class `config` for a run whose spec a person must fix first."""
    verdict = Verdict(outcome="failed", kind=FailureClass.CONFIG, message=why or "its spec is lost")
    run, number = status.last_run.round_key
    return RunEnded(task=name, run=run, round=number, at=at, report=Report(verdict=verdict))

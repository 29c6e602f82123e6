"""
The things that `get` and `describe` show: what is asked for beside what is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from reconciler.core.conditions import Condition, conditions
from reconciler.core.errors import Problem
from reconciler.core.model.specs import Desired, Host, LiveOutput, Task
from reconciler.core.model.status import HostStatus, Observed, Phase, Status
from reconciler.core.runs.failure import FailureSummary, summarize_failure


@dataclass(frozen=True, slots=True)
class TaskView:
    """One task: what is asked for and where it stands."""

    name: str
    spec: Task | None
    status: Status | None
    problems: tuple[Problem, ...] = ()
    cause: FailureSummary | None = None
    """Why its last run failed, if it did."""
    heard: LiveOutput | None = None
    """Of its live run, where that is followed from this data folder."""

    @property
    def stand(self) -> str:
        """The phase, or why there is none yet."""
        if self.status is None:
            return "broken" if self.problems else "new"
        return "removed" if self.status.removed else self.status.phase.value

    @property
    def reason(self) -> str:
        """Why it is not further: what is wrong, what it waits for, how it failed."""
        if self.problems:
            return str(self.problems[0])
        if self.status is None:
            return "not yet seen by the reconciler (does one run? see `reconciler status`)"
        if self.status.waiting:
            return f"{self.status.waiting.reason}: {self.status.waiting.message}"
        return self.cause.summary if self.cause else ""

    @property
    def is_bad_end(self) -> bool:
        """Whether a failure is the last that happened, and a person must act."""
        return self.cause is not None and self.stand in BAD_ENDS

    @property
    def line(self) -> str:
        """The reason, and the last line of what failed."""
        last = self.cause.output[-1:] if self.cause and self.reason == self.cause.summary else ()
        return ": ".join([self.reason, *(line for line in last if line not in self.reason)])

    @property
    def conditions(self) -> Sequence[Condition]:
        """Ready, Progressing, Stalled."""
        waiting = self.status.waiting if self.status else None
        return conditions(self.spec, self.status, waiting, self.problems)


BAD_ENDS = frozenset({Phase.FAILED, Phase.ESCALATED})
"""Phases in which a person should look."""
NEVER: Mapping[str, datetime] = {}
CLOSED = frozenset({"cordoned", "draining", "drained"})
"""How a host stands that people want no new runs on."""


@dataclass(frozen=True, slots=True)
class HostView:
    """One host: what the specs say, what is known, what is in use."""

    name: str
    spec: Host
    status: HostStatus | None
    runs: tuple[str, ...]
    """Keys of the live runs on it."""
    used: int
    """Slots they take."""
    closed_at: datetime | None = None
    """When people last changed whether it takes runs, if that is known."""

    @property
    def since(self) -> datetime | None:
        """Since when it is what `stand` says: what people want as of its commit, else as of the probe."""
        if self.stand in CLOSED:
            return self.closed_at
        return self.status.since if self.status else None

    @property
    def stand(self) -> str:
        """Whether it takes runs, in a word."""
        if self.status is not None and self.status.state == "down":
            return "down"
        if self.spec.drain:
            return "draining" if self.runs else "drained"
        if self.spec.desired == "suspended":
            return "suspended"
        if self.spec.cordon:
            return "cordoned"
        if self.status is None:
            return "up" if self.spec.is_local else "unknown"
        return self.status.state


def tasks(desired: Desired, observed: Observed) -> Mapping[str, TaskView]:
    """Return every task that is asked for or on record, by name."""
    names = sorted({*desired.tasks, *desired.broken, *observed.statuses, *observed.damaged})
    return {name: _task(name, desired, observed) for name in names}


def _task(name: str, desired: Desired, observed: Observed) -> TaskView:
    damaged = [observed.damaged[name]] if name in observed.damaged else []
    problems, status = (*damaged, *desired.broken.get(name, ())), observed.statuses.get(name)
    return TaskView(
        name,
        desired.tasks.get(name),
        status,
        problems,
        summarize_failure(name, status),
        _heard(status, observed),
    )


def _heard(status: Status | None, observed: Observed) -> LiveOutput | None:
    return observed.heard.get(status.run) if status and status.run and status.phase.is_live else None


def hosts(
    desired: Desired, observed: Observed, closed: Mapping[str, datetime] = NEVER
) -> Mapping[str, HostView]:
    """Return every host of the specs, by name; `closed` tells when people last closed or opened some."""
    return {name: _host(host, observed, closed.get(name)) for name, host in sorted(desired.hosts.items())}


def _host(host: Host, observed: Observed, closed_at: datetime | None) -> HostView:
    live = {
        status.run: status.slots
        for _, status in sorted(observed.statuses.items())
        if status.phase.is_live and status.assigned_host == host.name and status.run
    }
    return HostView(
        host.name, host, observed.hosts.get(host.name), tuple(live), sum(live.values()), closed_at
    )

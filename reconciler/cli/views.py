"""
The things that `get` and `describe` show: what is asked for beside what is.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from reconciler.core.conditions import Condition, conditions
from reconciler.core.errors import Problem
from reconciler.core.model import Desired, Host, HostStatus, Observed, Status, Task


@dataclass(frozen=True, slots=True)
class TaskView:
    """One task: what is asked for and where it stands."""

    name: str
    spec: Task | None
    status: Status | None
    problems: tuple[Problem, ...] = ()

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
            return "not yet seen by the reconciler"
        if self.status.waiting:
            return f"{self.status.waiting.reason}: {self.status.waiting.message}"
        if self.status.failure:
            return f"{self.status.failure.kind}: {self.status.failure.message}"
        return ""

    @property
    def conditions(self) -> Sequence[Condition]:
        """Ready, Progressing, Stalled."""
        waiting = self.status.waiting if self.status else None
        return conditions(self.spec, self.status, waiting, self.problems)


@dataclass(frozen=True, slots=True)
class HostView:
    """One host: what the specs say, what is known, what is in use."""

    name: str
    spec: Host
    status: HostStatus | None
    runs: tuple[str, ...]
    """Keys of the live runs on it."""

    @property
    def stand(self) -> str:
        """Whether it takes runs, in a word."""
        if self.status is not None and not self.status.reachable:
            return "down"
        if self.spec.drain:
            return "draining" if self.runs else "drained"
        if self.spec.cordon:
            return "cordoned"
        return "up" if self.status or self.spec.is_local else "unknown"


def tasks(desired: Desired, observed: Observed) -> Mapping[str, TaskView]:
    """Return every task that is asked for or on record, by name."""
    names = sorted({*desired.tasks, *desired.broken, *observed.statuses})
    return {
        name: TaskView(
            name, desired.tasks.get(name), observed.statuses.get(name), desired.broken.get(name, ())
        )
        for name in names
    }


def hosts(desired: Desired, observed: Observed) -> Mapping[str, HostView]:
    """Return every host of the specs, by name."""
    return {
        name: HostView(name, host, observed.hosts.get(name), tuple(_runs_on(name, observed)))
        for name, host in sorted(desired.hosts.items())
    }


def _runs_on(host: str, observed: Observed) -> Iterator[str]:
    for _, status in sorted(observed.statuses.items()):
        if status.phase.is_live and status.assigned_host == host and status.run:
            yield status.run

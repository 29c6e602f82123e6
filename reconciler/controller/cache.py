"""
Cache: the controller's copy of desired and observed state.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from reconciler.core.errors import Problem
from reconciler.core.model.specs import Desired, DesiredState, ExecutionMode, Task, default_branch
from reconciler.core.model.status import AccountStatus, HostStatus, Phase, Reason, Status, Waiting
from reconciler.core.outages import ForgeOutage
from reconciler.core.planning.incremental import Planner
from reconciler.core.planning.plan import Plan, needs_attention
from reconciler.core.runs.accounts import Failing
from reconciler.core.views import Elsewhere

log = logging.getLogger(__name__)

GroupKind = Literal[
    "adapter",
    "new",
    "ready in",
    "live",
    "at worker",
    "held by",
    "claimed",
    "in review",
    "delivered",
    "live run",
    "open run",
    "failed",
    "branch",
    "chosen",
]
Group = tuple[GroupKind, str]
"""
`adapter` and its name; `ready in` and a repo in which tasks could start; `held by` and the worker that
has not said what came of it; `delivered`: in review without a pull request; `live run`, `open run` and the
key of the run; `branch` and one that is not called after the task; `chosen`: open tasks with a chosen
variant, and variants; the name of others is empty.
"""

_READY = frozenset({Reason.REPO, Reason.SLOT, Reason.HOST})
"""Waits that end by themselves: such a task may start at any moment."""


class Groups:
    """Names of tasks by group."""

    def __init__(self) -> None:
        self._groups: dict[str, tuple[Group, ...]] = {}
        self._names: dict[GroupKind, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))

    def put(self, name: str, groups: Iterable[Group]) -> None:
        """Let a task be in these groups, and in no other."""
        for kind, of in self._groups.pop(name, ()):
            names = self._names[kind][of]
            names.discard(name)
            if not names:
                del self._names[kind][of]
        if groups := tuple(groups):
            self._groups[name] = groups
        for kind, of in groups:
            self._names[kind][of].add(name)

    def names(self, kind: GroupKind, of: str = "") -> Collection[str]:
        """Return the tasks of a group."""
        return self._names[kind].get(of, frozenset())

    def of(self, kind: GroupKind) -> set[str]:
        """Return the adapters, repos or runs that have tasks in a group of this kind."""
        return set(self._names[kind])


@dataclass
class FleetCache:
    """Cache: one copy of specs and record in memory; the loop alone writes it, everybody else reads it."""

    desired: Desired = field(default_factory=Desired)
    """What the specs ask for."""
    statuses: Mapping[str, Status] = field(default_factory=dict)
    """What is on record, by task."""
    hosts: Mapping[str, HostStatus] = field(default_factory=dict)
    """What is on record, by host."""
    accounts: Mapping[str, AccountStatus] = field(default_factory=dict)
    """What is on record of accounts at their limits, by name."""
    failing: dict[str, Failing] = field(default_factory=dict)
    """Tasks that fail in a row with each account; a restart begins to count again."""
    damaged: Mapping[str, Problem] = field(default_factory=dict)
    """What is wrong with status files that cannot be read, by task; those are not in `statuses`."""
    head: str = ""
    """Commit that `statuses` and `hosts` are on record with."""
    open: set[str] = field(default_factory=set)
    """Names of the tasks for which a plan may have something to do."""
    groups: Groups = field(default_factory=Groups)
    """Tasks by what the controllers ask for, so that none of them walks over all there are."""
    planner: Planner = field(default_factory=Planner)
    last_plan: Plan = field(default_factory=Plan)
    """Plan of the last round."""
    forge_outages: Callable[[], Mapping[str, ForgeOutage]] = dict
    """Return which forges cannot be worked with now, by repo; set by who has all that ask them."""
    elsewhere: Callable[[], Elsewhere | None] = lambda: None
    """Return what the other shards have on record; set by who reads that."""
    drift: Mapping[tuple[str, datetime], timedelta] = field(default_factory=dict)
    """How far the clock was set since what is on record; see `Observed.drift`."""

    @property
    def waiting(self) -> Mapping[str, Waiting]:
        """What each open task waits for: what is on record, or what was planned since."""
        recorded = {name: status.waiting for name, status in self.open_statuses().items() if status.waiting}
        return {**recorded, **self.last_plan.waiting}

    def forget(self) -> None:
        """Forget which tasks are open: all are to be refreshed."""
        self.open.clear()
        self.groups = Groups()
        self.planner = Planner()

    def refresh(self, names: Iterable[str]) -> None:
        """Recompute where these tasks belong, after their specs or statuses changed."""
        names = set(names)
        self.planner.notice(names)
        # All at once: a set that is emptied name by name keeps its size, and is slow to walk.
        self.open -= names
        self.open |= {name for name in names if self._is_open(name)}
        for name in names:
            self.groups.put(name, self._groups_of(name))

    def _groups_of(self, name: str) -> Iterator[Group]:
        spec, status = self.desired.tasks.get(name), self.statuses.get(name)
        yield from self._groups_by_phase(status) if status is not None else ()
        if spec is not None and name in self.open:
            yield "adapter", spec.adapter
            if status is None and name not in self.damaged:
                yield "new", ""
            if status is not None and spec.repo and _only_lacks_a_place(spec, status):
                yield "ready in", spec.repo
        if status is not None and name in self.open and (status.choice or (spec and spec.variant_of)):
            yield "chosen", ""
        if spec is not None and status is not None and _is_delivered(spec, status):
            yield "delivered", ""
        if (place := self._place_of(name)) and place[1] != default_branch(name):
            yield "branch", place[1]

    def _groups_by_phase(self, status: Status) -> Iterator[Group]:
        if status.phase is Phase.FAILED:
            yield "failed", ""
        if status.run and not status.phase.is_settled:
            yield "open run", status.run.key
        if status.run and status.phase.is_live:
            yield "live run", status.run.key
        if status.phase.is_live:
            yield "live", ""
            if status.assigned_agent is not None:
                yield "at worker", ""
                yield ("held by", status.assigned_agent) if status.claim is None else ("claimed", "")
        if status.phase is Phase.REVIEW_PENDING:
            yield "in review", ""

    def at_work(self, more: Collection[str] = ()) -> dict[str, Status]:
        """Return the statuses of tasks that run or are in review, and of some more."""
        names = {*self.groups.names("live"), *self.groups.names("in review"), *more}
        return {name: self.statuses[name] for name in names if name in self.statuses}

    def in_group(self, kind: GroupKind, of: str = "") -> dict[str, Status]:
        """Return the statuses of tasks of a group."""
        return {name: self.statuses[name] for name in self.groups.names(kind, of) if name in self.statuses}

    def on_branch(self, repo: str, branch: str) -> Sequence[str]:
        """Return the tasks whose work is on a branch of a repo; whatever other tasks there are."""
        names = {branch.removeprefix(default_branch("")), *self.groups.names("branch", branch)}
        return sorted(name for name in names if self._place_of(name) == (repo, branch))

    def _place_of(self, name: str) -> tuple[str, str] | None:
        """Return the repo and the branch of a task that has a status."""
        spec, status = self.desired.tasks.get(name), self.statuses.get(name)
        if spec is None or status is None or spec.repo is None:
            return None
        return spec.repo, status.run.branch if status.run else spec.branch

    def open_statuses(self) -> dict[str, Status]:
        """Return the statuses of open tasks: of all that wait, too."""
        return {name: self.statuses[name] for name in self.open if name in self.statuses}

    def _is_open(self, name: str) -> bool:
        try:
            is_open = needs_attention(self.desired.tasks.get(name), self.statuses.get(name))
        except Exception:
            log.exception("task %s: whether it is open cannot be determined; others go on", name)
            return True  # the plan meets the same fault, and records it
        return is_open or name in self.desired.broken


def _is_delivered(spec: Task, status: Status) -> bool:
    """Return whether the work of a task waits to be merged, and no pull request tells of it."""
    is_in_review = status.phase is Phase.REVIEW_PENDING
    return is_in_review and spec.review != "pull_request" and not spec.variant_of


def _only_lacks_a_place(spec: Task, status: Status) -> bool:
    """Return whether a task could start on a host as soon as its repo answers and a slot is free."""
    is_wanted = spec.desired is DesiredState.ACTIVE and status.phase is Phase.CREATED
    is_ready = status.waiting is None or status.waiting.reason in _READY
    return is_wanted and is_ready and spec.execution_mode is ExecutionMode.SSH_CLI

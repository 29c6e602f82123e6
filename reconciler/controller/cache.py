"""
Cache: the controller's copy of desired and observed state.
"""

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from reconciler.core.errors import Problem
from reconciler.core.model.specs import Desired
from reconciler.core.model.status import HostStatus, Status, Waiting
from reconciler.core.planning.incremental import Planner
from reconciler.core.planning.plan import Plan, needs_attention

log = logging.getLogger(__name__)


@dataclass
class FleetCache:
    """Cache: one copy of specs and record in memory; the loop alone writes it, everybody else reads it."""

    desired: Desired = field(default_factory=Desired)
    """What the specs ask for."""
    statuses: Mapping[str, Status] = field(default_factory=dict)
    """What is on record, by task."""
    hosts: Mapping[str, HostStatus] = field(default_factory=dict)
    """What is on record, by host."""
    damaged: Mapping[str, Problem] = field(default_factory=dict)
    """What is wrong with status files that cannot be read, by task; those are not in `statuses`."""
    head: str = ""
    """Commit that `statuses` and `hosts` are on record with."""
    open: set[str] = field(default_factory=set)
    """Names of the tasks for which a plan may have something to do."""
    planner: Planner = field(default_factory=Planner)
    last_plan: Plan = field(default_factory=Plan)
    """Plan of the last round."""
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
        self.planner = Planner()

    def refresh(self, names: Iterable[str]) -> None:
        """Recompute which of these tasks are open, after their specs or statuses changed."""
        names = set(names)
        self.planner.notice(names)
        # All at once: a set that is emptied name by name keeps its size, and is slow to walk.
        self.open -= names
        self.open |= {name for name in names if self._is_open(name)}

    def open_statuses(self, more: Collection[str] = ()) -> dict[str, Status]:
        """Return the statuses of open tasks, and of some more."""
        names = self.open.union(more)
        return {name: self.statuses[name] for name in names if name in self.statuses}

    def _is_open(self, name: str) -> bool:
        try:
            is_open = needs_attention(self.desired.tasks.get(name), self.statuses.get(name))
        except Exception:
            log.exception("task %s: whether it is open cannot be determined; others go on", name)
            return True  # the plan meets the same fault, and records it
        return is_open or name in self.desired.broken

"""
Backlog: tasks that wait, kept so that a plan need not look at each of them.

A plan finds nothing to do for a task that waits until its spec or status
changes, a task that it depends on does, its time comes, or its turn for a slot.
The first three take it out of here; for the last one, tasks stand in lanes.
Those that run or are in review, and with which all is well, are at rest here.
"""

import heapq
from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from reconciler.core.model.specs import ExecutionMode, Fallback, ReviewBy, Task
from reconciler.core.model.status import Reason, Status
from reconciler.core.planning.placement import HostFits
from reconciler.core.planning.resting import Resting

Turn = tuple[int, datetime, str]
"""Sorts tasks: highest priority first, then oldest, then by name, which is the last of the three."""
_FEW = 16
"""So many tasks are inserted in a lane one by one; more are sorted with all that are there."""
RecordedWait = tuple[Reason, str] | None
"""What a status says that its task waits for: reason and message."""


def turn(spec: Task, status: Status) -> Turn:
    """Return when it is a task's turn."""
    return -spec.priority, status.created_at, spec.name


def recorded_wait(status: Status) -> RecordedWait:
    """Return what a status says that its task waits for."""
    return (status.waiting.reason, status.waiting.message) if status.waiting else None


class Lane(NamedTuple):
    """
    What decides, beside its turn, whether there is a place for a task.

    Tasks of the same lane wait for the same: once there is no place for one,
    there is none for those behind it.
    """

    execution_mode: ExecutionMode
    adapter: str
    repo: str | None
    requires: tuple[str, ...]
    slots: int
    window: tuple[str, ...]
    timezone: str
    validate_on: str | None
    accounts: tuple[str, ...]
    fallback: Fallback | None
    review_by: ReviewBy | None
    campaign: str
    """Campaign of a task that is not begun: it waits for the others of it."""
    is_pilot: bool
    alone: str
    """Name of a task that goes back to who has its workspace: nobody else waits for the same."""

    @classmethod
    def of(cls, task: Task, status: Status) -> "Lane":
        """Return the lane of a task."""
        return cls(
            task.execution_mode,
            task.adapter,
            task.repo,
            task.requires,
            task.slots,
            task.window,
            task.timezone,
            task.validate_on,
            task.accounts,
            task.fallback,
            task.review_by,
            (task.campaign or "") if not status.is_begun else "",
            task.is_pilot,
            task.name if status.interrupted_run else "",
        )


@dataclass(slots=True)
class LaneQueue:
    """Waiting tasks of one lane, in order."""

    turns: list[Turn] = field(default_factory=list)
    by_wait: dict[RecordedWait, set[str]] = field(default_factory=lambda: defaultdict(set))
    """The same, by name, grouped by what their statuses say."""

    def add(self, new: Sequence[tuple[Turn, RecordedWait]]) -> None:
        """Put tasks in their places."""
        if len(new) > _FEW:  # each insertion moves all behind it
            self.turns += [turn for turn, _ in new]
            self.turns.sort()
        else:
            for turn, _ in new:
                insort(self.turns, turn)
        for turn, wait in new:
            self.by_wait[wait].add(turn[2])

    def remove(self, turn: Turn, wait: RecordedWait) -> None:
        """Take a task out."""
        del self.turns[bisect_left(self.turns, turn)]
        self.by_wait[wait].remove(turn[2])
        if not self.by_wait[wait]:
            del self.by_wait[wait]


class Parked(NamedTuple):
    """A task in the backlog."""

    is_open: bool
    """Whether it is not settled."""
    depends_on: frozenset[str]
    """Tasks at whose changes it is to be looked at again."""
    until: datetime | None = None
    """When it is to be looked at again."""
    lane: Lane | None = None
    """Of one that nothing but a slot is missing for."""
    turn: Turn | None = None
    wait: RecordedWait = None
    rests: bool = False
    """Whether it runs or is in review; it is among `Backlog.resting`, too."""


class Backlog:
    """Tasks that are not looked at until something happens to them."""

    def __init__(self) -> None:
        self._tasks: dict[str, Parked] = {}
        self._lanes: dict[Lane, LaneQueue] = {}
        self._dependents: dict[str, set[str]] = defaultdict(set)
        self._timers: list[tuple[datetime, str]] = []
        """A heap; those of tasks that were taken out meanwhile are passed over."""
        self.resting = Resting()
        self.fits = HostFits()
        self.open_count = 0
        """How many are not settled."""

    @property
    def names(self) -> Collection[str]:
        """Return the names of all."""
        return self._tasks.keys()

    @property
    def lanes(self) -> Mapping[Lane, LaneQueue]:
        """Return those that nothing but a slot is missing for."""
        return self._lanes

    def park(self, tasks: Mapping[str, Parked]) -> None:
        """Take tasks in that are not here."""
        added = defaultdict[Lane, list[tuple[Turn, RecordedWait]]](list)
        for name, task in tasks.items():
            self._tasks[name] = task
            self.open_count += task.is_open
            for other in task.depends_on:
                self._dependents[other].add(name)
            if task.until is not None:
                heapq.heappush(self._timers, (task.until, name))
            if task.lane is not None and task.turn is not None:
                added[task.lane].append((task.turn, task.wait))
        for lane, new in added.items():
            self._lanes.setdefault(lane, LaneQueue()).add(new)

    def take(self, names: Iterable[str]) -> set[str]:
        """Take tasks out; return those that were here."""
        taken = {name for name in names if name in self._tasks}
        for name in taken:
            task = self._tasks.pop(name)
            self.open_count -= task.is_open
            if task.rests:
                self.resting.take(name)
            for other in task.depends_on:
                self._drop_dependent(other, name)
            if task.lane is not None and task.turn is not None:
                self._drop_from_lane(task.lane, task.turn, task.wait)
        return taken

    def _drop_dependent(self, other: str, name: str) -> None:
        self._dependents[other].remove(name)
        if not self._dependents[other]:
            del self._dependents[other]

    def _drop_from_lane(self, lane: Lane, turn: Turn, wait: RecordedWait) -> None:
        self._lanes[lane].remove(turn, wait)
        if not self._lanes[lane].turns:
            del self._lanes[lane]

    def dependents(self, names: Iterable[str]) -> set[str]:
        """Return the tasks that depend on any of these."""
        return {each for name in names for each in self._dependents.get(name, ())}

    def take_due(self, now: datetime) -> set[str]:
        """Take out the tasks whose time has come; return them."""
        due = set[str]()
        while self._timers and (self._timers[0][0] <= now or not self._is_set(*self._timers[0])):
            until, name = heapq.heappop(self._timers)
            if self._is_set(until, name):
                due |= self.take([name])
        return due

    def next_times(self, leases: Mapping[str, datetime]) -> Sequence[datetime]:
        """Return the next time of a task, of those that `take_due` left, and the ends of leases."""
        while self._timers and not self._is_set(*self._timers[0]):
            heapq.heappop(self._timers)
        ends = (end for _, end in self.resting.lease_ends(leases))
        return [*(until for until, _ in self._timers[:1]), *ends]

    def _is_set(self, until: datetime, name: str) -> bool:
        task = self._tasks.get(name)
        return task is not None and task.until == until

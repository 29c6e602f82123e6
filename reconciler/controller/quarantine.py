"""
Quarantine: tasks affected by a fault of the reconciler are set aside, and all others go on.
"""

import logging
from collections.abc import Collection, Mapping, Sequence

from reconciler.controller.cache import FleetCache
from reconciler.controller.ports import Fact, Step, subject
from reconciler.core.events import Event, RunEnded
from reconciler.core.faults import OUTCOME, fault_message
from reconciler.core.lifecycle import Transition, apply, step
from reconciler.core.model.status import Status
from reconciler.core.overlay import Overlay

log = logging.getLogger(__name__)


class Quarantine:
    """
    Quarantine for poison facts: tasks that could not be judged, recorded or acted on.

    In memory: after a restart the same run brings the same fact once more, it
    fails once more, and the record says so already. An edit of the spec lets
    it be tried again.
    """

    def __init__(self) -> None:
        self.faults: dict[str, str] = {}
        """Message by task: why it is set aside, for the record."""
        self.rounds: set[tuple[str, int]] = set()
        """(run key, round) whose end could not be judged: following them again would bring the same fact."""
        self.unwritable: set[str] = set()
        """Subjects that cannot be written to the record: tasks, and hosts as `host NAME`."""

    def add(self, task: str, error: Exception) -> None:
        """Set a task aside with the reason, until its spec changes or a later outcome can be judged."""
        self.faults[task] = fault_message(error, OUTCOME)

    def drop(self, fact: Fact) -> None:
        """Drop a fact without following its run again at once."""
        if isinstance(fact, RunEnded):
            self.rounds.add((fact.run, fact.round))

    def recover(self, task: str) -> None:
        """Release a task whose last outcome could be judged."""
        self.faults.pop(task, None)

    def release(self, names: Collection[str], cache: FleetCache) -> None:
        """Release these tasks because their specs changed."""
        runs = {status.run_key for name in names if (status := cache.statuses.get(name))}
        self.rounds = {(run, number) for run, number in self.rounds if run not in runs}
        self.unwritable.difference_update(names)
        for name in names:
            self.faults.pop(name, None)

    def fold(
        self, statuses: Mapping[str, Status], events: Sequence[Event]
    ) -> tuple[Mapping[str, Status], Sequence[Transition]]:
        """Fold the events; a task for which one of them is illegal is set aside and keeps its status."""
        if not events:
            return statuses, ()
        folded, steps = Overlay(statuses), list[Transition]()
        for event in events:
            try:
                next_step = step(folded, event)
            except Exception as error:
                log.exception(
                    "task %s: %r is not legal for it; others go on", event.task, event.origin.reason
                )
                self.add(event.task, error)
                # All or nothing: half of what a plan says of a task, recorded at each start, would be a loop.
                return self.fold(statuses, [each for each in events if each.task != event.task])
            if next_step is not None:
                apply(folded, next_step)
                steps.append(next_step)
        return folded, steps

    def writable(self, steps: Sequence[Step]) -> Sequence[Step]:
        """Return those of the steps that can be put on record."""
        return [each for each in steps if subject(each) not in self.unwritable]

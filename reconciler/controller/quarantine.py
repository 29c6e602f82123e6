"""
Quarantine: what cannot be thought about ends the look at itself, and at nothing else.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from reconciler.core.errors import Problem
from reconciler.core.events import Event, WaitingChanged
from reconciler.core.model import Desired, Observed, Reason, Status, Waiting
from reconciler.core.plan import Plan, plan
from reconciler.core.text import one_line

log = logging.getLogger(__name__)

Planner = Callable[[Collection[str]], Plan]


class Quarantine:
    """
    Tasks that nothing is decided about, each with the problem that is in the way.

    A damaged status is held until its file is mended; a task that could not be
    judged or planned until its spec changes, or the next start.
    """

    def __init__(self) -> None:
        self._faults: dict[str, Problem] = {}
        self._damaged: Mapping[str, Problem] = {}

    @property
    def problems(self) -> Mapping[str, Problem]:
        """The tasks that are held, with what is wrong."""
        return {**self._faults, **self._damaged}

    def add(self, name: str, error: Exception) -> None:
        """Hold a task that could not be thought about; the log has the traceback."""
        log.error("task %s is held until its spec changes: a fault of the reconciler", name, exc_info=error)
        self._faults[name] = Problem(f"specs/tasks/{name}.yaml", 1, 1, fault_message(error))

    def hold_damaged(self, damaged: Mapping[str, Problem]) -> None:
        """Hold exactly those tasks whose status files cannot be read."""
        for name in damaged.keys() - self._damaged.keys():
            log.error("%s", damaged[name])
        self._damaged = damaged

    def lift(self, names: Iterable[str]) -> None:
        """Try again with tasks whose spec is another one now."""
        for name in names:
            self._faults.pop(name, None)

    def plan(self, desired: Desired, observed: Observed, now: datetime, names: Collection[str]) -> Plan:
        """
        Return the plan without the tasks that cannot be planned; they are held from now on.

        Raises what the planner raises if no single task is to blame.
        """
        held = self.problems
        rest = without(held, desired, observed)
        names = set(names) - held.keys()
        try:
            planned = plan(*rest, now, names)
        except Exception:
            culprits = find_culprits(sorted(names), lambda some: plan(*rest, now, some))
            if not culprits:
                raise
            for name, error in culprits.items():
                self.add(name, error)
            return self.plan(desired, observed, now, names)
        return planned

    def events(self, statuses: Mapping[str, Status], now: datetime) -> Sequence[Event]:
        """Return what puts it on record that tasks are held, unless it stands there."""
        told = {
            name: Waiting(reason=Reason.SPEC_ERROR, message=str(problem), since=now)
            for name, problem in sorted(self._faults.items())
            if name in statuses and not statuses[name].phase.is_settled
        }
        return [
            WaitingChanged(task=name, at=now, waiting=waiting, reason=waiting.message)
            for name, waiting in told.items()
            if _words(statuses[name].waiting) != _words(waiting)
        ]


def _words(waiting: Waiting | None) -> tuple[Reason, str] | None:
    return (waiting.reason, waiting.message) if waiting else None


def find_culprits(names: Sequence[str], planner: Planner) -> Mapping[str, Exception]:
    """
    Return the names that cannot be planned even alone, found by halving, each with its error.

    Raises what the planner raises if it cannot plan for no name at all: then none is to blame.
    """
    planner(())
    return dict(_halve(names, planner))


def _halve(names: Sequence[str], planner: Planner) -> Iterator[tuple[str, Exception]]:
    try:
        planner(names)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is kept with the name that it belongs to
        if len(names) == 1:
            yield names[0], error
            return
        middle = len(names) // 2
        yield from _halve(names[:middle], planner)
        yield from _halve(names[middle:], planner)


def without(
    problems: Mapping[str, Problem], desired: Desired, observed: Observed
) -> tuple[Desired, Observed]:
    """Return both without the tasks that have a problem, which are broken then: neither new nor gone."""
    if not problems:
        return desired, observed
    tasks = {name: task for name, task in desired.tasks.items() if name not in problems}
    broken = {**desired.broken, **{name: (problem,) for name, problem in problems.items()}}
    statuses = {name: status for name, status in observed.statuses.items() if name not in problems}
    return replace(desired, tasks=tasks, broken=broken), replace(observed, statuses=statuses)


def fault_message(error: Exception) -> str:
    """Return what people read of a fault of ours: what it was, and what to do."""
    what = one_line(f"{type(error).__name__}: {error}", 200)
    return f"the reconciler cannot judge it ({what}); its log has more; change the spec or retry"

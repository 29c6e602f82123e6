"""
A plan for people and for programs: what would happen, what waits, and why.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from reconciler.cli.output import Document
from reconciler.core.events import (
    Cancelled,
    Escalated,
    Event,
    Failed,
    Removed,
    Renamed,
    Renewed,
    Retried,
    Scheduled,
    SpecChanged,
    SpecRemoved,
    WaitingChanged,
)
from reconciler.core.model import Desired
from reconciler.core.placement import Placement
from reconciler.core.plan import Plan, Record, Start, Stop

VERBS: Mapping[type[Event], str] = {
    Renewed: "renew",
    Retried: "retry",
    Failed: "fail",
    Escalated: "escalate",
    SpecChanged: "update",
    Renamed: "rename",
    SpecRemoved: "remove",
    Removed: "forget",
    Cancelled: "cancel",
}
"""What goes on record without a run. A new task is not among them: its line says `start` or `wait`."""


class Line(NamedTuple):
    """One line of a plan."""

    verb: str
    task: str
    host: str
    reason: str


def has_changes(plan: Plan) -> bool:
    """Return whether anything would happen; to wait for something else is no change."""
    return any(
        isinstance(action, Start | Stop)
        or (isinstance(action, Record) and not isinstance(action.event, WaitingChanged | Scheduled))
        for action in plan.actions
    )


def lines(plan: Plan) -> Sequence[Line]:
    """Return what would happen, in order, then what waits."""
    return [*_actions(plan), *_waits(plan)]


def _actions(plan: Plan) -> Iterator[Line]:
    for action in plan.actions:
        match action:
            case Start():
                yield Line("start", action.task, action.event.host, action.reason)
            case Stop():
                yield Line("stop", action.task, "", action.reason)
            case Record() if type(action.event) in VERBS:
                yield Line(VERBS[type(action.event)], action.task, "", action.reason)


def _waits(plan: Plan) -> Iterator[Line]:
    for name, waiting in sorted(plan.waiting.items()):
        yield Line("wait", name, "", f"{waiting.reason}: {waiting.message}")


def placement_rows(placement: Placement) -> Iterator[Sequence[str]]:
    """Yield host, choice, score and why for every host that was looked at."""
    for candidate in placement.ranked:
        choice = "chosen" if candidate.host == placement.chosen else "would do"
        yield candidate.host, choice, f"{candidate.score:g}", candidate.why
    for host, why in sorted(placement.rejected.items()):
        yield host, "no", "", why


def plan_document(plan: Plan, desired: Desired) -> Document:
    """Return a plan as `-o json` prints it."""
    return {
        "revision": desired.revision,
        "changes": has_changes(plan),
        "actions": [line_document(line) for line in _actions(plan)],
        "waiting": [
            {"task": name, "reason": waiting.reason.value, "message": waiting.message}
            for name, waiting in sorted(plan.waiting.items())
        ],
        "placements": {name: placement_document(each) for name, each in sorted(plan.placements.items())},
        "problems": [str(problem) for problem in desired.problems],
    }


def line_document(line: Line) -> Document:
    """Return a line of a plan as `-o json` prints it."""
    return {"action": line.verb, "task": line.task, "host": line.host or None, "reason": line.reason}


def placement_document(placement: Placement) -> Document:
    """Return a placement as `-o json` prints it."""
    return {
        "chosen": placement.chosen,
        "ranked": [{"host": each.host, "score": each.score, "why": each.why} for each in placement.ranked],
        "rejected": dict(sorted(placement.rejected.items())),
    }

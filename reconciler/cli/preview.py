"""
Plan output, for people and for programs.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from reconciler.core.model.specs import Desired
from reconciler.core.planning.placement import Placement
from reconciler.core.planning.plan import Plan
from reconciler.core.planning.preview import PlanLine, actions, has_changes

if TYPE_CHECKING:
    from reconciler.cli.shapes import ActionShape, PlacementShape, PlanShape


def placement_rows(placement: Placement) -> Iterator[Sequence[str]]:
    """Yield host, choice, score and why for every host that was looked at."""
    for candidate in placement.ranked:
        choice = "chosen" if candidate.host == placement.chosen else "would do"
        account = f", account {placement.account}" if choice == "chosen" and placement.account else ""
        yield candidate.host, choice, f"{candidate.score:g}", candidate.why + account
    for host, why in sorted(placement.rejected.items()):
        yield host, "no", "", why


def plan_document(plan: Plan, desired: Desired) -> "PlanShape":
    """Return a plan as `-o json` prints it."""
    return {
        "revision": desired.revision,
        "changes": has_changes(plan),
        "actions": [line_document(line) for line in actions(plan)],
        "waiting": [
            {"task": name, "reason": waiting.reason.value, "message": waiting.message}
            for name, waiting in sorted(plan.waiting.items())
        ],
        "placements": {name: placement_document(each) for name, each in sorted(plan.placements.items())},
        "problems": [str(problem) for problem in desired.problems],
    }


def line_document(line: PlanLine) -> "ActionShape":
    """Return a line of a plan as `-o json` prints it."""
    return {"action": line.verb, "task": line.task, "host": line.host or None, "reason": line.reason}


def placement_document(placement: Placement) -> "PlacementShape":
    """Return a placement as `-o json` prints it."""
    return {
        "chosen": placement.chosen,
        "account": placement.account,
        "ranked": [{"host": each.host, "score": each.score, "why": each.why} for each in placement.ranked],
        "rejected": dict(sorted(placement.rejected.items())),
    }

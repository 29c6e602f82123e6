"""
A plan for people: what would happen, what waits, and why; and what a pull request would change of it.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple

from reconciler.core.errors import Problem
from reconciler.core.events import (
    Archived,
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
from reconciler.core.forge.markdown import code, fenced
from reconciler.core.model.specs import Desired
from reconciler.core.model.status import Observed, OnHost, Reason, RunHolder
from reconciler.core.planning.plan import Plan, RecordEvent, StartRun, StopRun, plan, prune_digest
from reconciler.core.shards import shard_parts
from reconciler.core.text import one_line

VERBS: Mapping[type[Event], str] = {
    Renewed: "renew",
    Retried: "retry",
    Failed: "fail",
    Escalated: "escalate",
    SpecChanged: "update",
    Renamed: "rename",
    SpecRemoved: "remove",
    Removed: "forget",
    Archived: "archive",
    Cancelled: "cancel",
}
"""What goes on record without a run. A new task is not among them: its line says `start` or `wait`."""


class PlanLine(NamedTuple):
    """One line of a plan."""

    verb: str
    task: str
    host: str
    reason: str


def plan_fleet(desired: Desired, observed: Observed, now: datetime) -> Plan:
    """Return what all reconcilers of a fleet would do now, each for its shard."""
    plans = [plan(part, seen, now) for _, part, seen in shard_parts(desired, observed)]
    if len(plans) == 1:
        return plans[0]
    return Plan(
        actions=tuple(action for each in plans for action in each.actions),
        waiting={name: wait for each in plans for name, wait in each.waiting.items()},
        placements={name: placement for each in plans for name, placement in each.placements.items()},
        due=min((each.due for each in plans if each.due), default=None),
        faults={name: fault for each in plans for name, fault in each.faults.items()},
    )


def has_changes(plan: Plan) -> bool:
    """Return whether anything would happen; to wait for something else is no change."""
    return any(
        isinstance(action, StartRun | StopRun)
        or (isinstance(action, RecordEvent) and not isinstance(action.event, WaitingChanged | Scheduled))
        for action in plan.actions
    )


def plan_lines(plan: Plan) -> Sequence[PlanLine]:
    """Return what would happen, in order, then what waits."""
    return [*actions(plan), *_waits(plan)]


def actions(plan: Plan) -> Iterator[PlanLine]:
    """Yield what would happen, in order."""
    for action in plan.actions:
        match action:
            case StartRun():
                yield PlanLine("start", action.task, _host(action.event.holder), action.reason)
            case StopRun():
                yield PlanLine("stop", action.task, "", action.reason)
            case RecordEvent() if type(action.event) in VERBS:
                yield PlanLine(VERBS[type(action.event)], action.task, "", action.reason)


def _host(holder: RunHolder) -> str:
    return holder.host if isinstance(holder, OnHost) else ""


def _waits(plan: Plan) -> Iterator[PlanLine]:
    for name, waiting in sorted(plan.waiting.items()):
        yield PlanLine("wait", name, "", f"{waiting.reason}: {waiting.message}")


# --- Of a pull request -----------------------------------------------------


@dataclass(frozen=True, slots=True)
class Difference:
    """What specs would change of the plan, compared with those that are in force."""

    new: tuple[PlanLine, ...] = ()
    """What would happen, or wait, because of them."""
    gone: tuple[PlanLine, ...] = ()
    """What would happen without them."""
    problems: tuple[Problem, ...] = ()
    """What is wrong with them and was not before."""
    old_problems: int = 0
    """How many problems were there before and stay."""
    held: frozenset[str] = frozenset()
    """Tasks whose removal would wait until a person allows it."""

    @property
    def gist(self) -> Hashable:
        """What it comes to: the same for two that differ in reasons alone, which time changes."""
        new, gone = ([line[:3] for line in lines] for lines in (self.new, self.gone))
        return (*new, None, *gone, None, *self.problems, self.old_problems, self.held)


@dataclass(frozen=True, slots=True)
class Forecast:
    """What would happen with some specs, as far as two are compared by it."""

    lines: Mapping[Hashable, PlanLine]
    """By what makes one another."""
    problems: tuple[Problem, ...]
    held: frozenset[str]


def forecast(desired: Desired, observed: Observed, now: datetime) -> Forecast:
    """Return what would happen, if these specs came into force now."""
    planned = plan(desired, observed, now)
    held = {name for name, waiting in planned.waiting.items() if waiting.reason is Reason.APPROVAL}
    return Forecast(_lines_by_key(desired, planned), desired.problems, frozenset(held))


def difference(base: Forecast, head: Forecast) -> Difference:
    """Return what specs would change, compared with those that are in force."""
    before, after, old = base.lines, head.lines, frozenset(base.problems)
    return Difference(
        new=tuple(line for key, line in after.items() if key not in before),
        gone=tuple(line for key, line in before.items() if key not in after and line.verb != "wait"),
        problems=tuple(problem for problem in head.problems if problem not in old),
        old_problems=sum(problem in old for problem in head.problems),
        held=head.held if head.held != base.held else frozenset(),
    )


def _lines_by_key(desired: Desired, plan: Plan) -> Mapping[Hashable, PlanLine]:
    """Return the lines of a plan by what makes them another: reasons change with the numbers in them."""
    return {
        (line.verb, line.task, line.host, *_state(desired, plan, line)): line for line in plan_lines(plan)
    }


def _state(desired: Desired, plan: Plan, line: PlanLine) -> Iterator[Hashable]:
    if line.verb == "wait":
        yield plan.waiting[line.task].reason
    elif line.task in desired.tasks:
        yield desired.tasks[line.task].generation


# --- What is shown there ---------------------------------------------------

_MOST = 100
"""Lines of one kind that are shown."""
_WIDE = 160
"""Characters of a line."""


def summary(difference: Difference) -> tuple[Literal["success", "failure"], str]:
    """Return the state and the words of the commit status."""
    if difference.problems:
        return "failure", f"{_count(len(difference.problems), 'problem')} in the specs; {_gist(difference)}"
    return "success", _gist(difference)


def comment(difference: Difference, commit: str) -> str:
    """Return the comment on a pull request whose head is that commit, in Markdown."""
    parts = [f"### Plan of {commit[:10]}", f"{_gist(difference).capitalize()}."]
    if difference.problems:
        parts += ["**Wrong in the specs:**", fenced(_some(str(problem) for problem in difference.problems))]
    if difference.held:
        count, digest = _count(len(difference.held), "task"), prune_digest(difference.held)
        parts.append(
            f"**The removal of {count} would wait** for a person: `reconciler approve-prune` ({digest}), "
            "once this is merged. Until then they stay, and what runs goes on."
        )
    if difference.old_problems:
        parts.append(f"{_count(difference.old_problems, 'problem')} of the specs in force would stay.")
    if difference.new:
        parts += ["**With this merged now:**", fenced(_table(difference.new))]
    if difference.gone:
        parts += ["**Not any more:**", fenced(_table(difference.gone))]
    return "\n\n".join(parts)


def no_plan_comment(why: str, commit: str) -> str:
    """Return the comment on a pull request that there is no plan for."""
    return f"### Plan of {commit[:10]}\n\nThere is none: {code(why)}"


def _gist(difference: Difference) -> str:
    """Return how many tasks something would happen to, by what."""
    counts = Counter(line.verb for line in difference.new)
    parts = [f"{verb} {count}" for verb, count in sorted(counts.items(), key=lambda each: _rank(each[0]))]
    parts += [f"not any more: {len(difference.gone)}"] if difference.gone else []
    if difference.held:
        parts.insert(0, f"{_count(len(difference.held), 'removal')} would wait for approve-prune")
    return ", ".join(parts) or "no task is touched"


def _rank(verb: str) -> tuple[int, str]:
    order = ("start", "stop", "wait")
    return (order.index(verb), "") if verb in order else (len(order), verb)


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _table(lines: Sequence[PlanLine]) -> str:
    widths = [max(len(line[at]) for line in lines[:_MOST]) for at in range(3)]
    return _some(
        "  ".join(
            (*(word.ljust(width) for word, width in zip(line, widths, strict=False)), one_line(line.reason))
        )
        for line in lines
    )


def _some(lines: Iterable[str]) -> str:
    shown = [line if len(line) <= _WIDE else f"{line[: _WIDE - 1]}…" for line in lines]
    more = [f"… and {len(shown) - _MOST} more"] if len(shown) > _MOST else []
    return "\n".join([*shown[:_MOST], *more])

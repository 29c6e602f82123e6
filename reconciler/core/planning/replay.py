"""
Replay: a decision on record, made once more from what it rested on, and compared.

The specs are those that the commit names, the state is that of its parent; what neither has
stands in the trailer `Decision-Inputs`. What came from outside is a fact, and no decision:
of that only whether the step is legal can be said.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal, cast

from reconciler.core.adapter import Usage
from reconciler.core.audit import phase_flaws
from reconciler.core.events import Assigned, WaitingChanged
from reconciler.core.lifecycle import transition
from reconciler.core.model.inputs import NO_INPUTS, DecisionInputs, Spending
from reconciler.core.model.specs import Desired, Host
from reconciler.core.model.status import AtWorker, BudgetScope, LeaseRequest, Observed, OnHost, Phase, Status
from reconciler.core.planning.backlog import Backlog
from reconciler.core.planning.context import PlanContext, Wait
from reconciler.core.planning.placement import Placement
from reconciler.core.planning.plan import plan_some, start_run
from reconciler.core.planning.scheduler import schedule
from reconciler.core.transitions import TransitionRecord

Verdict = Literal["same", "differs", "fact", "open"]
"""`open`: what it rested on is not on record, or not all of it."""

FACTS = frozenset({"host", "agent", "webhook"})
"""Causes of steps that follow from what came from outside."""

_NAMES = ("load", "half_open", "kept", "spent", "week")
_NO_MORE = 5
"""Hosts that are told of beside the one that was chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedStep:
    """A step of a task, as the commit and the files before and after it have it."""

    record: TransitionRecord
    before: Status | None
    after: Status | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What came of making a decision once more."""

    verdict: Verdict
    message: str
    differences: tuple[str, ...] = ()
    """Where the record and the decision that is made now are not the same."""
    decisive: tuple[str, ...] = ()
    """Inputs without which somebody else would have been chosen, and who."""
    hosts: tuple[str, ...] = ()
    """How the hosts stood: the best first, then why not the others."""


@dataclass(frozen=True, slots=True)
class _Choice:
    """Who gets a run by the decision that is made now."""

    event: Assigned | None
    placement: Placement
    wait: Wait | None


def replay(step: RecordedStep, desired: Desired, observed: Observed) -> Replay:
    """
    Make the decision of a step again, and compare.

    `desired` is what the specs asked for at the revision that the step names, `observed`
    what was on record before it.
    """
    if flaws := tuple(phase_flaws(step.record, step.before, step.after)):
        return Replay(verdict="differs", message="no legal step", differences=flaws)
    was = step.before.phase if step.before else None
    if step.after and step.before and step.after.phase is Phase.ASSIGNED and was is Phase.CREATED:
        return _of_assignment(step, step.before, step.after, desired, observed)
    if step.record.cause in FACTS:
        message = f"came from outside (cause: {step.record.cause}), and is no decision; the step is legal"
        return Replay(verdict="fact", message=message)
    return _of_plan(step, desired, observed)


# --- Who gets a run ---------------------------------------------------------


def _of_assignment(
    step: RecordedStep, before: Status, after: Status, desired: Desired, observed: Observed
) -> Replay:
    try:
        inputs = DecisionInputs.parse(step.record.inputs or "")
    except ValueError as error:
        flaw = f"Decision-Inputs cannot be read: {error}"
        return Replay(verdict="differs", message="no decision can be made", differences=(flaw,))
    choice = _choose(step, after, desired, observed, inputs)
    differences = tuple(_of_choice(step, before, after, choice))
    result = Replay(
        verdict="differs" if differences else "same",
        message=_outcome(choice),
        differences=differences,
        decisive=tuple(_decisive(step, after, desired, observed, inputs)),
        hosts=tuple(_hosts(choice.placement)),
    )
    chosen = choice.placement.chosen
    is_named = inputs.floor is None or chosen in inputs.load or after.assigned_host not in inputs.load
    if differences and not is_named:
        message = f"{chosen} may have had as little load: of some hosts only the least is on record"
        return replace(result, verdict="open", message=message, differences=())
    return result


def _choose(
    step: RecordedStep, after: Status, desired: Desired, observed: Observed, inputs: DecisionInputs
) -> _Choice:
    """Choose who gets the run, with the inputs that are on record."""
    task = step.record.task or ""
    seen = _with_inputs(observed, desired, after, inputs)
    open_to_it = replace(desired, hosts={**desired.hosts, **_closed(desired, inputs)})
    context = PlanContext(open_to_it, seen, after.since, frozenset({task}), seen.statuses, frozenset())
    queue = schedule(context, Backlog())
    placement = queue.placements.get(task, Placement())
    event = start_run(context, task, queue).event if task in queue.starts else None
    return _Choice(event, placement, queue.waits.get(task))


def _closed(desired: Desired, inputs: DecisionInputs) -> Mapping[str, Host]:
    """Return the hosts whose free slots were kept for another task, closed to this one."""
    names = inputs.kept.keys() & desired.hosts.keys()
    return {name: desired.hosts[name].model_copy(update={"cordon": True}) for name in names}


def _with_inputs(observed: Observed, desired: Desired, after: Status, inputs: DecisionInputs) -> Observed:
    """Return what was observed: the record, and the inputs that it does not have."""
    holder = after.holder
    request = isinstance(holder, AtWorker) and LeaseRequest(
        agent=holder.agent, request_key=holder.request_key, capabilities=inputs.capabilities
    )
    return replace(
        observed,
        load={name: inputs.load.get(name, inputs.floor or 0.0) for name in desired.hosts},
        half_open=frozenset(inputs.half_open),
        spent=_scopes(inputs.spent),
        spent_in_week=_scopes(inputs.week),
        lease_requests=(request,) if request else (),
        machine=(isinstance(holder, OnHost) and holder.machine) or observed.machine,
    )


def _scopes(spent: Spending) -> Mapping[BudgetScope, Usage]:
    scopes = ((name.partition("/"), usage) for name, usage in spent.items())
    # A kind that is none is nobody's.
    return {cast("BudgetScope", (kind, name)): usage for (kind, _, name), usage in scopes}


def _of_choice(step: RecordedStep, before: Status, after: Status, choice: _Choice) -> Iterator[str]:
    """Yield where the record differs from the decision that is made now."""
    if choice.event is None:
        yield f"the run would not be given to anybody: {choice.wait.message if choice.wait else 'it waits'}"
        return
    origin = choice.event.origin
    on_record = {"reason": step.record.reason, "cause": step.record.cause, "actor": step.record.actor}
    wanted = {"reason": origin.reason, "cause": origin.cause, "actor": origin.actor}
    yield from _differences(
        {**on_record, **_document(after)}, {**wanted, **_document(transition(before, choice.event))}
    )


def _differences(record: Mapping[str, Any], decision: Mapping[str, Any]) -> Iterator[str]:
    for name in [*record, *(each for each in decision if each not in record)]:
        before, now = record.get(name), decision.get(name)
        if before != now:
            yield f"{name}: the record says {_printed(before)}, the decision {_printed(now)}"


def _printed(value: Any) -> str:
    return "nothing" if value is None else str(value)


def _document(status: Status | None) -> Mapping[str, Any]:
    """Return a status as its file has it."""
    return status.model_dump(mode="json", exclude_defaults=True) if status else {}


def _decisive(
    step: RecordedStep, after: Status, desired: Desired, observed: Observed, inputs: DecisionInputs
) -> Iterator[str]:
    """Yield the inputs that made a difference."""
    holder = _holder(_choose(step, after, desired, observed, inputs))
    for name in _NAMES:
        if not getattr(inputs, name):
            continue
        floor = None if name == "load" else inputs.floor
        without = replace(inputs, **{name: getattr(NO_INPUTS, name), "floor": floor})
        other = _holder(_choose(step, after, desired, observed, without))
        if other != holder:
            yield f"{name}: without it, {other}"


def _holder(choice: _Choice) -> str:
    if choice.event is None:
        return "nobody"
    return getattr(choice.event.holder, "host", "") or getattr(choice.event.holder, "agent", "")


def _outcome(choice: _Choice) -> str:
    if choice.event is not None:
        return choice.event.origin.reason
    return choice.wait.message if choice.wait else "nobody gets it"


def _hosts(placement: Placement) -> Iterator[str]:
    """Yield how the hosts stood, as many as a person would read."""
    for each in placement.ranked[: _NO_MORE + 1]:
        yield f"{each.host}: {each.score:g} ({each.why})"
    for name, why in sorted(placement.rejected.items())[:_NO_MORE]:
        yield f"{name}: {why}"
    more = len(placement.ranked[_NO_MORE + 1 :]) + max(0, len(placement.rejected) - _NO_MORE)
    if more:
        yield f"and {more} more"


# --- What else the planner decides ------------------------------------------


def _of_plan(step: RecordedStep, desired: Desired, observed: Observed) -> Replay:
    """Plan for the one task, and compare the first thing that goes on record."""
    names = frozenset(filter(None, (step.record.task, step.record.renamed_from)))
    for now in _times(step):
        planned = plan_some(desired, observed, now, names, Backlog()).plan
        event = next((event for event in planned.events if event.task == step.record.task), None)
        if event is None or isinstance(event, Assigned):
            continue
        left = () if isinstance(event, WaitingChanged) else ("waiting",)
        made, there = _document(transition(step.before, event)), _document(step.after)
        if _without(made, left) == _without(there, left):
            return Replay(verdict="same", message=event.origin.reason)
    message = "rests on more than specs and record have: it cannot be made again; the step is legal"
    return Replay(verdict="open", message=message)


def _times(step: RecordedStep) -> list[datetime]:
    """Return when the decision may have been made: a commit has seconds, a status more."""
    after, at = step.after, step.record.at
    exact = (after.since, after.waiting.since if after.waiting else None) if after else ()
    return [*dict.fromkeys(time for time in exact if time and time.replace(microsecond=0) == at), at]


def _without(document: Mapping[str, Any], names: tuple[str, ...]) -> Mapping[str, Any]:
    return {name: value for name, value in document.items() if name not in names}

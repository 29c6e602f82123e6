"""
What should be done now, and what everything else waits for.

`plan` compares what the specs ask for with what is observed and returns
actions, each with its reason in words. What goes on record (`Plan.events`) is
complete in one pass: folded into what is observed, it leaves nothing more to
record. So a plan is also its own preview: nothing is done by making one.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import NamedTuple

from reconciler.core.adapter import Usage, overspent
from reconciler.core.attribution import attribute
from reconciler.core.events import (
    Archived,
    Assigned,
    Cancelled,
    Cause,
    Created,
    Escalated,
    Event,
    Origin,
    QuestionAnswered,
    Removed,
    Renamed,
    Renewed,
    Restored,
    Scheduled,
    SpecChanged,
    SpecRemoved,
    WaitingChanged,
)
from reconciler.core.faults import OUTCOME, culprits, fault_message
from reconciler.core.fields import format_duration
from reconciler.core.lifecycle import Transition, fold, next_attempt, transition
from reconciler.core.model.runs import FailureClass, run_key
from reconciler.core.model.specs import Desired, DesiredState, Host, Task
from reconciler.core.model.status import (
    MERGE_REASONS,
    AtWorker,
    Failure,
    LeaseRequest,
    Observed,
    OnHost,
    Phase,
    Predecessor,
    Reason,
    Status,
    Waiting,
)
from reconciler.core.names import spec_owner
from reconciler.core.planning.backlog import Backlog, Lane, Turn
from reconciler.core.planning.context import PlanContext, Wait, waiting
from reconciler.core.planning.inputs import host_inputs, pull_inputs
from reconciler.core.planning.limits import budget_scopes, spent_today
from reconciler.core.planning.liveness import (
    deadline_end,
    deadline_reached,
    host_loss,
    host_silence,
    silence_deadlines,
    worker_loss,
)
from reconciler.core.planning.placement import Placement, goes_on
from reconciler.core.planning.schedule import JUMP, format_in, is_due_time, next_due
from reconciler.core.planning.scheduler import Schedule, due, schedule
from reconciler.core.planning.variants import (
    choice_event,
    is_decided,
    statuses_of_variants,
    variant_event,
    variant_wait,
    why_dropped,
)
from reconciler.core.plans import rejected_plan
from reconciler.core.renames import has_spec, renames
from reconciler.core.runs.accounts import fallback_task
from reconciler.core.runs.leases import CHECKING, is_to_check
from reconciler.core.runs.start_point import predecessors, pull_bases, start_commit
from reconciler.core.text import one_line
from reconciler.core.times import format_time
from reconciler.core.variants import as_run, family, family_usage, is_usable, round_mode, survivors

FEW = 2
"""So many tasks are removed as asked, even if they are all there are."""

# --- What comes out --------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RecordEvent:
    """Put an event on record; nothing is set in motion by it."""

    event: Event

    @property
    def task(self) -> str:
        """The task it is about."""
        return self.event.task

    @property
    def reason(self) -> str:
        """Why, in words."""
        return self.event.origin.reason


@dataclass(frozen=True, slots=True)
class StartRun:
    """Put a new run on record; once it is there, the next plan says `FollowRun`."""

    event: Assigned
    placement: Placement

    @property
    def task(self) -> str:
        """The task it is about."""
        return self.event.task

    @property
    def reason(self) -> str:
        """Why there, in words."""
        return self.event.origin.reason


@dataclass(frozen=True, slots=True)
class FollowRun:
    """Carry out a round that is on record, or take it up where it stands."""

    task: str
    run: str
    round: int
    reason: str


@dataclass(frozen=True, slots=True)
class StopRun:
    """End a live run that no spec asks for; said again until its end is on record."""

    task: str
    run: str
    round: int
    reason: str


Action = RecordEvent | StartRun | FollowRun | StopRun
_LiveRun = tuple[str, Status, Host]
"""A live run that somebody can be sent to: its task, with its status, and its host."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, in order, and what everything else waits for."""

    actions: tuple[Action, ...] = ()
    waiting: Mapping[str, Waiting] = field(default_factory=dict)
    """What each task waits for, by name."""
    placements: Mapping[str, Placement] = field(default_factory=dict)
    """Of the tasks that only a place was missing for, by name."""
    due: datetime | None = None
    """When something may change by itself."""
    faults: Mapping[str, Exception] = field(default_factory=dict)
    """What was raised in thinking about a task, by name: a mistake of ours that keeps no other task back."""

    @property
    def events(self) -> tuple[Event, ...]:
        """Return what goes on record before anything is set in motion."""
        return tuple(action.event for action in self.actions if isinstance(action, RecordEvent | StartRun))


# --- The plan --------------------------------------------------------------


def plan(desired: Desired, observed: Observed, now: datetime) -> Plan:
    """
    Return what should be done now, after a look at every task.

    Before the specs were read for the first time nothing is done. A task about
    which thinking fails is left as it is, and says so; the others are planned
    without it.
    """
    if not desired.revision:
        return Plan()
    names = _every_name(desired, observed)
    try:
        return plan_some(desired, observed, now, names, Backlog()).plan
    except Exception:  # noqa: BLE001 - whatever it is, it is told of the tasks it is about
        faults = culprits(lambda some: plan_some(desired, observed, now, {*some}, Backlog()), sorted(names))
    message = {name: fault_message(error) for name, error in faults.items()}
    rest = replace(observed, faults={**observed.faults, **message})
    return replace(plan_some(desired, rest, now, names, Backlog()).plan, faults=faults)


class PartialPlan(NamedTuple):
    """A plan after a look at some tasks, and what was seen of them."""

    plan: Plan
    blocked: Mapping[str, Wait]
    """Of those that want to run: what some wait for that no slot would help."""
    ready: Mapping[str, tuple[Lane, Turn]]
    """The others of those that want to run, and where each stands."""


def plan_some(
    desired: Desired, observed: Observed, now: datetime, every: AbstractSet[str], backlog: Backlog
) -> PartialPlan:
    """
    Return the plan after a look at these tasks, and at those of the backlog that it is the turn of.

    Of the backlog these are the heads of its lanes, and what depends on tasks that the plan changes.
    Raises whatever thinking about a task raises.
    """
    set_aside = {name: str(problem) for name, problem in observed.damaged.items()} | {**observed.faults}
    faults = {name: message for name, message in set_aside.items() if name in every}
    names = every - faults.keys()
    statuses: Mapping[str, Status] = {n: observed.statuses[n] for n in every if n in observed.statuses}
    renamed = tuple(attribute(desired, event) for event in _renames(desired, observed, statuses, names, now))
    statuses, steps = fold(statuses, renamed)
    changed = _subjects(steps)
    held = _held(desired, statuses, backlog.open_count)
    context = PlanContext(desired, observed, now, names, statuses, held, faults)
    context, changes, steps = _with_spec_changes(context, backlog)
    context = _with(context, backlog.dependents(changed | _subjects(steps)))
    queue = schedule(context, backlog)
    context = _with(context, queue.starts.keys() | queue.waits.keys())
    waits = {**_non_slot_waits(context), **queue.waits}
    waitings = {name: waiting(context, name, wait) for name, wait in waits.items()}
    runs = tuple(_within_reach(context))
    reported = {*queue.starts, *(event.task for event in changes if isinstance(event, Created | Scheduled))}
    plan = Plan(
        actions=(
            *(RecordEvent(_with_waiting(event, waitings)) for event in (*renamed, *changes)),
            *(
                RecordEvent(attribute(desired, event))
                for event in _waiting_changes(context, waitings, reported)
            ),
            *_abandoned_runs(steps),
            *_stops(context, runs),
            *_follows(context, runs),
            *(start_run(context, name, queue) for name in queue.starts),
        ),
        waiting=waitings,
        placements=queue.placements,
        due=min(
            (*_times(context, waits, runs), *queue.times, *backlog.next_times(observed.leases)), default=None
        ),
    )
    return PartialPlan(plan, queue.blocked, queue.ready)


def _with_spec_changes(
    context: PlanContext, backlog: Backlog
) -> tuple[PlanContext, Sequence[Event], Sequence[Transition]]:
    """
    Return the context with all that the specs change on record, and these events and steps.

    What becomes of a variant may change what its task does next, and the other way round.
    """
    changes, steps, names = list[Event](), list[Transition](), context.names
    while names:
        more = list(_spec_changes(context, names))
        statuses, taken = fold(context.statuses, more)
        changes += more
        steps += taken
        near = {other for step in taken for other in _family(context, step.task)}
        context = _with(replace(context, statuses=statuses), backlog.dependents(near) & near)
        names = frozenset(near & context.names)
    return context, changes, steps


def _family(context: PlanContext, name: str) -> frozenset[str]:
    spec = context.desired.tasks.get(name)
    return family(spec) if spec else frozenset()


def _subjects(steps: Iterable[Transition]) -> set[str]:
    """Return the tasks that steps are about, by their names before and after."""
    return {name for step in steps for name in (step.task, step.old)}


def _with(context: PlanContext, names: AbstractSet[str]) -> PlanContext:
    """Return the context with more tasks to look at, as they are observed."""
    new = names - context.names
    if not new:
        return context
    statuses = {**context.statuses, **{name: context.observed.statuses[name] for name in new}}
    return replace(context, names=context.names | new, statuses=statuses)


def needs_attention(spec: Task | None, status: Status | None) -> bool:
    """Return whether a plan may find something to do for a task: all but what is settled and at rest."""
    if spec is None or status is None:
        return not (spec is None and status is None)
    if status.phase.is_settled and not status.removed and status.waiting is None:
        is_asked = _is_asked_again(spec, status) or _is_cancelled_anew(spec, status)
        return is_asked or _keeps_schedule(spec, status)
    return True


def prune_digest(names: Iterable[str]) -> str:
    """Return the 8 hex digits by which a person allows the removal of exactly these tasks."""
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()[:8]


def _every_name(desired: Desired, observed: Observed) -> AbstractSet[str]:
    return {*desired.tasks, *desired.broken, *observed.statuses, *observed.damaged}


def is_known(name: str, desired: Desired, observed: Observed) -> bool:
    """Return whether there is a task of a name: asked for, or on record, be it unreadable."""
    return (
        name in desired.tasks
        or name in desired.broken
        or name in observed.statuses
        or name in observed.damaged
    )


def _with_waiting(event: Event, waiting: Mapping[str, Waiting]) -> Event:
    """Let a task that is new, or waits anew, say at once what for."""
    if isinstance(event, Created | Scheduled):
        return replace(event, waiting=waiting.get(event.task))
    return event


# --- Removed and renamed specs ---------------------------------------------


def _renames(
    desired: Desired,
    observed: Observed,
    statuses: Mapping[str, Status],
    names: AbstractSet[str],
    now: datetime,
) -> Iterator[Renamed]:
    """
    Yield a rename for each status whose spec is gone and whose like has come.

    See `core.renames`.
    """
    gone = {
        name: status
        for name, status in statuses.items()
        if name in names and not status.removed and not has_spec(desired, name, status)
    }
    new = {n: desired.tasks[n] for n in names if n in desired.tasks and _is_new(desired.tasks[n], statuses)}
    for old, name in renames(gone, new):
        before = statuses.get(name)
        past = max(observed.past.get(name, 0), before.attempt if before else 0)
        yield Renamed(task=name, old=old, origin=Origin(now, f"the spec moved from {old}"), attempt=past)


def _is_new(spec: Task, statuses: Mapping[str, Status]) -> bool:
    """Return whether nothing is on record of a task but, in the archive, other work of the same name."""
    status = statuses.get(spec.name)
    return status is None or (status.archived and status.work != spec.work)


def _held(desired: Desired, statuses: Mapping[str, Status], more: int) -> frozenset[str]:
    """
    Return the tasks whose spec is gone but that a person must allow to remove.

    Once held is held, until the spec is back or the removal allowed: neither
    new tasks nor held ones that settle make it look small, and the digest does
    not change under the eyes of the person who decides. Where specs are left
    without any task, the settled ones count too. One or two go as asked.
    `more` is how many tasks there are beside these, not settled, with their specs.
    """
    present = {n: status for n, status in statuses.items() if not status.removed}
    live = {n for n, status in present.items() if not status.phase.is_settled}
    waits = {n for n, status in present.items() if _awaits_approval(status)}
    # No task at all is the wrong branch more often than the wish to forget what was done.
    is_empty = not desired.tasks and not desired.broken
    gone = frozenset(
        n for n in (present if is_empty else live | waits) if not has_spec(desired, n, statuses.get(n))
    )
    count = _removal_count(desired, {n: statuses[n] for n in gone})
    is_all = count > FEW and (is_empty or (live <= gone and not more))
    is_much = is_all or count > max(5, (len(live | gone) + more) / 5)
    held = gone if is_much else gone & waits
    return held if desired.fleet.prune_approved != prune_digest(held) else frozenset()


def _removal_count(desired: Desired, gone: Mapping[str, Status]) -> int:
    """
    Return how many removals these are: all tasks of a campaign whose file is gone are one.

    One commit asked for them, and its revert takes them back. Where no spec file is left at all,
    nobody has taken back a campaign: each task counts.
    """
    counts = Counter(status.campaign for status in gone.values())
    whole = {name for name in counts if name and name not in desired.campaigns and not desired.is_bare}
    # A task and its variants are one, too: they are of one file.
    return len({*map(spec_owner, gone)}) - sum(counts[name] - 1 for name in whole)


def _awaits_approval(status: Status) -> bool:
    return status.waiting is not None and status.waiting.reason is Reason.APPROVAL


# --- What the specs change on record ---------------------------------------


def _spec_changes(context: PlanContext, names: AbstractSet[str]) -> Iterator[Event]:
    """Yield, task by task, every event by which the record catches up with the specs; removals first."""
    desired = context.desired
    changed = sorted(names - context.held)
    for name in (
        *(n for n in changed if n not in desired.tasks),
        *(n for n in changed if n in desired.tasks),
    ):
        status, spec = context.statuses.get(name), desired.tasks.get(name)
        if name in desired.broken and (status is not None or spec is None):
            # Its last good version stays in force as far as it got.
            if status is not None and (lost := worker_loss(context, name, spec, status)):
                yield lost
            continue
        while (event := _spec_change(context, name, status)) is not None:
            event = attribute(desired, event)  # before what follows from it: that names who asked for it
            yield event
            status = transition(status, event)


def _spec_change(context: PlanContext, name: str, status: Status | None) -> Event | None:
    """Return the next thing to record so that the status answers the spec; None if it does."""
    spec, now = context.desired.tasks.get(name), context.now
    if spec is None:
        is_kept = has_spec(context.desired, name, context.statuses.get(name))
        return None if status is None or is_kept else _removal(context, name, status)
    if status is None:
        past = context.observed.past.get(name, 0)
        return Created(
            task=name,
            origin=Origin(now, "a new spec"),
            spec=spec,
            attempt=past,
        )
    if status.removed:
        return Restored(
            task=name,
            origin=Origin(now, "the spec came back"),
        )
    if lost := host_loss(context, spec, status):
        return lost
    if spec.variant_of and ((event := variant_event(context, spec, status)) or is_decided(context, spec)):
        return event
    return (
        _answer(name, spec, status, now, _usage(context, spec, status))
        or choice_event(context, spec, status)
        or _next_time(spec, status, now)
    )


def _usage(context: PlanContext, spec: Task, status: Status) -> Usage:
    """Return what a task took, with all of its variants."""
    return (
        status.usage + family_usage(spec, statuses_of_variants(context, spec))
        if spec.variants
        else status.usage
    )


def _answer(name: str, spec: Task, status: Status, now: datetime, usage: Usage) -> Event | None:
    if _is_asked_again(spec, status):
        return Renewed(task=name, origin=Origin(now, "asked for again by a new spec"), spec=spec)
    if _is_behind(spec, status):
        return SpecChanged(task=name, origin=Origin(now, f"the spec is {spec.generation[:8]} now"), spec=spec)
    if spec.desired is DesiredState.CANCELLED and status.phase in {Phase.CREATED, Phase.REVIEW_PENDING}:
        return Cancelled(task=name, origin=Origin(now, "cancelled in the spec"), spec=spec)
    if status.phase is not Phase.CREATED:
        return None
    if plan := rejected_plan(status):
        reason = one_line(f"plan {plan.id} was rejected by {plan.answered_by}")
        return Cancelled(task=name, origin=Origin(now, reason, "person"), spec=spec)
    return _question_answered(spec, status, now) or _exhausted(spec, status, usage, now)


def _exhausted(spec: Task, status: Status, usage: Usage, now: datetime) -> Event | None:
    """Return that a task has no money or no time left; None if it has."""
    if spent := overspent(spec.budget, usage):
        return _escalated(spec, now, f"{spent}; raise the budget, then retry")
    if late := deadline_reached(spec, status, now):
        return _escalated(spec, now, f"{late}; raise `deadline`, then retry", "clock")
    return None


def _escalated(spec: Task, now: datetime, message: str, cause: Cause = "spec") -> Event:
    """Return that only a person can go on, for this and not for what failed before."""
    failure = Failure(kind=FailureClass.BUDGET, message=message)
    return Escalated(task=spec.name, origin=Origin(now, message, cause), failure=failure)


def _question_answered(spec: Task, status: Status, now: datetime) -> Event | None:
    """Return that the question of a task is answered: by a person, or by default once that is due."""
    question = status.question
    cause: Cause
    if question is None:
        return None
    if spec.answer and spec.answer.to == question.id and is_usable(question, spec.answer.text):
        text, how, cause = spec.answer.text, "is answered", "person"
    elif (
        spec.ask
        and not spec.held
        and question.asked_at + spec.ask.after <= now
        and is_usable(question, spec.ask.default)
    ):
        text, cause = spec.ask.default, "clock"
        how = f"is answered by default after {format_duration(spec.ask.after)}"
    else:
        return None
    origin = Origin(now, one_line(f"{question.kind} {question.id} {how}: {text}"), cause)
    return QuestionAnswered(task=spec.name, origin=origin, question=question.id, answer=text)


def _removal(context: PlanContext, name: str, status: Status) -> Event | None:
    now = context.now
    if status.archived:
        return None
    # What the removal itself cancelled is forgotten: should the spec come back, it begins anew.
    if status.phase.is_settled and not (status.removed and status.phase is Phase.CANCELLED):
        return Archived(task=name, origin=Origin(now, "the spec was removed: settled, so it is archived"))
    if not status.removed:
        return SpecRemoved(task=name, origin=Origin(now, "the spec was removed"))
    if status.on_delete == "orphan" and status.phase.is_live:
        return Removed(task=name, origin=Origin(now, "removed; its run is let go of (on_delete: orphan)"))
    if not status.phase.is_live:
        return Removed(
            task=name,
            origin=Origin(now, "removed; nothing of it runs"),
        )
    return worker_loss(context, name, None, status)


def _is_behind(spec: Task, status: Status) -> bool:
    """Return whether the spec has news for the status, in the phase it is in."""
    if status.phase is Phase.CREATED:
        return (status.generation, status.work) != (spec.generation, spec.work)
    if status.phase.is_settled:
        return _is_cancelled_anew(spec, status)
    return (status.on_delete, status.campaign) != (spec.on_delete, spec.campaign)


def _is_asked_again(spec: Task, status: Status) -> bool:
    """
    Return whether a settled task should run once more.

    Any edit renews a task that failed or was cancelled: a person has acted.
    What was completed or escalated runs again only for new work.
    """
    if spec.desired is not DesiredState.ACTIVE or not status.phase.is_settled:
        return False
    if status.phase in {Phase.FAILED, Phase.CANCELLED} and spec.variant_of is None:
        return status.generation != spec.generation
    return status.work != spec.work


def _is_cancelled_anew(spec: Task, status: Status) -> bool:
    """
    Return whether a cancelled task should answer a newer spec that cancels it.

    Otherwise reverting that spec would bring back the generation on record, and
    the task would not run again.
    """
    return (
        status.phase is Phase.CANCELLED
        and spec.desired is DesiredState.CANCELLED
        and status.generation != spec.generation
    )


# --- Schedules -------------------------------------------------------------


def _next_time(spec: Task, status: Status, now: datetime) -> Event | None:
    """
    Return what the schedule asks for: the next due time, or another life once it has come.

    A due time that was missed is caught up once, however many there were. Those
    that came while the task was at work are skipped.
    """
    due_at = status.due_at
    if spec.schedule is None or not _keeps_schedule(spec, status):
        return None
    if _is_served(status):
        return _scheduled(spec, spec.schedule, status, now)
    if due_at is None or (due_at > now and not is_due_time(spec.schedule, spec.timezone, due_at)):
        return _scheduled(spec, spec.schedule, status, now)
    if due_at > now and _skips_days(spec, spec.schedule, status, now):
        return _scheduled(spec, spec.schedule, status, now)
    if due_at > now or status.phase is Phase.CREATED:
        return None
    reason = f"due {format_in(due_at, spec.timezone)}"
    return Renewed(task=spec.name, origin=Origin(now, reason, cause="clock"), spec=spec)


def _keeps_schedule(spec: Task, status: Status) -> bool:
    """Return whether the task comes again by itself; what only a person can fix does not."""
    if spec.schedule is None or spec.desired is not DesiredState.ACTIVE:
        return False
    return status.phase in {Phase.CREATED, Phase.COMPLETED, Phase.FAILED, Phase.CANCELLED}


def _is_served(status: Status) -> bool:
    """
    Return whether the due time on record is behind the task: it has settled and waits for none yet.

    Comparing times would not tell: somebody may set the clock back.
    """
    is_waiting = status.waiting is not None and status.waiting.reason is Reason.SCHEDULE
    return status.phase.is_settled and not is_waiting


def _scheduled(spec: Task, schedule: str, status: Status, now: datetime) -> Event | None:
    """Return the next due time; never one that was served, though the clock may be behind it again."""
    served = status.due_at if _is_served(status) else None
    upcoming = next_due(schedule, spec.timezone, now)
    if upcoming is not None and upcoming == served:
        upcoming = next_due(schedule, spec.timezone, upcoming)
    if upcoming is None or upcoming == status.due_at:
        return None
    following = next_due(schedule, spec.timezone, served) if served else None
    is_skipped = following is not None and following <= status.since
    message = f"due {format_in(upcoming, spec.timezone)}"
    wait = Waiting(reason=Reason.SCHEDULE, message=message, since=now) if status.phase.is_settled else None
    reason = message + ("; what came due while it was at work is skipped" if is_skipped else "")
    return Scheduled(task=spec.name, origin=Origin(now, reason, cause="clock"), due_at=upcoming, waiting=wait)


def _skips_days(spec: Task, schedule: str, status: Status, now: datetime) -> bool:
    """
    Return whether due times are passed over because the one on record is of a clock that was ahead.

    One before it may have been served by that clock; of more, some were not.
    """
    if status.due_at is None or status.since - now <= JUMP:
        return False
    first = next_due(schedule, spec.timezone, now)
    second = next_due(schedule, spec.timezone, first) if first else None
    return second is not None and second < status.due_at


# --- Live runs -------------------------------------------------------------


def _abandoned_runs(steps: Iterable[Transition]) -> Iterator[StopRun]:
    """Yield a stop for every run that its task goes on without: it may be alive on a host that is silent."""
    for step in steps:
        if step.before and step.after and step.before.phase.is_live and not step.after.phase.is_live:
            yield StopRun(step.task, *_round(step.before), step.event.origin.reason)


def _stops(context: PlanContext, runs: Iterable[_LiveRun]) -> Iterator[StopRun]:
    """Yield a stop for every live run that no spec asks for."""
    for name, status, host in runs:
        if why := _why_stop(context, name, status, host):
            yield StopRun(name, *_round(status), why)


def _follows(context: PlanContext, runs: Iterable[_LiveRun]) -> Iterator[FollowRun]:
    """Yield a follow for every live round that nobody follows, but for those to be stopped."""
    for name, status, host in runs:
        run, number = _round(status)
        if (run, number) not in context.observed.followed and not _why_stop(context, name, status, host):
            yield FollowRun(name, run, number, f"round {number} of {run} is on record")


def _why_stop(context: PlanContext, name: str, status: Status, host: Host) -> str | None:
    spec = context.spec(name)
    if why := _why_evicted(host, context.now) or why_end(spec, status):
        return why
    if spec and spec.variant_of and (why := why_dropped(context, spec)):
        return why
    if late := deadline_reached(spec, status, context.now):
        return late
    return _why_over_budget(context, spec, status) if spec and spec.over_budget == "stop" else None


def why_end(spec: Task | None, status: Status) -> str | None:
    """Return why the spec of a live run does not ask for it any more; None if it does, or is broken."""
    if status.removed:
        return "the spec was removed" if status.on_delete == "cancel" else None
    if spec is None:
        return None
    if spec.desired is not DesiredState.ACTIVE:
        return f"{spec.desired} in the spec"
    if spec.held:
        return "a person takes it over (reconciler attach)"
    return _why_outdated(spec, status)


def _why_outdated(spec: Task, status: Status) -> str | None:
    """Return why a live run is of no use for what the spec asks for by now; None if it is."""
    if (spec.variant_of or status.last_run.mode == "judge") and spec.work != status.work:
        return "other work is asked for by now"
    is_restarted = spec.on_change == "restart" and spec.generation != status.generation
    return "the spec changed (on_change: restart)" if is_restarted else None


def _why_evicted(host: Host, now: datetime) -> str | None:
    """Return why a run must leave its host, whatever the specs of tasks say."""
    if not host.drain or host.drain_until is None or host.drain_until > now:
        return None
    return f"host {host.name} is drained (drain_until: {format_time(host.drain_until)})"


def _why_over_budget(context: PlanContext, spec: Task, status: Status) -> str | None:
    """Return which budget is spent, the task's own or one of the day."""
    run = status.last_run
    paying = budget_scopes(run.adapter, run.repo, status.assigned_host, run.account)
    spent = overspent(spec.budget, status.usage) or spent_today(
        context.desired, context.observed.spent or {}, *paying
    )
    return f"{spent} (over_budget: stop)" if spent else None


def _within_reach(context: PlanContext) -> Iterator[_LiveRun]:
    """Yield the live tasks whose run somebody can be sent to, and its host."""
    statuses = context.statuses
    for name in sorted(n for n in context.names if n in statuses and statuses[n].phase.is_live):
        status = statuses[name]
        host = context.desired.hosts.get(status.assigned_host or "")
        if host and context.observed.can_reach(status):
            yield name, status, host


def _round(status: Status) -> tuple[str, int]:
    return status.last_run.round_key


# --- What tasks wait for ---------------------------------------------------


def _non_slot_waits(context: PlanContext) -> Mapping[str, Wait]:
    """Return what those tasks wait for that no slot would help."""
    names = sorted({*context.names, *context.faults})
    return {name: wait for name in names if (wait := _non_slot_wait(context, name))}


def _non_slot_wait(context: PlanContext, name: str) -> Wait | None:
    status = context.statuses.get(name)
    if name in context.held:
        digest = prune_digest(context.held)
        return Wait(
            Reason.APPROVAL,
            f"the spec was removed{_with_others(len(context.held) - 1)}; put it back, "
            f"or allow the removal with `reconciler approve-prune` ({digest})",
        )
    if wait := _mistake_wait(context, name, status):
        return wait
    if status is None:
        return None
    if status.phase.is_live or status.phase is Phase.REVIEW_PENDING:
        return (
            _live_wait(context, status)
            or variant_wait(context.spec(name), status)
            or _merge_wait(context, name, status)
            or _review_wait(status)
        )
    spec = context.spec(name)
    has_time = status.due_at is not None and status.due_at > context.now
    if status.phase.is_settled and has_time and spec and _keeps_schedule(spec, status) and not status.removed:
        return due(spec, status, context.now)
    return None


def _with_others(count: int) -> str:
    return f" together with {count} other{'s' * (count > 1)}" if count else ""


def _mistake_wait(context: PlanContext, name: str, status: Status | None) -> Wait | None:
    """Return the mistake that a task waits to see fixed: one of ours, or one in its file."""
    if name in context.faults and not (status and _is_paused(status)):
        return Wait(Reason.FAULT, context.faults[name])
    if name in context.desired.broken and (status is None or status.phase is Phase.CREATED):
        return Wait(Reason.SPEC_ERROR, str(context.desired.broken[name][0]))
    return None


def _live_wait(context: PlanContext, status: Status) -> Wait | None:
    """
    Return why nothing is heard of a live run (leases end by themselves), or why work in review rests.

    What is only tried again is said where nothing else is.
    """
    if status.waiting and _is_still_faulty(status):
        return Wait(Reason.FAULT, status.waiting.message)
    if status.waiting and _is_paused(status):
        return Wait(Reason.PERSON, status.waiting.message)
    retry_reason = context.observed.retry_reasons.get(status.run.key) if status.run else None
    if status.phase.is_live and status.assigned_agent is not None:
        return Wait(Reason.CHECK, retry_reason or CHECKING) if is_to_check(status) else None
    is_over = status.phase.is_live and status.last_run.key in context.observed.agent_over
    if status.phase.is_live and (message := _host_silence(context, status)):
        return Wait(Reason.DELIVERY if is_over else Reason.HOST, message)
    if retry_reason:
        return Wait(Reason.DELIVERY if is_over else Reason.RETRYING, retry_reason)
    return _queue_wait(status)


def _queue_wait(status: Status) -> Wait | None:
    """Return what the scheduler of its host said last of why a live run has not begun."""
    waiting = status.waiting
    if not status.phase.is_live or waiting is None or waiting.reason is not Reason.QUEUE:
        return None
    return Wait(Reason.QUEUE, waiting.message)


def _merge_wait(context: PlanContext, name: str, status: Status) -> Wait | None:
    """Return why work in review is not merged, whoever approved it: what it is stacked on is not."""
    spec = context.spec(name)
    repo = context.desired.repos.get(spec.repo or "") if spec else None
    if status.phase is not Phase.REVIEW_PENDING or spec is None or spec.review != "pull_request":
        return None
    if repo is None or repo.merge == "never" or spec.start_from is None:
        return None
    base, _ = pull_bases(spec, repo, context.desired, _before(context, spec))
    if base == repo.base:
        return None
    return Wait(Reason.DEPENDENCY, f"is merged after {spec.start_from}, on whose branch it stands")


def _review_wait(status: Status) -> Wait | None:
    """Return what the pull request said last of why it is not merged."""
    waiting = status.waiting
    if status.phase is not Phase.REVIEW_PENDING or waiting is None or waiting.reason not in MERGE_REASONS:
        return None
    return Wait(waiting.reason, waiting.message)


def _host_silence(context: PlanContext, status: Status) -> str | None:
    if status.assigned_host not in context.desired.hosts:
        return f"host {status.assigned_host} of the live run is gone from specs/hosts"
    return host_silence(context, status) or _no_answer(context, status)


def _no_answer(context: PlanContext, status: Status) -> str | None:
    """Return why a run is not started that is on record; the words stay the same while its host is away."""
    host = status.assigned_host or ""
    probe = context.observed.hosts.get(host)
    is_away = host in context.observed.probed and probe is not None and not probe.reachable
    if status.phase is not Phase.ASSIGNED or not is_away or probe is None:
        return None
    return f"host {host} does not answer: {probe.message}"


def _is_paused(status: Status) -> bool:
    """Return whether somebody else works on the branch; that stays on record, whatever else is to be said."""
    if status.phase is not Phase.REVIEW_PENDING or status.waiting is None:
        return False
    return status.waiting.reason is Reason.PERSON


def _is_still_faulty(status: Status) -> bool:
    """
    Return whether nothing has come since something came that could not be thought about.

    A restart takes that up again, and must not say meanwhile that all is well.
    """
    waiting = status.waiting
    if waiting is None or waiting.reason is not Reason.FAULT or not waiting.message.startswith(OUTCOME):
        return False
    return waiting.since >= (status.last_activity_at or status.since)


def _waiting_changes(
    context: PlanContext, waiting: Mapping[str, Waiting], reported: Collection[str]
) -> Iterator[WaitingChanged]:
    """Yield a change for every task that waits for another thing than its record says."""
    for name in sorted(context.statuses.keys() - set(reported)):
        before, after = context.statuses[name].waiting, waiting.get(name)
        if before != after:
            reason = after.message if after else "waits for nothing any more"
            yield WaitingChanged(
                task=name,
                origin=Origin(context.now, reason),
                waiting=after,
            )


# --- New runs --------------------------------------------------------------


def start_run(context: PlanContext, name: str, queue: Schedule) -> StartRun:
    """Return the start of a task that has its place."""
    lease_request = queue.handouts.get(name)
    return (
        _handout(context, name, lease_request)
        if lease_request
        else _start_on_host(context, name, queue.starts[name])
    )


def _handout(context: PlanContext, name: str, lease_request: LeaseRequest) -> StartRun:
    spec = context.desired.tasks[name]
    attempt = next_attempt(spec, context.statuses[name])
    event = Assigned(
        task=name,
        origin=Origin(
            context.now,
            f"attempt {attempt} is pulled by agent {lease_request.agent}",
            cause="agent",
            actor=lease_request.agent,
        ),
        run=run_key(name, spec.generation, attempt),
        holder=AtWorker(agent=lease_request.agent, request_key=lease_request.request_key),
        spec=spec,
        start_from=_start_commit(context, spec),
        predecessors=_predecessors(context, spec),
        inputs=pull_inputs(context, spec, lease_request),
    )
    return StartRun(event, Placement())


def _start_on_host(context: PlanContext, name: str, placement: Placement) -> StartRun:
    status, best = context.statuses[name], placement.ranked[0]
    spec = as_run(context.desired.tasks[name], status)
    spec = (fallback_task(spec) if placement.fallback else None) or spec
    is_same = status.run is not None and status.run.account == placement.account
    if is_same and goes_on(spec, status, best.host, context.observed):
        return _next_round(context, spec, status, placement)
    attempt, start_from = next_attempt(spec, status), _start_commit(context, spec)
    where = f"; it begins on {spec.start_from} ({start_from[:8]})" if start_from else ""
    machine = context.observed.machine if context.desired.hosts[best.host].is_local else None
    event = Assigned(
        task=name,
        origin=Origin(
            context.now, f"attempt {attempt} on {best.host}: {best.why}{_paid(spec, placement)}{where}"
        ),
        account=placement.account,
        start_from=start_from,
        run=run_key(name, spec.generation, attempt),
        holder=OnHost(host=best.host, machine=machine),
        spec=spec,
        predecessors=_predecessors(context, spec),
        inputs=host_inputs(context, spec, placement),
    )
    return StartRun(event, placement)


def _paid(spec: Task, placement: Placement) -> str:
    """Return whose credential a run uses, and why another CLI or model, in words."""
    account = f"; account {placement.account}" if placement.account else ""
    other = " ".join(filter(None, (spec.adapter, spec.model)))
    return f"{account}; falls back to {other}: {placement.fallback}" if placement.fallback else account


def _next_round(context: PlanContext, spec: Task, status: Status, placement: Placement) -> StartRun:
    """Return that a run whose question was answered goes on where it was."""
    run = status.last_run
    reason = f"attempt {status.attempt} goes on in round {run.round + 1} on {status.assigned_host}"
    last = status.questions[-1]
    origin = Origin(context.now, f"{reason}: {last.kind} {last.id} is answered")
    return StartRun(
        Assigned(
            task=spec.name,
            origin=origin,
            run=run.key,
            holder=run.holder,
            spec=spec,
            inputs=host_inputs(context, spec, placement),
        ),
        placement,
    )


def _start_commit(context: PlanContext, spec: Task) -> str | None:
    """Return the commit of another task's branch that a run begins on."""
    return start_commit(spec, context.desired, _before(context, spec))


def _predecessors(context: PlanContext, spec: Task) -> tuple[Predecessor, ...]:
    """Return what came of the tasks that one builds on, or is to choose among."""
    status = context.status(spec.name)
    if status and round_mode(spec, status) == "judge":
        return survivors(spec, statuses_of_variants(context, spec))
    return predecessors(
        spec, {name: context.status(name) for name in (*spec.depends_on, spec.start_from or "")}
    )


def _before(context: PlanContext, spec: Task) -> Mapping[str, Status]:
    """Return the status of the task on whose branch another is begun, by its name."""
    status = context.status(spec.start_from) if spec.start_from else None
    return {spec.start_from: status} if spec.start_from and status else {}


def _times(context: PlanContext, waits: Mapping[str, Wait], runs: Iterable[_LiveRun]) -> Iterator[datetime]:
    """Yield when something may change by itself."""
    yield from (wait.until for wait in waits.values() if wait.until is not None)
    yield from silence_deadlines(context)
    yield from _deadlines(context)
    for _, _, host in runs:
        if host.drain and host.drain_until is not None and host.drain_until > context.now:
            yield host.drain_until


def _deadlines(context: PlanContext) -> Iterator[datetime]:
    """Yield when the deadlines of tasks that are under way will be over."""
    for name in context.names & context.statuses.keys():
        end = deadline_end(context.desired.tasks.get(name), context.statuses[name])
        if end is not None and end > context.now:
            yield end

"""
State machine of a task: phases, events, and the transitions between them.

The table lists every legal transition; `transition` is the
only place that assigns a phase.
"""

from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import partial, singledispatch
from typing import Any

from reconciler.core.errors import IllegalTransition
from reconciler.core.events import (
    Archived,
    Assigned,
    BranchPushed,
    BranchTouched,
    Cancelled,
    ChangesRequested,
    ChoiceRequested,
    Completed,
    Created,
    Escalated,
    Event,
    Failed,
    FixRequested,
    PullRequestOpened,
    QuestionAnswered,
    QuestionAsked,
    Released,
    Removed,
    Renamed,
    Renewed,
    Reopened,
    Reported,
    Restored,
    Retried,
    RunEvent,
    Scheduled,
    SpecChanged,
    SpecRemoved,
    Started,
    Submitted,
    VariantChosen,
    VariantTaken,
    WaitingChanged,
)
from reconciler.core.model.runs import FailureClass, Report
from reconciler.core.model.specs import Task, work_id
from reconciler.core.model.status import (
    QUEUE_REASONS,
    AtWorker,
    Failure,
    OnHost,
    Phase,
    Predecessor,
    Question,
    Reason,
    ReviewState,
    Run,
    Session,
    Status,
    Waiting,
    asking_attempt,
    question_id,
)
from reconciler.core.names import moved_name
from reconciler.core.text import head
from reconciler.core.variants import round_mode

# --- The table -------------------------------------------------------------

Row = Mapping[type[Event], Phase | None]


def _anywhere(phase: Phase) -> Row:
    """Return the events that are legal in every phase: they keep it, or remove the task."""
    same = dict.fromkeys((WaitingChanged, BranchPushed, Renamed, SpecRemoved, Restored), phase)
    settled: Row = {Archived: phase} if phase.is_settled else {}
    return {**same, **settled, Removed: None}


_ENDS: Row = {
    FixRequested: Phase.RUNNING,
    Submitted: Phase.REVIEW_PENDING,
    Completed: Phase.COMPLETED,
    Retried: Phase.CREATED,
    Released: Phase.CREATED,
    QuestionAsked: Phase.CREATED,
    VariantChosen: Phase.CREATED,
    Failed: Phase.FAILED,
    Cancelled: Phase.CANCELLED,
    Escalated: Phase.ESCALATED,
}
"""Ends of a round; an agent may be done before it was seen alive."""

TRANSITIONS: Mapping[Phase | None, Row] = {
    None: {Created: Phase.CREATED},
    Phase.CREATED: {
        Assigned: Phase.ASSIGNED,
        BranchTouched: Phase.REVIEW_PENDING,
        ChoiceRequested: Phase.CREATED,
        VariantChosen: Phase.CREATED,
        VariantTaken: Phase.REVIEW_PENDING,
        Completed: Phase.COMPLETED,
        Cancelled: Phase.CANCELLED,
        Escalated: Phase.ESCALATED,
        QuestionAnswered: Phase.CREATED,
        Scheduled: Phase.CREATED,
        SpecChanged: Phase.CREATED,
        **_anywhere(Phase.CREATED),
    },
    Phase.ASSIGNED: {
        Started: Phase.RUNNING,
        Reported: Phase.RUNNING,
        BranchTouched: Phase.REVIEW_PENDING,
        **_ENDS,
        SpecChanged: Phase.ASSIGNED,
        **_anywhere(Phase.ASSIGNED),
    },
    Phase.RUNNING: {
        Started: Phase.RUNNING,
        Reported: Phase.RUNNING,
        BranchTouched: Phase.REVIEW_PENDING,
        **_ENDS,
        SpecChanged: Phase.RUNNING,
        **_anywhere(Phase.RUNNING),
    },
    Phase.REVIEW_PENDING: {
        PullRequestOpened: Phase.REVIEW_PENDING,
        BranchTouched: Phase.REVIEW_PENDING,
        Completed: Phase.COMPLETED,
        Cancelled: Phase.CANCELLED,
        ChangesRequested: Phase.CREATED,
        Escalated: Phase.ESCALATED,
        SpecChanged: Phase.REVIEW_PENDING,
        **_anywhere(Phase.REVIEW_PENDING),
    },
    Phase.COMPLETED: {
        Renewed: Phase.CREATED,
        Scheduled: Phase.COMPLETED,
        **_anywhere(Phase.COMPLETED),
    },
    Phase.FAILED: {
        Completed: Phase.COMPLETED,
        Cancelled: Phase.CANCELLED,
        Renewed: Phase.CREATED,
        Scheduled: Phase.FAILED,
        **_anywhere(Phase.FAILED),
    },
    Phase.CANCELLED: {
        Reopened: Phase.REVIEW_PENDING,
        Completed: Phase.COMPLETED,
        Renewed: Phase.CREATED,
        Scheduled: Phase.CANCELLED,
        SpecChanged: Phase.CANCELLED,
        **_anywhere(Phase.CANCELLED),
    },
    Phase.ESCALATED: {
        Completed: Phase.COMPLETED,
        Cancelled: Phase.CANCELLED,
        Renewed: Phase.CREATED,
        **_anywhere(Phase.ESCALATED),
    },
}
"""Phase → event → next phase. None: no status (before the first event, after removal)."""


# --- One step --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Transition:
    """One recorded step of one task: a commit on the state branch."""

    task: str
    """Its name after the step."""
    before: Status | None
    """None: there was no status yet."""
    after: Status | None
    """None: the status file is deleted."""
    event: Event

    @property
    def old(self) -> str:
        """Its name before the step; differs only for a rename."""
        return old_name(self.event)


def fold(
    statuses: Mapping[str, Status], events: Iterable[Event]
) -> tuple[Mapping[str, Status], Sequence[Transition]]:
    """
    Return the statuses after the events, and the steps that led there.

    An event that changes nothing makes no step. The statuses given are left alone.
    Raises IllegalTransition at the first event that cannot happen.
    """
    folded = dict(statuses)
    taken: list[Transition] = []
    # In order, each on the result of the one before: an event may be legal only after another.
    for event in events:
        if (next_step := step(folded, event)) is not None:
            apply(folded, next_step)
            taken.append(next_step)
    return folded, taken


def step(statuses: Mapping[str, Status], event: Event) -> Transition | None:
    """
    Return the step that an event makes, or None if it changes nothing.

    Raises IllegalTransition if it cannot happen.
    """
    old = old_name(event)
    there = statuses.get(event.task)
    if old != event.task and there is not None and not there.archived:
        raise IllegalTransition(f"task {old} cannot be renamed: there is a status of {event.task}")
    before = statuses.get(old)
    after = transition(before, event)
    if after == before and old == event.task:
        return None
    return Transition(event.task, before, after, event)


def apply(statuses: MutableMapping[str, Status], taken: Transition) -> None:
    """Apply a step to the statuses, in place: the old name is removed, the new status set; none archived."""
    statuses.pop(taken.old, None)
    if taken.after is not None and not taken.after.archived:
        statuses[taken.task] = taken.after


def transition(status: Status | None, event: Event) -> Status | None:
    """
    Return the status after an event; None once everything is removed.

    Raises IllegalTransition if the event cannot happen there; nothing changes then.
    """
    phase = _next_phase(status, event)
    if isinstance(event, Created):
        return _first(event)
    if status is None or phase is None:
        return None
    changes = {"phase": phase, **_changes(event, status)}
    # A new phase clears the wait of the old one, and a question without an answer, before the
    # event's own changes, which may set new ones. `since` comes last: no event may set it.
    if phase is not status.phase:
        left = {"waiting": _kept_removal(status.waiting), "questions": status.answers}
        changes = {**left, **changes, "since": event.origin.at}
    return status.model_copy(update=changes)


def _next_phase(status: Status | None, event: Event) -> Phase | None:
    """Return what the table says; raise IllegalTransition if it says nothing."""
    # The table first: the refusals may rely on what the phase implies.
    row = TRANSITIONS[status.phase if status else None]
    if type(event) not in row:
        where = f"phase {status.phase}" if status else "no status"
        raise IllegalTransition(f"task {event.task}: {type(event).__name__} cannot happen in {where}")
    if status and (why := _refusal(status, event)):
        raise IllegalTransition(f"task {event.task}: {type(event).__name__} cannot happen: {why}")
    return row[type(event)]


def _refusal(status: Status, event: Event) -> str | None:
    """Return why an event that the table allows is illegal all the same; None if it is legal."""
    if isinstance(event, RunEvent) and event.run != status.run_key:
        return f"it is about run {event.run}, but the last run is {status.run_key}"
    if isinstance(event, Reported) and not isinstance(status.holder, AtWorker):
        return "no worker has it"
    if why := _removal_refusal(status, event):
        return why
    if _needs_pull(status, event) and status.review.pull_request is None:
        return "it has no pull request"
    return _stale_answer(status, event) if isinstance(event, QuestionAnswered) else None


def _removal_refusal(status: Status, event: Event) -> str | None:
    """Return that an event cannot happen as the spec is gone, or is not; None if it can."""
    if isinstance(event, Removed) and not status.removed:
        return "its spec was not recorded as removed"
    if isinstance(event, Assigned | Renewed | Scheduled) and status.removed:
        return "its spec is removed"
    return "it is in the archive" if status.archived and not isinstance(event, Restored) else None


def _stale_answer(status: Status, event: QuestionAnswered) -> str | None:
    """Return that the question of an answer is not the one that waits; None if it is."""
    if status.question and status.question.id == event.question:
        return None
    return f"question {event.question} waits for no answer"


def _needs_pull(status: Status, event: Event) -> bool:
    """Return whether the event needs a pull request on record in the task's phase."""
    if isinstance(event, Completed | BranchTouched):
        return status.phase is Phase.CREATED or status.phase.is_settled
    return isinstance(event, Cancelled | Reopened) and status.phase.is_settled


def old_name(event: Event) -> str:
    """Return the name that an event's task had before it; differs only for a rename."""
    return event.old if isinstance(event, Renamed) else event.task


def _kept_removal(waiting: Waiting | None) -> Waiting | None:
    """Return the wait that survives a change of phase: that of a removal for its approval."""
    return waiting if waiting and waiting.reason is Reason.APPROVAL else None


# --- What each event changes beside the phase ------------------------------

StatusChanges = dict[str, Any]

SUMMARY_LENGTH = 4000
"""Characters that are kept of an agent's final message."""

QUESTION_LENGTH = 4000
"""Characters that are kept of a question."""
PLAN_LENGTH = 12_000
"""Characters that are kept of a plan."""
BY_DEFAULT = "ask.default"
"""Stands for the person where nobody answered in time."""


def _first(event: Created) -> Status:
    return Status(
        phase=Phase.CREATED,
        since=event.origin.at,
        created_at=event.origin.at,
        waiting=event.waiting,
        attempt=event.attempt,
        **_identity(event.spec),
    )


def _identity(spec: Task) -> StatusChanges:
    return {
        "generation": spec.generation,
        "work": spec.work,
        "on_delete": spec.on_delete,
        "campaign": spec.campaign,
    }


def _cleared(status: Status) -> StatusChanges:
    """
    Return the fields that describe the previous work, reset.

    The attempt stays, so that no run key comes twice; so do the usage, and the
    branch and its head, which the next delivery has to know.
    """
    return {
        "session": None,
        "began_at": None,
        "failures": 0,
        "uncounted": 0,
        "failed_starts": 0,
        "review": ReviewState(
            answered=status.review.answered,
            last_comment=status.review.last_comment,
            last_edit=status.review.last_edit,
        ),
        "not_before": None,
        "failure": None,
        "checks": (),
        "opinion": None,
        "opinion_rounds": 0,
        "choice": None,
        "questions": (),
        "summary": "",
        "outputs": (),
    }


def _reported(status: Status, event: Event, report: Report | None) -> StatusChanges:
    """Return the fields that a round's report changes; the others stay."""
    if report is None:
        return {}
    verdict = report.verdict
    changes = {
        "failed_starts": 0 if report.started else status.failed_starts + 1,
        "checks": report.checks,
        "opinion": report.opinion,
        "usage": status.usage + verdict.usage,
        "base_commit": report.base_commit or status.base_commit,
        "head_commit": report.head_commit or status.head_commit,
        "last_activity_at": event.origin.at,
    }
    if verdict.session_id is not None:
        changes["session"] = Session(id=verdict.session_id, totals=verdict.session_totals)
    return changes


@singledispatch
def _changes(event: Event, status: Status) -> StatusChanges:
    raise NotImplementedError(event, status)


@_changes.register
def _waiting_changed(event: WaitingChanged, status: Status) -> StatusChanges:
    before, now = status.waiting, event.waiting
    if before and now and (before.reason is now.reason or {before.reason, now.reason} <= QUEUE_REASONS):
        now = now.model_copy(update={"since": before.since})
    if event.validated is None:
        return {"waiting": now}
    return {"waiting": now, "review": _with_validated(status, event.validated or None)}


def _with_validated(status: Status, commit: str | None) -> ReviewState:
    return status.review.model_copy(update={"validated": commit})


@_changes.register
def _scheduled(event: Scheduled, status: Status) -> StatusChanges:
    return {"due_at": event.due_at, "waiting": event.waiting or status.waiting}


@_changes.register
def _assigned(event: Assigned, status: Status) -> StatusChanges:
    """Name the run. The previous failure stays: the prompt of this attempt contains it."""
    if status.interrupted_run and event.run == status.run_key:
        return _continued(event, status)
    spec, before = event.spec, status.run
    on = event.holder if isinstance(event.holder, OnHost) else None
    run = Run(
        key=event.run,
        round=1,
        mode=round_mode(spec, status),
        slots=spec.slots,
        holder=event.holder,
        adapter=spec.adapter if on else None,
        account=event.account if on else None,
        model=spec.model,
        repo=spec.repo,
        branch=before.branch if before and status.review.count else spec.branch,
        title=spec.pr_title or spec.headline,
        start_from=event.start_from,
        predecessors=event.predecessors,
    )
    return {
        "session": status.session_at(on.host, spec.adapter, event.account) if on else None,
        **_identity(spec),
        "began_at": status.began_at or event.origin.at,
        "attempt": next_attempt(spec, status),
        "waiting": None,
        "opinion_rounds": 0,
        "run": run,
        "not_before": None,
    }


def next_attempt(spec: Task, status: Status) -> int:
    """
    Return the number of a task's next attempt: no question of it is answered in the spec already.

    A file that was copied from another task's has the answer to a question of that one.
    """
    answered = asking_attempt(spec.answer.to) if spec.answer else 0
    return max(status.attempt, answered) + 1


def _continued(event: Assigned, status: Status) -> StatusChanges:
    """Let a run whose question was answered go on: the same attempt, in its next round."""
    run, spec = status.last_run, event.spec
    changes = {
        "round": run.round + 1,
        "mode": round_mode(spec, status),
        "slots": spec.slots,
        "model": spec.model,
        "holder": event.holder,
    }
    return {**_identity(spec), "run": run.model_copy(update=changes), "waiting": None, "not_before": None}


@_changes.register
def _started(event: Started, status: Status) -> StatusChanges:
    return {
        "failed_starts": 0,
        "last_activity_at": event.origin.at,
        "prompt_sha256": event.prompt_sha256 or status.prompt_sha256,
        **_tools(event, status),
    }


def _tools(event: Started, status: Status) -> StatusChanges:
    """Name the adapter and the CLI of a run of ours."""
    if status.run is None or event.adapter_blob is None:
        return {}
    tools = {
        "adapter_blob": event.adapter_blob,
        "cli_version": event.cli_version,
        "program_version": event.program_version,
    }
    return {"run": status.run.model_copy(update=tools)}


@_changes.register
def _fix_requested(event: FixRequested, status: Status) -> StatusChanges:
    return {
        **_reported(status, event, event.report),
        "opinion_rounds": status.opinion_rounds + (event.report.objection is not None),
        "run": status.last_run.model_copy(update={"round": status.last_run.round + 1}),
        "failure": Failure(kind=FailureClass.VALIDATION, message=event.origin.reason),
    }


@_changes.register
def _submitted(event: Submitted, status: Status) -> StatusChanges:
    return {**_done(status, event, event.report), "failure": None, "began_at": None}


@_changes.register
def _completed(event: Completed, status: Status) -> StatusChanges:
    review = _with_validated(status, event.landed)
    return {**_done(status, event, event.report), "failure": None, "review": review}


def _done(status: Status, event: Event, report: Report | None) -> StatusChanges:
    """Return the fields that a successful round changes, with the agent's summary."""
    if report is None:
        return {}
    summary = head(report.verdict.text, characters=SUMMARY_LENGTH)
    return {
        **_reported(status, event, report),
        "uncounted": 0,
        "summary": summary,
        "outputs": report.outputs,
    }


@_changes.register
def _retried(event: Retried, status: Status) -> StatusChanges:
    """Count the failure; the session of a failed attempt is dropped."""
    changes = {
        **_reported(status, event, event.report),
        "failure": event.failure,
        "not_before": event.not_before,
    }
    if event.counts:
        return {**changes, "failures": status.failures + 1, "uncounted": 0, "session": None}
    # The session continues after the validation that failed.
    return {**changes, "uncounted": status.uncounted + 1, "checks": status.checks, "opinion": status.opinion}


@_changes.register
def _released(event: Released, status: Status) -> StatusChanges:
    uncounted = 0 if event.is_wanted else status.uncounted + 1
    return {**_reported(status, event, event.report), "uncounted": uncounted}


@_changes.register
def _question_asked(event: QuestionAsked, status: Status) -> StatusChanges:
    """Put a question on record; the session stays, and nothing counts as a failure."""
    asked_at, most = event.origin.at, PLAN_LENGTH if event.kind == "plan" else QUESTION_LENGTH
    name = question_id(status.attempt, status.last_run.round)
    text = head(event.question, characters=most)
    question = Question(id=name, kind=event.kind, text=text, options=event.options, asked_at=asked_at)
    return {
        **_reported(status, event, event.report),
        "uncounted": 0,
        "questions": (*status.questions, question),
        "waiting": Waiting(reason=Reason.PERSON, message=question.line, since=asked_at),
    }


@_changes.register
def _choice_requested(event: ChoiceRequested, status: Status) -> StatusChanges:
    at = event.origin.at
    question = Question(id=event.question, kind="choice", text=event.text, options=event.options, asked_at=at)
    waiting = Waiting(reason=Reason.PERSON, message=question.line, since=at)
    return {"questions": (*status.questions, question), "waiting": waiting}


@_changes.register
def _variant_chosen(event: VariantChosen, status: Status) -> StatusChanges:
    return {**_reported(status, event, event.report), "choice": event.choice, "waiting": None}


@_changes.register
def _variant_taken(event: VariantTaken, status: Status) -> StatusChanges:
    """Take over all that describes the work; what it took stays with the variant."""
    chosen, choice = event.chosen, status.choice
    return {
        "run": chosen.last_run.model_copy(update={"branch": event.branch, "title": event.title}),
        "choice": choice and choice.model_copy(update={"is_taken": True}),
        "base_commit": chosen.base_commit,
        "head_commit": event.head,
        "session": chosen.session,
        "checks": chosen.checks,
        "opinion": chosen.opinion,
        "summary": chosen.summary,
        "outputs": chosen.outputs,
        "failure": None,
        "failures": 0,
        "began_at": None,
        "last_activity_at": event.origin.at,
    }


@_changes.register
def _question_answered(event: QuestionAnswered, status: Status) -> StatusChanges:
    by = BY_DEFAULT if event.origin.cause == "clock" else event.origin.actor
    changes = {"answer": event.answer, "answered_by": by, "answered_at": event.origin.at}
    questions = (*status.questions[:-1], status.questions[-1].model_copy(update=changes))
    return {"questions": questions, "waiting": None}


@_changes.register
def _failed(event: Failed, status: Status) -> StatusChanges:
    return {
        **_reported(status, event, event.report),
        "failure": event.failure,
        "failures": status.failures + 1,
    }


@_changes.register
def _cancelled(event: Cancelled, status: Status) -> StatusChanges:
    """Adopt the spec as it is now, so that only a later edit asks for the same work again."""
    is_same = event.spec is not None and event.spec.work == status.work
    identity = _identity(event.spec) if event.spec and is_same else {}
    return {**_reported(status, event, event.report), **identity}


@_changes.register
def _escalated(event: Escalated, status: Status) -> StatusChanges:
    return {
        **_reported(status, event, event.report),
        "failure": event.failure or status.failure,
        "review": status.review.model_copy(
            update={
                "notes": event.reviews or status.review.notes,
                "answered": event.reviewed or status.review.answered,
                "last_comment": max(event.last_comment, status.review.last_comment),
                "last_edit": event.last_edit or status.review.last_edit,
            }
        ),
    }


@_changes.register
def _reported_by_agent(event: Reported, status: Status) -> StatusChanges:
    run = status.last_run
    holder, branch = run.holder.model_copy(update={"claim": event.claim}), event.claim.branch or run.branch
    return {
        "run": run.model_copy(update={"holder": holder, "branch": branch}),
        "waiting": event.waiting,
        "last_activity_at": event.origin.at,
    }


@_changes.register
def _pull_opened(event: PullRequestOpened, status: Status) -> StatusChanges:
    review = status.review.model_copy(update={"pull_request": event.pull})
    return {
        "review": review,
        "last_activity_at": event.origin.at,
        "waiting": event.waiting or status.waiting,
    }


@_changes.register
def _touched(event: BranchTouched, status: Status) -> StatusChanges:
    waiting = Waiting(reason=Reason.PERSON, message=event.origin.reason, since=event.origin.at)
    return {
        **_reported(status, event, event.report),
        "head_commit": event.head,
        "review": _with_validated(status, None),
        "last_activity_at": event.origin.at,
        "waiting": waiting,
        "began_at": None,
    }


@_changes.register
def _pushed(event: BranchPushed, status: Status) -> StatusChanges:  # noqa: ARG001 - all changes have one signature
    return {"last_activity_at": event.origin.at}


@_changes.register
def _reopened(event: Reopened, status: Status) -> StatusChanges:  # noqa: ARG001 - all changes have one signature
    return {"head_commit": event.head, "last_activity_at": event.origin.at}


@_changes.register
def _changes_requested(event: ChangesRequested, status: Status) -> StatusChanges:
    """Begin a review round: it has all retries again."""
    return {
        "failures": 0,
        "uncounted": 0,
        "review": ReviewState(
            count=status.review.count + 1,
            pull_request=status.review.pull_request,
            notes=event.reviews,
            answered=event.reviewed or status.review.answered,
            last_comment=max(event.last_comment, status.review.last_comment),
            last_edit=event.last_edit or status.review.last_edit,
        ),
        "head_commit": event.head or status.head_commit,
        "last_activity_at": event.origin.at,
    }


@_changes.register
def _renewed(event: Renewed, status: Status) -> StatusChanges:
    """Take up new work. It need not wait for the schedule's next due time if a person asked for it."""
    due_at = min(status.due_at, event.origin.at) if status.due_at else None
    # Computed from the status before, and applied over what `_cleared` resets.
    kept = _kept_in_review(status) if _may_go_on(event.spec, status) else {}
    return {**_identity(event.spec), **_cleared(status), **kept, "due_at": due_at}


def _may_go_on(spec: Task, status: Status) -> bool:
    """Return whether a person allows more review rounds for the same work after too many."""
    is_of_review = status.phase is Phase.ESCALATED and status.review.pull_request and status.review.notes
    before = spec.model_copy(update={"rerun": max(0, spec.rerun - 1)})
    return bool(is_of_review) and work_id(before) == status.work


def _kept_in_review(status: Status) -> StatusChanges:
    """Return the fields such a task keeps; its review rounds are counted from one again."""
    review = status.review.model_copy(update={"count": 1})
    return {"review": review, "session": status.session, "summary": status.summary, "choice": status.choice}


@_changes.register
def _spec_changed(event: SpecChanged, status: Status) -> StatusChanges:
    if status.phase not in {Phase.CREATED, Phase.CANCELLED}:
        return {"on_delete": event.spec.on_delete}
    is_new_work = status.work != event.spec.work
    return {**_identity(event.spec), **(_cleared(status) if is_new_work else {})}


@_changes.register
def _renamed(event: Renamed, status: Status) -> StatusChanges:
    return {"attempt": max(status.attempt, event.attempt), **_moved_variants(event, status)}


def _moved_variants(event: Renamed, status: Status) -> StatusChanges:
    """Return what names variants of a task, which move with it."""
    moved = partial(moved_name, old=event.old, new=event.task)
    choice, run = status.choice, status.run
    return {
        "choice": choice and choice.model_copy(update={"variant": moved(choice.variant)}),
        "questions": tuple(
            each.model_copy(update={"options": tuple(map(moved, each.options))}) for each in status.questions
        ),
        "run": run and run.model_copy(update={"predecessors": _with_names(run.predecessors, moved)}),
    }


def _with_names(predecessors: Iterable[Predecessor], moved: Callable[[str], str]) -> tuple[Predecessor, ...]:
    return tuple(each.model_copy(update={"task": moved(each.task)}) for each in predecessors)


@_changes.register
def _spec_removed(event: SpecRemoved, status: Status) -> StatusChanges:  # noqa: ARG001 - all changes have one signature
    return {"removed": True, "waiting": None}


@_changes.register
def _restored(event: Restored, status: Status) -> StatusChanges:  # noqa: ARG001 - all changes have one signature
    return {"removed": False, "archived": False}


@_changes.register
def _archived(event: Archived, status: Status) -> StatusChanges:  # noqa: ARG001 - all changes have one signature
    return {"removed": True, "archived": True, "waiting": None}


# --- The picture -----------------------------------------------------------


def diagram() -> str:
    """Return the table as a Mermaid state diagram; events legal in every phase are in a comment."""
    everywhere = set.intersection(*(set(TRANSITIONS[phase]) for phase in Phase))
    lines = ["stateDiagram-v2", f"    %% in every phase: {_names(everywhere)}"]
    for phase, row in TRANSITIONS.items():
        for target in dict.fromkeys(row.values()):
            events = {event for event in row if row[event] is target} - everywhere
            if events and target is not phase:
                lines.append(f"    {phase or '[*]'} --> {target}: {_names(events)}")
    return "\n".join(lines) + "\n"


def _names(events: Iterable[type[Event]]) -> str:
    return ", ".join(sorted(event.__name__ for event in events))

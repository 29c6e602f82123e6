"""
Conditions: Ready, Progressing and Stalled, as dashboards and scripts expect them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from reconciler.core.errors import Problem
from reconciler.core.model.specs import Task
from reconciler.core.model.status import Phase, Reason, Status, Waiting

ConditionType = Literal["Ready", "Progressing", "Stalled"]

NEEDS_A_PERSON = frozenset(
    {
        Reason.SPEC_ERROR,
        Reason.APPROVAL,
        Reason.BLOCKED,
        Reason.MERGE_QUEUE_HALTED,
        Reason.HOST,
        Reason.FAULT,
        Reason.PERSON,
    }
)
"""What does not end by itself. A suspended task is as a person wants it: not stalled."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One statement about a task, whether it is true, and why."""

    type: ConditionType
    status: bool
    reason: str
    """One word, for programs."""
    message: str
    """A sentence, for people."""
    since: datetime | None
    """When it last changed; None if nothing is on record."""


def conditions(
    task: Task | None, status: Status | None, waiting: Waiting | None, problems: Sequence[Problem] = ()
) -> tuple[Condition, ...]:
    """
    Return Ready, Progressing and Stalled of a task.

    Ready: the work is done. Progressing: it goes on by itself. Stalled: a
    person must act. A task that is suspended or cancelled is none of them.
    """
    reason, message, since = _headline(task, status, waiting, problems)
    phase = status.phase if status else None
    is_stalled = bool(problems) or needs_a_person(phase, waiting)
    is_quiet = phase in {Phase.COMPLETED, Phase.CANCELLED} or _is_suspended(waiting)
    return (
        Condition("Ready", phase is Phase.COMPLETED, reason, message, since),
        Condition("Progressing", not is_stalled and not is_quiet, reason, message, since),
        Condition("Stalled", is_stalled, reason, message, since),
    )


def _headline(
    task: Task | None, status: Status | None, waiting: Waiting | None, problems: Sequence[Problem]
) -> tuple[str, str, datetime | None]:
    """Return reason, message and time of the most urgent thing to report."""
    if problems:
        return Reason.SPEC_ERROR, str(problems[0]), waiting.since if waiting else None
    if waiting:
        return waiting.reason, waiting.message, waiting.since
    if status is None:
        return "New", "not on record yet", None
    return _word(status.phase), _sentence(task, status), status.since


def _word(phase: Phase) -> str:
    """Return the phase as a reason: `review_pending` is `ReviewPending`."""
    return phase.title().replace("_", "")


def _sentence(task: Task | None, status: Status) -> str:
    if status.removed:
        end = f"{status.phase}, and archived" if status.archived else "cleaning up"
        return f"the spec was removed; {end}"
    if status.phase in {Phase.FAILED, Phase.ESCALATED} and status.failure:
        return status.failure.message
    if status.phase.is_live:
        place = status.assigned_host or status.assigned_agent
        return f"round {status.last_run.round} of attempt {status.attempt} on {place}"
    if status.phase is Phase.REVIEW_PENDING:
        pull = status.review.pull_request
        return f"{pull.url} waits for review" if pull else f"{status.last_run.branch} waits to be merged"
    if status.phase is Phase.COMPLETED and task is not None and task.work != status.work:
        return "done; newer work is asked for"
    return {Phase.CREATED: "about to start", Phase.COMPLETED: "done"}.get(status.phase, str(status.phase))


def needs_a_person(phase: Phase | None, waiting: Waiting | None) -> bool:
    """Return whether a task without problems goes on only once a person acts."""
    if waiting is not None and waiting.reason in NEEDS_A_PERSON:
        # Who has pushed to a branch in review knows that: only a question asks for somebody.
        return waiting.reason is not Reason.PERSON or phase is Phase.CREATED
    return phase in {Phase.FAILED, Phase.ESCALATED}


def _is_suspended(waiting: Waiting | None) -> bool:
    return waiting is not None and waiting.reason is Reason.SUSPENDED

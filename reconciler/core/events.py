"""
Events: what can happen to a task.

An event carries its origin: the time it happened, why, and who caused it;
nothing here reads a clock. `RunSeen` and `RunEnded` are facts as they arrive
from a host; `decide.next_event` turns a `RunEnded` into an event of the lifecycle.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from reconciler.core.model.forge import PullRequestSnapshot
from reconciler.core.model.inputs import NO_INPUTS, DecisionInputs
from reconciler.core.model.runs import Claim, Report, ReviewNote
from reconciler.core.model.specs import Task
from reconciler.core.model.status import (
    Failure,
    HostStatus,
    Predecessor,
    PullRequest,
    RunHolder,
    Status,
    VariantChoice,
    Waiting,
)

Cause = Literal["spec", "host", "agent", "webhook", "person", "clock"]

ITSELF = "reconciler"
"""Actor of what the reconciler did by itself."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Provenance: when something happened, why, and by whom."""

    at: datetime
    reason: str
    """One sentence for people: the body of the commit, the line in the log."""
    cause: Cause = "spec"
    actor: str = ITSELF
    """Who did it, where that is known: a person, an agent."""
    delivery: str | None = None
    """Id of the webhook delivery that led here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened to one task."""

    task: str
    origin: Origin


# There are two kinds below. Facts say what was observed, even if it no longer
# matters; events are what follows from a fact, a spec or the clock, and are recorded.
# A fact is turned into an event only when its turn comes: an earlier one may
# have made it obsolete.

# --- Facts from a host -----------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSeen:
    """The agent's process of a round was seen alive."""

    task: str
    run: str
    round: int
    at: datetime
    prompt_sha256: str | None = None
    """Of the prompt it was given."""
    adapter_blob: str | None = None
    """Of the adapter by which it was started; see `Adapter.blob`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunQueued:
    """A part of a round waits in the queue of its host's scheduler, or does so no more."""

    task: str
    run: str
    round: int
    at: datetime
    message: str
    """What it waits for; empty once it has begun."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnded:
    """A round is over: the agent ended, its work was checked and brought back."""

    task: str
    run: str
    round: int
    at: datetime
    report: Report


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeSeen:
    """Delivered work was found on the base branch."""

    task: str
    head: str
    at: datetime
    base: str
    landed: str = ""
    """Commit with which the merge queue brought it there; empty if it did not, or not just now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantDelivered:
    """The work of the variant that was chosen is on the branch of its task."""

    task: str
    variant: str
    head: str
    at: datetime
    chosen: Status
    """Of the variant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantClosed:
    """The branch of a variant is gone, because one was chosen."""

    task: str
    """The variant."""
    at: datetime
    choice: VariantChoice


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSeen:
    """A host was probed, answer or no answer."""

    host: str
    at: datetime
    status: HostStatus


# --- Facts from agents that pull, and from forges --------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerReport:
    """
    An outside agent reports on the run that it holds.

    Without a claim it only says that it is at work. The sender is answered with
    became of it: see `core.runs.leases.answer`.
    """

    task: str
    agent: str
    epoch: int
    """Number of the attempt that it was given."""
    at: datetime
    claim: Claim | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PullRequestSeen:
    """The pull request of a task was read from its forge."""

    task: str
    pull: PullRequestSnapshot
    at: datetime
    delivery: str | None = None
    """Id of the webhook delivery that hinted at it."""
    bot: str = ""
    """Our own account there; its actions are ignored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchSeen:
    """The branch of a task was read from its forge, after a webhook spoke of a push to it."""

    task: str
    branch: str
    head: str
    at: datetime
    delivery: str | None = None
    """Id of the webhook delivery that hinted at it."""


# --- Events of the lifecycle -----------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Created(Event):
    """A spec without a status was seen."""

    spec: Task
    waiting: Waiting | None = None
    attempt: int = 0
    """Last attempt of an earlier task of this name; its run keys must not come twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduled(Event):
    """The schedule has a next due time, and the task waits for it."""

    due_at: datetime
    waiting: Waiting | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingChanged(Event):
    """The task waits for something else now, or (None) no longer waits."""

    waiting: Waiting | None
    validated: str | None = None
    """Commit with its work that passed validation in the merge queue, and lands next; empty: none now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assigned(Event):
    """A host was chosen, or a worker took the task, and the run has its key; recorded before it starts."""

    run: str
    """That of the last run, if it goes on in its next round: its question was answered."""
    holder: RunHolder
    spec: Task
    account: str | None = None
    """Account whose credential it uses; None for the adapter's own."""
    start_from: str | None = None
    """Commit of another task's branch that it begins on."""
    predecessors: tuple[Predecessor, ...] = ()
    inputs: DecisionInputs = NO_INPUTS
    """What the choice rested on, beside specs and record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEvent(Event):
    """Something that happened to one run of a task; legal only for its last run."""

    run: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Started(RunEvent):
    """The agent was seen alive."""

    prompt_sha256: str | None = None
    """Of the prompt it was given."""
    adapter_blob: str | None = None
    """Of the adapter by which it was started."""
    program_version: str | None = None
    """Version of the reconciler that started it."""
    cli_version: str | None = None
    """Version of its CLI, as the host was last asked; None if nothing asks for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported(RunEvent):
    """An outside agent reported its result, which is still to be checked."""

    claim: Claim
    waiting: Waiting | None = None
    """For that check, if one is needed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FixRequested(RunEvent):
    """Validation or a second opinion wants more; the same session gets a round with that in its prompt."""

    report: Report


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted(RunEvent):
    """Work is validated and its branch delivered; it waits for review."""

    report: Report


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed(Event):
    """The work is done: validated where no review is asked for, else merged."""

    report: Report | None = None
    """Of the last round; None when a merge completed the task."""
    landed: str | None = None
    """Commit with which the merge queue landed the work; None if something else completed the task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retried(RunEvent):
    """The attempt failed; another follows, not before a time."""

    failure: Failure
    report: Report | None
    not_before: datetime | None
    counts: bool = True
    """Whether it counts against `retries`; a quota does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Released(RunEvent):
    """The run was stopped for a reason outside of it (suspended, restarted); no failure."""

    report: Report | None = None
    is_wanted: bool = False
    """Whether the task's spec asked for the stop; other releases are limited in number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed(RunEvent):
    """The last attempt failed, or one failed in a way that only a person can fix."""

    failure: Failure
    report: Report | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionAsked(RunEvent):
    """The agent ended with a question; its slot is free until a person answers."""

    question: str
    report: Report
    kind: Literal["question", "plan", "choice"] = "question"
    options: tuple[str, ...] = ()
    """Of a choice: the variants to choose from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionAnswered(Event):
    """The question has its answer: the run goes on in its next round."""

    question: str
    """Its id."""
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceRequested(Event):
    """Several variants passed validation, and a person is asked which is the best."""

    question: str
    """Its id."""
    text: str
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantChosen(Event):
    """One of a task's variants is chosen; its work is to be taken over."""

    choice: VariantChoice
    report: Report | None = None
    """Of the judge, if one chose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantTaken(Event):
    """The work of the chosen variant is on the branch of its task, which goes on as if it had done it."""

    head: str
    branch: str
    title: str
    """Of the task, as those of its own run would be."""
    chosen: Status
    """Of the variant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PullRequestOpened(Event):
    """The delivered branch has a pull request: opened by us, or found."""

    pull: PullRequest
    waiting: Waiting | None = None
    """For what its merge waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchTouched(Event):
    """Somebody else pushed to the branch: the agent pauses until a review or a person asks it to go on."""

    head: str
    report: Report | None = None
    """Of the round that was running, if that is how the push was noticed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchPushed(Event):
    """Commits came to the branch that are not a delivery of ours: a sign of life, and nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reopened(Event):
    """A pull request that had been closed, and its task cancelled with it, is open again."""

    head: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangesRequested(Event):
    """Reviewers, failing checks or a conflict ask for changes; the next attempt resumes the session."""

    reviews: tuple[ReviewNote, ...] = ()
    """What they wrote."""
    reviewed: tuple[int, ...] = ()
    """Ids of the reviews that are there by now; all of them are answered with this."""
    last_comment: int = 0
    """Id of the last comment that is there by now; 0 if there is none."""
    last_edit: datetime | None = None
    """When the comments that are there were changed last."""
    head: str | None = None
    """Head of the branch to continue from, if it is not the delivered one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Escalated(Event):
    """Only a person can go on: too many reviews, budget spent."""

    failure: Failure | None = None
    report: Report | None = None
    """Of the last round, if a round led here."""
    reviews: tuple[ReviewNote, ...] = ()
    """Review notes that no round has answered; a round that a person allows will."""
    reviewed: tuple[int, ...] = ()
    """As in `ChangesRequested`: what led here must not lead here again."""
    last_comment: int = 0
    last_edit: datetime | None = None
    """As in `ChangesRequested`, both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled(Event):
    """The spec says so, or the pull request was closed unmerged."""

    report: Report | None = None
    spec: Task | None = None
    """The spec as it is now, if the cancellation did not come from the spec."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewed(Event):
    """A settled task runs again: its work changed, or `rerun` was raised."""

    spec: Task


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecChanged(Event):
    """
    A new generation of a task; the phase stays.

    A live run, or a branch in review, goes on answering the generation it was
    made from; only `on_delete` is taken up.
    """

    spec: Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Renamed(Event):
    """The spec file was renamed and still asks for the same; `task` is the new name."""

    old: str
    attempt: int = 0
    """Last attempt of an earlier task of the new name; its run keys must not come twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecRemoved(Event):
    """The spec file was deleted; a tombstone stays until everything is cleaned up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored(Event):
    """The spec file came back: before the tombstone was gone, or to a task of the archive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Archived(Event):
    """The spec file of a settled task is gone: its status is kept in the archive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed(Event):
    """Everything of a removed task is cleaned up; its status file is deleted."""

"""
What a pull request means for its task.

The forge is asked what is, never told by a webhook what happened: `follow`
compares a pull request as it was read with what is on record. What was taken up
once is no news the next time, and what was read before the task came to where
it stands is none either. So webhooks may be lost, repeated and out of order.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from reconciler.core.events import (
    ITSELF,
    BranchTouched,
    Cancelled,
    Cause,
    ChangesRequested,
    Completed,
    Escalated,
    Event,
    Origin,
    PullRequestOpened,
    Reopened,
)
from reconciler.core.forge.markdown import visible_text
from reconciler.core.model.forge import PullRequestSnapshot, Review
from reconciler.core.model.runs import FailureClass, ReviewNote
from reconciler.core.model.specs import DesiredState, Repo, Task
from reconciler.core.model.status import Failure, Phase, PullRequest, Reason, Status
from reconciler.core.text import head, one_line

CHECKS, CONFLICT, LEFT_OUT = "checks", "conflict", "left out"
NOTICES: Mapping[str, str] = {
    CHECKS: "Failed checks",
    CONFLICT: "Conflict with the base branch",
    LEFT_OUT: "Left out here",
}
"""Headings of the notes that no reviewer wrote, by what stands for their author."""

MOST_NOTES = 20
NOTE_LENGTH = 4_000
NOTES_LENGTH = 20_000
"""How much of what reviewers wrote goes on record and into the prompt: notes, characters of one, of all."""

NOTICED = timedelta(minutes=5)
"""How long a forge may take to notice a push: it looks after its pull requests when it comes to it."""


def follow(
    task: Task,
    status: Status,
    pull: PullRequestSnapshot,
    repo: Repo,
    at: datetime,
    *,
    bot: str,
    delivery: str | None = None,
) -> Event | None:
    """
    Return the next thing that a pull request means for its task; None once there is no news in it.

    One look may bring several events: ask again with the status after each.
    `at` is when the reading of the pull request began, `bot` our own name on
    the forge.
    """
    case = _Reading(task, status, pull, repo, at, bot, delivery)
    if status.removed or case.is_stale:
        return None
    if status.phase is Phase.REVIEW_PENDING:
        return _in_review(case)
    if not case.is_known or status.phase is Phase.COMPLETED:
        return None
    if status.phase is Phase.CANCELLED:
        return _revived(case)
    return _ended(case) or (_touched(case) if status.phase is Phase.CREATED else None)


def is_followed(task: Task, status: Status) -> bool:
    """Return whether what becomes of the task's pull request still matters to it."""
    if status.removed or task.review != "pull_request":
        return False
    if status.phase is Phase.REVIEW_PENDING:
        return True
    is_over = status.phase is Phase.COMPLETED or (
        status.phase is Phase.CANCELLED and not _is_wanted(task, status)
    )
    return status.review.pull_request is not None and not is_over


def may_merge(task: Task, status: Status, pull: PullRequestSnapshot, repo: Repo, *, bot: str) -> bool:
    """
    Return whether the repo's rule wants the pull request merged now.

    An approval counts for the commit that was reviewed and for no later one,
    and only from somebody whose word the forge counts; a request for changes
    stands until the same person takes it back.
    """
    is_open = pull.state == "open" and not pull.is_draft and pull.mergeable and not pull.is_conflicting
    # What is stacked on another task's branch would be merged into that.
    is_ours = _is_of(status, pull) and pull.head == status.head_commit and pull.base == repo.base
    is_waiting = (
        status.phase is Phase.REVIEW_PENDING
        and not _is_paused(status)
        and task.desired is DesiredState.ACTIVE
    )
    if repo.merge == "never" or not (is_open and is_ours and is_waiting) or _requests(pull, bot):
        return False
    if repo.merge == "when_green":
        return pull.checks == "success"
    return pull.checks in {"none", "success"} and any(
        review.verdict == "approved" and review.commit == pull.head for review in _verdicts(pull, bot)
    )


# --- The case --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Reading:
    """Everything a decision looks at."""

    task: Task
    status: Status
    pull: PullRequestSnapshot
    repo: Repo
    at: datetime
    bot: str
    delivery: str | None

    @property
    def is_stale(self) -> bool:
        """Whether the reading began before the task came to where it stands: it may not know of that."""
        since = self.status.since
        return self.at < max(since, self.status.last_activity_at or since)

    @property
    def is_known(self) -> bool:
        return _is_of(self.status, self.pull)

    @property
    def is_new(self) -> bool:
        """
        Whether a pull request that is not on record is about this work.

        One that is open is. One that is not may be of an earlier life of the
        branch, unless it has the work's head and something happened to it since.
        """
        since = self.status.since.replace(microsecond=0)  # forges count seconds
        is_of_now = self.pull.head == self.status.head_commit and self.pull.updated_at >= since
        return not self.is_known and (self.pull.state == "open" or is_of_now)

    @property
    def is_behind(self) -> bool:
        """Whether the forge shows what our last delivery went on from: it has not noticed the push yet."""
        is_old = self.pull.head == self.status.base_commit and self.is_moved
        return is_old and self.at < self.status.since + NOTICED

    @property
    def is_moved(self) -> bool:
        return self.pull.head != self.status.head_commit

    @property
    def name(self) -> str:
        return self.task.name

    @property
    def title(self) -> str:
        return f"pull request #{self.pull.number}"

    def origin(self, reason: str, actor: str = "") -> Origin:
        """Return where an event comes from; what our own account did, no person did."""
        is_person = actor not in {"", self.bot}
        cause: Cause = "webhook" if self.delivery else "person" if is_person else "clock"
        who = one_line(actor, 100) if is_person else ITSELF
        return Origin(self.at, one_line(reason), cause, who, self.delivery)


def _is_of(status: Status, pull: PullRequestSnapshot) -> bool:
    return status.review.pull_request is not None and status.review.pull_request.number == pull.number


def _is_paused(status: Status) -> bool:
    return status.waiting is not None and status.waiting.reason is Reason.PERSON


def _is_wanted(task: Task, status: Status) -> bool:
    """Return whether it was not the spec that cancelled a task: then its generation is still in force."""
    return task.desired is not DesiredState.CANCELLED and task.generation == status.generation


# --- Its life --------------------------------------------------------------


def _in_review(case: _Reading) -> Event | None:
    if case.is_new:
        return _opened(case)
    if not case.is_known:
        return None
    return _ended(case) or (None if case.is_behind else _requested_changes(case) or _touched(case))


def _opened(case: _Reading) -> Event:
    pull = case.pull
    why = "was opened" if pull.author == case.bot else f"of {pull.author} was found"
    request = PullRequest(number=pull.number, url=one_line(pull.url))
    return PullRequestOpened(
        task=case.name, origin=case.origin(f"{case.title} {why}", pull.author), pull=request
    )


def _ended(case: _Reading) -> Event | None:
    pull = case.pull
    by = f" by {pull.by}" if pull.by else ""
    if pull.is_merged:
        return Completed(task=case.name, origin=case.origin(f"{case.title} was merged{by}", pull.by))
    if pull.state == "closed":
        return Cancelled(
            task=case.name,
            origin=case.origin(f"{case.title} was closed unmerged{by}", pull.by),
            spec=case.task,
        )
    return None


def _revived(case: _Reading) -> Event | None:
    """Return how a task goes on whose pull request was closed, if that is undone."""
    if not _is_wanted(case.task, case.status):
        return None
    if case.pull.state == "open":
        return Reopened(
            task=case.name, origin=case.origin(f"{case.title} is open again"), head=case.pull.head
        )
    return _ended(case) if case.pull.is_merged else None


def _touched(case: _Reading) -> Event | None:
    """
    Return that somebody else pushed to the branch.

    While an agent works, new commits may be its own: then it is for the
    delivery to tell.
    """
    pull = case.pull
    if not case.is_moved or case.is_behind:
        return None
    why = (
        f"{pull.pusher or 'somebody'} pushed {pull.head[:8]} to {pull.branch}; "
        "the agent pauses until a review asks for changes"
    )
    return BranchTouched(task=case.name, origin=case.origin(why, pull.pusher), head=pull.head)


# --- Rounds ----------------------------------------------------------------


def _requested_changes(case: _Reading) -> Event | None:
    """
    Return that changes are asked for: by reviewers, by failing checks, by a conflict.

    A request makes the agent go on from whatever is on the branch. Checks and
    conflicts do so only with work of its own: they lead to another head, or to
    a failure, so each head is asked about once.
    """
    requests = [review for review in _requests(case.pull, case.bot) if _is_unanswered(case, review)]
    problems = list(_problems(case))
    if not requests and (not problems or case.is_moved or _is_paused(case.status)):
        return None
    authors = list(dict.fromkeys(review.author for review in requests))
    reasons = [f"{' and '.join(authors)} requested changes"] if authors else []
    why = ", ".join([*reasons, *(reason for reason, _ in problems)])
    who, reviewed = authors[-1] if authors else "", tuple(review.id for review in case.pull.reviews)
    notes = tuple(_capped([*(note for _, note in problems), *_written(case)]))
    done, most = case.status.review.count, case.task.max_reviews
    if done >= most:
        why += f" after {done} review rounds (max_reviews: {most}); merge or close it, or `reconciler retry`"
        failure = Failure(kind=FailureClass.AGENT, message=one_line(why))
        return Escalated(
            task=case.name, origin=case.origin(why, who), failure=failure, reviews=notes, reviewed=reviewed
        )
    return ChangesRequested(
        task=case.name,
        origin=case.origin(f"{why} (review round {done + 1} of {most})", who),
        reviews=notes,
        reviewed=reviewed,
        head=case.pull.head,
    )


def _verdicts(pull: PullRequestSnapshot, bot: str) -> Sequence[Review]:
    """Return what each reviewer whose word counts decided last, but for what was dismissed."""
    decided = (review for review in pull.reviews if review.verdict != "comment" and review.author != bot)
    last = {review.author: review for review in decided}
    return [review for review in last.values() if review.is_official and not review.is_dismissed]


def _requests(pull: PullRequestSnapshot, bot: str) -> Sequence[Review]:
    """Return the requests for changes that stand; of an older head, too, for nobody took them back."""
    return [review for review in _verdicts(pull, bot) if review.verdict == "changes_requested"]


def _is_unanswered(case: _Reading, review: Review) -> bool:
    return review.id not in case.status.review.answered


def _problems(case: _Reading) -> Iterator[tuple[str, ReviewNote]]:
    """Yield what the forge itself has against the head, in words and as a note."""
    pull, base = case.pull, case.repo.base
    if case.repo.failed_checks == "fix" and pull.checks == "failure":
        failed = [one_line(check) for check in pull.failed_checks]
        lines = [f"Checks fail on commit {pull.head[:8]}.", *(f"- {check}" for check in failed)]
        yield f"checks fail on {pull.head[:8]}", ReviewNote(author=CHECKS, text="\n".join(lines))
    if case.repo.base_moved != "leave" and pull.is_conflicting:
        text = (
            f"The branch cannot be merged into {base}: both have changed the same lines since they parted. "
            f"Run `git merge origin/{base}`, resolve the conflicts, and commit."
        )
        yield f"the branch conflicts with {base}", ReviewNote(author=CONFLICT, text=text)


# --- What was written ------------------------------------------------------


def _written(case: _Reading) -> Iterator[ReviewNote]:
    """Yield the notes of every review that was not answered yet, whatever its verdict."""
    for review in case.pull.reviews:
        if review.is_dismissed or review.author == case.bot or not _is_unanswered(case, review):
            continue
        yield from review.notes
        if review.verdict == "changes_requested" and not review.notes:
            yield ReviewNote(author=review.author, text="(requested changes without a word on which)")


def _capped(notes: Sequence[ReviewNote]) -> Iterator[ReviewNote]:
    """Yield notes, harmless, as long as there is room; the last one says what was left out."""
    room, kept = NOTES_LENGTH, 0
    for note in notes[:MOST_NOTES]:
        if room <= 0:
            break
        text = head(visible_text(note.text), characters=min(NOTE_LENGTH, room))
        path = one_line(note.path, 200) if note.path else None
        yield note.model_copy(update={"author": one_line(note.author, 100), "path": path, "text": text})
        room, kept = room - len(text), kept + 1
    if left := len(notes) - kept:
        yield ReviewNote(author=LEFT_OUT, text=f"{left} more of the reviewers' notes did not fit in here.")

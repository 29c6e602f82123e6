"""
From a pull request, as it was read, to the events of its task.

State is read from the forge, never taken from a webhook: `follow`
compares a pull request as it was read with what is on record. What was handled
once is not news the next time, and a reading from before the task's last
transition is ignored. So webhooks may be lost, repeated and out of order.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

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
    WaitingChanged,
)
from reconciler.core.forge.comments import is_among, parse_command
from reconciler.core.forge.markdown import visible_text
from reconciler.core.model.forge import Comment, MergeRefusal, PullRequestSnapshot, QueueNews, Review
from reconciler.core.model.runs import FailureClass, ReviewNote
from reconciler.core.model.specs import DesiredState, Repo, Task
from reconciler.core.model.status import (
    MERGE_REASONS,
    QUEUE_REASONS,
    Failure,
    Phase,
    PullRequest,
    Reason,
    ReviewState,
    Status,
    Waiting,
)
from reconciler.core.text import head, one_line

CHECKS, CONFLICT, QUEUE, LEFT_OUT = "checks", "conflict", "queue", "left out"
NOTICES: Mapping[str, str] = {
    CHECKS: "Failed checks",
    CONFLICT: "Conflict with the base branch",
    QUEUE: "Sent back by the merge queue",
    LEFT_OUT: "Left out here",
}
"""Headings of the notes that no reviewer wrote, by what stands for their author."""

MOST_NOTES = 20
NOTE_LENGTH = 4_000
NOTES_LENGTH = 20_000
"""Limits of review notes on record and in the prompt: number, characters of one, characters of all."""

CLOCK_SLACK = timedelta(seconds=2)
"""How exactly the clock of a forge is known beside ours: it counts seconds, and an answer takes its time."""

NOTICED = timedelta(minutes=5)
"""How long a forge may take to show a push in its pull request: it updates that in the background."""


def follow(
    task: Task,
    status: Status,
    pull: PullRequestSnapshot,
    repo: Repo,
    at: datetime,
    *,
    bot: str,
    allowed: Collection[str] = (),
    delivery: str | None = None,
) -> Event | None:
    """
    Return the next event that a pull request causes for its task; None if it holds no news.

    One reading may cause several events: call again with the status after each.
    `at` is when the reading of the pull request began, `bot` our own name on
    the forge, `allowed` whose words count beside those of the repository's members.
    """
    case = _Reading(task, status, pull, repo, at, bot, frozenset(allowed), delivery)
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
    """Return whether the task still follows its pull request."""
    if status.removed or task.review != "pull_request":
        return False
    if status.phase is Phase.REVIEW_PENDING:
        return True
    is_over = status.phase is Phase.COMPLETED or (
        status.phase is Phase.CANCELLED and not _is_wanted(task, status)
    )
    return status.review.pull_request is not None and not is_over


def may_merge(task: Task, status: Status, pull: PullRequestSnapshot, repo: Repo, *, bot: str) -> bool:
    """Return whether the repo's rule wants the pull request merged now."""
    return next(_blockers(task, status, pull, repo, bot), None) is None


def is_queued(task: Task, status: Status, pull: PullRequestSnapshot, repo: Repo, *, bot: str) -> bool:
    """Return whether the pull request belongs in the merge queue of its repo: nothing else keeps it."""
    blocker = next(_blockers(task, status, pull, repo, bot), None)
    return blocker is not None and blocker.reason is Reason.MERGE_QUEUE


def approved_at(pull: PullRequestSnapshot, bot: str) -> tuple[datetime, int]:
    """Return when the head got its first approval that counts, as the forge says; and that review's id."""
    approvals = (review for review in _verdicts(pull, bot) if _approves(review, pull))
    return min(((review.at or _LONG_AGO, review.id) for review in approvals), default=(_LONG_AGO, 0))


def first_wait(task: Task, status: Status, repo: Repo) -> str:
    """Return what a pull request will wait for that is opened now; empty if there is nothing to tell."""
    number = 1  # any: it has none yet
    pull = PullRequestSnapshot(
        number=number,
        url="",
        title="",
        body="",
        author="",
        branch="",
        base=repo.base,
        head=status.head_commit or "",
        is_draft=repo.draft,
        mergeable=True,
        updated_at=status.since,
    )
    review = status.review.model_copy(update={"pull_request": PullRequest(number=number, url="")})
    opened = status.model_copy(update={"review": review})
    blocker = next(_blockers(task, opened, pull, repo, ""), None)
    return one_line(blocker.message) if blocker else ""


IN_QUEUE = "it is in the merge queue"
_REFUSED, _PASSING = "the forge does not merge it", "it is merged as soon as the forge is ready"


class _Blocker(NamedTuple):
    message: str
    """Empty: nothing to tell people."""
    reason: Reason = Reason.REVIEW


def _blockers(
    task: Task, status: Status, pull: PullRequestSnapshot, repo: Repo, bot: str
) -> Iterator[_Blocker]:
    """
    Yield what keeps a pull request from its merge, the most lasting first.

    A forge that does not know yet whether it can be merged is asked for it: that is the quickest answer.

    An approval counts for the commit that was reviewed and for no later one,
    and only from a reviewer the forge counts as official; a request for changes
    stands until the same person takes it back.
    """
    # Told elsewhere, or over in moments. What is stacked on another task's branch would be merged into that.
    is_ours, is_elsewhere = _is_of(status, pull) and pull.head == status.head_commit, pull.base != repo.base
    is_told = _is_paused(status) or (is_elsewhere and task.start_from is not None)
    if status.phase is not Phase.REVIEW_PENDING or pull.state != "open" or not is_ours or is_told:
        yield _Blocker("")
    if task.desired is not DesiredState.ACTIVE:
        yield _Blocker(f"the task is {task.desired}; `reconciler resume {task.name}` lets it go on")
    if repo.merge == "never":
        yield _Blocker(f"a person has to merge it (`merge: never` of repo {repo.name})")
    if is_elsewhere:
        yield _Blocker(
            f"it is against {pull.base} and not {repo.base}: change its base, or merge it yourself"
        )
    if pull.is_draft:
        yield _Blocker("it is a draft; mark it as ready for review")
    for review in _requests(pull, bot):
        author = one_line(review.author, 100)
        if _is_gone(author):
            yield _Blocker("an account that was deleted asks for changes; dismiss that review on the forge")
        else:
            yield _Blocker(f"{author} asks for changes; a later review of the same person takes that back")
    if pull.is_conflicting:
        message = f"it conflicts with {pull.base}; merge that into the branch, or set `base_moved: rebase`"
        yield _Blocker(message, Reason.BLOCKED)
    yield from _missing_checks(pull, repo)
    yield from _missing_review(status, pull, repo, bot)
    if repo.merge == "queue":
        yield _Blocker(IN_QUEUE, Reason.MERGE_QUEUE)


def _is_gone(author: str) -> bool:
    """Return whether an account was deleted: nobody else may take that name on a forge."""
    return author.lower() == "ghost"


def _missing_checks(pull: PullRequestSnapshot, repo: Repo) -> Iterator[_Blocker]:
    if pull.checks == "failure":
        failed = ", ".join(one_line(check, 100) for check in pull.failed_checks[:3])
        yield _Blocker(f"checks fail: {failed}", Reason.BLOCKED)
    elif pull.checks == "pending":
        yield _Blocker("checks have not ended yet")
    elif pull.checks == "none" and repo.merge == "when_green":
        yield _Blocker("its head has no check yet (`merge: when_green`)")


def _missing_review(status: Status, pull: PullRequestSnapshot, repo: Repo, bot: str) -> Iterator[_Blocker]:
    doubt = status.opinion.summary if status.opinion and status.opinion.verdict != "approve" else ""
    if repo.merge != "when_green" or doubt:
        missing = _missing_approval(pull, bot)
        yield from (_Blocker(f"{why}; {doubt}" if doubt else why) for why in missing)


def _missing_approval(pull: PullRequestSnapshot, bot: str) -> Iterator[str]:
    approvals = [review for review in _verdicts(pull, bot) if review.verdict == "approved"]
    if any(_approves(review, pull) for review in approvals):
        return
    if approvals:
        author = one_line(approvals[-1].author, 100)
        yield f"the approval of {author} is of an older commit; it takes a new one"
        return
    others = [review for review in pull.reviews if review.verdict == "approved" and not review.is_official]
    if others:
        author = one_line(others[-1].author, 100)
        yield f"the approval of {author} does not count: the forge does not take it for an official one"
    else:
        yield "it is not approved yet"


def _approves(review: Review, pull: PullRequestSnapshot) -> bool:
    """Return whether a review approves the head as it is now."""
    return review.verdict == "approved" and review.commit == pull.head


# --- The case --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Reading:
    """Input of one decision: the task, its status, and the pull request as it was read."""

    task: Task
    status: Status
    pull: PullRequestSnapshot
    repo: Repo
    at: datetime
    bot: str
    allowed: frozenset[str]
    delivery: str | None

    @property
    def is_stale(self) -> bool:
        """Whether the reading began before the task's last transition and so may not reflect it."""
        since = self.status.since
        return self.at < max(since, self.status.last_activity_at or since)

    @property
    def is_known(self) -> bool:
        return _is_of(self.status, self.pull)

    @property
    def is_new(self) -> bool:
        """
        Whether a pull request that is not on record belongs to this work.

        One that is open is. One that is not may be of an earlier life of the
        branch, unless it has the work's head and something happened to it since.
        """
        since = self.status.since.replace(microsecond=0) - CLOCK_SLACK
        is_of_now = self.pull.head == self.status.head_commit and self.pull.updated_at >= since
        return not self.is_known and (self.pull.state == "open" or is_of_now)

    @property
    def is_behind(self) -> bool:
        """Whether the forge still shows the head from before our last delivery: it lags behind the push."""
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
        """Return the origin of an event; our own account is never named as the actor."""
        is_person = actor not in {"", self.bot}
        cause: Cause = "webhook" if self.delivery else "person" if is_person else "clock"
        who = one_line(actor, 100) if is_person else ITSELF
        return Origin(self.at, one_line(reason), cause, who, self.delivery)


def _is_of(status: Status, pull: PullRequestSnapshot) -> bool:
    return status.review.pull_request is not None and status.review.pull_request.number == pull.number


def _is_paused(status: Status) -> bool:
    return status.waiting is not None and status.waiting.reason is Reason.PERSON


def _is_wanted(task: Task, status: Status) -> bool:
    """Return whether the task was cancelled, but not by its spec: that generation is still in force."""
    return task.desired is not DesiredState.CANCELLED and task.generation == status.generation


# --- Its life --------------------------------------------------------------


def _in_review(case: _Reading) -> Event | None:
    if case.is_new:
        return _opened(case)
    if not case.is_known:
        return None
    news = None if case.is_behind else _requested_changes(case) or _touched(case)
    return _ended(case) or news or _merge_wait(case)


def _opened(case: _Reading) -> Event:
    pull = case.pull
    why = "was opened" if pull.author == case.bot else f"of {pull.author} was found"
    request = PullRequest(number=pull.number, url=one_line(pull.url))
    review = case.status.review.model_copy(update={"pull_request": request})
    opened = case.status.model_copy(update={"review": review})
    return PullRequestOpened(
        task=case.name,
        origin=case.origin(f"{case.title} {why}", pull.author),
        pull=request,
        waiting=_waiting_for_merge(case, opened),
    )


def _merge_wait(case: _Reading) -> Event | None:
    """Return that the merge waits for something else now; what else the task waits for is told first."""
    before, after = case.status.waiting, _waiting_for_merge(case, case.status)
    is_other = before is not None and before.reason not in MERGE_REASONS
    validated = case.pull.queue.validated if case.pull.queue else None
    is_same = before and after and (before.reason, before.message) == (after.reason, after.message)
    if after is None or is_other or (is_same and validated == case.status.review.validated):
        return None
    return WaitingChanged(
        task=case.name,
        origin=case.origin(f"{case.title}: {after.message}"),
        waiting=after,
        validated=validated or "",
    )


def _waiting_for_merge(case: _Reading, status: Status) -> Waiting | None:
    """Return for what the merge waits; None if there is nothing to tell."""
    blocker = next(_blockers(case.task, status, case.pull, case.repo, case.bot), None)
    if blocker is None and case.pull.refusal is not None:
        blocker = _refusal(case.pull.refusal)
    if blocker is not None and blocker.reason is Reason.MERGE_QUEUE:
        blocker = _in_queue(case.pull.queue, status.waiting, blocker)
    if blocker is None or not blocker.message:  # a refusal stands until something else is wrong
        return None
    return Waiting(reason=blocker.reason, message=one_line(blocker.message), since=case.at)


def _in_queue(queue: QueueNews | None, before: Waiting | None, entered: _Blocker) -> _Blocker | None:
    """Return what the merge queue says; None if it says nothing new of what was in it before."""
    if queue is not None:
        return _Blocker(queue.message, Reason.MERGE_QUEUE_HALTED if queue.is_stuck else entered.reason)
    return None if before is not None and before.reason in QUEUE_REASONS else entered


def _refusal(refusal: MergeRefusal) -> _Blocker:
    """Return what the forge said when it was asked for the merge."""
    if refusal.kind != "refused":
        return _Blocker(f"{_PASSING}: {refusal.message}")
    return _Blocker(f"{_REFUSED}: {refusal.message}", Reason.BLOCKED)


def _ended(case: _Reading) -> Event | None:
    pull = case.pull
    by = f" by {pull.by}" if pull.by else ""
    if pull.is_merged:
        landed = case.status.review.validated if pull.by in {"", case.bot} else None
        origin = case.origin(f"{case.title} was merged{by}", pull.by)
        return Completed(task=case.name, origin=origin, landed=landed)
    if pull.state == "closed":
        return Cancelled(
            task=case.name,
            origin=case.origin(f"{case.title} was closed unmerged{by}", pull.by),
            spec=case.task,
        )
    return None


def _revived(case: _Reading) -> Event | None:
    """Return the event for a closed pull request that was opened again or merged."""
    if not _is_wanted(case.task, case.status):
        return None
    if case.pull.state == "open":
        return Reopened(
            task=case.name, origin=case.origin(f"{case.title} is open again"), head=case.pull.head
        )
    return _ended(case) if case.pull.is_merged else None


def _touched(case: _Reading) -> Event | None:
    """
    Return the event for a push by somebody else to the branch.

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
    Return the event for requested changes: by reviewers, failing checks or a conflict.

    A reviewer's request makes the agent go on from whatever is on the branch. Checks and
    conflicts do so only with work of its own: they lead to another head, or to
    a failure, so each head causes one round at most.
    """
    requests = [review for review in _requests(case.pull, case.bot) if _is_unanswered(case, review)]
    problems = list(_problems(case))
    if not requests and (not problems or case.is_moved or _is_paused(case.status)):
        return None
    authors = list(dict.fromkeys(review.author for review in requests))
    reasons = [f"{' and '.join(authors)} requested changes"] if authors else []
    why = ", ".join([*reasons, *(reason for reason, _ in problems)])
    who, reviewed = authors[-1] if authors else "", tuple(review.id for review in case.pull.reviews)
    last_comment = max((comment.id for comment in case.pull.comments), default=0)
    last_edit = max((comment.at for comment in case.pull.comments), default=None)
    notes = tuple(_quoted(case, [note for _, note in problems]))
    done, most = case.status.review.count, case.task.max_reviews
    if done >= most:
        why += f" after {done} review rounds (max_reviews: {most}); merge or close it, or `reconciler retry`"
        failure = Failure(kind=FailureClass.AGENT, message=one_line(why))
        return Escalated(
            task=case.name,
            origin=case.origin(why, who),
            failure=failure,
            reviews=notes,
            reviewed=reviewed,
            last_comment=last_comment,
            last_edit=last_edit,
        )
    return ChangesRequested(
        task=case.name,
        origin=case.origin(f"{why} (review round {done + 1} of {most})", who),
        reviews=notes,
        reviewed=reviewed,
        last_comment=last_comment,
        last_edit=last_edit,
        head=case.pull.head,
    )


def _verdicts(pull: PullRequestSnapshot, bot: str) -> Sequence[Review]:
    """Return the last verdict of each official reviewer, without dismissed ones."""
    decided = (review for review in pull.reviews if review.verdict != "comment" and review.author != bot)
    last = {review.author: review for review in decided}
    return [review for review in last.values() if review.is_official and not review.is_dismissed]


def _requests(pull: PullRequestSnapshot, bot: str) -> Sequence[Review]:
    """Return the requests for changes that nobody took back, also those on an older head."""
    return [review for review in _verdicts(pull, bot) if review.verdict == "changes_requested"]


def _is_unanswered(case: _Reading, review: Review) -> bool:
    return review.id not in case.status.review.answered


def _problems(case: _Reading) -> Iterator[tuple[str, ReviewNote]]:
    """Yield a reason and a note for each problem that the forge itself reports for the head."""
    pull, base, queue = case.pull, case.repo.base, case.pull.queue
    if case.repo.failed_checks == "fix" and pull.checks == "failure":
        failed = [one_line(check) for check in pull.failed_checks]
        lines = [f"Checks fail on commit {pull.head[:8]}.", *(f"- {check}" for check in failed)]
        yield f"checks fail on {pull.head[:8]}", ReviewNote(author=CHECKS, text="\n".join(lines))
    if queue is not None and queue.problem:
        yield queue.problem, ReviewNote(author=QUEUE, text=queue.details)
    elif (case.repo.base_moved != "leave" or case.repo.merge == "queue") and pull.is_conflicting:
        text = (
            f"The branch cannot be merged into {base}: both have changed the same lines since they parted. "
            f"Run `git merge origin/{base}`, resolve the conflicts, and commit."
        )
        yield f"the branch conflicts with {base}", ReviewNote(author=CONFLICT, text=text)


# --- What was written ------------------------------------------------------


class _Remark(NamedTuple):
    """A note, when it was written, and whether its author's word counts."""

    at: datetime
    counts: bool
    note: ReviewNote


_LONG_AGO = datetime.min.replace(tzinfo=UTC)


def _quoted(case: _Reading, problems: Sequence[ReviewNote]) -> Iterator[ReviewNote]:
    """Yield the notes for the next round: what the forge reports, then what people wrote since the last."""
    written = sorted(_written(case), key=lambda remark: remark.at)
    counting = [remark.note for remark in written if remark.counts]
    newest = _newest(counting, MOST_NOTES - len(problems))
    yield from (_cut(note, NOTE_LENGTH) for note in problems)
    yield from newest
    left_out = [
        (len(counting) - len(newest), "older notes of the reviewers did not fit in here"),
        (len(written) - len(counting), "notes of people who are no members of the repository are not quoted"),
    ]
    if lines := [f"{number} {what}." for number, what in left_out if number]:
        yield ReviewNote(author=LEFT_OUT, text="\n".join(lines))


def _written(case: _Reading) -> Iterator[_Remark]:
    """Yield what was written since the last round: in reviews, whatever their verdict, and beside them."""
    official = {review.author for review in case.pull.reviews if review.is_official}
    for review in case.pull.reviews:
        if review.is_dismissed or review.author == case.bot or not _is_unanswered(case, review):
            continue
        at, counts = review.at or _LONG_AGO, _counts(case, review, official)
        for note in review.notes:
            yield _Remark(at, counts, note)
        if review.verdict == "changes_requested" and not review.notes:
            note = ReviewNote(author=review.author, text="(requested changes without saying which)")
            yield _Remark(at, counts, note)
    for comment in case.pull.comments:
        if comment.author == case.bot or not _is_unquoted(case.status.review, comment):
            continue
        if comment.body.strip() and parse_command(comment.body) is None:
            note = ReviewNote(author=comment.author, text=comment.body)
            yield _Remark(comment.at, _counts(case, comment, official), note)


def _is_unquoted(review: ReviewState, comment: Comment) -> bool:
    """Return whether a comment came, or was edited, after the last round."""
    is_edited = review.last_edit is not None and comment.at > review.last_edit
    return comment.id > review.last_comment or is_edited


def _counts(case: _Reading, entry: Review | Comment, official: Collection[str]) -> bool:
    """Return whether what somebody wrote is quoted to the agent."""
    is_open = case.repo.comments_from == "anyone"
    return is_open or entry.is_by_member or entry.author in official or is_among(entry.author, case.allowed)


def _newest(notes: Sequence[ReviewNote], most: int) -> Sequence[ReviewNote]:
    """Return the last notes that fit within the limits, sanitized, in their order."""
    kept: list[ReviewNote] = []
    room = NOTES_LENGTH
    for note in reversed(notes[max(len(notes) - most, 0) :]):
        if room <= 0:
            break
        kept.append(_cut(note, min(NOTE_LENGTH, room)))
        room -= len(kept[-1].text)
    return kept[::-1]


def _cut(note: ReviewNote, most: int) -> ReviewNote:
    text = head(visible_text(note.text), characters=most)
    path = one_line(note.path, 200) if note.path else None
    return note.model_copy(update={"author": one_line(note.author, 100), "path": path, "text": text})

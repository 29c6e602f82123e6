"""
What a forge says, and what it should show.

Values only: `controller.ports.Forge` brings the ones and is given the others.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from reconciler.core.model.runs import ReviewNote

# --- What it says ----------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """A review of a pull request, with its inline comments."""

    id: int
    """Given when it was begun: one that is submitted late has an old one."""
    author: str
    verdict: Literal["approved", "changes_requested", "comment"]
    commit: str
    """Head that was reviewed."""
    is_stale: bool = False
    """Whether the branch has moved since."""
    is_dismissed: bool = False
    is_official: bool = True
    """Whether it counts for the rules of the base branch."""
    is_by_member: bool = True
    """Whether its author may work on the repository."""
    at: datetime | None = None
    """When it was submitted, if the forge says so."""
    notes: tuple[ReviewNote, ...] = ()
    """Its text, then its inline comments; empty ones left out."""


Checks = Literal["none", "pending", "success", "failure"]


@dataclass(frozen=True, slots=True)
class MergeRefusal:
    """Why a forge did not merge a pull request when it was asked to."""

    message: str
    kind: Literal["refused", "queued", "running", "computing"] = "refused"
    """All but `refused` end by themselves: it is in a merge queue, a pipeline runs, or the forge computes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueNews:
    """What the merge queue of its repo says of a pull request."""

    message: str = ""
    """Its place, and what is done about it."""
    is_stuck: bool = False
    """Whether a person has to remove what is in the way."""
    validated: str | None = None
    """Commit with it that passed validation, and lands next."""
    problem: str = ""
    """Why it is sent back to its agent; empty if it is not."""
    details: str = ""
    """What its agent is told of that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PullRequestSnapshot:
    """A pull request as the forge has it now."""

    number: int
    url: str
    """For people."""
    title: str
    body: str
    author: str
    branch: str
    """Head branch."""
    base: str
    head: str
    """Commit of the head branch."""
    ref: str = ""
    """Ref under which git has that in the repository, also if the branch is in a fork."""
    pusher: str = ""
    """Who pushed that, as far as the forge says; else the commit's author."""
    state: Literal["open", "closed"] = "open"
    is_merged: bool = False
    is_draft: bool = False
    mergeable: bool | None = None
    """None while the forge does not know."""
    is_conflicting: bool = False
    """Whether it cannot be merged because base and head touch the same."""
    by: str = ""
    """Who merged or closed it, if the forge says so."""
    labels: tuple[str, ...] = ()
    reviews: tuple[Review, ...] = ()
    """In the order in which they came."""
    comments: tuple["Comment", ...] = ()
    """The conversation, oldest first, our own among them."""
    refusal: MergeRefusal | None = None
    """Why the forge did not merge it when it was asked to just now."""
    queue: QueueNews | None = None
    """What our merge queue says of it; None: nothing now."""
    checks: Checks = "none"
    """Of its head, our own commit status left out."""
    failed_checks: tuple[str, ...] = ()
    """Names of those that failed, each with what it says."""
    updated_at: datetime
    """By our clock; the times of reviews and comments are the forge's, and compared with each other only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comment:
    """A comment on an issue or in the conversation of a pull request."""

    id: int
    number: int
    """Of the issue or pull request."""
    on_pull: bool | None = None
    """Whether it is on a pull request; None where issues and pull requests share their numbers."""
    author: str
    body: str
    key: str = ""
    """Of the note, if we wrote it: what its hidden mark says; nobody else's marks count."""
    is_by_member: bool = True
    """Whether its author may work on the repository; told of comments on pull requests."""
    created_at: datetime
    updated_at: datetime | None = None
    """When it was changed last, if the forge says so."""

    @property
    def at(self) -> datetime:
        """When it got the text that it has."""
        return self.updated_at or self.created_at


@dataclass(frozen=True, slots=True, kw_only=True)
class Issue:
    """An issue as the forge has it now."""

    number: int
    url: str
    title: str
    body: str
    author: str
    labels: tuple[str, ...] = ()
    state: Literal["open", "closed"] = "open"
    closed_at: datetime | None = None
    updated_at: datetime
    """Both are by our clock."""

    def has(self, label: str) -> bool:
        """Return whether it has a label; on some forges their names know no upper and lower case."""
        return label.lower() in {each.lower() for each in self.labels}


@dataclass(frozen=True, slots=True, kw_only=True)
class Hint:
    """What a webhook says happened: where to look, and nothing to believe."""

    delivery: str
    """Id of the delivery; letters, digits and `-`."""
    event: str
    action: str = ""
    place: str
    """Repository on the forge, as `Forge.repo` names it."""
    repos: tuple[str, ...] = ()
    """Names under which the fleet knows it: of repos, and `FLEET_FORGE` for its own repository."""
    pull: int | None = None
    """Pull request that it is about."""
    issue: int | None = None
    """Issue that it is about."""
    branch: str | None = None
    """Branch that was pushed, made or deleted."""
    commit: str | None = None
    """Commit whose checks said something."""
    sender: str = ""
    """Who did it, as far as an unread forge can be believed: for logs only."""
    happened_at: datetime | None = None
    """When, if it says so: to tell how late it came, and nothing else."""


# --- What it should show ---------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagedComment:
    """A comment of ours: there is one with that key, and it has that text."""

    key: str
    """Stands in a hidden mark; letters, digits, `.`, `_`, `-`, `/` and `:`."""
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitStatus:
    """A commit status."""

    commit: str
    state: Literal["pending", "success", "failure"]
    description: str
    url: str = ""
    """Page of the task; empty if there is none."""
    context: str = "reconciler/task"


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgeView:
    """What the forge should show of one task; carrying it out twice is once."""

    task: str
    branch: str
    base: str
    leaves: str | None = None
    """Branch that a pull request is moved away from, to `base`: what it was stacked on was merged."""
    opens: bool
    """Whether a pull request is opened if none is open."""
    title: str
    body: str
    is_draft: bool = False
    labels: tuple[str, ...] = ()
    """Set when it is opened; people may change them later."""
    reviewers: tuple[str, ...] = ()
    """Asked when it is opened."""
    phase: str
    """Shown as the exclusive label `agent/<phase>`, instead of any other of that kind."""
    commit_status: CommitStatus | None = None
    notes: tuple[ManagedComment, ...] = ()
    """On the pull request."""
    merges: str | None = None
    """Head that is merged now; None: not now."""
    merge_style: Literal["merge", "rebase", "squash"] = "merge"
    issue: int | None = None
    """Issue that the task answers; it gets the label of the phase too."""
    issue_notes: tuple[ManagedComment, ...] = ()
    closes_issue: bool = False

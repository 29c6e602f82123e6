"""
Answers of forges: the fields that are read.

The shapes are those of Forgejo and Gitea; GitHub's are close enough to be read
by the same fields, and the dialect of any other makes them.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, RootModel

from reconciler.core.fields import LONGEST_TEXT, Id
from reconciler.core.model.forge import Comment, Issue
from reconciler.core.text import harmless, one_line
from reconciler.core.times import EARLIEST, LATEST


def _json_text(value: object) -> object:
    """Return the text without characters that cannot be encoded; `null` is empty."""
    return harmless(value) if isinstance(value, str) else "" if value is None else value


JsonText = Annotated[str, BeforeValidator(_json_text)]
"""Untrusted text, sanitized; `null` is empty."""
JsonLine = Annotated[JsonText, AfterValidator(one_line)]
"""The same, as one line."""


def _as_it_is(name: str) -> str:
    """Return a name with look-alike and invisible characters escaped, so that it is safe to compare."""
    return name if one_line(name) == name and name.isprintable() else one_line(ascii(name))


def _in_utc(time: datetime) -> datetime:
    """
    Return a time in UTC; year 1, by which some forges mean "none", is clamped.

    Raises ValueError if there is no such time.
    """
    try:
        there = (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
    except OverflowError:
        raise ValueError("out of range") from None
    return min(max(there, EARLIEST), LATEST)


_Login = Annotated[str, AfterValidator(_as_it_is)]
ForgeTime = Annotated[datetime, AfterValidator(_in_utc)]
"""A time, in UTC."""
_Commit = Annotated[str, Field(pattern=r"^(?:[0-9a-f]{40}|[0-9a-f]{64})?$")]
OWN_CONTEXTS = "reconciler/"
"""Commit statuses of ours begin so; they are no checks."""
GHOST = "ghost"
"""Name that forges show for a deleted account."""


_NUMBER = re.compile(r"/([0-9]{1,15})\Z")
_MARK = re.compile(r"<!-- reconciler:([\w./:-]+) -->")


def mark_of(key: str) -> str:
    """Return the hidden mark at the beginning of our comment with that key."""
    return f"<!-- reconciler:{key} -->"


class ForgeAnswer(BaseModel):
    """Base of the forge's answers; unknown fields are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", str_max_length=LONGEST_TEXT)


class ForgeUser(ForgeAnswer):
    """A user of the forge."""

    login: _Login


def name_of(account: ForgeUser | None) -> str:
    """Return the name of an account that may have been deleted."""
    return account.login if account else GHOST


class LabelAnswer(ForgeAnswer):
    """A label."""

    id: Id
    name: str


class LabelsAnswer(RootModel[tuple[LabelAnswer, ...]]):
    """All labels of an issue or a pull request."""


class _Permissions(ForgeAnswer):
    push: bool = True


class RepositoryAnswer(ForgeAnswer):
    """A repository."""

    id: Id
    permissions: _Permissions | None = None
    """What the account of the token may do there, where that is told with it."""


class Side(ForgeAnswer):
    """Head or base of a pull request."""

    label: str | None = None
    ref: str
    sha: _Commit
    repo: RepositoryAnswer | None = None

    @property
    def branch(self) -> str:
        """The branch, also when it was deleted since; empty if there never was one."""
        return (self.label or "") if self.ref.startswith("refs/") else self.ref


class StatusAnswer(ForgeAnswer):
    """A commit status."""

    context: JsonLine
    state: str = Field(validation_alias=AliasChoices("status", "state"))
    description: JsonLine = ""
    target_url: str | None = None


class _Team(ForgeAnswer):
    """A team."""

    name: JsonLine


class PullAnswer(ForgeAnswer):
    """A pull request."""

    number: Id
    html_url: JsonLine
    title: JsonLine
    body: JsonText = ""
    user: ForgeUser | None = None
    labels: tuple[LabelAnswer, ...] = ()
    state: str
    draft: bool = False
    mergeable: bool | None = None
    merged: bool | None = None
    merged_at: ForgeTime | None = None
    merged_by: ForgeUser | None = None
    head: Side
    base: Side
    requested_reviewers: tuple[ForgeUser, ...] | None = None
    requested_teams: tuple[_Team, ...] | None = Field(
        None, validation_alias=AliasChoices("requested_reviewers_teams", "requested_teams")
    )
    comments: Id | None = None
    """How many there are in its conversation; None where that is not told."""
    checks: tuple[StatusAnswer, ...] = ()
    """What says something of its head and is no status of that commit, where it comes with it."""
    updated_at: ForgeTime

    @property
    def reviewers(self) -> Sequence[str]:
        """Who is asked for a review, such as the owners of the code: accounts, then teams."""
        teams = [f"team {team.name}" for team in self.requested_teams or ()]
        return [*(account.login for account in self.requested_reviewers or ()), *teams]

    @property
    def is_open(self) -> bool:
        """Whether it is neither merged nor closed."""
        return self.state == "open"

    @property
    def is_read_only(self) -> bool:
        """Whether the account of the token may not write to its repository, as far as that is told."""
        permissions = self.base.repo.permissions if self.base.repo else None
        return permissions is not None and not permissions.push

    def has_moved(self, since: "PullAnswer") -> bool:
        """
        Return whether somebody changed anything since another answer.

        What the forge computes by itself is no change, nor what only one of them tells: a list tells less.
        """
        fields = type(self).model_fields.keys() - {"mergeable", "base", "checks"}
        pairs = [(getattr(self, name), getattr(since, name)) for name in fields]
        is_same = all(now == before for now, before in pairs if now is not None and before is not None)
        return not is_same or self.base.ref != since.base.ref

    @property
    def is_merged(self) -> bool:
        """Whether it is merged; GitHub's lists tell by the time alone."""
        return self.merged_at is not None if self.merged is None else self.merged

    @property
    def is_from_here(self) -> bool:
        """Whether its head is a branch of this repository and not of a fork, which may use the same name."""
        head, base = self.head.repo, self.base.repo
        return head is not None and base is not None and head.id == base.id


class InlineAnswer(ForgeAnswer):
    """A comment on a line of the new or the old file; GitHub names the fields differently."""

    user: ForgeUser | None = None
    body: JsonText = ""
    path: JsonLine
    line: Id | None = Field(None, validation_alias=AliasChoices("line", "position"))
    old_line: Id | None = Field(None, validation_alias=AliasChoices("original_line", "original_position"))


class ReviewAnswer(ForgeAnswer):
    """A review."""

    id: Id
    user: ForgeUser | None = None
    state: str
    body: JsonText = ""
    commit_id: str | None = None
    stale: bool | None = None
    official: bool = True
    dismissed: bool = False
    comments_count: Id | None = None
    inline: tuple[InlineAnswer, ...] | None = None
    """Its inline comments, where they come with it."""
    submitted_at: ForgeTime | None = None


class StatusesAnswer(ForgeAnswer):
    """The newest status of each context of a commit; of a commit without any, the list is `null`."""

    statuses: tuple[StatusAnswer, ...] | None = None
    total_count: Id = 0


class _Head(ForgeAnswer):
    id: _Commit = Field(validation_alias=AliasChoices("id", "sha"))


class BranchAnswer(ForgeAnswer):
    """A branch."""

    commit: _Head


class _Person(ForgeAnswer):
    name: JsonLine = ""
    email: JsonLine = ""
    date: ForgeTime | None = None


class _CommitBody(ForgeAnswer):
    author: _Person | None = None
    message: JsonText = ""


class _Parent(ForgeAnswer):
    sha: _Commit = ""


class FileAnswer(ForgeAnswer):
    """A file that a pull request changes."""

    filename: JsonText = ""


class FilesAnswer(RootModel[tuple[FileAnswer, ...]]):
    """Files that a pull request changes."""


class BlobAnswer(ForgeAnswer):
    """A file at a commit."""

    sha: _Commit


class CommitAnswer(ForgeAnswer):
    """A commit, and the account of its author where the forge knows one."""

    sha: _Commit = ""
    author: ForgeUser | None = None
    commit: _CommitBody
    parents: tuple[_Parent, ...] | None = None

    @property
    def subject(self) -> str:
        """The first line of its message."""
        return self.commit.message.strip().partition("\n")[0].rstrip()

    @property
    def is_merge(self) -> bool:
        """Whether it has more than one parent."""
        return len(self.parents or ()) > 1

    @property
    def identity(self) -> tuple[_Person | None, str]:
        """What a rebase leaves as it is: author, time and message."""
        return self.commit.author, self.commit.message.strip()

    @property
    def by(self) -> str:
        """Its author."""
        if self.author:
            return self.author.login
        return self.commit.author.name if self.commit.author else ""


class ComparisonAnswer(ForgeAnswer):
    """What a branch has beside another."""

    total_commits: Id


class CommitsAnswer(RootModel[tuple[CommitAnswer, ...]]):
    """Commits, newest first."""


class EntryAnswer(ForgeAnswer):
    """An entry in the timeline of a pull request."""

    kind: str = Field("", validation_alias=AliasChoices("type", "event"))
    user: ForgeUser | None = Field(None, validation_alias=AliasChoices("user", "actor"))

    @property
    def is_closing(self) -> bool:
        """Whether it says who closed it."""
        return self.kind in {"close", "closed"}


class IssueAnswer(ForgeAnswer):
    """An issue; a pull request is one too."""

    number: Id
    html_url: JsonLine
    title: JsonLine
    body: JsonText = ""
    user: ForgeUser | None = None
    labels: tuple[LabelAnswer, ...] = ()
    state: str
    closed_at: ForgeTime | None = None
    updated_at: ForgeTime
    pull_request: dict[str, Any] | None = None

    @property
    def issue(self) -> Issue:
        """The issue as a value of the core model."""
        return Issue(
            number=self.number,
            url=self.html_url,
            title=self.title,
            body=self.body,
            author=name_of(self.user),
            labels=tuple(label.name for label in self.labels),
            state="open" if self.state == "open" else "closed",
            closed_at=self.closed_at,
            updated_at=self.updated_at,
        )


class CommentAnswer(ForgeAnswer):
    """A comment on an issue or in the conversation of a pull request."""

    id: Id
    user: ForgeUser | None = None
    body: JsonText = ""
    issue_url: str | None = None
    pull_request_url: str | None = None
    on_pull: bool | None = None
    """Whether it is on a pull request, where these have numbers of their own."""
    created_at: ForgeTime
    updated_at: ForgeTime | None = None

    @property
    def number(self) -> int:
        """Of the issue or pull request: the end of whichever address is there; 0 if there is none."""
        match = _NUMBER.search(self.issue_url or self.pull_request_url or "")
        return int(match[1]) if match else 0

    def comment(self, me: str) -> Comment:
        """Return it as a value of the core model; hidden marks count only in our own account's comments."""
        author = name_of(self.user)
        mark = _MARK.match(self.body) if author == me else None
        return Comment(
            id=self.id,
            number=self.number,
            on_pull=self.on_pull,
            author=author,
            body=self.body,
            key=mark[1] if mark else "",
            created_at=self.created_at,
            updated_at=self.updated_at,
        )


class _HookConfig(ForgeAnswer):
    url: str = ""
    content_type: str = ""


class HookAnswer(ForgeAnswer):
    """A webhook as it is set up."""

    id: Id
    active: bool
    events: tuple[str, ...] = ()
    branch_filter: str = ""
    config: _HookConfig


class DeliveryAnswer(ForgeAnswer):
    """A delivery in the forge's own list, where it has one."""

    status: JsonLine = ""
    status_code: Id = 0


class ProtectionRule(ForgeAnswer):
    """A rule that protects branches."""

    rule_name: str = ""
    branch_name: str = ""
    required_approvals: Id = 0
    enable_push: bool = True
    enable_push_whitelist: bool = False
    push_whitelist_usernames: tuple[str, ...] = ()
    push_whitelist_teams: tuple[str, ...] = ()
    enable_merge_whitelist: bool = False
    merge_whitelist_usernames: tuple[str, ...] = ()
    merge_whitelist_teams: tuple[str, ...] = ()
    enable_status_check: bool = False
    status_check_contexts: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The branch or pattern that it is for."""
        return self.rule_name or self.branch_name

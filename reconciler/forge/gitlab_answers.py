"""
Answers of GitLab: the fields that are read, and what they are in Forgejo's shape.
"""

from collections.abc import Mapping
from datetime import date
from typing import Any

from reconciler.core.fields import Id
from reconciler.forge.answers import ForgeAnswer, ForgeTime, JsonLine, JsonText

Json = dict[str, Any]

COMPUTING = frozenset({"unchecked", "checking", "preparing", "approvals_syncing", "cannot_be_merged_recheck"})
"""Values of `detailed_merge_status` of a merge request that is still looked at."""


class GitLabUser(ForgeAnswer):
    """An account."""

    id: Id = 0
    username: JsonLine

    @property
    def account(self) -> Json:
        """The account in Forgejo's shape."""
        return {"login": self.username}


def account_of(user: GitLabUser | None) -> Json | None:
    """Return an account that may be gone in Forgejo's shape."""
    return user.account if user else None


class GitLabIssue(ForgeAnswer):
    """An issue; or what a merge request has of one."""

    iid: Id
    web_url: JsonLine
    title: JsonLine
    description: JsonText = ""
    author: GitLabUser | None = None
    labels: tuple[JsonLine, ...] = ()
    state: str
    closed_at: str | None = None
    updated_at: str

    @property
    def shared(self) -> Json:
        """What issues and merge requests have in common, in Forgejo's shape."""
        return {
            "number": self.iid,
            "html_url": self.web_url,
            "title": self.title,
            "body": self.description,
            "user": account_of(self.author),
            "labels": [{"id": 0, "name": name} for name in self.labels],
            "state": "open" if self.state in {"opened", "locked"} else "closed",  # locked: it is being merged
            "updated_at": self.updated_at,
        }

    @property
    def issue(self) -> Json:
        """The issue in Forgejo's shape."""
        return {**self.shared, "closed_at": self.closed_at}


class Pipeline(ForgeAnswer):
    """A pipeline of a merge request; that of the merged result is of another commit than the head."""

    sha: str = ""
    status: str = ""

    @property
    def answer(self) -> Json:
        """The pipeline as if it were a commit status."""
        state = _STATES.get(self.status, "pending")
        return {"context": "merged result", "status": "pending" if state == "waiting" else state}


class MergeRequest(GitLabIssue):
    """A merge request."""

    draft: bool = False
    has_conflicts: bool = False
    detailed_merge_status: str = ""
    merged_at: str | None = None
    merge_user: GitLabUser | None = None
    merged_by: GitLabUser | None = None
    source_branch: JsonLine
    target_branch: JsonLine
    source_project_id: Id | None = None
    target_project_id: Id
    sha: str = ""
    reviewers: tuple[GitLabUser, ...] = ()
    head_pipeline: Pipeline | None = None

    @property
    def mergeable(self) -> bool | None:
        """Whether git can merge it, rules or not; None while that is computed."""
        if self.detailed_merge_status in COMPUTING or self.state != "opened":
            return None
        return not (self.has_conflicts or self.detailed_merge_status in {"conflict", "broken_status"})

    @property
    def pull(self) -> Json:
        """
        The merge request in Forgejo's shape.

        How many notes there were is left out: those of a review that is submitted now come
        before its verdict, and have to be read after that.
        """
        head = {"id": self.source_project_id} if self.source_project_id is not None else None
        return {
            **self.shared,
            "draft": self.draft,
            "mergeable": self.mergeable,
            "merged": self.state == "merged",
            "merged_at": self.merged_at,
            "merged_by": account_of(self.merge_user or self.merged_by),
            "head": {"ref": self.source_branch, "sha": self.sha, "repo": head},
            "base": {"ref": self.target_branch, "sha": "", "repo": {"id": self.target_project_id}},
            "requested_reviewers": [each.account for each in self.reviewers],
        }


class NotePosition(ForgeAnswer):
    """Where a note on a line stands."""

    head_sha: str = ""
    new_path: JsonLine = ""
    new_line: Id | None = None
    old_path: JsonLine = ""
    old_line: Id | None = None


class GitLabNote(ForgeAnswer):
    """A note on an issue or a merge request."""

    id: Id
    body: JsonText = ""
    author: GitLabUser | None = None
    created_at: ForgeTime
    system: bool = False
    internal: bool = False
    resolved: bool = False
    position: NotePosition | None = None
    noteable_type: str = ""
    noteable_iid: Id | None = None

    @property
    def is_open(self) -> bool:
        """Whether it is said by somebody, to all, and not settled."""
        return not (self.system or self.internal or self.resolved)

    @property
    def comment(self) -> Json:
        """The note in Forgejo's shape; on what it is, where the note says so."""
        on_pull = self.noteable_type == "MergeRequest"
        fields: Json = {
            "id": self.id,
            "user": account_of(self.author),
            "body": self.body,
            "created_at": self.created_at,
        }
        if self.noteable_iid is None:
            return fields
        address = "pull_request_url" if on_pull else "issue_url"
        return {**fields, "on_pull": on_pull, address: f"/{self.noteable_iid}"}

    @property
    def review(self) -> Json:
        """The review that a note on a line is."""
        at = self.position or NotePosition()
        inline = {"user": account_of(self.author), "body": self.body, "path": at.new_path or at.old_path}
        return {
            "id": self.id,
            "user": account_of(self.author),
            "state": "COMMENT",
            "commit_id": at.head_sha,
            "submitted_at": self.created_at,
            "inline": [{**inline, "line": at.new_line, "original_line": at.old_line}],
        }


class ProjectEvent(ForgeAnswer):
    """An event of the project."""

    note: GitLabNote | None = None
    created_at: ForgeTime


class Approval(ForgeAnswer):
    """An approval of a merge request."""

    user: GitLabUser
    approved_at: ForgeTime | None = None


class ApprovalsAnswer(ForgeAnswer):
    """All of them."""

    approved_by: tuple[Approval, ...] = ()


class ApprovalRule(ForgeAnswer):
    """A rule of who has to approve; not every edition of GitLab has them."""

    name: JsonLine = ""
    approvals_required: Id = 0
    approved_by: tuple[GitLabUser, ...] = ()
    eligible_approvers: tuple[GitLabUser, ...] = ()

    @property
    def missing(self) -> str:
        """What it still takes, in words; empty if it is met."""
        left = self.approvals_required - len(self.approved_by)
        if left <= 0:
            return ""
        done = {each.username for each in self.approved_by}
        names = [each.username for each in self.eligible_approvers if each.username not in done]
        who = (
            f" of {', '.join(names[:_MOST_NAMES])}{' …' if len(names) > _MOST_NAMES else ''}" if names else ""
        )
        return f"rule {self.name} takes {left} more{who}"


_MOST_NAMES = 5


class ApprovalStateAnswer(ForgeAnswer):
    """The rules of a merge request."""

    rules: tuple[ApprovalRule, ...] = ()


class ReviewerAnswer(ForgeAnswer):
    """A reviewer of a merge request, and where the review stands."""

    user: GitLabUser
    state: str = ""


class MergeRequestVersion(ForgeAnswer):
    """A version of a merge request: what it was after a push."""

    head_commit_sha: str = ""
    created_at: ForgeTime


class StateEvent(ForgeAnswer):
    """That something was closed, opened again or merged."""

    state: str = ""
    user: GitLabUser | None = None


class GitLabStatus(ForgeAnswer):
    """A status of a commit: a job of a pipeline, or what others say of it."""

    id: Id
    name: JsonLine
    status: str
    description: JsonLine = ""
    target_url: JsonLine = ""
    allow_failure: bool = False

    @property
    def answer(self) -> Json:
        """The status in Forgejo's words: `warning` and `skipped` count as passed."""
        state = _STATES.get(self.status, "pending")
        if self.allow_failure and state in {"failure", "waiting"}:
            state = "warning"
        if self.name.startswith(_OURS) and self.status == "skipped":
            state = "pending"
        return {
            "context": self.name,
            "status": "pending" if state == "waiting" else state,
            "description": self.description,
            "target_url": self.target_url,
        }


_OURS = "reconciler/"
_STATES: Mapping[str, str] = {
    "success": "success",
    "failed": "failure",
    "canceled": "failure",
    "canceling": "failure",
    "skipped": "skipped",
    "manual": "waiting",
}
"""Forgejo's words for states; what waits for a person waits, unless it may fail."""


class GitLabCommit(ForgeAnswer):
    """A commit."""

    parent_ids: tuple[str, ...] = ()
    author_name: JsonLine = ""


class GitLabAccount(ForgeAnswer):
    """An account with its id, and as a member with its access level."""

    id: Id
    username: JsonLine
    access_level: Id = 0


class GitLabToken(ForgeAnswer):
    """A token, as it may say of itself."""

    expires_at: date | None = None


class AccessLevel(ForgeAnswer):
    """An access level."""

    access_level: Id = 0


class ProjectPermissions(ForgeAnswer):
    """What the account of the token may do with the project."""

    project_access: AccessLevel = AccessLevel()
    group_access: AccessLevel = AccessLevel()

    @property
    def level(self) -> int:
        """The highest access level of the account."""
        return max(self.project_access.access_level, self.group_access.access_level)


class ProjectAnswer(ForgeAnswer):
    """The project."""

    default_branch: JsonLine = "main"
    http_url_to_repo: JsonLine = ""
    ssh_url_to_repo: JsonLine = ""
    archived: bool = False
    issues_enabled: bool = True
    merge_method: str = "merge"
    permissions: ProjectPermissions = ProjectPermissions()


class GitLabHook(ForgeAnswer):
    """A webhook."""

    id: Id
    url: JsonLine = ""
    alert_status: str = "executable"
    push_events_branch_filter: JsonLine = ""
    branch_filter_strategy: str = ""

    push_events: bool = False
    issues_events: bool = False
    confidential_issues_events: bool = False
    note_events: bool = False
    confidential_note_events: bool = False
    merge_requests_events: bool = False
    pipeline_events: bool = False

    @property
    def answer(self) -> Json:
        """The webhook in Forgejo's shape."""
        is_for_all = self.branch_filter_strategy == "all_branches"
        return {
            "id": self.id,
            "active": self.alert_status == "executable",
            "events": [event for event in HOOK_EVENTS if getattr(self, event)],
            "branch_filter": "" if is_for_all else self.push_events_branch_filter,
            "config": {"url": self.url, "content_type": "json"},
        }


HOOK_EVENTS = (
    *("push_events", "issues_events", "confidential_issues_events", "note_events"),
    *("confidential_note_events", "merge_requests_events", "pipeline_events"),
)


class GitLabDelivery(ForgeAnswer):
    """A delivery of a webhook."""

    response_status: JsonLine = ""


class ProtectedBranch(ForgeAnswer):
    """A protected branch."""

    name: str
    merge_access_levels: tuple[AccessLevel, ...] = ()
    push_access_levels: tuple[AccessLevel, ...] = ()

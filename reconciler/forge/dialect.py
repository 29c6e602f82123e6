"""
Dialects: where the APIs of the forges differ.
"""

import re
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from reconciler.core.model.forge import ForgeView, MergeRefusal

if TYPE_CHECKING:
    from datetime import date

    from reconciler.core.model.runs import ReviewNote
    from reconciler.forge.answers import ProtectionRule, PullAnswer, StatusAnswer
    from reconciler.forge.client import ForgeClient
    from reconciler.forge.operations import Operations

Headers = Mapping[str, str]


_NEEDED_SCOPE = re.compile(r"required scope\(s\)(?:: |, required=)\[([^\]]{1,100})\]")  # Forgejo's, Gitea's


def _missing_scope(message: str, _: Headers) -> str:
    return f"it lacks {match[1]}" if (match := _NEEDED_SCOPE.search(message)) else ""


def _place(repo: str) -> str:
    return f"repos/{repo}"


def _status(_method: str, _path: str, status: int) -> int:
    return status


def _comment_path(_ticket: str, comment: int) -> str:
    return f"issues/comments/{comment}"


def _no_limit(_status: int, _headers: Headers, _message: str) -> float | None:
    return None


_TRIES: Mapping[str, tuple[str, str]] = {
    "read:repository": ("GET", "pulls/0"),
    "write:repository": ("PATCH", "pulls/0"),
    "read:issue": ("GET", "issues/comments/0"),
    "write:issue": ("PATCH", "issues/comments/0"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """Parameters of one kind of forge; the defaults are Forgejo's."""

    # --- Requests ---

    operations: "Operations | None" = None
    """What is done for each request of the rooms, where the paths and the answers are not Forgejo's."""
    place: Callable[[str], str] = _place
    """Return the path of a repository, by its name there."""
    status: Callable[[str, str, int], int] = _status
    """Return what the status of an answer means, given the method and the path: some use another for it."""
    headers: Headers = field(default_factory=lambda: {"Accept": "application/json"})
    """Sent with each request."""
    at_once: int = 4
    """Pull requests that are read, or written to, at a time: a forge takes a second to open one."""
    scheme: str = "token"
    """Word before the token in the header that has it."""
    size_parameter: str = "limit"
    """Parameter for the number of items in a page."""
    rights: str = (
        "it needs the scopes write:repository, write:issue and read:user, and an account that may write"
    )
    """What a token needs, where the forge does not say which right is missing."""
    missing_right: Callable[[str, Headers], str] = _missing_scope
    """Return which right an answer of 403 says is missing, by its message and headers; or nothing."""
    limit: Callable[[int, Headers, str], float | None] = _no_limit
    """
    Return for how many seconds a failed answer asks to wait; None if it is not about a limit.

    It is given the status, the headers and the message. 429 and 503 with
    `Retry-After` are known without it.
    """

    # --- Pull requests ---

    pull_ticket: str = "issues"
    """
    Path under which the conversation and the labels of pull requests are.

    `issues` where a pull request is an issue too; elsewhere both may have the same number.
    """
    pull_ref: str = "refs/pull/{number}/head"
    """Ref under which git has the head of a pull request, also of one from a fork."""
    comment: Callable[[str, int], str] = _comment_path
    """Return the path of a comment, by the path of what it is on and its id."""
    text: Callable[[str], str] = str
    """Return a text of ours so that the forge shows it as it is, and does nothing that it says."""
    draft: str = "WIP:"
    """What the title of a draft begins with, where drafts have no flag that can be set."""
    draft_title: re.Pattern[str] = re.compile(r"(?i)(?:wip:|\[wip\])\s*")
    """What the titles of drafts may begin with."""

    newest_first: Mapping[str, str] = field(default_factory=lambda: {"sort": "recentupdate"})
    """Parameters that list pull requests by their last change."""
    one_commit: Mapping[str, str] = field(default_factory=lambda: {"stat": "false", "files": "false"})
    """Parameters that make a list of commits cheap."""
    has_drafts: bool = False
    """Whether drafts have a flag of their own that can be set; if not, their title begins with `draft`."""
    is_sure_of_conflicts: bool = False
    """Whether `mergeable: false` always means a conflict; if not, it may still be being computed."""
    notices_merges: bool = False
    """Whether a pull request counts as merged once its commits are in its base branch, however that came."""
    computing: str = "try again later"
    """Part of the message of a merge that is declined because the forge still computes, in lower case."""
    passing: Collection[str] = ()
    """Messages of a merge that is declined because of what ends by itself."""
    more_checks: "Callable[[ForgeClient, str], Awaitable[Sequence[StatusAnswer]]] | None" = None
    """Read what says something of a commit beside its statuses."""
    inline_comments: "Callable[[ForgeClient, int], Awaitable[Mapping[int, Sequence[ReviewNote]]]] | None" = (
        None
    )
    """Read the inline comments of a pull request at once, by review; if not, they are read by review."""
    may_write: "Callable[[ForgeClient, str], Awaitable[bool]] | None" = None
    """Read whether an account may write, where reviews do not tell whether they count."""
    enqueue: "Callable[[ForgeClient, PullAnswer, str], Awaitable[MergeRefusal | None]] | None" = None
    """
    Put a pull request whose merge was declined into the merge queue, and return how it stands there.

    It is given the message of the declined merge, and returns None if that is not about a queue.
    """

    pending_text: str = ""
    """What a pending status of ours says, where that cannot be changed later."""

    # --- Issues and labels ---

    open_issues: Mapping[str, str] = field(
        default_factory=lambda: {"type": "issues", "state": "open", "sort": "oldest"}
    )
    """Parameters that list open issues, oldest first."""
    has_owner_labels: bool = True
    """Whether an organisation has labels too, beside those of its repositories."""
    has_exclusive_labels: bool = True
    """Whether a label may replace others of its scope."""
    same_label: Callable[[str], str] = str
    """Return what two names of one label have in common: all of it, where names know upper and lower case."""
    label_key: Literal["id", "name"] = "id"
    """Field of a label by which it is removed from an issue."""
    opens_with_labels: bool = True
    """Whether the request that opens a pull request may name its labels, by their ids."""

    # --- Webhooks ---

    hook_type: Mapping[str, str] = field(default_factory=lambda: {"type": "forgejo"})
    hook_events: tuple[str, ...]
    """Events that a webhook is made for."""
    listed_events: tuple[str, ...]
    """Events that such a webhook lists at the least; some names bring others with them."""
    lists_deliveries: bool = False
    """Whether its API tells what the deliveries of a webhook were answered."""
    renews_hook_secret: bool = False
    """Whether a webhook that is edited gets the new secret; if not, another is made in its place."""

    # --- Set-up ---

    tries: Mapping[str, tuple[str, str]] = field(default_factory=lambda: _TRIES)
    """
    Requests by the right that they need.

    They are about number 0, which is nothing: a forge looks at the rights first,
    and tells whoever has them that it is not there.
    """
    account_right: str = "read:user"
    """What a token needs to tell whose it is."""
    expires_on: "Callable[[ForgeClient], Awaitable[date | None]] | None" = None
    """Read when the token expires, where it can be asked."""
    protection: str = "no pushes, and 1 approval to merge"
    """How `--protect` protects a base branch."""
    protection_rules: "Callable[[ForgeClient, str], Awaitable[Sequence[ProtectionRule]]] | None" = None
    """Read the rules that a branch is under, where they are not in one list of the repository."""
    protect: "Callable[[ForgeClient, str], Awaitable[None]] | None" = None
    """Protect a branch, where that is not an entry in such a list."""
    probe: str = "version"
    """Path by which a person sees whether the API answers."""
    hook_page: str = "settings/hooks/{id}"
    """Path of the page of a webhook, below that of the repository."""
    private_addresses: str = (
        "Forgejo and Gitea send to public addresses only, unless `ALLOWED_HOST_LIST` of [webhook] in "
        "their app.ini names this one"
    )
    """Why a webhook to a private address may not come."""

    def merge(self, want: ForgeView) -> tuple[str, Mapping[str, Any]]:
        """Return method and body of the request that merges."""
        if self.has_drafts:
            return "PUT", {"merge_method": want.merge_style, "sha": want.merges}
        return "POST", {"Do": want.merge_style, "head_commit_id": want.merges}


_COMMON = ("push", "create", "delete", "issues", "pull_request")

_LISTED = (*_COMMON, "issue_comment", "pull_request_comment", "pull_request_sync")

FORGEJO = Dialect(
    hook_events=(*_COMMON, "action_run_failure", "action_run_success", "action_run_recover"),
    listed_events=_LISTED,
)
"""Written from the sources of Forgejo 15, and tried on 15.0.3."""

GITEA = Dialect(
    hook_type={"type": "gitea"},
    hook_events=(*_COMMON, "status"),
    listed_events=(*_LISTED, "pull_request_review", "status"),
)
"""Written from the sources of Gitea 1.27, and tried on 1.26.3."""

"""
GitHub: its dialect, and what has no counterpart on the other forges.

Checks are commit statuses or check runs; everybody may review, and whose review
counts is told by what they may do; inline comments have a line only in the list
of all of them; a merge may have to go by the merge queue, which is in GraphQL
alone.
"""

from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import quote

from pydantic import Field

from reconciler.core.errors import Unavailable
from reconciler.core.fields import Id
from reconciler.core.model.forge import MergeRefusal
from reconciler.core.model.runs import ReviewNote
from reconciler.forge.answers import (
    ForgeAnswer,
    ForgeUser,
    JsonLine,
    JsonText,
    PullAnswer,
    StatusAnswer,
    name_of,
)
from reconciler.forge.client import Declined, Forbidden, ForgeClient, page_of
from reconciler.forge.dialect import Dialect, Headers
from reconciler.forge.github_protection import protect, protection_rules

T = TypeVar("T", bound=ForgeAnswer)

# --- Limits and rights -----------------------------------------------------

_LIMITED = (403, 429)
_SECONDARY = ("secondary rate limit", "abuse detection")
_LONG_ENOUGH = 60.0
"""Seconds to wait after a secondary limit that does not say how long."""


def _limit(status: int, headers: Headers, message: str) -> float | None:
    """
    Return how long GitHub asks to wait, in seconds; None if it does not.

    The primary limit is known by what remains of it, and ends at a time of
    GitHub's clock, which is in the same answer.
    """
    if status not in _LIMITED:
        return None
    if (after := headers.get("retry-after", "")).isdecimal():
        return float(after[:9])
    reset = headers.get("x-ratelimit-reset", "")
    if headers.get("x-ratelimit-remaining") == "0" and reset.isdecimal() and (now := _date(headers)):
        return max(float(reset[:12]) - now, 0.0) + 1.0
    if status == 429 or any(each in message.lower() for each in _SECONDARY):  # noqa: PLR2004 - too many requests
        return _LONG_ENOUGH
    return None


def _date(headers: Headers) -> float:
    """Return the time of an answer in seconds since 1970; 0 if it has none."""
    try:
        return parsedate_to_datetime(headers.get("date", "")).timestamp()
    except ValueError:
        return 0.0


def _missing_right(_: str, headers: Headers) -> str:
    """Return which right would have been enough; GitHub says so by the kind of token."""
    if sso := headers.get("x-github-sso", ""):
        return f"it has to be authorised for the organisation's single sign-on: {sso.partition('url=')[2]}"
    if rights := headers.get("x-accepted-github-permissions", ""):
        return f"it lacks {' or '.join(_spelled(each) for each in rights.split(';') if each.strip())}"
    if scopes := headers.get("x-accepted-oauth-scopes", ""):
        return f"it lacks a scope of {scopes}; it has {headers.get('x-oauth-scopes') or 'none'}"
    return ""


def _spelled(rights: str) -> str:
    """Return rights such as `pull_requests=write,contents=read` as GitHub's page for tokens calls them."""
    pairs = (each.strip().partition("=") for each in rights.split(","))
    return " with ".join(f"`{name.replace('_', ' ').capitalize()}: {level}`" for name, _, level in pairs)


# --- Checks ----------------------------------------------------------------

_FINE = {"success", "neutral", "skipped"}
_MOST = 100
"""Items in a page: what GitHub gives at most."""


class _Output(ForgeAnswer):
    title: JsonLine = ""


class _CheckRun(ForgeAnswer):
    name: JsonLine
    status: str
    conclusion: str | None = None
    output: _Output = _Output()

    @property
    def is_over(self) -> bool:
        # A stale one never ended: GitHub gave it up.
        return self.status == "completed" and self.conclusion not in {None, "stale"}

    @property
    def as_status(self) -> StatusAnswer:
        """The check run as if it were a commit status."""
        state = "pending" if not self.is_over else "success" if self.conclusion in _FINE else "failure"
        reason = self.output.title or (
            "" if state == "success" else (self.conclusion or "").replace("_", " ")
        )
        return StatusAnswer(context=self.name, state=state, description=reason)


class _CheckRuns(ForgeAnswer):
    total_count: Id = 0
    check_runs: tuple[_CheckRun, ...] = ()


class _WorkflowRun(_CheckRun):
    name: JsonLine = "workflow"
    workflow_id: Id = 0
    event: str = ""


class _WorkflowRuns(ForgeAnswer):
    total_count: Id = 0
    workflow_runs: tuple[_WorkflowRun, ...] = ()


async def _more_checks(client: ForgeClient, commit: str) -> Sequence[StatusAnswer]:
    """
    Return the newest check runs of a commit.

    Fine-grained tokens cannot be given the right to read them where the
    repository is private: then the runs of Actions are read, and check runs of
    other Apps are not seen.
    """
    try:
        return await _check_runs(client, commit)
    except Forbidden as forbidden:
        try:
            return await _workflow_runs(client, commit)
        except Forbidden:
            raise forbidden from None


async def _check_runs(client: ForgeClient, commit: str) -> list[StatusAnswer]:
    runs: list[StatusAnswer] = []
    page = 1
    while True:
        query = {"filter": "latest", **page_of(page, _MOST, "per_page")}
        answer = await client.get(f"commits/{commit}/check-runs", _CheckRuns, query)
        runs += [run.as_status for run in answer.check_runs]
        if not answer.check_runs or len(runs) >= answer.total_count:
            return runs
        page += 1


async def _workflow_runs(client: ForgeClient, commit: str) -> list[StatusAnswer]:
    query = {"head_sha": commit, "exclude_pull_requests": "true", **page_of(1, _MOST, "per_page")}
    answer = await client.get("actions/runs", _WorkflowRuns, query)
    newest: dict[tuple[int, str], _WorkflowRun] = {}
    for run in answer.workflow_runs:  # newest first
        newest.setdefault((run.workflow_id, run.event), run)
    return [run.as_status for run in newest.values()]


# --- Reviews ---------------------------------------------------------------

_WRITING = {"admin", "write"}


class _Permission(ForgeAnswer):
    permission: str


async def _may_write(client: ForgeClient, name: str) -> bool:
    """Return whether an account may write: on a public repository everybody may approve."""
    try:
        answer = await client.get(f"collaborators/{quote(name, safe='')}/permission", _Permission)
    except Declined:  # no account of a person
        return False
    return answer.permission in _WRITING


class _Inline(ForgeAnswer):
    """A comment on a line; its `position` is where it is in the diff, and of no use to anybody."""

    pull_request_review_id: Id | None = None
    user: ForgeUser | None = None
    body: JsonText = ""
    path: JsonLine
    line: Id | None = None
    original_line: Id | None = None


async def _inline_comments(client: ForgeClient, number: int) -> Mapping[int, Sequence[ReviewNote]]:
    notes: dict[int, list[ReviewNote]] = {}
    async for each in client.pages(f"pulls/{number}/comments", _Inline):
        if each.body.strip() and each.pull_request_review_id is not None:
            line = each.line or each.original_line or None
            note = ReviewNote(author=name_of(each.user), text=each.body, path=each.path, line=line)
            notes.setdefault(each.pull_request_review_id, []).append(note)
    return notes


# --- The merge queue -------------------------------------------------------

_QUEUE = "merge queue"
QUEUE_QUERY = """
query ($owner: String!, $name: String!, $number: Int!) {
  repository(owner: $owner, name: $name) {
    pullRequest(number: $number) {
      id
      mergeQueueEntry { state position }
      timelineItems(last: 1, itemTypes: [
        ADDED_TO_MERGE_QUEUE_EVENT, REMOVED_FROM_MERGE_QUEUE_EVENT
        PULL_REQUEST_COMMIT, HEAD_REF_FORCE_PUSHED_EVENT
      ]) {
        nodes { __typename ... on RemovedFromMergeQueueEvent { reason } }
      }
    }
  }
}
"""
ENQUEUE = """
mutation ($id: ID!, $head: GitObjectID!) {
  enqueuePullRequest(input: {pullRequestId: $id, expectedHeadOid: $head}) {
    mergeQueueEntry { state position }
  }
}
"""


class _Entry(ForgeAnswer):
    state: JsonLine
    position: Id

    @property
    def refusal(self) -> MergeRefusal:
        state = self.state.replace("_", " ").lower()
        return MergeRefusal(f"it is in the merge queue, at position {self.position} ({state})", kind="queued")


class _Item(ForgeAnswer):
    """Entry of a timeline."""

    kind: str = Field("", alias="__typename")
    reason: JsonLine = ""


class _Items(ForgeAnswer):
    nodes: tuple[_Item, ...] = ()


class _Queueable(ForgeAnswer):
    """A pull request, as far as the merge queue is concerned."""

    id: str
    entry: _Entry | None = Field(None, alias="mergeQueueEntry")
    timeline: _Items = Field(_Items(), alias="timelineItems")

    @property
    def removal(self) -> str:
        """Why the queue removed it, if nothing was pushed since; empty if it did not."""
        last = self.timeline.nodes[-1] if self.timeline.nodes else None
        if last is None or last.kind != "RemovedFromMergeQueueEvent":
            return ""
        return last.reason.replace("_", " ").lower() or "no reason given"


class _Repository(ForgeAnswer):
    pull: _Queueable = Field(alias="pullRequest")


class _Look(ForgeAnswer):
    repository: _Repository


class _Payload(ForgeAnswer):
    entry: _Entry = Field(alias="mergeQueueEntry")


class _Enqueued(ForgeAnswer):
    payload: _Payload = Field(alias="enqueuePullRequest")


class _Problem(ForgeAnswer):
    message: JsonLine = ""


class _Reply(ForgeAnswer):
    """Answer of GraphQL: its failures come with 200."""

    data: dict[str, Any] | None = None
    errors: tuple[_Problem, ...] = ()


async def _enqueue(client: ForgeClient, pull: PullAnswer, message: str) -> MergeRefusal | None:
    """
    Put a pull request into the merge queue and return how it stands there.

    None if its merge was declined for another reason. One that the queue
    removed is not put back until something is pushed: what made it fail is
    still there.
    """
    if _QUEUE not in message.lower():
        return None
    owner, _, name = client.forge.repo.partition("/")
    variables = {"owner": owner, "name": name, "number": pull.number}
    seen = (await _graphql(client, QUEUE_QUERY, variables, _Look)).repository.pull
    if seen.entry:
        return seen.entry.refusal
    if seen.removal:
        why = f"the merge queue removed it ({seen.removal}): push a commit, or put it there by hand"
        return MergeRefusal(why)
    variables = {"id": seen.id, "head": pull.head.sha}
    return (await _graphql(client, ENQUEUE, variables, _Enqueued)).payload.entry.refusal


async def _graphql(client: ForgeClient, query: str, variables: Mapping[str, Any], shape: type[T]) -> T:
    """Ask GitHub's GraphQL API, which is beside the other one; raises Unavailable for what it declines."""
    root = client.forge.api.rstrip("/").removesuffix("/v3")
    body = {"query": query, "variables": variables}
    reply = await client.write("POST", f"{root}/graphql", _Reply, body)
    if reply.errors or reply.data is None:
        reasons = "; ".join(each.message for each in reply.errors) or "no data"
        raise Unavailable(f"forge {client.forge.repo}: GraphQL: {reasons}")
    return client.read(shape, "/graphql", reply.data)


# --- The dialect -----------------------------------------------------------

_EVENTS = (
    *("push", "create", "delete", "issues", "issue_comment", "status", "check_suite"),
    *("pull_request", "pull_request_review", "pull_request_review_comment"),
)

GITHUB = Dialect(
    headers={"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28"},
    at_once=1,  # it asks for requests one after another, and limits who does not
    scheme="Bearer",
    size_parameter="per_page",
    rights="see the rights for GitHub in docs/forge.md",
    missing_right=_missing_right,
    limit=_limit,
    newest_first={"sort": "updated", "direction": "desc"},
    one_commit={},
    has_drafts=True,
    is_sure_of_conflicts=True,
    computing="base branch was modified",
    notices_merges=True,
    more_checks=_more_checks,
    inline_comments=_inline_comments,
    may_write=_may_write,
    enqueue=_enqueue,
    open_issues={"state": "open", "sort": "created", "direction": "asc"},
    has_owner_labels=False,
    has_exclusive_labels=False,
    same_label=str.lower,
    label_key="name",
    opens_with_labels=False,
    hook_type={"name": "web"},
    hook_events=_EVENTS,
    listed_events=_EVENTS,
    lists_deliveries=True,
    renews_hook_secret=True,
    tries={
        "`Pull requests: write`": ("PATCH", "pulls/0"),
        "`Issues: write`": ("PATCH", "issues/0"),
    },
    protection="changes by pull requests alone, and 1 approval to merge",
    protection_rules=protection_rules,
    protect=protect,
    probe="meta",
)
"""
Held to GitHub's own description of its API, and its examples of webhooks; not tried on GitHub itself.

Labels there are not exclusive, so ours are exchanged one by one.
"""

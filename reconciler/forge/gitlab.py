"""
GitLab: its dialect, a table of operations.

Nothing of its API is like Forgejo's, so each request of the rooms has an
operation here, which makes GitLab's own requests and gives the answer in
Forgejo's shape. What is another thing there:

- Merge requests and issues have numbers of their own; both have notes, and labels are set with the rest.
- There are no reviews. An approval is by a person, not of a commit: which head it is of is told by its
  time and the versions of the merge request. Changes are asked for by the state of a reviewer
  (`/request_changes`, or "ForgeRequest changes" of a review); when, a note of the system tells. Notes on
  lines are a review each, unless their thread is resolved.
- Jobs of pipelines are commit statuses. One of ours that is pending would hold up the pipeline, and
  with it the merge, so it is `skipped` instead.
- A note that begins a line with `/close` closes: what an agent wrote must not.
- Why it does not merge, it says apart from the answer, by `detailed_merge_status`.
- A merge that the account may not do is answered 401.
"""

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

from reconciler.core.times import EARLIEST
from reconciler.forge.answers import ForgeAnswer, JsonLine
from reconciler.forge.client import Broken, Declined, Forbidden, ForgeClient, UnexpectedAnswer
from reconciler.forge.dialect import Dialect, Headers
from reconciler.forge.gitlab_answers import (
    COMPUTING,
    HOOK_EVENTS,
    ApprovalsAnswer,
    ApprovalStateAnswer,
    GitLabAccount,
    GitLabCommit,
    GitLabDelivery,
    GitLabHook,
    GitLabIssue,
    GitLabNote,
    GitLabStatus,
    GitLabToken,
    GitLabUser,
    Json,
    MergeRequest,
    MergeRequestVersion,
    ProjectAnswer,
    ProjectEvent,
    ProtectedBranch,
    ReviewerAnswer,
    StateEvent,
    account_of,
)
from reconciler.forge.operations import ForgeReply, ForgeRequest, Operations

GITLAB_OPERATIONS = Operations()
on = GITLAB_OPERATIONS.on

_MOST = 100
"""Items in a page: what GitLab gives at most."""
_MOST_PAGES = 50
_DEVELOPER, _MAINTAINER = 30, 40
"""Access levels: from which on an account may write, and administer."""

# --- Asking -----------------------------------------------------------------------


async def _get(client: ForgeClient, path: str, shape: type, params: Mapping[str, str] | None = None) -> Any:
    return client.read(shape, path, (await client.request("GET", path, params)).value)


async def _pages(
    client: ForgeClient, path: str, shape: type, params: Mapping[str, str] | None = None
) -> list[Any]:
    """Return all items of a list; raises UnexpectedAnswer for one that cannot be read."""
    items: list[Any] = []
    page = "1"
    for _ in range(_MOST_PAGES):
        query = {**(params or {}), "per_page": str(_MOST), "page": page}
        reply = await client.request("GET", path, query)
        items += [client.read(shape, path, each) for each in _listed(reply, path)]
        if not (page := _next_page(reply.headers, page)):
            break
    return items


def _listed(reply: ForgeReply, path: str) -> list[Any]:
    if not isinstance(reply.value, list):
        raise UnexpectedAnswer(f"{path}: a list was expected")
    return [each for each in reply.value if each is not None]


def _next_page(headers: Headers, page: str) -> str:
    """Return the number of the next page; empty after the last. Some proxies drop one of the headers."""
    if "x-next-page" in headers:
        return headers["x-next-page"]
    return str(int(page) + 1) if 'rel="next"' in headers.get("link", "") else ""


async def _page(
    request: ForgeRequest, path: str, shape: type, view: str, params: Mapping[str, str]
) -> ForgeReply:
    """
    Return one page of a list, its items in Forgejo's shape.

    One that cannot be read stays as it is: the room reads it, and leaves it out or not.
    """
    reply = await request.client.request("GET", path, {**_paging(request.params), **params})
    return ForgeReply(
        200, [_viewed(request, path, shape, view, each) for each in _listed(reply, path)], reply.headers
    )


def _viewed(request: ForgeRequest, path: str, shape: type, view: str, item: Any) -> Any:
    try:
        return getattr(request.client.read(shape, path, item), view)
    except UnexpectedAnswer:
        return item


def _paging(params: Mapping[str, str]) -> Mapping[str, str]:
    return {name: params[name] for name in ("page", "per_page") if name in params}


def _only(value: Any) -> ForgeReply:
    """Return something as the whole answer; a list says how long it is."""
    return ForgeReply(200, value, {"x-total-count": str(len(value))} if isinstance(value, list) else {})


# --- Accounts and the project -------------------------------------------------------


@on("GET", "/version")
async def _version(request: ForgeRequest) -> ForgeReply:
    return await request.client.request("GET", "/version")


@on("GET", "/user")
async def _whoami(request: ForgeRequest) -> ForgeReply:
    return _only((await _get(request.client, "/user", GitLabUser)).account)


@on("GET", "/repos/{repo…}")
async def _repository(request: ForgeRequest) -> ForgeReply:
    project = await _project(request.client)
    level = project.permissions.level
    return _only(
        {
            "default_branch": project.default_branch,
            "clone_url": project.http_url_to_repo,
            "ssh_url": project.ssh_url_to_repo,
            "archived": project.archived,
            "permissions": {"push": level >= _DEVELOPER, "admin": level >= _MAINTAINER},
        }
    )


async def _project(client: ForgeClient) -> Any:
    return await _get(client, "", ProjectAnswer)


async def _expires_on(client: ForgeClient) -> date | None:
    """Return when the token expires; None if it does not, or may not say so."""
    try:
        token: GitLabToken = await _get(client, "/personal_access_tokens/self", GitLabToken)
    except (Declined, Forbidden):
        return None
    return token.expires_at


async def _may_write(client: ForgeClient, name: str) -> bool:
    """Return whether an account is a member who may write, by itself or by a group."""
    try:
        members = await _pages(client, "members/all", GitLabAccount, {"query": name})
    except Declined:  # a search for such a name is none
        return False
    return any(each.username == name and each.access_level >= _DEVELOPER for each in members)


@on("GET", "branches/{branch…}")
async def _branch(request: ForgeRequest) -> ForgeReply:
    branch = quote(request.names["branch"], safe="")
    return await request.client.request("GET", f"repository/branches/{branch}")


# --- Merge requests -------------------------------------------------------------------

_PULL_STATES = {"open": "opened"}


@on("GET", "pulls")
async def _pulls(request: ForgeRequest) -> ForgeReply:
    state = request.params.get("state", "open")
    query = {name: value for name, value in request.params.items() if name in {"order_by", "sort"}}
    query |= {"state": _PULL_STATES.get(state, state), "scope": "all"}
    return await _page(request, "merge_requests", MergeRequest, "pull", query)


@on("GET", "pulls/{number}")
async def _pull(request: ForgeRequest) -> ForgeReply:
    merge_request = await _merge_request(request.client, request.names["number"])
    return _only({**merge_request.pull, "checks": await _merged_result(request.client, merge_request)})


async def _merge_request(client: ForgeClient, number: str) -> Any:
    return await _get(client, f"merge_requests/{number}", MergeRequest)


async def _merged_result(client: ForgeClient, merge_request: MergeRequest) -> list[Json]:
    """
    Return the pipeline of what merging would lead to: its jobs are those of another commit.

    It is known as that of the head by its parents, for it may be from before a push.
    """
    pipeline = merge_request.head_pipeline
    if pipeline is None or not pipeline.sha or pipeline.sha == merge_request.sha:
        return []
    try:
        commit = await _get(client, f"repository/commits/{pipeline.sha}", GitLabCommit)
    except Declined:  # it is gone
        return []
    return [pipeline.answer] if merge_request.sha in commit.parent_ids else []


@on("POST", "pulls")
async def _open_pull(request: ForgeRequest) -> ForgeReply:
    fields = {"title": "title", "body": "description", "head": "source_branch", "base": "target_branch"}
    body = {name: request.body[field] for field, name in fields.items()}
    reply = await request.client.request("POST", "merge_requests", body=body)
    return _only(request.client.read(MergeRequest, "merge_requests", reply.value).pull)


@on("PATCH", "pulls/{number}")
async def _edit_pull(request: ForgeRequest) -> ForgeReply:
    reply = await _edit(request, f"merge_requests/{request.names['number']}")
    return _only(request.client.read(MergeRequest, "merge_requests", reply.value).pull)


async def _edit(request: ForgeRequest, path: str) -> ForgeReply:
    fields = {"title": "title", "body": "description", "base": "target_branch"}
    body = {name: request.body[field] for field, name in fields.items() if field in request.body}
    if state := request.body.get("state"):
        body["state_event"] = "close" if state == "closed" else "reopen"
    return await request.client.request("PUT", path, body=body)


@on("POST", "pulls/{number}/requested_reviewers")
async def _request_reviewers(request: ForgeRequest) -> ForgeReply:
    """Ask one more account for a review: GitLab is told all of them, by their ids."""
    client, number = request.client, request.names["number"]
    [name] = request.body["reviewers"]
    accounts = await _pages(client, "/users", GitLabAccount, {"username": name})
    if not accounts:
        raise Declined("reviewers", 404, "there is no such account, or it may not be seen")
    there = await _get(client, f"merge_requests/{number}", _Reviewers)
    ids = [*(each.id for each in there.reviewers), accounts[0].id]
    reply = await client.request("PUT", f"merge_requests/{number}", body={"reviewer_ids": ids})
    after = client.read(_Reviewers, "merge_requests", reply.value)
    if accounts[0].id not in {each.id for each in after.reviewers}:
        raise Declined(
            "reviewers", 422, "GitLab does not take it as a reviewer; is it a member of the project?"
        )
    return _only(None)


class _Reviewers(ForgeAnswer):
    reviewers: tuple[GitLabAccount, ...] = ()


@on("GET", "merge_requests/{number}/timeline")
async def _timeline(request: ForgeRequest) -> ForgeReply:
    path = f"merge_requests/{request.names['number']}/resource_state_events"
    events = await _pages(request.client, path, StateEvent)
    return _only(
        [{"type": "close", "user": account_of(each.user)} for each in events if each.state == "closed"]
    )


# --- Merging ---------------------------------------------------------------------------


async def _merge_style(client: ForgeClient, style: str) -> None:
    """Raise Declined if GitLab would merge otherwise than is wanted: rebasing is a matter of the project."""
    if style == "rebase" and (await _project(client)).merge_method == "merge":
        raise Declined(
            "merge", 405, "`merge_style: rebase` needs a project whose merge method is not a merge commit"
        )


@on("POST", "pulls/{number}/merge")
async def _merge(request: ForgeRequest) -> ForgeReply:
    client, path = request.client, f"merge_requests/{request.names['number']}"
    style = request.body["Do"]
    await _merge_style(client, style)
    body = {"sha": request.body["head_commit_id"], "squash": style == "squash"}
    try:
        return await client.request("PUT", f"{path}/merge", body=body)
    except Declined as declined:
        if declined.status not in _NOT_MERGED:
            raise
        if declined.message.startswith("401"):
            raise Declined(f"merge {path}", 405, _MAY_NOT) from None
        state = (await _get(client, path, MergeRequest)).detailed_merge_status
        status, why = _refusal(state, declined)
        missing = await _missing_rules(client, path) if state == "not_approved" else []
        raise Declined(f"merge {path}", status, "; ".join([why, *missing])) from None


async def _missing_rules(client: ForgeClient, path: str) -> Sequence[str]:
    """Return what the rules of approval still take; nothing where there are none, or they may not be read."""
    try:
        state = await _get(client, f"{path}/approval_state", ApprovalStateAnswer)
    except (Declined, Forbidden, Broken, UnexpectedAnswer):
        return []
    return [rule.missing for rule in state.rules if rule.missing]


def _refusal(state: str, declined: Declined) -> tuple[int, str]:
    """Return status and message for a merge that is declined; a conflict is told without one."""
    if state in COMPUTING:
        return 405, _STILL
    if state == "conflict":
        return 409, ""
    if state in {"", "mergeable", "can_be_merged"}:
        return 405, declined.message or "GitLab does not say why"
    return 405, _REFUSALS.get(state, f"GitLab says: {state.replace('_', ' ')}")


_MAY_NOT = "the account of the token may not merge into this branch; what protects it names who may"
_NOT_MERGED = frozenset({405, 406, 409, 422})
_RUNNING = "a pipeline is still running"
_STILL = "it is still computed whether it can be merged"
_REFUSALS: Mapping[str, str] = {
    "blocked_status": "another merge request has to be merged first",
    "merge_request_blocked": "another merge request has to be merged first",
    "ci_must_pass": "the project merges only what a pipeline succeeded for",
    "ci_still_running": _RUNNING,
    "commits_status": "its source branch is gone, or has no commits",
    "discussions_not_resolved": "the project merges only once all threads are resolved",
    "draft_status": "it is a draft",
    "external_status_checks": "external status checks have not passed",
    "jira_association_missing": "title or description has to name an issue of Jira",
    "locked_lfs_files": "it changes files that are locked",
    "locked_paths": "it changes paths that are locked",
    "merge_time": "it may not be merged before the time that is set on it",
    "need_rebase": "it has to be rebased onto its base; `base_moved: rebase` does",
    "not_approved": "approvals that the project requires are missing",
    "not_open": "it is not open",
    "requested_changes": "a reviewer has requested changes",
    "security_policy_violations": "it violates a security policy",
    "security_policy_pipeline_check": "a pipeline of a security policy has not passed",
    "status_checks_must_pass": "external status checks have not passed",
    "title_regex": "its title is not as the project wants titles",
    "title_not_matching": "its title is not as the project wants titles",
}


def _status(method: str, path: str, status: int) -> int:
    """Return 405 for the 401 of a merge: the token is good, its account may not merge there."""
    return 405 if (method, status) == ("PUT", 401) and path.endswith("/merge") else status


# --- Reviews ----------------------------------------------------------------------------

_APPROVED, _REQUESTED = "approved this merge request", "requested changes"
"""How the notes begin by which the system tells of them."""


@on("GET", "pulls/{number}/reviews")
async def _reviews(request: ForgeRequest) -> ForgeReply:
    """
    Return the approvals and requests for changes as they stand, and the notes on lines, oldest first.

    The notes are read last: those of a review come before its verdict.
    """
    client, path = request.client, f"merge_requests/{request.names['number']}"
    approvals = (await _get(client, f"{path}/approvals", ApprovalsAnswer)).approved_by
    reviewers = await _pages(client, f"{path}/reviewers", ReviewerAnswer)
    requests = [each.user for each in reviewers if each.state == "requested_changes"]
    is_judged = bool(approvals or requests)
    versions = await _pages(client, f"{path}/versions", MergeRequestVersion) if is_judged else []
    notes = await _pages(client, f"{path}/notes", GitLabNote, {"sort": "asc", "order_by": "created_at"})
    approved = [
        _verdict("APPROVED", each.user, _system_note(notes, each.user, _APPROVED), each.approved_at, versions)
        for each in approvals
    ]
    requested = [
        _verdict("REQUEST_CHANGES", user, _system_note(notes, user, _REQUESTED), None, versions)
        for user in requests
    ]
    lines = [note.review for note in notes if note.position and note.is_open]
    reviews = [*approved, *requested, *lines]
    return _only(sorted(reviews, key=lambda review: review["submitted_at"] or EARLIEST))


def _system_note(notes: Sequence[GitLabNote], user: GitLabUser, beginning: str) -> GitLabNote | None:
    """Return the last note by which the system tells of something that somebody did."""
    system = (each for each in notes if each.system and each.body.lower().startswith(beginning))
    by_user = [each for each in system if each.author and each.author.username == user.username]
    return by_user[-1] if by_user else None


def _verdict(
    state: str,
    user: GitLabUser,
    note: GitLabNote | None,
    at: datetime | None,
    versions: Sequence[MergeRequestVersion],
) -> Json:
    """Return a verdict; its id is that of the note that tells of it, which a later one has another of."""
    at = at or (note.created_at if note else None)
    return {
        "id": note.id if note else user.id,
        "user": user.account,
        "state": state,
        "commit_id": _head_at(versions, at) if at else "",
        "submitted_at": at,
        "inline": [],
    }


def _head_at(versions: Sequence[MergeRequestVersion], at: datetime) -> str:
    """Return the head that there was at a time; empty if nobody can tell."""
    past = [each for each in versions if each.created_at <= at]
    return max(past, key=lambda each: each.created_at).head_commit_sha if past else ""


# --- Commits and their checks -------------------------------------------------------------


@on("GET", "commits")
async def _commits(request: ForgeRequest) -> ForgeReply:
    path = f"repository/commits/{request.params['sha']}"
    commit = await _get(request.client, path, GitLabCommit, {"stats": "false"})
    return _only([{"commit": {"author": {"name": commit.author_name}}}])


@on("GET", "commits/{sha}/status")
async def _statuses(request: ForgeRequest) -> ForgeReply:
    """Return the newest status of each name: jobs of several pipelines may have the same."""
    path = f"repository/commits/{request.names['sha']}/statuses"
    statuses = sorted(await _pages(request.client, path, GitLabStatus), key=lambda each: each.id)
    newest = {each.name: each for each in statuses}
    return _only({"statuses": [each.answer for each in newest.values()], "total_count": len(newest)})


@on("POST", "statuses/{sha}")
async def _set_status(request: ForgeRequest) -> ForgeReply:
    body = dict(request.body)
    states = {"pending": "skipped", "failure": "failed"}
    body |= {"name": body.pop("context"), "state": states.get(body["state"], body["state"])}
    return await request.client.request("POST", f"statuses/{request.names['sha']}", body=body)


# --- Issues, notes, labels --------------------------------------------------------------------


@on("GET", "issues")
async def _issues(request: ForgeRequest) -> ForgeReply:
    """
    Return open issues; where there are none, find out whether there can be any.

    Confidential ones are not: their text would be shown in the specs and on the merge request.
    """
    query = {name: value for name, value in request.params.items() if name in {"labels", "order_by", "sort"}}
    query |= {"state": "opened", "scope": "all", "confidential": "false"}
    reply = await _page(request, "issues", GitLabIssue, "issue", query)
    if not reply.value and not (await _project(request.client)).issues_enabled:
        raise Declined("issues", 404, "issues are switched off")
    return reply


@on("GET", "issues/comments")
async def _all_comments(request: ForgeRequest) -> ForgeReply:
    """
    Return the comments since a time, which GitLab has as events of the project.

    It lists them by whole days, newest first; notes on lines are reviews.
    """
    since = datetime.fromisoformat(request.params["since"])
    after = (since - timedelta(days=2)).date().isoformat()  # that day is left out; whose day, nobody says
    query = {"action": "commented", "after": after, "sort": "desc"}
    notes: dict[int, Json] = {}
    async for event in _events(request.client, query):
        if event.created_at < since:
            break
        if event.note and not event.note.position and event.note.noteable_type in _TICKETS:
            notes.setdefault(event.note.id, event.note.comment)
    return _only(list(notes.values()))


_TICKETS = frozenset({"Issue", "WorkItem", "MergeRequest"})


async def _events(client: ForgeClient, query: Mapping[str, str]) -> AsyncIterator[ProjectEvent]:
    page = "1"
    for _ in range(_MOST_PAGES):
        reply = await client.request("GET", "events", {**query, "per_page": str(_MOST), "page": page})
        for each in _listed(reply, "events"):
            try:
                yield client.read(ProjectEvent, "events", each)
            except UnexpectedAnswer:  # about something else
                continue
        if not (page := _next_page(reply.headers, page)):
            return


@on("GET", "issues/{number}")
async def _issue(request: ForgeRequest) -> ForgeReply:
    path = f"issues/{request.names['number']}"
    return _only((await _get(request.client, path, GitLabIssue)).issue)


@on("PATCH", "issues/{number}")
async def _edit_issue(request: ForgeRequest) -> ForgeReply:
    return await _edit(request, f"issues/{request.names['number']}")


@on("GET", "{kind}/{number}/comments")
async def _comments(request: ForgeRequest) -> ForgeReply:
    """Return one page of a conversation: no notes of the system, none on lines, and no internal ones."""
    path = f"{_ticket(request)}/notes"
    query = {**_paging(request.params), "sort": "asc", "order_by": "created_at"}
    reply = await request.client.request("GET", path, query)
    notes = [
        _viewed(request, path, GitLabNote, "comment", each) for each in _listed(reply, path) if _is_said(each)
    ]
    return ForgeReply(200, notes, reply.headers)


def _is_said(note: Any) -> bool:
    return not isinstance(note, dict) or not any(map(note.get, ("system", "position", "internal")))


def _ticket(request: ForgeRequest) -> str:
    return f"{request.names['kind']}/{request.names['number']}"


@on("POST", "{kind}/{number}/comments")
async def _comment(request: ForgeRequest) -> ForgeReply:
    return await request.client.request("POST", f"{_ticket(request)}/notes", body=request.body)


@on("PATCH", "{kind}/{number}/comments/{id}")
async def _edit_comment(request: ForgeRequest) -> ForgeReply:
    path = f"{_ticket(request)}/notes/{request.names['id']}"
    return await request.client.request("PUT", path, body=request.body)


def _note_path(ticket: str, note: int) -> str:
    return f"{ticket}/comments/{note}"


@on("GET", "labels")
async def _labels(request: ForgeRequest) -> ForgeReply:
    return await request.client.request("GET", "labels", request.params)


@on("POST", "labels")
async def _add_label(request: ForgeRequest) -> ForgeReply:
    body = {"name": request.body["name"], "color": f"#{request.body['color']}"}
    return await request.client.request("POST", "labels", body=body)


@on("POST", "{kind}/{number}/labels")
async def _put_labels(request: ForgeRequest) -> ForgeReply:
    return await _change_labels(request, {"add_labels": list(request.body["labels"])})


@on("DELETE", "{kind}/{number}/labels/{label}")
async def _take_label(request: ForgeRequest) -> ForgeReply:
    return await _change_labels(request, {"remove_labels": [request.names["label"]]})


async def _change_labels(request: ForgeRequest, body: Mapping[str, Any]) -> ForgeReply:
    reply = await request.client.request("PUT", _ticket(request), body=body)
    labels = request.client.read(_Labelled, _ticket(request), reply.value).labels
    return _only([{"id": 0, "name": name} for name in labels])


class _Labelled(ForgeAnswer):
    labels: tuple[JsonLine, ...] = ()


_QUICK_ACTION = re.compile(r"(?m)^([^\S\n]*)/(?=[A-Za-z_]+(?:\s|$))")


_PULL = re.compile(r"\b(pull request )#(?=\d)")


def _shown(text: str) -> str:
    """
    Return a text as GitLab shows it: a line `/close` closes nothing, and `!7` is a merge request.

    What an agent wrote is in our texts, and what they say would be done with our rights.
    """
    return _PULL.sub(r"\1!", _QUICK_ACTION.sub(r"\1\\/", text))


# --- Webhooks --------------------------------------------------------------------------------


@on("GET", "hooks")
async def _hooks(request: ForgeRequest) -> ForgeReply:
    return await _page(request, "hooks", GitLabHook, "answer", {})


@on("POST", "hooks")
async def _add_hook(request: ForgeRequest) -> ForgeReply:
    config, events = request.body["config"], request.body["events"]
    body = {
        "url": config["url"],
        "token": config["secret"],
        **{event: event in events for event in HOOK_EVENTS},
    }
    reply = await request.client.request("POST", "hooks", body=body)
    return _only(request.client.read(GitLabHook, "hooks", reply.value).answer)


@on("DELETE", "hooks/{id}")
async def _drop_hook(request: ForgeRequest) -> ForgeReply:
    return await request.client.request("DELETE", f"hooks/{request.names['id']}")


@on("POST", "hooks/{id}/tests")
async def _test_hook(request: ForgeRequest) -> ForgeReply:
    return await request.client.request("POST", f"hooks/{request.names['id']}/test/push_events")


@on("GET", "hooks/{id}/deliveries")
async def _deliveries(request: ForgeRequest) -> ForgeReply:
    path = f"hooks/{request.names['id']}/events"
    reply = await request.client.request("GET", path, _paging(request.params))
    deliveries = [request.client.read(GitLabDelivery, path, each) for each in _listed(reply, path)]
    return _only([{"status": each.response_status} for each in deliveries])


# --- Protection ---------------------------------------------------------------------------------


@on("GET", "branch_protections")
async def _protections(request: ForgeRequest) -> ForgeReply:
    """Return the protected branches; what an account of its level may not merge into names whom it lacks."""
    level = (await _project(request.client)).permissions.level
    rules = await _pages(request.client, "protected_branches", ProtectedBranch)
    return _only([_protection(rule, level) for rule in rules])


def _protection(rule: ProtectedBranch, level: int) -> Json:
    may_merge, may_push = (
        any(each.access_level and each.access_level <= level for each in levels)
        for levels in (rule.merge_access_levels, rule.push_access_levels)
    )
    return {
        "rule_name": rule.name,
        "enable_push": may_push or not rule.push_access_levels,
        "enable_merge_whitelist": bool(rule.merge_access_levels) and not may_merge,
    }


@on("POST", "branch_protections")
async def _protect(request: ForgeRequest) -> ForgeReply:
    body = {"name": request.body["rule_name"], "push_access_level": 0, "merge_access_level": _DEVELOPER}
    return await request.client.request("POST", "protected_branches", body=body)


# --- Limits and rights ------------------------------------------------------------------------------

_TOO_MANY = 429
_LONG_ENOUGH = 60.0


def _limit(status: int, headers: Headers, _: str) -> float | None:
    """Return how long GitLab asks to wait, in seconds; its clock is in the same answer."""
    if status != _TOO_MANY:
        return None
    if (after := headers.get("retry-after", "")).isdecimal():
        return float(after[:9])
    reset = headers.get("ratelimit-reset", "")
    if reset.isdecimal() and (now := _date(headers)):
        return max(float(reset[:12]) - now, 0.0) + 1.0
    return _LONG_ENOUGH


def _date(headers: Headers) -> float:
    try:
        return parsedate_to_datetime(headers.get("date", "")).timestamp()
    except ValueError:
        return 0.0


def _missing_right(message: str, _: Headers) -> str:
    if not message.startswith("insufficient_scope"):
        return ""
    scopes = message.rpartition("scope: ")[2] if "scope: " in message else "api"
    return f"it lacks the scope {' or '.join(scopes.replace(';', ' ').split())}"


# --- The dialect ---------------------------------------------------------------------------------------


def _place(repo: str) -> str:
    return f"projects/{quote(repo, safe='')}"


GITLAB = Dialect(
    operations=GITLAB_OPERATIONS,
    place=_place,
    status=_status,
    scheme="Bearer",
    size_parameter="per_page",
    rights=("it needs the scope api, and an account with the role Developer (Maintainer for webhooks)"),
    missing_right=_missing_right,
    limit=_limit,
    newest_first={"order_by": "updated_at", "sort": "desc"},
    one_commit={},
    pull_ticket="merge_requests",
    pull_ref="refs/merge-requests/{number}/head",
    comment=_note_path,
    text=_shown,
    draft="Draft:",
    draft_title=re.compile(r"(?i)(?:draft:|\[draft\]|\(draft\))\s*"),
    notices_merges=True,
    is_sure_of_conflicts=True,
    computing=_STILL,
    passing={_RUNNING},
    may_write=_may_write,
    expires_on=_expires_on,
    account_right="read_user",
    pending_text="it is not done yet; the merge request tells more",
    open_issues={"order_by": "created_at", "sort": "asc"},
    has_owner_labels=False,
    has_exclusive_labels=False,
    label_key="name",
    opens_with_labels=False,
    hook_type={},
    hook_events=HOOK_EVENTS,
    listed_events=HOOK_EVENTS,
    lists_deliveries=True,
    tries={"api": ("PATCH", "pulls/0")},
    protection="no pushes, and Developers may merge",
    hook_page="-/hooks/{id}/edit",
    private_addresses=(
        "GitLab sends to the local network only if its administrator allows that "
        "(Admin area, Settings, Network, Outbound requests)"
    ),
)
"""Held to GitLab's own description of its API, and its examples of webhooks; not tried on GitLab itself."""

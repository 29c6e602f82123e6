"""
The API of the double, with the ways of Forgejo that surprise.

- The list of pull requests knows no filter by head; a page is clamped in silence.
- A second pull request of a branch is a 409 that names the number of the first.
- Whether a pull request can be merged is computed for a few requests: `mergeable`
  is false meanwhile, and merging is a 405.
- If none of the labels that are asked for exists, every issue comes back.
- Names of labels that do not exist are ignored.
- The webhook `opened` is sent before the request that opened is answered.
- A commit without statuses has the state `""`, and `null` for a list.
- Comments come without pages; a timeline in pages that tell the length of the page for that of all.
- A comment that was deleted leaves a `null` in the timelines that it is mentioned in.
- The secret of a webhook stays as it is, whatever a PATCH says.
- A label of the organisation beside one of the repository: issues that have both are asked for.
  Whether there is one is told only to tokens with a scope that ours need not have.
- A pull request whose commits come to its base otherwise stays open; it is called merged by hand, if at all.
- A merge whose request is cut off is done in git alone: the pull request stays open and computes for ever.
- Where issues are switched off, their list is not there; comments on pull requests are.
"""

import base64
import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from tests.forge.routes import Answer, Routes
from tests.forge.state import CodeRepo, Comment, Hook, Label, PullTicket, Refusal, Review, Ticket, user

if TYPE_CHECKING:
    from tests.forge.double import ForgejoDouble


class Request:
    """One request: who asks, of which repository, and what."""

    def __init__(self, forge: "ForgejoDouble", who: str, query: dict[str, str], body: Any) -> None:
        self.forge, self.who, self.query, self.body = forge, who, query, body
        self.repo_name = ""

    @property
    def repo(self) -> CodeRepo:
        return self.forge.repos[self.repo_name]

    def ticket(self, number: str) -> Ticket:
        if int(number) not in self.repo.tickets:
            raise Refusal(404, "The target couldn't be found.")
        return self.repo.tickets[int(number)]

    def pull(self, number: str) -> PullTicket:
        ticket = self.ticket(number)
        if not isinstance(ticket, PullTicket):
            raise Refusal(404, "The target couldn't be found.")
        return ticket

    def page(self, items: Sequence[Any], show: Callable[[Any], Any]) -> Answer:
        limit = min(int(self.query.get("limit", 30)), self.forge.largest_page)
        page = int(self.query.get("page", 1))
        part = items[(page - 1) * limit : page * limit]
        headers = {"X-Total-Count": str(len(items))}
        if page * limit < len(items):
            headers["Link"] = f'<{self.forge.api}/?page={page + 1}>; rel="next"'
        return 200, [show(item) for item in part], headers


_ROUTES = Routes()
route = _ROUTES.on


def answer(
    forge: "ForgejoDouble", method: str, target: str, headers: Mapping[str, str], raw: bytes
) -> Answer:
    """Answer a request."""
    if forge.answers_502:
        return 502, {"message": "bad gateway"}, {}
    if not target.startswith(f"{forge.root}/"):
        return 404, None, {}  # another server
    target = target.removeprefix(forge.root).removeprefix("/api/v1")
    path, query = urlsplit(target).path, dict(parse_qsl(urlsplit(target).query))
    with forge.lock:
        forge.requests.append((method, target))
        if (broken := forge.broken.pop(f"{method} {path}", None)) is not None:
            return broken[0], {"message": "as the test wants it"}, broken[1]
        if (status := forge.always_broken.get(f"{method} {path}")) is not None:
            return status, {"message": ""}, {}
        try:
            who = _who(forge, headers)
            forge.notice()
            done = _handle(Request(forge, who, query, json.loads(raw or b"{}")), method, path)
        except Refusal as refusal:
            body = {"message": refusal.message, "url": "http://127.0.0.1/api/swagger"}
            return refusal.status, refusal.body or body, {}
    if (odd := forge.odd.get(f"{method} {path}")) is not None:
        done = done[0], odd(done[1]), done[2]
    if method == "POST" and path.endswith("/pulls") and forge.webhooks == "normal":
        forge.wait_for_webhooks()
    return done


def _who(forge: "ForgejoDouble", headers: Mapping[str, str]) -> str:
    token = headers.get("Authorization", "").partition(" ")[2]
    if token not in forge.tokens:
        raise Refusal(401, "token is required")
    return forge.tokens[token]


def _handle(request: Request, method: str, path: str) -> Answer:
    found = _ROUTES.find(method, path)
    if found is None:
        raise Refusal(404, "404 page not found")
    handler, names = found
    _check_scope(request.forge, method, path)
    if "owner" in names:
        request.repo_name = f"{names.pop('owner')}/{names.pop('name')}"
        if request.repo_name not in request.forge.repos:
            raise Refusal(404, "The target couldn't be found.")
    return handler(request, **names)


R = "/repos/{owner}/{name}"


def _check_scope(forge: "ForgejoDouble", method: str, path: str) -> None:
    """Refuse what the scopes of a token do not cover, before anything is looked up."""
    is_issue = re.match(r"/repos/[^/]+/[^/]+/(issues|labels)", path)
    kind = "user" if path.startswith("/user") else "issue" if is_issue else "repository"
    needed = f"{'read' if method == 'GET' else 'write'}:{kind}"
    good = {needed, needed.replace("read:", "write:")}
    if path != "/version" and forge.scopes is not None and not forge.scopes & good:
        raise Refusal(403, f"token does not have at least one of required scope(s): [{needed}]")


def _time(time: datetime) -> str:
    return time.isoformat().replace("+00:00", "Z")


# --- The forge -------------------------------------------------------------


@route("GET", "/user")
def _user(request: Request) -> Answer:
    if request.forge.tokens_are_limited:
        raise Refusal(403, "token does not have at least one of required scope(s): [read:user]")
    return 200, user(request.who), {}


@route("GET", "/version")
def _version(request: Request) -> Answer:
    return 200, {"version": "15.0.3+gitea-1.22.0"}, {}


@route("GET", R)
def _repository(request: Request) -> Answer:
    repo, may_write = request.repo, request.who not in request.forge.weak
    return (
        200,
        {
            "id": 1,
            "full_name": repo.name,
            "default_branch": "main",
            "clone_url": str(repo.folder),
            "ssh_url": "",
            "archived": False,
            "permissions": {"admin": may_write, "push": may_write, "pull": True},
        },
        {},
    )


@route("GET", R + "/branch_protections")
def _protections(request: Request) -> Answer:
    return 200, request.repo.protections, {}


@route("POST", R + "/branch_protections")
def _protect(request: Request) -> Answer:
    request.repo.protections.append(dict(request.body))
    return 201, request.body, {}


@route("POST", "/user/repos")
def _add_repo(request: Request) -> Answer:
    name = f"{request.who}/{request.body['name']}"
    request.forge.add_repo(name)
    return 201, {"full_name": name}, {}


@route("POST", R + r"/contents/(?P<path>.+)")
def _add_file(request: Request, path: str) -> Answer:
    body = request.body
    branch = body.get("new_branch") or body["branch"]
    text = base64.b64decode(body["content"]).decode()
    parent = request.repo.branches()[body["branch"]]
    who, at = body.get("author", {}).get("name", request.who), body.get("dates", {}).get("author", "")
    commit = request.repo.commit(branch, {path: text}, body["message"], who, parent, at=at)
    request.forge.notice(request.who)
    return 201, {"commit": {"sha": commit}}, {}


@route("GET", R + "/commits")
def _commits(request: Request) -> Answer:
    most = f"-{request.query.get('limit') or request.query.get('per_page') or 50}"
    shas = request.repo.git("log", most, "--format=%H", request.query["sha"]).split()
    return 200, [_commit_json(request, sha) for sha in shas], {}


def _commit_json(request: Request, sha: str) -> dict[str, Any]:
    name, at, parents, message = request.repo.commit_fields(sha)
    known = user(name) if name in request.forge.tokens.values() else None
    person = {"name": name, "email": f"{name}@example.org", "date": at}
    body = {"author": person, "committer": person, "message": message}
    sides = [{"sha": parent} for parent in parents.split()]
    return {"sha": sha, "author": known, "committer": known, "commit": body, "parents": sides}


@route("GET", R + r"/contents/(?P<path>.+)")
def _file(request: Request, path: str) -> Answer:
    blob = request.repo.git("rev-parse", "--verify", "-q", f"{request.query['ref']}:{path}", ok=(0, 1))
    if not blob:
        raise Refusal(404, "The target couldn't be found.")
    return 200, {"type": "file", "path": path, "sha": blob}, {}


@route("GET", R + "/pulls/{number}/files")
def _pull_files(request: Request, number: str) -> Answer:
    pull = request.pull(number)
    names = request.repo.git("diff", "--name-only", f"{pull.base_head}...{pull.head}").splitlines()
    return request.page(names, lambda name: {"filename": name, "status": "added"})


@route("GET", R + "/pulls/{number}/commits")
def _pull_commits(request: Request, number: str) -> Answer:
    pull = request.pull(number)
    shas = request.repo.git("rev-list", f"{pull.base_head}..{pull.head}").split()
    return request.page(shas, lambda sha: _commit_json(request, sha))


@route("GET", R + r"/compare/(?P<base>.+)\.\.\.(?P<head>.+)")
def _compare(request: Request, base: str, head: str) -> Answer:
    count = int(request.repo.git("rev-list", "--count", f"{base}..{head}"))
    return 200, {"total_commits": count, "commits": [], "files": []}, {}


@route("GET", R + "/branches")
def _branches(request: Request) -> Answer:
    heads = sorted(request.repo.branches().items())
    return request.page(heads, lambda head: {"name": head[0], "commit": {"id": head[1]}})


@route("GET", R + r"/branches/(?P<branch>.+)")
def _branch(request: Request, branch: str) -> Answer:
    head = request.repo.branches().get(branch)
    if head is None:
        raise Refusal(404, "The target couldn't be found.")
    return 200, {"name": branch, "commit": {"id": head}}, {}


@route("DELETE", R + r"/branches/(?P<branch>.+)")
def _delete_branch(request: Request, branch: str) -> Answer:
    request.forge.delete_branch(request.repo_name, branch, author=request.who)
    return 204, None, {}


# --- Pull requests ---------------------------------------------------------


def pull_json(request: Request, pull: PullTicket) -> dict[str, Any]:
    forge, repo = request.forge, request.repo
    is_draft = re.match(r"(?i)wip:|\[wip\]", pull.title) is not None
    computing = pull.computing > 0
    pull.computing -= computing
    can_merge = pull.state == "open" and not (computing or is_draft or forge.conflicts(repo.name, pull))
    permissions = {"admin": False, "push": request.who not in forge.weak, "pull": True}
    side = {"repo_id": 1, "repo": {"id": 1, "full_name": repo.name, "permissions": permissions}}
    fork = {"repo_id": 2, "repo": {"id": 2, "full_name": "mallory/fork"}}
    ref = f"refs/pull/{pull.number}/head" if pull.branch_is_gone else pull.branch
    return {
        **_ticket_json(request, pull),
        "draft": is_draft,
        "mergeable": can_merge,
        "merged": pull.merged,
        "merged_by": user(pull.merged_by) if pull.merged_by else None,
        "merge_commit_sha": pull.merge_commit,
        "head": {"label": pull.branch, "ref": ref, "sha": pull.head, **(fork if pull.is_from_fork else side)},
        "base": {"label": pull.base, "ref": pull.base, "sha": pull.base_head, **side},
        "requested_reviewers": [
            user(review.author) for review in pull.reviews if review.state == "REQUEST_REVIEW"
        ],
        "requested_reviewers_teams": [{"id": 1, "name": team} for team in pull.teams],
    }


def _ticket_json(request: Request, ticket: Ticket) -> dict[str, Any]:
    kind = "pulls" if isinstance(ticket, PullTicket) else "issues"
    page = request.forge.api.removesuffix("/api/v1")
    return {
        "id": 900 + ticket.number,
        "number": ticket.number,
        "html_url": f"{page}/{request.repo_name}/{kind}/{ticket.number}",
        "title": ticket.title,
        "body": ticket.body,
        "user": user(ticket.author),
        "labels": [_label_json(label) for label in ticket.labels],
        "state": ticket.state,
        "comments": len(ticket.comments),
        "created_at": _time(ticket.created),
        "updated_at": _time(ticket.updated),
    }


@route("GET", R + "/pulls")
def _pulls(request: Request) -> Answer:
    state = request.query.get("state", "open")
    pulls = [pull for pull in request.repo.pulls if state in {"all", pull.state}]
    if request.repo.hides_next:
        request.repo.hides_next, pulls = False, []
    is_recent = request.query.get("sort") == "recentupdate"
    pulls.sort(key=lambda pull: (pull.updated if is_recent else 0, pull.number), reverse=True)
    return request.page(pulls, lambda pull: pull_json(request, pull))


@route("GET", R + "/pulls/{number}")
def _pull(request: Request, number: str) -> Answer:
    return 200, pull_json(request, request.pull(number)), {}


@route("POST", R + "/pulls")
def _open_pull(request: Request) -> Answer:
    body, heads = request.body, request.repo.branches()
    if body["head"] == body["base"]:
        raise Refusal(422, "Invalid PullRequest: There are no changes between the head and the base")
    if not {body["head"], body["base"]} <= heads.keys():
        raise Refusal(404, "The target couldn't be found.")
    for pull in request.repo.pulls:
        if (pull.branch, pull.base, pull.state) == (body["head"], body["base"], "open"):
            ids = f"id: {900 + pull.number}, issue_id: {pull.number}, head_repo_id: 1, base_repo_id: 1"
            raise Refusal(409, f"pull request already exists for these targets [{ids}]")
    number = request.forge.open_pull(
        request.repo_name,
        body["head"],
        body["title"],
        body=body.get("body", ""),
        base=body["base"],
        author=request.who,
    )
    for label in body.get("labels", ()):
        request.forge.put_label(request.pull(str(number)), request.repo.labels[label])
    return 201, pull_json(request, request.pull(str(number))), {}


@route("PATCH", R + "/pulls/{number}")
def _edit_pull(request: Request, number: str) -> Answer:
    pull = request.pull(number)
    if pull.merged and "state" in request.body:
        raise Refusal(412, "cannot change state of this pull request, it was already merged")
    if "base" in request.body:
        base = request.body["base"]
        pull.base, pull.base_head = base, request.repo.branches()[base]
    _edit(request, pull)
    return 201, pull_json(request, pull), {}


def _edit(request: Request, ticket: Ticket) -> None:
    fields = {name: request.body[name] for name in ("title", "body") if name in request.body}
    if fields:
        request.forge.edit_issue(request.repo_name, ticket.number, author=request.who, **fields)
    if "state" in request.body:
        request.forge.set_state(request.repo_name, ticket, request.body["state"], request.who)


@route("POST", R + "/pulls/{number}/merge")
def _merge(request: Request, number: str) -> Answer:
    pull = request.pull(number)
    if pull.state == "closed":
        raise Refusal(404, "The target couldn't be found.")
    if request.body.get("head_commit_id") not in {None, pull.head}:
        raise Refusal(409, "head out of date")
    if request.body["Do"] == "manually-merged":
        return _merge_by_hand(request, pull)
    if pull.computing > 0:
        pull.computing -= 1
        raise Refusal(405, "Please try again later")
    if re.match(r"(?i)wip:|\[wip\]", pull.title):
        raise Refusal(405, "Work in progress PRs cannot be merged")
    answered = {review.author for review in pull.reviews if review.state == "APPROVED"}
    if any(rule.get("block_on_official_review_requests") for rule in request.repo.protections) and any(
        review.state == "REQUEST_REVIEW" and review.author not in answered for review in pull.reviews
    ):
        raise Refusal(405, "There are official review requests")
    request.forge.merge(request.repo_name, pull, request.body["Do"], request.who)
    return 200, None, {}


def _merge_by_hand(request: Request, pull: PullTicket) -> Answer:
    if not request.repo.allows_manual_merges:
        raise Refusal(405, "Invalid merge style")
    if not request.repo.has_in(pull.base, request.body["MergeCommitID"]):
        raise Refusal(409, "Wrong commit ID")
    request.forge.count_as_merged(request.repo_name, pull, request.body["MergeCommitID"], request.who)
    return 200, None, {}


@route("GET", R + "/pulls/{number}/reviews")
def _reviews(request: Request, number: str) -> Answer:
    pull = request.pull(number)
    return request.page(pull.reviews, lambda review: _review_json(request, pull, review))


def _review_json(request: Request, pull: PullTicket, review: Review) -> dict[str, Any]:
    return {
        "id": review.id,
        "user": user(review.author),
        "state": review.state,
        "body": review.body,
        "commit_id": review.commit,
        "stale": review.commit != pull.head,
        "official": review.author not in request.forge.outsiders
        and review.state in {"APPROVED", "REQUEST_CHANGES"},
        "dismissed": review.dismissed,
        "comments_count": len(review.comments),
        "submitted_at": _time(review.submitted),
    }


@route("POST", R + "/pulls/{number}/reviews")
def _review(request: Request, number: str) -> Answer:
    pull, body = request.pull(number), request.body
    verdicts = {"APPROVED": "approved", "REQUEST_CHANGES": "rejected", "COMMENT": "comment"}
    verdict = verdicts[body["event"]]
    if verdict != "comment" and pull.author == request.who:
        raise Refusal(422, "approve your own pull is not allowed")
    inline = tuple((note["path"], note["new_position"], note["body"]) for note in body.get("comments", ()))
    request.forge.review(
        request.repo_name, pull.number, verdict, body.get("body", ""), inline, author=request.who
    )
    return 200, _review_json(request, pull, pull.reviews[-1]), {}


@route("GET", R + "/pulls/{number}/reviews/{id}/comments")
def _review_comments(request: Request, number: str, id: str) -> Answer:  # noqa: A002 - as the path has it
    review = next(review for review in request.pull(number).reviews if review.id == int(id))
    shown = [{**note, "user": user(review.author), "original_position": 0} for note in review.comments]
    return 200, shown, {}


@route("POST", R + "/pulls/{number}/requested_reviewers")
def _request_review(request: Request, number: str) -> Answer:
    pull = request.pull(number)
    for name in request.body["reviewers"]:
        if name not in request.forge.tokens.values():
            raise Refusal(404, f"user does not exist [uid: 0, name: {name}]")
        if name == pull.author:
            raise Refusal(422, "poster of pr can't be reviewer")
        if any((review.author, review.state) == (name, "REQUEST_REVIEW") for review in pull.reviews):
            continue
        review = Review(request.forge.new_id(), name, "REQUEST_REVIEW", "", "", pull.updated)
        pull.reviews.append(review)
        request.forge.touch(pull)
        request.forge.tell_issue(request.repo_name, pull, "review_requested", request.who)
    return 201, [], {}


# --- Commit statuses -------------------------------------------------------


@route("POST", R + "/statuses/{sha}")
def _set_status(request: Request, sha: str) -> Answer:
    return 201, request.forge.add_status(request.repo_name, sha, request.body), {}


@route("GET", R + "/commits/{sha}/status")
def _status(request: Request, sha: str) -> Answer:
    newest = {one["context"]: one for one in request.repo.statuses if one["sha"] == sha}
    statuses = sorted(newest.values(), key=lambda status: -status["id"])
    _, part, headers = request.page(statuses, lambda status: status)
    states = {status["status"].replace("error", "failure") for status in part}
    worst = next((state for state in ("failure", "warning", "pending", "success") if state in states), "")
    return 200, {"state": worst, "sha": sha, "total_count": len(statuses), "statuses": part or None}, headers


# --- Issues, comments, labels ----------------------------------------------


def _issue_json(request: Request, ticket: Ticket) -> dict[str, Any]:
    is_pull = isinstance(ticket, PullTicket)
    closed = _time(ticket.closed) if ticket.closed else None
    shown = {**_ticket_json(request, ticket), "closed_at": closed}
    return {**shown, "pull_request": {"merged": False} if is_pull else None}


@route("GET", R + "/issues")
def _issues(request: Request) -> Answer:
    if not request.repo.has_issues:
        raise Refusal(404, "The target couldn't be found.")
    state = request.query.get("state", "open")
    tickets = [each for each in request.repo.tickets.values() if state in {"all", each.state}]
    if request.query.get("type") == "issues":
        tickets = [each for each in tickets if not isinstance(each, PullTicket)]
    known = {label.name for label in request.repo.labels.values()}
    asked = {name for name in request.query.get("labels", "").split(",") if name in known}
    if asked & request.forge.organisation_labels:
        tickets = []
    tickets = [each for each in tickets if asked <= {label.name for label in each.labels}]
    tickets.sort(key=lambda each: each.number, reverse=request.query.get("sort") != "oldest")
    return request.page(tickets, lambda each: _issue_json(request, each))


@route("GET", R + "/assignees")
def _assignees(request: Request) -> Answer:
    """Everybody who ever did something may write, but for the outsiders; there are no pages."""
    tickets = request.repo.tickets.values()
    said = [
        entry for ticket in tickets for entry in [ticket, *ticket.comments, *getattr(ticket, "reviews", ())]
    ]
    people = {entry.author for entry in said} | set(request.forge.tokens.values())
    return 200, [user(name) for name in sorted(people - request.forge.outsiders)], {}


@route("GET", R + "/issues/comments")
def _all_comments(request: Request) -> Answer:
    since = datetime.fromisoformat(request.query.get("since", "1970-01-01T00:00:00Z"))
    found = [
        (ticket, comment)
        for ticket in request.repo.tickets.values()
        for comment in ticket.comments
        if comment.updated >= since
    ]
    found.sort(key=lambda pair: pair[1].id)
    return request.page(found, lambda pair: _comment_json(request, *pair))


@route("POST", R + "/issues")
def _open_issue(request: Request) -> Answer:
    body = request.body
    number = request.forge.open_issue(
        request.repo_name, body["title"], body.get("body", ""), author=request.who
    )
    for label in body.get("labels", ()):
        request.forge.put_label(request.ticket(str(number)), request.repo.labels[label])
    return 201, _issue_json(request, request.ticket(str(number))), {}


@route("GET", R + "/issues/comments/{id}")
def _one_comment(request: Request, id: str) -> Answer:  # noqa: A002 - as the path has it
    for ticket in request.repo.tickets.values():
        for comment in (comment for comment in ticket.comments if comment.id == int(id)):
            return 200, _comment_json(request, ticket, comment), {}
    raise Refusal(404, "The target couldn't be found.")


@route("GET", R + "/issues/{number}")
def _issue(request: Request, number: str) -> Answer:
    return 200, _issue_json(request, request.ticket(number)), {}


@route("PATCH", R + "/issues/{number}")
def _edit_issue(request: Request, number: str) -> Answer:
    ticket = request.ticket(number)
    _edit(request, ticket)
    return 201, _issue_json(request, ticket), {}


def _comment_json(request: Request, ticket: Ticket, comment: Comment) -> dict[str, Any]:
    is_pull = isinstance(ticket, PullTicket)
    url = _ticket_json(request, ticket)["html_url"]
    return {
        "id": comment.id,
        "issue_url": "" if is_pull else url,
        "pull_request_url": url if is_pull else "",
        "user": user(comment.author),
        "body": comment.body,
        "created_at": _time(comment.created),
        "updated_at": _time(comment.updated),
    }


@route("GET", R + "/issues/{number}/comments")
def _comments(request: Request, number: str) -> Answer:
    ticket = request.ticket(number)
    shown = [_comment_json(request, ticket, comment) for comment in ticket.comments]
    return 200, shown, {"X-Total-Count": str(len(shown))}


@route("POST", R + "/issues/{number}/comments")
def _comment(request: Request, number: str) -> Answer:
    ticket = request.ticket(number)
    request.forge.comment(request.repo_name, ticket.number, request.body["body"], author=request.who)
    return 201, _comment_json(request, ticket, ticket.comments[-1]), {}


@route("PATCH", R + "/issues/comments/{id}")
def _edit_comment(request: Request, id: str) -> Answer:  # noqa: A002 - as the path has it
    for ticket in request.repo.tickets.values():
        for comment in (comment for comment in ticket.comments if comment.id == int(id)):
            comment.body, comment.updated = request.body["body"], request.forge.now()
            request.forge.touch(ticket)
            request.forge.tell_comment(request.repo_name, ticket, comment, "edited", request.who)
            return 200, _comment_json(request, ticket, comment), {}
    raise Refusal(404, "The target couldn't be found.")


@route("GET", R + "/issues/{number}/timeline")
def _timeline(request: Request, number: str) -> Answer:
    status, entries, _ = request.page(request.ticket(number).timeline, lambda entry: entry)
    return status, entries, {"X-Total-Count": str(len(entries))}


def _label_json(label: Label) -> dict[str, Any]:
    color = label.color.removeprefix("#")
    return {"id": label.id, "name": label.name, "color": color, "exclusive": label.exclusive}


@route("GET", R + "/labels")
def _labels(request: Request) -> Answer:
    return request.page(list(request.repo.labels.values()), _label_json)


@route("GET", "/orgs/{organisation}/labels")
def _organisation_labels(request: Request, organisation: str) -> Answer:
    if not request.forge.tokens_read_organisations:
        raise Refusal(403, "token does not have at least one of required scope(s): [read:organization]")
    labels = sorted(request.forge.organisation_labels)
    return request.page(labels, lambda name: {"id": 900_000 + labels.index(name), "name": name})


@route("POST", R + "/labels")
def _add_label(request: Request) -> Answer:
    body = request.body
    exclusive = body.get("exclusive", False)
    label = request.forge.add_label(request.repo_name, body["name"], body["color"], exclusive=exclusive)
    return 201, _label_json(label), {}


@route("POST", R + "/issues/{number}/labels")
def _put_labels(request: Request, number: str) -> Answer:
    ticket = request.ticket(number)
    for label in request.repo.labels.values():
        if {label.name, label.id} & set(request.body["labels"]):
            request.forge.put_label(ticket, label)
    request.forge.tell_issue(request.repo_name, ticket, "label_updated", request.who)
    return 200, [_label_json(label) for label in ticket.labels], {}


@route("DELETE", R + "/issues/{number}/labels/{label}")
def _take_label(request: Request, number: str, label: str) -> Answer:
    ticket = request.ticket(number)
    if int(label) not in request.repo.labels:
        raise Refusal(422, "label does not exist")
    ticket.labels = [each for each in ticket.labels if each.id != int(label)]
    request.forge.touch(ticket)
    return 204, None, {}


# --- Hooks -----------------------------------------------------------------


def _hook_json(hook: Hook) -> dict[str, Any]:
    config = {"url": hook.url, "content_type": hook.content_type}
    return {
        "id": hook.id,
        "type": hook.kind,
        "active": hook.active,
        "branch_filter": hook.branch_filter,
        "events": hook.events,
        "config": config,
    }


def _expanded(events: Sequence[str]) -> list[str]:
    """Return the events that a webhook lists: the main one of a kind brings the others of its kind."""
    kinds = {"issues": ("issue_comment", "issue_label"), "pull_request": _PULL_EVENTS}
    return [*events, *(name for event in events for name in kinds.get(event, ()) if name not in events)]


_PULL_EVENTS = ("pull_request_comment", "pull_request_label", "pull_request_review", "pull_request_sync")


@route("GET", R + "/hooks")
def _hooks(request: Request) -> Answer:
    if request.who in request.forge.weak:
        raise Refusal(403, "user should be an owner or a collaborator with admin write of a repository")
    return request.page(list(request.repo.hooks.values()), _hook_json)


@route("POST", R + "/hooks")
def _add_hook(request: Request) -> Answer:
    body = request.body
    config = body["config"]
    number = request.forge.new_id()
    request.repo.hooks[number] = Hook(
        number,
        config["url"],
        config.get("secret", ""),
        body.get("active", False),
        _expanded(body.get("events", ["push"])),
        body["type"],
    )
    return 201, _hook_json(request.repo.hooks[number]), {}


@route("PATCH", R + "/hooks/{id}")
def _edit_hook(request: Request, id: str) -> Answer:  # noqa: A002 - as the path has it
    hook, body = request.repo.hooks[int(id)], request.body
    hook.url = body.get("config", {}).get("url", hook.url)  # the secret stays as it is
    hook.active = body.get("active", hook.active)
    hook.events = _expanded(body["events"]) if "events" in body else hook.events
    return 200, _hook_json(hook), {}


@route("GET", R + "/hooks/{id}/deliveries")
def _hook_deliveries(request: Request, id: str) -> Answer:  # noqa: A002 - as the path has it
    """GitHub's alone."""
    return request.page(request.forge.delivery_list, lambda each: each)


@route("POST", R + "/hooks/{id}/tests")
def _test_hook(request: Request, id: str) -> Answer:  # noqa: A002 - as the path has it
    request.forge.try_hook(request.repo_name, request.repo.hooks[int(id)], request.who)
    return 204, None, {}


@route("DELETE", R + "/hooks/{id}")
def _drop_hook(request: Request, id: str) -> Answer:  # noqa: A002 - as the path has it
    del request.repo.hooks[int(id)]
    return 204, None, {}

"""
A GitHub on the loopback: the double's repositories and people, answered for in GitHub's shapes.

Every exchange is held to GitHub's own description, where that is installed; what
is not as described is in `mismatches`. Its ways that surprise:

- Lists do not say whether a pull request is merged or can be, and have no count of all.
- `type` and `sort` of the list of issues are other things than on Forgejo; pull requests are in it.
- `mergeable` is null while it is computed; a merge meanwhile is a 405.
- A second pull request of a branch is a 422 whose message is `Validation Failed`: the reason is below that.
- Checks are commit statuses or check runs; fine-grained tokens may not read the latter.
- Labels that do not exist are made, and their names know no case.
- Everybody may review what they can read; whose review counts is another question.
- `position` of an inline comment is where it is in the diff.
- The same webhook twice is a 422; the secret of one that is edited is exchanged.
- A limit of requests is a 403 or 429, with the time when it ends, with seconds, or with words alone.
"""

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from reconciler.core.adapter import Secret
from reconciler.core.model.specs import Forge
from tests.forge.description import Description, description
from tests.forge.double import BOT, Delivery, ForgejoDouble, signature
from tests.forge.github_shapes import Shapes, pages
from tests.forge.routes import Answer, Routes
from tests.forge.state import CodeRepo, Comment, Hook, PullTicket, Refusal, Review, Ticket
from tests.forge.webhook_schemas import webhook_schemas

SLUG = "fleet-bot"
"""Name of the App that the double knows."""
_DOCS = "https://docs.github.com/rest"
_HEADS = "refs/heads/"
_ACTIONS = {"synchronized": "synchronize", "label_updated": "labeled"}
"""GitHub's names of actions, by Forgejo's."""


@dataclass
class Rules:
    """What has to be before a pull request is merged."""

    approvals: int = 0
    checks: tuple[str, ...] = ()
    owners: frozenset[str] = frozenset()
    """Owners of the code, whose approval is required."""
    styles: tuple[str, ...] = ("merge", "squash", "rebase")
    queue: bool = False
    """Whether it goes by the merge queue."""


@dataclass
class Queued:
    """A place in the merge queue."""

    head: str
    state: str = "AWAITING_CHECKS"


@dataclass
class App:
    """An App that is installed, with the tokens that it was given."""

    id: int
    installation: int
    public_key: Any
    permissions: dict[str, str] = field(default_factory=dict)
    tokens: list[str] = field(default_factory=list)
    repositories: list[list[str]] = field(default_factory=list)
    """What each token is for."""


class GitHubDouble(ForgejoDouble):
    """See the top of the file."""

    kind = "github"

    def __init__(self, folder: Path, **more: Any) -> None:
        super().__init__(folder, **more)
        self._began = self.now()
        """Time of all that has none of its own, so that an answer stays the same."""
        self.rules: dict[str, Rules] = {}
        self.roles: dict[str, str] = {BOT: "write", "ann": "write"}
        """What people may do with the repositories, by name; others may read."""
        self.check_runs: list[dict[str, Any]] = []
        self.workflow_runs: list[dict[str, Any]] = []
        self.queue: dict[int, Queued] = {}
        """By number of the pull request."""
        self.removed: dict[int, str] = {}
        """Why the queue let go of a pull request."""
        self.is_fine_grained = False
        """Whether the tokens are fine-grained: those may not read check runs."""
        self.rulesets: dict[str, list[dict[str, Any]]] = {}
        """Rules of rulesets by branch, as the API has them."""
        self.lacking: dict[str, str] = {}
        """Rights that the token lacks, by `METHOD path`, as the header names them."""
        self.limits: list[tuple[int, dict[str, str], str]] = []
        """Answers (status, headers, message) to the next requests."""
        self.app: App | None = None
        self.described: Description | None = description()
        self.mismatches: list[str] = []
        self.exchanges: set[tuple[str, str, int]] = set()
        """Kinds of exchanges that were held to the description: method, path without names, status."""
        self.statuses: list[int] = []
        """Statuses of the answers."""

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.port}/api/v3"

    def spec(self, repo: str, token: Secret, webhook_secret: Secret | None = None) -> Forge:
        return Forge(kind="github", api=self.api, repo=repo, token=token, webhook_secret=webhook_secret)

    def shapes(self, repo: str) -> Shapes:
        return Shapes(self.api, repo, self._began, self.roles)

    # --- What happens there ------------------------------------------------

    def check_run(
        self,
        commit: str,
        name: str,
        conclusion: str | None,
        *,
        title: str | None = None,
        is_of_actions: bool = False,
    ) -> None:
        """Let a check run say something of a commit; without a conclusion it is still running."""
        with self.lock:
            status = "completed" if conclusion else "in_progress"
            run = {"id": self.new_id(), "sha": commit, "name": name, "status": status}
            run |= {"conclusion": conclusion, "title": title}
            self.check_runs = [old for old in self.check_runs if (old["sha"], old["name"]) != (commit, name)]
            self.check_runs.append(run)
            if is_of_actions:
                self.workflow_runs.append(run)
            of_suite = {"startup_failure": "failure", "skipped": "neutral"}.get(conclusion or "", conclusion)
            suite = {"head_sha": commit, "status": status, "conclusion": of_suite}
            for repo in self.repos:
                action = "completed" if conclusion else "requested"
                self.tell(repo, "check_suite", "", {"action": action, "check_suite": suite}, "ann")

    def add_status(self, repo: str, commit: str, fields: Mapping[str, str]) -> dict[str, Any]:
        status = super().add_status(repo, commit, fields)
        body = {"sha": commit, "state": status["status"], "context": status["context"]}
        self.tell(repo, "status", "", {**body, "commit": {"sha": commit}}, "ann")
        return status

    def dequeue(self, number: int, reason: str) -> None:
        """Take a pull request out of the merge queue."""
        with self.lock:
            del self.queue[number]
            self.removed[number] = reason

    def _head_moved(self, repo: CodeRepo, pull: PullTicket, new: str | None, author: str) -> None:
        self.removed.pop(pull.number, None)
        self.queue.pop(pull.number, None)
        super()._head_moved(repo, pull, new, author)

    def finish_queue(self, repo: str) -> None:
        """Merge all that is in the merge queue."""
        with self.lock:
            for number in list(self.queue):
                self.merge(repo, self.repos[repo].pull(number), "merge", "github-merge-queue[bot]")
                del self.queue[number]

    def merge(self, repo: str, pull: PullTicket, style: str, author: str) -> str:
        if self.conflicts(repo, pull):
            raise Refusal(405, "Pull Request has merge conflicts")
        pull.closed = self.now()
        return super().merge(repo, pull, style, author)

    # --- Webhooks ----------------------------------------------------------

    def tell(self, repo: str, event: str, kind: str, body: Mapping[str, Any], author: str) -> None:
        ours = _as_github(event, body)
        if schemas := webhook_schemas():
            whole = {**ours, "repository": {"full_name": repo}, "sender": self.shapes(repo).user(author)}
            found = schemas.mismatches(event, whole)
            self.mismatches += found
        super().tell(repo, event, kind, ours, author)

    def shown(self, repo: str, ticket: Ticket) -> dict[str, Any]:
        shapes = self.shapes(repo)
        return shapes.listed_pull(ticket) if isinstance(ticket, PullTicket) else shapes.issue(ticket)

    def tell_comment(self, repo: str, ticket: Ticket, comment: Comment, action: str, author: str) -> None:
        shapes = self.shapes(repo)
        body = {"action": action, "issue": shapes.issue(ticket), "comment": shapes.comment(ticket, comment)}
        self.tell(repo, "issue_comment", "", body, author)

    def tell_review(self, repo: str, pull: PullTicket, verdict: str, content: str, author: str) -> None:
        body = {"action": "submitted", "pull_request": self.shown(repo, pull)}
        states = {"rejected": "changes_requested", "comment": "commented"}
        body["review"] = {"state": states.get(verdict, verdict), "body": content}
        self.tell(repo, "pull_request_review", "", body, author)

    def headers(self, delivery: Delivery) -> dict[str, str]:
        signed = {"X-Hub-Signature-256": f"sha256={signature(delivery, 'sha256')}"}
        return {
            "Content-Type": "application/json",
            "X-GitHub-Event": delivery.event,
            "X-GitHub-Delivery": delivery.id,
            **(signed if delivery.hook.secret else {}),
        }

    def is_subscribed(self, hook: Hook, event: str) -> bool:
        return event in hook.events

    # --- Answers -----------------------------------------------------------

    def answer(self, method: str, target: str, headers: Mapping[str, str], raw: bytes) -> Answer:
        if self.answers_502:
            return 502, {"message": "Server Error"}, {}
        path = urlsplit(target).path.removeprefix("/api/v3")
        query = dict(parse_qsl(urlsplit(target).query, keep_blank_values=True))
        body = json.loads(raw) if raw else None
        with self.lock:
            self.requests.append((method, target.removeprefix("/api/v3")))
            done = self._odd(method, path) or self._handled(method, path, query, body, headers)
            if (odd := self.odd.get(f"{method} {path}")) is not None:
                done = done[0], odd(done[1]), done[2]
            self.statuses.append(done[0])
            if odd is None and done[0] != 304:
                self._compare(method, path, query, body, done)
        return done

    def _odd(self, method: str, path: str) -> Answer | None:
        """Return what a test wants to be answered, if it does."""
        if self.limits:
            status, more, message = self.limits.pop(0)
            return status, {"message": message, "documentation_url": _DOCS}, more
        if (broken := self.broken.pop(f"{method} {path}", None)) is not None:
            return broken[0], {"message": "as the test wants it"}, broken[1]
        if (status := self.always_broken.get(f"{method} {path}")) is not None:
            return status, {"message": ""}, {}
        if (rights := self.lacking.get(f"{method} {path}")) is not None:
            message = "Resource not accessible by personal access token"
            return 403, _error(message), {"X-Accepted-GitHub-Permissions": rights}
        return None

    def _handled(
        self, method: str, path: str, query: dict[str, str], body: Any, headers: Mapping[str, str]
    ) -> Answer:
        try:
            _check_headers(headers)
            request = Request(self, query, body, headers)
            self.notice()
            status, value, more = request.handle(method, path)
        except Refusal as refusal:
            return refusal.status, refusal.body or _error(refusal.message), {}
        return self._conditional(headers, (status, value, more)) if method == "GET" else (status, value, more)

    def _conditional(self, headers: Mapping[str, str], done: Answer) -> Answer:
        """Answer 304 for what the client has already."""
        etag = f'W/"{hash(json.dumps([done[1], done[2]], sort_keys=True)):x}"'
        if headers.get("If-None-Match") == etag:
            return 304, None, {"ETag": etag}
        return done[0], done[1], {**done[2], "ETag": etag}

    def _compare(self, method: str, path: str, query: dict[str, str], body: Any, done: Answer) -> None:
        if (
            self.described is None
            or path == "/api/graphql"
            or ".git/" in path
            or "as the test wants it" in str(done[1])
        ):
            return
        self.mismatches += self.described.mismatches((method, path, query, body), done[0], done[1])
        kind = re.sub(r"/[0-9a-f]{40}|/\d+", "/N", path.partition("/repos/")[2].partition("/")[2] or path)
        self.exchanges.add((method, kind, done[0]))


def _error(message: str) -> dict[str, Any]:
    return {"message": message, "documentation_url": _DOCS}


def _invalid(message: str, *, resource: str = "PullRequest") -> Refusal:
    """Return the refusal whose reason is not in its message."""
    errors = [{"resource": resource, "code": "custom", "message": message}]
    return Refusal(422, "", {"message": "Validation Failed", "errors": errors, "documentation_url": _DOCS})


def _check_headers(headers: Mapping[str, str]) -> None:
    """Check what every request has to bring."""
    if not headers.get("User-Agent"):
        raise Refusal(403, "Request forbidden by administrative rules. Please add a User-Agent header")
    if headers.get("Accept") != "application/vnd.github+json" or not headers.get("X-GitHub-Api-Version"):
        raise Refusal(415, "Unsupported 'Accept' header")


_ROUTES = Routes()
route = _ROUTES.on


class Request:
    """One request: who asks, of which repository, and what."""

    def __init__(
        self, forge: GitHubDouble, query: dict[str, str], body: Any, headers: Mapping[str, str]
    ) -> None:
        self.forge, self.query, self.body = forge, query, body or {}
        self.token = headers.get("Authorization", "").removeprefix("Bearer ")
        self.repo_name = ""

    @property
    def who(self) -> str:
        if self.forge.app and self.token in self.forge.app.tokens:
            return f"{SLUG}[bot]"
        if self.token not in self.forge.tokens:
            raise Refusal(401, "Bad credentials")
        return self.forge.tokens[self.token]

    @property
    def repo(self) -> CodeRepo:
        return self.forge.repos[self.repo_name]

    @property
    def shapes(self) -> Shapes:
        return self.forge.shapes(self.repo_name)

    def handle(self, method: str, path: str) -> Answer:
        route = _ROUTES.find(method, path)
        if route is None:
            raise Refusal(404, "Not Found")
        handler, names = route
        if "owner" in names:
            self.repo_name = f"{names.pop('owner')}/{names.pop('name')}"
            if not path.endswith("/installation"):
                assert self.who
            if self.repo_name not in self.forge.repos:
                raise Refusal(404, "Not Found")
        return handler(self, **names)

    def ticket(self, number: str) -> Ticket:
        if int(number) not in self.repo.tickets:
            raise Refusal(404, "Not Found")
        return self.repo.tickets[int(number)]

    def pull(self, number: str) -> PullTicket:
        ticket = self.ticket(number)
        if not isinstance(ticket, PullTicket):
            raise Refusal(404, "Not Found")
        return ticket

    def page(self, items: Sequence[Any], show: Any) -> Answer:
        """Answer a page; nothing says how many there are."""
        part, headers = self.part(items)
        return 200, [show(item) for item in part], headers

    def part(self, items: Sequence[Any]) -> tuple[Sequence[Any], dict[str, str]]:
        size = min(int(self.query.get("per_page", 30)), 100, self.forge.largest_page)
        number = int(self.query.get("page", 1))
        last = max(-(-len(items) // size), 1)
        return items[(number - 1) * size : number * size], pages(self.shapes.url, number, last)


R = "/repos/{owner}/{name}"


# --- Accounts --------------------------------------------------------------


@route("GET", "/user")
def _user(request: Request) -> Answer:
    if request.who.endswith("[bot]"):
        raise Refusal(403, "Resource not accessible by integration")
    return 200, request.shapes.whole_user(request.who), {}


@route("GET", R + "/collaborators/{person}/permission")
def _permission(request: Request, person: str) -> Answer:
    if person not in request.forge.tokens.values() and person not in request.forge.roles:
        raise Refusal(404, f"{person} is not a user")
    role = request.forge.roles.get(person, "read")
    permission = {"maintain": "write", "triage": "read"}.get(role, role)
    names = ("pull", "triage", "push", "maintain", "admin")
    collaborator = {**request.shapes.user(person), "role_name": role}
    collaborator["permissions"] = {name: permission == "admin" or name == "pull" for name in names}
    return 200, {"permission": permission, "role_name": role, "user": collaborator}, {}


def _claims(request: Request) -> dict[str, Any]:
    """Return what stands in the token of an App, if it signed that and it is still good."""
    import base64

    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding

    app = request.forge.app
    try:
        signed, _, last = request.token.rpartition(".")
        head, claims, made = (
            base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in (*signed.split("."), last)
        )
        app.public_key.verify(made, signed.encode(), padding.PKCS1v15(), hashes.SHA256())
    except (ValueError, InvalidSignature, AttributeError):
        raise Refusal(401, "A JSON web token could not be decoded") from None
    known, now = json.loads(claims), request.forge.now().timestamp()
    assert json.loads(head) == {"alg": "RS256", "typ": "JWT"}
    if known["exp"] - now > 600:
        raise Refusal(401, "'Expiration time' claim ('exp') is too far in the future")
    if known["iat"] > now or known["exp"] < now or known["iss"] != str(app.id):
        raise Refusal(401, "'Issued at' claim ('iat') must be an Integer representing the time")
    return known


@route("GET", "/app")
def _app(request: Request) -> Answer:
    _claims(request)
    shapes = request.shapes
    now = request.forge.now().strftime("%Y-%m-%dT%H:%M:%SZ")
    return (
        200,
        {
            "id": request.forge.app.id,
            "slug": SLUG,
            "node_id": "A_1",
            "owner": shapes.user("acme"),
            "name": "Fleet bot",
            "description": None,
            "external_url": "https://fleet.example.org",
            "html_url": f"https://github.com/apps/{SLUG}",
            "created_at": now,
            "updated_at": now,
            "permissions": {},
            "events": [],
        },
        {},
    )


@route("GET", R + "/installation")
def _installation(request: Request) -> Answer:
    _claims(request)
    app = request.forge.app
    shapes, now = request.shapes, request.forge.now().strftime("%Y-%m-%dT%H:%M:%SZ")
    return (
        200,
        {
            "id": app.installation,
            "app_id": app.id,
            "app_slug": SLUG,
            "target_id": 1,
            "target_type": "Organization",
            "single_file_name": None,
            "repository_selection": "selected",
            "access_tokens_url": f"{shapes.api}/app/installations/{app.installation}/access_tokens",
            "html_url": f"https://github.com/organizations/acme/settings/installations/{app.installation}",
            "repositories_url": f"{shapes.api}/installation/repositories",
            "events": [],
            "account": shapes.user("acme"),
            "permissions": {},
            "created_at": now,
            "updated_at": now,
            "suspended_by": None,
            "suspended_at": None,
        },
        {},
    )


@route("POST", "/app/installations/{id}/access_tokens")
def _installation_token(request: Request, id: str) -> Answer:  # noqa: A002 - as the path has it
    _claims(request)
    app = request.forge.app
    if int(id) != app.installation:
        raise Refusal(404, "Not Found")
    token = f"ghs_{request.forge.new_id():036}"
    app.tokens.append(token)
    app.repositories.append(request.body.get("repositories", []))
    expires = request.forge.now().timestamp() + 3600
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(expires))
    return 201, {"token": token, "expires_at": at, "permissions": {}}, {}


@route("GET", R)
def _repo(request: Request) -> Answer:
    role = request.forge.roles.get(request.who, "read")
    return 200, request.shapes.whole_repo(role), {}


@route("GET", R + "/rules/branches/(?P<branch>.+)")
def _rules(request: Request, branch: str) -> Answer:
    return request.page(request.forge.rulesets.get(branch, []), lambda each: each)


def _protection(request: Request, branch: str) -> dict[str, Any]:
    for each in request.repo.protections:
        if each["branch"] == branch:
            return each
    raise Refusal(404, "Branch not protected")


@route("GET", R + "/branches/(?P<branch>.+)/protection")
def _read_protection(request: Request, branch: str) -> Answer:
    return 200, request.shapes.protection(branch, _protection(request, branch)), {}


@route("PUT", R + "/branches/(?P<branch>.+)/protection")
def _protect(request: Request, branch: str) -> Answer:
    if branch not in request.repo.branches():
        raise Refusal(404, "Branch not found")
    kept = [each for each in request.repo.protections if each["branch"] != branch]
    request.repo.protections[:] = [*kept, {**request.body, "branch": branch}]
    return 200, request.shapes.protection(branch, request.body), {}


@route("GET", R + "/branches/(?P<branch>.+)")
def _branch(request: Request, branch: str) -> Answer:
    heads, url = request.repo.branches(), f"{request.shapes.url}/branches/{branch}"
    if branch not in heads:
        raise Refusal(404, "Branch not found")
    return (
        200,
        {
            "name": branch,
            "commit": request.shapes.commit(heads[branch], "ann"),
            "_links": {"self": url, "html": f"{request.shapes.html}/tree/{branch}"},
            "protected": False,
            "protection": {"enabled": False},
            "protection_url": f"{url}/protection",
        },
        {},
    )


# --- Pull requests ---------------------------------------------------------


@route("GET", R + "/pulls")
def _pulls(request: Request) -> Answer:
    query = request.query
    pulls = [each for each in request.repo.pulls if query.get("state", "open") in {"all", each.state}]
    if head := query.get("head"):
        owner, _, branch = head.partition(":")
        pulls = [each for each in pulls if (each.branch, each.is_from_fork) == (branch, owner == "mallory")]
    if base := query.get("base"):
        pulls = [each for each in pulls if each.base == base]
    is_recent = query.get("sort") == "updated"
    pulls.sort(key=lambda pull: (pull.updated if is_recent else 0, pull.number))
    if query.get("direction", "desc" if not is_recent else "asc") == "desc":
        pulls.reverse()
    return request.page(pulls, request.shapes.listed_pull)


def _whole(request: Request, pull: PullTicket) -> dict[str, Any]:
    """Return a pull request as it is shown alone; that begins to compute whether it can be merged."""
    is_computing, pull.computing = pull.computing > 0, max(pull.computing - 1, 0)
    if pull.state == "closed" or is_computing:
        return request.shapes.pull(pull, None, "unknown")
    can_merge = not request.forge.conflicts(request.repo_name, pull)
    state = "dirty" if not can_merge else "blocked" if _refusal(request, pull) else "clean"
    return request.shapes.pull(pull, can_merge, "draft" if pull.draft else state)


@route("GET", R + "/pulls/{number}")
def _pull(request: Request, number: str) -> Answer:
    return 200, _whole(request, request.pull(number)), {}


@route("POST", R + "/pulls")
def _open_pull(request: Request) -> Answer:
    body, heads = request.body, request.repo.branches()
    for field_name in ("head", "base"):
        if body[field_name] not in heads:
            errors = [{"resource": "PullRequest", "field": field_name, "code": "invalid"}]
            body = {"message": "Validation Failed", "errors": errors, "documentation_url": _DOCS}
            raise Refusal(422, "", body)
    if heads[body["head"]] == heads[body["base"]]:
        raise _invalid(f"No commits between {body['base']} and {body['head']}")
    for pull in request.repo.pulls:
        if (pull.branch, pull.base, pull.state) == (body["head"], body["base"], "open"):
            owner = request.repo_name.partition("/")[0]
            raise _invalid(f"A pull request already exists for {owner}:{body['head']}.")
    text, base = body.get("body") or "", body["base"]
    number = request.forge.open_pull(
        request.repo_name, body["head"], body["title"], body=text, base=base, author=request.who
    )
    pull = request.pull(str(number))
    pull.draft = body.get("draft", False)
    return 201, _whole(request, pull), {}


@route("PATCH", R + "/pulls/{number}")
def _edit_pull(request: Request, number: str) -> Answer:
    pull = request.pull(number)
    if "base" in request.body:
        base = request.body["base"]
        pull.base, pull.base_head = base, request.repo.branches()[base]
    _edit(request, pull)
    return 200, _whole(request, pull), {}


def _edit(request: Request, ticket: Ticket) -> None:
    fields = {name: request.body[name] for name in ("title", "body") if name in request.body}
    if fields:
        request.forge.edit_issue(request.repo_name, ticket.number, author=request.who, **fields)
    if "state" in request.body:
        request.forge.set_state(request.repo_name, ticket, request.body["state"], request.who)


@route("PUT", R + "/pulls/{number}/merge")
def _merge(request: Request, number: str) -> Answer:
    pull, style = request.pull(number), request.body.get("merge_method", "merge")
    if pull.state == "closed":
        raise Refusal(405, "Pull Request is not mergeable")
    if request.body.get("sha") not in {None, pull.head}:
        raise Refusal(409, "Head branch was modified. Review and try the merge again.")
    if pull.computing > 0:
        pull.computing -= 1
        raise Refusal(405, "Base branch was modified. Review and try the merge again.")
    if pull.draft:
        raise Refusal(405, "Pull Request is still a draft")
    rules = request.forge.rules.get(request.repo_name, Rules())
    if style not in rules.styles:
        name = {"merge": "Merge commits", "squash": "Squash merges", "rebase": "Rebase merges"}[style]
        raise Refusal(405, f"{name} are not allowed on this repository.")
    if why := _refusal(request, pull):
        raise Refusal(405, f"Repository rule violations found\n\n{why}\n\n")
    commit = request.forge.merge(request.repo_name, pull, style, request.who)
    return 200, {"sha": commit, "merged": True, "message": "Pull Request successfully merged"}, {}


def _refusal(request: Request, pull: PullTicket) -> str:
    """Return which rule of the repository is in the way."""
    rules = request.forge.rules.get(request.repo_name, Rules())
    approvals = {
        review.author
        for review in pull.reviews
        if review.state == "APPROVED" and not review.dismissed
        if request.forge.roles.get(review.author) in {"write", "admin"}
    }
    good = {run["name"] for run in request.forge.check_runs if run["conclusion"] == "success"}
    if missing := [name for name in rules.checks if name not in good]:
        return f'Required status check "{missing[0]}" is expected.'
    if rules.owners - approvals:
        return f"Waiting on code owner review from {' and '.join(sorted(rules.owners - approvals))}."
    if len(approvals) < rules.approvals:
        return f"At least {rules.approvals} approving review is required by reviewers with write access."
    return "Changes must be made through the merge queue" if rules.queue else ""


@route("GET", R + "/pulls/{number}/reviews")
def _reviews(request: Request, number: str) -> Answer:
    pull = request.pull(number)
    reviews = [review for review in pull.reviews if review.state != "REQUEST_REVIEW"]
    return request.page(reviews, lambda review: request.shapes.review(pull, review))


@route("POST", R + "/pulls/{number}/reviews")
def _review(request: Request, number: str) -> Answer:
    pull, body = request.pull(number), request.body
    verdicts = {"APPROVE": "approved", "REQUEST_CHANGES": "rejected", "COMMENT": "comment"}
    verdict = verdicts[body["event"]]
    if verdict != "comment" and pull.author == request.who:
        raise _invalid("Can not approve your own pull request")
    request.forge.review(request.repo_name, pull.number, verdict, body.get("body", ""), author=request.who)
    return 200, request.shapes.review(pull, pull.reviews[-1]), {}


@route("GET", R + "/pulls/{number}/comments")
def _inline_comments(request: Request, number: str) -> Answer:
    pull = request.pull(number)
    notes = [(review, note) for review in pull.reviews for note in review.comments]
    return request.page(notes, lambda pair: request.shapes.inline(pull, *pair))


@route("POST", R + "/pulls/{number}/requested_reviewers")
def _request_review(request: Request, number: str) -> Answer:
    pull = request.pull(number)
    for name in request.body["reviewers"]:
        if name == pull.author:
            raise Refusal(422, "Review cannot be requested from pull request author.")
        if name not in request.forge.roles:
            raise Refusal(422, "Reviews may only be requested from collaborators.")
        review = Review(request.forge.new_id(), name, "REQUEST_REVIEW", "", "", pull.updated)
        pull.reviews.append(review)
        request.forge.touch(pull)
        request.forge.tell_issue(request.repo_name, pull, "review_requested", request.who)
    return 201, request.shapes.listed_pull(pull), {}


# --- Commits and their checks ----------------------------------------------


@route("GET", R + "/commits")
def _commits(request: Request) -> Answer:
    sha = request.query["sha"]
    return 200, [request.shapes.commit(sha, request.repo.git("log", "-1", "--format=%an", sha))], {}


@route("POST", R + "/statuses/{sha}")
def _set_status(request: Request, sha: str) -> Answer:
    status = request.forge.add_status(request.repo_name, sha, request.body)
    return 201, {**request.shapes.status(status), "creator": request.shapes.user(request.who)}, {}


@route("GET", R + "/commits/{sha}/status")
def _status(request: Request, sha: str) -> Answer:
    newest = {one["context"]: one for one in request.repo.statuses if one["sha"] == sha}
    part, headers = request.part(list(newest.values()))
    states = {status["status"] for status in newest.values()}
    worst = next(
        (state for state in ("failure", "error", "pending", "success") if state in states), "pending"
    )
    url = f"{request.shapes.url}/commits/{sha}"
    return (
        200,
        {
            "state": worst,
            "sha": sha,
            "total_count": len(newest),
            "statuses": [request.shapes.status(status) for status in part],
            "repository": request.shapes.repo(minimal=True),
            "commit_url": url,
            "url": f"{url}/status",
        },
        headers,
    )


@route("GET", R + "/commits/{sha}/check-runs")
def _check_runs(request: Request, sha: str) -> Answer:
    if request.forge.is_fine_grained:
        message = _error("Resource not accessible by personal access token")
        return 403, message, {"X-Accepted-GitHub-Permissions": "checks=read"}
    runs = [run for run in request.forge.check_runs if run["sha"] == sha]
    part, headers = request.part(runs)
    shown = [request.shapes.check_run(run) for run in part]
    return 200, {"total_count": len(runs), "check_runs": shown}, headers


@route("GET", R + "/actions/runs")
def _workflow_runs(request: Request) -> Answer:
    runs = [run for run in request.forge.workflow_runs if run["sha"] == request.query["head_sha"]]
    part, headers = request.part(list(reversed(runs)))
    shown = [request.shapes.workflow_run(run) for run in part]
    return 200, {"total_count": len(runs), "workflow_runs": shown}, headers


# --- Issues, comments, labels ----------------------------------------------


@route("GET", R + "/issues")
def _issues(request: Request) -> Answer:
    query = request.query
    if query.get("type"):
        return 200, [], {}  # a type of issues that the organisation does not have
    state = query.get("state", "open")
    tickets = [each for each in request.repo.tickets.values() if state in {"all", each.state}]
    asked = {name.lower() for name in query.get("labels", "").split(",") if name}
    tickets = [each for each in tickets if asked <= {label.name.lower() for label in each.labels}]
    tickets.sort(key=lambda each: each.number, reverse=query.get("direction", "desc") == "desc")
    return request.page(tickets, request.shapes.issue)


@route("GET", R + "/issues/comments")
def _all_comments(request: Request) -> Answer:
    since = request.query.get("since", "")
    found = [
        (ticket, comment)
        for ticket in request.repo.tickets.values()
        for comment in ticket.comments
        if comment.updated.strftime("%Y-%m-%dT%H:%M:%SZ") >= since
    ]
    found.sort(key=lambda pair: pair[1].id)
    return request.page(found, lambda pair: request.shapes.comment(*pair))


@route("POST", R + "/issues")
def _open_issue(request: Request) -> Answer:
    body = request.body
    number = request.forge.open_issue(
        request.repo_name, body["title"], body.get("body", ""), author=request.who
    )
    if body.get("labels"):
        request.forge.label_issue(request.repo_name, number, *body["labels"], author=request.who)
    return 201, request.shapes.issue(request.ticket(str(number))), {}


@route("GET", R + "/issues/{number}")
def _issue(request: Request, number: str) -> Answer:
    return 200, request.shapes.issue(request.ticket(number)), {}


@route("PATCH", R + "/issues/{number}")
def _edit_issue(request: Request, number: str) -> Answer:
    ticket = request.ticket(number)
    _edit(request, ticket)
    return 200, request.shapes.issue(ticket), {}


@route("GET", R + "/issues/{number}/comments")
def _comments(request: Request, number: str) -> Answer:
    ticket = request.ticket(number)
    return request.page(ticket.comments, lambda comment: request.shapes.comment(ticket, comment))


@route("POST", R + "/issues/{number}/comments")
def _comment(request: Request, number: str) -> Answer:
    ticket = request.ticket(number)
    request.forge.comment(request.repo_name, ticket.number, request.body["body"], author=request.who)
    return 201, request.shapes.comment(ticket, ticket.comments[-1]), {}


@route("PATCH", R + "/issues/comments/{id}")
def _edit_comment(request: Request, id: str) -> Answer:  # noqa: A002 - as the path has it
    for ticket in request.repo.tickets.values():
        for comment in (comment for comment in ticket.comments if comment.id == int(id)):
            comment.body, comment.updated = request.body["body"], request.forge.now()
            request.forge.touch(ticket)
            request.forge.tell_comment(request.repo_name, ticket, comment, "edited", request.who)
            return 200, request.shapes.comment(ticket, comment), {}
    raise Refusal(404, "Not Found")


@route("GET", R + "/issues/{number}/timeline")
def _timeline(request: Request, number: str) -> Answer:
    entries = [entry for entry in request.ticket(number).timeline if entry["type"] in {"close", "reopen"}]
    return request.page(entries, request.shapes.event)


@route("GET", R + "/labels")
def _labels(request: Request) -> Answer:
    return request.page(list(request.repo.labels.values()), request.shapes.label)


@route("POST", R + "/labels")
def _add_label(request: Request) -> Answer:
    name, color = request.body["name"], request.body["color"]
    if not re.fullmatch(r"[0-9a-f]{6}", color):
        raise _invalid("color is invalid", resource="Label")
    if any(label.name.lower() == name.lower() for label in request.repo.labels.values()):
        errors = [{"resource": "Label", "code": "already_exists", "field": "name"}]
        raise Refusal(422, "", {"message": "Validation Failed", "errors": errors, "documentation_url": _DOCS})
    return 201, request.shapes.label(request.forge.add_label(request.repo_name, name, color)), {}


@route("POST", R + "/issues/{number}/labels")
def _put_labels(request: Request, number: str) -> Answer:
    ticket = request.ticket(number)
    known = {label.name.lower(): label for label in request.repo.labels.values()}
    for name in request.body["labels"]:
        label = known.get(name.lower()) or request.forge.add_label(request.repo_name, name)
        request.forge.put_label(ticket, label)
    request.forge.tell_issue(request.repo_name, ticket, "labeled", request.who)
    return 200, [request.shapes.label(label) for label in ticket.labels], {}


@route("DELETE", R + "/issues/{number}/labels/{label}")
def _take_label(request: Request, number: str, label: str) -> Answer:
    ticket = request.ticket(number)
    if label.lower() not in {each.name.lower() for each in ticket.labels}:
        raise Refusal(404, "Label does not exist")
    ticket.labels = [each for each in ticket.labels if each.name.lower() != label.lower()]
    request.forge.touch(ticket)
    return 200, [request.shapes.label(each) for each in ticket.labels], {}


# --- Hooks -----------------------------------------------------------------


@route("GET", R + "/hooks")
def _hooks(request: Request) -> Answer:
    return request.page(list(request.repo.hooks.values()), request.shapes.hook)


@route("POST", R + "/hooks")
def _add_hook(request: Request) -> Answer:
    body, config = request.body, request.body["config"]
    for hook in request.repo.hooks.values():
        if hook.url == config["url"] and set(hook.events) & set(body["events"]):
            raise _invalid("Hook already exists on this repository", resource="Hook")
    number = request.forge.new_id()
    hook = Hook(number, config["url"], config.get("secret", ""), body["active"], body["events"], "github")
    request.repo.hooks[number] = hook
    return 201, request.shapes.hook(hook), {}


def _hook(request: Request, id: str) -> Hook:  # noqa: A002 - as the path has it
    if int(id) not in request.repo.hooks:
        raise Refusal(404, "Not Found")
    return request.repo.hooks[int(id)]


@route("PATCH", R + "/hooks/{id}")
def _edit_hook(request: Request, id: str) -> Answer:  # noqa: A002 - as the path has it
    hook, body = _hook(request, id), request.body
    if config := body.get("config"):
        hook.url, hook.secret = config["url"], config.get("secret", "")  # without one it has none
    hook.active, hook.events = body.get("active", hook.active), body.get("events", hook.events)
    return 200, request.shapes.hook(hook), {}


@route("POST", R + "/hooks/{id}/tests")
def _test_hook(request: Request, id: str) -> Answer:  # noqa: A002 - as the path has it
    request.forge.try_hook(request.repo_name, _hook(request, id), request.who)
    return 204, None, {}


@route("DELETE", R + "/hooks/{id}")
def _drop_hook(request: Request, id: str) -> Answer:  # noqa: A002 - as the path has it
    del request.repo.hooks[_hook(request, id).id]
    return 204, None, {}


# --- GraphQL ---------------------------------------------------------------


@route("POST", "/api/graphql")
def _graphql(request: Request) -> Answer:
    """Answer for the merge queue: what it has, and that it takes one more."""
    variables, forge = request.body["variables"], request.forge
    assert request.who
    if "enqueuePullRequest" in request.body["query"]:
        number = int(variables["id"].removeprefix("PR_"))
        pull = next(repo for repo in forge.repos.values() if number in repo.tickets).pull(number)
        if variables["head"] != pull.head:
            message = "Head sha didn't match expected"
            return 200, {"data": {"enqueuePullRequest": None}, "errors": [{"message": message}]}, {}
        forge.queue[number] = Queued(pull.head)
        return 200, {"data": {"enqueuePullRequest": {"mergeQueueEntry": _entry(forge, number)}}}, {}
    number = variables["number"]
    reason = forge.removed.get(number)
    events = [{"__typename": "RemovedFromMergeQueueEvent", "reason": reason}] if reason else []
    pull = {
        "id": f"PR_{number}",
        "mergeQueueEntry": _entry(forge, number),
        "timelineItems": {"nodes": events},
    }
    return 200, {"data": {"repository": {"pullRequest": pull}}}, {}


def _entry(forge: GitHubDouble, number: int) -> dict[str, Any] | None:
    if number not in forge.queue:
        return None
    return {"state": forge.queue[number].state, "position": list(forge.queue).index(number) + 1}


# --- Webhooks --------------------------------------------------------------


def _as_github(event: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Return what GitHub sends for a webhook of Forgejo's."""
    ours = dict(body)
    if "action" in body:
        ours["action"] = _ACTIONS.get(body["action"], body["action"])
    if event in {"create", "delete"}:
        ours["ref"] = body["ref"].removeprefix(_HEADS)
        ours.pop("sha", None)
    if event == "push":
        ours["pusher"] = {"name": body["pusher"]["login"]}
    if event == "issues":
        ours.pop("number", None)
    return ours

"""
A GitLab on the loopback: the double's repositories and people, answered for in GitLab's shapes.

Every exchange is held to what GitLab's own description says; what is not as
described is in `mismatches`. Its ways that surprise:

- Merge requests have numbers of their own, from 101 on; an issue may have the same.
- A project is named by its whole path, encoded: `group%2Fsub%2Fproject`.
- Approvals name no commit, and a push leaves them; changes are asked for by the state of a reviewer.
- What the system says is a note among those of people; a note on a line has a position.
- A note that begins a line with `/close` closes.
- A status that is pending cannot become pending: that is a 400.
- A pending status of anybody holds up the pipeline, and so a merge that waits for it.
- A merge that may not be done is a 405 without a reason, or a 401; the reason is in `detailed_merge_status`.
- What is wrong with a request is listed by field; a scope that is missing is told as OAuth has it.
- The token of a webhook comes as it is, in a header.
"""

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

from reconciler import clock
from reconciler.core.adapter import Secret
from reconciler.core.model.specs import Forge
from tests.forge.double import _NO_COMMIT, BOT, Delivery, ForgejoDouble
from tests.forge.gitlab_facts import facts
from tests.forge.routes import Answer, Routes
from tests.forge.state import CodeRepo, Comment, Hook, Label, PullTicket, Refusal, Ticket, user

GUEST, DEVELOPER, MAINTAINER = 10, 30, 40
FIRST = 101
"""Number of the first merge request."""
_STATES = {"failure": "failed"}
_EVENT_FIELDS = {
    "Push Hook": "push_events",
    "Issue Hook": "issues_events",
    "Note Hook": "note_events",
    "Merge Request Hook": "merge_requests_events",
    "Pipeline Hook": "pipeline_events",
}


@dataclass
class Rules:
    """What the project wants before it merges."""

    pipeline: bool = False
    """Whether a pipeline must succeed."""
    threads: bool = False
    """Whether all threads must be resolved."""
    approvals: int = 0
    approvers: tuple[str, ...] = ()
    """Who may give those by a rule of the project; none: this edition has no rules."""
    merge_method: str = "merge"
    may_squash: bool = True
    merge_level: int = DEVELOPER
    """Access level that it takes to merge into a protected branch."""


@dataclass
class Note(Comment):
    """A note; one of the system, or one on a line."""

    system: bool = False
    internal: bool = False
    position: dict[str, Any] | None = None
    resolved: bool = False


@dataclass
class MergeRequest(PullTicket):
    approvals: dict[str, datetime] = field(default_factory=dict)
    reviewers: dict[str, str] = field(default_factory=dict)
    """State of each."""
    versions: list[tuple[str, datetime]] = field(default_factory=list)
    closed_by: str = ""
    pipeline: dict[str, Any] | None = None
    """The newest one, if it is not of the head."""


def time(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def error(message: Any) -> dict[str, Any]:
    return {"message": message}


class GitLabDouble(ForgejoDouble):
    """See the top of the file."""

    kind = "gitlab"
    sign = "!"

    def __init__(self, folder: Path, **more: Any) -> None:
        super().__init__(folder, **more)
        self.now = clock.now
        self._began = self.now()
        self.rules: dict[str, Rules] = {}
        self.levels: dict[str, int] = {BOT: MAINTAINER, "ann": DEVELOPER, "bob": DEVELOPER}
        """Access levels of the members."""
        self.protected: dict[str, list[dict[str, Any]]] = {}
        self.root = ""
        """Path below which it is served."""
        self.tells_approval_times = True
        """Whether approvals say when they were given; older servers do not."""
        self.limits: list[tuple[int, dict[str, str], Any]] = []
        """Answers (status, headers, body) to the next requests."""
        self.confidential: set[int] = set()
        """Numbers of issues."""
        self.expires_on: str | None = None
        self.token_error = ""
        """What is wrong with every token, such as that it is expired."""
        self.signs = False
        """Whether webhooks are signed besides."""
        self.mismatches: list[str] = []
        self.exchanges: set[str] = set()
        """Operations that were held to the description."""
        self.statuses: list[int] = []

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.root}/api/v4"

    def spec(self, repo: str, token: Secret, webhook_secret: Secret | None = None) -> Forge:
        return Forge(kind="gitlab", api=self.api, repo=repo, token=token, webhook_secret=webhook_secret)

    # --- What happens there ------------------------------------------------

    def _ticket(self, kind: type, repo: str, title: str, body: str, author: str) -> Any:
        is_pull = issubclass(kind, PullTicket)
        tickets = self.repos[repo].tickets
        number = sum(isinstance(each, PullTicket) == is_pull for each in tickets.values()) + 1
        number += FIRST - 1 if is_pull else 0
        made = MergeRequest if is_pull else kind
        tickets[number] = made(number, title, body, author, self.now(), self.now())
        return tickets[number]

    def open_pull(self, repo: str, branch: str, title: str, **more: Any) -> int:
        with self.lock:
            number = super().open_pull(repo, branch, title, **more)
            pull = self.repos[repo].pull(number)
            self.keep_head(self.repos[repo], pull)
            pull.draft = is_draft(title)
            return number

    def comment(self, repo: str, number: int, body: str, *, author: str = "ann") -> int:
        return self.note(repo, self.repos[repo].tickets[number], body, author).id

    def note(self, repo: str, ticket: Ticket, body: str, author: str, **more: Any) -> Note:
        """Write a note, and do what it says."""
        with self.lock:
            note = Note(self.new_id(), author, body, self.now(), self.now(), **more)
            ticket.comments.append(note)
            self.touch(ticket)
            if not note.system:
                self.tell_comment(repo, ticket, note, "create", author)
                self.act(repo, ticket, body, author)
            return note

    def act(self, repo: str, ticket: Ticket, text: str, author: str) -> None:
        """Do what quick actions in a text say; of them this one."""
        if re.search(r"(?m)^\s*/close\s*$", text):
            self.set_state(repo, ticket, "closed", author)

    def review(
        self,
        repo: str,
        number: int,
        verdict: str,
        body: str = "",
        comments: tuple[tuple[str, int, str], ...] = (),
        *,
        author: str = "ann",
    ) -> int:
        """Submit a review: notes on lines, a note, and what becomes of the reviewer."""
        with self.lock:
            pull = self.repos[repo].pull(number)
            for path, line, text in comments:
                self.note(repo, pull, text, author, position=self.position(pull, path, line))
            if body:
                self.note(repo, pull, body, author)
            pull.reviewers.setdefault(author, "unreviewed")
            if verdict == "approved":
                return self.approve(repo, pull, author)
            pull.reviewers[author] = "requested_changes" if verdict == "rejected" else "reviewed"
            if verdict == "rejected":
                pull.approvals.pop(author, None)
                note = self.note(repo, pull, "requested changes", author, system=True)
                self.tell_pull(repo, pull, "update", author)
                return note.id
            return pull.comments[-1].id

    def approve(self, repo: str, pull: Any, author: str) -> int:
        pull.approvals[author] = self.now()
        if author in pull.reviewers:
            pull.reviewers[author] = "approved"
        note = self.note(repo, pull, "approved this merge request", author, system=True)
        self.tell_pull(repo, pull, "approved", author)
        return note.id

    def revoke(self, repo: str, number: int, author: str) -> None:
        """Take an approval or a request for changes back."""
        with self.lock:
            pull = self.repos[repo].pull(number)
            pull.approvals.pop(author, None)
            if author in pull.reviewers:
                pull.reviewers[author] = "unapproved"
            self.note(repo, pull, "unapproved this merge request", author, system=True)
            self.tell_pull(repo, pull, "unapproved", author)

    def dismiss_review(self, repo: str, number: int, review: int) -> None:
        note = next(each for each in self.repos[repo].pull(number).comments if each.id == review)
        self.revoke(repo, number, note.author)

    def position(self, pull: PullTicket, path: str, line: int) -> dict[str, Any]:
        sides = {"base_sha": pull.base_head, "start_sha": pull.base_head, "head_sha": pull.head}
        lines = {"new_path": path, "old_path": path, "new_line": line, "old_line": None}
        return {**sides, **lines, "position_type": "text"}

    def job(
        self, repo: str, commit: str, name: str, state: str, *, allow_failure: bool = False, why: str = ""
    ) -> None:
        """Let a job of a pipeline come to a state, in GitLab's words."""
        with self.lock:
            status = super().add_status(repo, commit, {"state": state, "context": name, "description": why})
            status["allow_failure"] = allow_failure
            self.tell_pipeline(repo, commit, state)

    def add_status(self, repo: str, commit: str, fields: Mapping[str, str]) -> dict[str, Any]:
        status = super().add_status(repo, commit, fields)
        self.tell_pipeline(repo, commit, _STATES.get(status["status"], status["status"]))
        return status

    def merged_result(self, repo: str, number: int, state: str) -> None:
        """Let the pipeline of the merged result come to a state."""
        with self.lock:
            pull, at = self.repos[repo].pull(number), self.repos[repo]
            tree = at.git("merge-tree", "--write-tree", pull.base_head, pull.head)
            commit = at.put(f"merge/{number}", tree, [pull.base_head, pull.head], "Merged result\n", "ann")
            at.git("update-ref", "-d", f"refs/heads/merge/{number}")
            pull.pipeline = {
                "id": 7,
                "sha": commit,
                "status": state,
                "ref": f"refs/merge-requests/{number}/merge",
            }

    def newest(self, repo: CodeRepo, commit: str) -> list[dict[str, Any]]:
        """Return the newest status of each name."""
        return list({one["context"]: one for one in repo.statuses if one["sha"] == commit}.values())

    def _head_moved(self, repo: CodeRepo, pull: PullTicket, new: str | None, author: str) -> None:
        if new is None:  # it stays open
            pull.branch_is_gone = True
            return
        super()._head_moved(repo, pull, new, author)
        self.keep_head(repo, pull)

    def keep_head(self, repo: CodeRepo, pull: Any) -> None:
        """Keep the head as a version, and under a ref of its own: that of a fork is nowhere else."""
        pull.versions.append((pull.head, self.now()))
        repo.git("update-ref", f"refs/merge-requests/{pull.number}/head", pull.head)

    def set_state(self, repo: str, ticket: Ticket, state: str, author: str) -> None:
        super().set_state(repo, ticket, state, author)
        if isinstance(ticket, MergeRequest):
            ticket.closed_by = author

    def merge(self, repo: str, pull: PullTicket, style: str, author: str) -> str:
        if self.conflicts(repo, pull):
            raise Refusal(422, "", error("Branch cannot be merged"))
        pull.closed = self.now()
        return super().merge(repo, pull, style, author)

    # --- Webhooks ----------------------------------------------------------

    def tell_issue(self, repo: str, ticket: Ticket, action: str, author: str, **more: object) -> None:
        actions = {"opened": "open", "closed": "close", "reopened": "reopen"}
        said = actions.get(action, "update")
        if isinstance(ticket, PullTicket):
            self.tell_pull(repo, ticket, "merge" if ticket.merged and said == "close" else said, author)
            return
        fields = {**self._attributes(ticket), "action": said}
        self.tell(repo, "Issue Hook", "issue", {"object_attributes": fields}, author)

    def tell_pull(self, repo: str, pull: PullTicket, action: str, author: str) -> None:
        fields = {**self._attributes(pull), "action": action, "source_branch": pull.branch}
        self.tell(repo, "Merge Request Hook", "merge_request", {"object_attributes": fields}, author)

    def _attributes(self, ticket: Ticket) -> dict[str, Any]:
        at = ticket.updated.strftime("%Y-%m-%d %H:%M:%S UTC")
        return {"id": 900 + ticket.number, "iid": ticket.number, "title": ticket.title, "updated_at": at}

    def tell_comment(self, repo: str, ticket: Ticket, comment: Comment, action: str, author: str) -> None:
        is_pull = isinstance(ticket, PullTicket)
        kind = "MergeRequest" if is_pull else "Issue"
        fields = {"id": comment.id, "note": comment.body, "noteable_type": kind, "action": action}
        body = {
            "object_attributes": fields,
            "merge_request" if is_pull else "issue": self._attributes(ticket),
        }
        self.tell(repo, "Note Hook", "note", body, author)

    def tell_pipeline(self, repo: str, commit: str, state: str) -> None:
        fields = {"id": self.new_id(), "iid": 1, "sha": commit, "status": state, "ref": "main", "tag": False}
        self.tell(repo, "Pipeline Hook", "pipeline", {"object_attributes": fields}, "ann")

    def tell(self, repo: str, event: str, kind: str, body: Mapping[str, Any], author: str) -> None:
        if event == "create":  # the push tells it
            return
        if event in {"push", "delete"}:
            event, kind = "Push Hook", "push"
            body = _push(
                body.get("ref", ""), body.get("before", _NO_COMMIT), body.get("after", _NO_COMMIT), author
            )
        text = json.dumps({**self._whole(repo, kind, author), **body}).encode()
        for hook in self.repos[repo].hooks.values():
            if hook.active and self.is_subscribed(hook, event):
                self._enqueue(event, kind, hook, text)

    def _whole(self, repo: str, kind: str, author: str) -> dict[str, Any]:
        whole = {"object_kind": kind, "project": {"id": 1, "path_with_namespace": repo}}
        return whole if kind == "push" else {**whole, "user": {"username": author, "name": author.title()}}

    def try_hook(self, repo: str, hook: Hook, author: str) -> None:
        head = self.repos[repo].branches()["main"]
        body = {**self._whole(repo, "push", author), **_push("refs/heads/main", head, head, author)}
        self._enqueue("Push Hook", "push", hook, json.dumps(body).encode())

    def headers(self, delivery: Delivery) -> dict[str, str]:
        known = {
            "Content-Type": "application/json",
            "X-Gitlab-Event": delivery.event,
            "X-Gitlab-Event-UUID": str(hashlib.md5(delivery.id.encode()).hexdigest()),
            "X-Gitlab-Webhook-UUID": "c2675c66-7e6e-4fe2-9ac3-288534ef34b9",
            "X-Gitlab-Instance": f"http://127.0.0.1:{self.port}",
            "Idempotency-Key": delivery.id,
        }
        if self.signs:
            signed = f"{delivery.id}.1764000000.".encode() + delivery.body
            made = hmac.new(delivery.hook.secret.encode(), signed, hashlib.sha256).digest()
            known["webhook-signature"] = f"v1,{base64.b64encode(made).decode()}"
            return {**known, "webhook-id": delivery.id, "webhook-timestamp": "1764000000"}
        return {**known, "X-Gitlab-Token": delivery.hook.secret} if delivery.hook.secret else known

    def is_subscribed(self, hook: Hook, event: str) -> bool:
        return _EVENT_FIELDS[event] in hook.events

    # --- Answers -----------------------------------------------------------

    def answer(self, method: str, target: str, headers: Mapping[str, str], raw: bytes) -> Answer:
        if self.answers_502:
            return 502, {"message": "502 Bad Gateway"}, {}
        at = urlsplit(target).path
        begin = f"{self.root}/api/v4"
        if self.root and not at.startswith(f"{self.root}/"):
            return 404, None, {}  # another server
        if not at.startswith(f"{begin}/"):
            return (302, None, {"Location": "/users/sign_in"}) if method == "GET" else (404, error("404"), {})
        path = at.removeprefix(begin)
        query = dict(parse_qsl(urlsplit(target).query, keep_blank_values=True))
        body = json.loads(raw) if raw else None
        with self.lock:
            self.requests.append((method, target.removeprefix(begin)))
            done = self._odd(method, path) or self._handled(method, path, query, body, headers)
            if (odd := self.odd.get(f"{method} {path}")) is not None:
                done = done[0], odd(done[1]), done[2]
            self.statuses.append(done[0])
            if odd is None and done[0] < 500 and done[0] not in {401, 403, 429}:
                self.mismatches += facts().mismatches((method, path, query, body), done[0], done[1])
                self.exchanges.add(facts().name(method, path))
        return done

    def _odd(self, method: str, path: str) -> Answer | None:
        if self.limits:
            status, more, body = self.limits.pop(0)
            return status, body, more
        if (broken := self.broken.pop(f"{method} {path}", None)) is not None:
            return broken[0], error("as the test wants it"), broken[1]
        if (status := self.always_broken.get(f"{method} {path}")) is not None:
            return status, error("as the test wants it"), {}
        return None

    def _handled(
        self, method: str, path: str, query: dict[str, str], body: Any, headers: Mapping[str, str]
    ) -> Answer:
        try:
            request = Request(self, method, query, body, headers)
            self.notice()
            return request.handle(path)
        except Refusal as refusal:
            return refusal.status, refusal.body or error(refusal.message), {}


def _push(ref: str, before: str, after: str, author: str) -> dict[str, Any]:
    more = {"user_name": author.title(), "user_username": author, "commits": [], "total_commits_count": 0}
    return {"event_name": "push", "ref": ref, "before": before, "after": after, **more}


def is_draft(title: str) -> bool:
    return bool(re.match(r"(?i)(draft:|\[draft\]|\(draft\))", title))


_ROUTES = Routes()
route = _ROUTES.on


class Request:
    """One request: who asks, of which project, and what."""

    def __init__(
        self, forge: GitLabDouble, method: str, query: dict[str, str], body: Any, headers: Mapping[str, str]
    ) -> None:
        self.forge, self.method, self.query, self.body = forge, method, query, body or {}
        self.token = headers.get("Authorization", "").removeprefix("Bearer ")
        self.repo_name = ""

    @property
    def who(self) -> str:
        if self.forge.token_error:
            body = {"error": "invalid_token", "error_description": self.forge.token_error}
            raise Refusal(401, "", body)
        if self.token not in self.forge.tokens:
            raise Refusal(401, "401 Unauthorized")
        return self.forge.tokens[self.token]

    @property
    def level(self) -> int:
        return self.forge.levels.get(self.who, 0)

    @property
    def repo(self) -> CodeRepo:
        return self.forge.repos[self.repo_name]

    @property
    def rules(self) -> Rules:
        return self.forge.rules.get(self.repo_name, Rules())

    @property
    def page_url(self) -> str:
        return f"http://127.0.0.1:{self.forge.port}/{self.repo_name}"

    def handle(self, path: str) -> Answer:
        assert self.who
        self._check_scope()
        route = _ROUTES.find(self.method, path)
        if route is None:
            raise Refusal(404, "", {"error": "404 Not Found"})
        handler, names = route
        if "project" in names:
            self.repo_name = names.pop("project")
            if self.repo_name not in self.forge.repos:
                raise Refusal(404, "404 Project Not Found")
        return handler(self, **names)

    def _check_scope(self) -> None:
        scopes = self.forge.scopes
        if scopes is None or "api" in scopes or (self.method == "GET" and "read_api" in scopes):
            return
        said = "The request requires higher privileges than provided by the access token."
        wanted = "api read_api" if self.method == "GET" else "api"
        raise Refusal(403, "", {"error": "insufficient_scope", "error_description": said, "scope": wanted})

    def needs(self, level: int) -> None:
        if self.level < level:
            raise Refusal(403, "403 Forbidden")

    def ticket(self, kind: str, number: str) -> Ticket:
        """Return an issue or a merge request: they have numbers of their own."""
        for each in self.repo.tickets.values():
            if str(each.number) == number and isinstance(each, PullTicket) == (kind == "merge_requests"):
                return each
        raise Refusal(404, "404 Not found")

    def pull(self, number: str) -> Any:
        return self.ticket("merge_requests", number)

    def page(self, items: Sequence[Any], show: Any) -> Answer:
        size = min(int(self.query.get("per_page", 20)), 100, self.forge.largest_page)
        number = int(self.query.get("page", 1))
        part = items[(number - 1) * size : number * size]
        following = str(number + 1) if number * size < len(items) else ""
        links = [f'<{self.page_url}?page={following}&per_page={size}>; rel="next"'] if following else []
        links.append(f'<{self.page_url}?page=1&per_page={size}>; rel="first"')
        headers = {"x-next-page": following, "x-page": str(number), "x-per-page": str(size)}
        return 200, [show(each) for each in part], {**headers, "Link": ", ".join(links)}

    # --- Shapes ------------------------------------------------------------

    def user(self, name: str) -> dict[str, Any]:
        page = f"http://127.0.0.1:{self.forge.port}/{name}"
        known = {"id": user(name)["id"], "username": name, "name": name.title(), "public_email": None}
        return {**known, "state": "active", "locked": False, "avatar_url": None, "web_url": page}

    def _ticket(self, ticket: Ticket, folder: str) -> dict[str, Any]:
        return {
            "id": 900 + ticket.number,
            "iid": ticket.number,
            "project_id": 1,
            "title": ticket.title,
            "description": ticket.body,
            "author": self.user(ticket.author),
            "labels": [label.name for label in ticket.labels],
            "created_at": time(ticket.created),
            "updated_at": time(ticket.updated),
            "closed_at": time(ticket.closed) if ticket.closed else None,
            "closed_by": None,
            "milestone": None,
            "user_notes_count": sum(not getattr(each, "system", False) for each in ticket.comments),
            "web_url": f"{self.page_url}/-/{folder}/{ticket.number}",
        }

    def issue(self, ticket: Ticket) -> dict[str, Any]:
        state = "opened" if ticket.state == "open" else "closed"
        more = {"confidential": False, "issue_type": "issue", "type": "ISSUE"}
        return {**self._ticket(ticket, "issues"), **more, "state": state}

    def listed(self, pull: Any) -> dict[str, Any]:
        return self.merge_request(pull, "unchecked")

    def merge_request(self, pull: Any, status: str) -> dict[str, Any]:
        state = "merged" if pull.merged else "opened" if pull.state == "open" else "closed"
        by = self.user(pull.merged_by) if pull.merged_by else None
        return {
            **self._ticket(pull, "merge_requests"),
            "state": state,
            "draft": pull.draft,
            "work_in_progress": pull.draft,
            "source_branch": pull.branch,
            "target_branch": pull.base,
            "source_project_id": 2 if pull.is_from_fork else 1,
            "target_project_id": 1,
            "sha": pull.head,
            "merge_commit_sha": pull.merge_commit,
            "merged_at": time(pull.closed) if pull.merged and pull.closed else None,
            "merge_user": by,
            "merged_by": by,
            "reviewers": [self.user(name) for name in pull.reviewers],
            "detailed_merge_status": status,
            "merge_status": "can_be_merged" if status == "mergeable" else status,
            "has_conflicts": status == "conflict",
            "squash": False,
        }

    def note(self, ticket: Ticket, note: Any) -> dict[str, Any]:
        is_pull, position = isinstance(ticket, PullTicket), getattr(note, "position", None)
        return {
            "id": note.id,
            "type": "DiffNote" if position else None,
            "body": note.body,
            "author": self.user(note.author),
            "created_at": time(note.created),
            "updated_at": time(note.updated),
            "system": getattr(note, "system", False),
            "internal": getattr(note, "internal", False),
            "noteable_id": 900 + ticket.number,
            "noteable_iid": ticket.number,
            "noteable_type": "MergeRequest" if is_pull else "Issue",
            "project_id": 1,
            "resolvable": position is not None,
            **({"position": position, "resolved": note.resolved} if position else {}),
        }

    def status(self, status: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "id": status["id"],
            "sha": status["sha"],
            "ref": "main",
            "status": _STATES.get(status["status"], status["status"]),
            "name": status["context"],
            "description": status["description"] or None,
            "target_url": status["target_url"] or None,
            "allow_failure": status.get("allow_failure", False),
            "author": self.user(self.who),
        }

    def commit(self, sha: str) -> dict[str, Any]:
        author = self.repo.git("log", "-1", "--format=%an", sha)
        parents = self.repo.git("log", "-1", "--format=%P", sha).split()
        return {"id": sha, "short_id": sha[:8], "parent_ids": parents, "author_name": author}

    def hook(self, hook: Hook) -> dict[str, Any]:
        return {
            "id": hook.id,
            "url": hook.url,
            "project_id": 1,
            "enable_ssl_verification": True,
            "alert_status": "executable" if hook.active else "disabled",
            "push_events_branch_filter": hook.branch_filter or None,
            "branch_filter_strategy": "wildcard",
            **{name: name in hook.events for name in set(_EVENT_FIELDS.values())},
            **{f"confidential_{each}": f"confidential_{each}" in hook.events for each in _CONFIDENTIAL},
        }


_CONFIDENTIAL = ("issues_events", "note_events")
R = "/projects/{project}"

# --- Accounts and the project ----------------------------------------------


@route("GET", "/version")
def _version(request: Request) -> Answer:
    return 200, {"version": "18.6.0-ee", "revision": "abcdef12"}, {}


@route("GET", "/user")
def _whoami(request: Request) -> Answer:
    if request.forge.tokens_are_limited:
        raise Refusal(
            403, "", {"error": "insufficient_scope", "error_description": "No.", "scope": "read_user"}
        )
    me = request.user(request.who)
    return 200, {name: me[name] for name in ("id", "username", "name", "state", "avatar_url", "web_url")}, {}


@route("GET", "/personal_access_tokens/self")
def _token(request: Request) -> Answer:
    return 200, {"id": 1, "name": "fleet", "scopes": ["api"], "expires_at": request.forge.expires_on}, {}


@route("GET", "/users")
def _users(request: Request) -> Answer:
    names = {*request.forge.levels, *request.forge.tokens.values()} & {request.query["username"]}
    return request.page(sorted(names), lambda name: {"id": request.user(name)["id"], "username": name})


@route("GET", R)
def _project(request: Request) -> Answer:
    access = {"access_level": request.level, "notification_level": 3}
    page = request.page_url
    return (
        200,
        {
            "id": 1,
            "path_with_namespace": request.repo_name,
            "default_branch": "main",
            "http_url_to_repo": f"{page}.git",
            "ssh_url_to_repo": str(request.repo.folder),
            "web_url": page,
            "archived": False,
            "issues_enabled": request.repo.has_issues,
            "merge_method": request.rules.merge_method,
            "permissions": {"project_access": access, "group_access": None},
        },
        {},
    )


@route("GET", R + "/members/all")
def _members(request: Request) -> Answer:
    names = [name for name in request.forge.levels if request.query.get("query", "") in name]
    return request.page(
        names, lambda name: {**request.user(name), "access_level": request.forge.levels[name]}
    )


@route("GET", R + "/repository/branches/{branch}")
def _branch(request: Request, branch: str) -> Answer:
    heads = request.repo.branches()
    if branch not in heads:
        raise Refusal(404, "404 Branch Not Found")
    return 200, {"name": branch, "commit": request.commit(heads[branch]), "protected": False}, {}


# --- Merge requests ---------------------------------------------------------


@route("GET", R + "/merge_requests")
def _pulls(request: Request) -> Answer:
    state = request.query.get("state", "all")
    pulls = [
        each for each in request.repo.pulls if state in {"all", request.merge_request(each, "")["state"]}
    ]
    by = "updated" if request.query.get("order_by") == "updated_at" else "created"
    pulls.sort(key=lambda pull: (getattr(pull, by), pull.number), reverse=request.query.get("sort") != "asc")
    return request.page(pulls, request.listed)


def _merge_status(request: Request, pull: Any) -> str:
    """Return what is in the way of a merge, in the order in which GitLab looks."""
    if pull.state != "open":
        return "not_open"
    if pull.computing > 0:
        return "checking"
    rules, notes = request.rules, pull.comments
    checks = [one for one in request.forge.newest(request.repo, pull.head) if not one.get("allow_failure")]
    states = {one["status"] for one in checks} - {"skipped"}
    cases = {
        "commits_status": pull.branch_is_gone,
        "draft_status": pull.draft,
        "conflict": request.forge.conflicts(request.repo_name, pull),
        "not_approved": len(pull.approvals) < rules.approvals,
        "discussions_not_resolved": rules.threads
        and any(each.position and not each.resolved for each in notes),
        "ci_still_running": rules.pipeline and bool(states & {"pending", "running", "created"}),
        "ci_must_pass": rules.pipeline and states != {"success"},
        "need_rebase": rules.merge_method == "ff" and not _is_ahead(request.repo, pull),
    }
    return next((status for status, holds in cases.items() if holds), "mergeable")


def _is_ahead(repo: CodeRepo, pull: PullTicket) -> bool:
    return repo.git("merge-base", pull.base_head, pull.head) == pull.base_head


@route("GET", R + "/merge_requests/{number}")
def _pull(request: Request, number: str) -> Answer:
    pull = request.pull(number)
    shown = request.merge_request(pull, _merge_status(request, pull))
    pull.computing = max(pull.computing - 1, 0)
    return 200, {**shown, "head_pipeline": pull.pipeline}, {}


@route("POST", R + "/merge_requests")
def _open_pull(request: Request) -> Answer:
    request.needs(DEVELOPER)
    body, heads = request.body, request.repo.branches()
    for name in ("source_branch", "target_branch"):
        if body[name] not in heads:
            raise Refusal(
                422, "", error([f"{name.replace('_', ' ').capitalize()} {body[name]} does not exist"])
            )
    for pull in request.repo.pulls:
        if (pull.branch, pull.base, pull.state) == (body["source_branch"], body["target_branch"], "open"):
            said = f"Another open merge request already exists for this source branch: !{pull.number}"
            raise Refusal(409, "", error([said]))
    number = request.forge.open_pull(
        request.repo_name,
        body["source_branch"],
        body["title"],
        body=body.get("description") or "",
        base=body["target_branch"],
        author=request.who,
    )
    pull = request.pull(str(number))
    request.forge.act(request.repo_name, pull, pull.body, request.who)
    return 201, request.merge_request(pull, "preparing"), {}


@route("PUT", R + "/{kind}/{number}")
def _edit(request: Request, kind: str, number: str) -> Answer:
    request.needs(DEVELOPER)
    ticket, forge, body = request.ticket(kind, number), request.forge, request.body
    _check_edit(request)
    names = {"title": "title", "description": "body"}
    if fields := {name: body[key] for key, name in names.items() if key in body}:
        forge.edit_issue(request.repo_name, ticket.number, author=request.who, **fields)
        forge.act(request.repo_name, ticket, body.get("description", ""), request.who)
    if event := body.get("state_event"):
        forge.set_state(request.repo_name, ticket, "closed" if event == "close" else "open", request.who)
    _edit_labels(request, ticket)
    if isinstance(ticket, MergeRequest):
        _edit_pull(request, ticket)
        return 200, request.merge_request(ticket, "unchecked"), {}
    return 200, request.issue(ticket), {}


def _check_edit(request: Request) -> None:
    if not request.body:
        raise Refusal(
            400, "", {"error": "title, description, labels are missing, at least one must be provided"}
        )


def _edit_labels(request: Request, ticket: Ticket) -> None:
    known = {label.name: label for label in request.repo.labels.values()}
    for name in request.body.get("add_labels", ()):
        label = known.get(name) or request.forge.add_label(request.repo_name, name)
        request.forge.put_label(ticket, label)
    taken = request.body.get("remove_labels", ())
    ticket.labels = [label for label in ticket.labels if label.name not in taken]
    request.forge.touch(ticket)
    request.forge.tell_issue(request.repo_name, ticket, "label_updated", request.who)


def _edit_pull(request: Request, pull: MergeRequest) -> None:
    pull.draft = is_draft(pull.title)
    if base := request.body.get("target_branch"):
        pull.base, pull.base_head = base, request.repo.branches()[base]
    if "reviewer_ids" in request.body:
        names = {request.user(name)["id"]: name for name in request.forge.levels}
        wanted = [names[each] for each in request.body["reviewer_ids"] if each in names]
        pull.reviewers = {name: pull.reviewers.get(name, "unreviewed") for name in wanted}


@route("PUT", R + "/merge_requests/{number}/merge")
def _merge(request: Request, number: str) -> Answer:
    pull, rules, body = request.pull(number), request.rules, request.body
    if request.level < rules.merge_level:
        raise Refusal(401, "401 Unauthorized")
    if _merge_status(request, pull) != "mergeable":
        pull.computing = max(pull.computing - 1, 0)
        raise Refusal(405, "405 Method Not Allowed")
    if body.get("sha") not in {None, pull.head}:
        raise Refusal(409, f"SHA does not match HEAD of source branch: {pull.head}")
    if body.get("squash") and not rules.may_squash:
        raise Refusal(405, "Squashing not allowed: This project doesn't allow squashing commits")
    style = "squash" if body.get("squash") else "merge" if rules.merge_method == "merge" else "rebase"
    request.forge.merge(request.repo_name, pull, style, request.who)
    return 200, request.merge_request(pull, "not_open"), {}


@route("GET", R + "/merge_requests/{number}/approvals")
def _approvals(request: Request, number: str) -> Answer:
    pull = request.pull(number)
    times = request.forge.tells_approval_times
    by = [
        {"user": request.user(name), **({"approved_at": time(at)} if times else {})}
        for name, at in pull.approvals.items()
    ]
    return (
        200,
        {"user_has_approved": False, "user_can_approve": True, "approved": bool(by), "approved_by": by},
        {},
    )


@route("GET", R + "/merge_requests/{number}/approval_state")
def _approval_state(request: Request, number: str) -> Answer:
    pull, rules = request.pull(number), request.rules
    if not rules.approvers:
        raise Refusal(404, "404 Not Found")
    rule = {
        "id": 1,
        "name": "Core",
        "rule_type": "regular",
        "eligible_approvers": [request.user(name) for name in rules.approvers],
        "approvals_required": rules.approvals,
        "approved_by": [request.user(name) for name in pull.approvals if name in rules.approvers],
        "approved": len(pull.approvals) >= rules.approvals,
    }
    return 200, {"approval_rules_overwritten": False, "rules": [rule]}, {}


@route("GET", R + "/merge_requests/{number}/reviewers")
def _reviewers(request: Request, number: str) -> Answer:
    pull = request.pull(number)
    return request.page(
        list(pull.reviewers),
        lambda name: {
            "user": request.user(name),
            "state": pull.reviewers[name],
            "created_at": time(pull.created),
        },
    )


@route("GET", R + "/merge_requests/{number}/versions")
def _versions(request: Request, number: str) -> Answer:
    versions = list(enumerate(request.pull(number).versions))[::-1]
    return request.page(
        versions,
        lambda pair: {"id": pair[0], "head_commit_sha": pair[1][0], "created_at": time(pair[1][1])},
    )


@route("GET", R + "/merge_requests/{number}/resource_state_events")
def _state_events(request: Request, number: str) -> Answer:
    pull = request.pull(number)
    events = [each for each in pull.timeline if each["type"] in {"close", "reopen"}]
    states = {"close": "closed", "reopen": "reopened"}
    return request.page(
        events,
        lambda each: {
            "id": each["id"],
            "user": request.user(each["user"]["login"]),
            "state": states[each["type"]],
        },
    )


@route("POST", R + "/merge_requests/{number}/discussions")
def _discuss(request: Request, number: str) -> Answer:
    pull, at = request.pull(number), request.body["position"]
    position = request.forge.position(pull, at["new_path"], at["new_line"])
    note = request.forge.note(request.repo_name, pull, request.body["body"], request.who, position=position)
    return 201, {"id": str(note.id), "individual_note": False, "notes": [request.note(pull, note)]}, {}


# --- Commits -----------------------------------------------------------------


@route("GET", R + "/repository/commits/{sha}")
def _commit(request: Request, sha: str) -> Answer:
    return 200, request.commit(sha), {}


@route("GET", R + "/repository/commits/{sha}/statuses")
def _statuses(request: Request, sha: str) -> Answer:
    return request.page(request.forge.newest(request.repo, sha), request.status)


@route("POST", R + "/statuses/{sha}")
def _set_status(request: Request, sha: str) -> Answer:
    body = request.body
    state, name = body["state"], body.get("name") or body.get("context") or "default"
    last = next((one for one in request.forge.newest(request.repo, sha) if one["context"] == name), None)
    if last and last["status"] in {"pending", "running"} and state in {last["status"], "pending"}:
        said = f"Cannot transition status via :enqueue from :{last['status']}"
        raise Refusal(400, said)
    words = {"failed": "failure"}
    more = {key: body.get(key) or "" for key in ("description", "target_url")}
    fields = {"state": words.get(state, state), "context": name, **more}
    return 201, request.status(request.forge.add_status(request.repo_name, sha, fields)), {}


# --- Issues, notes, labels ---------------------------------------------------


@route("GET", R + "/issues")
def _issues(request: Request) -> Answer:
    wanted = {name for name in request.query.get("labels", "").split(",") if name}
    issues = [each for each in request.repo.tickets.values() if not isinstance(each, PullTicket)]
    if not request.repo.has_issues:
        issues = []
    states = {"opened": "open", "closed": "closed"}
    state = states.get(request.query.get("state", "all"))
    issues = [each for each in issues if state in {None, each.state}]
    issues = [each for each in issues if wanted <= {label.name for label in each.labels}]
    if request.query.get("confidential") == "false":
        issues = [each for each in issues if each.number not in request.forge.confidential]
    issues.sort(key=lambda each: each.number, reverse=request.query.get("sort") != "asc")
    return request.page(issues, request.issue)


@route("POST", R + "/issues")
def _open_issue(request: Request) -> Answer:
    body, forge = request.body, request.forge
    number = forge.open_issue(
        request.repo_name, body["title"], body.get("description", ""), author=request.who
    )
    if body.get("labels"):
        forge.label_issue(request.repo_name, number, *body["labels"], author=request.who)
    return 201, request.issue(request.ticket("issues", str(number))), {}


@route("GET", R + "/issues/{number}")
def _issue(request: Request, number: str) -> Answer:
    return 200, request.issue(request.ticket("issues", number)), {}


@route("GET", R + "/events")
def _events(request: Request) -> Answer:
    after = request.query.get("after", "")
    notes = [
        (ticket, note)
        for ticket in request.repo.tickets.values()
        for note in ticket.comments
        if not getattr(note, "system", False) and note.created.date().isoformat() > after
    ]
    notes.sort(key=lambda pair: pair[1].id, reverse=request.query.get("sort", "desc") == "desc")
    return request.page(notes, lambda pair: _event(request, *pair))


def _event(request: Request, ticket: Ticket, note: Any) -> dict[str, Any]:
    return {
        "id": note.id,
        "project_id": 1,
        "action_name": "commented on",
        "target_id": note.id,
        "target_iid": note.id,
        "target_type": "DiffNote" if getattr(note, "position", None) else "Note",
        "author_id": request.user(note.author)["id"],
        "target_title": ticket.title,
        "created_at": time(note.created),
        "author": request.user(note.author),
        "author_username": note.author,
        "note": request.note(ticket, note),
    }


@route("GET", R + "/{kind}/{number}/notes")
def _notes(request: Request, kind: str, number: str) -> Answer:
    ticket = request.ticket(kind, number)
    notes = ticket.comments if request.query.get("sort") == "asc" else ticket.comments[::-1]
    return request.page(notes, lambda note: request.note(ticket, note))


@route("POST", R + "/{kind}/{number}/notes")
def _add_note(request: Request, kind: str, number: str) -> Answer:
    ticket = request.ticket(kind, number)
    note = request.forge.note(request.repo_name, ticket, request.body["body"], request.who)
    return 201, request.note(ticket, note), {}


@route("PUT", R + "/{kind}/{number}/notes/{id}")
def _edit_note(request: Request, kind: str, number: str, id: str) -> Answer:  # noqa: A002 - as the path has it
    ticket = request.ticket(kind, number)
    note = next((each for each in ticket.comments if str(each.id) == id), None)
    if note is None:
        raise Refusal(404, "404 Note Not Found")
    note.body, note.updated = request.body["body"], request.forge.now()
    request.forge.touch(ticket)
    request.forge.act(request.repo_name, ticket, note.body, request.who)
    return 200, request.note(ticket, note), {}


def _label(label: Label) -> dict[str, Any]:
    known = {"id": label.id, "name": label.name, "color": label.color, "text_color": "#FFFFFF"}
    return {**known, "description": None, "subscribed": False, "priority": None, "is_project_label": True}


@route("GET", R + "/labels")
def _labels(request: Request) -> Answer:
    return request.page(list(request.repo.labels.values()), _label)


@route("POST", R + "/labels")
def _add_label(request: Request) -> Answer:
    name, color = request.body["name"], request.body["color"]
    if not re.fullmatch(r"#[0-9a-f]{6}", color):
        raise Refusal(400, "", error({"color": ["must be a valid color code"]}))
    if any(label.name == name for label in request.repo.labels.values()):
        raise Refusal(409, "Label already exists")
    return 201, _label(request.forge.add_label(request.repo_name, name, color)), {}


# --- Hooks and protection ------------------------------------------------------


@route("GET", R + "/hooks")
def _hooks(request: Request) -> Answer:
    request.needs(MAINTAINER)
    return request.page(list(request.repo.hooks.values()), request.hook)


@route("POST", R + "/hooks")
def _add_hook(request: Request) -> Answer:
    request.needs(MAINTAINER)
    body, number = request.body, request.forge.new_id()
    events = [name for name, value in body.items() if name.endswith("_events") and value]
    hook = Hook(number, body["url"], body.get("token", ""), True, events, "gitlab")
    request.repo.hooks[number] = hook
    return 201, request.hook(hook), {}


def _hook(request: Request, id: str) -> Hook:  # noqa: A002 - as the path has it
    request.needs(MAINTAINER)
    if int(id) not in request.repo.hooks:
        raise Refusal(404, "404 Not found")
    return request.repo.hooks[int(id)]


@route("DELETE", R + "/hooks/{id}")
def _drop_hook(request: Request, id: str) -> Answer:  # noqa: A002 - as the path has it
    del request.repo.hooks[_hook(request, id).id]
    return 204, None, {}


@route("POST", R + "/hooks/{id}/test/{trigger}")
def _test_hook(request: Request, id: str, trigger: str) -> Answer:  # noqa: A002 - as the path has it
    assert trigger == "push_events"
    request.forge.try_hook(request.repo_name, _hook(request, id), request.who)
    return 201, {"message": "201 Created"}, {}


@route("GET", R + "/hooks/{id}/events")
def _hook_events(request: Request, id: str) -> Answer:  # noqa: A002 - as the path has it
    assert _hook(request, id)
    return request.page(request.forge.delivery_list, lambda each: each)


@route("GET", R + "/protected_branches")
def _protected(request: Request) -> Answer:
    return request.page(request.forge.protected.get(request.repo_name, []), lambda each: each)


@route("POST", R + "/protected_branches")
def _protect(request: Request) -> Answer:
    request.needs(MAINTAINER)
    body = request.body
    rule = {"id": request.forge.new_id(), "name": body["name"]}
    for name in ("push", "merge"):
        rule[f"{name}_access_levels"] = [{"access_level": body[f"{name}_access_level"]}]
    request.forge.protected.setdefault(request.repo_name, []).append(rule)
    return 201, rule, {}


def encoded(repo: str) -> str:
    """Return how a project is named in the path of the API."""
    return quote(repo, safe="")

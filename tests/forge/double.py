"""
A Forgejo on the loopback, with real bare git repositories behind it.

    with ForgejoDouble(tmp_path / "forge") as forge:
        url = forge.add_repo("acme/widgets", {"README.md": "hello"})    # a path: clone from it, push to it
        forge.api, forge.token                                            # of the account `bot`
        forge.review("acme/widgets", 1, "rejected", "not yet", author="ann")
        forge.settle()                                                    # every webhook is delivered

It keeps state and answers in the ways that surprise: see `api.py` beside it.
It runs in threads of its own, so tests of any kind can use it; in one with an
event loop that receives the webhooks itself, call `settle` by `asyncio.to_thread`.

`webhooks` is `normal`, `dropped` or `shuffled` (each three times, in any
order); `go_down("refused")` or `go_down("502")` is an outage until `come_back`.
"""

import contextlib
import hashlib
import hmac
import http.client
import json
import queue
import random
import re
import socket
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from reconciler import clock
from reconciler.core.adapter import Secret
from reconciler.core.model.specs import Forge
from tests.forge.api import answer
from tests.forge.routes import Answer
from tests.forge.state import CodeRepo, Comment, Hook, Label, Moved, PullTicket, Refusal, Review, Ticket, user

BOT = "bot"
_NO_COMMIT = "0" * 40


@dataclass(frozen=True)
class Delivery:
    id: str
    event: str
    kind: str
    hook: Hook
    body: bytes


class ForgejoDouble:
    """See the top of the file."""

    kind = "forgejo"
    sign = "#"
    """What stands before the number of a pull request."""

    def __init__(self, folder: Path, *, computing: int = 2, seed: int = 0) -> None:
        self.folder = folder
        self.computing = computing
        """How many requests it takes to know whether a pull request can be merged."""
        self.webhooks = "normal"
        self.largest_page = 50
        self.root = ""
        """Path that it is served below, such as `/git`."""
        self.now: Callable[[], datetime] = lambda: clock.now().replace(microsecond=0)
        self.repos: dict[str, CodeRepo] = {}
        self.tokens: dict[str, str] = {}
        """User by token."""
        self.requests: list[tuple[str, str]] = []
        """(method, path with query) of what the API was asked."""
        self.deliveries: list[tuple[str, str | None, int | None]] = []
        """(event, action, answer) of the webhooks that were sent; None: there was none."""
        self.lock = threading.RLock()
        self.broken: dict[str, tuple[int, dict[str, str]]] = {}
        """Answers (status, headers) instead of the real one, once each, by `METHOD path`."""
        self.always_broken: dict[str, int] = {}
        """Statuses that are answered instead, each time, by `METHOD path`."""
        self.odd: dict[str, Callable[[Any], Any]] = {}
        """What is made of the body of an answer, by `METHOD path`."""
        self.answers_502 = False
        self.outsiders: set[str] = set()
        """People who may not write: their reviews are not official, and nothing is assigned to them."""
        self.organisation_labels: set[str] = set()
        self.tokens_read_organisations = False
        """Whether they have a scope more than those that are asked for."""
        self.scopes: set[str] | None = None
        """Scopes of every token, such as `write:issue`; None for all."""
        self.delivery_list: list[dict[str, Any]] = []
        """What a forge that lists deliveries says of them, newest first."""
        self.weak: set[str] = set()
        """Accounts that may only read, and administer nothing."""
        self.tokens_are_limited = False
        """Whether tokens are for some repositories only, and may not read whose they are."""
        self.notices_merges = self.kind in {"github", "gitlab"}
        """Whether a pull request is merged once its commits are in its base branch, however that came."""
        self.cuts_merges_off = False
        """Whether merges are done in git, and no further: the pull request stays open, and computes."""
        self._ids = iter(range(1, 10**9))
        self._random = random.Random(seed)
        self._queue: queue.Queue[Delivery | None] = queue.Queue()
        self._stopped = threading.Event()
        self._server: _Server | None = None
        self.port = 0
        self.token = self.add_user(BOT)

    def __enter__(self) -> Self:
        self.come_back()
        self._threads = [threading.Thread(target=work) for work in (self._watch, self._send)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._queue.put(None)
        for thread in self._threads:
            thread.join()
        self._close_server()

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.root}/api/v1"

    def answer(self, method: str, target: str, headers: Mapping[str, str], raw: bytes) -> Answer:
        """Answer a request."""
        return answer(self, method, target, headers, raw)

    def spec(self, repo: str, token: Secret, webhook_secret: Secret | None = None) -> Forge:
        """Return what stands in a repo's spec."""
        return Forge(api=self.api, repo=repo, token=token, webhook_secret=webhook_secret)

    def add_user(self, name: str) -> str:
        """Let there be a user; return a token."""
        token = hashlib.sha1(f"token of {name}".encode()).hexdigest()
        self.tokens[token] = name
        return token

    def add_repo(self, name: str, files: Mapping[str, str] | None = None) -> str:
        """Make a repository with a first commit on `main`; return its URL, which is its path."""
        repo = CodeRepo(name, self.folder / f"{name}.git")
        repo.folder.mkdir(parents=True)
        repo.git("init", "-q", "--bare", "--initial-branch=main")
        repo.commit("main", files or {"README.md": f"{name}\n"}, "Begin", "ann")
        repo.heads = repo.branches()
        with self.lock:
            self.repos[name] = repo
        return str(repo.folder)

    # --- Outages -----------------------------------------------------------

    def go_down(self, how: str) -> None:
        """Refuse connections (`refused`), or answer each request with 502 (`502`)."""
        if how == "502":
            self.answers_502 = True
        else:
            self._close_server()

    def come_back(self) -> None:
        self.answers_502 = False
        if self._server is None:
            self._server = _Server(self, self.port)
            self.port = self._server.server_address[1]

    def _close_server(self) -> None:
        if self._server is not None:
            self._server.stop()
            self._server = None

    # --- People ------------------------------------------------------------

    def open_issue(
        self, repo: str, title: str, body: str = "", *, author: str = "ann", labels: tuple[str, ...] = ()
    ) -> int:
        with self.lock:
            ticket = self._ticket(Ticket, repo, title, body, author)
            self.tell_issue(repo, ticket, "opened", author)
            if labels:
                self.label_issue(repo, ticket.number, *labels, author=author)
            return ticket.number

    def edit_issue(self, repo: str, number: int, *, author: str = "ann", **fields: str) -> None:
        """Change the title or the body of an issue or a pull request."""
        with self.lock:
            ticket = self.repos[repo].tickets[number]
            changes = {name: {"from": getattr(ticket, name)} for name in fields}
            for name, value in fields.items():
                setattr(ticket, name, value)
            self.touch(ticket)
            self.tell_issue(repo, ticket, "edited", author, changes=changes)

    def label_issue(self, repo: str, number: int, *names: str, author: str = "ann") -> None:
        """Put labels on an issue or a pull request; those that are not there yet are made."""
        with self.lock:
            known = {label.name: label for label in self.repos[repo].labels.values()}
            for name in names:
                label = known.get(name) or self.add_label(repo, name)
                self.put_label(self.repos[repo].tickets[number], label)
            self.tell_issue(repo, self.repos[repo].tickets[number], "label_updated", author)

    def unlabel_issue(self, repo: str, number: int, *names: str, author: str = "ann") -> None:
        with self.lock:
            ticket = self.repos[repo].tickets[number]
            ticket.labels = [label for label in ticket.labels if label.name not in names]
            self.touch(ticket)
            self.tell_issue(repo, ticket, "label_updated", author)

    def close_issue(self, repo: str, number: int, *, author: str = "ann") -> None:
        with self.lock:
            self.set_state(repo, self.repos[repo].tickets[number], "closed", author)

    def reopen_issue(self, repo: str, number: int, *, author: str = "ann") -> None:
        with self.lock:
            self.set_state(repo, self.repos[repo].tickets[number], "open", author)

    close_pull = close_issue
    reopen_pull = reopen_issue

    def comment(self, repo: str, number: int, body: str, *, author: str = "ann") -> int:
        """Comment on an issue or a pull request; return the comment's id."""
        with self.lock:
            ticket = self.repos[repo].tickets[number]
            comment = Comment(next(self._ids), author, body, self.now(), self.now())
            ticket.comments.append(comment)
            self.touch(ticket)
            self.tell_comment(repo, ticket, comment, "created", author)
            return comment.id

    def edit_comment(self, repo: str, number: int, comment: int, body: str, *, author: str = "ann") -> None:
        """Edit a comment: `updated_at` of what it is on stays."""
        with self.lock:
            ticket = self.repos[repo].tickets[number]
            edited = next(each for each in ticket.comments if each.id == comment)
            edited.body, edited.updated = body, self.now()
            self.tell_comment(repo, ticket, edited, "edited", author)

    def delete_comment(self, repo: str, number: int, comment: int, *, author: str = "ann") -> None:
        """Delete a comment, likewise."""
        with self.lock:
            ticket = self.repos[repo].tickets[number]
            gone = next(each for each in ticket.comments if each.id == comment)
            ticket.comments.remove(gone)
            self.tell_comment(repo, ticket, gone, "deleted", author)

    def open_pull(
        self, repo: str, branch: str, title: str, *, body: str = "", base: str = "main", author: str = "ann"
    ) -> int:
        with self.lock:
            heads = self.repos[repo].branches()
            pull = self._ticket(PullTicket, repo, title, body, author)
            pull.branch, pull.base, pull.head, pull.base_head = branch, base, heads[branch], heads[base]
            pull.computing = self.computing
            self.tell_issue(repo, pull, "opened", author)
            return pull.number

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
        """
        Review a pull request; return the review's id.

        `verdict` is `approved`, `rejected` or `comment`; `comments` are (path, line, text).
        """
        states = {"approved": "APPROVED", "rejected": "REQUEST_CHANGES", "comment": "COMMENT"}
        with self.lock:
            pull = self.repos[repo].pull(number)
            review = Review(next(self._ids), author, states[verdict], body, pull.head, self.now())
            review.comments = [
                {"id": next(self._ids), "path": path, "position": line, "body": text}
                for path, line, text in comments
            ]
            pull.reviews.append(review)
            self.touch(pull)
            self.tell_review(repo, pull, verdict, body, author)
            return review.id

    def dismiss_review(self, repo: str, number: int, review: int) -> None:
        """Dismiss a review: no webhook, and no change of `updated_at`."""
        with self.lock:
            for each in self.repos[repo].pull(number).reviews:
                each.dismissed = each.dismissed or each.id == review

    def push_as_person(
        self, repo: str, branch: str, files: Mapping[str, str], *, author: str = "ann", message: str = "Work"
    ) -> str:
        """Commit to a branch (made from `main` if it is not there) and push; return the commit."""
        while True:
            with contextlib.suppress(Moved), self.lock:
                at = self.repos[repo]
                heads = at.branches()
                there = heads.get(branch)
                base = there or heads.get("main")
                commit = at.commit(branch, files, message, author, base, old=there or "")
                self.notice(author)
                return commit
            self._stopped.wait(0.1)  # somebody else pushed: once more, on top of that

    def delete_branch(self, repo: str, branch: str, *, author: str = "ann") -> None:
        with self.lock:
            self.repos[repo].git("update-ref", "-d", f"refs/heads/{branch}")
            self.notice(author)

    def merge_pull(self, repo: str, number: int, *, author: str = "ann", style: str = "merge") -> str:
        """Merge as a person does who waited until it could be done; return the new head of the base."""
        with self.lock:
            pull = self.repos[repo].pull(number)
            pull.computing = 0
            return self.merge(repo, pull, style, author)

    def set_status(
        self, repo: str, commit: str, state: str, *, context: str = "ci/test", description: str = ""
    ) -> None:
        """Set a commit status; Forgejo has no webhook for that."""
        with self.lock:
            self.add_status(repo, commit, {"state": state, "context": context, "description": description})

    def settle(self) -> None:
        """Wait until every webhook so far was sent."""
        self.notice()
        self.wait_for_webhooks()

    def wait_for_webhooks(self) -> None:
        self._queue.join()

    # --- What both people and the API do -----------------------------------

    def _ticket(self, kind: type, repo: str, title: str, body: str, author: str) -> Any:
        number = len(self.repos[repo].tickets) + 1
        ticket = kind(number, title, body, author, self.now(), self.now())
        self.repos[repo].tickets[number] = ticket
        return ticket

    def touch(self, ticket: Ticket) -> None:
        ticket.updated = self.now()

    def new_id(self) -> int:
        return next(self._ids)

    def add_label(self, repo: str, name: str, color: str = "#cccccc", *, exclusive: bool = False) -> Label:
        label = Label(next(self._ids), name, color, exclusive)
        self.repos[repo].labels[label.id] = label
        return label

    def put_label(self, ticket: Ticket, label: Label) -> None:
        ticket.labels = [
            old
            for old in ticket.labels
            if old.name != label.name and (label.scope is None or old.scope != label.scope)
        ]
        ticket.labels.append(label)
        self.touch(ticket)

    def set_state(self, repo: str, ticket: Ticket, state: str, author: str) -> None:
        if ticket.state != state:
            ticket.state = state
            ticket.closed = self.now() if state == "closed" else None
            kind = "close" if state == "closed" else "reopen"
            ticket.timeline.append({"id": next(self._ids), "type": kind, "user": user(author), "body": ""})
            self.touch(ticket)
            self.tell_issue(repo, ticket, "closed" if state == "closed" else "reopened", author)

    def add_status(self, repo: str, commit: str, fields: Mapping[str, str]) -> dict[str, Any]:
        status = {
            "id": next(self._ids),
            "sha": commit,
            "status": fields["state"],
            "context": fields.get("context") or "default",
            "description": fields.get("description", ""),
            "target_url": fields.get("target_url", ""),
        }
        self.repos[repo].statuses.append(status)
        return status

    def conflicts(self, repo: str, pull: PullTicket) -> bool:
        at = self.repos[repo]
        tree = at.git("merge-tree", "--write-tree", pull.base_head, pull.head, ok=(0, 1))
        return "\n" in tree

    def merge(self, repo: str, pull: PullTicket, style: str, author: str) -> str:
        """Merge in git: the base branch moves."""
        at = self.repos[repo]
        if self.conflicts(repo, pull):
            raise Refusal(409, "", {"Style": style, "StdOut": "CONFLICT (content)", "StdErr": "", "Err": {}})
        if style == "rebase":
            pull.merge_commit = at.rebase(pull.base, pull.base_head, pull.head)
        else:
            tree = at.git("merge-tree", "--write-tree", pull.base_head, pull.head)
            parents = [pull.base_head, pull.head] if style == "merge" else [pull.base_head]
            pull.merge_commit = at.put(pull.base, tree, parents, f"{pull.title} (#{pull.number})\n", author)
        if self.cuts_merges_off:
            self.notice(author)
            # Of commits that are in the base it computes for ever; others can be merged again, to nothing.
            pull.computing = 10**6 if style == "merge" else 0
            raise Refusal(500, "")
        self.count_as_merged(repo, pull, pull.merge_commit, author)
        self.notice(author)
        for match in re.finditer(r"(?i)\b(?:closes|fixes) #(\d+)", pull.body):
            if ticket := at.tickets.get(int(match[1])):
                self.set_state(repo, ticket, "closed", author)
        return pull.merge_commit

    def count_as_merged(self, repo: str, pull: PullTicket, commit: str, author: str) -> None:
        pull.merge_commit = commit
        pull.state, pull.merged, pull.merged_by = "closed", True, author
        self.touch(pull)
        self.tell_issue(repo, pull, "closed", author)

    # --- What happens to the git repositories ------------------------------

    def notice(self, author: str | None = None) -> None:
        """Look what was pushed since the last time, and tell it."""
        with self.lock:
            for repo in self.repos.values():
                before, repo.heads = repo.heads, repo.branches()
                if before is repo.heads:
                    continue
                for branch in sorted(before.keys() | repo.heads.keys()):
                    old, new = before.get(branch), repo.heads.get(branch)
                    if old != new:
                        self._moved(repo, branch, old, new, author)

    def _moved(
        self, repo: CodeRepo, branch: str, old: str | None, new: str | None, author: str | None
    ) -> None:
        names = {"ref": f"refs/heads/{branch}", "ref_type": "branch"}
        if new is None:
            self.tell(repo.name, "delete", "delete", {**names, "pusher_type": "user"}, author or BOT)
        else:
            pusher = author or repo.commit_fields(new)[0]
            if old is None:
                self.tell(repo.name, "create", "create", {**names, "sha": new}, pusher)
            body = {"ref": names["ref"], "before": old or _NO_COMMIT, "after": new, "commits": []}
            self.tell(repo.name, "push", "push", {**body, "pusher": user(pusher)}, pusher)
        for pull in (pull for pull in repo.pulls if pull.state == "open"):
            if pull.base == branch and new is not None:
                pull.base_head, pull.computing = new, self.computing
                if self.notices_merges and repo.has_in(branch, pull.head):
                    self.count_as_merged(repo.name, pull, new, author or BOT)
            if pull.branch == branch:
                self._head_moved(repo, pull, new, author or BOT)

    def _head_moved(self, repo: CodeRepo, pull: PullTicket, new: str | None, author: str) -> None:
        if new is None:
            pull.branch_is_gone = True
            self.set_state(repo.name, pull, "closed", author)
            return
        pull.head, pull.computing = new, self.computing
        pull.timeline.append({"id": next(self._ids), "type": "pull_push", "user": user(author), "body": "{}"})
        self.touch(pull)
        self.tell_issue(repo.name, pull, "synchronized", author)

    def _watch(self) -> None:
        while not self._stopped.wait(0.05):
            self.notice()

    # --- Webhooks ----------------------------------------------------------

    def tell_issue(self, repo: str, ticket: Ticket, action: str, author: str, **more: object) -> None:
        """Tell what happened to an issue or a pull request."""
        is_pull = isinstance(ticket, PullTicket)
        event = "pull_request" if is_pull else "issues"
        kinds = {"synchronized": f"{event}_sync", "label_updated": f"{event.removesuffix('s')}_label"}
        body = {"action": action, "number": ticket.number, **more}
        body |= {"pull_request" if is_pull else "issue": self.shown(repo, ticket)}
        self.tell(repo, event, kinds.get(action, event), body, author)

    def tell_comment(self, repo: str, ticket: Ticket, comment: Comment, action: str, author: str) -> None:
        is_pull = isinstance(ticket, PullTicket)
        body = {"action": action, "is_pull": is_pull, "issue": {"number": ticket.number}}
        body |= {"comment": {"id": comment.id, "body": comment.body, "user": user(comment.author)}}
        kind = "pull_request_comment" if is_pull else "issue_comment"
        self.tell(repo, "issue_comment", kind, body, author)

    def tell_review(self, repo: str, pull: PullTicket, verdict: str, content: str, author: str) -> None:
        body = {"action": "reviewed", "number": pull.number, "pull_request": self.shown(repo, pull)}
        body |= {"review": {"type": f"pull_request_review_{verdict}", "content": content}}
        self.tell(repo, f"pull_request_{verdict}", f"pull_request_review_{verdict}", body, author)

    def shown(self, repo: str, ticket: Ticket) -> dict[str, Any]:
        """Return a ticket as payloads have it: little of it, since little of it may be believed."""
        return {"number": ticket.number, "title": ticket.title, "state": ticket.state}

    def tell(self, repo: str, event: str, kind: str, body: Mapping[str, Any], author: str) -> None:
        whole = {**body, "repository": {"full_name": repo}, "sender": user(author)}
        text = json.dumps(whole, indent=2).encode()
        for hook in self.repos[repo].hooks.values():
            if hook.active and self.is_subscribed(hook, event):
                self._enqueue(event, kind, hook, text)

    def try_hook(self, repo: str, hook: Hook, author: str) -> None:
        """Send the push that tries a hook: it moved nothing."""
        head = self.repos[repo].branches()["main"]
        body = {"ref": "refs/heads/main", "before": head, "after": head, "commits": []}
        whole = {**body, "repository": {"full_name": repo}, "sender": user(author)}
        self._enqueue("push", "push", hook, json.dumps(whole, indent=2).encode())

    def _enqueue(self, event: str, kind: str, hook: Hook, text: bytes) -> None:
        delivery = str(uuid.UUID(int=self._random.getrandbits(128)))
        self._queue.put(Delivery(delivery, event, kind, hook, text))

    def _send(self) -> None:
        """Send what is to be sent, like the forge: at most once, or as a test wants it."""
        while (first := self._queue.get()) is not None:
            batch = [first]
            with contextlib.suppress(queue.Empty):
                while self.webhooks == "shuffled" and not self._stopped.is_set():
                    if (more := self._queue.get(timeout=0.1)) is None:
                        return
                    batch.append(more)
            for delivery in self._copies(batch):
                self._post(delivery)
            for _ in batch:
                self._queue.task_done()

    def _copies(self, batch: list[Delivery]) -> list[Delivery]:
        """Return what is sent of a batch; of three copies the last has an id of its own, as a replay has."""
        if self.webhooks == "dropped":
            return []
        if self.webhooks == "normal":
            return batch
        again = [Delivery(f"{one.id[:-4]}cafe", one.event, one.kind, one.hook, one.body) for one in batch]
        copies = [*batch, *batch, *again]
        self._random.shuffle(copies)
        return copies

    def _post(self, delivery: Delivery) -> None:
        to = urlsplit(delivery.hook.url)
        connection = http.client.HTTPConnection(to.hostname or "", to.port, timeout=5)
        status = None
        try:
            connection.request("POST", to.path, delivery.body, self.headers(delivery))
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException):
            pass  # logged on a page of the forge, and that is all
        finally:
            connection.close()
        action = json.loads(delivery.body).get("action")
        self.deliveries.append((delivery.event, action, status))

    def headers(self, delivery: Delivery) -> dict[str, str]:
        """Return the headers of a delivery, as Forgejo has them."""
        known = {"Content-Type": "application/json"}
        sha256, sha1 = signature(delivery, "sha256"), signature(delivery, "sha1")
        for family in ("Forgejo", "Gitea", "Gogs", "GitHub"):
            known[f"X-{family}-Delivery"] = delivery.id
            known[f"X-{family}-Event"] = delivery.event
            known[f"X-{family}-Event-Type"] = delivery.kind
            if family != "GitHub":
                known[f"X-{family}-Signature"] = sha256
        return known | {"X-Hub-Signature": f"sha1={sha1}", "X-Hub-Signature-256": f"sha256={sha256}"}

    def is_subscribed(self, hook: Hook, event: str) -> bool:
        """Return whether a hook gets an event; `issues` and `pull_request` bring all of their kind."""
        if event.startswith("pull_request"):
            return "pull_request" in hook.events
        return ("issues" if event == "issue_comment" else event) in hook.events


def signature(delivery: Delivery, algorithm: str) -> str:
    """Return what a delivery is signed with; empty without a secret."""
    secret = delivery.hook.secret.encode()
    return hmac.new(secret, delivery.body, algorithm).hexdigest() if secret else ""


# --- HTTP ------------------------------------------------------------------


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # `server_close` waits for them

    def __init__(self, double: ForgejoDouble, port: int) -> None:
        self.double = double
        self.connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), _Handler)
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def stop(self) -> None:
        self.shutdown()
        self._thread.join()
        for connection in tuple(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that hang up."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.connections.add(self.connection)

    def finish(self) -> None:
        self.server.connections.discard(self.connection)
        super().finish()

    def log_message(self, *_: object) -> None:
        """Keep the output of the tests clean."""

    def _answer(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, body, more = self.server.double.answer(self.command, self.path, self.headers, raw)
        text = b"" if body is None else json.dumps(body).encode()
        self.send_response_only(status)
        date = self.date_time_string(self.server.double.now().timestamp())
        for name, value in {"Date": date, **more}.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Type", "application/json;charset=utf-8")
            self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = _answer  # noqa: N815 - names of the base class


@contextlib.contextmanager
def outage(forge: ForgejoDouble, how: str) -> Iterator[None]:
    """Let the forge be down for as long as a block lasts."""
    forge.go_down(how)
    try:
        yield
    finally:
        forge.come_back()

"""
What people do at a forge in the contract tests, by the API or in memory.
"""

import base64
import itertools
from typing import Any
from urllib.parse import quote

import httpx2

from reconciler.controller.ports import Forges
from reconciler.core.adapter import Secret
from reconciler.core.model.specs import Forge
from tests.forge.gitlab import FIRST


class ApiHand:
    """Acts by the API with a token: at the double, and at a real Forgejo."""

    notices_merges = False
    """Whether a merge cannot be done in git and nowhere else."""

    def __init__(self, forges: Forges, forge: Forge, token: str) -> None:
        self.forges, self.forge = forges, forge
        self._http = httpx2.Client(
            base_url=forge.api, headers={"Authorization": f"token {token}"}, trust_env=False, timeout=60
        )
        self._count = itertools.count()

    def close_connection(self) -> None:
        self._http.close()

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        reply = self._http.request(method, f"/repos/{self.forge.repo}{path}", json=body)
        assert reply.is_success, f"{method} {path}: {reply.status_code} {reply.text}"
        return reply.json() if reply.content else None

    def push(self, branch: str) -> str:
        """Push a commit to a branch, a new one from `main`; return the commit."""
        path = f"{branch.replace('/', '-')}-{next(self._count)}.txt"
        names = {each["name"] for each in self.ask("GET", "/branches")}
        to = {"branch": branch} if branch in names else {"branch": "main", "new_branch": branch}
        body = {"content": base64.b64encode(b"text\n").decode(), "message": f"Add {path}", **to}
        return self.ask("POST", f"/contents/{path}", body)["commit"]["sha"]

    def comment(self, number: int, text: str) -> None:
        self.ask("POST", f"/issues/{number}/comments", {"body": text})

    def comments(self, number: int) -> list[str]:
        return [comment["body"] for comment in self.ask("GET", f"/issues/{number}/comments")]

    def open_issue(self, title: str, label: str | None = None) -> int:
        ids = [self.ask("POST", "/labels", {"name": label, "color": "#00aabb"})["id"]] if label else []
        return self.ask("POST", "/issues", {"title": title, "body": "Please.", "labels": ids})["number"]

    def close(self, number: int) -> None:
        self.ask("PATCH", f"/issues/{number}", {"state": "closed"})

    def edit(self, number: int, **fields: str) -> None:
        self.ask("PATCH", f"/pulls/{number}", fields)

    def set_status(self, commit: str, state: str, context: str) -> None:
        self.ask("POST", f"/statuses/{commit}", {"state": state, "context": context, "description": "said"})

    def review(self, number: int, text: str) -> None:
        self.ask("POST", f"/pulls/{number}/reviews", {"event": "COMMENT", "body": text})

    def land(self, number: int, style: str) -> None:
        """Do in git what a merge does that is cut off: the one file of a pull request comes to `main`."""
        [file], [twin] = (
            self.ask("GET", f"/pulls/{number}/files"),
            self.ask("GET", f"/pulls/{number}/commits"),
        )
        author, message = twin["commit"]["author"], twin["commit"]["message"]
        body = {
            "content": base64.b64encode(b"text\n").decode(),
            "branch": "main",
            "message": f"It (#{number})",
        }
        if style == "rebase":
            who, date = {"name": author["name"], "email": author["email"]}, author["date"]
            body |= {"message": message.strip(), "author": who, "dates": {"author": date}}
        self.ask("POST", f"/contents/{file['filename']}", body)

    def commits(self) -> list[str]:
        """Return the commits of `main`."""
        return [commit["sha"] for commit in self.ask("GET", "/commits?sha=main")]


class GitHubHand(ApiHand):
    """Acts at the GitHub double by its API, and pushes by git."""

    notices_merges = True

    def __init__(self, forges: Forges, github: Any, repo: str, token: Secret) -> None:
        super().__init__(forges, github.spec(repo, token), github.token)
        self._github = github
        accepts = {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28"}
        self._http.headers |= {**accepts, "Authorization": f"Bearer {github.token}"}

    def push(self, branch: str) -> str:
        path = f"{branch.replace('/', '-')}-{next(self._count)}.txt"
        return self._github.push_as_person(self.forge.repo, branch, {path: "text\n"}, author="bot")

    def open_issue(self, title: str, label: str | None = None) -> int:
        labels = [label] if label else []
        return self.ask("POST", "/issues", {"title": title, "body": "Please.", "labels": labels})["number"]


class GitLabHand(ApiHand):
    """Acts at the GitLab double by its API, and pushes by git."""

    notices_merges = True

    def __init__(self, forges: Forges, gitlab: Any, repo: str, token: Secret) -> None:
        super().__init__(forges, gitlab.spec(repo, token), gitlab.token)
        self._gitlab = gitlab
        self._http.headers |= {"Authorization": f"Bearer {gitlab.token}"}

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        reply = self._http.request(method, f"/projects/{quote(self.forge.repo, safe='')}{path}", json=body)
        assert reply.is_success, f"{method} {path}: {reply.status_code} {reply.text}"
        return reply.json() if reply.content else None

    def push(self, branch: str) -> str:
        path = f"{branch.replace('/', '-')}-{next(self._count)}.txt"
        return self._gitlab.push_as_person(self.forge.repo, branch, {path: "text\n"}, author="bot")

    def comment(self, number: int, text: str) -> None:
        self.ask("POST", f"/{self._kind(number)}/{number}/notes", {"body": text})

    def comments(self, number: int) -> list[str]:
        notes = self.ask("GET", f"/{self._kind(number)}/{number}/notes?sort=asc")
        return [note["body"] for note in notes if not note["system"]]

    def _kind(self, number: int) -> str:
        return "merge_requests" if number >= FIRST else "issues"

    def open_issue(self, title: str, label: str | None = None) -> int:
        labels = [label] if label else []
        return self.ask("POST", "/issues", {"title": title, "description": "Please.", "labels": labels})[
            "iid"
        ]

    def close(self, number: int) -> None:
        self.ask("PUT", f"/{self._kind(number)}/{number}", {"state_event": "close"})

    def edit(self, number: int, **fields: str) -> None:
        named = {"description" if name == "body" else name: value for name, value in fields.items()}
        self.ask("PUT", f"/{self._kind(number)}/{number}", named)

    def set_status(self, commit: str, state: str, context: str) -> None:
        words = {"failure": "failed"}
        body = {"state": words.get(state, state), "name": context, "description": "said"}
        self.ask("POST", f"/statuses/{commit}", body)

    def review(self, number: int, text: str) -> None:
        position = {"position_type": "text", "new_path": "README.md", "new_line": 1}
        self.ask("POST", f"/merge_requests/{number}/discussions", {"body": text, "position": position})


class FakeHand:
    """Acts on forges in memory."""

    notices_merges = True

    def __init__(self, forges: Any, forge: Forge) -> None:
        self.forges, self.forge = forges, forge
        self._site = forges.at(forge)

    def close_connection(self) -> None:
        """Nothing to close."""

    def push(self, branch: str) -> str:
        return self._site.push(branch)

    def comment(self, number: int, text: str) -> None:
        self._site.comment(number, text)

    def comments(self, number: int) -> list[str]:
        return [comment.body for comment in self._site.comments if comment.number == number]

    def open_issue(self, title: str, label: str | None = None) -> int:
        return self._site.open_issue(title, "Please.", labels=(label,) if label else ())

    def close(self, number: int) -> None:
        self._site.close(number)

    def edit(self, number: int, **fields: str) -> None:
        self._site.edit(number, **fields)

    def set_status(self, commit: str, state: str, context: str) -> None:
        self._site.set_status(commit, state, context, "said")

    def review(self, number: int, text: str) -> None:
        self._site.review(number, "comment", text)

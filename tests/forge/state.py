"""
What the double keeps: people, tickets, hooks, and the git repositories.
"""

import contextlib
import hashlib
import os
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

_TICK = 50_000_000
"""Nanoseconds by which the times of files may be apart from the clock: they are of the kernel's ticks."""


def _renamed_at(folders: Iterable[Path]) -> dict[Path, int]:
    """Return when something in each folder was renamed last, in nanoseconds; 0 where there is none."""
    found = dict.fromkeys(folders, 0)
    for folder in found:
        with contextlib.suppress(OSError):
            found[folder] = folder.stat().st_mtime_ns
    return found


@dataclass
class Label:
    id: int
    name: str
    color: str
    exclusive: bool

    @property
    def scope(self) -> str | None:
        return self.name.rpartition("/")[0] if self.exclusive else None


@dataclass
class Comment:
    id: int
    author: str
    body: str
    created: datetime
    updated: datetime


@dataclass
class Review:
    id: int
    author: str
    state: str
    body: str
    commit: str
    submitted: datetime
    comments: list[dict[str, Any]] = field(default_factory=list)
    dismissed: bool = False


@dataclass
class Ticket:
    """An issue; or a pull request, which is one too."""

    number: int
    title: str
    body: str
    author: str
    created: datetime
    updated: datetime
    state: str = "open"
    closed: datetime | None = None
    labels: list[Label] = field(default_factory=list)
    comments: list[Comment] = field(default_factory=list)
    timeline: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class PullTicket(Ticket):
    branch: str = ""
    base: str = ""
    head: str = ""
    """Last that was seen of the branch; stays when the branch goes."""
    base_head: str = ""
    branch_is_gone: bool = False
    is_from_fork: bool = False
    draft: bool = False
    """Where drafts have a flag; elsewhere the title says so."""
    computing: int = 0
    """For how many requests more it is not known whether it can be merged."""
    merged: bool = False
    merged_by: str | None = None
    merge_commit: str | None = None
    reviews: list[Review] = field(default_factory=list)
    teams: list[str] = field(default_factory=list)
    """That are asked for a review."""


@dataclass
class Hook:
    id: int
    url: str
    secret: str
    active: bool
    events: list[str]
    kind: str = "forgejo"
    content_type: str = "json"
    branch_filter: str = ""


@dataclass
class CodeRepo:
    """A repository of the forge: what it keeps, and the bare git repository."""

    name: str
    folder: Path
    tickets: dict[int, Ticket] = field(default_factory=dict)
    labels: dict[int, Label] = field(default_factory=dict)
    hooks: dict[int, Hook] = field(default_factory=dict)
    protections: list[dict[str, Any]] = field(default_factory=list)
    statuses: list[dict[str, Any]] = field(default_factory=list)
    heads: Mapping[str, str] = field(default_factory=dict)
    """Branches as last seen."""
    has_issues: bool = True
    """Whether issues are switched on."""
    allows_manual_merges: bool = False
    """Whether a pull request may be called merged whose commits came to its base otherwise."""
    hides_next: bool = False
    """Whether the next list of pull requests is empty, as if one were opened just after it."""
    _branches: Mapping[str, str] = field(default_factory=dict)
    _stamp: Mapping[Path, int] | None = None
    """When something was renamed last in each of their folders; None if that may be again at that time."""
    _commits: dict[str, Sequence[str]] = field(default_factory=dict)

    @property
    def pulls(self) -> list[PullTicket]:
        return [ticket for ticket in self.tickets.values() if isinstance(ticket, PullTicket)]

    def pull(self, number: int) -> PullTicket:
        ticket = self.tickets[number]
        assert isinstance(ticket, PullTicket)
        return ticket

    def git(self, *args: str, ok: tuple[int, ...] = (0,), stdin: bytes = b"", **env: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(self.folder), *args],
            input=stdin,
            capture_output=True,
            check=False,
            env={**_ENV, **env},
        )
        assert done.returncode in ok, f"{args}: {done.stderr!r}"
        return done.stdout.decode().strip()

    def commit_fields(self, commit: str) -> Sequence[str]:
        """Return author, time, parents and message of a commit."""
        if commit not in self._commits:
            line = self.git("log", "-1", "--format=%an%x00%aI%x00%P%x00%B", commit)
            self._commits[commit] = line.split("\0")
        return self._commits[commit]

    def has_in(self, branch: str, commit: str) -> bool:
        """Return whether a branch has a commit."""
        return self.git("branch", "--list", branch, "--contains", commit, ok=(0, 129)) != ""

    def branches(self) -> Mapping[str, str]:
        """
        Return what every branch points at, read from the files: this is asked all the time.

        It is the very same mapping as long as nothing in the folders of these files was renamed, which is
        how git writes them.
        """
        if self._stamp is None or self._stamp != _renamed_at(self._stamp):
            now, stamp = time.time_ns(), _renamed_at(self._branch_folders())
            self._branches = self._read_branches()
            self._stamp = stamp if max(stamp.values()) < now - _TICK else None
        return self._branches

    def _branch_folders(self) -> list[Path]:
        """Return the folders that the files with branches are in; packed ones are beside `refs`."""
        heads = self.folder / "refs/heads"
        return [self.folder, *(Path(folder) for folder, _, _ in os.walk(heads))]

    def _read_branches(self) -> dict[str, str]:
        found = {}
        with contextlib.suppress(OSError):
            for line in (self.folder / "packed-refs").read_text().splitlines():
                commit, _, name = line.partition(" ")
                if name.startswith("refs/heads/"):
                    found[name.removeprefix("refs/heads/")] = commit
        heads = self.folder / "refs/heads"
        for path in heads.rglob("*"):
            if path.suffix != ".lock" and path.is_file():
                with contextlib.suppress(OSError):
                    found[path.relative_to(heads).as_posix()] = path.read_text().strip()
        return found

    def commit(
        self,
        branch: str,
        files: Mapping[str, str],
        message: str,
        author: str,
        parent: str | None = None,
        *,
        at: str = "",
        old: str | None = None,
    ) -> str:
        """Commit files to a branch in somebody's name, made if need be. Raises Moved as `put` does."""
        parent = parent or self.branches().get(branch)
        with tempfile.TemporaryDirectory() as folder:
            env = {**_identity(author), "GIT_INDEX_FILE": f"{folder}/index"}
            if parent:
                self.git("read-tree", parent, **env)
            for path, text in files.items():
                blob = self.git("hash-object", "-w", "--stdin", stdin=text.encode())
                self.git("update-index", "--add", "--cacheinfo", f"100644,{blob},{path}", **env)
            tree = self.git("write-tree", **env)
        return self.put(branch, tree, [parent] if parent else [], message, author, at=at, old=old)

    def rebase(self, branch: str, base: str, head: str) -> str:
        """Put a twin of each commit of a head on a branch; return the last."""
        for sha in self.git("rev-list", "--reverse", f"{base}..{head}").split():
            tree = self.git("merge-tree", "--write-tree", base, sha)
            author, at, message = self.git("log", "-1", "--format=%an%x00%aI%x00%B", sha).split("\0")
            base = self.put(branch, tree, [base], f"{message}\n", author, at=at)
        return base

    def put(
        self,
        branch: str,
        tree: str,
        parents: list[str],
        message: str,
        author: str,
        *,
        at: str = "",
        old: str | None = None,
    ) -> str:
        """Put a commit on a branch. Raises Moved if that is not at `old` (empty: not there), or is moving."""
        args = [word for parent in parents for word in ("-p", parent)]
        dated = {"GIT_AUTHOR_DATE": at} if at else {}
        commit = self.git(
            "commit-tree", tree, *args, stdin=message.encode(), **{**_identity(author), **dated}
        )
        ref = f"refs/heads/{branch}"
        try:
            self.git("update-ref", ref, commit, *([] if old is None else [old]))
        except AssertionError as error:
            raise Moved(str(error)) from error
        return commit


class Moved(Exception):
    """A branch is not where it was, or is being moved: who pushes looks again."""


@dataclass
class Refusal(Exception):
    """An answer of the API that is not what was asked for."""

    status: int
    message: str
    body: Mapping[str, Any] | None = None
    """In place of the message."""


def user(name: str) -> dict[str, Any]:
    return {"id": int(hashlib.sha1(name.encode()).hexdigest()[:6], 16), "login": name, "username": name}


_ENV = {
    "PATH": os.environ["PATH"],
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
}


def _identity(name: str) -> dict[str, str]:
    who = {"NAME": name, "EMAIL": f"{name}@example.org"}
    return {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in who.items()}

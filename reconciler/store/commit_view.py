"""
Commits and files of the fleet's repository, as people are shown them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain

from reconciler.core.errors import NotFound, SpecError
from reconciler.core.model.status import Status
from reconciler.core.times import time_at
from reconciler.git.objects import GitTree, present
from reconciler.git.repository import Repository
from reconciler.store import statuses
from reconciler.store.layout import status_paths

MOST_PATCH = 1024 * 1024
"""Bytes of a patch that are kept."""
_LARGEST_FILE = 1024 * 1024
_FORMAT = "%H%x00%P%x00%an <%ae>%x00%cn <%ce>%x00%at%x00%ct%x00%B"

_PATCH = (
    *("log", "--max-count=1", "--format=", "--patch", "--find-renames"),
    *("--first-parent", "-m", "--no-ext-diff", "--no-textconv"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitView:
    """A commit with what it changed."""

    commit: str
    parents: tuple[str, ...]
    author: str
    """Name and address."""
    committer: str
    authored_at: datetime
    committed_at: datetime
    message: str
    patch: str
    """As `git diff` prints it against the first parent, cut where it is too long."""
    is_cut: bool


@dataclass(frozen=True, slots=True)
class FileView:
    """A file at a commit."""

    text: str
    revision: str
    """Commit it was read at."""
    changed: str
    """Commit that changed it last; empty if history does not tell."""


async def view_commit(repository: Repository, branches: Sequence[str], commit: str) -> CommitView:
    """
    Return a commit of one of these branches by its id, or the beginning of it.

    Raises NotFound if there is none on them: a repository may hold what was never meant for others.
    """
    named = await repository.git.attempt("rev-parse", "--quiet", "--verify", f"{commit}^{{commit}}")
    whole = named.text.strip() if named.code == 0 else ""
    if not whole or not await _is_on(repository, branches, whole):
        raise NotFound(f"no commit {commit} of the specs or the record")
    output = await repository.git.run("show", "--no-patch", f"--format={_FORMAT}", whole, "--")
    head, parents, author, committer, authored, committed, message = output.decode("utf-8", "replace").split(
        "\0", 6
    )
    patch = await repository.git.run(*_PATCH, whole, "--")
    return CommitView(
        commit=head,
        parents=tuple(parents.split()),
        author=author,
        committer=committer,
        authored_at=time_at(int(authored)),
        committed_at=time_at(int(committed)),
        message=message,
        patch=patch[:MOST_PATCH].decode("utf-8", "replace"),
        is_cut=len(patch) > MOST_PATCH,
    )


async def _is_on(repository: Repository, branches: Sequence[str], commit: str) -> bool:
    for branch in branches:
        args = ("merge-base", "--is-ancestor", commit, repository.ref(branch))
        if (await repository.git.attempt(*args)).code == 0:
            return True
    return False


async def resolve_commit(repository: Repository, revision: str) -> str:
    """Return the commit that a commit's id, or the name of a branch, names. Raises NotFound."""
    for name in (revision, repository.ref(revision)):
        args = ("rev-parse", "--quiet", "--verify", "--end-of-options", f"{name}^{{commit}}")
        result = await repository.git.attempt(*args)
        if result.code == 0:
            return result.text
    raise NotFound(f"no revision {revision!r} in the fleet's repository")


class FileCommits:
    """The commit that changed each file of a branch last, kept in memory until the branch moves."""

    def __init__(self, repository: Repository, branch: str) -> None:
        self._repository = repository
        self._branch = branch
        self._head: str | None = None
        self._commits: dict[str, str] = {}
        """Of files that were asked for; empty for one that history does not have."""

    async def of(self, paths: Sequence[str]) -> Mapping[str, str]:
        """Return the commits, by path; none of unknown files."""
        head = self._repository.read_ref(self._repository.ref(self._branch))
        if head != self._head:
            self._head, self._commits = head, {}
        commits = self._commits
        for path in paths if head else ():
            if path not in commits:
                args = ("log", "--max-count=1", "--format=%H", head or "", "--", path)
                commits[path] = (await self._repository.git.attempt(*args)).text
        return {path: commits[path] for path in paths if commits.get(path)}


async def view_file(repository: Repository, branch: str, revision: str, path: str) -> FileView:
    """Return a file as it is at a commit. Raises NotFound if it is not there, or no text."""
    tree = GitTree(repository, branch)
    entry = await tree.entry(revision, path)
    if entry is None or not entry.mode.startswith("100"):
        raise NotFound(f"no file {path} at {revision[:10]}")
    content = (await tree.blobs([entry.blob], limit=_LARGEST_FILE))[entry.blob]
    if len(content) > _LARGEST_FILE or b"\0" in content:
        raise NotFound(f"{path} is no text that could be shown")
    listed = await repository.git.attempt("log", "--max-count=1", "--format=%H", revision, "--", path)
    return FileView(
        content.decode("utf-8", "replace"), revision, listed.text.strip() if listed.code == 0 else ""
    )


async def statuses_at(repository: Repository, places: Sequence[tuple[str, str]]) -> Sequence[Status | None]:
    """Return the status at each place: a commit, and the task's name then. None where none can be read."""
    names = [[f"{commit}:{path}" for path in status_paths(task)] for commit, task in places]
    contents = await present(repository, list(chain(*names)))
    return [_status(next(filter(None, map(contents.get, each)), None)) for each in names]


def _status(content: bytes | None) -> Status | None:
    try:
        return statuses.load_status(Status, content, "") if content else None
    except SpecError:
        return None

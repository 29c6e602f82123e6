"""
Checkout: the code of a task on an agent's machine, cloned before and pushed after the work.

Git talks to the repository with the access that the agent's user has.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reconciler.git.process import Git
from reconciler.wire import Lease, RepoBody
from reconciler.worker.process import environment

_OPERATIONS = (
    ("rebase-merge", "rebase"),
    ("rebase-apply", "rebase"),
    ("MERGE_HEAD", "merge"),
    ("CHERRY_PICK_HEAD", "cherry-pick"),
    ("REVERT_HEAD", "revert"),
    ("sequencer", "cherry-pick or revert"),
    ("BISECT_LOG", "bisect"),
)
"""Files that git keeps during an operation, and the operation's name."""
_WORK = ("--count=50", "refs/heads")
_TIMEOUT = 1800.0
"""Seconds; a repository may be large."""


@dataclass(frozen=True, slots=True)
class TaskCheckout:
    """A work tree on the branch of a task."""

    folder: Path
    branch: str
    pushed: str
    """Commit of the remote branch when the work began; empty if there was none."""

    async def push(self) -> None:
        """Push the branch, unless somebody else pushed meanwhile. Raises Unavailable."""
        expected = f"--force-with-lease={self.branch}:{self.pushed}"
        refs = f"refs/heads/{self.branch}:refs/heads/{self.branch}"
        await _git(self.folder).run("push", "--quiet", expected, "origin", refs)

    async def unfinished(self) -> Sequence[str]:
        """Return what the command left unfinished and a push of the branch would lose. Raises Unavailable."""
        git = _git(self.folder)
        problems = [
            f"a {name} is under way" for at, name in _OPERATIONS if (self.folder / ".git" / at).exists()
        ]
        if await git.line("ls-files", "--unmerged"):
            problems.append("files are not merged")
        ours = f"refs/heads/{self.branch}"
        for ref in ("HEAD", *(await git.line("for-each-ref", "--format=%(refname)", *_WORK)).split()):
            count = await git.line("rev-list", "--count", ref, "--not", ours, "--remotes", "--")
            if count != "0":
                problems.append(f"{ref} has {count} commits that {self.branch} does not have")
        if await git.line("for-each-ref", "--count=1", "refs/stash"):
            problems.append("changes are stashed")
        return problems

    async def left(self) -> bool:
        """Return whether there are uncommitted changes. Raises Unavailable."""
        return bool(await _git(self.folder).run("status", "--porcelain"))


async def check_out(lease: Lease, repo: RepoBody, folder: Path) -> TaskCheckout:
    """
    Clone the repository of a task into a new folder, on the task's branch.

    It starts from the commit that the lease names, else from the base branch.
    Raises Unavailable.
    """
    clone = ("clone", "--quiet", "--no-checkout", "--", repo.url, str(folder))
    await _git(folder.parent).run(*clone)
    git = _git(folder)
    start = lease.start_from or f"refs/remotes/origin/{repo.base}"
    if lease.start_from and not await _has(git, lease.start_from):
        await git.run("fetch", "--quiet", "origin", lease.start_from)
    await git.run("checkout", "--quiet", "--no-track", "-B", lease.branch, start, "--")
    remote = f"refs/remotes/origin/{lease.branch}"
    pushed = await git.line("for-each-ref", "--format=%(objectname)", remote)
    return TaskCheckout(folder, lease.branch, pushed)


async def _has(git: Git, commit: str) -> bool:
    return (await git.attempt("cat-file", "-e", f"{commit}^{{commit}}")).code == 0


def _git(folder: Path) -> Git:
    return Git.workspace(folder, environment(), timeout=_TIMEOUT)  # an environment without our token

"""
The code of a task on an agent's machine: cloned, and pushed when the work is done.

Git talks to the repository with the access that the agent's user has.
"""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reconciler.core.errors import Unavailable
from reconciler.core.text import one_line
from reconciler.subprocesses import end, start
from reconciler.wire import Lease, RepoBody
from reconciler.worker.process import environment

_ENV = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ALLOW_PROTOCOL": "file:git:http:https:ssh",  # no ext::, which runs commands
    "LC_ALL": "C.UTF-8",
}
_OPTIONS = ("-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false")
"""The command may have written hooks; wherever it was shut in, git would run them out here."""
_OPERATIONS = (
    ("rebase-merge", "rebase"),
    ("rebase-apply", "rebase"),
    ("MERGE_HEAD", "merge"),
    ("CHERRY_PICK_HEAD", "cherry-pick"),
    ("REVERT_HEAD", "revert"),
    ("sequencer", "cherry-pick or revert"),
    ("BISECT_LOG", "bisect"),
)
"""What git keeps of an operation that goes on, and what that is called."""
_WORK = ("--count=50", "refs/heads")
_TIMEOUT = 1800.0
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")


@dataclass(frozen=True, slots=True)
class Checkout:
    """A work tree on the branch of a task."""

    folder: Path
    branch: str
    pushed: str
    """What the branch was in the repository when the work began; empty if it was not there."""

    async def push(self) -> None:
        """Push the branch, unless somebody else did meanwhile. Raises Unavailable."""
        expected = f"--force-with-lease={self.branch}:{self.pushed}"
        refs = f"refs/heads/{self.branch}:refs/heads/{self.branch}"
        await _git(self.folder, "push", "--quiet", expected, "origin", refs)

    async def unfinished(self) -> Sequence[str]:
        """Return what the command left that a push of the branch would lose. Raises Unavailable."""
        found = [f"a {name} is under way" for at, name in _OPERATIONS if (self.folder / ".git" / at).exists()]
        if await _git(self.folder, "ls-files", "--unmerged"):
            found.append("files are not merged")
        ours = f"refs/heads/{self.branch}"
        for ref in (
            "HEAD",
            *(await _git(self.folder, "for-each-ref", "--format=%(refname)", *_WORK)).split(),
        ):
            count = await _git(self.folder, "rev-list", "--count", ref, "--not", ours, "--remotes", "--")
            if count != "0":
                found.append(f"{ref} has {count} commits that {self.branch} does not have")
        if await self._is_there("refs/stash"):
            found.append("changes are stashed")
        return found

    async def _is_there(self, ref: str) -> bool:
        return bool(await _git(self.folder, "for-each-ref", "--count=1", ref))

    async def left(self) -> bool:
        """Return whether there is work that was not committed. Raises Unavailable."""
        return bool(await _git(self.folder, "status", "--porcelain"))


async def check_out(lease: Lease, repo: RepoBody, folder: Path) -> Checkout:
    """
    Clone the repository of a task into a new folder, on the task's branch.

    It starts from the commit that the lease names, else from the base branch.
    Raises Unavailable.
    """
    await _git(folder.parent, "clone", "--quiet", "--no-checkout", "--", repo.url, str(folder))
    start = lease.start_from or f"refs/remotes/origin/{repo.base}"
    if lease.start_from and not await _has(folder, lease.start_from):
        await _git(folder, "fetch", "--quiet", "origin", lease.start_from)
    await _git(folder, "checkout", "--quiet", "--no-track", "-B", lease.branch, start, "--")
    remote = f"refs/remotes/origin/{lease.branch}"
    pushed = await _git(folder, "for-each-ref", "--format=%(objectname)", remote)
    return Checkout(folder, lease.branch, pushed)


async def _has(folder: Path, commit: str) -> bool:
    try:
        await _git(folder, "cat-file", "-e", f"{commit}^{{commit}}")
    except Unavailable:
        return False
    return True


async def _git(folder: Path, *words: str) -> str:
    """Run git in a folder and return what it printed. Raises Unavailable with what it said otherwise."""
    try:
        process = await start(
            "git",
            *_OPTIONS,
            *words,
            cwd=folder,
            env=environment() | _ENV,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        raise Unavailable(f"git cannot be started: {error.strerror}; is it installed?") from error
    try:
        async with asyncio.timeout(_TIMEOUT):
            stdout, stderr = await process.communicate()
    except TimeoutError:
        raise Unavailable(f"git {words[0]} took longer than {_TIMEOUT:g} s") from None
    finally:
        if process.returncode is None:
            await end(process)
    if process.returncode:
        said = _CREDENTIALS.sub("", stderr.decode(errors="replace"))
        raise Unavailable(f"git {words[0]} failed: {one_line(said)}")
    return stdout.decode(errors="replace").strip()

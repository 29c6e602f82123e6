"""
Commits that the reconciler makes to the specs: tasks from issues, and commands given on a forge.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from reconciler.controller.tree import TreeEntry
from reconciler.core.errors import Conflict, Unavailable
from reconciler.core.times import format_time, time_at
from reconciler.git.fastimport import IDENTITY
from reconciler.git.objects import GitTree
from reconciler.git.process import Git
from reconciler.git.provenance import signing_options
from reconciler.git.repository import Repository
from reconciler.store.commits import commit_files, publish

_MOST_PLACES = 16
"""Paths whose files are cached."""
_LARGEST = 1024 * 1024
"""Largest file that is read, in bytes; no spec is that large."""


class BotCommitter:
    """The branch with the specs, committed to in the bot's name; implements `controller.ports.SpecWriter`."""

    def __init__(self, repository: Repository, branch: str, signing_key: Path | None = None) -> None:
        """Commit to a branch, signed with an SSH key if there is one."""
        self._repository = repository
        self._branch = branch
        self._tree = GitTree(repository, branch)
        self._committer = bot_git(repository.git).with_options(*signing_options(signing_key))
        self._read: dict[str, tuple[str, Mapping[str, str]]] = {}
        """What was read last, of a few places, the latest last: agents choose names, and may choose many."""
        self._turn = asyncio.Lock()  # two commits at once would only be in each other's way

    async def files(self, under: str) -> tuple[str, Mapping[str, str]]:
        """Return the newest commit and the text of its files; see `SpecWriter.files`."""
        head = await self._tree.head()
        read = self._read.pop(under, None)
        if read is None or read[0] != head:
            read = head, await self._texts(await self._entries(head, under))
        self._read[under] = read
        while len(self._read) > _MOST_PLACES:
            del self._read[next(iter(self._read))]
        return read

    async def _entries(self, head: str, under: str) -> Mapping[str, TreeEntry]:
        if under.endswith("/"):
            return await self._tree.files(head, under)
        entry = await self._tree.entry(head, under)
        return {under: entry} if entry else {}

    async def _texts(self, entries: Mapping[str, TreeEntry]) -> Mapping[str, str]:
        ids = {path: entry.blob for path, entry in entries.items() if entry.mode.startswith("100")}
        contents = await self._tree.blobs(set(ids.values()), limit=_LARGEST)
        texts = {path: _text(contents[blob]) for path, blob in ids.items()}
        return {path: text for path, text in texts.items() if text is not None}

    async def put(
        self,
        files: Mapping[str, str | None],
        message: str,
        *,
        made_from: str | None = None,
        branch: str | None = None,
        author: str | None = None,
    ) -> str:
        """
        Commit changed files and return the commit; see `SpecWriter.put`.

        `author` is the name of who asks for it, where that is not the reconciler.

        Where the branch is checked out, the files there follow, as with
        `git pull`. Raises Unavailable if that would write over somebody's work.
        """
        async with self._turn:
            return await commit_files(
                self._repository,
                self._committer.with_env(author_names(author)) if author else self._committer,
                branch or self._branch,
                files,
                message,
                made_from=made_from,
                begin_at=await self._tree.head() if branch else None,
                publish=_publish,
            )

    async def has_told(self, trailer: str, value: str, since: datetime) -> bool:
        """Return whether a commit since then has a trailer with this value; see `SpecWriter.has_told`."""
        output = await self._repository.git.run(
            "log",
            f"--since={format_time(since)}",
            f"--format=%(trailers:key={trailer},valueonly,unfold)",
            await self._tree.head(),
        )
        return value in output.decode("utf-8", "replace").splitlines()

    async def touched_at(self, path: str, *, apart_from: str) -> datetime | None:
        """Return when a file was last changed; see `SpecWriter.touched_at`."""
        others = ("--invert-grep", f"--grep=^{apart_from}: ")
        args = ("log", "--max-count=1", "--format=%ct", *others, await self._tree.head(), "--", path)
        listed = await self._repository.git.run(*args)
        return time_at(int(listed)) if listed.strip() else None


def _text(content: bytes) -> str | None:
    if len(content) > _LARGEST:
        return None
    try:
        return content.decode()
    except UnicodeDecodeError:
        return None


def author_names(author: str) -> Mapping[str, str]:
    """Return the environment in which git names an author of whom no address is known."""
    return {"GIT_AUTHOR_NAME": author, "GIT_AUTHOR_EMAIL": f"{author.replace('/', '.')}@localhost"}


def bot_git(git: Git) -> Git:
    """Return git that commits in the bot's name."""
    name, address = IDENTITY.removesuffix(">").split(" <")
    names = {
        f"GIT_{role}_{part}": value
        for role in ("AUTHOR", "COMMITTER")
        for part, value in (("NAME", name), ("EMAIL", address))
    }
    return git.with_env(names)


# --- Where the branch is checked out ---------------------------------------


async def _publish(repository: Repository, branch: str, was: str | None, commit: str) -> None:
    """
    Move the branch, and before it the checkout of it, if there is one.

    In this order, because of what a crash in between leaves behind: changes that
    wait to be committed, not a checkout whose next commit would undo ours.
    """
    folder = None if repository.address or was is None else await repository.checkout_of(branch)
    if folder is None or was is None:
        await publish(repository, branch, was, commit)
        return
    await _move(folder, was, commit)
    try:
        await publish(repository, branch, was, commit)
    except (Conflict, Unavailable):
        with suppress(Unavailable):  # the original error says more
            await _move(folder, commit, was)
        raise


async def _move(folder: Path, old: str, new: str) -> None:
    """Update index and files from one commit to another: all that differ, or none."""
    git = Git.discovering(folder)
    await git.attempt("update-index", "-q", "--refresh")
    result = await git.attempt("read-tree", "-m", "-u", old, new)
    if result.code != 0:
        raise Unavailable(
            f"{folder} is in the way of a commit of the reconciler's; commit or undo what is "
            f"changed there, or serve a bare repository: {result.message}"
        )

"""
Repository of a fleet: where it is, and reads that need no process.
"""

import asyncio
import hashlib
import os
import re
from contextlib import suppress
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

from reconciler.core.errors import Unavailable, UsageError
from reconciler.git import clone
from reconciler.git.catfile import CatFile
from reconciler.git.process import Git, printable_error
from reconciler.git.remote import NETWORK_TIMEOUT, fetch
from reconciler.git.upkeep import is_crowded, keep_up

_URL = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<login>[^/@]*@)?", re.IGNORECASE)
_SCP = re.compile(r"[A-Za-z0-9_.][\w.-]*@[\w.\[\]:-]+:(?!//).+")
_SCHEMES = {"https", "http", "ssh", "file"}
_SYMBOLIC = b"ref: "
_BRANCHES = b"refs/heads/"
_ID = re.compile(rb"[0-9a-f]{40}(?:[0-9a-f]{24})?")


class Repository:
    """
    One git repository, opened from a path or a URL.

    A repository on this machine is the record itself, whatever remotes it may
    have. One that was named by a URL is worked on through a bare clone; there
    the remote is the record. Close it: it keeps a git process for reading.
    """

    def __init__(
        self,
        git_dir: Path,
        *,
        folder: Path | None,
        address: str | None,
        hash_name: str,
        head: Path | None = None,
    ) -> None:
        self.git_dir = git_dir
        """Where the object database and the refs are."""
        self.folder = folder
        """The work tree it was opened from; None if it is bare."""
        self.address = address
        """URL of the remote that is the record; None if this repository is."""
        self.git = Git.local(git_dir)
        self.network = Git.networked(git_dir)
        self.objects = CatFile(self.git)
        self.hash_name = hash_name
        """Of the hash that the ids of objects are made with."""
        self._head = head or git_dir / "HEAD"
        """File with the HEAD of the work tree that was opened: a linked one has its own."""
        self._elsewhere: dict[str, str] = {}

    @classmethod
    async def open(cls, place: str, cache_dir: Path) -> Self:
        """
        Open the repository at a path (bare, or any folder in a work tree) or behind a URL.

        A URL (`https://`, `ssh://`, `user@host:path`, `file://`) is fetched
        into a bare clone in `cache_dir`. Raises UsageError if this cannot be a
        fleet's repository, Unavailable or Refused if the remote does not answer.
        """
        if is_url(place):
            return await cls._open_url(place, cache_dir)
        return await cls._open_path(Path(place))

    @classmethod
    async def _open_path(cls, place: Path) -> Self:
        arguments = ("--git-common-dir", "--git-dir", "--show-object-format", "--show-toplevel")
        result = await Git.discovering(place).attempt("rev-parse", "--path-format=absolute", *arguments)
        lines = os.fsdecode(result.stdout).split("\n")[:-1]
        if len(lines) < len(("common", "own", "hash")):
            raise UsageError(f"{place}: no git repository that can be used: {result.message}")
        # Last, because git fails here without a work tree.
        common, own, hash_name, *top = lines
        folder = Path(top[0]) if top and result.code == 0 else None
        git_dir, head = _files_backend(Path(common)), Path(own) / "HEAD"
        return cls(git_dir, folder=folder, address=None, hash_name=hash_name, head=head)

    @classmethod
    async def _open_url(cls, url: str, cache_dir: Path) -> Self:
        _check_url(url)
        git_dir = cache_dir / _clone_name(url)
        try:
            if not git_dir.is_dir():  # a file or a link that leads nowhere: neither is a clone
                clone.remove(git_dir)
            git_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"{git_dir}, for the clone of {printable_error(url)}, cannot be made: {error.strerror}; "
                "see who may write there, or name another data folder (--data-dir)"
            ) from error
        was_there = any(git_dir.iterdir())
        try:
            return await cls._open_clone(git_dir, url)
        except Unavailable:
            if not was_there or await _hash_name(url) is None:
                raise
        # The remote is intact, and a clone can be fetched again.
        git_dir.rename(_free_name(git_dir))
        git_dir.mkdir(mode=0o700)
        return await cls._open_clone(git_dir, url)

    @classmethod
    async def _open_clone(cls, git_dir: Path, url: str) -> Self:
        """Open the bare clone of a remote, and make it first if it is not there."""
        repository = cls(git_dir, folder=None, address=url, hash_name=await clone.prepare_clone(git_dir, url))
        try:
            await repository._fetch_first(url)
            if is_crowded(git_dir):  # each look fetches, and may be all that is ever done here
                with suppress(Unavailable, OSError):
                    await keep_up(repository.git, git_dir, graph=False)
        except BaseException:
            await repository.close()
            raise
        return repository

    async def _fetch_first(self, url: str) -> None:
        """Fetch; a clone with another hash function than the remote's is recreated."""
        try:
            await self.fetch()
        except Unavailable as error:
            theirs = clone.hash_of_remote(error)
            if theirs is None:
                raise
            self.hash_name = await clone.recreate(self.git_dir, url, theirs)
            await self.fetch()

    async def fetch(self) -> None:
        """
        Bring the refs up to date with the remote, where the remote is the record.

        Raises Refused if it does not let us in, Unavailable if it does not answer.
        """
        if not self.address:
            return
        try:
            await fetch(self.network)
        except Unavailable:
            if not await asyncio.to_thread(clone.repair, self.git_dir):
                raise
            await fetch(self.network)

    def ref(self, branch: str) -> str:
        """Return the full name of the ref under which the record of a branch is read."""
        if branch in self._elsewhere:
            return self._elsewhere[branch]
        return f"refs/remotes/origin/{branch}" if self.address else f"refs/heads/{branch}"

    def look_at(self, branch: str, ref: str) -> None:
        """Read a branch from another ref from now on: in a clone, from the fetched one."""
        self._elsewhere[branch] = ref

    def is_looked_at_elsewhere(self, branch: str) -> bool:
        """Return whether a branch is read from its fetched ref."""
        return branch in self._elsewhere

    def read_ref(self, ref: str) -> str | None:
        """Return the commit a ref points at, read from its file; None if there is no such ref."""
        try:
            content = (self.git_dir / ref).read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return self._packed(ref)
        if content.startswith(_SYMBOLIC):
            return self.read_ref(content.removeprefix(_SYMBOLIC).decode().strip())
        content = content.strip()  # after a loss of power the file may be empty or hold anything
        return content.decode() if _ID.fullmatch(content) else None

    def _packed(self, ref: str) -> str | None:
        try:
            packed = (self.git_dir / "packed-refs").read_bytes()
        except FileNotFoundError:
            return None
        match = re.search(rb"^([0-9a-f]+) " + re.escape(ref.encode()) + rb"$", packed, re.MULTILINE)
        return match[1].decode() if match else None

    def blob_id(self, content: bytes) -> str:
        """Return the id git gives to a file with this content."""
        return hashlib.new(
            self.hash_name, b"blob %d\0" % len(content) + content, usedforsecurity=False
        ).hexdigest()

    async def specs_branch(self, wanted: str | None) -> str:
        """
        Return the branch with the specs: the requested one, else the repository's HEAD.

        Raises UsageError if there is no such branch, or HEAD names none.
        """
        branch = wanted or await self._head_branch()
        if self.read_ref(self.ref(branch)) is None:
            raise UsageError(f"{self}: no branch {branch!r}; {await self._hint()}")
        return branch

    async def _hint(self) -> str:
        """Return which branches there are."""
        there = await self._branches()
        return f"there are: {', '.join(there[:10])}" if there else "it is empty: commit the specs first"

    async def _head_branch(self) -> str:
        if self.address:
            listed = await self.network.run(
                "ls-remote", "--symref", "origin", "HEAD", timeout=NETWORK_TIMEOUT
            )
            match = re.match(rb"ref: refs/heads/(.+)\tHEAD\n", listed)
            head = match[1] if match else b""
        else:
            head = _branch_of(_content(self._head))
        if not head:
            what = "HEAD names no branch that is there; say which one has the specs (--branch)"
            raise UsageError(f"{self}: {what}; {await self._hint()}")
        return head.decode().strip()

    async def _branches(self) -> list[str]:
        depth = self.ref("").count("/")
        listed = await self.git.run("for-each-ref", f"--format=%(refname:lstrip={depth})", self.ref(""))
        return listed.decode().split()

    def may_be_checked_out(self, ref: str) -> bool:
        """Return whether a work tree may have the ref checked out, judging from files without a process."""
        heads = (self.git_dir / "HEAD", *self.git_dir.glob("worktrees/*/HEAD"))
        return any(_content(head) == _SYMBOLIC + ref.encode() for head in heads)

    async def checkout_of(self, branch: str) -> Path | None:
        """Return the work tree in which a branch is checked out, if it is anywhere."""
        listed = await self.git.run("worktree", "list", "--porcelain", "-z")
        for block in listed.decode("utf-8", "surrogateescape").split("\0\0"):
            lines = block.split("\0")
            if f"branch refs/heads/{branch}" in lines and "bare" not in lines:
                return Path(lines[0].removeprefix("worktree "))
        return None

    async def close(self) -> None:
        """End the process that reads objects."""
        await self.objects.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def word(self) -> str:
        """What people call it: the last part of where it is, such as `fleet`."""
        parts = str(self).rstrip("/").removesuffix("/.git").removesuffix(".git").replace(":", "/").split("/")
        return parts[-1] or "fleet"

    def __str__(self) -> str:
        return printable_error(self.address or str(self.folder or self.git_dir))


def is_url(place: str) -> bool:
    """Return whether a place is meant as a URL (`scheme://…` or `user@host:path`)."""
    return bool(_URL.match(place) or _SCP.fullmatch(place))


def _check_url(url: str) -> None:
    match = _URL.match(url)
    if match is None:
        return
    scheme = match["scheme"].lower()
    if scheme not in _SCHEMES:
        raise UsageError(f"{printable_error(url)}: {scheme}:// is not supported; use https, ssh or file")
    if ":" in (match["login"] or ""):
        # Git would show it in the list of processes, and store it in the clone.
        raise UsageError(
            f"{printable_error(url)}: the URL carries a password; put it into a git credential helper"
        )


def _clone_name(url: str) -> str:
    """Return a folder name that is readable and unique to the URL."""
    slug = re.sub(r"[^A-Za-z0-9]+", "-", printable_error(url)).strip("-")[-60:]
    return f"{slug}-{hashlib.sha256(url.encode()).hexdigest()[:12]}.git"


async def _hash_name(url: str) -> str | None:
    """Return the name of a remote's hash function; None if it is empty, or does not answer."""
    result = await Git.nowhere().attempt("ls-remote", "--quiet", "--", url, timeout=NETWORK_TIMEOUT)
    name, _, _ = result.stdout.partition(b"\t")
    if result.code != 0 or not name:
        return None
    return "sha256" if len(name) == _SHA256_LENGTH else "sha1"


_SHA256_LENGTH = 64


def _free_name(git_dir: Path) -> Path:
    """Return the path to which a damaged clone is moved, for inspection."""
    names = (git_dir.with_name(f"{git_dir.name}.damaged-{number}") for number in count(1))
    return next(name for name in names if not name.exists())


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes().strip()
    except FileNotFoundError:
        return b""


def _branch_of(head: bytes) -> bytes:
    """Return the branch that the content of a HEAD names; empty if it names none."""
    name = head.removeprefix(_SYMBOLIC).strip()
    return name.removeprefix(_BRANCHES) if head.startswith(_SYMBOLIC + _BRANCHES) else b""


def _files_backend(git_dir: Path) -> Path:
    if (git_dir / "reftable").is_dir():
        raise UsageError(
            f"{git_dir}: refs are kept in a reftable; run `git refs migrate --ref-format=files` there first"
        )
    return git_dir

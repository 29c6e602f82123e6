"""
The single writer of a branch: batches of commits, durable when they are acknowledged.

A batch is on the line as a whole or not at all: it goes through one
`git fast-import` and ends in one update of the ref, which git makes only if it
adds to what is there. After that everything is synced, the directories too,
which git 2.39 forgets.
"""

import asyncio
import os
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Self

from reconciler.core.errors import Conflict, Unavailable, UsageError
from reconciler.files import sync_folder
from reconciler.git.fastimport import Change, FastImport
from reconciler.git.repository import Repository
from reconciler.git.upkeep import MOST_PACKS, count_packs, is_crowded, keep_up, lacks_graph
from reconciler.store.batch_signatures import BatchSignatures
from reconciler.store.locks import acquire, lock_file

_COMMITS_PER_PACK = 100
"""A large batch calls for upkeep like so many small ones: the commit graph lacks all of it."""
_COMMITS_PER_PROCESS = 5000
"""fast-import never forgets a commit: about 4 KB each."""
_PATIENCE = 0.05
"""Seconds between two looks at a lock."""
_STALE_AFTER = 20
"""Polls after which an unchanged lock file is taken for that of a dead process."""
_KEEP = b"fast-import"
"""Content of our `.keep` files, of which a loss of power may have left less; those of a fetch differ."""
_FIRST = "refs/reconciler/first"
"""Where the first batch of a branch is until it is on the disk."""


class Writer:
    """
    Writes commits to one ref. Open it, and close it: it holds a lock against a second writer.

    The lock is held by the git process too. So a writer that was killed keeps
    its lock until the git it left behind is done, and what it finds then is
    nobody's any more.
    """

    def __init__(
        self, repository: Repository, ref: str, lock: int, signatures: BatchSignatures | None
    ) -> None:
        self._repository = repository
        self._ref = ref
        self._signatures = signatures
        self._lock = lock
        self._turn = asyncio.Lock()
        self._stream: FastImport | None = None
        is_due = is_crowded(repository.git_dir) or lacks_graph(repository.git_dir)
        self._packs = MOST_PACKS if is_due else count_packs(repository.git_dir)
        """Since the last upkeep: each batch makes one."""
        self._upkeep: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, repository: Repository, branch: str, signing_key: Path | None = None) -> Self:
        """
        Become the writer of a branch (of this repository, not of its remote).

        With a key, an SSH key, each batch is signed with it (see `store.batch_signatures`).
        Raises UsageError if another process is, or a work tree has it checked out.
        """
        if why_not := await _why_not(repository, branch):
            raise UsageError(why_not)
        # Ours before anything is removed: a lock of git's is stale only if no other writer lives.
        lock = await acquire(lock_file(repository.git_dir, branch), branch)
        ref = f"refs/heads/{branch}"
        marks = repository.git_dir.glob("refs/fleet/**/*.lock")  # of marks and leader, which we alone write
        for left in (*(repository.git_dir / name for name in (f"{ref}.lock", "HEAD.lock")), *marks):
            await _remove_if_stale(left)
        signatures = BatchSignatures(repository, ref, signing_key) if signing_key else None
        return cls(repository, ref, lock, signatures)

    @property
    def head(self) -> str | None:
        """The newest commit; None before the first."""
        return self._repository.read_ref(self._ref)

    async def write(self, head: str | None, changes: Sequence[Change]) -> Sequence[str]:
        """
        Put the changes on top of `head`, a commit each, and return their ids; durable when it returns.

        Nothing of them is on the line if it raises: Conflict if the branch is
        not at `head` any more, Unavailable if git or the disk fails, or while
        somebody has it checked out.
        """
        async with self._turn:
            if self._repository.may_be_checked_out(self._ref):
                await self._respect_checkouts()
            if self._signatures:
                ids = await self._write_signed(head, changes, self._signatures)
            elif head is None:
                ids = await self._write_first(changes)
            else:
                ids = await asyncio.to_thread(self._write, head, changes)
            # Looked at afterwards: fast-import only warns when it could not move the ref.
            if self.head != ids[-1]:
                await self._explain(head, ids)
        self._packs += max(1, len(changes) // _COMMITS_PER_PACK)
        if self._packs > MOST_PACKS and (self._upkeep is None or self._upkeep.done()):
            self._upkeep = asyncio.create_task(self.tidy())
        return ids

    async def _write_first(self, changes: Sequence[Change]) -> Sequence[str]:
        """
        Write the first batch beside the branch, and make the branch once that is on the disk.

        There is no mark yet by which a batch that was cut off by a loss of power could be told from a loss.
        """
        git, beside = self._repository.git, f"{_FIRST}/{self._ref.removeprefix('refs/heads/')}"
        ids = await asyncio.to_thread(self._send_beside, beside, changes)
        await asyncio.to_thread(partial(self._sync, is_new=True))
        await git.synced().attempt("update-ref", self._ref, ids[-1], "0" * len(ids[-1]))
        await git.attempt("update-ref", "-d", beside)
        await asyncio.to_thread(partial(self._sync, is_new=True))
        return ids

    async def _write_signed(
        self, head: str | None, changes: Sequence[Change], signatures: BatchSignatures
    ) -> Sequence[str]:
        """Write the changes beside the branch, sign the last commit, and only then move the branch to it."""
        ids = await asyncio.to_thread(self._stream_through, head, signatures.announced(changes))
        if head is None:
            await asyncio.to_thread(partial(self._sync, is_new=True))
        signed = await signatures.sign(ids[-1], head)
        if self._stream is not None:
            self._stream.go_on_from(signed)
        await asyncio.to_thread(partial(self._sync, is_new=head is None))
        return [*ids[:-1], signed]

    async def reset(self, commit: str | None) -> None:
        """Set the branch to the remote's head; local commits beyond it were never acknowledged."""
        async with self._turn:
            await asyncio.to_thread(self._kill_stream)
            if commit is None:
                await self._repository.git.run("update-ref", "-d", self._ref)
            else:
                await self._repository.git.run("update-ref", self._ref, commit)

    async def tidy(self) -> None:
        """
        Join packs and extend the commit graph; see `git.upkeep`.

        Failure is not reported: it is tried again after as many batches, and
        a disk that is full stops the writer itself.
        """
        # Before, so that no open pack is joined; after, so that none is read that is gone.
        await self._renew()
        with suppress(Unavailable, OSError):
            await keep_up(self._repository.git, self._repository.git_dir)
        await self._renew()
        self._packs = 0

    async def close(self) -> None:
        """Release the branch."""
        # The git process ends first, the lock is released last: the next writer finds nothing running.
        if self._upkeep is not None:
            self._upkeep.cancel()
            await asyncio.wait([self._upkeep])
        await self._renew()
        os.close(self._lock)

    async def _renew(self) -> None:
        """End the stream: packs of its own that it relies on may be joined into others."""
        # Shielded: whoever has the next turn must not meet a stream that is half closed.
        await asyncio.shield(self._end_stream())

    async def _end_stream(self) -> None:
        async with self._turn:
            await asyncio.to_thread(self._close_stream)

    async def _respect_checkouts(self) -> None:
        if why_not := await _why_not(self._repository, self._ref.removeprefix("refs/heads/")):
            raise Unavailable(why_not)

    # --- In a thread, one at a time ----------------------------------------

    def _write(self, head: str | None, changes: Sequence[Change]) -> Sequence[str]:
        # fast-import syncs the pack before it moves the ref; the folders that name them come after both.
        ids = self._stream_through(head, changes)
        self._sync(is_new=head is None)
        return ids

    def _stream_through(self, head: str | None, changes: Sequence[Change]) -> Sequence[str]:
        self._expect(head)
        if self._stream is not None and self._stream.head != head:
            self._kill_stream()  # somebody else wrote on top of it
        if self._stream is not None and self._stream.commits > _COMMITS_PER_PROCESS:
            self._close_stream()
        if self._stream is not None:
            try:
                return _send(self._stream, changes)
            except OSError:  # it died since the last batch: a new one may live
                self._kill_stream()
                self._expect(head)
        return self._send_afresh(head, changes)

    def _send_beside(self, ref: str, changes: Sequence[Change]) -> Sequence[str]:
        self._expect(None)
        ids = self._send_afresh(None, changes, ref)
        self._close_stream()
        return ids

    def _send_afresh(
        self, head: str | None, changes: Sequence[Change], beside: str | None = None
    ) -> Sequence[str]:
        repository = self._repository
        _remove_left_keeps(repository.git_dir)
        beside = self._signatures.ref if self._signatures else beside
        self._stream = FastImport(
            repository.git,
            repository.git_dir,
            beside or self._ref,
            head,
            keep_open=[self._lock],
            force=beside is not None,
        )
        try:
            return _send(self._stream, changes)
        except OSError as error:
            message = self._stream.message
            self._kill_stream()
            raise Unavailable(f"{self._ref} cannot be written: {message or error}") from error
        except BaseException:
            self._kill_stream()
            raise

    def _expect(self, head: str | None) -> None:
        if self.head != head:
            self._kill_stream()
            raise Conflict(f"{self._ref} is at {self.head}, not at {head}: somebody else wrote to it")

    def _sync(self, *, is_new: bool) -> None:
        """Sync the folders of pack and ref; those above it too, if the ref's own may be new."""
        inside = [
            folder for folder in self._repository.git_dir.joinpath(self._ref).parents if folder.is_dir()
        ]
        above = [folder for folder in inside if self._repository.git_dir in folder.parents]
        for folder in (self._repository.git_dir / "objects" / "pack", *(above if is_new else above[:1])):
            sync_folder(folder)

    def _close_stream(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _kill_stream(self) -> None:
        """End the stream without giving it the chance to move the ref once more."""
        if self._stream is not None:
            self._stream.kill()
            self._stream = None

    # ------------------------------------------------------------------------

    async def _explain(self, head: str | None, ids: Sequence[str]) -> None:
        """Raise if git did not move the ref (it only warns); somebody may have built on the batch already."""
        now = self.head
        if now is not None and await self._is_ancestor(ids[-1], now):
            return
        message = self._stream.message if self._stream is not None else ""
        await asyncio.to_thread(self._kill_stream)
        if now == head:
            raise Unavailable(f"{self._ref} could not be moved: {message}")
        raise Conflict(f"{self._ref} is at {now}, not at {head}: somebody else wrote to it")

    async def _is_ancestor(self, old: str, new: str) -> bool:
        result = await self._repository.git.attempt("merge-base", "--is-ancestor", old, new)
        return result.code == 0


async def _why_not(repository: Repository, branch: str) -> str | None:
    """Return why a branch must not be written to now; None if it may."""
    folder = await repository.checkout_of(branch)
    if folder is None:
        return None
    return (
        f"{branch} is checked out in {folder}; the reconciler never changes a checkout under "
        "somebody's hands: switch that one to another branch, or use a bare repository"
    )


def _send(stream: FastImport, changes: Sequence[Change]) -> Sequence[str]:
    for change in changes:
        stream.commit(change)
    return stream.seal()


async def _remove_if_stale(lock: Path) -> None:
    """Remove a lock file of git's that nobody works under: left alone it stops every later write."""
    number = _file_number(lock)
    for _ in range(_STALE_AFTER):
        if number is None or _file_number(lock) != number:
            return
        await asyncio.sleep(_PATIENCE)
    _remove(lock)


def _file_number(path: Path) -> int | None:
    return path.lstat().st_ino if path.exists() else None


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _remove_left_keeps(git_dir: Path) -> None:
    """
    Remove what a fast-import that died left beside its packs.

    Of the same batch the next one makes a pack of the same name, and would
    refuse to for as long as this is there.
    """
    for keep in (git_dir / "objects" / "pack").glob("pack-*.keep"):
        with suppress(FileNotFoundError):
            if _KEEP.startswith(keep.read_bytes()):
                _remove(keep)

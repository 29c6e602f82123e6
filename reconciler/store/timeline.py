"""
The state branch read as a line of events, forwards and backwards from any of its commits.
"""

import re
from collections.abc import Callable, Sequence

from reconciler.core.errors import NotFound
from reconciler.core.transitions import TransitionRecord
from reconciler.git.repository import Repository
from reconciler.store.history import OF_FLEET, read_entries, walk
from reconciler.store.layout import status_path

_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")


class HistoryReader:
    """What happened; `head` tells up to which commit, empty if nothing has."""

    def __init__(self, repository: Repository, head: Callable[[], str]) -> None:
        self._repository = repository
        self.head = head

    async def since(self, commit: str, limit: int) -> Sequence[TransitionRecord]:
        """
        Return what happened after a commit (empty: ever), oldest first.

        Raises NotFound if that commit is not in the history, Unavailable.
        """
        head = self.head()
        if not head:
            return ()
        if commit:
            await self._require(commit, head)
        after = (f"^{commit}",) if commit else ()
        listed = await self._repository.git.run("rev-list", "--reverse", *OF_FLEET, head, *after)
        return await read_entries(self._repository, listed.decode().split()[:limit])

    async def before(self, commit: str | None, task: str | None, limit: int) -> Sequence[TransitionRecord]:
        """
        Return what happened up to now, or before a commit, newest first; to one task, or to all.

        Raises NotFound if that commit is not in the history, Unavailable.
        """
        head = self.head()
        if not head:
            return ()
        if commit is not None:
            await self._require(commit, head)
        if task is None:
            start = head if commit is None else f"{commit}^@"  # its parents, if it has any
            listed = await self._repository.git.run("rev-list", f"--max-count={limit}", *OF_FLEET, start)
            return await read_entries(self._repository, listed.decode().split())
        return await walk(self._repository, await self._last(task, head, commit), limit)

    async def _last(self, task: str, head: str, commit: str | None) -> str | None:
        """Return the last transition of a task, up to now or before a commit that may be one of it."""
        if commit is not None:
            [entry] = await read_entries(self._repository, [commit])
            if entry.task == task:
                return entry.previous
        last = next(iter(await self._touching([status_path(task)], head, "--max-count=1")), None)
        if commit is None or last is None:
            return last
        life = await walk(self._repository, last, None)  # it may have had other names by then
        paths = {status_path(entry.task) for entry in life if entry.task}
        earlier, mine = await self._touching(sorted(paths), f"{commit}^@"), {entry.commit for entry in life}
        return next((found for found in earlier if found in mine), None)

    async def _touching(self, paths: Sequence[str], *words: str) -> Sequence[str]:
        """Return the transitions that touch one of the files, newest first."""
        listed = await self._repository.git.run("rev-list", "--grep=^Task: ", *words, "--", *paths)
        return listed.decode().split()

    async def _require(self, commit: str, head: str) -> None:
        """Raise NotFound unless a commit is in the history."""
        if _COMMIT.fullmatch(commit):
            words = ("merge-base", "--is-ancestor", commit, head)
            if (await self._repository.git.attempt(*words)).code == 0:
                return
        raise NotFound(f"no commit {commit[:64]!r} in the history; ask without it to begin anew")

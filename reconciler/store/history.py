"""
History: transition records, read back from the commits of the state branch.
"""

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from heapq import merge
from itertools import chain, islice
from typing import TYPE_CHECKING

from reconciler.core.errors import NotFound, Unavailable
from reconciler.core.names import is_task_name
from reconciler.core.times import time_at
from reconciler.core.transitions import HistoryFilter, TransitionRecord
from reconciler.git.repository import Repository
from reconciler.store.archive_paths import archived_paths
from reconciler.store.layout import status_paths
from reconciler.store.messages import parse_message

if TYPE_CHECKING:  # who reads what happened needs none of the models
    from reconciler.core.model.status import Status

_OF_TASKS = "--grep=^Task: "
_OF_FLEET = (_OF_TASKS, "--grep=^Host: ", "--grep=^Account: ")
"""Trailers of transitions and of news of hosts; either will do where both are given."""
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")


async def read_history(
    repository: Repository, branch: str, task: str | None = None, *, limit: int | None = None
) -> Sequence[TransitionRecord]:
    """
    Return the transition records of the state branch, newest first: of one task, or of all tasks and hosts.

    Those of one task are found by walking from each to the one before, across
    renames. Empty if there are none. Raises Unavailable.
    """
    head = repository.read_ref(repository.ref(branch)) or ""
    return await HistoryReader(repository, lambda: head).before(None, task, limit)


def newest_of(
    histories: Sequence[Sequence[TransitionRecord]], most: int | None
) -> Sequence[TransitionRecord]:
    """Return the newest records of several histories, each newest first."""
    if len(histories) == 1:
        return histories[0]
    return list(islice(merge(*histories, key=lambda entry: entry.at, reverse=True), most))


class HistoryReader:
    """Reads transition records; `head` is the newest commit, empty before the first."""

    def __init__(self, repository: Repository, head: Callable[[], str]) -> None:
        self._repository = repository
        self.head = head

    async def since(self, commit: str, limit: int) -> Sequence[TransitionRecord]:
        """
        Return the records after a commit (empty: all), oldest first.

        Raises NotFound if that commit is not in the history, Unavailable.
        """
        head = self.head()
        if not head:
            return ()
        if commit:
            await self._require(commit, head)
        after = (f"^{commit}",) if commit else ()
        listed = await _listed(self._repository, "--reverse", *_OF_FLEET, head, *after)
        return await _read(self._repository, listed[:limit])

    async def before(
        self, commit: str | None, task: str | None, limit: int | None
    ) -> Sequence[TransitionRecord]:
        """
        Return the records up to now, or before a commit, newest first; of one task, or of all.

        Raises NotFound if that commit is not in the history, Unavailable.
        """
        head = self.head()
        if not head:
            return ()
        if commit is not None:
            await self._require(commit, head)
        if task is None:
            start = head if commit is None else f"{commit}^@"  # its parents, if it has any
            most = () if limit is None else (f"--max-count={limit}",)
            listed = await _listed(self._repository, *most, *_OF_FLEET, start)
            return await _read(self._repository, listed)
        return await _walk(self._repository, await self._last(task, head, commit), limit)

    async def archived(self, task: str) -> "Status | None":
        """Return the status of a task in the archive; None if it is not there. Raises Unavailable."""
        from reconciler.store.archive import read_archived

        is_name = is_task_name(task)
        archived = await read_archived(self._repository, self.head(), [task]) if is_name else None
        return archived.statuses.get(task) if archived else None

    async def search(
        self, wanted: HistoryFilter, commit: str | None, limit: int
    ) -> Sequence[TransitionRecord]:
        """
        Return what fits a filter, up to now or before a commit, newest first.

        Raises NotFound if that commit is not in the history, Unavailable.
        """
        head = self.head()
        if not head:
            return ()
        if commit is not None:
            await self._require(commit, head)
        start = head if commit is None else f"{commit}^@"
        listed = await _listed(self._repository, f"--max-count={limit}", *_criteria(wanted), start)
        return await _read(self._repository, listed)

    async def _last(self, task: str, head: str, commit: str | None) -> str | None:
        """Return the last transition of a task, up to now or before a commit that may be one of it."""
        if commit is not None:
            [entry] = await _read(self._repository, [commit])
            if entry.task == task:
                return entry.previous
        last = await self._newest(task, head)
        if commit is None or last is None:
            return last
        life = await _walk(self._repository, last, None)  # it may have had other names by then
        paths = {path for entry in life if entry.task for path in status_paths(entry.task)}
        earlier, mine = await self._touching(sorted(paths), f"{commit}^@"), {entry.commit for entry in life}
        return next((candidate for candidate in earlier if candidate in mine), None)

    async def _newest(self, task: str, head: str) -> str | None:
        """
        Return the newest transition that touched the status file of a task.

        Git's filters in the commit graph answer for one path at a time.
        """
        paths = status_paths(task)
        listed = await self._repository.git.run("ls-tree", "-z", "--name-only", head, "--", *paths)
        there = listed.decode().split("\0")[:-1] or await archived_paths(self._repository, head, task)
        touching = [await self._touching([path], "--max-count=1", head) for path in there or paths]
        commits: Sequence[str] = list(chain(*touching))
        if len(commits) > 1:  # it came back after it had been removed
            commits = await _listed(self._repository, "--topo-order", "--max-count=1", *commits)
        return commits[0] if commits else None

    async def _touching(self, paths: Sequence[str], *args: str) -> Sequence[str]:
        """Return the transitions that touch one of the files, newest first."""
        return await _listed(self._repository, _OF_TASKS, *args, "--", *paths)

    async def _require(self, commit: str, head: str) -> None:
        """Raise NotFound unless a commit is in the history."""
        if _COMMIT.fullmatch(commit):
            args = ("merge-base", "--is-ancestor", commit, head)
            if (await self._repository.git.attempt(*args)).code == 0:
                return
        raise NotFound(f"no commit {commit[:64]!r} in the history; ask without it to begin anew")


def _criteria(wanted: HistoryFilter) -> Sequence[str]:
    """Return what `git rev-list` is to list: the commits whose messages have all that is wanted."""
    trailers = {"Task": wanted.task, "Host": wanted.host, "Actor": wanted.actor, "Cause": wanted.cause}
    patterns = [f"^{key}: {_literal(value)}$" for key, value in trailers.items() if value]
    if wanted.text:
        patterns.append(_literal(wanted.text))
    times = {"since": wanted.since, "until": wanted.until}
    return [
        *(f"--{name}=@{int(at.timestamp())}" for name, at in times.items() if at),
        "--all-match",
        "--grep=^Cause: ",  # every transition has one, and news of a host
        *(f"--grep={pattern}" for pattern in patterns),
    ]


def _literal(text: str) -> str:
    """Return a basic regular expression that fits a text and nothing else."""
    return re.sub(r"([\\.\[\]*^$])", r"\\\1", text.replace("\n", " "))


async def last_touched(repository: Repository, branch: str, path: str, pattern: str) -> datetime | None:
    """
    Return when a line that matches was last written into a file or taken out of it.

    `pattern` is a regular expression as grep's. None if history tells of no such line.
    """
    args = ("log", "--max-count=1", "--format=%ct", f"-G{pattern}", repository.ref(branch), "--", path)
    listed = await repository.git.run(*args)
    return time_at(int(listed)) if listed.strip() else None


async def _listed(repository: Repository, *args: str) -> Sequence[str]:
    """Return commits as `git rev-list` lists them."""
    return (await repository.git.run("rev-list", *args)).decode().split()


async def _walk(repository: Repository, start: str | None, limit: int | None) -> Sequence[TransitionRecord]:
    """Return a transition and those of the same task before it, newest first."""
    walked: list[TransitionRecord] = []
    ahead = start
    while ahead and (limit is None or len(walked) < limit):
        try:
            [entry] = await _read(repository, [ahead])
        except Unavailable:
            if walked and (repository.git_dir / "shallow").exists():
                break  # a shallow clone ends somewhere
            raise
        walked.append(entry)
        ahead = entry.previous
    return walked


async def _read(repository: Repository, commits: Sequence[str]) -> Sequence[TransitionRecord]:
    """Return the records parsed from commits of the state branch, in their order."""
    records: list[TransitionRecord] = []
    await repository.objects.read(
        commits, lambda commit, content: records.append(parse_message(commit, content))
    )
    return records

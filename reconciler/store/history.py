"""
What happened, read back from the commits of the state branch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from reconciler.core.errors import Unavailable
from reconciler.core.transitions import TransitionRecord
from reconciler.git.repository import Repository
from reconciler.store.layout import status_path
from reconciler.store.messages import parse_message

_OF_TASKS = "--grep=^Task: "
OF_FLEET = (_OF_TASKS, "--grep=^Host: ")
"""Trailers of transitions and of news of hosts; either will do where both are given."""


async def read_history(
    repository: Repository, branch: str, task: str | None = None, *, limit: int | None = None
) -> Sequence[TransitionRecord]:
    """
    Return what happened from the state branch, newest first: to one task, or to all of them and their hosts.

    Those of one task are found by walking from each to the one before, across
    renames. Empty if there are none. Raises Unavailable.
    """
    head = repository.read_ref(repository.ref(branch))
    if head is None:
        return ()
    if task is None:
        return await read_entries(repository, await _listed(repository, limit, *OF_FLEET, head))
    last = await _listed(repository, 1, _OF_TASKS, head, "--", status_path(task))
    return await walk(repository, next(iter(last), None), limit)


async def last_touched(repository: Repository, branch: str, path: str, pattern: str) -> datetime | None:
    """
    Return when a line that matches was last written into a file or taken out of it.

    `pattern` is a regular expression as grep's. None if history tells of no such line.
    """
    words = ("log", "--max-count=1", "--format=%ct", f"-G{pattern}", repository.ref(branch), "--", path)
    listed = await repository.git.run(*words)
    return datetime.fromtimestamp(int(listed), UTC) if listed.strip() else None


@dataclass(frozen=True, slots=True)
class LastTransitions:
    """What came last in the life of every task, of those too that are gone."""

    transitions: dict[str, str]
    """Commit of the last transition, by task."""
    attempts: dict[str, int]
    """Number of the last attempt, by the name the task had then."""


async def last_transitions(repository: Repository, head: str) -> LastTransitions:
    """Return what came last of every task up to a commit."""
    from reconciler.core.model.runs import read_run_key

    task, run = (f"%(trailers:key={key},valueonly,separator=%x20)" for key in ("Task", "Run"))
    listed = await repository.git.run("log", "-z", f"--format=%H%x00{task}%x00{run}", head)
    found = LastTransitions({}, {})
    fields = listed.decode("utf-8", "replace").split("\0")
    for commit, name, key in reversed(list(zip(fields[::3], fields[1::3], fields[2::3], strict=False))):
        if name:
            found.transitions[name] = commit
        for past, number in filter(None, map(read_run_key, key.split())):  # many, where a rewind was approved
            found.attempts[past] = max(number, found.attempts.get(past, 0))
    return found


async def _listed(repository: Repository, limit: int | None, *words: str) -> Sequence[str]:
    most = () if limit is None else (f"--max-count={limit}",)
    listed = await repository.git.run("rev-list", *most, *words)
    return listed.decode().split()


async def walk(repository: Repository, start: str | None, limit: int | None) -> Sequence[TransitionRecord]:
    """Return a transition and those of the same task before it, newest first."""
    walked: list[TransitionRecord] = []
    ahead = start
    while ahead and (limit is None or len(walked) < limit):
        try:
            [entry] = await read_entries(repository, [ahead])
        except Unavailable:
            if walked and (repository.git_dir / "shallow").exists():
                break  # a shallow clone ends somewhere
            raise
        walked.append(entry)
        ahead = entry.previous
    return walked


async def read_entries(repository: Repository, commits: Sequence[str]) -> Sequence[TransitionRecord]:
    """Return what stands in commits of the state branch, in their order."""
    found: list[TransitionRecord] = []
    await repository.objects.read(
        commits, lambda commit, content: found.append(parse_message(commit, content))
    )
    return found

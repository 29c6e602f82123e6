"""
The last transition of every task and host: read from history, and kept in a file for the next start.
"""

import json
import re
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from reconciler.core.model.runs import read_run_key
from reconciler.files import parse_json, replace_atomically
from reconciler.git.provenance import is_ancestor
from reconciler.git.repository import Repository

_ENTRY = re.compile(rb"([0-9a-f]{40,64})\0([^\0]*)\0([^\0]*)\0([^\0]*)\0?")
"""Commit, task, host and runs of a step, as git lists them."""


@dataclass(slots=True)
class LastTransitions:
    """The last transition of every task and host, also of removed ones."""

    head: str = ""
    """Commit up to which they are; empty before the first."""
    transitions: dict[str, str] = field(default_factory=dict)
    """Commit of the last transition, by task."""
    attempts: dict[str, int] = field(default_factory=dict)
    """Number of the last attempt, by the name the task had then."""
    hosts: dict[str, str] = field(default_factory=dict)
    """Commit of the last change of state, by host."""


async def last_transitions(repository: Repository, revisions: str) -> LastTransitions:
    """Return the last transitions up to a commit, or within a range (`A..B`). Raises Unavailable."""
    keys = ("Task", "Host", "Run")
    values = "".join(f"%x00%(trailers:key={key},valueonly,separator=%x20)" for key in keys)
    listed = await repository.git.run("log", "-z", f"--format=%H{values}", revisions)
    last = LastTransitions(revisions.rpartition("..")[2])
    for found in _ENTRY.finditer(listed):  # the newest first; not split, for there may be a million
        commit, task, host, runs = (field.decode("utf-8", "replace") for field in found.groups())
        if task:
            last.transitions.setdefault(task, commit)
        elif host:
            last.hosts.setdefault(host, commit)
        for past, number in filter(None, map(read_run_key, runs.split())):  # many after an approved rewind
            last.attempts[past] = max(number, last.attempts.get(past, 0))
    return last


async def up_to(repository: Repository, head: str, known: LastTransitions) -> LastTransitions:
    """
    Return the last transitions up to a commit (none if it is empty), given those up to one before it.

    If that is not before it, the whole history is read. Raises Unavailable.
    """
    if not head:
        return LastTransitions()
    if not known.head or not await is_ancestor(repository.git, known.head, head):
        return await last_transitions(repository, head)
    new = await last_transitions(repository, f"{known.head}..{head}")
    attempts = known.attempts | {
        task: max(number, known.attempts.get(task, 0)) for task, number in new.attempts.items()
    }
    return LastTransitions(head, known.transitions | new.transitions, attempts, known.hosts | new.hosts)


def load_last(path: Path) -> LastTransitions:
    """Return what was kept; nothing if there is none, or it is damaged."""
    with suppress(OSError, ValueError, TypeError):
        digest, _, body = path.read_bytes().partition(b"\n")
        if digest.decode() == sha256(body).hexdigest():
            return LastTransitions(*parse_json(body))
    return LastTransitions()


def save_last(path: Path, last: LastTransitions) -> None:
    """Keep it; where that cannot be done, the next start reads the history again."""
    body = json.dumps([last.head, last.transitions, last.attempts, last.hosts]).encode()
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_atomically(path, f"{sha256(body).hexdigest()}\n".encode() + body, mode=0o600)

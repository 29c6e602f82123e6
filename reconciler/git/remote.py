"""
Fetch and push, with errors told apart by what to do next.
"""

import re
from typing import NoReturn

from reconciler.core.errors import Conflict, Refused, Unavailable
from reconciler.git.process import Git, GitResult

_NOT_ALLOWED = re.compile(
    r"authentication failed|could not read (?:username|password)|permission denied|host key verification"
    r"|returned error: 40[13]|access denied|not found|does not appear to be a git repository|does not exist"
    r"|dubious ownership",
    re.IGNORECASE,
)
_SOMEBODY_FIRST = re.compile(
    r"\[rejected\]|\[remote rejected\].*(?:cannot lock ref|failed to update ref|incorrect old value)"
)
_MOVED_MEANWHILE = re.compile(r"cannot lock ref '[^']*': is at \w+ but expected")
"""A git of a reconciler that died may still be at work in the same clone."""
_FETCHES = 3
_SAID_NO = re.compile(r"\[remote rejected\]")
_EMPTY = "not our ref 0000000000"
"""Git's message for a ref with an empty file, as after a loss of power."""
_FEW_OBJECTS = ("-c", "pack.window=0", "-c", "pack.threads=1")
"""Packing a handful of commits: search no deltas, start no threads."""

NETWORK_TIMEOUT = 300.0
"""Seconds after which a fetch or a push is given up; a first clone of a fleet takes seconds."""


async def fetch(git: Git) -> None:
    """
    Fetch the branches of the remote into `refs/remotes/origin/`, with pruning.

    The fleet's own refs (`refs/fleet/`) are fetched into `refs/remote-fleet/`.
    Raises Refused if the remote does not let us in, Unavailable if it does not answer.
    """
    # Tags name nothing of ours; FETCH_HEAD tells of the last fetch that a person made. Of a remote that
    # lacks part of its history we take what it has, as we do where it is a folder.
    args = ("fetch", "--quiet", "--prune", "--no-tags", "--no-write-fetch-head", "--update-shallow", "origin")
    refs = ("+refs/heads/*:refs/remotes/origin/*", "+refs/fleet/*:refs/remote-fleet/*")
    for _ in range(_FETCHES):
        result = await git.attempt(*args, *refs, timeout=NETWORK_TIMEOUT)
        if not _MOVED_MEANWHILE.search(result.message):
            break
    if result.code != 0:
        damaged = (
            "; a ref of the remote is damaged: see to its empty files there"
            if _EMPTY in result.message
            else ""
        )
        explain("fetch failed", f"{result.message}{damaged}")


async def push(git: Git, remote: str, commit: str, branch: str) -> None:
    """
    Make a commit the head of a branch of the remote, if that only adds to it.

    Raises Conflict if somebody else pushed first, Refused if the remote says
    no, Unavailable if it does not answer (then it may or may not have it).
    """
    args = ("push", "--quiet", "--porcelain", remote, f"{commit}:refs/heads/{branch}")
    result = await git.with_options(*_FEW_OBJECTS).attempt(*args, timeout=NETWORK_TIMEOUT)
    if result.code != 0:
        explain(f"push of {branch} failed", _message(result))


async def push_ref(git: Git, value: str, ref: str, *, expected: str | None) -> None:
    """
    Compare and swap: set a ref of the remote, by its full name, if it has the expected value.

    An empty value deletes it. Raises as `push` does; Conflict if the ref has another value.
    """
    # Explicit: by default git compares with the last fetch, which may be newer than what we know.
    lease = f"--force-with-lease={ref}:{expected or ''}"
    args = ("push", "--quiet", "--porcelain", lease, "origin", f"{value}:{ref}")
    result = await git.with_options(*_FEW_OBJECTS).attempt(*args, timeout=NETWORK_TIMEOUT)
    if result.code != 0:
        explain(f"push of {ref} failed", _message(result))


def _message(result: GitResult) -> str:
    """Return the messages of both sides: refusals of single refs are on stdout."""
    refs = [line for line in result.stdout.decode("utf-8", "replace").splitlines() if line.startswith("!")]
    return " ".join([*refs, result.message])


def explain(what: str, message: str) -> NoReturn:
    """Raise the error that fits a failed fetch or push, judging by git's message."""
    if _SOMEBODY_FIRST.search(message):
        raise Conflict(f"{what}, somebody else was first: {message}")
    if _SAID_NO.search(message):
        raise Refused(f"{what}, the remote said no: {message}")
    if _NOT_ALLOWED.search(message):
        raise Refused(f"{what}, check its address and the credentials: {message}")
    raise Unavailable(f"{what}: {message}")

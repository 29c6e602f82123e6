"""
The record in a clone of a fleet: it belongs to a remote, and is known from fetches.

A clone does not make the record its own: whoever reconciled in it would start
everything again that runs, or ran, where the record is. Looking is another
matter: what was fetched of it is shown, with the time it was fetched.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from reconciler.core.errors import Unavailable, UsageError
from reconciler.core.times import time_at
from reconciler.git.process import Git, printable_error
from reconciler.git.repository import Repository
from reconciler.store.layout import IDENTITY_FILE
from reconciler.store.locks import lock_file, lock_holder

ASKING = 15.0
"""Timeout in seconds for asking a remote for its record."""


@dataclass(frozen=True, slots=True)
class Remote:
    """A remote of a repository on this machine."""

    name: str
    url: str
    is_mirrored: bool = False
    """Whether a fetch from it writes over the branches here."""

    def __str__(self) -> str:
        return f"{self.name} ({self.url})" if self.name != self.url else self.url


@dataclass(frozen=True, slots=True)
class Fetched:
    """The record of a remote, as of the last fetch."""

    remote: str
    ref: str
    commit: str
    at: datetime | None


@dataclass(frozen=True, slots=True)
class RemoteAnswer:
    """A remote's answer about the record."""

    commit: str
    """Newest of the record; of any branch that it fetched, in a clone."""
    is_its_own: bool
    """False: the remote is a clone too; the record, if there is one, is where it was cloned from."""


async def remotes(repository: Repository) -> Sequence[Remote]:
    """Return the remotes of a repository; none of one that was opened by its URL."""
    if repository.address:
        return ()
    listed = await repository.git.run("config", "-z", "--get-regexp", r"^remote\.", codes=(0, 1))
    settings: dict[str, dict[str, list[str]]] = {}
    for entry in listed.decode("utf-8", "replace").split("\0"):
        key, _, value = entry.partition("\n")
        name, _, field = key.removeprefix("remote.").rpartition(".")
        settings.setdefault(name, {}).setdefault(field, []).append(value)
    return [
        Remote(name, printable_error(values["url"][0]), _writes_over(values))
        for name, values in settings.items()
        if values.get("url")
    ]


async def _removed_origin(repository: Repository) -> Sequence[Remote]:
    """
    Return where a repository was cloned from, if it has no record and that is no remote of it any more.

    Git notes it in the log of HEAD, as long as it keeps that (90 days).
    """
    try:
        first = (repository.git_dir / "logs/HEAD").read_text(errors="replace").partition("\n")[0]
    except OSError:
        return ()
    url = first.partition("\tclone: from ")[2]
    known_urls = {remote.url for remote in await remotes(repository)}
    return [Remote(url, url)] if url and printable_error(url) not in known_urls else ()


def _writes_over(settings: dict[str, list[str]]) -> bool:
    refspecs = settings.get("fetch", [])
    return any(_target(refspec).startswith(("refs/heads/", "refs/*")) for refspec in refspecs)


def _target(refspec: str) -> str:
    return refspec.partition(":")[2]


async def fetched_record(repository: Repository, branch: str) -> Fetched | None:
    """Return the fetched record to show in a clone; None if the repository's own is as new."""
    local = repository.read_ref(f"refs/heads/{branch}")
    latest: Fetched | None = None
    for remote in await remotes(repository):
        ref = f"refs/remotes/{remote.name}/{branch}"
        commit = repository.read_ref(ref)
        newest = latest.commit if latest else local
        if commit and (newest is None or await _is_ahead(repository, newest, commit)):
            latest = Fetched(remote.name, ref, commit, _fetched_at(repository.git_dir, ref))
    return latest


async def unfetched(repository: Repository, branch: str) -> Sequence[Remote]:
    """Return the remotes that may have the record, where there is none here and none was fetched."""
    if repository.read_ref(f"refs/heads/{branch}"):
        return ()
    all_remotes = await remotes(repository)
    return (
        ()
        if any(repository.read_ref(f"refs/remotes/{each.name}/{branch}") for each in all_remotes)
        else all_remotes
    )


async def _is_ahead(repository: Repository, old: str, new: str) -> bool:
    return old != new and await contains(repository, new, old)


async def contains(repository: Repository, line: str, commit: str) -> bool:
    """Return whether a commit is on a line; False if it is not in the repository."""
    return (await repository.git.attempt("merge-base", "--is-ancestor", commit, line)).code == 0


def _fetched_at(git_dir: Path, ref: str) -> datetime | None:
    """Return when a remote was last fetched from, judging by file times."""
    for file in ("FETCH_HEAD", ref, "packed-refs"):
        with suppress(OSError):
            return time_at((git_dir / file).stat().st_mtime)
    return None


# --- Before anything is started --------------------------------------------


async def require_own_record(repository: Repository, branch: str, *, was_here: bool = False) -> None:
    """
    Raise UsageError if a remote has a record that is not, or not all, in this repository.

    `was_here` says that the fleet was reconciled in this repository before, or its record adopted. Else a
    record that a remote has as well came with the clone, as it does into a bare one.

    For a remote that does not answer, the last fetch counts; where
    nothing was, and there is no record here, that is a reason too. So is a
    remote that knows of a record elsewhere.
    """
    known_remotes = list(await remotes(repository))
    if repository.read_ref(f"refs/heads/{branch}") is None and not repository.address:
        known_remotes += await _removed_origin(repository)
    for why_not in await asyncio.gather(
        *(_why_not_here(repository, branch, remote, was_here=was_here) for remote in known_remotes)
    ):
        if why_not:
            raise UsageError(why_not)


async def _why_not_here(repository: Repository, branch: str, remote: Remote, *, was_here: bool) -> str | None:
    local = repository.read_ref(f"refs/heads/{branch}")
    try:
        answer = await ask(repository, branch, remote)
        if answer and not answer.is_its_own:
            return None if local else _stand_further(remote, branch)
        theirs = answer.commit if answer else None
    except Unavailable as error:
        theirs = repository.read_ref(f"refs/remotes/{remote.name}/{branch}")
        if theirs is None and local is None:
            return (
                f"{remote} may have the record of this fleet, and cannot be asked: "
                f"{error}; try again when it answers, or, if it has none, begin one here: "
                "`reconciler adopt-record --anew`"
            )
    return await _why_not_beside(repository, branch, remote, theirs, was_here=was_here) if theirs else None


async def _why_not_beside(
    repository: Repository, branch: str, remote: Remote, theirs: str, *, was_here: bool
) -> str | None:
    """Return why not to go on here beside a remote whose record is at a commit."""
    local = repository.read_ref(f"refs/heads/{branch}")
    if remote.is_mirrored:
        return (
            f"{repository} is a mirror of {remote.name}, which has the record of this fleet: a fetch would "
            f"write over what is recorded here; serve it by its URL (--repo {remote.url}), or make this "
            f"repository one of its own (`git remote remove {remote.name}`)"
        )
    if local == theirs:
        cloned = None if was_here else await _why_cloned(repository, branch, remote, theirs)
        return _why_served(remote, branch) or cloned
    if local and await contains(repository, local, theirs):
        return None
    is_behind = await _is_behind(repository, local, theirs)
    return f"{_stand(local, remote, branch, is_behind=is_behind)}; {_ways(remote)}"


async def _is_behind(repository: Repository, local: str | None, theirs: str) -> bool:
    return local is not None and await contains(repository, theirs, local)


def _stand(local: str | None, remote: Remote, branch: str, *, is_behind: bool) -> str:
    if local is None:
        how = "and there is none here: everything on record there would be done again"
    elif is_behind:
        how = "and the one here is behind it: what happened since would be done again"
    else:
        how = "and the one here has not all of it: what happened there since would be done again"
    return f"the record of this fleet is at {remote}, branch {branch}, {how}"


def _stand_further(remote: Remote, branch: str) -> str:
    return (
        f"{remote} is a clone as well: the record of this fleet, branch {branch}, is "
        "where the first of them was cloned from, and there is none here: everything on record there would "
        "be done again; serve that place by its path or URL (--repo), or begin a record here, to do all "
        "anew: `reconciler adopt-record --anew`"
    )


def _ways(remote: Remote) -> str:
    adopt = f"reconciler adopt-record --from {remote.name}"
    if remote.name == remote.url:
        adopt = f"git remote add origin {remote.url} && reconciler adopt-record --from origin"
    return (
        f"serve it by its URL (--repo {remote.url}), or go on here, once nobody serves it there "
        f"any more: `{adopt}`"
    )


async def _why_cloned(repository: Repository, branch: str, remote: Remote, commit: str) -> str | None:
    """Return why a clone that brought the record along must not be served; None for specs without one."""
    has_record = await repository.git.attempt("cat-file", "-e", f"{commit}:{IDENTITY_FILE}")
    if has_record.code:
        return None
    return (
        f"{repository} is a clone of {remote}, whose record of this fleet came along, branch {branch}: "
        f"whatever is new would be done in both; {_ways(remote)}"
    )


def _why_served(remote: Remote, branch: str) -> str | None:
    """Return why a copy must not be served: what it was copied from is served on this machine."""
    place = Path(remote.url.removeprefix("file://"))
    for git_dir in (place / ".git", place):
        if (holder := lock_holder(lock_file(git_dir, branch))) is not None:
            return (
                f"the record of this fleet is at {remote}, where a reconciler "
                f"(pid {holder}) is at work on it: end it first, or leave the fleet to it"
            )
    return None


async def ask(repository: Repository, branch: str, remote: Remote) -> RemoteAnswer | None:
    """Return a remote's answer about the record; None if it has none. Raises Unavailable."""
    own, fetched = f"refs/heads/{branch}", "refs/remotes/*"
    listed = await repository.network.run("ls-remote", remote.name, own, fetched, timeout=ASKING)
    commits = {
        ref: commit for commit, _, ref in (line.partition("\t") for line in listed.decode().splitlines())
    }
    if own in commits:
        return RemoteAnswer(commits[own], is_its_own=True)
    elsewhere = [commit for ref, commit in commits.items() if ref.startswith("refs/remotes/")]
    return RemoteAnswer(elsewhere[0], is_its_own=False) if elsewhere else None


async def adopt(repository: Repository, branch: str, name: str | None) -> str:
    """
    Make the record of a remote this repository's own; return its newest commit.

    `name` is the remote; the only one with a record, if None. Raises UsageError
    if there is none, several, or the one here has commits of its own;
    Unavailable if it does not answer.
    """
    named = [remote for remote in await remotes(repository) if name in {None, remote.name}]
    commits = {remote: await ask(repository, branch, remote) for remote in named}
    there = {remote: answer.commit for remote, answer in commits.items() if answer and answer.is_its_own}
    if len(there) != 1:
        which = ", ".join(remote.name for remote in there or named) or "there is no remote"
        what = "which one? name it with --from" if there else f"none has a branch {branch}"
        raise UsageError(f"{what}: {which}")
    ((remote, commit),) = there.items()
    await repository.network.run(
        "fetch",
        "--quiet",
        "--no-tags",
        "--no-write-fetch-head",
        remote.name,
        f"refs/heads/{branch}",
        timeout=300,
    )
    local = repository.read_ref(f"refs/heads/{branch}")
    if local is not None and not await contains(repository, commit, local):
        raise UsageError(
            f"{branch} here has commits that {remote.name} has not: they went different ways; serve the "
            f"remote by its URL (--repo {remote.url}), or let this repository be a fleet of its own "
            f"(`git remote remove {remote.name}`)"
        )
    move = ("update-ref", f"refs/heads/{branch}", commit, local or "0" * len(commit))
    await repository.git.synced().run(*move)
    return commit


async def begin_record(repository: Repository, branch: str) -> str:
    """Begin an empty record in a person's name; return its commit. Raises UsageError if there is one."""
    from reconciler.store.commits import commit_tree, publish
    from reconciler.store.user_commits import require_identity

    if (commit := repository.read_ref(f"refs/heads/{branch}")) is not None:
        raise UsageError(f"there is a record here: {branch} is at {commit[:10]}")
    person = Git.personal(repository.git_dir)
    await require_identity(person)
    commit = await commit_tree(repository, person, None, [], "record: begins here\n\nCause: person\n")
    await publish(repository, branch, None, commit)
    return commit

"""
Commits on a person's behalf, in that person's name.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from reconciler.core.errors import Conflict, Refused, Unavailable, UsageError
from reconciler.git.checkout import IDENTITIES, NOBODY, STRICTLY, Checkout, Upstream, upstream_of
from reconciler.git.process import Git
from reconciler.git.remote import push as push_to
from reconciler.git.repository import Repository
from reconciler.store.commits import commit_files, require_inside


async def commit_file(
    repository: Repository, branch: str, path: str, text: str | None, message: str, *, push: bool
) -> str:
    """
    Commit one changed file (None: removed) to a branch and return the commit.

    Where the branch is checked out, the file is edited there and committed
    with the person's own hooks, and everything else is left alone. Otherwise
    the commit is made in the object database. With `push` it goes to the
    branch's upstream too, if there is one; it always goes to a remote that is
    the record.

    Raises UsageError if git does not know the person or the file is being
    edited, Conflict if somebody else changed it or pushed first, Unavailable
    or Refused if the remote does not take it.
    """
    require_inside(path)
    folder = None if repository.address else await repository.checkout_of(branch)
    if folder is not None:
        return await asyncio.to_thread(_in_checkout, folder, branch, path, text, message, push=push)
    return await _in_objects(repository, branch, {path: text}, message, push=push)


async def remove_files(
    repository: Repository, branch: str, paths: Sequence[str], message: str, *, push: bool
) -> str:
    """Commit that files are removed from a branch, and return the commit; see `commit_file`."""
    for path in paths:
        require_inside(path)
    folder = None if repository.address else await repository.checkout_of(branch)
    if folder is not None:
        return await asyncio.to_thread(_removed_in_checkout, folder, branch, paths, message, push=push)
    return await _in_objects(repository, branch, dict.fromkeys(paths), message, push=push)


# --- Where the branch is checked out ---------------------------------------


def _in_checkout(folder: Path, branch: str, path: str, text: str | None, message: str, *, push: bool) -> str:
    checkout = Checkout(folder)
    if not checkout.has_identity():
        raise UsageError(NOBODY)
    if checkout.is_touched(path) or (folder / path).is_symlink():
        # The commit would be mixed with what the person is doing to the same file.
        raise UsageError(f"{folder / path} has changes that are not committed; commit or undo them first")
    content = None if text is None else text.encode()
    if content != _read(folder / path):
        _change(checkout, folder / path, path, content, message)
    return _pushed(checkout, folder, branch, push=push)


def _removed_in_checkout(folder: Path, branch: str, paths: Sequence[str], message: str, *, push: bool) -> str:
    checkout = Checkout(folder)
    if not checkout.has_identity():
        raise UsageError(NOBODY)
    if checkout.is_touched(*paths):
        raise UsageError(
            f"some of these files have changes in {folder} that are not committed: `git status` tells "
            "which; commit or undo them first"
        )
    checkout.remove(*paths)
    try:
        checkout.commit(message, *paths)
    except BaseException:
        checkout.restore(*paths)
        raise
    return _pushed(checkout, folder, branch, push=push)


def _pushed(checkout: Checkout, folder: Path, branch: str, *, push: bool) -> str:
    """Return the newest commit; with `push` it is at the upstream too, if there is one."""
    commit = checkout.head()
    if push and (upstream := upstream_of(folder, branch)):
        with _pushing(upstream, commit):
            checkout.push(upstream, commit)
    return commit


def _change(checkout: Checkout, file: Path, path: str, content: bytes | None, message: str) -> None:
    before = _read(file)
    _write(file, content)
    try:
        if before is None:
            checkout.stage(path)
        checkout.commit(message, path)
    except BaseException:
        _write(file, before)
        with suppress(Unavailable):  # the original error says more
            checkout.unstage(path)
        raise


def _read(file: Path) -> bytes | None:
    return file.read_bytes() if file.exists() else None


def _write(file: Path, content: bytes | None) -> None:
    if content is None:
        file.unlink(missing_ok=True)
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


# --- Where it is not -------------------------------------------------------


async def _in_objects(
    repository: Repository, branch: str, files: Mapping[str, str | None], message: str, *, push: bool
) -> str:
    person = Git.personal(repository.git_dir)
    await require_identity(person)
    commit = await commit_files(repository, person, branch, files, message)
    if not push or repository.address:
        return commit
    if upstream := await asyncio.to_thread(upstream_of, repository.git_dir, branch):
        with _pushing(upstream, commit):
            await push_to(repository.network, upstream.remote, commit, upstream.branch)
    return commit


# ---------------------------------------------------------------------------


@contextmanager
def _pushing(upstream: Upstream, commit: str) -> Iterator[None]:
    """Let a push that fails say that the commit is here all the same, and how it gets there."""
    here = f"committed here as {commit[:10]}, but"
    try:
        yield
    except Conflict as error:
        raise Conflict(
            f"{here} {upstream.remote} has newer commits on {upstream.branch}: "
            "run `git pull --rebase` and `git push`"
        ) from error
    except (Refused, Unavailable) as error:
        kind = Refused if isinstance(error, Refused) else Unavailable
        raise kind(
            f"{here} not pushed to {upstream.remote}: {error}; `git push` sends it once it can be"
        ) from error


async def require_identity(git: Git) -> None:
    """Raise UsageError if git does not know in whose name it commits."""
    for who in IDENTITIES:
        if (await git.attempt(*STRICTLY, "var", who)).code != 0:
            raise UsageError(NOBODY)

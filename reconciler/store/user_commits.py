"""
What commands commit on a person's behalf: one file, in that person's name.
"""

from contextlib import suppress
from pathlib import Path

from reconciler.core.errors import Conflict, Unavailable, UsageError
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
        commit = await _in_checkout(folder, path, text, message)
        if push:
            await _push_upstream(Git.personal("-C", str(folder)), branch, commit)
        return commit
    return await _in_objects(repository, branch, path, text, message, push=push)


# --- Where the branch is checked out ---------------------------------------


async def _in_checkout(folder: Path, path: str, text: str | None, message: str) -> str:
    git = Git.personal("-C", str(folder))
    await require_identity(git)
    await _require_untouched(git, folder, path)
    before, after = _read(folder / path), None if text is None else text.encode()
    if before == after:
        return await _head(git)
    _write(folder / path, after)
    try:
        if before is None:
            await git.run("add", "--", path)
        await git.run("commit", "--quiet", "--only", "--file=-", "--", path, stdin=message.encode())
    except BaseException:
        await _put_back(git, folder, path, before)
        raise
    return await _head(git)


async def _head(git: Git) -> str:
    return (await git.run("rev-parse", "HEAD")).decode().strip()


async def _require_untouched(git: Git, folder: Path, path: str) -> None:
    """Refuse to mix the commit with what the person is doing to the same file."""
    state = await git.run("status", "--porcelain", "-z", "--ignored", "--untracked-files=all", "--", path)
    if state or (folder / path).is_symlink():
        raise UsageError(f"{folder / path} has changes that are not committed; commit or undo them first")


async def _put_back(git: Git, folder: Path, path: str, before: bytes | None) -> None:
    _write(folder / path, before)
    with suppress(Unavailable):  # the error that led here says more
        await git.run("reset", "--quiet", "--", path)


def _read(file: Path) -> bytes | None:
    return file.read_bytes() if file.exists() else None


def _write(file: Path, content: bytes | None) -> None:
    if content is None:
        file.unlink(missing_ok=True)
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


async def _push_upstream(git: Git, branch: str, commit: str) -> None:
    upstream = await _upstream(git, branch)
    if upstream is None:
        return
    try:
        await push_to(git, upstream[0], commit, upstream[1])
    except Conflict as error:
        raise Conflict(
            f"committed here as {commit[:10]}, but {upstream[0]} has newer commits on {upstream[1]}: "
            "run `git pull --rebase` and `git push`"
        ) from error


async def _upstream(git: Git, branch: str) -> tuple[str, str] | None:
    """Return the remote a branch is pushed to, and its name there."""
    remote = await git.run("config", "--get", f"branch.{branch}.remote", codes=(0, 1))
    merge = await git.run("config", "--get", f"branch.{branch}.merge", codes=(0, 1))
    if not remote.strip() or not merge.strip():
        return None
    return remote.decode().strip(), merge.decode().strip().removeprefix("refs/heads/")


# --- Where it is not -------------------------------------------------------


async def _in_objects(
    repository: Repository, branch: str, path: str, text: str | None, message: str, *, push: bool
) -> str:
    person = Git.personal(f"--git-dir={repository.git_dir}")
    await require_identity(person)
    commit = await commit_files(repository, person, branch, {path: text}, message)
    if push and not repository.address:
        await _push_upstream(repository.network, branch, commit)
    return commit


# ---------------------------------------------------------------------------


async def require_identity(git: Git) -> None:
    """Raise UsageError if git does not know in whose name it commits."""
    for who in ("GIT_AUTHOR_IDENT", "GIT_COMMITTER_IDENT"):
        result = await git.attempt("-c", "user.useConfigOnly=true", "var", who)
        if result.code != 0:
            raise UsageError(
                'git does not know who commits: run `git config --global user.name "Your Name"` '
                "and `git config --global user.email you@example.org`"
            )

"""
What commands commit on a person's behalf: one file, in that person's name.
"""

from contextlib import suppress
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from reconciler.controller.ports import Entry
from reconciler.core.errors import Conflict, Unavailable, UsageError
from reconciler.store.git import Git
from reconciler.store.objects import GitTree
from reconciler.store.remote import push as push_to
from reconciler.store.repository import Repository

_REDO = 3
"""Tries to put the commit on top of a branch that others push to."""
_REGULAR = ("100644", "100755")


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
    _require_inside(path)
    folder = None if repository.address else await repository.checkout_of(branch)
    if folder is not None:
        commit = await _in_checkout(folder, path, text, message)
        if push:
            await _push_upstream(Git.personal("-C", str(folder)), branch, commit)
        return commit
    return await _in_objects(repository, branch, path, text, message, push=push)


def _require_inside(path: str) -> None:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or any(part in {"..", ".git"} for part in parts):
        raise UsageError(f"{path}: not a file of the repository")


# --- Where the branch is checked out ---------------------------------------


async def _in_checkout(folder: Path, path: str, text: str | None, message: str) -> str:
    git = Git.personal("-C", str(folder))
    await _require_identity(git)
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
    """Commit on top of the branch's head; again, if it moved and the file did not."""
    person = Git.personal(f"--git-dir={repository.git_dir}")
    await _require_identity(person)
    tree = GitTree(repository, branch)
    head = await tree.head()
    found = await tree.entry(head, path)
    wanted = await _entry(repository, path, found, text)
    if wanted == found:
        return head
    for _ in range(_REDO):
        commit = await _commit_on(repository, person, head, path=path, entry=wanted, message=message)
        try:
            await _publish(repository, branch, head, commit)
        except Conflict:
            await repository.fetch()
            head = await tree.head()
            if await tree.entry(head, path) != found:
                raise Conflict(
                    f"{path} was changed by somebody else meanwhile; look at it and try again"
                ) from None
            continue
        if push and not repository.address:
            await _push_upstream(repository.network, branch, commit)
        return commit
    raise Conflict(f"{branch} moves too quickly to commit {path}; try again")


async def _entry(repository: Repository, path: str, found: Entry | None, text: str | None) -> Entry | None:
    """Store the new content and return its place in the tree; None if the file goes."""
    if found and found.mode not in _REGULAR:
        raise UsageError(f"{path}: not a regular file; change it by hand")
    if text is None:
        return None
    blob = await repository.git.run("hash-object", "-w", "--stdin", stdin=text.encode())
    return Entry(found.mode if found else "100644", blob.decode().strip())


async def _commit_on(
    repository: Repository, person: Git, head: str, *, path: str, entry: Entry | None, message: str
) -> str:
    """Make a commit that differs from `head` in one file; no ref and nobody's index is touched."""
    line = f"{entry.mode} {entry.blob}\t{path}\0" if entry else f"0 {'0' * len(head)}\t{path}\0"
    git = repository.git
    with TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": f"{folder}/index"}
        await git.run("read-tree", head, env=index)
        await git.run("update-index", "-z", "--index-info", stdin=line.encode(), env=index)
        tree = (await git.run("write-tree", env=index)).decode().strip()
    committed = await person.run("commit-tree", tree, "-p", head, "-F", "-", stdin=message.encode())
    return committed.decode().strip()


async def _publish(repository: Repository, branch: str, head: str, commit: str) -> None:
    """Make the commit the head of the branch where its record is. Raises Conflict if it moved."""
    if repository.address:
        await push_to(repository.network, "origin", commit, branch)
        return
    ref = repository.ref(branch)
    result = await repository.git.attempt("update-ref", "-m", "reconciler", ref, commit, head)
    if result.code != 0:
        error = Unavailable if repository.read_ref(ref) == head else Conflict
        raise error(f"{branch} could not be moved: {result.words}")


async def _require_identity(git: Git) -> None:
    for who in ("GIT_AUTHOR_IDENT", "GIT_COMMITTER_IDENT"):
        result = await git.attempt("-c", "user.useConfigOnly=true", "var", who)
        if result.code != 0:
            raise UsageError(
                'git does not know who commits: run `git config --global user.name "Your Name"` '
                "and `git config --global user.email you@example.org`"
            )

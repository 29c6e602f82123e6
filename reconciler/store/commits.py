"""
Commits made in the object database, without anybody's index or work tree.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from reconciler.controller.tree import TreeEntry
from reconciler.core.errors import Conflict, Unavailable, UsageError
from reconciler.files import sync_folder
from reconciler.git.objects import GitTree
from reconciler.git.process import Git
from reconciler.git.remote import push
from reconciler.git.repository import Repository

_REDO = 5
"""Attempts to put the commit on top of a branch that others push to."""
_REGULAR = ("100644", "100755")

Publish = Callable[[Repository, str, str | None, str], Awaitable[None]]
"""Make a commit the head of a branch, which was at another (None: not there). Raises Conflict if it moved."""


async def publish(repository: Repository, branch: str, was: str | None, commit: str) -> None:
    """Make the commit the head of the branch where its record is; see `Publish`."""
    ref = repository.ref(branch)
    move = ("update-ref", "-m", "reconciler", ref, commit, was or "0" * len(commit))
    if repository.address:
        await push(repository.network, "origin", commit, branch)
        await repository.git.attempt(*move)  # for the next read here; a fetch may be quicker
        return
    # Before the ref: it must never be on disk without what it names.
    await asyncio.to_thread(_sync_objects, repository.git_dir)
    result = await repository.git.synced().attempt(*move)
    if result.code != 0:
        error = Unavailable if repository.read_ref(ref) == was else Conflict
        raise error(f"{branch} could not be moved: {result.message}")
    await asyncio.to_thread(_sync_ref, repository.git_dir, ref)


async def commit_files(
    repository: Repository,
    committer: Git,
    branch: str,
    files: Mapping[str, str | None],
    message: str,
    *,
    made_from: str | None = None,
    begin_at: str | None = None,
    publish: Publish = publish,
) -> str:
    """
    Commit changed files (None: removed) on top of a branch; return the commit, the head if nothing differs.

    `committer` is git with the identity to commit in. `made_from` is the commit
    that the changes were made from, the head if None. `begin_at` is where a
    branch that is not there begins. If the branch moves and the files do not,
    the commit is made again on top. Raises Conflict if one of them did,
    UsageError for a file that cannot be written this way, Unavailable or
    Refused if the branch cannot be moved.
    """
    for path in files:
        require_inside(path)
    tree = GitTree(repository, branch)
    was = repository.read_ref(repository.ref(branch))
    head = was or begin_at or await tree.head()
    before = await tree.entries(made_from or head, files)
    wanted = {path: await _entry(repository, path, before[path], text) for path, text in files.items()}
    for _ in range(_REDO):
        changes = await _changes(tree, head, before, wanted)
        if not changes:
            return head
        commit = await commit_changes(repository, committer, head, changes, message)
        try:
            await publish(repository, branch, was, commit)
        except Conflict:
            await repository.fetch()
            was = head = await tree.head()
        else:
            return commit
    raise Conflict(f"{branch} moves too quickly to commit {', '.join(files)}; try again")


def require_inside(path: str) -> None:
    """Raise UsageError for a path that leads out of the repository."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or any(part in {"..", ".git"} for part in parts):
        raise UsageError(f"{path}: not a file of the repository")


async def _changes(
    tree: GitTree, head: str, before: Mapping[str, TreeEntry | None], wanted: Mapping[str, TreeEntry | None]
) -> Mapping[str, TreeEntry | None]:
    """Return the changes still to be made. Raises Conflict for a file that somebody else changed."""
    now = await tree.entries(head, wanted)
    changes = {path: entry for path, entry in wanted.items() if now[path] != entry}
    for path in changes:
        if now[path] != before[path]:
            raise Conflict(f"{path} was changed by somebody else meanwhile; look at it and try again")
    return changes


async def _entry(
    repository: Repository, path: str, before: TreeEntry | None, text: str | None
) -> TreeEntry | None:
    """Store the new content and return its tree entry; None if the file is removed."""
    if before and before.mode not in _REGULAR:
        raise UsageError(f"{path}: not a regular file; change it by hand")
    if text is None:
        return None
    blob = await repository.git.synced().line("hash-object", "-w", "--stdin", stdin=text.encode())
    return TreeEntry(before.mode if before else "100644", blob)


async def commit_changes(
    repository: Repository, committer: Git, head: str, changes: Mapping[str, TreeEntry | None], message: str
) -> str:
    """Make a commit that differs from `head` in some files; no ref and nobody's index is touched."""
    gone = f"0 {'0' * len(head)}"
    lines = "".join(
        f"{f'{entry.mode} {entry.blob}' if entry else gone}\t{path}\0" for path, entry in changes.items()
    )
    git = repository.git.synced()
    with TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": f"{folder}/index"}
        await git.run("read-tree", head, env=index)
        await git.run("update-index", "-z", "--index-info", stdin=lines.encode(), env=index)
        tree = await git.line("write-tree", env=index)
    return await commit_tree(repository, committer, tree, [head], message)


async def commit_tree(
    repository: Repository, committer: Git, tree: str | None, parents: Sequence[str], message: str
) -> str:
    """
    Make a commit of a tree (None: an empty one) and return it; no ref is touched.

    It is signed where the committer's `commit.gpgSign` says so, which git itself heeds for `git commit` only.
    """
    tree = tree or await repository.git.line("mktree")
    signs = await committer.line("config", "--type=bool", "--get", "commit.gpgSign", codes=(0, 1))
    options = [word for parent in parents for word in ("-p", parent)] + ["-S"] * (signs == "true")
    return await committer.synced().line("commit-tree", tree, *options, "-F", "-", stdin=message.encode())


def _sync_objects(git_dir: Path) -> None:
    """Sync the folders of loose objects to disk; cheap for a folder in which nothing is new."""
    objects = git_dir / "objects"
    for folder in [*objects.glob("[0-9a-f][0-9a-f]"), objects]:
        with suppress(FileNotFoundError):  # git removes those that it has emptied
            sync_folder(folder)


def _sync_ref(git_dir: Path, ref: str) -> None:
    """Sync a ref to disk, with every folder that may have been created for it."""
    for folder in (git_dir / ref).parents:
        with suppress(FileNotFoundError):  # it was packed meanwhile
            sync_folder(folder)
        if folder == git_dir:
            break

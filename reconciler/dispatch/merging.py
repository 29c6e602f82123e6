"""
Work brought up to a base branch that has moved: merged with it, or replayed onto it.

It happens among the objects of a bare mirror. No file is checked out, so no
hook, filter or merge driver of a repository ever runs. The same work and the
same base give the same commit, whenever and however often it is made.
"""

import re
from collections.abc import Iterable, Sequence

from reconciler.core.errors import ReconcilerError
from reconciler.core.model.runs import Check
from reconciler.core.text import one_line
from reconciler.git.process import Git

_CLEAN, _CONFLICTS = 0, 1
"""Exit codes of `git merge-tree`; any other is a failure."""
_FIELD = re.compile(rb"\n(?! )")
"""Between two fields of a commit's header; lines that begin with a space go on with the field before."""
_REMADE = (b"tree ", b"parent ", b"gpgsig")
"""Fields that a commit which is made again does not keep; what was signed is another one."""
_OURS = b"reconciler <reconciler@reconciler.invalid>"
_LISTED = 50
"""Most files that are named."""


class MergeConflict(ReconcilerError):
    """The work and the base branch change the same: whoever did the work must merge the two."""

    def __init__(self, files: Sequence[str]) -> None:
        self.files = files
        super().__init__(f"conflicts in {', '.join(map(repr, files[:3]))}")

    def check(self, base: str) -> Check:
        """Return it as a command that failed: the one that shows it, and with which it is fixed."""
        names = [one_line(name) for name in self.files[:_LISTED]]
        more = [f"and {len(self.files) - _LISTED} more"] if len(self.files) > _LISTED else []
        text = "\n".join(
            (f"{base} has moved, and changes the same as this work. Conflicts in:", *names, *more)
        )
        return Check(command=f"git merge origin/{base}", exit_code=_CONFLICTS, seconds=0.0, output=text)


async def merge(git: Git, into: str, other: str, message: str) -> str:
    """
    Return the merge of another commit into one, dated as the later of the two.

    Raises MergeConflict.
    """
    tree = await _merged_tree(git, into, other)
    when = max([await _date(git, into), await _date(git, other)], key=lambda date: int(date.split()[0]))
    people = (b"author %b %b" % (_OURS, when), b"committer %b %b" % (_OURS, when))
    return await _write(git, tree, (into, other), people, f"{message}\n".encode())


async def _date(git: Git, commit: str) -> bytes:
    """Return seconds and time zone of a commit."""
    header, _ = await _read(git, commit)
    return b" ".join(_field(header, b"committer ").rsplit(b" ", 2)[1:])


async def rebase(git: Git, head: str, base: str) -> str | None:
    """
    Return the work replayed onto a base commit; None if it has merges of its own, which nobody can replay.

    Authors, committers, times and messages stay. A commit that the base has by
    now is left out. Raises Clash.
    """
    listed = await git.run("rev-list", "--reverse", "--topo-order", "--parents", head, f"^{base}")
    line = [entry.split() for entry in listed.decode().splitlines()]
    if any(len(entry) != 2 for entry in line):  # noqa: PLR2004 - a commit and its only parent
        return None
    for commit, parent in line:
        base = await _replay(git, commit, parent, base)
    return base


async def _replay(git: Git, commit: str, parent: str, base: str) -> str:
    """Return one commit as it stands on another parent."""
    if parent == base:
        return commit
    header, message = await _read(git, commit)
    kept = [field for field in _FIELD.split(header) if not field.startswith(_REMADE)]
    # git takes two commits and finds by itself where they part: let the base be a child of the parent.
    stand_in = await _write(git, await _tree(git, base), (parent,), kept, b"")
    tree = await _merged_tree(git, stand_in, commit)
    if tree == await _tree(git, base) and await _tree(git, commit) != await _tree(git, parent):
        return base
    return await _write(git, tree, (base,), kept, message)


async def _merged_tree(git: Git, one: str, other: str) -> str:
    args = ("merge-tree", "--write-tree", "--name-only", "--no-messages", "-z", one, other)
    done = await git.attempt(*args, codes=(_CLEAN, _CONFLICTS))
    tree, *files = done.stdout.decode(errors="surrogateescape").rstrip("\0").split("\0")
    if done.code == _CONFLICTS:
        raise MergeConflict(files)
    return tree


async def _tree(git: Git, commit: str) -> str:
    return await git.line("rev-parse", f"{commit}^{{tree}}")


async def _read(git: Git, commit: str) -> tuple[bytes, bytes]:
    """Return header and message of a commit."""
    header, _, message = (await git.run("cat-file", "commit", commit)).partition(b"\n\n")
    return header, message


def _field(header: bytes, name: bytes) -> bytes:
    return next(field for field in _FIELD.split(header) if field.startswith(name))


async def _write(git: Git, tree: str, parents: Iterable[str], fields: Iterable[bytes], message: bytes) -> str:
    lines = [b"tree " + tree.encode(), *(b"parent " + parent.encode() for parent in parents), *fields]
    content = b"\n".join(lines) + b"\n\n" + message
    return await git.line("hash-object", "-t", "commit", "-w", "--stdin", stdin=content)

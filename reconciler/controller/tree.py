"""
Port: a branch in a git repository, read as files. A module of its own, since every command imports it.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Protocol


class TreeEntry(NamedTuple):
    """A file in a commit, as `git ls-tree` prints it."""

    mode: str
    """`100644`, `100755`; `120000` a symbolic link, `160000` a submodule."""
    blob: str
    """Id of its content."""


class Tree(Protocol):
    """A branch in a git repository, read by commit. Every method raises Unavailable if it cannot tell."""

    async def head(self) -> str:
        """Return the commit that the branch points at now."""

    async def files(self, commit: str, under: str) -> Mapping[str, TreeEntry]:
        """Return every file below a folder such as `specs`, by path."""

    async def changed(self, old: str, new: str, under: str) -> Mapping[str, TreeEntry | None]:
        """Return the files below a folder that differ between commits; None: gone."""

    async def blobs(self, ids: Collection[str], *, limit: int) -> Mapping[str, bytes]:
        """
        Return contents by blob id; one that is larger than `limit` bytes is cut to `limit` + 1.

        Raises Gone if one of them is not in the repository.
        """

    async def versions(self, commit: str, path: str, most: int) -> Sequence[str]:
        """Return the blob ids of earlier versions of a file, newest first."""

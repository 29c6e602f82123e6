"""
The files of a branch, read by commit from the object database; never from a work tree.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence

from reconciler.controller.tree import TreeEntry
from reconciler.core.errors import Unavailable
from reconciler.core.requesters import Requester
from reconciler.git.repository import Repository
from reconciler.git.trees import few_differences, first_parent


class GitTree:
    """A branch as a tree of files."""

    def __init__(self, repository: Repository, branch: str) -> None:
        self._repository = repository
        self._branch = branch

    async def head(self) -> str:
        """Return the newest commit. Raises Unavailable if the branch is not there."""
        commit = self._repository.read_ref(self._repository.ref(self._branch))
        if commit is None:
            raise Unavailable(f"{self._repository}: no branch {self._branch!r}; push it, or name another")
        return commit

    async def files(self, commit: str, under: str) -> Mapping[str, TreeEntry]:
        """Return every file of a commit under a folder (all, if it is empty), by path."""
        args = ("ls-tree", "-r", "-z", "--full-tree", commit)
        listed = await self._repository.git.run(*args, *_only(under))
        return {_path(path): _entry(meta) for meta, path in _pairs(listed, b"\t")}

    async def entry(self, commit: str, path: str) -> TreeEntry | None:
        """Return one file of a commit; None if it is not there."""
        return (await self.entries(commit, [path]))[path]

    async def entries(self, commit: str, paths: Collection[str]) -> Mapping[str, TreeEntry | None]:
        """Return files of a commit, by path; None for one that is not there."""
        listed = await self._repository.git.run("ls-tree", "-z", "--full-tree", commit, "--", *paths)
        there = {_path(path): _entry(meta) for meta, path in _pairs(listed, b"\t")}
        return {path: there.get(path) for path in paths}

    async def changed(self, old: str, new: str, under: str) -> Mapping[str, TreeEntry | None]:
        """Return the files under a folder that differ between two commits; None for one that is gone."""
        few = await few_differences(self._repository.objects, old, new, under)
        if few is not None:
            return few
        args = ("diff-tree", "-r", "-z", "--no-renames", "--no-abbrev", old, new)
        listed = await self._repository.git.run(*args, *_only(under))
        fields = listed.decode("utf-8", "surrogateescape").split("\0")
        return {path: _difference(meta) for meta, path in zip(fields[:-1:2], fields[1::2], strict=True)}

    async def blobs(self, ids: Collection[str], *, limit: int) -> Mapping[str, bytes]:
        """Return the content of blobs by id; larger ones cut to `limit` + 1 bytes."""
        contents: dict[str, bytes] = {}
        await self._repository.objects.read(list(ids), contents.__setitem__, limit=limit)
        return contents

    async def versions(self, commit: str, path: str, most: int) -> Sequence[str]:
        """
        Return the blob ids a file had before the one it has in a commit, newest first.

        Follows the first parents: what was only on a merged
        branch was never in force.
        """
        args = ("log", "--first-parent", "-m", "--format=", "--raw", "-z", "--no-abbrev", "--no-renames")
        listed = await self._repository.git.run(*args, f"--max-count={most + 1}", commit, "--", path)
        fields = listed.decode("utf-8", "replace").split("\0")
        before = [field.split(" ")[2] for field in fields if field.startswith(":")]
        return [blob for blob in dict.fromkeys(before) if blob.strip("0")][:most]

    async def touched(self, commit: str, paths: Collection[str], under: str) -> Mapping[str, Requester]:
        """
        Return who changed each of these files below a folder last, and the commit message.

        Follows the first parents, so that a merge is attributed to the person who merged.
        What was not touched in the last few hundred commits is left out.
        """
        newest = await self._touched_last(commit, paths, under)
        if newest is None:
            newest = await self._touched_before(commit, paths, under)
        askers: dict[str, Requester] = {}
        commits = list(dict.fromkeys(newest.values()))
        await self._repository.objects.read(commits, lambda name, data: askers.update({name: _asker(data)}))
        return {path: askers[commit] for path, commit in newest.items()}

    async def _touched_last(
        self, commit: str, paths: Collection[str], under: str
    ) -> Mapping[str, str] | None:
        """Return the commit by path if it touched all of them itself, as after most pushes; else None."""
        objects = self._repository.objects
        parent = await first_parent(objects, commit)
        changed = await few_differences(objects, parent, commit, under) if parent else None
        return dict.fromkeys(paths, commit) if changed is not None and changed.keys() >= set(paths) else None

    async def _touched_before(self, commit: str, paths: Collection[str], under: str) -> Mapping[str, str]:
        """Return the commits that touched them last, by path."""
        args = ("log", "--first-parent", "-m", "--format=%H", "--name-only", "-z", "--no-renames")
        listed = await self._repository.git.run(*args, f"--max-count={_FAR}", commit, *_only(under))
        newest: dict[str, str] = {}
        last = ""
        for field in listed.decode("utf-8", "surrogateescape").split("\0"):
            name = field.strip("\n")
            if _COMMIT.fullmatch(name):
                last = name
            elif name in paths:
                newest.setdefault(name, last)
        return newest


async def present(repository: Repository, names: Sequence[str]) -> Mapping[str, bytes | None]:
    """Return the content of each object, by the name it was asked for; None where it is missing."""
    contents: dict[str, bytes | None] = dict.fromkeys(names)
    await repository.objects.read(names, contents.__setitem__, skip_missing=True)
    return contents


_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_FAR = 300
"""Commits that are searched for who changed a file."""
_AUTHOR = re.compile(r"^author (.*) <[^<>\n]*> \d+ [+-]\d{4}$", re.MULTILINE)


def _asker(content: bytes) -> Requester:
    """Return the author of a commit, and its subject with the first paragraph below."""
    headers, _, message = content.decode("utf-8", "replace").partition("\n\n")
    author = _AUTHOR.search(headers)
    paragraphs = [" ".join(part.split()) for part in message.strip().split("\n\n")]
    return Requester(author[1] if author else "", ": ".join(part for part in paragraphs[:2] if part))


def _only(under: str) -> Sequence[str]:
    return ("--", under.rstrip("/") + "/") if under else ()


def _pairs(listed: bytes, separator: bytes) -> Iterator[tuple[bytes, bytes]]:
    for record in listed.split(b"\0"):
        left, separated, right = record.partition(separator)
        if separated:
            yield left, right


def _path(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")


def _entry(meta: bytes) -> TreeEntry:
    mode, _, blob = meta.decode().split(" ")
    return TreeEntry(mode, blob)


def _difference(meta: str) -> TreeEntry | None:
    _, mode, _, blob, _ = meta.split(" ")
    return TreeEntry(mode, blob) if blob.strip("0") else None

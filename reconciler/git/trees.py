"""
Trees of commits, compared object by object: for a few small ones that is quicker than to start a program.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from reconciler.controller.tree import TreeEntry
from reconciler.git.catfile import CatFile

_MOST_TREES = 32
"""At a depth."""
_MOST_BYTES = 1 << 16
"""Of a tree. `git diff-tree` has compared large ones, or many, before we have read them."""
_FOLDER = "40000"


class _Pair(NamedTuple):
    """A folder in two commits: its path with a slash at the end, and its trees; "" where it is not."""

    path: str
    old: str
    new: str


class _Difference(NamedTuple):
    """An entry that differs between two trees; None: not there."""

    path: str
    old: TreeEntry | None
    new: TreeEntry | None


async def first_parent(objects: CatFile, commit: str) -> str | None:
    """Return the first parent of a commit; None if it has none, or is not there."""
    lines = (await _headers(objects, [commit])).get(commit, ())
    return next((line.removeprefix("parent ") for line in lines if line.startswith("parent ")), None)


async def few_differences(
    objects: CatFile, old: str, new: str, under: str
) -> Mapping[str, TreeEntry | None] | None:
    """
    Return the files under a folder that differ between two commits, as `git diff-tree` has them.

    None if there are too many trees to compare, or too large ones, or not all of them are here.
    """
    within = f"{under.rstrip('/')}/" if under else ""
    headers = await _headers(objects, [old, new])
    if len(headers) < len({old, new}):
        return None
    pairs = [_Pair("", *(headers[commit][0].removeprefix("tree ") for commit in (old, new)))]
    files = dict[str, TreeEntry | None]()
    while pairs:
        trees = await _read_small(objects, pairs)
        if trees is None:
            return None
        differences = [each for pair in pairs for each in _compared(pair, trees)]
        files |= {each.path: _file(each.new) for each in differences if _is_file_of(each, within)}
        pairs = [
            pair for pair in map(_folders, differences) if (pair.old or pair.new) and _meet(pair, within)
        ]
    return dict(sorted(files.items()))


async def _headers(objects: CatFile, commits: Sequence[str]) -> Mapping[str, Sequence[str]]:
    """Return the lines at the head of the commits that are there."""
    contents = dict[str, bytes]()
    await objects.read(commits, contents.__setitem__, skip_missing=True)
    heads = {name: content.partition(b"\n\n")[0] for name, content in contents.items()}
    return {name: head.decode("utf-8", "replace").split("\n") for name, head in heads.items()}


async def _read_small(objects: CatFile, pairs: Iterable[_Pair]) -> Mapping[str, bytes] | None:
    """Return the content of the trees; None if they are too many or too large, or one is missing."""
    wanted = {tree for pair in pairs for tree in (pair.old, pair.new) if tree}
    if len(wanted) > _MOST_TREES:
        return None
    trees = {"": b""}
    await objects.read([*wanted], trees.__setitem__, limit=_MOST_BYTES, skip_missing=True)
    is_whole = wanted <= trees.keys() and all(len(each) <= _MOST_BYTES for each in trees.values())
    return trees if is_whole else None


def _compared(pair: _Pair, trees: Mapping[str, bytes]) -> Iterator[_Difference]:
    width = len(pair.old or pair.new) // 2
    old, new = (dict(_entries(trees[tree], width)) for tree in (pair.old, pair.new))
    for name in old.keys() | new.keys():
        if old.get(name) != new.get(name):
            yield _Difference(pair.path + name, old.get(name), new.get(name))


def _entries(tree: bytes, width: int) -> Iterator[tuple[str, TreeEntry]]:
    """Yield name and entry; the id after each has so many bytes."""
    at = 0
    while at < len(tree):
        middle = tree.index(b"\0", at)
        mode, _, name = tree[at:middle].partition(b" ")
        at = middle + 1 + width
        yield name.decode("utf-8", "surrogateescape"), TreeEntry(_mode(mode), tree[middle + 1 : at].hex())


def _mode(mode: bytes) -> str:
    """
    Return the mode as git takes it: of files it heeds whether they are executable, and no more.

    Some tools have written zeros before it.
    """
    mode = mode.lstrip(b"0")
    if not mode.startswith(b"100"):
        return mode.decode()
    return "100755" if int(mode, 8) & 0o100 else "100644"


def _file(entry: TreeEntry | None) -> TreeEntry | None:
    return None if entry is None or entry.mode == _FOLDER else entry


def _is_file_of(each: _Difference, within: str) -> bool:
    return each.path.startswith(within) and bool(_file(each.old) or _file(each.new))


def _folders(each: _Difference) -> _Pair:
    old, new = (entry.blob if entry and entry.mode == _FOLDER else "" for entry in (each.old, each.new))
    return _Pair(f"{each.path}/", old, new)


def _meet(pair: _Pair, within: str) -> bool:
    """Return whether a folder is within the other, or the other in it."""
    return pair.path.startswith(within) or within.startswith(pair.path)

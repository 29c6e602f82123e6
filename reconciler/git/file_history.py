"""
File history: which commits changed a file, as `git log -- FILE` selects them, for many files in one walk.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from reconciler.git.process import Git

_FILES = ("-z", "--name-only", "--no-renames")


class FileCommit(NamedTuple):
    """A commit that changed a file."""

    commit: str
    subject: str
    """Its author and subject."""


@dataclass(frozen=True, slots=True)
class _Commit:
    subject: str
    parents: Sequence[str]
    changed: Sequence[frozenset[str]]
    """The files that differ from each parent; without any, those that it has."""


@dataclass(frozen=True)
class FileHistory:
    """The commits that some lead back to, by their id, the newest first."""

    commits: Mapping[str, _Commit]

    def changes(self, files: Collection[str], tips: Iterable[str], since: str = "") -> Sequence[FileCommit]:
        """
        Return the commits that made any of the files what they are in `tips`, the newest first.

        Those that `since` descends from are left out. Where a merge has the files as one of its parents
        has them, only that parent is followed: what the others did to them is not what they are.
        """
        wanted, rest, seen, changed = frozenset(files), [*tips], set[str](), set[str]()
        while rest:
            commit = rest.pop()
            if commit in self.commits and commit not in seen:
                seen.add(commit)
                rest += _followed(self.commits[commit], wanted)
                if _is_change(self.commits[commit], wanted):
                    changed.add(commit)
        ordered = sorted(changed - self._ancestry(since), key=self._places.__getitem__)
        return [FileCommit(commit, self.commits[commit].subject) for commit in ordered]

    def _ancestry(self, commit: str) -> frozenset[str]:
        """Return a commit and all before it."""
        rest, seen = [commit], set[str]()
        while rest:
            one = rest.pop()
            if one in self.commits and one not in seen:
                seen.add(one)
                rest += self.commits[one].parents
        return frozenset(seen)

    @cached_property
    def _places(self) -> Mapping[str, int]:
        return {commit: place for place, commit in enumerate(self.commits)}


def _followed(commit: _Commit, files: frozenset[str]) -> Sequence[str]:
    """
    Return the first parent that has the files as the commit has them, or else all.

    Source: "History Simplification" in git-log(1), the default mode.
    """
    for parent, changed in zip(commit.parents, commit.changed, strict=False):
        if files.isdisjoint(changed):
            return [parent]
    return commit.parents


def _is_change(commit: _Commit, files: frozenset[str]) -> bool:
    return not any(files.isdisjoint(changed) for changed in commit.changed)


async def read_file_history(git: Git, tips: Collection[str], *folders: str) -> FileHistory:
    """
    Return the history of the files below some folders, back from some commits.

    Commits that are not there any more are passed over. Raises Unavailable.
    """
    options = ("--full-history", "--sparse", *_FILES, "--format=%H%x00%P%x00%an: %s")
    stdin = "".join(f"{tip}\n" for tip in tips).encode()
    log = await git.run("log", "--ignore-missing", "--stdin", *options, "--", *folders, stdin=stdin)
    entries = re.finditer(_ENTRY % "|".join(map(re.escape, folders)), log.decode("utf-8", "replace"))
    commits = {entry[1]: _Commit(entry[3], entry[2].split(), [_names(entry[4])]) for entry in entries}
    merges = {name: each for name, each in commits.items() if len(each.parents) > 1}
    return FileHistory({**commits, **await _compared(git, merges, folders)} if merges else commits)


_ENTRY = r"([0-9a-f]+)\0([0-9a-f ]*)\0([^\0]*)\0((?:\n?(?:%s)[^\0]*\0)*)\0?"
"""Id, parents, subject and files of a commit; a subject may have anything in it but NUL."""


def _names(text: str) -> frozenset[str]:
    return frozenset(text.strip("\n\0").split("\0"))


async def _compared(git: Git, merges: Mapping[str, _Commit], folders: Sequence[str]) -> Mapping[str, _Commit]:
    """Return merges with the files that differ from each of their parents, which `git log` does not name."""
    pairs = [f"{name} {parent}\n" for name, each in merges.items() for parent in each.parents]
    options = ("--stdin", "--always", "-r", *_FILES)
    text = await git.run("diff-tree", *options, "--", *folders, stdin="".join(pairs).encode())
    changed: dict[str, list[set[str]]] = {name: [] for name in merges}
    name = ""
    for token in text.decode("utf-8", "replace").split("\0")[:-1]:
        if token in merges:
            name = token
            changed[name].append(set())
        else:
            changed[name][-1].add(token)
    return {name: replace(each, changed=[*map(frozenset, changed[name])]) for name, each in merges.items()}

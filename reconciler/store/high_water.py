"""
High-water marks: the newest commits that were ever acted on, remembered outside of their branches.

A branch can be rewound: deleted, forced, restored from an old backup, lost with
the power of a machine that had not synced. What was acknowledged once is
therefore remembered twice more: durably in the data folder, and as a ref
beside the branch (`refs/fleet/record/…`, `refs/fleet/specs/…`), which keeps
the commits from being collected too. A line that does not descend from its
marks is not used before a person has approved it in a commit on it.
"""

import asyncio
import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal

from reconciler.core.errors import Conflict, Refused, Rewound, Unavailable
from reconciler.files import make_folder, parse_json, replace_atomically, replace_durably
from reconciler.git.process import printable_error
from reconciler.git.remote import push_ref
from reconciler.git.repository import Repository
from reconciler.store.layout import IDENTITY_FILE
from reconciler.store.slots import read_slots, write_slot

log = logging.getLogger(__name__)

_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")

_FLEET_ID = re.compile(rb'id: "?([^"\n]+)"?\n')
"""The file with the fleet's identity, as it is written; looks go without the models that would load it."""

LineKind = Literal["record", "specs"]

APPROVAL = "Rewind-Approved"
"""Trailer of the commit in which a person approves that a line continues without another commit."""

_PAUSE, _MOST_PAUSE = 1.0, 30.0
"""Seconds between two moves of the refs, at the least and at the most."""
_SHARE = 10
"""So many times as long as a move took, the next waits: a slow remote is left to the record itself."""

_LOCAL, _THEIRS = "refs/fleet", "refs/remote-fleet"
"""Where our own marks are, and where those of the remote are fetched to."""


@dataclass(frozen=True, slots=True)
class Rewind:
    """A rewound line: it does not descend from a commit that was acted on."""

    kind: LineKind
    branch: str
    now: str | None
    """Commit the branch points at; None if it is not there."""
    was: str
    """Commit that was acted on."""
    is_lost: bool = False
    """Whether that commit is not in the repository any more."""
    is_shallow: bool = False
    about: str = ""
    """Who made the commit that the branch points at, and its subject."""

    def __str__(self) -> str:
        what = "the record" if self.kind == "record" else "the specs"
        where = (
            f"is at {self.now[:10]}{self.about}, which does not" if self.now else "is gone, so it does not"
        )
        lost = " (a commit that is not in the repository any more)" if self.is_lost else ""
        return (
            f"{what} went back: branch {self.branch} {where} "
            f"descend from {self.was[:10]}{lost}, which was acted on; {self._remedies}"
        )

    @property
    def _remedies(self) -> str:
        if self.is_shallow and self.is_lost:
            return "this clone is shallow: `git fetch --unshallow` brings what may be missing"
        approve = f"`reconciler approve-rewind {self.kind}` lets it go on from where it is"
        if self.kind == "specs":
            return f"push what was there again (`git revert` is the way to undo), or {approve}"
        if self.is_lost:
            return f"bring it back from a newer backup or from another copy of this fleet, or {approve}"
        return f"`reconciler restore-record` puts it back, or {approve}"


class MarkFile:
    """
    High-water marks in a file: the commit of each line, by `<kind>/<branch>`, in JSON.

    A durable one is a slot file, as it is written with each commit.
    """

    def __init__(self, path: Path, *, is_durable: bool = False) -> None:
        self._path = path
        self._is_durable = is_durable
        self._stored: Mapping[str, str] | None = None
        self._is_synced = False
        """Whether the file holds what this process wrote to it last, and the disk has that."""

    @property
    def marks(self) -> Mapping[str, str]:
        """Return what the file holds; nothing if it cannot be read."""
        if self._stored is None:
            try:
                # Opening something other than a file may block.
                content = self._path.read_bytes() if self._path.is_file() else b"{}"
                read = parse_json(content if (value := read_slots(content)) is None else value)
            except (OSError, ValueError):
                read = {}
            marks = read.items() if isinstance(read, dict) else ()
            self._stored = {name: mark for name, mark in marks if _COMMIT.fullmatch(str(mark))}
        return self._stored

    def store(self, line: str, commit: str) -> None:
        """Store the mark of a line. Raises Unavailable if it cannot be written and has to be durable."""
        if self.marks.get(line) == commit:
            return
        marks = {**self.marks, line: commit}
        is_synced, self._is_synced = self._is_synced, False
        _replace(self._path, json.dumps(marks).encode(), is_durable=self._is_durable, is_synced=is_synced)
        self._stored, self._is_synced = marks, True

    def forget(self) -> None:
        """Take the marks to be none: they are of another fleet."""
        self._stored = {}


class HighWaterMarks:
    """The marks of one fleet's branches: anybody reads them, only the reconciler moves them."""

    def __init__(self, repository: Repository, data: Path, machine: Path | None = None) -> None:
        """
        Read the marks of a fleet with this data folder.

        `machine` is the folder of what the machine remembers of all fleets whose
        repository is on it. Several reconcilers may share a remote, and each
        knows only what it has fetched: of those, only their own marks count.
        """
        self._repository = repository
        place = repository.address or str(repository.git_dir)
        name = f"{sha256(place.encode()).hexdigest()[:16]}.json"
        self._mine = MarkFile(data / "marks" / name, is_durable=True)
        self._machine = None if repository.address else machine
        self._of_place = [self._mine, *([MarkFile(self._machine / name)] if self._machine else [])]
        self._of_fleet: MarkFile | None = None
        """What the machine remembers of a fleet with this id, wherever its repository is."""
        self._passed: dict[tuple[LineKind, str], str | None] = {}
        """Commit at which each line was last found intact."""
        self._descends: dict[tuple[LineKind, str], tuple[str, frozenset[str]]] = {}
        """The last commit of each line that descends from these marks, as was found."""
        self._waiting: set[tuple[LineKind, str]] = set()
        """Refs that are behind the data folder."""
        self._publishing: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self.publish_error = ""
        """Why the remote refuses marks; empty if it does not."""

    @property
    def _files(self) -> Sequence[MarkFile]:
        return (*self._of_place, self._of_fleet) if self._of_fleet else self._of_place

    def marks(self, kind: LineKind, branch: str) -> set[str]:
        """Return every commit that the branch must descend from."""
        refs = (f"{root}/{kind}/{branch}" for root in (_LOCAL, _THEIRS))
        commits = [self._read_ref(ref) for ref in refs]
        commits += [file.marks.get(f"{kind}/{branch}") for file in self._files]
        return {commit for commit in commits if commit}

    def acted_on(self, kind: LineKind, branch: str) -> str | None:
        """Return the newest commit that was acted on here, as only this machine remembers it."""
        return self._mine.marks.get(f"{kind}/{branch}")

    async def left(self, kind: LineKind, branch: str, head: str | None) -> Sequence[str]:
        """Return the commits that were acted on and are not ancestors of the line, ours first."""
        if kind == "record" and head is not None:
            await self._identify(head)
        marks = self.marks(kind, branch)
        if not marks or marks == {head} or (head and self._passed.get((kind, branch)) == head):
            return ()
        missing = await self._missing(await self._unproven(kind, branch, marks, head), head)
        if missing and await self._is_of_another_fleet():
            for file in self._of_place:
                file.forget()
            marks = self.marks(kind, branch)
            missing = await self._missing(marks, head)
        if head is not None and not missing:
            self._descends[kind, branch] = (head, frozenset(marks))
        now = self._read_ref(self._repository.ref(branch))
        if missing and now != head and (head is None or await self._goes_on(now, head)):
            missing = await self._missing(set(missing), now)  # it went on while the marks were read
        mine = self.acted_on(kind, branch)
        return sorted(missing, key=lambda mark: mark != mine)

    async def _unproven(self, kind: LineKind, branch: str, marks: set[str], head: str | None) -> set[str]:
        """Return the marks that were not found with the commit before, or with this one."""
        before, shown = self._descends.get((kind, branch), ("", frozenset()))
        if before and head and (before == head or await self._is_parent(before, head)):
            return marks - shown - {before}
        return marks

    async def _missing(self, marks: set[str], head: str | None) -> Sequence[str]:
        return [mark for mark in sorted(marks - {head}) if not await self._goes_on(head, mark)]

    async def _identify(self, head: str) -> None:
        """Look up what the machine remembers of the fleet whose id is on record at a commit."""
        if self._machine is None or self._of_fleet is not None:
            return
        result = await self._repository.git.attempt("cat-file", "blob", f"{head}:{IDENTITY_FILE}")
        if identity := _FLEET_ID.fullmatch(result.stdout):
            self._of_fleet = MarkFile(self._machine / f"{sha256(identity[1]).hexdigest()[:16]}.json")
            self._passed.clear()
            self._descends.clear()

    async def rewind(self, kind: LineKind, branch: str, head: str | None) -> Rewind | None:
        """Return the rewind of a line; None if it descends from all that was acted on, or is approved."""
        left = await self.left(kind, branch, head)
        return await self._described(kind, branch, head, left[0]) if left else None

    async def require(self, kind: LineKind, branch: str, head: str | None) -> None:
        """Raise Rewound if a line was rewound."""
        if rewind := await self.rewind(kind, branch, head):
            raise Rewound(str(rewind))

    async def advance(self, kind: LineKind, branch: str, commit: str) -> None:
        """Remember that a commit is acted on, or acknowledged; durable when it returns."""
        key = (kind, branch)
        if self._passed.get(key) == commit:
            return
        await asyncio.to_thread(self._store, f"{kind}/{branch}", commit)
        self._passed[key] = commit
        self._waiting.add(key)
        if self._publishing is None or self._publishing.done():
            self._publishing = asyncio.create_task(self._publish())

    async def close(self, patience: float = 10) -> None:
        """Finish moving the refs, with a time limit for a remote that hangs."""
        self._closing.set()
        if self._publishing is not None:
            await asyncio.wait([self._publishing], timeout=patience)
            self._publishing.cancel()
            await asyncio.wait([self._publishing])

    def _store(self, line: str, commit: str) -> None:
        for file in self._files:
            file.store(line, commit)

    # --- Looking -----------------------------------------------------------

    def _read_ref(self, ref: str) -> str | None:
        with suppress(OSError, UnicodeDecodeError):
            commit = self._repository.read_ref(ref)
            return commit if commit and _COMMIT.fullmatch(commit) else None
        return None

    async def _goes_on(self, head: str | None, mark: str) -> bool:
        if head is None:
            return False
        git = self._repository.git
        if await self._is_parent(mark, head):
            return True
        if (await git.attempt("merge-base", "--is-ancestor", mark, head)).code == 0:
            return True
        args = ("log", "-1", "--format=%H", f"--grep=^{APPROVAL}: {mark}$", head)
        return bool((await git.attempt(*args)).stdout.strip())  # nothing, of what is no commit at all

    async def _is_parent(self, mark: str, head: str) -> bool:
        """Return whether a commit that is there is a parent of another: it starts no process to find out."""
        contents = dict[str, bytes]()
        await self._repository.objects.read([mark, head], contents.__setitem__, skip_missing=True)
        headers, _, _ = contents.get(head, b"").partition(b"\n\n")
        return mark in contents and f"parent {mark}".encode() in headers.split(b"\n")

    async def _is_of_another_fleet(self) -> bool:
        """
        Return whether the marks of this path belong to another repository that was at it.

        One that has none of the commits that were acted on, nor a mark of its own.
        """
        if (
            await self._repository.git.run(
                "for-each-ref", "--count=1", "--format=%(refname)", _LOCAL, _THEIRS
            )
        ).strip():
            return False
        for mark in {mark for file in self._of_place for mark in file.marks.values()}:
            if await self.has(mark):
                return False
        return True

    async def has(self, commit: str) -> bool:
        """Return whether a commit is in the repository."""
        return (await self._repository.git.attempt("cat-file", "-e", f"{commit}^{{commit}}")).code == 0

    async def _described(self, kind: LineKind, branch: str, head: str | None, mark: str) -> Rewind:
        about = ""
        if head is not None:
            result = await self._repository.git.attempt("log", "-1", "--format=%an, %cs: %s", head)
            about = f" ({printable_error(result.stdout)})" if result.code == 0 else ""
        return Rewind(
            kind,
            branch,
            head,
            mark,
            is_lost=not await self.has(mark),
            is_shallow=(self._repository.git_dir / "shallow").exists(),
            about=about,
        )

    # --- Moving ------------------------------------------------------------

    async def _publish(self) -> None:
        """
        Move the refs to the newest marks; they are only a backup, so nothing waits for it.

        A fleet that commits all the time moves them every now and then only: a process or a push for
        each commit would cost as much as the commit.
        """
        clock = asyncio.get_running_loop().time
        while self._waiting:
            began = clock()
            while self._waiting:
                kind, branch = key = self._waiting.pop()
                if commit := self._passed.get(key):
                    await self._move(kind, branch, commit)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), pause_after(clock() - began))

    async def _move(self, kind: LineKind, branch: str, commit: str) -> None:
        ref = f"{_LOCAL}/{kind}/{branch}"
        if self._read_ref(ref) != commit:
            await self._point(ref, commit)
        if self._repository.address:
            await self._push(kind, branch, commit)

    async def _push(self, kind: LineKind, branch: str, commit: str) -> None:
        ref, theirs = f"{_LOCAL}/{kind}/{branch}", f"{_THEIRS}/{kind}/{branch}"
        published = self._read_ref(theirs)
        if published == commit:
            return
        try:
            # By force, as an approved line need not descend from the mark; but over nothing unknown.
            await push_ref(self._repository.network, commit, ref, expected=published)
        except Refused as error:
            if not self.publish_error:
                log.warning("only the data folder remembers what is on record: %s", error)
            self.publish_error = str(error)
        except (Conflict, Unavailable):
            return  # of another reconciler's, or of a remote that is away: the next one tries again
        else:
            self.publish_error = ""
            await self._point(theirs, commit)

    async def _point(self, ref: str, commit: str) -> None:
        """Let a ref of ours be at a commit; one that is damaged goes first, as git moves no such ref."""
        with suppress(Unavailable, OSError):  # the data folder has it, and the next commit tries again
            if self._read_ref(ref) is None:
                self._repository.git_dir.joinpath(ref).unlink(missing_ok=True)
            await self._repository.git.synced().run("update-ref", ref, commit)


@dataclass(frozen=True, slots=True)
class BranchLine:
    """A branch of a fleet and what it must descend from."""

    repository: Repository
    marks: HighWaterMarks
    kind: LineKind
    branch: str

    @property
    def head(self) -> str | None:
        """Commit the branch points at."""
        return self.repository.read_ref(self.repository.ref(self.branch))

    async def readable_head(self) -> str | None:
        """Return the commit the branch points at; None if it is not in the repository."""
        head = self.head
        return head if head and await self.marks.has(head) else None

    async def left(self) -> Sequence[str]:
        """Return the commits that were acted on and are not ancestors of the branch."""
        return await self.marks.left(self.kind, self.branch, self.head)

    async def there(self) -> Sequence[str]:
        """Return those of `left` that are still in the repository."""
        return [commit for commit in await self.left() if await self.marks.has(commit)]


def pause_after(took: float) -> float:
    """Return how many seconds to leave a remote alone after a move of the refs that took so many."""
    return min(max(_PAUSE, _SHARE * took), _MOST_PAUSE)


def _replace(path: Path, content: bytes, *, is_durable: bool, is_synced: bool) -> None:
    """Replace what a file holds; a folder there goes aside. Raises Unavailable if it has to be durable."""
    try:
        make_folder(path.parent)
        if path.is_dir():
            path.rename(path.with_suffix(f".damaged-{os.getpid()}"))
        if is_durable:
            _replace_durably(path, content, is_synced=is_synced)
        else:
            replace_atomically(path, content)
    except OSError as error:
        if is_durable:
            raise Unavailable(f"{path} cannot be written: {error.strerror}") from error
        log.debug("%s cannot be written: %s", path, error.strerror)  # one of several places


def _replace_durably(path: Path, content: bytes, *, is_synced: bool) -> None:
    try:
        write_slot(path, content, is_synced=is_synced)
    except ValueError:  # too many branches for a slot
        replace_durably(path, content)

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
from reconciler.files import replace_durably
from reconciler.git.process import printable_error
from reconciler.git.remote import push_ref
from reconciler.git.repository import Repository

log = logging.getLogger(__name__)

_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")

LineKind = Literal["record", "specs"]

APPROVAL = "Rewind-Approved"
"""Trailer of the commit in which a person approves that a line continues without another commit."""

_PAUSE = 1.0
"""Seconds between two moves of the refs."""

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
            return f"restore it from a backup, or {approve}"
        return f"`reconciler restore-record` puts it back, or {approve}"


class HighWaterMarks:
    """The marks of one fleet's branches: anybody reads them, only the reconciler moves them."""

    def __init__(self, repository: Repository, data: Path) -> None:
        self._repository = repository
        place = repository.address or str(repository.git_dir)
        self._file = data / "marks" / f"{sha256(place.encode()).hexdigest()[:16]}.json"
        self._kept: dict[str, str] | None = None
        self._passed: dict[tuple[LineKind, str], str | None] = {}
        """Commit at which each line was last found intact."""
        self._waiting: set[tuple[LineKind, str]] = set()
        """Refs that are behind the data folder."""
        self._publishing: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self.publish_error = ""
        """Why the remote refuses marks; empty if it does not."""

    def marks(self, kind: LineKind, branch: str) -> set[str]:
        """Return every commit that the branch must descend from."""
        refs = (f"{root}/{kind}/{branch}" for root in (_LOCAL, _THEIRS))
        commits = [self._read_ref(ref) for ref in refs] + [self._file_marks().get(f"{kind}/{branch}")]
        return {commit for commit in commits if commit}

    async def left(self, kind: LineKind, branch: str, head: str | None) -> Sequence[str]:
        """Return the commits that were acted on and are not ancestors of the line, ours first."""
        marks = self.marks(kind, branch)
        if not marks or marks == {head} or (head and self._passed.get((kind, branch)) == head):
            return ()
        mine = self._file_marks().get(f"{kind}/{branch}")
        missing = [mark for mark in sorted(marks - {head}) if not await self._goes_on(head, mark)]
        if missing and await self._is_of_another_fleet():
            self._kept = {}
            return ()
        return sorted(missing, key=lambda mark: mark != mine)

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
        if self._file_marks().get(f"{kind}/{branch}") != commit:
            self._kept = {**self._file_marks(), f"{kind}/{branch}": commit}
            await asyncio.to_thread(_replace, self._file, json.dumps(self._kept).encode())
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

    # --- Looking -----------------------------------------------------------

    def _file_marks(self) -> Mapping[str, str]:
        if self._kept is None:
            try:
                # Opening something other than a file may block.
                read = json.loads(self._file.read_bytes()) if self._file.is_file() else {}
            except (OSError, ValueError):
                read = {}
            marks = read.items() if isinstance(read, dict) else ()
            self._kept = {name: mark for name, mark in marks if _COMMIT.fullmatch(str(mark))}
        return self._kept

    def _read_ref(self, ref: str) -> str | None:
        with suppress(OSError, UnicodeDecodeError):
            commit = self._repository.read_ref(ref)
            return commit if commit and _COMMIT.fullmatch(commit) else None
        return None

    async def _goes_on(self, head: str | None, mark: str) -> bool:
        if head is None:
            return False
        git = self._repository.git
        if (await git.attempt("merge-base", "--is-ancestor", mark, head)).code == 0:
            return True
        args = ("log", "-1", "--format=%H", f"--grep=^{APPROVAL}: {mark}$", head)
        return bool((await git.attempt(*args)).stdout.strip())  # nothing, of what is no commit at all

    async def _is_of_another_fleet(self) -> bool:
        """
        Return whether the marks in the data folder belong to another repository that was at this path.

        One that has none of the commits that were acted on, nor a mark of its own.
        """
        if (await self._repository.git.run("for-each-ref", "--count=1", _LOCAL, _THEIRS)).strip():
            return False
        for mark in set(self._file_marks().values()):
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
        while self._waiting:
            while self._waiting:
                kind, branch = key = self._waiting.pop()
                if commit := self._passed.get(key):
                    await self._move(kind, branch, commit)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), _PAUSE)

    async def _move(self, kind: LineKind, branch: str, commit: str) -> None:
        ref = f"{_LOCAL}/{kind}/{branch}"
        if self._read_ref(ref) != commit:
            with suppress(Unavailable):  # the data folder has it, and the next commit tries again
                await self._repository.git.run("update-ref", ref, commit)
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
            with suppress(Unavailable):
                await self._repository.git.run("update-ref", theirs, commit)


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


def _replace(path: Path, content: bytes) -> None:
    """Replace a file durably; a folder in its place goes aside. Raises Unavailable."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.is_dir():
            path.rename(path.with_suffix(f".damaged-{os.getpid()}"))
        replace_durably(path, content)
    except OSError as error:
        raise Unavailable(f"{path} cannot be written: {error.strerror}") from error

"""
Records: every status at one commit, parsed once per change.
"""

import logging
from collections.abc import Mapping
from typing import Any

from reconciler.controller.tree import TreeEntry
from reconciler.core.errors import Gone, Problem, SpecError, Unavailable
from reconciler.core.fields import Frozen
from reconciler.core.model.status import AccountStatus, HostStatus, Status
from reconciler.core.names import is_task_name
from reconciler.git.objects import GitTree
from reconciler.git.repository import Repository
from reconciler.store import statuses
from reconciler.store.layout import ACCOUNTS, HOSTS, IDENTITY_FILE, STATE_ROOT, TASKS, name_under

log = logging.getLogger(__name__)

Statuses = tuple[Mapping[str, Status], Mapping[str, HostStatus]]

_KINDS: Mapping[str, type[Frozen]] = {TASKS: Status, HOSTS: HostStatus, ACCOUNTS: AccountStatus}
_VERSIONS = 50
"""How far back to look for a good version of a file that is damaged."""
_LARGEST = 1 << 20
"""Bytes of a status file; a larger one was not written here."""


class FleetIdentity(Frozen):
    """Identity of the fleet. `fleet-state/fleet.yaml`."""

    id: str
    """Random, made once; it keeps the folders of two fleets on one host apart."""


class Records:
    """The files under `fleet-state/`; reading another commit costs what differs."""

    def __init__(self, repository: Repository, branch: str) -> None:
        self._repository = repository
        self._tree = GitTree(repository, branch)
        self._commit: str | None = None
        self._blobs: dict[str, str] = {}
        self._parsed: dict[str, Frozen] = {}
        self._damaged: dict[str, Problem] = {}

    async def read(self, commit: str | None) -> Statuses:
        """
        Return every status at a commit (None: no commit yet). Raises Unavailable.

        A file that cannot be read is left out and reported in `damaged`.
        """
        if commit is None:
            self._commit, self._blobs, self._parsed, self._damaged = None, {}, {}, {}
        elif commit != self._commit:
            await self._follow(commit)
        return self._of(TASKS), self._of(HOSTS)

    async def fleet(self) -> FleetIdentity | None:
        """
        Return the fleet's identity at the commit that was read last; None if it was never recorded.

        A damaged file is replaced by its last good version: another id would
        disown all its runs. Raises SpecError if there is none.
        """
        if self._commit is None:
            return None
        present = [self._blobs[IDENTITY_FILE]] if IDENTITY_FILE in self._blobs else []
        blobs = [*present, *await self._tree.versions(self._commit, IDENTITY_FILE, _VERSIONS)]
        problem = None
        for blob in blobs:
            try:
                contents = await self._tree.blobs([blob], limit=_LARGEST)
                return statuses.load_status(FleetIdentity, contents[blob], IDENTITY_FILE)
            except SpecError as error:
                problem = problem or error
            except Gone as error:
                problem = problem or SpecError([_missing(IDENTITY_FILE, str(error))])
        if problem is not None:
            raise problem
        return None

    @property
    def damaged(self) -> Mapping[str, Problem]:
        """What is wrong with the status files of tasks that cannot be read, by task."""
        named = ((name_under(TASKS, path), problem) for path, problem in self._damaged.items())
        return {name: problem for name, problem in named if name}

    @property
    def accounts(self) -> Mapping[str, AccountStatus]:
        """What is on record of accounts at their limits, at the commit that was read last."""
        return self._of(ACCOUNTS)

    @property
    def blobs(self) -> Mapping[str, str]:
        """Blob id of every file, by path."""
        return self._blobs

    def _of(self, folder: str) -> Mapping[str, Any]:
        # Of two files of one task, which only a person can have made, the plainest counts, as for the writer.
        paths = sorted(self._parsed, key=lambda path: -path.count("/_"))
        named = ((name_under(folder, path), path) for path in paths)
        return {name: self._parsed[path] for name, path in named if name}

    async def _follow(self, commit: str) -> None:
        """Parse the files that changed, and those that were damaged."""
        changed = await self._changed(commit)
        present = {path: entry for path, entry in changed.items() if entry is not None}
        parsed, damaged = await self._parse(commit, present)
        for path in changed:
            self._blobs.pop(path, None)
            self._parsed.pop(path, None)
            self._damaged.pop(path, None)
        self._blobs |= {path: entry.blob for path, entry in present.items()}
        self._parsed |= parsed
        self._damaged |= damaged
        self._commit = commit
        for problem in damaged.values():
            log.error("%s", problem)

    async def _changed(self, commit: str) -> Mapping[str, TreeEntry | None]:
        if self._commit is None:
            return await self._tree.files(commit, STATE_ROOT)
        return await self._tree.changed(self._commit, commit, STATE_ROOT)

    async def _parse(
        self, commit: str, present: Mapping[str, TreeEntry]
    ) -> tuple[dict[str, Frozen], dict[str, Problem]]:
        """Parse status files in the thread that reads them; return what they hold, and what is wrong."""
        ours = [path for path in present if _kind(path)]
        odd = {path: problem for path in ours if (problem := _not_a_file(path, present[path]))}
        blobs = {path: present[path].blob for path in ours if path not in odd}
        try:
            parsed, damaged = await self._load(blobs)
        except Unavailable:
            parsed, damaged = await self._load_apart(commit, blobs)
        return parsed, {**odd, **damaged}

    async def _load_apart(
        self, commit: str, blobs: Mapping[str, str]
    ) -> tuple[dict[str, Frozen], dict[str, Problem]]:
        """Load file by file after a missing blob; raise Unavailable if none can be loaded."""
        parsed, damaged, away = dict[str, Frozen](), dict[str, Problem](), dict[str, Unavailable]()
        for path, blob in blobs.items():
            try:
                good, bad = await self._load({path: blob})
            except Unavailable as error:
                away[path] = error
            else:
                parsed |= good
                damaged |= bad
        await self._repository.objects.read([commit], lambda _, __: None)  # not git as a whole
        return parsed, damaged | {path: _missing(path, str(error)) for path, error in away.items()}

    async def _load(self, blobs: Mapping[str, str]) -> tuple[dict[str, Frozen], dict[str, Problem]]:
        paths, parsed, damaged = iter(blobs), dict[str, Frozen](), dict[str, Problem]()

        def take(_: str, content: bytes) -> None:
            path = next(paths)
            try:
                parsed[path] = statuses.load_status(_KINDS[_kind(path)], content, path)
            except SpecError as error:
                damaged[path] = error.problems[0]

        await self._repository.objects.read([*blobs.values()], take, limit=_LARGEST)
        return parsed, damaged


def _kind(path: str) -> str:
    """Return the folder of statuses that a file belongs to; empty if it is none, nor could be by its name."""
    return next((folder for folder in _KINDS if is_task_name(name_under(folder, path) or "")), "")


def _not_a_file(path: str, entry: TreeEntry) -> Problem | None:
    if entry.mode.startswith("100"):
        return None
    return Problem(path, 1, 1, "not a regular file; the reconciler never wrote it: remove it")


def _missing(path: str, reason: str) -> Problem:
    return Problem(path, 1, 1, f"cannot be read: {reason}")

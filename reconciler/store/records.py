"""
What is on record at one commit: every status, parsed once per change.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from reconciler.controller.ports import Entry
from reconciler.core.errors import Gone, Problem, SpecError
from reconciler.core.fields import Frozen
from reconciler.core.model import HostStatus, Status
from reconciler.store import statuses
from reconciler.store.layout import FLEET, HOSTS, ROOT, TASKS, name_under
from reconciler.store.objects import GitTree
from reconciler.store.repository import Repository

Statuses = tuple[Mapping[str, Status], Mapping[str, HostStatus]]

_KINDS: Mapping[str, type[Frozen]] = {TASKS: Status, HOSTS: HostStatus}
_NOT_A_FILE = "not a regular file; the reconciler never wrote it: remove it"
_VERSIONS = 20
"""Earlier versions of the fleet's own file to look at for one that is whole."""
_LARGEST = 1 << 20
"""Bytes of a status file; a larger one was not written here."""


class Fleet(Frozen):
    """Who this fleet is. `fleet-state/fleet.yaml`."""

    id: str
    """Drawn once; it keeps the folders of two fleets on one host apart."""


class Records:
    """The files under `fleet-state/`; reading another commit costs what differs."""

    def __init__(self, repository: Repository, branch: str) -> None:
        self._repository = repository
        self._tree = GitTree(repository, branch)
        self._commit: str | None = None
        self._blobs: dict[str, str] = {}
        self._parsed: dict[str, Frozen] = {}
        self._problems: dict[str, Problem] = {}

    async def read(self, commit: str | None) -> Statuses:
        """Return every status at a commit (None: no commit yet) that can be read. Raises Unavailable."""
        if commit is None:
            self._commit, self._blobs, self._parsed, self._problems = None, {}, {}, {}
        elif commit != self._commit:
            await self._follow(commit)
        return self._of(TASKS), self._of(HOSTS)

    async def fleet(self) -> Fleet | None:
        """
        Return who the fleet is, as of the commit that was read last.

        A damaged file is passed over for the last version that was whole: an id
        drawn anew would lose every run folder on the hosts. Raises SpecError if
        none was.
        """
        if FLEET not in self._blobs:
            return None
        try:
            return await self._fleet(self._blobs[FLEET])
        except SpecError as error:
            for blob in await self._tree.versions(self._commit or "", FLEET, _VERSIONS):
                with suppress(SpecError, Gone):
                    return await self._fleet(blob)
            raise error from None

    async def _fleet(self, blob: str) -> Fleet:
        contents = await self._tree.blobs([blob], limit=_LARGEST)
        return statuses.load(Fleet, contents[blob], FLEET)

    @property
    def damaged(self) -> Mapping[str, Problem]:
        """What is wrong with the statuses of tasks that cannot be read, by task."""
        named = ((name_under(TASKS, path), problem) for path, problem in self._problems.items())
        return {name: problem for name, problem in named if name}

    @property
    def blobs(self) -> Mapping[str, str]:
        """Blob id of every file, by path."""
        return self._blobs

    def _of(self, folder: str) -> Mapping[str, Any]:
        named = ((name_under(folder, path), status) for path, status in self._parsed.items())
        return {name: status for name, status in named if name}

    async def _follow(self, commit: str) -> None:
        """Take up what differs."""
        changed = await self._changed(commit)
        present = {path: entry for path, entry in changed.items() if entry is not None}
        parsed, problems = await self._parse(present)
        for path in changed:
            self._blobs.pop(path, None)
            self._parsed.pop(path, None)
            self._problems.pop(path, None)
        self._blobs |= {path: entry.blob for path, entry in present.items()}
        self._parsed |= parsed
        self._problems |= problems
        self._commit = commit

    async def _changed(self, commit: str) -> Mapping[str, Entry | None]:
        if self._commit is None:
            return await self._tree.files(commit, ROOT)
        return await self._tree.changed(self._commit, commit, ROOT)

    async def _parse(
        self, present: Mapping[str, Entry]
    ) -> tuple[Mapping[str, Frozen], Mapping[str, Problem]]:
        """Parse status files in the thread that reads them; one that is damaged spoils no other."""
        odd = {path for path, entry in present.items() if _kind(path) and not entry.mode.startswith("100")}
        paths = [path for path in present if _kind(path) and path not in odd]
        parsed: dict[str, Frozen] = {}
        problems = {path: Problem(path, 1, 1, _NOT_A_FILE) for path in odd}

        def take(_: str, content: bytes) -> None:
            path = paths[taken[0]]
            taken[0] += 1
            try:
                parsed[path] = statuses.load(_KINDS[_kind(path)], content, path)
            except SpecError as error:
                problems[path] = error.problems[0]

        taken = [0]
        await self._repository.objects.read([present[path].blob for path in paths], take, limit=_LARGEST)
        return parsed, problems


def _kind(path: str) -> str:
    """Return the folder of statuses that a file belongs to; empty if it is none."""
    return next((folder for folder in _KINDS if name_under(folder, path)), "")

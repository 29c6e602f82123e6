"""
Spec source: the desired state of a branch, read incrementally.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import TypeVar

from reconciler.controller.tree import Tree, TreeEntry
from reconciler.core.errors import Gone, Problem, Unavailable
from reconciler.core.model.specs import Desired, Task, TaskSpec
from reconciler.core.model.status import Status
from reconciler.core.names import spec_owner
from reconciler.core.requesters import Requester
from reconciler.core.variants import variants_of
from reconciler.specs.build import Builder, build, gc_paused, last_good_version, too_many
from reconciler.specs.layers import default_task, resolve
from reconciler.specs.parse import ROOT, File, Parsed, Parser, campaign_path, is_ignored, tasks_of
from reconciler.specs.yaml import MAX_BYTES

_E = TypeVar("_E")
LastRequesters = Callable[[str, Collection[str], str], Awaitable[Mapping[str, Requester]]]
"""Returns who changed files last, of a commit, by path, all of them below a folder."""

VERSIONS = 50
"""Earlier versions that are searched for a good one of a broken file."""

BATCH = 200
"""Blobs read at once: as large as they may be, they fit into memory, and others get their turn."""


async def _by_nobody(_: str) -> None:
    """Act on no commit: it is only looked at."""


class SpecSource:
    """The specs of a branch, for the loop: `controller.ports.Specs`."""

    def __init__(
        self,
        tree: Tree,
        touched: LastRequesters | None = None,
        *,
        objection: Callable[[], Problem | None] = lambda: None,
        act_on: Callable[[str], Awaitable[None]] = _by_nobody,
    ) -> None:
        """
        Read a branch.

        `touched` tells who changed a file; without it nobody is named.
        `objection` tells what is wrong with the branch itself, after each read.
        `act_on` is told of the commit before anybody gets what was read of it.
        """
        self._tree = tree
        self._touched = touched
        self._objection = objection
        self._act_on = act_on
        self._parser = Parser()
        self._builder = Builder()
        self._built = ""
        """Commit that the builder holds."""
        self._desired = Desired()
        self._is_credited = False
        """Whether the requesters of unanswered changes are known."""
        self._seen = ""
        """Commit that `_desired` was read from."""
        self._reported: Problem | None = None
        """Objection that is included in `_desired`."""

    async def read(self, statuses: Mapping[str, Status]) -> Desired:
        """Return the desired state of the newest revision; see `controller.ports.Specs.read`."""
        head = await self._tree.head()
        # Beside the reading: to remember a commit takes the disk about as long.
        remembered = asyncio.ensure_future(self._act_on(head))
        try:
            return await self._read(head, statuses)
        finally:
            await remembered

    async def _read(self, head: str, statuses: Mapping[str, Status]) -> Desired:
        objection = self._objection()
        if head != self._seen:
            await self._load(head, statuses)
            self._reported = None
        elif statuses and not self._is_credited:
            self._take(self._desired, await self._askers(head, {}, statuses), statuses)
        if objection != self._reported:
            problems = [problem for problem in self._desired.problems if problem != self._reported]
            self._desired = replace(self._desired, problems=(*problems, *([objection] if objection else ())))
            self._reported = objection
        return self._desired

    async def _load(self, head: str, statuses: Mapping[str, Status]) -> None:
        """Load the desired state of a commit."""
        entries = await self._changes(head)
        if problem := too_many(self._paths(entries)):
            self._desired = replace(self._desired, problems=(problem,))
        else:
            changes, askers = await asyncio.gather(
                self._parsed(head, entries, statuses), self._askers(head, entries, statuses)
            )
            # No await from here on: the revision is loaded as a whole or not at all.
            with gc_paused():
                self._take(self._builder.update(changes, revision=head), askers, statuses)
            self._built = head
            self._parser.forget(self._builder.files.values())
        self._seen = head

    def _take(
        self, desired: Desired, askers: Mapping[str, Requester], statuses: Mapping[str, Status]
    ) -> None:
        """Load a revision, with the requesters of changes that the record does not answer yet."""
        all_requesters = {**self._desired.askers, **askers}
        self._desired = replace(desired, askers=_unanswered(all_requesters, desired, statuses))
        self._is_credited = bool(statuses)

    async def _askers(
        self, head: str, entries: Mapping[str, TreeEntry | None], statuses: Mapping[str, Status]
    ) -> Mapping[str, Requester]:
        """Return the requesters of the changed tasks that the record does not answer yet."""
        names = {
            name: entry.blob if entry else None for path, entry in entries.items() if (name := _task_at(path))
        }
        there = names.keys() | self._desired.tasks.keys() | self._desired.broken.keys()
        names |= dict.fromkeys(statuses.keys() - there)  # removed since the last read
        requested = {
            _path_of(name): name
            for name, blob in names.items()
            if blob != (statuses[name].generation if name in statuses else None)
        }
        try:
            may_ask = self._touched if requested else None
            touched = await may_ask(head, requested.keys(), f"{ROOT}/tasks") if may_ask else {}
        except Unavailable:  # the history of a shallow clone may be missing; the specs do not need it
            touched = {}
        return {requested[path]: asker for path, asker in touched.items()}

    async def recall(self, name: str, generation: str) -> Task | None:
        """Return a task as an earlier generation had it; see `controller.ports.Specs.recall`."""
        parsed = await self._first_good(_path_of(name), [generation]) or await self._earlier_cell(
            name, generation
        )
        if parsed is None or not isinstance(parsed.spec, TaskSpec):
            return None
        repo = self._desired.repos.get(parsed.spec.repo) if parsed.spec.repo else None
        blank = default_task(self._desired.fleet, repo)
        task = resolve(spec_owner(name), parsed.spec, generation=generation, blank=blank)
        return next((each for each in (task, *variants_of(task)) if each.name == name), None)

    async def _earlier_cell(self, name: str, generation: str) -> Parsed | None:
        """Return a task of a campaign as an earlier version of the campaign's file had it."""
        path = campaign_path(name)
        for blob in await self._tree.versions(self._seen, path, VERSIONS) if self._seen and path else ():
            campaign = await self._first_good(path, [blob])
            for task in tasks_of(campaign) if campaign else ():
                if (task.name, task.file.blob) == (name, generation):
                    return task
        return None

    async def _changes(self, head: str) -> Mapping[str, TreeEntry | None]:
        """Return the files that differ from what the builder has."""
        if self._built:
            # The old commit may be missing after the branch was rewritten.
            with suppress(Unavailable):
                return _ours(await self._tree.changed(self._built, head, ROOT))
        gone: Mapping[str, TreeEntry | None] = dict.fromkeys(self._builder.files)
        return {**gone, **_ours(await self._tree.files(head, ROOT))}

    def _paths(self, entries: Mapping[str, TreeEntry | None]) -> Collection[str]:
        """Return the paths of all files there would be after these changes."""
        gone = {path for path, entry in entries.items() if entry is None}
        return (self._builder.files.keys() | entries.keys()) - gone

    async def _parsed(
        self, head: str, entries: Mapping[str, TreeEntry | None], statuses: Mapping[str, Status]
    ) -> Mapping[str, Parsed | None]:
        parsed: dict[str, Parsed | None] = {path: None for path, entry in entries.items() if entry is None}
        async for path, file in read_files(self._tree, entries):
            result = self._parser.parse(path, file)
            if result and result.kind and result.spec is None:
                result = last_good_version(result, await self._last_good(head, result, statuses))
            parsed[path] = result
        return parsed

    async def _last_good(self, head: str, broken: Parsed, statuses: Mapping[str, Status]) -> Parsed | None:
        """Return the last good version of a broken file: from memory, from its status, from git."""
        before = self._builder.files.get(broken.path)
        if before and before.in_force:
            return before.in_force
        status = statuses.get(broken.name) if broken.kind == "task" else None
        if status and (good := await self._first_good(broken.path, [status.generation])):
            return good
        return await self._first_good(broken.path, await self._tree.versions(head, broken.path, VERSIONS))

    async def _first_good(self, path: str, blobs: Collection[str]) -> Parsed | None:
        return await first_good(self._tree, self._parser, path, blobs)


def _task_at(path: str) -> str | None:
    """Return the name of the task whose file this is."""
    is_task = path.startswith(f"{ROOT}/tasks/") and path.endswith(".yaml")
    return path.removeprefix(f"{ROOT}/tasks/").removesuffix(".yaml") if is_task else None


def _path_of(task: str) -> str:
    return f"{ROOT}/tasks/{spec_owner(task)}.yaml"


def _unanswered(
    askers: Mapping[str, Requester], desired: Desired, statuses: Mapping[str, Status]
) -> Mapping[str, Requester]:
    """Return the names whose spec the record does not answer yet."""
    wanted = {name: task.generation for name, task in desired.tasks.items()}
    generations = {name: statuses[name].generation for name in askers if name in statuses}
    return {name: asker for name, asker in askers.items() if wanted.get(name) != generations.get(name)}


_FILE = "100644"


async def read_files(tree: Tree, entries: Mapping[str, TreeEntry | None]) -> AsyncIterator[tuple[str, File]]:
    """Yield path and content of each entry; raise Unavailable if one cannot be read."""
    present = ((path, entry) for path, entry in entries.items() if entry)
    while batch := list(islice(present, BATCH)):
        ids = {entry.blob for _, entry in batch if _has_content(entry)}
        contents = await tree.blobs(ids, limit=MAX_BYTES)
        for path, entry in batch:
            yield path, File(entry.mode, entry.blob, contents.get(entry.blob, b""))


async def read_revision(tree: Tree, commit: str) -> Mapping[str, File]:
    """Return the spec files of one commit, by path."""
    return {path: file async for path, file in read_files(tree, _ours(await tree.files(commit, ROOT)))}


async def build_in_force(tree: Tree, commit: str, files: Mapping[str, File], *, revision: str) -> Desired:
    """
    Return the desired state of files that a commit would be followed by.

    A broken one keeps its last good version of that line, as in the loop.
    """
    desired = build(files, revision=revision)
    broken = files.keys() & {problem.path for problem in desired.problems}
    there = await tree.files(commit, ROOT) if broken else {}
    earlier = dict[str, File]()
    for path in broken & there.keys():
        blobs = [there[path].blob, *await tree.versions(commit, path, VERSIONS)]
        if parsed := await first_good(tree, Parser(), path, blobs):
            earlier[path] = parsed.file
    return build(files, revision=revision, last_good=earlier) if earlier else desired


async def first_good(tree: Tree, parser: Parser, path: str, blobs: Collection[str]) -> Parsed | None:
    """Return the first of these versions of a file that has no mistake."""
    for blob in blobs:
        with suppress(Gone):
            contents = await tree.blobs([blob], limit=MAX_BYTES)
            parsed = parser.parse(path, File(_FILE, blob, contents[blob]))
            if parsed and parsed.spec:
                return parsed
    return None


def _ours(entries: Mapping[str, _E]) -> Mapping[str, _E]:
    return {path: entry for path, entry in entries.items() if not is_ignored(path)}


def _has_content(entry: TreeEntry) -> bool:
    """Return whether an entry is a file, and not a symbolic link or a submodule."""
    return entry.mode.startswith("100")

"""
A fleet opened for a command: its specs, its record, and commits in the person's name.

Reading takes no lock: a reconciler may be at work on the same fleet.
"""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from shlex import quote
from typing import TYPE_CHECKING, TypeVar

from reconciler import clock
from reconciler.cli.context import SPECS, Context, machine_dir
from reconciler.cli.notices import fetched_notice, say, unfetched_notice
from reconciler.cli.pager import busy
from reconciler.controller.tree import TreeEntry
from reconciler.core.errors import NotFound, SpecError, UsageError
from reconciler.core.names import DEFAULT_SHARD, is_task_name, owners_branch_of, spec_owner, state_branch_of
from reconciler.core.references import no_such, split
from reconciler.git.objects import GitTree
from reconciler.git.repository import Repository
from reconciler.specs.snapshot import SpecsSnapshot
from reconciler.store.guarded_tree import GuardedTree
from reconciler.store.high_water import BranchLine, HighWaterMarks, LineKind
from reconciler.store.place import why_copy
from reconciler.store.presence import fleet_file
from reconciler.store.remote_record import fetched_record, unfetched

if TYPE_CHECKING:
    from reconciler.core.model.specs import Desired, Kind
    from reconciler.core.model.status import Observed
    from reconciler.core.transitions import TransitionRecord
    from reconciler.specs.parse import File
    from reconciler.store.reader import StateReader

T = TypeVar("T")

FLEET_YAML = f"{SPECS}/fleet.yaml"
STATE_BRANCH = "fleet-state"
"""Default of `state_branch` in fleet.yaml."""
_LARGEST = 1 << 16
"""Largest fleet.yaml, in bytes, that is searched without being parsed."""

SPEC_ENDING = ".yaml"
WORK_TREE = "work tree"
"""Stands for the revision of uncommitted specs."""


def spec_folder(kind: "Kind") -> str:
    """Return the folder of the specs of a kind."""
    return f"{SPECS}/{kind}s/"


def spec_path(kind: "Kind", name: str) -> str:
    """Return the path of an object's spec."""
    return f"{spec_folder(kind)}{spec_owner(name) if kind == 'task' else name}{SPEC_ENDING}"


def named_tasks(args: Sequence[str]) -> Sequence[str]:
    """Return the tasks that arguments may name, as names or as references."""
    names = {name for each in args for name in (each, split(each)[1])}
    return sorted(filter(is_task_name, names))


@asynccontextmanager
async def open_fleet(context: Context) -> AsyncIterator["FleetSession"]:
    """Open the fleet that the command works on, and close it at the end."""
    with busy(f"opening {context.place}", may_ask=True):
        repository = await Repository.open(context.place, context.clones)
    async with repository:
        branch = await repository.specs_branch(context.branch)
        marks = HighWaterMarks(repository, context.data_dir, machine_dir())
        yield FleetSession(context, repository, branch, GitTree(repository, branch), marks)


async def specs_here(context: Context) -> "Desired":
    """
    Return the desired state of the work tree's specs, else of the branch's.

    Outside a fleet, with none named, return the built-in defaults.
    """
    from reconciler.specs.build import build

    revision, files = await spec_files(context)
    return build(files, revision=revision)


async def spec_files(context: Context) -> "tuple[str, Mapping[str, File]]":
    """Return the revision and the files of the specs: of the work tree, else of the branch."""
    try:
        async with open_fleet(context) as fleet:
            return await fleet.files(None)
    except UsageError:
        return "", _uncommitted(context)


def _uncommitted(context: Context) -> "Mapping[str, File]":
    """Return the specs of a folder that is no repository yet."""
    from reconciler.specs.worktree import read_worktree

    try:
        return read_worktree(context.work_tree())
    except UsageError:
        if context.repo is not None:
            raise
        return {}


def pick(desired: "Desired", kind: "Kind", things: Mapping[str, T], name: str) -> T:
    """Return the object of that name. Raises SpecError if its file is broken, NotFound."""
    if name in things:
        return things[name]
    problems = [problem for problem in desired.problems if problem.path == spec_path(kind, name)]
    if problems:
        raise SpecError(problems)
    raise NotFound(no_such(kind, name, things))


@dataclass(frozen=True, slots=True)
class FleetSession:
    """A fleet's repository, opened."""

    context: Context
    repository: Repository
    branch: str
    """The one with the specs."""
    tree: GitTree
    marks: HighWaterMarks
    """High-water marks of the fleet's branches."""
    notices: set[str] = field(default_factory=set)
    """Notices that were printed on stderr, or what they were about."""

    async def recorded(self, args: Sequence[str] = ()) -> "tuple[Desired, Observed]":
        """Return the desired state of the newest committed specs, and what `observed` returns."""
        with busy("reading the record"):
            observed = await self.observed(args)
        tree = self.guarded_tree()
        desired = self.snapshot("specs").load(await tree.head(), observed.statuses)
        if desired is None:
            from reconciler.specs.source import SpecSource

            with busy("reading the specs"):
                desired = await SpecSource(tree).read(observed.statuses)
            self.snapshot("specs").save(desired.revision, desired, observed.statuses)
        return desired, observed

    def guarded_tree(self) -> GuardedTree:
        """Return the specs branch, read as who looks reads it."""
        return GuardedTree(self.repository, self.branch, self.marks, only_looks=True)

    def snapshot(self, what: str) -> SpecsSnapshot:
        """Return where commands keep what was parsed: all specs by their commit, fleet.yaml by its blob."""
        return SpecsSnapshot(fleet_file(self.repository, self.branch, self.context.data_dir / "parsed", what))

    async def observed(self, args: Sequence[str] = ()) -> "Observed":
        """Return the observed state on record, with the tasks of the archive that arguments name."""
        from reconciler.core.views import observed_on_record

        record = await self.record()
        statuses, hosts = await record.load(named_tasks(args))
        return observed_on_record(statuses, hosts, record.damaged, record.accounts, record.shards)

    async def is_archived(self, args: Sequence[str]) -> bool:
        """Return whether arguments name a task of the archive; no status is read for that."""
        from reconciler.store.archive_paths import archived_paths

        refs = [self.repository.ref(branch) for branch in (await self.record_branches()).values()]
        heads = filter(None, map(self.repository.read_ref, refs))
        names = named_tasks(args)
        return any([await archived_paths(self.repository, head, name) for head in heads for name in names])

    async def record(self) -> "StateReader":
        """Return the reader of the record, for repeated reads."""
        from reconciler.store.reader import StateReader

        return StateReader(self.repository, await self.record_branches())

    async def record_branches(self) -> Mapping[str, str]:
        """Return the branches with the record, by shard; see `record_branch`."""
        branch = await self.record_branch()
        shards = await self.shards(branch)
        branches = {shard: state_branch_of(branch, shard) for shard in shards}
        if self.repository.is_looked_at_elsewhere(branch):
            ref = self.repository.ref(branch)
            for shard, each in branches.items():
                self.repository.look_at(each, state_branch_of(ref, shard))
        return branches

    async def shards(self, state_branch: str) -> Sequence[str]:
        """Return the shards that ever had a reconciler, the default one first; it alone in most fleets."""
        if self.repository.read_ref(owners_branch_of(self.repository.ref(state_branch))) is None:
            return (DEFAULT_SHARD,)
        from reconciler.store.owners import OwnersReader

        owners = await OwnersReader(self.repository, state_branch).read()
        return (DEFAULT_SHARD, *sorted((owners.shards if owners else frozenset()) - {DEFAULT_SHARD}))

    async def record_branch(self) -> str:
        """
        Return the branch with the record; in a clone, its fetched ref is read.

        Prints notices about it on stderr.
        """
        branch = await self.state_branch()
        if fetched := await fetched_record(self.repository, branch) if branch != self.branch else None:
            self.repository.look_at(branch, fetched.ref)
            self._say_once(fetched_notice(fetched, clock.now()), about="fetched")
        elif others := await unfetched(self.repository, branch):
            self._say_once(unfetched_notice(others[0], branch))
        if why := why_copy(self.repository):
            self._say_once(why)
        for line in await self.lines(branch):
            if rewind := await self.marks.rewind(line.kind, line.branch, line.head):
                self._say_once(str(rewind))
        return branch

    def _say_once(self, notice: str, about: str = "") -> None:
        """Print a notice, unless it, or another `about` the same, was printed before."""
        if (about or notice) not in self.notices:
            self.notices.add(about or notice)
            say(notice)

    async def lines(self, state_branch: str) -> Sequence[BranchLine]:
        """Return the branches that are protected against rewinds."""
        specs = () if self.branch == state_branch else (self.line("specs", self.branch),)
        shards = await self.shards(state_branch)
        owners = (self.line("record", owners_branch_of(state_branch)),) if len(shards) > 1 else ()
        records = (self.line("record", state_branch_of(state_branch, shard)) for shard in shards)
        return (*records, *owners, *specs)

    def line(self, kind: LineKind, branch: str) -> BranchLine:
        """Return a branch with its high-water marks."""
        return BranchLine(self.repository, self.marks, kind, branch)

    async def state_branch(self) -> str:
        """Return the branch with the record, from the last good fleet.yaml."""
        head = await self.tree.head()
        if branch := self.snapshot("specs").state_branch(head):
            return branch
        is_there = self.repository.read_ref(self.repository.ref(STATE_BRANCH)) is not None
        entry = await self.tree.entry(head, FLEET_YAML)
        if is_there and (entry is None or not await self._may_name_another(entry)):
            return STATE_BRANCH
        key = entry.blob if entry else ""
        if branch := self.snapshot("fleet").state_branch(key):
            return branch
        from reconciler.specs.source import SpecSource

        desired = await SpecSource(_FleetFile(self.repository, self.branch)).read({})
        if not desired.problems:  # else it is what an earlier commit says
            self.snapshot("fleet").save(key, desired, {})
        return desired.fleet.state_branch

    async def _may_name_another(self, entry: TreeEntry) -> bool:
        """
        Return whether fleet.yaml may set `state_branch`.

        To read it as what it is takes a parser and the models, which is most of
        what `history` and `logs` would import.
        """
        if not entry.mode.startswith("100"):
            return True
        text = (await self.tree.blobs([entry.blob], limit=_LARGEST))[entry.blob]
        return len(text) > _LARGEST or any(sign in text for sign in (b"state_branch", b"\\", b"<<"))

    async def history(self, task: str | None, most: int | None) -> "Sequence[TransitionRecord]":
        """Return the transition records of a task, or of all, newest first."""
        from reconciler.store import history

        branches = (await self.record_branches()).values()
        read = [await history.read_history(self.repository, each, task, limit=most) for each in branches]
        return history.newest_of(read, most)

    async def files(self, rev: str | None) -> "tuple[str, Mapping[str, File]]":
        """
        Return the spec files of a revision, and its commit; without one, of the work tree.

        Without a work tree, or with `--branch`, the branch is read.
        Raises NotFound for a revision that is not there.
        """
        from reconciler.specs.source import read_revision
        from reconciler.specs.worktree import read_worktree

        if rev is None and self.repository.folder and self.context.branch is None:
            return WORK_TREE, read_worktree(self.context.work_tree(), self.repository.hash_name)
        commit = await self.resolve(rev) if rev else await self.tree.head()
        return commit, await read_revision(self.tree, commit)

    async def in_force(self, revision: str, files: "Mapping[str, File]") -> "Desired":
        """Return what the files that `files` returns ask for, broken ones by their last good version."""
        from reconciler.specs.source import build_in_force

        commit = await self.tree.head() if revision == WORK_TREE else revision
        return await build_in_force(self.tree, commit, files, revision=revision)

    async def spec_file(self, kind: "Kind", name: str) -> "File":
        """Return the committed spec file of an object, as `find_spec` finds it."""
        return (await self.find_spec(kind, name))[1]

    async def find_spec(self, kind: "Kind", name: str) -> "tuple[str, File]":
        """
        Return path and content of an object's committed spec; an empty file for the implicit host `local`.

        Of a task of a campaign that is the campaign's.

        Raises NotFound.
        """
        from reconciler.core.model.specs import LOCAL
        from reconciler.specs.parse import File, campaign_path
        from reconciler.specs.yaml import MAX_BYTES

        path, folder = spec_path(kind, name), spec_folder(kind)
        head = await self.tree.head()
        entries = await self.tree.files(head, folder)
        campaign = campaign_path(name) if kind == "task" and path not in entries else ""
        there = {**entries, **(await self.tree.files(head, spec_folder("campaign")) if campaign else {})}
        for place in (path, campaign):
            if entry := there.get(place):
                content = await self.tree.blobs([entry.blob], limit=MAX_BYTES)
                return place, File(entry.mode, entry.blob, content[entry.blob])
        if (kind, name) == ("host", LOCAL):
            return path, File("100644", "", b"")
        if self.repository.folder and (self.repository.folder / path).exists():
            raise NotFound(f"{path} is not on {self.branch} yet; commit it first")
        if kind == "task" and await self.is_archived([name]):
            removal = f"git log --diff-filter=D -- {' '.join(map(quote, filter(None, (path, campaign))))}"
            raise NotFound(
                f"{name} is archived: no spec asks for it; `{removal}` has the commit that removed it, for "
                "`git revert`"
            )
        names = [path.removeprefix(folder).removesuffix(SPEC_ENDING) for path in entries]
        raise NotFound(no_such(kind, name, names, where=f" on {self.branch}"))

    async def names(self, kind: "Kind") -> frozenset[str]:
        """Return the names of the objects of a kind with a committed spec file."""
        folder = spec_folder(kind)
        entries = await self.tree.files(await self.tree.head(), folder)
        return frozenset(path.removeprefix(folder).removesuffix(SPEC_ENDING) for path in entries)

    async def closed_since(self, hosts: Iterable[str]) -> Mapping[str, datetime]:
        """Return when people last changed whether these hosts take runs, according to history."""
        closed = {name: await self._closed(name) for name in hosts}
        return {name: at for name, at in closed.items() if at}

    async def _closed(self, host: str) -> datetime | None:
        from reconciler.store import history

        path = spec_path("host", host)
        return await history.last_touched(self.repository, self.branch, path, "^(cordon|drain) *:")

    async def settings_text(self) -> str:
        """Return the committed fleet.yaml; empty if there is none."""
        from reconciler.specs.source import read_revision

        files = await read_revision(_FleetFile(self.repository, self.branch), await self.tree.head())
        return files[FLEET_YAML].data.decode() if FLEET_YAML in files else ""

    async def commit(self, path: str, text: str, message: str) -> None:
        """Commit a changed file in the person's name, and push where there is a remote."""
        from reconciler.store.user_commits import commit_file

        with busy(f"committing {path}", may_ask=True):
            await commit_file(self.repository, self.branch, path, text, message, push=True)

    async def remove(self, paths: Sequence[str], message: str) -> None:
        """Commit the removal of files in the person's name, and push where there is a remote."""
        from reconciler.store.user_commits import remove_files

        with busy(f"removing {len(paths)} files", may_ask=True):
            await remove_files(self.repository, self.branch, paths, message, push=True)

    async def resolve(self, rev: str) -> str:
        """Return the commit that a revision names. Raises NotFound."""
        for name in (rev, self.repository.ref(rev)):
            arguments = ("rev-parse", "--quiet", "--verify", "--end-of-options", f"{name}^{{commit}}")
            result = await self.repository.git.attempt(*arguments)
            if result.code == 0:
                return result.text
        raise NotFound(f"{self.repository}: no revision {rev!r}; `git log --all --oneline` lists them")


class _FleetFile(GitTree):
    """The branch reduced to fleet.yaml: quick to read, however many tasks there are."""

    async def files(self, commit: str, under: str) -> Mapping[str, TreeEntry]:
        """Return the one file, if it is there."""
        files = await super().files(commit, under)
        return {FLEET_YAML: files[FLEET_YAML]} if FLEET_YAML in files else {}

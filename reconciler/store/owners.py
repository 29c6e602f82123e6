"""
Owners branch: which shard has which task, written by all reconcilers of a fleet.

A file per task on a branch beside the records. It is moved by compare and swap on the fleet's remote alone,
so that of two shards that want a task one is first, whatever each of them has read of the specs.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from reconciler.controller.tree import TreeEntry
from reconciler.core.errors import SpecError
from reconciler.core.model.status import Status
from reconciler.core.names import owners_branch_of, state_branch_of
from reconciler.core.shards import Owner, Owners
from reconciler.git.objects import GitTree, present
from reconciler.git.process import Git
from reconciler.git.remote import push
from reconciler.git.repository import Repository
from reconciler.store.commits import commit_changes, commit_tree
from reconciler.store.high_water import HighWaterMarks
from reconciler.store.last_transitions import last_transitions
from reconciler.store.layout import status_paths
from reconciler.store.records import Records
from reconciler.store.statuses import load_status

ROOT = "fleet-shards"
_TASKS = f"{ROOT}/tasks/"
_SHARDS = f"{ROOT}/shards/"
_ENDING = ".yaml"
_LARGEST = 1 << 12
_OWNER = re.compile(rb"shard: (?P<shard>[A-Za-z0-9._-]+)\n(?:generation: (?P<generation>[0-9a-f]+)\n)?")


class OwnersReader:
    """The owners of tasks, read-only; reading another commit costs what differs."""

    def __init__(self, repository: Repository, state_branch: str) -> None:
        self._repository = repository
        self._state_branch = state_branch
        self.branch = owners_branch_of(state_branch)
        self._tree = GitTree(repository, self.branch)
        self._entries: dict[str, str] = {}
        self._owners = Owners()

    @property
    def ref(self) -> str:
        """Where the branch is read: beside the record."""
        return owners_branch_of(self._repository.ref(self._state_branch))

    @property
    def head(self) -> str | None:
        """The newest commit; None if the fleet has one reconciler."""
        return self._repository.read_ref(self.ref)

    async def read(self) -> Owners | None:
        """Return the owners as of the last fetch; None for a fleet of one reconciler. Raises Unavailable."""
        head = self.head
        if head is None:
            self._entries, self._owners = {}, Owners()
            return None
        if head != self._owners.head:
            self._owners = await self._follow(head)
        return self._owners

    async def _follow(self, head: str) -> Owners:
        before = self._owners
        changed: Mapping[str, TreeEntry | None]
        if before.head:
            changed = await self._tree.changed(before.head, head, ROOT)
        else:
            changed = await self._tree.files(head, ROOT)
        blobs = {entry.blob for entry in changed.values() if entry}
        contents = await self._tree.blobs(blobs, limit=_LARGEST)
        tasks, shards = dict(before.tasks), set(before.shards)
        for path, entry in changed.items():
            owner = _owner(contents[entry.blob]) if entry else None
            if path.startswith(_TASKS):
                _put(tasks, path.removeprefix(_TASKS).removesuffix(_ENDING), owner)
            else:
                name = path.removeprefix(_SHARDS).removesuffix(_ENDING)
                (shards.add if owner else shards.discard)(name)
        return Owners(head, frozenset(shards), tasks)


def _owner(content: bytes) -> Owner | None:
    match = _OWNER.fullmatch(content)
    return Owner(match["shard"].decode(), (match["generation"] or b"").decode()) if match else None


def _put(tasks: dict[str, Owner], name: str, owner: Owner | None) -> None:
    if owner is None:
        tasks.pop(name, None)
    else:
        tasks[name] = owner


class OwnersBranch(OwnersReader):
    """The owners of tasks, for the reconciler of a shard; implements `controller.ports.OwnerRegistry`."""

    def __init__(
        self,
        repository: Repository,
        state_branch: str,
        shard: str,
        *,
        committer: Git,
        marks: HighWaterMarks,
    ) -> None:
        """Be a shard; `committer` is git with the identity to commit in, `marks` remember what was read."""
        super().__init__(repository, state_branch)
        self._shard = shard
        self._committer = committer
        self._marks = marks
        self._past: dict[str, int] = {}
        self._past_heads: dict[str, str] = {}
        self.is_shared = repository.address is not None
        """Whether the fleet is on a remote, which several reconcilers can share."""

    async def read(self) -> Owners | None:
        """Return the owners; see `OwnersReader.read`. Raises Rewound if the branch went back."""
        await self._marks.require("record", self.branch, self.head)
        owners = await super().read()
        if owners is not None:
            await self._marks.advance("record", self.branch, owners.head)
        return owners

    async def fetch(self) -> None:
        """Fetch what the others did. Raises Unavailable, Refused."""
        await self._repository.fetch()

    async def change(
        self,
        owners: Owners | None,
        take: Mapping[str, Owner],
        release: Collection[str],
        shards: Collection[str],
    ) -> None:
        """
        Record new owners, and which shards there are, on top of what was read (None: begin).

        Raises Conflict if another shard was first, Unavailable, Refused.
        """
        texts = {_path(_TASKS, name): _text(owner) for name, owner in take.items()}
        before = owners.shards if owners else frozenset()
        texts |= {_path(_SHARDS, shard): _text(Owner(shard, "")) for shard in {*shards} - before}
        blobs = await self._stored(texts.values())
        changes = {path: TreeEntry("100644", blobs[text]) for path, text in texts.items()}
        gone = dict.fromkeys(
            [
                *(_path(_TASKS, name) for name in release),
                *(_path(_SHARDS, shard) for shard in before - {*shards}),
            ]
        )
        message = _message(self._shard, take, release)
        head = owners.head if owners else await self._begun()
        commit = await commit_changes(self._repository, self._committer, head, {**changes, **gone}, message)
        await push(self._repository.network, "origin", commit, self.branch)
        await self._repository.git.attempt("update-ref", self.ref, commit, owners.head if owners else "")

    async def _begun(self) -> str:
        message = "shards: the fleet is divided from here on\n"
        return await commit_tree(self._repository, self._committer, None, [], message)

    async def _stored(self, texts: Iterable[str]) -> Mapping[str, str]:
        """Store texts as blobs, all with one process; return their ids."""
        wanted = list(dict.fromkeys(texts))
        with TemporaryDirectory() as folder:
            files = [Path(folder) / str(number) for number in range(len(wanted))]
            for file, text in zip(files, wanted, strict=True):
                file.write_text(text)
            paths = "".join(f"{file}\n" for file in files).encode()
            ids = await self._repository.git.run(
                "hash-object", "-w", "--no-filters", "--stdin-paths", stdin=paths
            )
        return dict(zip(wanted, ids.decode().split(), strict=True))

    async def recorded(self, names: Mapping[str, str]) -> Mapping[str, Status | None]:
        """Return what is on record of tasks of other shards, given which; None where nothing is."""
        return {name: await self._status(name, shard) for name, shard in names.items()}

    async def _status(self, name: str, shard: str) -> Status | None:
        ref = state_branch_of(self._repository.ref(self._state_branch), shard)
        head = self._repository.read_ref(ref)
        paths = status_paths(name) if head else ()
        contents = await present(self._repository, [f"{head}:{path}" for path in paths])
        content = next((each for each in contents.values() if each is not None), None)
        try:
            return load_status(Status, content, paths[0]) if content else None
        except SpecError:
            return None

    async def also_recorded(self, names: Collection[str], shards: Iterable[str]) -> Mapping[str, str]:
        """Return which of these tasks another shard has on record, whoever owns them, and which shard."""
        heads = {
            shard: self._repository.read_ref(state_branch_of(self._repository.ref(self._state_branch), shard))
            for shard in shards
            if shard != self._shard
        }
        wanted = {
            f"{head}:{path}": (name, shard)
            for shard, head in heads.items()
            if head
            for name in names
            for path in status_paths(name)
        }
        contents = await present(self._repository, list(wanted))
        return dict(wanted[key] for key, content in contents.items() if content is not None)

    async def past_attempts(self, names: Collection[str]) -> Mapping[str, int]:
        """Return the last attempts by other shards, by name, of tasks that they ever had; it reads on."""
        if self.head is None:
            return {}
        branch = self._repository.ref(self._state_branch)
        listed = await self._repository.git.run(
            "for-each-ref", "--format=%(refname) %(objectname)", branch, f"{branch}-*"
        )
        heads = dict(line.split() for line in listed.decode().splitlines())
        heads.pop(state_branch_of(branch, self._shard), None)
        for ref in [ref for ref, head in heads.items() if head != self._past_heads.get(ref)]:
            before = self._past_heads.get(ref)
            last = await last_transitions(
                self._repository, f"{before}..{heads[ref]}" if before else heads[ref]
            )
            self._past |= {name: max(n, self._past.get(name, 0)) for name, n in last.attempts.items()}
            self._past_heads[ref] = heads[ref]
        return {name: self._past[name] for name in names if name in self._past}

    async def all_recorded(self, shards: Iterable[str]) -> Mapping[str, Owner]:
        """Return what other shards have on record: to begin anew where the branch was lost."""
        owners: dict[str, Owner] = {}
        for shard in shards:
            branch = state_branch_of(self._state_branch, shard)
            records = Records(self._repository, branch)
            statuses, _ = await records.read(self._repository.read_ref(self._repository.ref(branch)))
            owners |= {name: Owner(shard, status.generation) for name, status in statuses.items()}
            owners |= {name: Owner(shard, "") for name in records.damaged}
        return owners


def _path(folder: str, name: str) -> str:
    return f"{folder}{name}{_ENDING}"


def _text(owner: Owner) -> str:
    generation = f"generation: {owner.generation}\n" if owner.generation else ""
    return f"shard: {owner.shard}\n{generation}"


def _message(shard: str, take: Collection[str], release: Collection[str]) -> str:
    what = [f"takes {len(take)}"] * bool(take) + [f"releases {len(release)}"] * bool(release)
    return f"shard {shard}: {', '.join(what) or 'other shards'}\n"

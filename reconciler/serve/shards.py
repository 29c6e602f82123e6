"""
The other shards of a fleet, read beside the loop: for pages and API, which show all of it.
"""

from collections.abc import Callable
from dataclasses import replace

from reconciler.core.model.specs import Desired
from reconciler.core.names import DEFAULT_SHARD, state_branch_of
from reconciler.core.views import Elsewhere
from reconciler.git.repository import Repository
from reconciler.store.owners import OwnersReader
from reconciler.store.reader import StateReader


class OtherShards:
    """What the other shards had on record when it was read last."""

    def __init__(
        self, repository: Repository, state_branch: str, shard: str, whole: Callable[[], Desired]
    ) -> None:
        """Look from a shard; `whole` returns what the specs ask of the whole fleet."""
        self._repository = repository
        self._state_branch = state_branch
        self._shard = shard
        self._whole = whole
        self._owners = OwnersReader(repository, state_branch)
        self._reader: StateReader | None = None
        self._branches: dict[str, str] = {}
        self._read: Elsewhere | None = None

    def __call__(self) -> Elsewhere | None:
        """Return it; None where the fleet has one reconciler."""
        return replace(self._read, desired=self._whole()) if self._read else None

    async def refresh(self) -> None:
        """Read what was fetched. Raises Unavailable."""
        owners = await self._owners.read()
        others = sorted((owners.shards if owners else frozenset()) - {self._shard})
        branches = {shard: state_branch_of(self._state_branch, shard) for shard in others}
        if branches != self._branches:
            self._branches = branches
            self._reader = StateReader(self._repository, branches) if branches else None
        if self._reader is None:
            self._read = None
            return
        heads = [self._repository.read_ref(self._repository.ref(branch)) for branch in branches.values()]
        statuses, hosts = await self._reader.load()
        self._read = Elsewhere(
            shard=self._shard,
            desired=self._whole(),
            statuses=statuses,
            hosts=hosts,
            damaged=self._reader.damaged,
            accounts=self._reader.accounts,
            shards=self._reader.shards or dict.fromkeys(statuses, DEFAULT_SHARD),
            version="-".join((head or "")[:12] for head in heads),
        )

"""
Read-only access to the record, for every command that looks.
"""

from collections import ChainMap
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TypeVar

from reconciler.core.errors import Problem
from reconciler.core.model.status import AccountStatus, ArchivedTasks, HostStatus, Status
from reconciler.core.names import DEFAULT_SHARD
from reconciler.git.repository import Repository
from reconciler.store.archive import read_archived
from reconciler.store.records import Records, Statuses

T = TypeVar("T")


class StateReader:
    """The record, of all shards where there are several, read-only: no lock is taken, nothing is created."""

    def __init__(self, repository: Repository, branches: Mapping[str, str]) -> None:
        """Read the state branches of a fleet, by shard."""
        self._repository = repository
        self._refs = {shard: repository.ref(branch) for shard, branch in branches.items()}
        self._records = {shard: Records(repository, branch) for shard, branch in branches.items()}
        self._loaded: Mapping[str, Statuses] = {}
        self._archived: Mapping[str, ArchivedTasks] = {}

    async def load(self, names: Collection[str] = ()) -> Statuses:
        """
        Return every status on record, of tasks and of hosts; empty if there is no record yet.

        Of the archive those of these names, if they are nowhere else. Those that cannot be read
        are not in it, see `damaged`. Raises Unavailable.
        """
        heads = {shard: self._repository.read_ref(ref) for shard, ref in self._refs.items()}
        loaded = {shard: await records.read(heads[shard]) for shard, records in self._records.items()}
        missing = [name for name in names if not any(name in tasks for tasks, _ in loaded.values())]
        self._archived = {
            shard: await read_archived(self._repository, head, missing)
            for shard, head in heads.items()
            if missing
        }
        self._loaded = {shard: self._with_archived(shard, *each) for shard, each in loaded.items()}
        tasks, hosts = zip(*self._loaded.values(), strict=True)
        return _merged(tasks), _merged(hosts)

    def _with_archived(
        self, shard: str, tasks: Mapping[str, Status], hosts: Mapping[str, HostStatus]
    ) -> Statuses:
        archived = self._archived.get(shard)
        return ({**tasks, **archived.statuses} if archived and archived.statuses else tasks), hosts

    @property
    def damaged(self) -> Mapping[str, Problem]:
        """What is wrong with the status files of tasks that could not be read, by task."""
        archived = [each.damaged for each in self._archived.values() if each.damaged]
        return _merged([self._all(lambda records: records.damaged), *archived])

    @property
    def accounts(self) -> Mapping[str, AccountStatus]:
        """What is on record of accounts at their limits, as last loaded."""
        return self._all(lambda records: records.accounts)

    @property
    def shards(self) -> Mapping[str, str]:
        """Which shard has which task on record, as last loaded; empty where there is one reconciler."""
        if self._records.keys() == {DEFAULT_SHARD}:
            return {}
        return {
            name: shard
            for shard, (tasks, _) in self._loaded.items()
            for name in (*tasks, *self._records[shard].damaged)
        }

    def _all(self, of: Callable[[Records], Mapping[str, T]]) -> Mapping[str, T]:
        return _merged(of(records) for records in self._records.values())

    async def fleet_id(self, task: str) -> str | None:
        """Return the id of the fleet, of the shard that has a task; None if it was never run."""
        await self.load()
        fleet = await self._records[self.shards.get(task, DEFAULT_SHARD)].fleet()
        return fleet.id if fleet else None


def _merged(mappings: Iterable[Mapping[str, T]]) -> Mapping[str, T]:
    """Return all mappings as one, at no cost where there is only one."""
    every = [*mappings]
    return every[0] if len(every) == 1 else dict(ChainMap(*(dict(each) for each in every)))

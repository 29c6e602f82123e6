"""
Read-only access to the state branch, for every command that looks.
"""

from collections.abc import Mapping

from reconciler.core.errors import Problem
from reconciler.core.model.status import AccountStatus
from reconciler.git.repository import Repository
from reconciler.store.records import Records, Statuses


class StateReader:
    """The state branch, read-only: no lock is taken and nothing is created."""

    def __init__(self, repository: Repository, branch: str) -> None:
        self._repository = repository
        self._ref = repository.ref(branch)
        self._records = Records(repository, branch)

    async def load(self) -> Statuses:
        """
        Return every status on record, of tasks and of hosts; empty if there is no record yet.

        Those that cannot be read are not in it, see `damaged`. Raises Unavailable.
        """
        return await self._records.read(self._repository.read_ref(self._ref))

    @property
    def damaged(self) -> Mapping[str, Problem]:
        """What is wrong with the status files of tasks that could not be read, by task."""
        return self._records.damaged

    @property
    def accounts(self) -> Mapping[str, AccountStatus]:
        """What is on record of accounts at their limits, as last loaded."""
        return self._records.accounts

    async def fleet_id(self) -> str | None:
        """Return the id of the fleet; None if it was never run."""
        await self.load()
        fleet = await self._records.fleet()
        return fleet.id if fleet else None

"""
Orders for live runs, built from the spec a run was assigned with and not from a newer one.
"""

from reconciler.controller.cache import FleetCache
from reconciler.controller.ports import Specs
from reconciler.core.errors import SpecError
from reconciler.core.model.runs import Assignment, RunRequest
from reconciler.core.model.specs import Task
from reconciler.core.model.status import Status
from reconciler.core.runs.command import assignment, build_run_request


class AssignedSpecs:
    """The specs of live runs, read from an earlier revision where they have changed since."""

    def __init__(self, specs: Specs, cache: FleetCache) -> None:
        self._specs = specs
        self._cache = cache

    async def last(self, name: str, generation: str) -> Task | None:
        """Return the task as its spec has it now, or had it last; None if that is lost."""
        return self._cache.desired.tasks.get(name) or await self._specs.recall(name, generation)

    async def run_request(self, name: str, status: Status) -> RunRequest:
        """Return what a host is to carry out. Raises SpecError."""
        return build_run_request(await self._spec(name, status), status, self._cache.desired)

    async def assignment(self, name: str) -> Assignment:
        """Return what the worker that holds a task is to carry out. Raises SpecError."""
        status = self._cache.statuses[name]
        return assignment(await self._spec(name, status), status, self._cache.desired)

    async def _spec(self, name: str, status: Status) -> Task:
        """Return the spec that a live run was assigned with. Raises SpecError if it is lost."""
        task: Task | None = self._cache.desired.tasks.get(name)
        if task is None or task.generation != status.generation:
            task = await self._specs.recall(name, status.generation) or task
        if task is None:
            raise SpecError(())
        return task

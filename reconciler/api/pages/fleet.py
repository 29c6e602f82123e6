"""
The fleet as pages look at it: the read model of this moment, and what costs a pass over it, kept.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property

from reconciler.api.pages.services import PageServices
from reconciler.api.services import HistorySource
from reconciler.api.views import read_model, state_version
from reconciler.controller.ports import Clock, FleetView
from reconciler.core.adapter import Usage
from reconciler.core.figures import FiguresOf
from reconciler.core.model.status import BudgetScope
from reconciler.core.needs import Need
from reconciler.core.planning.limits import budget_scopes, midnight
from reconciler.core.views import CampaignView, HostView, ReadModel, TaskView


class Snapshot:
    """The read model of one version: what takes a pass over all tasks is done once."""

    def __init__(self, model: ReadModel) -> None:
        self.model = model

    @cached_property
    def tasks(self) -> Sequence[TaskView]:
        """Every task, by name."""
        return tuple(self.model.tasks().values())

    @cached_property
    def hosts(self) -> Mapping[str, HostView]:
        """Every host, by name."""
        return self.model.hosts()

    @cached_property
    def campaigns(self) -> Sequence[CampaignView]:
        """The campaigns that are not done, by name."""
        return tuple(each for each in self.model.campaigns().values() if each.state != "done")

    @cached_property
    def needs(self) -> Sequence[Need]:
        """What needs a person."""
        return tuple(self.model.needs(self.tasks))

    @cached_property
    def live(self) -> Mapping[str, TaskView]:
        """Tasks with a live run, by its key, in the order of their names."""
        live = ((view.status.live_run if view.status else None, view) for view in self.tasks if view.is_live)
        return {run.key: view for run, view in live if run}

    @property
    def count_of_needs(self) -> int:
        """How many things need a person."""
        return len(self.needs)

    @cached_property
    def states(self) -> Mapping[str, int]:
        """How many tasks there are, by state."""
        return Counter(view.state for view in self.tasks)


@dataclass(slots=True)
class Fleet:
    """What pages are made of."""

    view: FleetView
    record: HistorySource
    services: PageServices
    clock: Clock
    figures: FiguresOf
    """Return how far a round of a live run is."""
    last_used: Callable[[str], datetime | None]
    """Return when an agent's token was used last."""
    _snapshot: Snapshot | None = field(default=None, init=False)
    _version: str = field(default="", init=False)
    _spent: Mapping[BudgetScope, Usage] = field(default_factory=dict, init=False)
    _spent_version: str = field(default="", init=False)

    def version(self) -> str:
        """Return what changes with the record and the specs."""
        return state_version(self.view, self.record.head())

    def snapshot(self) -> Snapshot:
        """Return the fleet as it is now."""
        version = self.version()
        if self._snapshot is None or version != self._version:
            model = replace(read_model(self.view), live=self.figures)
            self._snapshot, self._version = Snapshot(model), version
        return self._snapshot

    async def model_with(self, task: str) -> ReadModel:
        """Return the fleet as it is now, with a task of the archive if this is one."""
        model = self.snapshot().model
        if model.has(task) or (status := await self.record.archived(task)) is None:
            return model
        return model.with_archived(task, status)

    async def spent_today(self) -> Mapping[BudgetScope, Usage]:
        """Return what was spent since midnight (UTC), by whose money; read again as soon as it may differ."""
        version = self.version()
        if version != self._spent_version:
            spent: dict[BudgetScope, Usage] = {}
            for each in await self.services.spending(midnight(self.clock())):
                for scope in budget_scopes(each.adapter, each.repo, each.host, each.account):
                    spent[scope] = spent.get(scope, Usage()) + each.usage
            self._spent, self._spent_version = spent, version
        return self._spent

"""
Sharded specs: what one of several reconcilers of a fleet is to do.

Wraps the specs of the whole fleet. A task is in view only once its owner, by the registry that all shards
share, is this one; so nothing else in the reconciler knows of shards, and none of it can start a task twice.
"""

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from reconciler.controller.ports import OwnerRegistry, Specs
from reconciler.core.errors import Conflict, Refused, Unavailable
from reconciler.core.model.specs import Desired, Task
from reconciler.core.model.status import Status
from reconciler.core.names import DEFAULT_SHARD
from reconciler.core.shards import (
    Homes,
    Owner,
    OwnerChanges,
    Owners,
    generation_of,
    gone_elsewhere,
    owner_changes,
    shard_view,
)

log = logging.getLogger(__name__)

_REDO = 5
"""Attempts to take tasks while other shards take theirs; then the next look goes on."""


class ShardedSpecs:
    """The specs of one shard, for the loop: `controller.ports.Specs`."""

    def __init__(
        self, specs: Specs, registry: OwnerRegistry, shard: str, damaged: Callable[[], Collection[str]]
    ) -> None:
        """Be a shard; `damaged` are its tasks on record that cannot be read."""
        self._specs = specs
        self._registry = registry
        self._shard = shard
        self._damaged = damaged
        self._whole = Desired()
        self._owners: Owners | None = None
        self._view = Desired()
        self._is_settled = False
        """Whether the same specs and owners leave nothing to take or release."""
        self._waits: Mapping[str, str] = {}

    async def read(self, statuses: Mapping[str, Status]) -> Desired:
        """
        Return what the newest revision asks of this shard; see `controller.ports.Specs.read`.

        Where the registry cannot be written, what the last revision asked for stays in
        force: a task that moved would look as if it had been removed.
        """
        whole, owners = await self._specs.read(statuses), await self._registry.read()
        if owners is None and self._is_alone(whole):
            self._whole = self._view = whole
        elif not self._is_settled or whole is not self._whole or owners is not self._owners:
            on_record: Mapping[str, Status | None] = {**dict.fromkeys(self._damaged()), **statuses}
            try:
                self._owners = await self._taken(whole, on_record, owners)
            except (Unavailable, Conflict, Refused) as error:
                self._stay(error, on_record)
            else:
                self._whole, self._view = whole, self._viewed(whole, on_record, self._owners)
        return self._view

    def _stay(self, error: Exception, on_record: Collection[str]) -> None:
        """
        Go on with what was read last. Raises Unavailable if nothing was.

        The fleet may be divided already, though we were not told: others may take what is not on record.
        """
        self._is_settled = False
        if not self._whole.revision:
            raise Unavailable(f"which tasks are this shard's cannot be agreed on: {error}") from error
        if self._owners is None:
            self._view = shard_view(self._whole, self._shard, on_record)
        log.warning("no new task is taken and no change of specs is acted on, runs go on: %s", error)

    @property
    def whole(self) -> Desired:
        """What the last revision asks of the whole fleet."""
        return self._whole

    async def recall(self, name: str, generation: str) -> Task | None:
        """Return a task as an earlier generation had it; see `controller.ports.Specs.recall`."""
        return await self._specs.recall(name, generation)

    def of_shard(self, desired: Desired) -> Desired:
        """Return what another version of the specs asks of this shard, by what was read last."""
        if self._owners is None:
            return desired
        homes = Homes(desired, self._owners)
        return shard_view(
            desired, self._shard, {name for name in desired.tasks if homes.of(name) == self._shard}
        )

    def _is_alone(self, whole: Desired) -> bool:
        """Return whether one reconciler has the whole fleet: until it has divided it, nobody else starts."""
        if self._shard != DEFAULT_SHARD or not whole.fleet.shards:
            return self._shard == DEFAULT_SHARD
        if not self._registry.is_shared:
            log.warning("the fleet has shards and is no remote's: open it by a URL, or nobody can share it")
        return not self._registry.is_shared

    async def _begin(self, whole: Desired, on_record: Mapping[str, Status | None]) -> Owners:
        """Divide the fleet: what is on record stays where it is. Raises Unavailable."""
        if self._shard != DEFAULT_SHARD:
            raise Unavailable(
                "the fleet is not divided yet: that is done by the reconciler without --shard, once it runs"
            )
        others = await self._registry.all_recorded(whole.fleet.shards)
        own = {name: Owner(self._shard, generation_of(status)) for name, status in on_record.items()}
        try:
            await self._registry.change(None, {**others, **own}, (), {DEFAULT_SHARD, *whole.fleet.shards})
        except Conflict:
            await self._registry.fetch()
        owners = await self._registry.read()
        if owners is None:
            raise Unavailable("the owners of tasks cannot be read back")
        return owners

    async def _taken(
        self, whole: Desired, on_record: Mapping[str, Status | None], owners: Owners | None
    ) -> Owners:
        """
        Take what is new and ours, release what is done; return the owners then.

        Raises Conflict if others are always quicker, Unavailable, Refused.
        """
        owners = owners or await self._begin(whole, on_record)
        for _ in range(_REDO):
            changes = await self._changes(whole, on_record, owners)
            if not changes.take and not changes.release and changes.shards == owners.shards:
                self._settle(whole, owners, changes)
                return owners
            owners = await self._changed(owners, changes)
        raise Conflict("the owners of tasks move too quickly")

    async def _changed(self, owners: Owners, changes: OwnerChanges) -> Owners:
        take = {name: Owner(self._shard, generation) for name, generation in changes.take.items()}
        try:
            await self._registry.change(owners, take, changes.release, changes.shards)
        except Conflict:
            await self._registry.fetch()
        return await self._registry.read() or owners

    async def _changes(
        self, whole: Desired, on_record: Mapping[str, Status | None], owners: Owners
    ) -> OwnerChanges:
        gone = gone_elsewhere(self._shard, whole, owners)
        elsewhere = await self._registry.recorded({name: owner.shard for name, owner in gone.items()})
        changes = owner_changes(
            self._shard, whole, on_record, owners, elsewhere, earlier=self._whole.tasks.keys()
        )
        new = changes.take.keys() - on_record.keys()
        held = await self._registry.also_recorded(new, {*owners.shards, *whole.fleet.shards}) if new else {}
        waits = {name: f"shard {shard} has it on record" for name, shard in held.items()}
        take = {name: generation for name, generation in changes.take.items() if name not in held}
        return replace(changes, take=take, waits={**changes.waits, **waits})

    def _settle(self, whole: Desired, owners: Owners, changes: OwnerChanges) -> None:
        """Note whether another look at the same could find something, and tell what waits once."""
        specs = whole.tasks.keys() | whole.broken.keys()
        self._is_settled = not changes.waits and owners.names(self._shard) <= specs
        for name in changes.waits.keys() - self._waits.keys():
            log.warning("task %s waits: %s", name, changes.waits[name])
        self._waits = changes.waits

    def _viewed(self, whole: Desired, on_record: Mapping[str, Status | None], owners: Owners) -> Desired:
        """Return what there is to do: what it owns, and what is on record here and nobody else's."""
        own = {name for name in on_record if name not in owners.tasks}
        live = {status.assigned_host for status in on_record.values() if status and status.phase.is_live}
        return shard_view(
            whole, self._shard, owners.names(self._shard) | own, [host for host in live if host]
        )

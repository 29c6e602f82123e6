"""
Shards: which of several reconcilers of a fleet has a task.

Every task has one owner: the shard that took it first, in the order of the commits of one branch that all
of them move by compare and swap. It keeps the task until nothing of it is on record there. `shards` of
fleet.yaml says who may take what nobody owns, and takes nothing away: a folder that is given to another
shard, or a task that is moved to one, runs on where it is.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from reconciler.core.model.specs import Desired, ShardSpec, Task
from reconciler.core.model.status import Observed, Status
from reconciler.core.names import DEFAULT_SHARD, spec_owner, variant_of
from reconciler.core.renames import IDENTITIES, has_spec, renames

LIMITS = ("max_running", "limits", "daily_budget")
"""Settings of the fleet that each shard has for itself."""


class Owner(NamedTuple):
    """Who has a task, and which version of it there was when it was taken."""

    shard: str
    generation: str


@dataclass(frozen=True, slots=True)
class Owners:
    """The owners of all tasks, at one commit of their branch."""

    head: str = ""
    shards: frozenset[str] = frozenset()
    """Those that fleet.yaml names, and those that it named and that still have tasks."""
    tasks: Mapping[str, Owner] = field(default_factory=dict)

    def names(self, shard: str) -> frozenset[str]:
        """Return the tasks of a shard."""
        return frozenset(name for name, owner in self.tasks.items() if owner.shard == shard)


@dataclass(frozen=True, slots=True)
class OwnerChanges:
    """What a shard takes and releases, and what it would take and cannot yet."""

    take: Mapping[str, str] = field(default_factory=dict)
    """Generation by task."""
    release: frozenset[str] = frozenset()
    shards: frozenset[str] = frozenset()
    """See `Owners.shards`."""
    waits: Mapping[str, str] = field(default_factory=dict)
    """Why, by task."""


def home_shard(shards: Mapping[str, ShardSpec], task: str) -> str:
    """Return the shard that takes a task which nobody owns: the one with the deepest folder around it."""
    if not shards:
        return DEFAULT_SHARD
    folders = {folder: name for name, shard in shards.items() for folder in shard.tasks}
    return next((folders[each] for each in _folders(task) if each in folders), DEFAULT_SHARD)


def _folders(task: str) -> Iterator[str]:
    """Yield the folders around a task, the deepest first."""
    while "/" in task:
        task = task.rpartition("/")[0]
        yield task


# --- Who takes what --------------------------------------------------------


def owner_changes(
    shard: str,
    desired: Desired,
    on_record: Mapping[str, Status | None],
    owners: Owners,
    elsewhere: Mapping[str, Status | None],
    *,
    earlier: Collection[str] = (),
) -> OwnerChanges:
    """
    Return what a shard has to change of the owners.

    `on_record` is its own record (None: cannot be read), `elsewhere` what the
    other shards have on record of their tasks without a spec, see `gone_elsewhere`.
    `earlier` are the tasks that were there at the last look: none of them is one that moved since.
    """
    new = {name: task for name, task in desired.tasks.items() if name not in owners.tasks}
    kept = {name: generation_of(status) for name, status in on_record.items() if name not in owners.tasks}
    came = {name: task for name, task in new.items() if name not in earlier}
    moved_here = {name: new[name].generation for name in _moved_here(desired, on_record, came)}
    homes = Homes(desired, owners)
    ours = {name: task for name, task in new.items() if name not in moved_here and homes.of(name) == shard}
    waits = dict(_waits(ours, {name: owners.tasks[name] for name in elsewhere}, elsewhere))
    take = {name: task.generation for name, task in ours.items() if name not in waits}
    done = _done(shard, desired, on_record, owners)
    return OwnerChanges({**take, **moved_here, **kept}, done, _shards(shard, desired, owners), waits)


def _shards(shard: str, desired: Desired, owners: Owners) -> frozenset[str]:
    """Return the shards there are; the default one keeps their list, others add themselves."""
    declared = desired.fleet.shards.keys()
    if shard != DEFAULT_SHARD:
        return owners.shards | ({shard} & declared)
    return frozenset({DEFAULT_SHARD, *declared, *(owner.shard for owner in owners.tasks.values())})


def gone_elsewhere(shard: str, desired: Desired, owners: Owners) -> Mapping[str, Owner]:
    """Return the tasks of other shards without a spec: a new one may be the same, moved."""
    return {
        name: owner
        for name, owner in owners.tasks.items()
        if owner.shard != shard and name not in desired.tasks and name not in desired.broken
    }


def generation_of(status: Status | None) -> str:
    """Return the version that is on record of a task; empty if that cannot be read."""
    return status.generation if status else ""


def _moved_here(
    desired: Desired, on_record: Mapping[str, Status | None], new: Mapping[str, Task]
) -> Sequence[str]:
    """Return the new tasks that are old ones of ours, moved: wherever they went, we have them."""
    gone = {
        name: status
        for name, status in on_record.items()
        if status and not status.removed and not has_spec(desired, name, status)
    }
    return [name for _, name in renames(gone, new)] if gone else ()


def _waits(
    ours: Mapping[str, Task], gone: Mapping[str, Owner], elsewhere: Mapping[str, Status | None]
) -> Iterator[tuple[str, str]]:
    """Yield the new tasks that may be moved ones of another shard, until that has taken or released them."""
    looks: dict[str, str] = {}
    for name, owner in gone.items():
        status = elsewhere[name]
        if status is None:  # taken, and not on record yet
            looks[owner.generation] = name
        elif not status.removed:
            looks |= {getattr(status, identity): name for identity in IDENTITIES}
    for name, task in ours.items():  # variants are like their task, and wait with it
        old = next((looks[each] for each in (task.generation, task.work) if each in looks), None)
        if old is not None:
            yield name, f"may be {old} of shard {gone[old].shard}, moved: that shard has not looked yet"


def _done(
    shard: str, desired: Desired, on_record: Mapping[str, Status | None], owners: Owners
) -> frozenset[str]:
    """Return the tasks of a shard that are neither asked for nor on record any more."""
    return frozenset(
        name
        for name, owner in owners.tasks.items()
        if owner.shard == shard
        and name not in on_record
        and name not in desired.tasks
        and name not in desired.broken
    )


class Homes:
    """
    Homes: the owner of each task, and where one that nobody owns goes: to its folder's shard.

    One whose dependencies, or others of whose campaign or file (a task and its
    variants), have an owner goes to that: what waits for each other is planned by one party.
    """

    def __init__(self, desired: Desired, owners: Owners) -> None:
        self._desired = desired
        self._owners = owners
        self._homes: dict[str, str] = {}
        self._campaigns = {
            name: owners.tasks[task].shard
            for name, campaign in desired.campaigns.items()
            for task in campaign.tasks
            if task in owners.tasks
        }
        self._families = {
            spec_owner(name): owner.shard for name, owner in owners.tasks.items() if variant_of(name)
        }

    def of(self, name: str) -> str:
        """Return the home of a task; walks along its dependencies, without recursion as chains are long."""
        open_names = {name: None}
        while open_names:
            last = next(reversed(open_names))
            needed = self._needed(last)
            missing = [each for each in needed if each not in self._homes and each not in open_names]
            if last in self._homes or not missing:
                self._homes.setdefault(last, self._home(last, needed))
                del open_names[last]
            else:
                open_names[missing[0]] = None
        return self._homes[name]

    def _home(self, name: str, needed: Sequence[str]) -> str:
        parent = spec_owner(name)
        for each in (name, parent):
            if each in self._owners.tasks:
                return self._owners.tasks[each].shard
        if parent in self._families:
            return self._families[parent]
        task = self._desired.tasks.get(name)
        campaign = task.campaign if task else None
        if campaign in self._campaigns:
            return self._campaigns[campaign]
        own = home_shard(self._desired.fleet.shards, name)
        homes = {self._homes[each] for each in needed if each in self._homes}
        return homes.pop() if len(homes) == 1 else own

    def _needed(self, name: str) -> Sequence[str]:
        spec = self._desired.tasks.get(name)
        if spec is None or name in self._owners.tasks:
            return ()
        names = (*spec.depends_on, *([spec.start_from] if spec.start_from else []))
        return [each for each in names if each in self._desired.tasks]


# --- What a shard sees -----------------------------------------------------


def shard_view(
    desired: Desired, shard: str, owned: Collection[str], busy_hosts: Collection[str] = ()
) -> Desired:
    """
    Return what the specs ask of one shard.

    `owned` are its tasks, `busy_hosts` those on which they run: one that was
    given to another shard meanwhile takes no new run of this one.
    """
    hosts = {name: host for name, host in desired.hosts.items() if host.shard == shard}
    lent = {name: desired.hosts[name] for name in busy_hosts if name in desired.hosts and name not in hosts}
    hosts |= {name: host.model_copy(update={"cordon": True}) for name, host in lent.items()}
    campaigns = {
        name: campaign.model_copy(update={"tasks": tasks})
        for name, campaign in desired.campaigns.items()
        if (tasks := tuple(task for task in campaign.tasks if task in owned))
    }
    return replace(
        desired,
        fleet=desired.fleet.model_copy(update=_own_limits(desired, shard)),
        tasks={name: task for name, task in desired.tasks.items() if name in owned},
        broken={name: problems for name, problems in desired.broken.items() if name in owned},
        hosts=hosts,
        campaigns=campaigns,
    )


def shard_parts(desired: Desired, observed: Observed) -> Sequence[tuple[str, Desired, Observed]]:
    """Return what each reconciler of a fleet plans for: shard, what is asked of it, what it has on record."""
    if not desired.fleet.shards and not observed.shards:
        return [(DEFAULT_SHARD, desired, observed)]
    homes = Homes(desired, Owners(tasks={name: Owner(shard, "") for name, shard in observed.shards.items()}))
    names = {*desired.tasks, *desired.broken, *observed.statuses, *observed.damaged}
    by_shard: dict[str, set[str]] = {shard: set() for shard in (DEFAULT_SHARD, *desired.fleet.shards)}
    for name in names:
        by_shard.setdefault(homes.of(name), set()).add(name)
    return [(shard, *_part(desired, observed, shard, names)) for shard, names in sorted(by_shard.items())]


def _part(
    desired: Desired, observed: Observed, shard: str, names: Collection[str]
) -> tuple[Desired, Observed]:
    statuses = {name: status for name, status in observed.statuses.items() if name in names}
    damaged = {name: problem for name, problem in observed.damaged.items() if name in names}
    busy = {each.assigned_host for each in statuses.values() if each.phase.is_live and each.assigned_host}
    return shard_view(desired, shard, names, busy), replace(observed, statuses=statuses, damaged=damaged)


def _own_limits(desired: Desired, shard: str) -> Mapping[str, object]:
    """Return the limits of a shard in place of the fleet's."""
    spec = desired.fleet.shards.get(shard)
    if spec is None:
        return {}
    return {name: getattr(spec, name) for name in LIMITS}

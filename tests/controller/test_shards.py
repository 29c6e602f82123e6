"""
Several reconcilers over one fleet: none runs a task that another has, and none is forgotten.

The specs, the registry and the records of the others are read as late as any of them may be.
"""

from collections import Counter
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from reconciler.controller.shards import ShardedSpecs
from reconciler.core.errors import Conflict, Unavailable
from reconciler.core.events import Assigned
from reconciler.core.model.specs import FleetSpec, Host, Repo, ShardSpec
from reconciler.core.names import DEFAULT_SHARD, spec_owner
from reconciler.core.shards import Owner, Owners
from reconciler.core.variants import variants_of
from tests.fakes import FakeSpecs, make_desired, make_task
from tests.strategies import World

SHARDS = (DEFAULT_SHARD, "a", "b")
FOLDERS = ("x", "y", "x/deep")
DIVIDED = {"x": "a", "y": "b"}


def finished(coroutine):
    """Run what waits for nothing; an event loop for each would take most of the time."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waits")


@dataclass
class Remote:
    """What all have in common: revisions of the specs, owners, and the records."""

    specs: list = field(default_factory=list)
    owners: list[Owners] = field(default_factory=list)
    records: dict = field(default_factory=lambda: {shard: {} for shard in SHARDS})


class Registry:
    """The registry as one shard has fetched it; `fails` says what becomes of its next pushes."""

    is_shared = True

    def __init__(self, remote: Remote, shard: str) -> None:
        self.remote, self.shard, self.fails = remote, shard, []
        self.owners: Owners | None = None
        self.records = dict(remote.records)

    async def read(self):
        return self.owners

    async def fetch(self):
        self.owners = self.remote.owners[-1] if self.remote.owners else None
        self.records = dict(self.remote.records)

    async def change(self, owners, take, release, shards):
        fault = self.fails.pop(0) if self.fails else ""
        if fault == "before":
            raise Unavailable("the remote does not answer")
        if owners is not (self.remote.owners[-1] if self.remote.owners else None):
            raise Conflict("another shard was first")
        before = owners or Owners()
        tasks = {name: each for name, each in before.tasks.items() if name not in release} | dict(take)
        head = str(len(self.remote.owners))
        self.remote.owners.append(Owners(head, frozenset(shards), tasks))
        if fault == "after":
            raise Unavailable("the answer was lost")
        self.owners = self.remote.owners[-1]

    async def recorded(self, names):
        return {name: self.records[shard].get(name) for name, shard in names.items()}

    async def also_recorded(self, names, shards):
        others = [shard for shard in shards if shard != self.shard]
        return {name: each for name in names for each in others if name in self.records.get(each, {})}

    async def all_recorded(self, shards):
        statuses = {(name, shard): each for shard in shards for name, each in self.records[shard].items()}
        return {name: Owner(shard, each.generation) for (name, shard), each in statuses.items()}


class Reconciler:
    """The process of one shard, and its record, which outlives it."""

    def __init__(self, remote: Remote, shard: str) -> None:
        self.remote, self.shard = remote, shard
        self.world = World(make_desired())
        self.revision = 0
        self.start()

    def start(self) -> None:
        self.specs, self.registry = FakeSpecs(), Registry(self.remote, self.shard)
        finished(self.registry.fetch())
        self.sharded = ShardedSpecs(self.specs, self.registry, self.shard, lambda: ())

    def read(self, revision: int) -> bool:
        """Read a revision, not older than the last; return whether there is something to go on with."""
        self.revision = max(self.revision, min(revision, len(self.remote.specs) - 1))
        self.specs.desired = self.remote.specs[self.revision]
        try:
            self.world.desired = finished(self.sharded.read(self.world.statuses))
        except Unavailable:
            return False
        return True

    def look(self) -> None:
        hosts = frozenset(self.world.desired.hosts)
        self.world.probed = hosts
        self.world.look()
        self.remote.records[self.shard] = dict(self.world.statuses)


def fleet_of(folders, tasks):
    hosts = {shard: Host(name=shard, shard=shard, slots=100) for shard in SHARDS}
    shards = {}
    for folder, shard in folders.items():
        if shard != DEFAULT_SHARD:
            shards.setdefault(shard, []).append(folder)
    fleet = FleetSpec(shards={name: ShardSpec(tasks=tuple(each)) for name, each in shards.items()})
    return make_desired(*tasks, fleet=fleet, hosts=hosts, repos={"shop": Repo(name="shop", url="/shop")})


class Fleet:
    """A fleet, its people and its reconcilers; one is fresh if it has fetched what the others did."""

    def __init__(self, folders) -> None:
        self.remote, self.made, self.tasks, self.folders = Remote(), 0, {}, dict(folders)
        self.variants: dict[str, int] = {}
        self.push()
        self.all = {shard: Reconciler(self.remote, shard) for shard in SHARDS}

    def push(self):
        tasks = [self.task(name, id_) for name, id_ in self.tasks.items()]
        variants = [variant for task in tasks for variant in variants_of(task)]
        self.remote.specs.append(fleet_of(self.folders, [*tasks, *variants]))

    def task(self, name, id_):
        count = self.variants.get(id_, 0)
        more = {"repo": "shop", "variants": count, "judge": "person"} if count else {}
        return make_task(name, id_, goal="Do it.", script=id_, **more)

    def add(self, folder, variants=0):
        self.made += 1
        id_ = f"{self.made:040x}"
        self.tasks[f"{folder}/t{self.made}"] = id_
        self.variants |= {id_: variants} if variants else {}
        self.push()

    def move(self, name, folder):
        self.tasks[f"{folder}/{name.rpartition('/')[2]}"] = self.tasks.pop(name)
        self.push()

    def reconcile(self, shard, lag=0, fault="", *, is_fresh=True, looks=True):
        """Let a shard look; return whether it could agree on what is its own."""
        one = self.all[shard]
        if is_fresh:
            finished(one.registry.fetch())
        one.registry.fails = [fault]
        could = one.read(len(self.remote.specs) - 1 - lag)
        if could and looks:
            one.look()
        return could

    def finish(self, shard):
        one = self.all[shard]
        for name, status in dict(one.world.statuses).items():
            if status.phase.is_live:
                one.world.end(name, one.world.ends(name, status))
        self.remote.records[shard] = dict(one.world.statuses)

    def starts(self):
        """Return how often each task was given a run, whatever it was called."""
        steps = [step for one in self.all.values() for step in one.world.history]
        begun = [step for step in steps if isinstance(step.event, Assigned)]
        return Counter(step.after.generation + step.task[len(spec_owner(step.task)) :] for step in begun)

    def wanted(self):
        """Return what `starts` has once everything that is asked for was started."""
        for id_ in self.tasks.values():
            count = self.variants.get(id_, 0)
            yield from (f"{id_}@{number}" for number in range(1, count + 1)) if count else (id_,)

    def where(self):
        """Return the shard that has each task on record."""
        return {name: shard for shard, record in self.remote.records.items() for name in record}


def divided() -> Fleet:
    """Return a fleet that the shards `a` and `b` have looked at, with a task that `a` has."""
    fleet = Fleet(DIVIDED)
    fleet.add("x")
    for shard in SHARDS:
        fleet.reconcile(shard)
    assert fleet.where() == {"x/t1": "a"}
    return fleet


def test_of_two_shards_that_want_a_task_by_two_revisions_one_starts_it():
    fleet = divided()
    fleet.add("x")
    fleet.folders["x"] = "b"
    fleet.push()

    fleet.reconcile("a", lag=1)
    fleet.reconcile("b", is_fresh=False)

    assert fleet.where() == {"x/t1": "a", "x/t2": "a"}


def test_a_task_that_moves_goes_on_where_it_is_and_the_other_shard_waits_until_that_has_looked():
    fleet = divided()
    fleet.move("x/t1", "y")

    fleet.reconcile("b")
    assert fleet.where() == {"x/t1": "a"}
    fleet.reconcile("a")
    fleet.reconcile("b")

    assert fleet.where() == {"y/t1": "a"}
    assert set(fleet.starts().values()) == {1}


def test_a_task_that_was_taken_and_is_not_on_record_yet_is_not_started_under_another_name():
    fleet = divided()
    fleet.add("x")
    fleet.reconcile("a", looks=False)  # it dies between the two
    fleet.all["a"].start()
    fleet.move("x/t2", "y")

    fleet.reconcile("b")
    assert fleet.where() == {"x/t1": "a"}
    fleet.reconcile("a")  # it has nothing of it: it releases it
    fleet.reconcile("b")

    assert fleet.where() == {"x/t1": "a", "y/t2": "b"}


def test_a_task_that_moves_is_told_from_those_like_it_that_were_there_before():
    fleet = divided()
    fleet.tasks |= dict.fromkeys(("y/like", "y/alike"), fleet.tasks["x/t1"])
    fleet.push()
    fleet.reconcile("a")
    fleet.move("x/t1", "y")

    for shard in ("b", "a", "a", "b"):
        fleet.reconcile(shard)

    assert fleet.where() == {"y/t1": "a", "y/like": "b", "y/alike": "b"}


@pytest.mark.parametrize("fault", ["before", "after"])
def test_a_task_that_moves_while_the_remote_does_not_answer_is_not_taken_for_removed(fault):
    fleet = divided()
    fleet.move("x/t1", "y")

    fleet.reconcile("a", fault=fault)
    assert fleet.where() == {"x/t1": "a"}
    fleet.finish("a")
    fleet.reconcile("a")
    fleet.reconcile("b")

    assert fleet.where() == {"y/t1": "a"}
    assert set(fleet.starts().values()) == {1}


def test_a_shard_that_begins_while_the_remote_does_not_answer_waits():
    fleet = divided()
    fleet.add("x")
    fleet.all["a"].start()

    assert not fleet.reconcile("a", fault="before")
    assert fleet.reconcile("a")


def test_no_shard_begins_before_the_fleet_is_divided_and_what_was_on_record_stays():
    fleet = Fleet({})
    fleet.add("x")
    fleet.reconcile(DEFAULT_SHARD)
    fleet.folders |= DIVIDED
    fleet.add("x")

    assert not fleet.reconcile("a")
    fleet.reconcile(DEFAULT_SHARD)
    fleet.reconcile("a")

    assert fleet.where() == {"x/t1": DEFAULT_SHARD, "x/t2": "a"}


def test_a_task_on_the_record_of_another_shard_is_not_taken_whoever_is_said_to_own_it():
    fleet = divided()
    lost = replace(fleet.remote.owners[-1], head="lost", tasks={})
    fleet.remote.owners.append(lost)
    fleet.folders["x"] = "b"
    fleet.push()

    fleet.reconcile("b")
    fleet.reconcile("a")

    assert fleet.where() == {"x/t1": "a"}
    assert fleet.remote.owners[-1].tasks["x/t1"].shard == "a"


def test_a_task_that_moves_takes_its_variants_along_and_one_that_is_added_goes_where_they_are():
    fleet = divided()
    fleet.add("x", variants=2)
    fleet.reconcile("a")
    fleet.move("x/t2", "y")
    fleet.variants[fleet.tasks["y/t2"]] = 3
    fleet.push()

    for shard in ("b", "a", "b", "a"):
        fleet.reconcile(shard)

    assert fleet.where() == dict.fromkeys(("x/t1", "y/t2", "y/t2@1", "y/t2@2", "y/t2@3"), "a")
    assert set(fleet.starts().values()) == {1}


def test_while_it_is_not_sure_that_the_fleet_is_divided_nothing_that_others_may_take_is_started():
    fleet = Fleet({})
    fleet.add("x")
    fleet.reconcile(DEFAULT_SHARD, looks=False)  # it cannot write its record
    fleet.folders |= DIVIDED
    fleet.push()

    fleet.reconcile(DEFAULT_SHARD, fault="after")
    fleet.reconcile("a")

    assert fleet.where() == {"x/t1": "a"}


def test_a_fleet_at_rest_moves_no_owner():
    fleet = divided()
    for shard in SHARDS:
        fleet.reconcile(shard)
    before = len(fleet.remote.owners)

    for shard in SHARDS:
        fleet.finish(shard)
        fleet.reconcile(shard)

    assert len(fleet.remote.owners) == before


class Sharded(RuleBasedStateMachine):
    """People move tasks and folders; three reconcilers look, each when it can."""

    @initialize(folders=st.sampled_from([DIVIDED, DIVIDED, {}]))
    def begin(self, folders):
        self.fleet = Fleet(folders)
        for folder in ("x", "y"):
            self.fleet.add(folder)
        self.fleet.reconcile(DEFAULT_SHARD)

    # --- What people do ---

    @rule(folder=st.sampled_from(FOLDERS), variants=st.sampled_from((0, 0, 2)))
    def add_a_task(self, folder, variants):
        self.fleet.add(folder, variants)

    @rule(data=st.data(), folder=st.sampled_from(FOLDERS))
    def move_a_task(self, data, folder):
        if self.fleet.tasks:
            self.fleet.move(data.draw(st.sampled_from(sorted(self.fleet.tasks))), folder)

    @rule(folder=st.sampled_from(FOLDERS), shard=st.sampled_from(SHARDS))
    def give_a_folder_to(self, folder, shard):
        self.fleet.folders[folder] = shard
        self.fleet.push()

    @rule(data=st.data())
    def remove_a_task(self, data):
        if self.fleet.tasks:
            del self.fleet.tasks[data.draw(st.sampled_from(sorted(self.fleet.tasks)))]
            self.fleet.push()

    # --- What reconcilers do ---

    @rule(
        shard=st.sampled_from(SHARDS),
        lag=st.integers(0, 2),
        fault=st.sampled_from(("", "", "before", "after")),
        is_fresh=st.booleans(),
        looks=st.booleans(),
        dies=st.booleans(),
    )
    def reconcile(self, shard, lag, fault, *, is_fresh, looks, dies):
        self.fleet.reconcile(shard, lag, fault, is_fresh=is_fresh, looks=looks)
        if dies:
            self.fleet.all[shard].start()

    @rule(shard=st.sampled_from(SHARDS))
    def all_goes_well(self, shard):
        self.fleet.reconcile(shard)
        self.fleet.finish(shard)

    # --- What must hold ---

    @invariant()
    def no_task_was_started_twice(self):
        starts = self.fleet.starts()
        assert all(count == 1 for count in starts.values()), starts

    @invariant()
    def every_task_on_record_is_on_one(self):
        names = Counter(name for record in self.fleet.remote.records.values() for name in record)
        assert all(count == 1 for count in names.values()), names

    @invariant()
    def a_task_and_its_variants_are_on_one_record(self):
        homes = {(spec_owner(name), shard) for name, shard in self.fleet.where().items()}
        assert len(homes) == len(dict(homes)), homes

    def teardown(self):
        """Let everybody look until nothing happens; then no task was forgotten."""
        if not hasattr(self, "fleet"):
            return
        fleet = self.fleet
        fleet.folders |= {"x": "a"}  # it is divided once there is a shard
        fleet.push()
        for _ in range(6):
            for shard in SHARDS:
                self.all_goes_well(shard)
        self.no_task_was_started_twice()
        assert set(fleet.wanted()) <= fleet.starts().keys()
        for shard, one in fleet.all.items():
            assert fleet.remote.owners[-1].names(shard) >= one.world.statuses.keys()


TestSharded = Sharded.TestCase
TestSharded.settings = settings(stateful_step_count=30)

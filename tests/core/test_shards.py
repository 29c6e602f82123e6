"""Which shard takes what, and what each sees of the specs."""

from reconciler.core.model.specs import Campaign, FleetSpec, Host, ShardSpec
from reconciler.core.model.status import Observed
from reconciler.core.names import owners_branch_of, state_branch_of
from reconciler.core.planning.preview import plan_fleet
from reconciler.core.shards import Homes, Owner, Owners, owner_changes, shard_parts, shard_view
from reconciler.core.views import ReadModel
from tests.fakes import START, make_desired, make_task

WEB = FleetSpec(shards={"web": ShardSpec(tasks=("web",), max_running=7)}, max_running=3, limits={"gpu": 1})
HOSTS = {"local": Host(name="local"), "w": Host(name="w", shard="web", slots=2)}


def desired(*tasks, **fields):
    return make_desired(*tasks, **{"fleet": WEB, "hosts": HOSTS, **fields})


def test_branches_of_shards_are_apart_from_each_other_and_from_that_of_the_fleet():
    assert state_branch_of("fleet-state", "default") == "fleet-state"
    assert state_branch_of("fleet-state", "web") == "fleet-state-web"
    assert owners_branch_of("fleet-state") == "fleet-state.shards"


def test_each_shard_takes_what_is_new_in_its_folders():
    specs = desired(make_task("web/a", "1" * 40), make_task("b", "2" * 40))

    takes = {shard: owner_changes(shard, specs, {}, Owners(), {}).take for shard in ("web", "default")}

    assert takes == {"web": {"web/a": "1" * 40}, "default": {"b": "2" * 40}}


def test_a_task_that_waits_for_another_goes_where_that_is_however_long_the_chain():
    chain = [make_task(f"web/t{n}", depends_on=[f"web/t{n - 1}"] if n else []) for n in range(400)]
    owners = Owners(tasks={"web/t0": Owner("default", "0")})

    assert Homes(desired(*chain), owners).of("web/t399") == "default"


def test_a_task_of_a_campaign_goes_where_its_others_are():
    tasks = [make_task(f"web/c/{name}") for name in "ab"]
    tasks = [task.model_copy(update={"campaign": "web/c"}) for task in tasks]
    campaigns = {"web/c": Campaign(name="web/c", tasks=("web/c/a", "web/c/b"))}
    owners = Owners(tasks={"web/c/a": Owner("default", "0")})

    assert Homes(desired(*tasks, campaigns=campaigns), owners).of("web/c/b") == "default"


def test_a_shard_sees_its_tasks_hosts_and_limits_and_a_lent_host_takes_no_new_run():
    specs = desired(make_task("web/a"), make_task("b"))

    web, rest = shard_view(specs, "web", {"web/a"}), shard_view(specs, "default", {"b"}, {"w"})

    assert (web.tasks.keys(), web.hosts.keys()) == ({"web/a"}, {"w"})
    assert (web.fleet.max_running, web.fleet.limits) == (7, {})
    assert (rest.fleet.max_running, rest.fleet.limits) == (3, {"gpu": 1})
    assert {name: host.cordon for name, host in rest.hosts.items()} == {"local": False, "w": True}


def test_a_plan_of_the_fleet_places_each_task_on_hosts_of_the_shard_that_has_it():
    specs = desired(*(make_task(f"web/{name}") for name in "abc"), make_task("d"))
    observed = Observed(probed=frozenset(HOSTS), shards={"web/a": "default"})

    placed = {name: each.chosen for name, each in plan_fleet(specs, observed, START).placements.items()}
    actions = {a.task: a.run.host for a in plan_fleet(specs, observed, START).actions if hasattr(a, "run")}

    assert {**placed, **actions} == {"web/a": "local", "web/b": "w", "web/c": "w", "d": "local"}


def test_a_fleet_without_shards_is_one_part_and_says_nothing_of_shards():
    specs, observed = make_desired(make_task("a")), Observed()

    (part,) = shard_parts(specs, observed)
    model = ReadModel(specs, observed)

    assert part[1] is specs
    assert part[2] is observed
    assert (model.task("a").shard, model.hosts()["local"].shard) == ("", "")


def test_a_task_is_shown_with_the_shard_that_has_it_or_is_to_take_it():
    model = ReadModel(desired(make_task("web/a"), make_task("web/b")), Observed(shards={"web/a": "default"}))

    assert {name: view.shard for name, view in model.tasks().items()} == {"web/a": "default", "web/b": "web"}
    assert {name: view.shard for name, view in model.hosts().items()} == {"local": "default", "w": "web"}

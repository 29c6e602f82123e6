"""Who may run next: slots, limits, money and hours."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.adapter import Adapter, Budget, Usage
from reconciler.core.conditions import conditions
from reconciler.core.lifecycle import fold
from reconciler.core.model.runs import run_key
from reconciler.core.model.specs import Desired, FleetSpec, Host, HostAdapter, Repo, ReviewBy, Task
from reconciler.core.model.status import Observed, Phase, Reason
from reconciler.core.planning import scheduler
from reconciler.core.planning.placement import place
from reconciler.core.planning.plan import StartRun, StopRun
from tests.statuses import make_status
from tests.strategies import NOW, SUCCESS, World, blob, plan

TOMORROW = NOW.replace(hour=0) + timedelta(days=1)
MIDNIGHT = "2030-01-02T00:00:00Z"
TEN = Budget(tokens=10)
LOTS = Usage(output_tokens=10)

# --- Slots -----------------------------------------------------------------


def test_a_task_may_take_several_slots():
    specs = [make_task("a", slots=2), make_task("b", slots=2), make_task("c")]

    planned = planned_for(*specs, hosts=hosts(alpha=3))

    assert started(planned) == {"a": "alpha"}
    assert planned.waiting["b"].message == "no 2 free slots on any host that fits"
    assert planned.placements["b"].rejected == {"alpha": "has 1 of the 2 slots it takes free"}
    assert planned.placements["c"].rejected == {"alpha": "is kept free for b"}


def test_a_repo_with_many_tasks_keeps_none_of_another_waiting_that_came_later():
    flood = [make_task(f"flood/{n}", repo="shop") for n in range(10)]
    late = [make_task(f"late/{n}", repo="docs") for n in range(2)]
    repos = {name: Repo(name=name, url="r.git") for name in ("docs", "shop")}
    since = {task.name: NOW - timedelta(hours=1) for task in flood} | {task.name: NOW for task in late}
    statuses = {name: created(name, created_at=at) for name, at in since.items()}

    planned = planned_for(*flood, *late, statuses=statuses, hosts=hosts(alpha=5), repos=repos)

    assert list(started(planned)) == ["flood/0", "late/0", "flood/1", "late/1", "flood/2"]


def test_live_runs_of_a_repo_count_when_slots_are_shared_and_priority_goes_first():
    tasks = [
        make_task("a/1", repo="shop"),
        make_task("b", repo="docs"),
        make_task("c", repo="shop", priority=1),
    ]
    repos = {name: Repo(name=name, url="r.git") for name in ("docs", "shop")}
    running = make_task("a/0", repo="shop")
    statuses = {"a/0": live("a/0", repo="shop")}

    planned = planned_for(running, *tasks, statuses=statuses, hosts=hosts(local=3), repos=repos)

    assert list(started(planned)) == ["c", "b"]


@pytest.mark.parametrize("order", ["first", "second"])
def test_a_task_that_no_host_can_review_keeps_no_other_waiting_and_borrows_no_host(order):
    reviewed, plain = ("a", "b") if order == "first" else ("b", "a")
    tasks = [
        make_task(reviewed, repo="shop", review_by=ReviewBy(adapter="codex")),
        make_task(plain, repo="shop"),
    ]
    alpha = Host(name="alpha", slots=2, adapters={"script": HostAdapter()})

    planned = planned_for(*tasks, hosts={"alpha": alpha}, repos={"shop": Repo(name="shop", url="r.git")})

    assert list(started(planned)) == [plain]
    assert planned.waiting[reviewed].message == "no host fits: alpha does not offer codex (review_by)"


def test_a_host_that_is_too_small_for_a_task_is_no_place_for_it():
    planned = planned_for(make_task("a", slots=3), hosts=hosts(alpha=2))

    assert planned.waiting["a"].reason is Reason.HOST
    assert planned.waiting["a"].message == "no host fits: alpha has 2 of the 3 slots it takes"


def test_live_runs_hold_the_slots_they_were_given():
    planned = planned_for(
        make_task("a", slots=1), make_task("b"), statuses={"a": live("a", slots=2)}, hosts=hosts(local=2)
    )

    assert planned.waiting["b"].message == "no free slot on any host that fits"


@pytest.mark.parametrize(("repos_of_host", "looks"), [(None, 1), (("r0",), 6)], ids=["any", "some"])
def test_hosts_are_looked_at_once_for_all_repos_unless_they_are_for_some_only(
    monkeypatch, repos_of_host, looks
):
    placed = []

    def noting(task, *args, **options):
        placed.append(task.repo)
        return place(task, *args, **options)

    monkeypatch.setattr(scheduler, "place", noting)
    specs = [make_task(f"t{n}", repo=f"r{n}") for n in range(6)]
    full = {"local": Host(name="local", slots=1, repos=repos_of_host)}
    statuses = {"busy": live("busy"), **{spec.name: created(spec.name) for spec in specs}}
    repos = {f"r{n}": Repo(name=f"r{n}", url="/r") for n in range(6)}

    planned = planned_for(make_task("busy"), *specs, statuses=statuses, hosts=full, repos=repos)

    assert len(placed) == looks
    assert planned.waiting["t0"].message == "no free slot on any host that fits"
    other = "may not work on r5" if repos_of_host else "has no free slot"
    assert planned.placements["t5"].rejected == {"local": other}


def test_free_slots_are_kept_for_a_large_task_that_came_first():
    statuses = {"small": live("small", assigned_host="alpha"), "other": live("other", assigned_host="beta")}
    specs = [make_task("large", slots=2), make_task("later"), make_task("small"), make_task("other")]

    planned = planned_for(*specs, statuses=statuses, hosts=hosts(alpha=2, beta=2))

    assert started(planned) == {"later": "beta"}
    assert planned.placements["later"].rejected == {"alpha": "is kept free for large"}


def test_several_large_tasks_of_a_kind_keep_one_host_between_them():
    statuses = {f"s{n}": live(f"s{n}", assigned_host=f"h{n}") for n in range(3)}
    specs = [make_task(name, slots=2) for name in ("x", "y", "z")]
    smalls = [make_task(name) for name in (*statuses, "zz1", "zz2")]

    planned = planned_for(*specs, *smalls, statuses=statuses, hosts=hosts(h0=2, h1=2, h2=2))

    assert started(planned) == {"zz1": "h1", "zz2": "h2"}


def test_two_kinds_of_large_tasks_keep_a_host_each():
    statuses = {f"s{n}": live(f"s{n}", assigned_host=f"h{n}") for n in range(2)}
    specs = [make_task("x", slots=2), make_task("y", slots=3), make_task("zz")]

    planned = planned_for(
        *specs, *(make_task(name) for name in statuses), statuses=statuses, hosts=hosts(h0=3, h1=3)
    )

    assert started(planned) == {"x": "h0"}
    assert planned.waiting["zz"].message == "no free slot on any host that fits"


@given(st.lists(st.integers(2, 4), min_size=1, max_size=3), st.integers(2, 4))
def test_a_large_task_starts_in_time_under_a_stream_of_small_ones(sizes, needed):
    """One small run ends at a time, and others wait for its slot: it must be kept until there are enough."""
    rooms = hosts(**{f"h{n}": max(size, needed) for n, size in enumerate(sizes)})
    room = sum(host.slots for host in rooms.values())
    world = World(make_desired(*(make_task(f"first{n:02}") for n in range(room)), hosts=rooms))
    world.look()
    push(world, make_task("large", slots=needed), *(make_task(f"small{n:02}") for n in range(4 * room)))

    for _ in range(2 * room):
        world.look()
        if world.statuses["large"].phase.is_live:
            return
        world.now += timedelta(seconds=1)
        live = [(status.since, name) for name, status in world.statuses.items() if status.phase.is_live]
        world.end(min(live)[1], SUCCESS)

    message = f"{needed} slots of {sizes} were never free at once"
    raise AssertionError(message)


# --- How many at once ------------------------------------------------------


@pytest.mark.parametrize(
    ("limited", "message"),
    [
        ({"fleet": FleetSpec(limits={"gpu": 1})}, "label gpu runs as many as it may (limits.gpu: 1)"),
        (
            {"repos": {"shop": Repo(name="shop", url="r", max_running=1)}},
            "repo shop runs as many as it may (max_running: 1)",
        ),
        (
            {"adapters": {"script": Adapter(name="script", max_running=1)}},
            "adapter script runs as many as it may (max_running: 1)",
        ),
    ],
)
def test_a_group_may_have_a_limit_of_its_own(limited, message):
    specs = [make_task(name, repo="shop", requires=("gpu",)) for name in "ab"]
    gpu = {"local": Host(name="local", slots=9, labels=("gpu",))}

    planned = planned_for(*specs, hosts=gpu, **limited)

    assert started(planned) == {"a": "local"}
    assert (planned.waiting["b"].reason, planned.waiting["b"].message) == (Reason.SLOT, message)


def test_what_waits_does_so_for_what_is_in_the_way_once_others_have_started():
    closed = {"shop": Repo(name="shop", url="r", max_running=0)}
    specs = [make_task("a"), make_task("b", repo="shop"), make_task("c")]
    desired = make_desired(*specs, repos=closed, fleet=FleetSpec(max_running=2))

    planned = plan(desired, Observed(), NOW)
    recorded, _ = fold({}, planned.events)

    assert planned.waiting["b"].message == "the fleet runs as many as it may (max_running: 2)"
    assert plan(desired, Observed(recorded), NOW).events == ()


def test_slots_kept_for_a_task_that_may_not_run_now_are_given_to_others():
    wide = {"shop": Repo(name="shop", url="r", max_running=1)}
    statuses = {"old": live("old", assigned_host="alpha")}
    specs = [
        make_task("large", slots=2, repo="shop", requires=("alpha",)),
        make_task("other", repo="shop", requires=("beta",)),
        make_task("small"),
        make_task("old"),
    ]

    planned = planned_for(*specs, statuses=statuses, hosts=hosts(alpha=2, beta=1), repos=wide)

    assert started(planned) == {"other": "beta", "small": "alpha"}
    assert planned.waiting.keys() == {"large"}


def test_a_task_outside_of_a_full_group_is_not_held_up_by_it():
    specs = [make_task("a", requires=("gpu",)), make_task("b")]

    planned = planned_for(*specs, fleet=FleetSpec(limits={"gpu": 0}))

    assert list(started(planned)) == ["b"]


# --- Money -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("holder", "scope", "message"),
    [
        (
            {"fleet": FleetSpec(daily_budget=TEN)},
            ("fleet", "fleet"),
            "the fleet has spent its daily budget of",
        ),
        (
            {"repos": {"shop": Repo(name="shop", url="r", daily_budget=TEN)}},
            ("repo", "shop"),
            "repo shop has spent its daily budget of",
        ),
        (
            {"adapters": {"script": Adapter(name="script", daily_budget=TEN)}},
            ("adapter", "script"),
            "adapter script has spent its daily budget of",
        ),
    ],
)
def test_a_daily_budget_that_is_spent_lets_nothing_start_until_tomorrow(holder, scope, message):
    spec = make_task("a", repo="shop")

    planned = planned_for(spec, spent={scope: LOTS}, **holder)

    assert started(planned) == {}
    assert planned.waiting["a"].reason is Reason.BUDGET
    assert planned.waiting["a"].message == f"{message} 10 tokens; new runs start {MIDNIGHT}"
    assert planned.due == TOMORROW


def test_a_host_without_money_is_passed_over():
    poor = Host(name="alpha", slots=9, daily_budget=TEN)
    spent = {("host", "alpha"): LOTS}

    rich = planned_for(make_task("a"), hosts={"alpha": poor, "beta": Host(name="beta")}, spent=spent)
    none = planned_for(make_task("a"), hosts={"alpha": poor}, spent=spent)

    assert started(rich) == {"a": "beta"}
    assert rich.placements["a"].rejected == {"alpha": "has spent its daily budget"}
    assert none.waiting["a"].reason is Reason.BUDGET
    assert none.waiting["a"].message == f"the daily budget is spent of alpha; new runs start {MIDNIGHT}"


def test_a_task_that_waits_for_tomorrow_needs_nobody():
    planned = planned_for(make_task("a"), fleet=FleetSpec(daily_budget=TEN), spent={("fleet", "fleet"): LOTS})

    stands = {c.type: c.status for c in conditions(make_task("a"), created("a"), planned.waiting["a"])}

    assert stands == {"Ready": False, "Progressing": True, "Stalled": False}


@pytest.mark.parametrize(
    ("spec", "usage", "spent", "reason"),
    [
        ({"over_budget": "finish", "budget": TEN}, LOTS, {("repo", "shop"): LOTS}, None),
        ({"over_budget": "stop"}, LOTS, {("repo", "shop"): Usage()}, None),
        (
            {"over_budget": "stop", "budget": TEN},
            LOTS,
            {},
            "budget spent: 10 of 10 tokens (over_budget: stop)",
        ),
        (
            {"over_budget": "stop"},
            Usage(),
            {("repo", "shop"): LOTS},
            "repo shop has spent its daily budget of 10 tokens (over_budget: stop)",
        ),
    ],
)
def test_a_spent_budget_stops_a_live_run_only_where_it_should(spec, usage, spent, reason):
    repos = {"shop": Repo(name="shop", url="r", daily_budget=TEN)}
    statuses = {"a": live("a", usage=usage, repo="shop")}

    planned = planned_for(make_task("a", repo="shop", **spec), statuses=statuses, repos=repos, spent=spent)

    assert [a.reason for a in planned.actions if isinstance(a, StopRun)] == ([reason] if reason else [])


def test_a_run_that_was_stopped_for_its_budget_is_for_a_person():
    world = World(make_desired(make_task("a", over_budget="stop", budget=Budget(tokens=20))))
    world.look()
    world.statuses = {"a": world.statuses["a"].model_copy(update={"usage": LOTS + LOTS})}

    world.run()

    assert world.statuses["a"].phase is Phase.ESCALATED


# --- Hours -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"window": ("22:00-06:00",)}, "its window opens 2030-01-01T22:00:00+01:00 (Europe/Berlin)"),
        ({"not_before": NOW + timedelta(days=200)}, "not before "),
    ],
)
def test_times_are_told_in_the_tasks_own_time_zone(fields, message):
    told = planned_for(make_task("a", timezone="Europe/Berlin", **fields)).waiting["a"].message

    assert told.startswith(message)
    assert told.endswith(" (Europe/Berlin)")


def test_outside_of_its_window_a_task_waits_and_says_until_when():
    planned = planned_for(make_task("a", window=("22:00-06:00",)))

    assert started(planned) == {}
    assert planned.waiting["a"].reason is Reason.WINDOW
    assert planned.waiting["a"].message == "its window opens 2030-01-01T22:00:00Z"
    assert planned.due == NOW.replace(hour=22)


def test_a_task_starts_when_its_window_opens_and_goes_on_after_it_closes():
    world = World(make_desired(make_task("a", window=("10:00-11:00",), timezone="Europe/Berlin")))
    world.now = NOW.replace(hour=8)

    world.look()
    waited = world.statuses["a"].waiting.reason
    world.now = NOW
    world.look()
    world.now = NOW.replace(hour=20)
    planned = world.look()

    assert waited is Reason.WINDOW
    assert world.statuses["a"].phase is Phase.ASSIGNED
    assert planned.actions == ()


def test_what_has_no_place_says_so_by_day_and_by_night():
    world = World(make_desired(make_task("a", window=("10:00-11:00",), requires=("gpu",))))

    commits = []
    for hour in range(48):
        world.now = NOW + timedelta(hours=hour)
        world.look()
        commits.append(len(world.history))

    assert world.statuses["a"].waiting.reason is Reason.HOST
    assert set(commits) == {1}


def test_a_large_task_outside_of_its_window_keeps_nothing_free():
    statuses = {"small": live("small")}
    specs = [make_task("large", slots=2, window=("22:00-06:00",)), make_task("later"), make_task("small")]

    planned = planned_for(*specs, statuses=statuses, hosts=hosts(local=2))

    assert started(planned) == {"later": "local"}


# --- Words -----------------------------------------------------------------


def make_task(name, **fields):
    fields = {"generation": blob(name), "work": f"work of {name}", "goal": f"Do {name}.", **fields}
    return Task(name=name, **fields)


def make_desired(*tasks, **fields):
    fields = {"hosts": hosts(local=2), **fields}
    return Desired(revision="r", tasks={task.name: task for task in tasks}, **fields)


def planned_for(*tasks, statuses=None, spent=None, **desired):
    return plan(make_desired(*tasks, **desired), Observed(statuses or {}, spent=spent or {}), NOW)


def hosts(**slots):
    return {name: Host(name=name, slots=count) for name, count in slots.items()}


def started(planned):
    return {a.task: a.event.holder.host for a in planned.actions if isinstance(a, StartRun)}


def push(world, *tasks):
    world.push(replace(world.desired, tasks={**world.desired.tasks, **{task.name: task for task in tasks}}))


def created(name, **fields):
    head = {"phase": Phase.CREATED, "since": NOW, "created_at": NOW}
    return make_status(**{**head, "generation": blob(name), "work": f"work of {name}", **fields})


def live(name, **fields):
    run = {"attempt": 1, "round": 1, "run": run_key(name, blob(name), 1), "assigned_host": "local"}
    return created(name, **{"phase": Phase.RUNNING, "adapter": "script", **run, **fields})

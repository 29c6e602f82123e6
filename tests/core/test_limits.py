from datetime import timedelta

import pytest

from reconciler.core.adapter import Adapter, Budget, Usage, overspent
from reconciler.core.events import Completed, Origin
from reconciler.core.lifecycle import Transition
from reconciler.core.model.specs import Desired, FleetSpec, Host, Repo, Task
from reconciler.core.model.status import Phase
from reconciler.core.planning.limits import (
    FLEET_GROUP,
    budget_scopes,
    full_group,
    groups,
    has_daily_budget,
    live_groups,
    midnight,
    next_midnight,
    spent_today,
    with_expenses,
)
from tests.statuses import make_status as new_status
from tests.strategies import NOW

TEN = Budget(tokens=10)
DESIRED = Desired(
    fleet=FleetSpec(max_running=4, limits={"gpu": 2}, daily_budget=Budget(cost_usd=5.0)),
    repos={"shop": Repo(name="shop", url="r", max_running=3, daily_budget=TEN)},
    adapters={"codex": Adapter(name="codex", max_running=1, daily_budget=TEN)},
    hosts={"alpha": Host(name="alpha", daily_budget=TEN)},
)

# --- What runs at once -----------------------------------------------------


@pytest.mark.parametrize(
    ("running", "message"),
    [
        ({}, None),
        ({FLEET_GROUP: 3, ("adapter", "codex"): 0, ("repo", "shop"): 2, ("label", "gpu"): 1}, None),
        ({FLEET_GROUP: 4}, "the fleet runs as many as it may (max_running: 4)"),
        ({("adapter", "codex"): 1}, "adapter codex runs as many as it may (max_running: 1)"),
        ({("repo", "shop"): 3}, "repo shop runs as many as it may (max_running: 3)"),
        ({("label", "gpu"): 2}, "label gpu runs as many as it may (limits.gpu: 2)"),
        ({("label", "arm64"): 99, ("repo", "docs"): 99}, None),
    ],
)
def test_a_group_that_runs_as_many_as_it_may_is_named(running, message):
    task = make_task(requires=("gpu", "arm64", "gpu"), repo="shop", adapter="codex")

    assert full_group(DESIRED, task, running) == message


def test_what_nothing_is_said_of_has_no_limit():
    task = make_task(repo="docs", adapter="script")

    assert full_group(DESIRED, task, {("repo", "docs"): 99, ("adapter", "script"): 99}) is None


def test_a_live_run_counts_where_it_was_started_as_far_as_that_is_known():
    task = make_task(requires=("gpu",), repo="docs", adapter="script")
    status = make_status(adapter="codex", repo="shop")

    assert list(groups(task)) == [FLEET_GROUP, ("adapter", "script"), ("repo", "docs"), ("label", "gpu")]
    assert list(live_groups(status.run, task)) == [
        FLEET_GROUP,
        ("adapter", "codex"),
        ("repo", "shop"),
        ("label", "gpu"),
    ]
    assert list(live_groups(make_status().run, None)) == [FLEET_GROUP]


# --- What is spent ---------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (None, None),
        (Budget(), None),
        (Budget(cost_usd=2.0, tokens=1_234_568), None),
        (Budget(cost_usd=1.5), "budget spent: 1.5 of 1.5 US dollars"),
        (Budget(tokens=1_234_567), "budget spent: 1234567 of 1234567 tokens"),
    ],
)
def test_a_budget_is_spent_when_a_limit_is_reached(budget, message):
    usage = Usage(input_tokens=1_234_567, cached_tokens=500, cost_usd=1.5)

    assert overspent(budget, usage) == message


@pytest.mark.parametrize(
    ("scope", "message"),
    [
        (FLEET_GROUP, "the fleet has spent its daily budget of 5 US dollars"),
        (("repo", "shop"), "repo shop has spent its daily budget of 10 tokens"),
        (("adapter", "codex"), "adapter codex has spent its daily budget of 10 tokens"),
        (("host", "alpha"), "host alpha has spent its daily budget of 10 tokens"),
    ],
)
def test_a_daily_budget_that_is_spent_is_named_without_how_much_was(scope, message):
    paying = list(budget_scopes("codex", "shop", "alpha"))

    assert paying == [FLEET_GROUP, ("repo", "shop"), ("adapter", "codex"), ("host", "alpha")]
    assert spent_today(DESIRED, {scope: Usage(output_tokens=11, cost_usd=5.25)}, *paying) == message
    assert spent_today(DESIRED, {scope: Usage(output_tokens=9, cost_usd=4.75)}, *paying) is None


def test_who_is_not_there_has_no_budget():
    lots = Usage(output_tokens=99)

    spent = {("repo", "docs"): lots, ("adapter", "qwen"): lots, ("host", "beta"): lots}

    assert spent_today(DESIRED, spent, *spent) is None
    assert has_daily_budget(DESIRED)
    assert not has_daily_budget(Desired())


def test_what_a_step_spent_is_the_difference_it_makes():
    before = make_status(usage=Usage(input_tokens=5, cost_usd=0.1), adapter="codex", assigned_host="alpha")
    after = before.model_copy(update={"usage": Usage(input_tokens=7, cost_usd=0.3)})
    known = {FLEET_GROUP: Usage(turns=1)}

    spent = with_expenses(known, [step(before, after), step(None, after), step(after, None)], NOW)

    rise = Usage(input_tokens=2, cost_usd=0.2)
    assert spent == {FLEET_GROUP: Usage(turns=1) + rise, ("adapter", "codex"): rise, ("host", "alpha"): rise}
    assert known == {FLEET_GROUP: Usage(turns=1)}


def test_what_was_spent_before_does_not_count():
    before = make_status()
    after = make_status(usage=Usage(input_tokens=7))

    assert with_expenses({}, [step(before, after)], NOW + timedelta(seconds=1)) == {}
    assert with_expenses({}, [step(before, before)], NOW) == {}


def test_days_are_those_of_utc():
    late = NOW.replace(hour=23, minute=59)

    assert midnight(late) == NOW.replace(hour=0)
    assert next_midnight(late) == midnight(late) + timedelta(days=1)


# --- Words -----------------------------------------------------------------


def make_task(**fields):
    return Task(name="a", generation="1" * 40, work="w", goal="Do it.", **fields)


def make_status(**fields):
    head = {"since": NOW, "created_at": NOW, "generation": "1" * 40, "work": "w"}
    return new_status(phase=Phase.RUNNING, **head, **fields)


def step(before, after):
    return Transition(
        "a",
        before,
        after,
        Completed(task="a", origin=Origin(NOW, "done")),
    )

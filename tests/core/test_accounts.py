"""
Whose credential a run uses, and what becomes of tasks when it is at its limit.
"""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from reconciler.core.adapter import Adapter, Budget, Secret, Usage
from reconciler.core.events import Assigned, Origin, QuestionAnswered
from reconciler.core.model.runs import FailureClass, Opinion, Report, Verdict
from reconciler.core.model.specs import Account, AccountSpec, Fallback, Host, Repo
from reconciler.core.model.status import OnHost, Phase, Reason
from reconciler.core.runs.accounts import after_specs
from reconciler.core.runs.command import build_run_request
from tests.fakes import make_desired, make_task
from tests.strategies import DECLARED, NOW, SUCCESS, World, failed

LATER = NOW + timedelta(hours=1)


def limit(at: datetime | None = LATER) -> Report:
    verdict = Verdict(
        outcome="failed", kind=FailureClass.QUOTA, message="usage limit", retry_at=at, session_id="s-1"
    )
    return Report(verdict=verdict)


def account(name, *adapters, **fields):
    return Account(name=name, provider="anthropic", adapters=adapters or ("claude",), **fields)


def a_world(*tasks, accounts=(), hosts=None, **fleet):
    adapters = {
        "claude": Adapter(name="claude", command=("claude", "{model}"), model=("{model}",), resume=("-r",)),
        "codex": Adapter(name="codex", command=("codex",)),
        "script": Adapter(name="script", command=("sh", "-c", "{script}")),
    }
    hosts = {name: Host(name=name, slots=slots) for name, slots in (hosts or {"local": 2}).items()}
    fleet = {"adapters": adapters, "hosts": hosts, **fleet}
    fleet["accounts"] = {each.name: each for each in accounts}
    return World(make_desired(*tasks, **fleet))


def claude_tasks(*names, **fields):
    return [make_task(name=name, adapter="claude", **fields) for name in names]


def run_of(world, name):
    return world.statuses[name].run


def waits(world):
    return {name: status.waiting for name, status in world.statuses.items() if status.waiting}


def test_a_limit_pauses_the_account_for_every_task_and_the_next_run_takes_another():
    world = a_world(
        *claude_tasks("a", "b", "c"),
        accounts=[account("one", max_running=1), account("two")],
        hosts={"local": 3},
    )
    world.look()
    assert [run_of(world, name).account for name in "abc"] == ["one", "two", "two"]

    world.end("a", limit())
    world.look()

    assert world.accounts["one"].until == LATER
    assert run_of(world, "a").account == "two"
    assert (world.statuses["a"].attempt, world.statuses["a"].failures) == (2, 0)


def test_with_one_account_all_wait_for_its_reset_and_one_run_tries_it_again():
    world = a_world(*claude_tasks("a", "b", "c"), accounts=[account("one")], hosts={"local": 1})
    world.look()
    world.end("a", limit())

    planned = world.look()

    assert {wait.reason for wait in waits(world).values()} == {Reason.QUOTA}
    assert all("account one is at its limit" in wait.message for wait in waits(world).values())
    assert planned.due == LATER
    world.now = LATER
    world.look()
    assert [name for name in "abc" if world.statuses[name].phase.is_live] == ["a"]


def test_at_the_reset_time_one_run_goes_and_the_others_follow_once_it_was_served():
    world = a_world(*claude_tasks("a", "b", "c"), accounts=[account("one")], hosts={"local": 3})
    world.look()
    world.end("a", limit())
    world.end("b", limit())
    world.end("c", limit())
    world.look()

    world.now = LATER
    world.look()
    live = [name for name in "abc" if world.statuses[name].phase.is_live]
    world.end(*live, SUCCESS)
    world.look()

    assert live == ["a"]
    assert world.accounts == {}
    assert all(world.statuses[name].phase.is_live for name in "bc")


def test_a_trial_that_is_not_refused_for_a_while_opens_the_account_to_others():
    world = a_world(*claude_tasks("a", "b"), accounts=[account("one")], hosts={"local": 3})
    world.look()
    world.end("a", limit())
    world.end("b", limit())
    world.now = LATER
    planned = world.look()
    assert not world.statuses["b"].phase.is_live

    world.now = planned.due
    world.look()

    assert planned.due == LATER + timedelta(minutes=5)
    assert world.statuses["b"].phase.is_live


def test_a_trial_that_meets_the_limit_again_waits_longer_each_time():
    world = a_world(*claude_tasks("a"), accounts=[account("one")])
    pauses = []
    for _ in range(3):
        world.look()
        world.end("a", limit(None))
        pauses.append(world.accounts["one"].until - world.now)
        world.now = world.accounts["one"].until

    assert pauses == [timedelta(minutes=15), timedelta(minutes=30), timedelta(hours=1)]


def test_runs_that_meet_the_same_limit_together_count_once():
    world = a_world(*claude_tasks("a", "b"), accounts=[account("one")], hosts={"local": 2})
    world.look()

    world.end("a", limit(None))
    world.now += timedelta(minutes=1)
    world.end("b", limit(None))

    assert world.accounts["one"].refusals == 1
    assert world.accounts["one"].until == NOW + timedelta(minutes=15)


def test_without_accounts_the_credential_that_an_adapter_has_on_a_host_is_paused():
    hosts = {"local": 1, "other": 1}
    world = a_world(*claude_tasks("a", "b", "c"), hosts=hosts)
    world.look()
    host = run_of(world, "a").holder.host

    world.end("a", limit())
    world.look()

    assert world.accounts.keys() == {f"adapter/claude/{host}"}
    assert not any(
        status.phase.is_live and status.assigned_host == host for status in world.statuses.values()
    )
    world.end("b", SUCCESS)
    world.look()
    assert world.statuses["a"].assigned_host != host or world.statuses["c"].assigned_host != host


def test_a_secret_of_the_reconciler_is_the_same_credential_on_every_host():
    adapter = Adapter(name="claude", command=("claude",), secrets={"KEY": Secret(env="KEY")})
    hosts = {"local": 1, "other": 1}
    world = a_world(*claude_tasks("a", "b", "c"), hosts=hosts, adapters={"claude": adapter})
    world.look()

    world.end("a", limit())
    world.end("b", limit())
    world.look()

    assert world.accounts.keys() == {"adapter/claude"}
    assert not any(status.phase.is_live for status in world.statuses.values())


def test_scripts_without_an_account_wait_each_for_itself():
    tasks = [make_task(name=name, adapter="script", script="true") for name in "ab"]
    world = a_world(*tasks, hosts={"local": 1})
    world.look()

    world.end("a", limit())
    world.look()

    assert world.accounts == {}
    assert world.statuses["a"].not_before == LATER
    assert world.statuses["b"].phase.is_live


def test_a_fallback_runs_what_its_accounts_cannot():
    task = make_task(name="a", adapter="claude", model="opus", fallback=Fallback(adapter="codex"))
    world = a_world(task, accounts=[account("one"), account("two", "codex")])
    world.look()

    world.end("a", limit())
    world.look()

    run = run_of(world, "a")
    assert (run.adapter, run.model, run.account) == ("codex", None, "two")
    assert "falls back to codex: account one is at its limit" in world.history[-1].event.origin.reason


def test_who_is_only_busy_is_waited_for_and_not_passed_over_by_a_fallback():
    tasks = claude_tasks("a", "b", fallback=Fallback(adapter="codex"))
    world = a_world(*tasks, accounts=[account("one", max_running=1)], hosts={"local": 2})

    world.look()

    assert world.statuses["b"].waiting.reason is Reason.SLOT
    assert "account one runs as many as it may (max_running: 1)" in world.statuses["b"].waiting.message


def test_another_model_may_be_tried_with_the_account_whose_limit_one_met():
    task = make_task(name="a", adapter="claude", model="opus", fallback=Fallback(model="haiku"))
    world = a_world(task, accounts=[account("one")])
    world.look()
    world.end("a", limit())

    world.look()
    run = run_of(world, "a")
    world.end("a", limit())
    world.look()

    assert (run.model, run.account) == ("haiku", "one")
    assert world.accounts["one"].models == ("haiku", "opus")
    assert world.statuses["a"].waiting.reason is Reason.QUOTA


def test_a_session_is_gone_on_with_by_its_own_account_only():
    world = a_world(*claude_tasks("a"), accounts=[account("one"), account("two")])
    world.look()
    world.end("a", Report(verdict=Verdict(outcome="failed", kind=FailureClass.QUOTA, session_id="s-1")))
    world.look()
    assert (run_of(world, "a").account, world.statuses["a"].session) == ("two", None)

    same = a_world(*claude_tasks("a"), accounts=[account("one")])
    same.look()
    same.end("a", limit())
    same.now = LATER
    same.look()
    assert (run_of(same, "a").account, same.statuses["a"].session.id) == ("one", "s-1")


def test_an_answered_question_waits_for_the_account_that_holds_the_session_and_then_begins_afresh():
    asks = DECLARED[0]
    world = a_world(*claude_tasks("a", "b"), accounts=[account("one"), account("two")])
    world.look()
    held = run_of(world, "a").account
    world.end("a", asks)
    answered = Origin(NOW, "answered", "person", "ada")
    world.take(QuestionAnswered(task="a", origin=answered, question="q1-1", answer="That."))
    busy = next(name for name in "ab" if run_of(world, name).account == held)
    world.accounts = {held: _limited(world, held)}

    world.look()
    assert busy
    assert world.statuses["a"].waiting.reason is Reason.QUOTA
    world.now = NOW + timedelta(minutes=31)
    world.look()

    run = run_of(world, "a")
    assert (run.key.rpartition(".")[2], run.account != held) == ("a2", True)


def _limited(world, name):
    probe = a_world(*claude_tasks("x"), accounts=[world.desired.accounts[name]])
    probe.look()
    probe.end("x", limit(NOW + timedelta(days=2)))
    return probe.accounts[name]


def test_a_changed_spec_has_an_account_tried_at_once_and_a_removed_one_is_forgotten():
    world = a_world(*claude_tasks("a"), accounts=[account("one")])
    world.look()
    world.end("a", limit(NOW + timedelta(days=5)))
    renewed = make_desired(accounts={"one": account("one", renewed=1)}, adapters=world.desired.adapters)
    gone = make_desired(accounts={}, adapters=world.desired.adapters)

    [tried] = after_specs(world.accounts, renewed, NOW)
    [forgotten] = after_specs(world.accounts, gone, NOW)

    assert tried.after.until == NOW
    assert after_specs({"one": tried.after}, renewed, NOW) == []
    assert forgotten.after is None


@pytest.mark.parametrize(
    ("kind", "is_proof"),
    [(FailureClass.AGENT, True), (FailureClass.HOST, False), (FailureClass.AUTH, False)],
)
def test_a_trial_proves_an_account_only_if_the_provider_served_it(kind, is_proof):
    world = a_world(*claude_tasks("a"), accounts=[account("one")])
    world.look()
    world.end("a", limit())
    world.now = LATER
    world.look()

    world.end("a", failed(kind))

    assert (world.accounts == {}) is is_proof


REVIEWED = {"repo": "shop", "review": "pull_request", "validation": ("true",)}


def reviewed(verdict: str = "failed", *, by: str | None = "team", **fields) -> Report:
    """Return the end of a round whose work was delivered, whatever its review came to."""
    opinion = Opinion(adapter="codex", account=by, commit="a" * 40, verdict=verdict, **fields)
    return SUCCESS.model_copy(update={"opinion": opinion})


@pytest.mark.parametrize("named", ["team", None], ids=["an account", "that which the adapter has"])
def test_a_limit_that_a_review_meets_pauses_its_account_and_no_work_is_begun_that_it_would_review(named):
    review_by = {"adapter": "codex", "account": named}
    world = a_world(
        *claude_tasks("a", "b", "c", review_by=review_by, **REVIEWED),
        make_task(name="d", adapter="codex", accounts=("team",) if named else ()),
        accounts=[account("one"), *([account(named, "codex")] if named else [])],
        hosts={"local": 1},
        repos={"shop": Repo(name="shop", url="/shop")},
    )
    paused = named or "adapter/codex/local"
    world.look()

    world.end("a", reviewed(by=named, kind=FailureClass.QUOTA, message="429", retry_at=LATER))
    planned = world.look()

    assert set(world.accounts) == {paused}
    assert world.accounts[paused].until == LATER
    waiting = waits(world)
    assert {name: waiting[name].reason for name in "bcd"} == dict.fromkeys("bcd", Reason.QUOTA)
    assert f"account {paused} is at its limit" in waiting["b"].message
    assert planned.due == LATER


def test_at_its_reset_one_work_has_the_account_of_reviews_tried_and_the_others_follow_once_it_approved():
    world = a_world(
        *claude_tasks("a", "b", "c", review_by={"adapter": "codex", "account": "team"}, **REVIEWED),
        accounts=[account("one"), account("team", "codex")],
        hosts={"local": 1},
        repos={"shop": Repo(name="shop", url="/shop")},
    )
    world.look()
    world.end("a", reviewed(kind=FailureClass.QUOTA, message="429", retry_at=LATER))
    world.now = LATER
    world.desired = replace(world.desired, hosts={"local": Host(name="local", slots=3)})

    world.look()
    live = [name for name in "bc" if world.statuses[name].phase.is_live]
    world.end(*live, reviewed("approve"))
    world.look()

    assert live == ["b"]
    assert world.accounts == {}
    assert world.statuses["c"].phase.is_live


@pytest.mark.parametrize(
    "fields",
    [{"weekly_budget": Budget(cost_usd=1.0)}, {"desired": "suspended"}],
    ids=["spent its week", "suspended"],
)
def test_no_work_is_begun_while_the_account_of_its_review_is_closed_by_its_spec(fields):
    world = a_world(
        *claude_tasks("a", review_by={"adapter": "codex", "account": "team"}, **REVIEWED),
        accounts=[account("one"), account("team", "codex", max_running=1, **fields)],
        repos={"shop": Repo(name="shop", url="/shop")},
    )
    world.week = {("account", "team"): Usage(cost_usd=2.0)}

    world.look()

    assert "account team" in waits(world)["a"].message
    assert "(review_by)" in waits(world)["a"].message


def test_a_reviewer_without_a_login_takes_down_no_more_than_three_tasks():
    world = a_world(
        *claude_tasks(*"abcd", review_by={"adapter": "codex", "account": "team"}, **REVIEWED),
        accounts=[account("one"), account("team", "codex")],
        hosts={"local": 1},
        repos={"shop": Repo(name="shop", url="/shop")},
    )
    for name in "abc":
        world.look()
        refused = reviewed(kind=FailureClass.AUTH, message="no login", usage=Usage(seconds=1.0))
        world.end(name, refused)

    world.look()

    assert world.accounts["team"].state == "failing"
    assert waits(world)["d"].reason is Reason.CIRCUIT


def test_an_account_is_used_on_its_hosts_only():
    hosts = {"local": 1, "other": 1}
    world = a_world(*claude_tasks("a", "b"), accounts=[account("one", hosts=("other",))], hosts=hosts)

    world.look()

    live = {name: status for name, status in world.statuses.items() if status.phase.is_live}
    assert [status.assigned_host for status in live.values()] == ["other"]


def test_accounts_that_are_named_are_taken_in_their_order():
    world = a_world(
        *claude_tasks("a", "b", accounts=("two", "one")), accounts=[account("one"), account("two")]
    )

    world.look()

    assert {run_of(world, name).account for name in "ab" if run_of(world, name)} == {"two"}


@pytest.mark.parametrize(
    ("pace", "spent", "until"),
    [("free", 699, None), ("free", 700, 7), ("even", 99, None), ("even", 100, 1)],
)
def test_a_weekly_budget_is_spent_at_its_pace(pace, spent, until):
    monday = datetime(2030, 1, 7, 9, 0, tzinfo=NOW.tzinfo)
    one = account("one", weekly_budget=Budget(tokens=700), pace=pace)
    world = a_world(*claude_tasks("a"), accounts=[one])
    world.now = monday
    world.week = {("account", "one"): Usage(output_tokens=spent)}

    world.look()

    wait = world.statuses["a"].waiting
    assert (wait and wait.reason) == (Reason.BUDGET if until else None)
    if until:
        assert wait.message.endswith(f"new runs start 2030-01-{7 + until:02}T00:00:00Z")


def test_a_run_has_the_secrets_of_its_account_over_those_of_the_adapter():
    secrets = {"KEY": Secret(file="/run/one"), "OTHER": Secret(env="OTHER")}
    adapter = Adapter(name="claude", command=("claude",), secrets={"KEY": Secret(env="KEY")})
    accounts = [account("one", secrets=secrets)]
    world = a_world(*claude_tasks("a"), accounts=accounts, adapters={"claude": adapter})
    world.look()

    request = build_run_request(world.desired.tasks["a"], world.statuses["a"], world.desired)

    assert request.adapter.secrets == secrets


def test_the_event_names_the_account_and_a_worker_has_none():
    world = a_world(*claude_tasks("a"), accounts=[account("one")])
    world.look()

    assigned = [step.event for step in world.history if isinstance(step.event, Assigned)]

    assert [event.account for event in assigned] == ["one"]
    assert isinstance(run_of(world, "a").holder, OnHost)
    assert world.statuses["a"].phase is Phase.ASSIGNED


def test_an_account_has_no_other_defaults_than_that_nothing_limits_it():
    spec = AccountSpec(provider="anthropic", adapters=("claude",))

    assert (spec.max_running, spec.daily_budget, spec.weekly_budget, spec.pace) == (None, None, None, "free")


# --- Circuits ----------------------------------------------------------------


def broken(kind=FailureClass.AUTH, seconds=1.0, message="Invalid API key") -> Report:
    usage = Usage(seconds=seconds)
    return Report(verdict=Verdict(outcome="failed", kind=kind, message=message, usage=usage))


def after_three_failures(kind=FailureClass.AUTH, **fields):
    """Return a world in which the runs of three tasks in a row failed with the one account, and two wait."""
    world = a_world(*claude_tasks(*"abcde"), accounts=[account("one")], hosts={"local": 1}, **fields)
    for _ in range(3):
        world.look()
        [name] = [name for name, status in world.statuses.items() if status.phase.is_live]
        world.end(name, broken(kind))
    return world


def live(world):
    return [name for name, status in world.statuses.items() if status.phase.is_live]


@pytest.mark.parametrize("kind", [FailureClass.AUTH, FailureClass.CONFIG])
def test_an_account_with_which_three_tasks_in_a_row_fail_takes_down_no_more(kind):
    world = after_three_failures(kind)

    world.look()

    assert live(world) == []
    assert world.accounts["one"].state == "failing"
    assert {wait.reason for wait in waits(world).values()} == {Reason.CIRCUIT}
    assert waits(world)["d"].message == (
        f"account one is out of service: runs of 3 tasks in a row failed ({kind}): Invalid API key; "
        "one run tries it 2030-01-01T09:01:00Z"
    )


def test_one_run_tries_it_after_a_while_however_long_it_takes_and_is_followed_once_it_was_served():
    world = after_three_failures()
    world.now += timedelta(minutes=1)
    world.look()
    assert len(live(world)) == 1

    world.now += timedelta(hours=1)
    world.look()
    assert len(live(world)) == 1

    world.end(live(world)[0], SUCCESS)
    world.look()
    assert (world.accounts, len(live(world))) == ({}, 1)


def test_a_try_that_fails_doubles_the_wait_and_the_first_reason_stays():
    world = after_three_failures()
    world.now += timedelta(minutes=1)
    world.look()

    world.end(live(world)[0], broken(message="still"))
    world.look()

    assert (live(world), world.accounts["one"].refusals) == ([], 2)
    assert world.accounts["one"].until == world.now + timedelta(minutes=2)
    assert world.accounts["one"].reason.endswith("Invalid API key")


def test_one_task_that_fails_again_and_again_says_nothing_of_its_account():
    world = a_world(*claude_tasks("a", retries=9), accounts=[account("one")], hosts={"local": 1})
    for _ in range(5):
        world.look()
        world.end("a", broken(FailureClass.STALL))
        world.now += timedelta(hours=1)

    assert (world.statuses["a"].failures, world.accounts) == (5, {})


@pytest.mark.parametrize(
    "between", [SUCCESS, failed(FailureClass.AGENT)], ids=["success", "a failure of the agent's own"]
)
def test_a_run_that_was_served_in_between_begins_the_count_anew(between):
    world = a_world(*claude_tasks(*"abcde"), accounts=[account("one")], hosts={"local": 1})
    for report in (broken(), broken(), between, broken()):
        world.look()
        world.end(live(world)[0], report)

    assert world.accounts == {}


def test_what_failed_before_the_cli_was_started_says_nothing_of_its_account():
    world = a_world(*claude_tasks(*"abcd"), accounts=[account("one")], hosts={"local": 1})
    for _ in range(3):
        world.look()
        world.end(live(world)[0], broken(FailureClass.CONFIG, seconds=0.0))

    assert world.accounts == {}


def test_another_account_or_the_fallback_takes_over_from_one_that_fails():
    world = after_three_failures()
    world.desired = replace(world.desired, accounts={**world.desired.accounts, "two": account("two")})
    world.look()
    assert run_of(world, live(world)[0]).account == "two"


def test_an_adapter_without_accounts_goes_out_of_service_by_the_credential_that_it_has():
    world = a_world(*claude_tasks(*"abcd"), hosts={"near": 1, "far": 1})
    for _ in range(6):
        world.look()
        for name in live(world)[:1]:
            world.end(name, broken())

    assert set(world.accounts) <= {"adapter/claude/near", "adapter/claude/far"}
    assert live(world) == []

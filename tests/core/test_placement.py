import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.adapter import Adapter, Budget, Usage, Version
from reconciler.core.model.runs import FailureClass
from reconciler.core.model.specs import Desired, Host, HostAdapter, ReviewBy, Task
from reconciler.core.model.status import Failure, HostCli, HostStatus, Observed, Phase, Reason, Waiting
from reconciler.core.planning.accounts import AccountPool
from reconciler.core.planning.placement import place, slots_in_use
from tests.fakes import make_desired, make_task
from tests.statuses import make_status
from tests.strategies import HOSTS, NOW, desireds, observeds, statuses, tasks

CLI_TROUBLE = "has no codex that will do: 1.0 is not in >=2"


@given(st.data())
def test_every_host_is_either_ranked_or_rejected_with_a_reason(data):
    desired = data.draw(desireds())
    observed = data.draw(observeds(desired))
    task = data.draw(tasks("a"))
    live = data.draw(st.dictionaries(st.sampled_from(HOSTS), st.integers(0, 4)))

    accounts = AccountPool(desired, observed, (), NOW)
    status = data.draw(st.none() | statuses(task))
    placement = place(task, status, desired, observed, live, accounts=accounts)

    ranked = [candidate.host for candidate in placement.ranked]
    assert {*ranked} | placement.rejected.keys() == desired.hosts.keys()
    assert not {*ranked} & placement.rejected.keys()
    assert all(placement.rejected.values())
    assert {*placement.full} <= placement.rejected.keys()
    assert placement.chosen == (ranked[0] if ranked else None)


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ({"labels": ()}, "lacks gpu"),
        ({"adapters": {"codex": HostAdapter()}}, "does not offer script"),
        ({"cordon": True}, "is cordoned"),
        ({"desired": "suspended"}, "is suspended"),
        ({"drain": True}, "is draining"),
        ({"slots": 0}, "has no slots"),
        ({"slots": 1}, "has no free slot"),
        ({"cordon": True, "labels": ()}, "lacks gpu, is cordoned"),
        ({"repos": ("docs",)}, "may not work on shop"),
        ({"repos": ()}, "may not work on shop"),
        ({"address": "alpha.example.org"}, "has not answered a probe yet"),
        ({"adapters": {"script": HostAdapter()}}, "does not offer codex (review_by)"),
    ],
)
def test_a_host_that_does_not_fit_says_why(host, why):
    alpha = Host(**{"name": "alpha", "labels": ("gpu",), **host})

    reviewer = {"review_by": ReviewBy(adapter="codex")} if "review_by" in why else {}

    placement = placed(alpha, requires=("gpu",), repo="shop", live={"alpha": 1}, **reviewer)

    assert placement.rejected == {"alpha": why}
    assert placement.full == (("alpha",) if why == "has no free slot" else ())


def test_a_host_that_cannot_be_reached_is_rejected():
    observed = Observed(hosts={"alpha": HostStatus(reachable=False, since=NOW, message="refused")})

    placement = placed(Host(name="alpha"), Host(name="beta"), observed=observed)

    assert placement.chosen == "beta"
    assert placement.rejected == {"alpha": "is not reachable"}


@pytest.mark.parametrize(
    ("address", "clis", "why"),
    [
        ("far.example.org", {}, "has not been asked for codex yet"),
        ("far.example.org", {"codex": HostCli(ok=True)}, None),
        (None, {}, None),
        (None, {"codex": HostCli(ok=False, message="1.0 is not in >=2")}, CLI_TROUBLE),
    ],
)
def test_a_host_needs_a_cli_that_will_do(address, clis, why):
    alpha = Host(name="alpha", address=address)
    observed = Observed(hosts={"alpha": HostStatus(reachable=True, since=NOW, adapters=clis)})
    asked = {"codex": Adapter(name="codex", version=Version(command=("codex", "--version")))}

    placement = placed(alpha, observed=observed, adapter="codex", adapters=asked)
    any_version = placed(alpha, observed=observed, adapter="codex", adapters={"codex": Adapter(name="codex")})

    assert placement.rejected == ({"alpha": why} if why else {})
    assert any_version.chosen == "alpha"


def test_a_host_that_is_away_has_no_other_faults():
    far = Host(name="alpha", address="far.example.org")
    observed = Observed(hosts={"alpha": HostStatus(reachable=False, since=NOW)})
    asked = {"codex": Adapter(name="codex", version=Version(command=("codex", "--version")))}

    placement = placed(far, observed=observed, adapter="codex", adapters=asked)

    assert placement.rejected == {"alpha": "is not reachable"}


def test_a_host_that_answers_and_cannot_start_runs_gets_none_but_one_to_try():
    known = {"alpha": HostStatus(reachable=True, since=NOW, fault="git is missing")}

    assert placed(Host(name="alpha"), observed=Observed(hosts=known)).rejected == {
        "alpha": "cannot start runs: git is missing"
    }
    check_result = Observed(hosts=known, half_open=frozenset({"alpha"}))
    assert placed(Host(name="alpha"), observed=check_result).chosen == "alpha"


def test_a_task_without_a_repo_may_run_on_every_host():
    assert placed(Host(name="alpha", repos=("docs",))).chosen == "alpha"


def test_free_slots_may_be_kept_for_another_task():
    placement = placed(Host(name="alpha"), kept={"alpha": "large"})

    assert placement.rejected == {"alpha": "is kept free for large"}
    assert placement.full == ("alpha",)


def test_a_host_without_money_is_told_from_a_full_one():
    alpha = Host(name="alpha", daily_budget=Budget(tokens=1))
    observed = Observed(spent={("host", "alpha"): Usage(output_tokens=1)})

    placement = placed(alpha, observed=observed, live={"alpha": 2})

    assert placement.rejected == {"alpha": "has spent its daily budget"}
    assert (placement.full, placement.spent) == ((), ("alpha",))


def test_only_live_runs_take_slots():
    statuses = {
        "a": tried(on="alpha", phase=Phase.RUNNING, slots=3),
        "b": tried(on="alpha", phase=Phase.ASSIGNED),
        "c": tried(on="beta", phase=Phase.COMPLETED, slots=2),
    }

    assert slots_in_use(statuses, Observed()) == {"alpha": 4}


def test_a_run_whose_delivery_waits_takes_no_slot():
    waiting = Waiting(reason=Reason.DELIVERY, message="waits for an answer of the repo", since=NOW)
    delivers = tried(on="alpha", phase=Phase.RUNNING, slots=3, waiting=waiting)
    statuses = {"a": delivers, "b": tried(on="alpha", phase=Phase.RUNNING)}

    assert slots_in_use(statuses, Observed()) == {"alpha": 1}


def test_a_host_can_be_required_by_its_name():
    assert placed(Host(name="alpha", slots=9), Host(name="beta"), requires=("beta",)).chosen == "beta"


def test_most_free_slots_win_and_the_weight_counts():
    alpha, beta = Host(name="alpha", slots=4), Host(name="beta", slots=3, weight=2.0)

    assert placed(alpha, Host(name="beta", slots=3)).chosen == "alpha"
    assert placed(alpha, beta).chosen == "beta"
    assert placed(alpha, beta, live={"beta": 2}).chosen == "alpha"


def test_a_loaded_host_counts_less():
    hosts = Host(name="alpha", slots=4), Host(name="beta", slots=3)

    assert placed(*hosts, observed=Observed(load={"alpha": 2.0})).chosen == "beta"


def test_equal_hosts_are_taken_by_name():
    assert placed(Host(name="beta"), Host(name="alpha")).chosen == "alpha"


def test_a_wish_counts_more_than_a_few_slots_but_excludes_nobody():
    hosts = Host(name="alpha", slots=4), Host(name="beta", slots=1, labels=("ssd",))

    assert placed(*hosts, prefer=("ssd",)).chosen == "beta"
    assert placed(*hosts, prefer=("beta",)).chosen == "beta"
    assert placed(*hosts, prefer=("ssd",), live={"beta": 1}).chosen == "alpha"


def test_the_session_is_gone_on_with_where_it_is():
    hosts = Host(name="alpha", slots=9), Host(name="beta", slots=1)

    assert placed(*hosts, status=tried(on="beta", session_id="s")).chosen == "beta"
    assert placed(*hosts, status=tried(on="beta", session_id="s", adapter="codex")).chosen == "alpha"


def test_a_retry_goes_away_from_the_host_that_failed_if_it_can():
    failure = Failure(kind=FailureClass.STALL, message="silent")
    status = tried(on="alpha", failure=failure)

    assert placed(Host(name="alpha", slots=9), Host(name="beta", slots=1), status=status).chosen == "beta"
    assert placed(Host(name="alpha", slots=9), status=status).chosen == "alpha"


def test_a_quota_is_not_the_fault_of_the_host():
    failure = Failure(kind=FailureClass.QUOTA, message="limit")
    status = tried(on="alpha", failure=failure)

    assert placed(Host(name="alpha", slots=9), Host(name="beta", slots=1), status=status).chosen == "alpha"


def test_the_score_can_be_checked_by_hand():
    host = Host(name="alpha", slots=3, weight=2.0, labels=("ssd",))
    status = tried(on="alpha", session_id="s")
    observed = Observed(load={"alpha": 0.25})

    placement = placed(host, prefer=("ssd",), status=status, observed=observed, live={"alpha": 1})

    best = placement.ranked[0]
    assert best.score == 2 * 2.0 - 0.25 + 10 + 100
    assert best.why == "2 free, weight 2, load 0.25, preferred: ssd, holds the session"


# --- Words -----------------------------------------------------------------


def placed(*hosts, status=None, observed=None, live=None, adapters=None, kept=None, **task):
    spec = Task(name="a", generation="1" * 40, work="w", goal="Do it.", **task)
    desired = Desired(revision="r", hosts={host.name: host for host in hosts}, adapters=adapters or {})
    observed = observed or Observed()
    accounts = AccountPool(desired, observed, (), NOW)
    return place(spec, status, desired, observed, live or {}, kept=kept or {}, accounts=accounts)


def tried(on, **fields):
    """Return the status of a task that was tried once on a host."""
    head = {"phase": Phase.CREATED, "since": NOW, "created_at": NOW, "generation": "1" * 40, "work": "w"}
    run = {"attempt": 1, "round": 1, "run": "a.g1.a1", "assigned_host": on, "adapter": "script"}
    return make_status(**{**head, **run, **fields})


def test_a_host_that_cannot_be_thought_about_keeps_no_task_from_the_others():
    odd = Host(name="odd", address="odd").model_copy(update={"labels": None})
    task = make_task("a", requires="near")
    desired = make_desired(task, hosts={"odd": odd, "near": Host(name="near")})

    accounts = AccountPool(desired, Observed(), (), NOW)
    found = place(task, None, desired, Observed(), {}, accounts=accounts)

    assert found.chosen == "near"
    assert "a bug of the reconciler" in found.rejected["odd"]

from datetime import timedelta

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from reconciler.core.adapter import Budget, Usage
from reconciler.core.events import (
    BranchTouched,
    Cancelled,
    Completed,
    Escalated,
    Failed,
    FixRequested,
    Released,
    Retried,
    RunEnded,
    Submitted,
)
from reconciler.core.lifecycle import transition
from reconciler.core.model.runs import Check, Claim, FailureClass, Report, Verdict
from reconciler.core.model.specs import DesiredState, FleetSpec, Task
from reconciler.core.model.status import Phase
from reconciler.core.runs.accounts import QUOTA_LEAST, QUOTA_MOST, QUOTA_WAIT
from reconciler.core.runs.decide import (
    UNCOUNTED,
    backoff,
    host_lost,
    next_event,
)
from reconciler.core.runs.leases import lease_lost
from tests.statuses import make_status
from tests.strategies import NOW, PULL, RED, SUCCESS, TAKEN, failed, reports, statuses, tasks

FLEET = FleetSpec(backoff=timedelta(seconds=10), backoff_cap=timedelta(minutes=10))
RUN = "a.g11111111.a1"
AGAIN = [FailureClass.AGENT, FailureClass.TIMEOUT, FailureClass.STALL, FailureClass.HOST]


@given(st.data(), reports())
def test_every_end_of_a_current_round_is_an_event_that_can_happen(data, report):
    task = data.draw(st.one_of(st.none(), tasks("a")))
    phase = data.draw(st.sampled_from([Phase.ASSIGNED, Phase.RUNNING]))
    live = data.draw(statuses(task or make_task(), phase))

    event = meaning(task, live, report)

    after = transition(live, event)
    assert after.phase is not Phase.ASSIGNED
    assert event.origin.reason
    assert event.origin.at == NOW


@given(st.data(), reports())
def test_a_round_that_is_not_the_current_one_means_nothing(data, report):
    live = data.draw(statuses(make_task()))
    run, number = data.draw(st.tuples(st.sampled_from([live.run_key, RUN]), st.integers(0, 2)))
    assume(not live.phase.is_live or (run, number) != live.run.round_key)

    assert next_event(make_task(), live, ended(report, run=run or "", number=number), NOW, FLEET) is None


def test_a_validated_round_completes_a_task_without_review():
    event = meaning(make_task(review="none"), running(), SUCCESS)

    assert isinstance(event, Completed)
    assert (event.report, event.origin.cause) == (SUCCESS, "host")


def test_a_validated_round_is_submitted_where_review_is_asked_for():
    assert isinstance(meaning(make_task(review="merge"), running(), SUCCESS), Submitted)


def test_a_success_without_a_commit_cannot_be_reviewed():
    empty = SUCCESS.model_copy(update={"commits": 0})

    event = meaning(make_task(review="merge"), running(), empty)

    assert isinstance(event, Retried)
    assert "nothing to review" in event.failure.message


def test_a_failed_validation_is_handed_back_as_often_as_the_task_allows():
    task = make_task(fix_attempts=2, retries=1)

    events = [meaning(task, running(round=n), RED) for n in (1, 2, 3)]

    assert [type(event) for event in events] == [FixRequested, FixRequested, Retried]
    assert "make test" in events[0].origin.reason
    assert events[2].failure.kind is FailureClass.VALIDATION


def test_a_spent_budget_ends_the_rounds():
    task = make_task(budget=Budget(tokens=10))

    event = meaning(task, running(usage=Usage(output_tokens=10)), RED)

    assert isinstance(event, Escalated)
    assert event.failure.kind is FailureClass.BUDGET
    assert event.report == RED


def test_work_for_a_pull_request_is_submitted_if_there_is_any():
    task = make_task(review="pull_request")

    assert isinstance(meaning(task, running(), SUCCESS), Submitted)
    nothing = meaning(task, running(), SUCCESS.model_copy(update={"commits": 0}))
    assert isinstance(nothing, Retried)
    assert "changed nothing" in nothing.failure.message


@pytest.mark.parametrize("head", [SUCCESS.head_commit, None])
def test_a_round_of_changes_that_changes_nothing_has_failed(head):
    task, status = make_task(review="pull_request"), running(review_count=1, head_commit=SUCCESS.head_commit)

    event = meaning(task, status, SUCCESS.model_copy(update={"head_commit": head}))

    assert isinstance(event, Retried)
    assert event.counts
    assert "changes were requested, but the agent made none" in event.failure.message
    assert isinstance(meaning(task, running(review_count=1, head_commit="0" * 40), SUCCESS), Submitted)


def test_a_branch_that_somebody_else_pushed_to_meanwhile_is_left_to_them():
    task = make_task(review="pull_request")

    event = meaning(task, running(review_count=1, pull_request=PULL, branch_name="task/a"), TAKEN)

    assert isinstance(event, BranchTouched)
    assert (event.head, event.report) == ("d" * 40, TAKEN)
    assert "somebody pushed dddddddd to task/a" in event.origin.reason
    assert isinstance(meaning(task, running(), TAKEN), Failed)
    assert isinstance(meaning(task, running(removed=True, pull_request=PULL), TAKEN), Cancelled)


def test_nothing_is_handed_back_to_an_outside_agent_that_has_left():
    task = make_task(fix_attempts=2, retries=1)

    event = meaning(task, running(assigned_agent="jeeves", request_key="k1", assigned_host=None), RED)

    assert isinstance(event, Retried)
    assert event.failure.kind is FailureClass.VALIDATION


def test_what_an_agent_gives_back_is_offered_again_later_and_counts_as_no_failure():
    claim = Claim(outcome="released", result="too hard")
    back = failed(FailureClass.CANCELLED)

    held = running(assigned_agent="jeeves", request_key="k1", assigned_host=None, claim=claim)
    event = meaning(make_task(retries=0), held, back)

    assert isinstance(event, Retried)
    assert (event.counts, event.failure.kind) == (False, FailureClass.CANCELLED)
    assert NOW < event.not_before <= NOW + FLEET.backoff
    assert "agent jeeves gave it back" in event.origin.reason
    removed = held.model_copy(update={"removed": True, "on_delete": "finish"})
    assert isinstance(meaning(make_task(), removed, back), Cancelled)


@pytest.mark.parametrize("kind", [*AGAIN, None])
def test_a_failed_attempt_is_tried_again_after_a_while(kind):
    event = meaning(make_task(retries=1), running(), failed(kind))

    assert isinstance(event, Retried)
    assert event.counts
    assert event.failure.kind is (kind or FailureClass.AGENT)
    assert NOW + timedelta(seconds=5) <= event.not_before <= NOW + timedelta(seconds=10)


@pytest.mark.parametrize("kind", [*AGAIN, FailureClass.VALIDATION])
def test_the_last_attempt_that_fails_fails_the_task(kind):
    event = meaning(make_task(retries=1, fix_attempts=0), running(failures=1), failed(kind))

    assert isinstance(event, Failed)
    assert event.failure.kind is kind


@pytest.mark.parametrize("kind", [FailureClass.AUTH, FailureClass.CONFIG])
def test_what_only_a_person_can_mend_is_not_tried_again(kind):
    event = meaning(make_task(retries=5), running(), failed(kind))

    assert isinstance(event, Failed)


def test_a_budget_that_the_agent_hit_is_for_a_person():
    event = meaning(make_task(retries=5), running(), failed(FailureClass.BUDGET))

    assert isinstance(event, Escalated)


@pytest.mark.parametrize(
    ("told", "until"),
    [
        (None, NOW + QUOTA_WAIT),
        (NOW + timedelta(hours=3), NOW + timedelta(hours=3)),
        (NOW - timedelta(hours=3), NOW + QUOTA_LEAST),
    ],
)
def test_a_quota_waits_until_it_is_full_again_and_counts_as_no_failure(told, until):
    verdict = Verdict(outcome="failed", kind=FailureClass.QUOTA, message="limit reached", retry_at=told)

    event = meaning(make_task(retries=0), running(), Report(verdict=verdict))

    assert isinstance(event, Retried)
    assert (event.counts, event.not_before) == (False, until)


@pytest.mark.parametrize("report", [SUCCESS, RED, failed(FailureClass.CANCELLED), failed(FailureClass.AUTH)])
@pytest.mark.parametrize("how", ["cancelled", "removed"])
def test_what_comes_too_late_is_cancelled(how, report):
    task = make_task(desired=DesiredState.CANCELLED) if how == "cancelled" else None

    event = meaning(task, running(removed=how == "removed"), report)

    assert isinstance(event, Cancelled)
    assert event.report == report


@pytest.mark.parametrize("preference", [DesiredState.SUSPENDED, DesiredState.ACTIVE])
def test_a_stopped_run_is_let_go_of_where_the_task_is_still_wanted(preference):
    event = meaning(make_task(desired=preference), running(), failed(FailureClass.CANCELLED))

    assert isinstance(event, Released)


def test_a_run_that_was_quicker_than_its_stop_counts_as_what_it_is():
    assert isinstance(meaning(make_task(desired=DesiredState.SUSPENDED), running(), SUCCESS), Completed)


def test_a_removed_task_may_finish_but_is_not_tried_again():
    removed = running(removed=True, on_delete="finish")

    assert isinstance(meaning(None, removed, SUCCESS), Completed)
    assert isinstance(meaning(None, removed, RED), Failed)
    assert isinstance(meaning(None, removed, failed(FailureClass.AGENT)), Failed)
    assert isinstance(meaning(None, removed, failed(FailureClass.CANCELLED)), Cancelled)


def test_a_run_whose_spec_is_gone_is_judged_by_the_last_one_it_had():
    task = make_task(review="merge", retries=5, fix_attempts=5)
    removed = running(removed=True, on_delete="finish")
    delivered = SUCCESS.model_copy(update={"commits": 1})

    assert isinstance(meaning(task, removed, delivered), Submitted)
    assert isinstance(meaning(task, removed, RED), Failed)
    assert isinstance(meaning(task, running(), RED), FixRequested)


def test_a_run_that_was_lost_with_its_host_says_nothing_of_what_it_did():
    task = make_task(disconnect="retry", retries=1)

    event = host_lost(task, running(), "host alpha has not answered since noon", NOW, FLEET)

    assert isinstance(event, Retried)
    assert (event.task, event.run, event.report) == ("a", RUN, None)
    assert (event.origin.cause, event.failure.message) == ("clock", "host alpha has not answered since noon")
    assert NOW + timedelta(seconds=5) <= event.not_before <= NOW + timedelta(seconds=10)
    after = transition(running(checks=RED.checks, last_activity_at=NOW), event)
    assert (after.checks, after.last_activity_at, after.failures) == (RED.checks, NOW, 1)


@pytest.mark.parametrize(
    ("task", "status", "kind"),
    [
        ({"disconnect": "fail", "retries": 9}, {}, Failed),
        ({"disconnect": "retry", "retries": 1}, {"failures": 1}, Failed),
        ({"disconnect": "retry", "desired": DesiredState.CANCELLED}, {}, Cancelled),
        ({"disconnect": "retry", "desired": DesiredState.SUSPENDED}, {}, Retried),
    ],
)
def test_a_lost_run_ends_as_its_task_says(task, status, kind):
    event = host_lost(make_task(**task), running(**status), "silent", NOW, FLEET)

    assert type(event) is kind


def test_a_reason_is_one_harmless_line():
    verdict = Verdict(outcome="failed", message="\x1b[31mno\nway\x1b[0m")

    event = meaning(make_task(), running(), Report(verdict=verdict))

    assert event.origin.reason == event.failure.message == "no way"


def test_a_failure_without_words_still_says_its_class():
    event = meaning(make_task(), running(), Report(verdict=Verdict(outcome="failed")))

    assert event.failure.message == "the run failed (agent)"


# --- Backoff and budget ----------------------------------------------------

waits = st.timedeltas(timedelta(0), timedelta(days=30))


@given(st.integers(1, 10_000), waits, waits, st.text())
def test_a_wait_doubles_up_to_its_cap_and_gives_back_at_most_half(attempt, base, cap, key):
    wait = backoff(attempt, base=base, cap=cap, key=key)

    longest = min(base.total_seconds() * 2 ** min(attempt - 1, 64), cap.total_seconds())
    assert longest / 2 - 0.001 <= wait.total_seconds() <= longest + 0.001
    assert wait == backoff(attempt, base=base, cap=cap, key=key)
    assert wait.microseconds % 1000 == 0


def test_tasks_that_failed_together_do_not_come_back_together():
    base, cap = timedelta(seconds=10), timedelta(minutes=10)

    waits = {backoff(3, base=base, cap=cap, key=f"t{n}.g1.a1") for n in range(20)}

    assert len(waits) > 15


def test_there_is_no_wait_before_the_first_attempt():
    with pytest.raises(ValueError, match="at least 1"):
        backoff(0, base=timedelta(1), cap=timedelta(1), key="")


# --- Words -----------------------------------------------------------------


def make_task(**fields):
    return Task(name="a", generation="1" * 40, work="w", goal="Do it.", **fields)


def running(**fields):
    return make_status(
        **{
            "phase": Phase.RUNNING,
            "since": NOW,
            "created_at": NOW,
            "generation": "1" * 40,
            "work": "w",
            "attempt": 1,
            "round": 1,
            "run": RUN,
            "assigned_host": "alpha",
            **fields,
        }
    )


def ended(report, run=RUN, number=1):
    return RunEnded(task="a", run=run, round=number, at=NOW, report=report)


def meaning(task, status, report):
    return next_event(task, status, ended(report, *status.run.round_key), NOW, FLEET)


# --- Ends that count as no failure -----------------------------------------


def until_it_settles(task, status, report, most=500):
    """Let every attempt end alike; return how many there were, how it settled, and the waits."""
    waits = []
    for attempts in range(1, most):
        event = meaning(task, status, report)
        status = transition(status, event)
        if status.phase is not Phase.CREATED:
            return attempts, event, waits
        waits.append((status.not_before or NOW) - NOW)
        status = running(uncounted=status.uncounted, failures=status.failures, repo=status.run.repo)
    raise AssertionError("it goes on for ever")


@pytest.mark.parametrize("kind", list(FailureClass))
def test_no_way_to_fail_repeats_for_ever(kind):
    attempts, event, _ = until_it_settles(make_task(retries=2, fix_attempts=0), running(), failed(kind))

    assert attempts <= UNCOUNTED + 1
    assert isinstance(event, Failed | Escalated)
    assert event.failure.kind is kind


ways_to_fail = st.tuples(st.sampled_from(FailureClass), st.booleans(), st.booleans())


@given(st.lists(ways_to_fail, min_size=1, max_size=6))
@example([(FailureClass.HOST, False, True)])
@example([(FailureClass.HOST, False, True), (FailureClass.QUOTA, True, True)])
def test_no_order_of_ways_to_fail_repeats_for_ever(ways):
    """A run starts or not, is seen alive or not, and fails in one way after the other, over and over."""
    task, status = make_task(retries=2, fix_attempts=0), running()
    for number in range((task.retries + 1) * (UNCOUNTED + 1) + 1):
        kind, is_started, is_seen = ways[number % len(ways)]
        if is_seen:
            status = status.model_copy(update={"failed_starts": 0})
        report = failed(kind).model_copy(update={"started": is_started})
        status = transition(status, meaning(task, status, report))
        if status.phase is not Phase.CREATED:
            return
        kept = {name: getattr(status, name) for name in ("uncounted", "failures", "failed_starts")}
        status = running(**kept)
    raise AssertionError("it goes on for ever")


def test_a_quota_that_is_never_full_again_fails_with_words_and_waits_longer_each_time():
    report = failed(FailureClass.QUOTA)

    attempts, event, waits = until_it_settles(make_task(retries=0), running(), report)

    assert attempts == UNCOUNTED + 1
    assert "21 attempts in a row" in event.origin.reason
    assert "reconciler retry a" in event.origin.reason
    assert waits[:3] == [QUOTA_WAIT, 2 * QUOTA_WAIT, 4 * QUOTA_WAIT]
    assert max(waits) == QUOTA_MOST


def test_an_attempt_that_counts_or_succeeds_begins_the_row_anew():
    held = running(uncounted=7)

    assert transition(held, meaning(make_task(), held, failed(FailureClass.QUOTA))).uncounted == 8
    assert transition(held, meaning(make_task(), held, failed(FailureClass.AGENT))).uncounted == 0
    assert transition(held, meaning(make_task(), held, SUCCESS)).uncounted == 0


def test_a_stop_that_the_spec_asks_for_is_not_one_of_the_row():
    held = running(uncounted=UNCOUNTED)
    stopped = failed(FailureClass.CANCELLED)

    wanted = meaning(make_task(desired=DesiredState.SUSPENDED), held, stopped)

    assert isinstance(wanted, Released)
    assert transition(held, wanted).uncounted == 0
    assert isinstance(meaning(make_task(), held, stopped), Failed)


def test_a_task_that_an_agent_always_gives_back_or_loses_ends_too():
    claim = Claim(outcome="released", result="too hard")
    held = running(
        assigned_agent="jeeves", request_key="k1", assigned_host=None, claim=claim, uncounted=UNCOUNTED
    )

    back = meaning(make_task(), held, failed(FailureClass.CANCELLED))
    lost = lease_lost("a", make_task(disconnect="wait"), held, NOW, FLEET)

    assert isinstance(back, Failed)
    assert isinstance(lost, Failed)
    assert isinstance(lease_lost("a", make_task(disconnect="wait"), running(), NOW, FLEET), Retried)


# --- A run that changed nothing --------------------------------------------

EMPTY = SUCCESS.model_copy(update={"commits": 0, "head_commit": None, "checks": ()})
GREEN = EMPTY.model_copy(update={"checks": (Check(command="make test", exit_code=0, seconds=1),)})


def test_a_run_that_changed_nothing_and_was_not_validated_has_failed():
    event = meaning(make_task(retries=1), running(repo="shop"), EMPTY)

    assert isinstance(event, Retried)
    assert (event.counts, event.failure.kind) == (True, FailureClass.AGENT)
    assert "allow_empty: true" in event.failure.message


@pytest.mark.parametrize(
    ("task", "status", "report", "message"),
    [
        ({"allow_empty": True}, {"repo": "shop"}, EMPTY, "done, nothing changed: no validation asked for"),
        ({"allow_empty": True, "review": "merge"}, {"repo": "shop"}, EMPTY, "done, nothing changed"),
        ({}, {"repo": "shop"}, GREEN, "done, nothing changed: validated, no review asked for"),
        ({}, {}, EMPTY, "done: no validation asked for, no review asked for"),
    ],
)
def test_what_it_is_completed_for_is_said_in_true_words(task, status, report, message):
    event = meaning(make_task(**task), running(**status), report)

    assert isinstance(event, Completed)
    assert event.origin.reason.startswith(message)


def test_changes_that_were_asked_for_are_not_made_by_allowing_none():
    task = make_task(allow_empty=True, review="pull_request")
    held = running(review_count=1, head_commit="e" * 40, repo="shop")

    assert isinstance(meaning(task, held, EMPTY), Retried)

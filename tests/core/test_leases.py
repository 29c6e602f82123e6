from collections import Counter
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.adapter import Usage
from reconciler.core.errors import LeaseLost, NotFound, NotNow, Problem, SpecError
from reconciler.core.events import Assigned, Cancelled, Completed, Failed, Retried, Started, WorkerReport
from reconciler.core.lifecycle import transition
from reconciler.core.model.runs import Claim
from reconciler.core.model.specs import Agent, Desired, DesiredState, ExecutionMode, FleetSpec
from reconciler.core.model.status import LeaseRequest, Observed, Phase, Reason
from reconciler.core.runs.command import assignment
from reconciler.core.runs.leases import heartbeat, holder, is_to_check, lease_end, lease_lost, report_event
from tests.fakes import make_task
from tests.statuses import make_status as new_status
from tests.strategies import NOW, plan

LABELS = ("gpu", "big", "arm")
labels = st.lists(st.sampled_from(LABELS), unique=True, max_size=3).map(tuple)
agents = st.dictionaries(
    st.sampled_from(["jeeves", "hermes", "third"]),
    st.builds(
        dict,
        capabilities=labels,
        slots=st.integers(1, 3),
        desired=st.sampled_from(["active", "active", "suspended"]),
    ),
    min_size=1,
).map(lambda found: {name: Agent(name=name, **fields) for name, fields in found.items()})


@st.composite
def offices(draw):
    """Return a fleet of pulled tasks, some of them held, and bids for the others."""
    known = draw(agents)
    tasks = [
        make_task(
            f"t{number}",
            execution_mode=ExecutionMode.HTTP_PULL,
            requires=draw(labels),
            priority=draw(st.integers(-2, 2)),
            desired=draw(st.sampled_from([DesiredState.ACTIVE, DesiredState.ACTIVE, DesiredState.SUSPENDED])),
        )
        for number in range(draw(st.integers(0, 8)))
    ]
    statuses = {}
    for task in tasks:
        holding = draw(st.none() | st.sampled_from(sorted(known)))
        claim = draw(st.none() | st.just(Claim(outcome="completed"))) if holding else None
        if holding:
            statuses[task.name] = make_status(
                task,
                Phase.RUNNING,
                assigned_agent=holding,
                request_key="k0",
                attempt=1,
                run=f"{task.name}.g.a1",
                claim=claim,
            )
    lease_requests = draw(
        st.lists(
            st.builds(
                LeaseRequest,
                agent=st.sampled_from(sorted(known)),
                request_key=st.uuids().map(str),
                capabilities=labels,
            ),
            max_size=5,
        )
    )
    desired = Desired(
        revision="1" * 40,
        tasks={task.name: task for task in tasks},
        agents=known,
        fleet=FleetSpec(max_running=draw(st.none() | st.integers(0, 6))),
    )
    return desired, Observed(statuses=statuses, lease_requests=tuple(lease_requests))


@given(offices())
def test_tasks_are_handed_out_within_the_rules(office):
    desired, observed = office

    given_out = [event for event in plan(desired, observed, NOW).events if isinstance(event, Assigned)]

    held = Counter(s.assigned_agent for s in observed.statuses.values() if s.claim is None)
    live = sum(status.phase.is_live for status in observed.statuses.values())
    keys = {
        (lease_request.agent, lease_request.request_key): lease_request
        for lease_request in observed.lease_requests
    }
    assert len({(event.holder.agent, event.holder.request_key) for event in given_out}) == len(given_out)
    for event in given_out:
        lease_request, agent = (
            keys[event.holder.agent, event.holder.request_key],
            desired.agents[event.holder.agent],
        )
        has = (
            {*agent.capabilities} & {*lease_request.capabilities}
            if lease_request.capabilities
            else {*agent.capabilities}
        )
        assert set(event.spec.requires) <= has
        assert (agent.desired, event.spec.desired) == ("active", DesiredState.ACTIVE)
        held[event.holder.agent] += 1
    assert all(
        held[name] <= max(agent.slots, held[name] - _new(given_out, name))
        for name, agent in desired.agents.items()
    )
    assert desired.fleet.max_running is None or live + len(given_out) <= max(desired.fleet.max_running, live)


def _new(events, agent):
    return sum(event.holder.agent == agent for event in events)


@given(offices())
def test_nobody_waits_for_what_could_be_handed_out(office):
    desired, observed = office
    planned = plan(desired, observed, NOW)
    given_out = {event.task: event for event in planned.events if isinstance(event, Assigned)}

    left = [
        lease_request
        for lease_request in observed.lease_requests
        if all(lease_request.request_key != e.holder.request_key for e in given_out.values())
    ]
    held = Counter(s.assigned_agent for s in observed.statuses.values() if s.claim is None)
    held.update(event.holder.agent for event in given_out.values())

    for lease_request in left:
        agent = desired.agents[lease_request.agent]
        if agent.desired == "suspended" or held[lease_request.agent] >= agent.slots:
            continue
        has = (
            {*agent.capabilities} & {*lease_request.capabilities}
            if lease_request.capabilities
            else {*agent.capabilities}
        )
        waiting = [n for n, wait in planned.waiting.items() if wait.reason is Reason.AGENT]
        assert not [name for name in waiting if set(desired.tasks[name].requires) <= has]


def test_the_agent_that_is_preferred_gets_the_task_before_the_one_that_came_first():
    known = {"first": Agent(name="first"), "better": Agent(name="better", capabilities=("big",))}
    task = make_task("a", execution_mode=ExecutionMode.HTTP_PULL, prefer=("big",))
    desired = Desired(revision="1" * 40, tasks={"a": task}, agents=known)
    lease_requests = (
        LeaseRequest(agent="first", request_key="1"),
        LeaseRequest(agent="better", request_key="2"),
    )

    planned = plan(desired, Observed(lease_requests=lease_requests), NOW)

    assert [event.holder.agent for event in planned.events if isinstance(event, Assigned)] == ["better"]


# --- Leases ----------------------------------------------------------------


def held_status(**fields):
    task = make_task("a", execution_mode=ExecutionMode.HTTP_PULL)
    fields = {"assigned_agent": "jeeves", "request_key": "k1", "attempt": 1, "run": "a.g.a1", **fields}
    return make_status(task, fields.pop("phase", Phase.RUNNING), **fields)


def test_a_lease_ends_with_silence_or_with_the_time_that_a_task_may_take():
    task = make_task("a", timeout="1h")
    soon = NOW + timedelta(seconds=5)

    assert lease_end(held_status(), task, {"a.g.a1": soon}) == soon
    assert lease_end(held_status(since=NOW), task, {}) == NOW + timedelta(hours=1)
    assert lease_end(held_status(), None, {}) is None
    assert lease_end(held_status(claim=Claim(outcome="completed")), task, {"a.g.a1": soon}) is None


def test_three_heartbeats_fit_into_a_lease():
    assert heartbeat(FleetSpec()) == timedelta(seconds=20)


@pytest.mark.parametrize(
    ("spec", "status", "event", "counts"),
    [
        ({}, {}, Retried, False),
        ({"disconnect": "retry", "retries": 1}, {}, Retried, True),
        ({"disconnect": "retry", "retries": 1}, {"failures": 1}, Failed, None),
        ({"disconnect": "fail", "retries": 1}, {}, Failed, None),
        ({"timeout": "1s", "retries": 1}, {}, Retried, True),
        ({"timeout": "1s", "retries": 0}, {}, Failed, None),
        ({"desired": "cancelled"}, {}, Cancelled, None),
        (None, {"removed": True}, Cancelled, None),
        (None, {"removed": True, "on_delete": "finish"}, Retried, False),
    ],
)
def test_what_a_lost_lease_costs_is_the_policy_of_the_task(spec, status, event, counts):
    task = make_task("a", **spec) if spec is not None else None
    held = held_status(since=NOW - timedelta(minutes=1), **status)

    lost = lease_lost("a", task, held, NOW, FleetSpec())

    assert type(lost) is event
    assert getattr(lost, "counts", None) == counts


def test_waits_grow_while_agents_keep_losing_a_task():
    def wait(attempt):
        held = held_status(attempt=attempt, since=NOW)
        return lease_lost("a", make_task("a"), held, NOW, FleetSpec()).not_before - NOW

    assert wait(1) < wait(3) < wait(6) <= FleetSpec().backoff_cap


# --- Words -----------------------------------------------------------------


def make_status(task, phase, **fields):
    return new_status(
        **{
            "phase": phase,
            "since": NOW,
            "created_at": NOW,
            "generation": task.generation,
            "work": task.work,
            **fields,
        }
    )


def said(claim=None):
    return WorkerReport(task="a", agent="jeeves", epoch=1, at=NOW, claim=claim)


def test_usage_that_an_agent_tells_is_counted():
    task = make_task("a", execution_mode=ExecutionMode.HTTP_PULL)
    usage = Usage(input_tokens=5)

    _, judged = report_event(
        task, held_status(), said(Claim(outcome="completed", usage=usage)), NOW, FleetSpec()
    )

    assert judged.report.verdict.usage == usage


def test_a_claim_is_looked_at_where_there_is_something_to_look_at():
    claim = Claim(outcome="review_pending", result="done")
    task = make_task("a")

    (to_check,) = report_event(task, held_status(repo="web"), said(claim), NOW, FleetSpec())
    taken, judged = report_event(task, held_status(), said(claim), NOW, FleetSpec())

    assert (to_check.claim, to_check.waiting.reason) == (claim, Reason.CHECK)
    assert (taken.claim, taken.waiting) == (claim, None)
    assert isinstance(judged, Completed)


def test_a_claim_that_is_being_checked_is_looked_at_though_its_spec_is_gone():
    claim = Claim(outcome="completed")

    assert is_to_check(held_status(repo="web", claim=claim))
    assert not is_to_check(held_status(claim=claim))
    assert not is_to_check(held_status(repo="web", claim=claim, phase=Phase.REVIEW_PENDING))


def test_a_word_about_work_that_is_done_or_lost_comes_too_late():
    task, done = make_task("a"), Claim(outcome="completed")

    with pytest.raises(NotNow, match="that is being checked"):
        report_event(task, held_status(claim=done), said(), NOW, FleetSpec())
    with pytest.raises(NotNow, match="that is done"):
        report_event(task, held_status(phase=Phase.COMPLETED, claim=done), said(), NOW, FleetSpec())
    with pytest.raises(LeaseLost, match="dequeue another"):
        report_event(task, held_status(phase=Phase.CREATED), said(), NOW, FleetSpec())


def test_a_spec_that_is_lost_does_not_lose_the_word_of_its_agent():
    events = report_event(None, held_status(), said(Claim(outcome="completed")), NOW, FleetSpec())

    assert len(events) == 2


def test_who_asks_for_a_task_that_is_not_theirs_learns_why():
    task, pulled_task = make_task("a"), make_task("b", execution_mode=ExecutionMode.HTTP_PULL)
    tasks, statuses = {"a": task, "b": pulled_task}, {"b": held_status(run="b.g.a1")}

    with pytest.raises(NotFound, match="no task 'nothing'"):
        holder(tasks, statuses, "nothing", "jeeves", 1)
    with pytest.raises(NotNow, match="task a is run by the reconciler"):
        holder(tasks, statuses, "a", "jeeves", 1)
    with pytest.raises(LeaseLost, match="task b is not yours"):
        holder(tasks, statuses, "b", "other", 1)
    with pytest.raises(LeaseLost, match="at epoch 1, and yours was 2"):
        holder(tasks, statuses, "b", "jeeves", 2)


def test_the_first_word_begins_the_work_and_the_next_ones_say_nothing_new():
    task = make_task("a")

    (began,) = report_event(task, held_status(phase=Phase.ASSIGNED), said(), NOW, FleetSpec())

    assert isinstance(began, Started)
    assert report_event(task, held_status(), said(), NOW, FleetSpec()) == ()


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        (Claim(outcome="failed", result="no tests\nat all"), "no tests at all"),
        (Claim(outcome="failed"), "the agent says that it failed"),
        (Claim(outcome="released"), "the agent gave it back"),
    ],
)
def test_a_claim_that_nothing_came_of_it_is_believed(claim, message):
    reported, retried = report_event(
        make_task("a", retries=1), held_status(repo="web"), said(claim), NOW, FleetSpec()
    )

    assert (reported.claim, reported.waiting) == (claim, None)
    assert isinstance(retried, Retried)
    assert retried.counts is (claim.outcome == "failed")
    assert retried.failure.message == message


def test_the_same_claim_again_is_no_news():
    claim = Claim(outcome="completed")

    assert report_event(make_task("a"), held_status(claim=claim), said(claim), NOW, FleetSpec()) == ()


@pytest.mark.parametrize("is_broken", [False, True])
def test_a_plan_takes_a_task_from_an_agent_that_is_silent(is_broken):
    task = make_task("a", execution_mode=ExecutionMode.HTTP_PULL)
    broken = {"a": (Problem("specs/tasks/a.yaml", 3, 1, "unknown field"),)} if is_broken else {}
    desired = Desired(revision="1" * 40, tasks={"a": task}, broken=broken)
    status = held_status(generation=task.generation, work=task.work)
    ends = NOW + timedelta(minutes=1)
    observed = Observed({"a": status}, leases={status.run_key: ends})

    before, after = plan(desired, observed, NOW), plan(desired, observed, ends)

    assert (before.events, before.due) == ((), ends)
    assert next(type(event) for event in after.events) is Retried


def test_what_waits_to_be_checked_is_waited_for_without_another_commit():
    task = make_task("a", execution_mode=ExecutionMode.HTTP_PULL, repo="web")
    desired = Desired(revision="1" * 40, tasks={"a": task})
    status = held_status(generation=task.generation, work=task.work, repo="web", phase=Phase.ASSIGNED)
    (reported,) = report_event(task, status, said(Claim(outcome="completed")), NOW, FleetSpec())
    checked = transition(status, reported)

    planned = plan(desired, Observed({"a": checked}), NOW + timedelta(days=1))

    assert checked.waiting.reason is Reason.CHECK
    assert planned.waiting == {"a": checked.waiting}
    assert (planned.events, planned.due) == ((), None)


def test_nothing_is_handed_out_or_checked_without_its_repo():
    desired = Desired(revision="1" * 40)

    with pytest.raises(SpecError, match="needs repo 'web'"):
        assignment(make_task("a", repo="web"), held_status(), desired)


def test_the_holder_is_found_by_the_name_that_its_task_had():
    moved = held_status(run="a.g.a1")

    assert holder({}, {"b": moved}, "a", "jeeves", 1) == ("b", moved)
    with pytest.raises(LeaseLost):
        holder(
            {},
            {"b": moved.model_copy(update={"run": moved.run.model_copy(update={"key": "b.g.a1"})})},
            "b",
            "other",
            1,
        )


def test_the_holder_is_found_though_another_task_has_the_old_name_by_now():
    moved, new = (
        held_status(run="a.g.a1"),
        held_status(phase=Phase.CREATED, run=None, assigned_agent=None, request_key=None),
    )

    assert holder({}, {"a": new, "b": moved}, "a", "jeeves", 1) == ("b", moved)


def test_a_task_is_not_handed_out_as_long_as_nobody_could_validate_it():
    task = make_task(
        "a", execution_mode=ExecutionMode.HTTP_PULL, repo="web", validation="true", validate_on="gone"
    )
    known = {"jeeves": Agent(name="jeeves")}
    desired = Desired(revision="1" * 40, tasks={"a": task}, agents=known)

    planned = plan(desired, Observed(lease_requests=(LeaseRequest(agent="jeeves", request_key="1"),)), NOW)

    assert planned.waiting["a"].message == "`validate_on`: there is no host gone"
    with pytest.raises(SpecError, match="needs host 'gone'"):
        assignment(task, held_status(), desired)


def test_a_task_that_no_agent_asks_for_says_the_same_by_day_and_by_night():
    task = make_task("a", execution_mode=ExecutionMode.HTTP_PULL, window="09:30-10:00")
    desired = Desired(revision="1" * 40, tasks={"a": task}, agents={"jeeves": Agent(name="jeeves")})
    asked = Observed(lease_requests=(LeaseRequest(agent="jeeves", request_key="1"),))
    opening = NOW + timedelta(minutes=30)

    closed, opened = plan(desired, asked, NOW), plan(desired, Observed(), opening)

    assert closed.waiting["a"].message == "waits for an agent to take it over HTTP, in its window"
    assert closed.waiting["a"].message == opened.waiting["a"].message
    assert closed.due == opening
    assert [
        event.holder.agent for event in plan(desired, asked, opening).events if isinstance(event, Assigned)
    ] == ["jeeves"]

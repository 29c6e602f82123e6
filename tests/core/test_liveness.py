"""Hosts that fell silent or are drained, and the runs on them."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given

from reconciler.core.errors import Problem
from reconciler.core.events import Cancelled, Failed, Restored, Retried
from reconciler.core.model.runs import FailureClass, run_key
from reconciler.core.model.specs import Desired, DesiredState, FleetSpec, Host, Task
from reconciler.core.model.status import HostStatus, Observed, Phase, Reason
from reconciler.core.planning.plan import FollowRun, StopRun
from tests.statuses import make_status
from tests.strategies import NOW, World, blob, fleets, plan

LOST_AFTER = timedelta(minutes=30)
SILENT = NOW - LOST_AFTER
MESSAGE = "host alpha has not answered since 2030-01-01T08:30:00Z"
RUN = run_key("a", blob("a"), 1)
FOLLOWED = frozenset({(RUN, 1)})
ASKED = frozenset({"alpha"})

# --- Lost hosts ------------------------------------------------------------


def test_a_run_on_a_lost_host_is_waited_for_unless_told_otherwise():
    planned = planned_for(make_task())

    assert planned.waiting["a"].reason is Reason.HOST
    assert planned.waiting["a"].message == MESSAGE
    assert actions(planned) == ["WaitingChanged"]


def test_of_a_run_whose_agent_is_over_what_is_left_waits_for_a_lost_host_without_a_slot():
    planned = planned_for(make_task(), agent_over=frozenset({live().run.key}))

    waiting = planned.waiting["a"]
    assert waiting.reason is Reason.DELIVERY
    assert waiting.message.startswith("host alpha has not answered since ")
    assert planned_for(make_task()).waiting["a"].reason is Reason.HOST


def test_until_a_host_is_lost_its_runs_go_on_and_the_plan_says_when_to_look_again():
    planned = planned_for(make_task(disconnect="retry"), since=SILENT + timedelta(seconds=1))

    assert planned.actions == ()
    assert planned.due == NOW + timedelta(seconds=1)


def test_a_run_on_a_lost_host_is_tried_again_elsewhere_and_the_old_one_stopped():
    planned = planned_for(make_task(disconnect="retry"))

    retried, waiting = planned.events
    assert isinstance(retried, Retried)
    assert (retried.failure.kind, retried.origin.reason, retried.counts) == (FailureClass.HOST, MESSAGE, True)
    assert waiting.waiting.reason is Reason.BACKOFF
    assert StopRun("a", RUN, 1, MESSAGE) in planned.actions
    assert planned.waiting["a"].reason is Reason.BACKOFF


@pytest.mark.parametrize(("disconnect", "failures"), [("fail", 0), ("retry", 1)])
def test_a_task_fails_with_its_host_if_told_so_or_tried_often_enough(disconnect, failures):
    planned = planned_for(make_task(disconnect=disconnect, retries=1), failures=failures)

    (event,) = planned.events
    assert isinstance(event, Failed)
    assert (event.failure.kind, event.report) == (FailureClass.HOST, None)
    assert StopRun("a", RUN, 1, MESSAGE) in planned.actions


def test_a_cancelled_task_does_not_wait_for_a_lost_host():
    planned = planned_for(make_task(disconnect="retry", desired=DesiredState.CANCELLED))

    assert isinstance(planned.events[0], Cancelled)


def test_a_spec_that_comes_back_counts_at_once():
    planned = planned_for(make_task(disconnect="fail"), removed=True)

    assert [type(event) for event in planned.events] == [Restored, Failed]


def test_a_failure_with_the_host_may_be_answered_by_a_newer_spec_at_once():
    planned = planned_for(make_task(disconnect="fail", generation=blob("new")))

    assert actions(planned) == ["Failed", "Renewed", "StopRun", "Start"]


@pytest.mark.parametrize(
    "change",
    [
        {"probed": frozenset()},
        {"hosts": {}},
        {"hosts": {"alpha": HostStatus(reachable=True, since=SILENT)}},
    ],
)
def test_only_a_host_that_was_asked_in_vain_is_lost(change):
    planned = planned_for(make_task(disconnect="retry"), **change)

    assert planned.events == ()
    assert planned.waiting == {}


def test_without_a_spec_that_says_more_a_lost_run_is_waited_for():
    problem = Problem("specs/tasks/a.yaml", 3, 1, "unknown field")

    broken = planned_for(make_task(disconnect="fail"), broken={"a": (problem,)})
    removed = planned_for(make_task(), tasks={}, removed=True, on_delete="finish")

    assert broken.waiting["a"].message == removed.waiting["a"].message == MESSAGE
    assert actions(broken) == actions(removed) == ["WaitingChanged"]


def test_a_host_that_answers_again_ends_the_waiting():
    status = live()
    waiting = planned_for(make_task(), status=status).waiting["a"]

    planned = planned_for(
        make_task(),
        status=status.model_copy(update={"waiting": waiting}),
        hosts={"alpha": HostStatus(reachable=True, since=NOW)},
    )

    assert planned.waiting == {}
    assert planned.events[0].waiting is None


@pytest.mark.parametrize(("phase", "says"), [(Phase.ASSIGNED, True), (Phase.RUNNING, False)])
def test_a_run_that_cannot_be_started_says_why_at_once_and_in_the_same_words(phase, says):
    away = HostStatus(reachable=False, since=NOW, message="nothing listens there")

    planned = planned_for(make_task(), status=live(phase=phase), hosts={"alpha": away})

    message = planned.waiting["a"].message if says else ""
    assert message == ("host alpha does not answer: nothing listens there" if says else "")
    assert (planned.waiting == {}) is not says


def test_the_next_attempt_goes_elsewhere():
    rooms = {"alpha": Host(name="alpha", slots=9), "beta": Host(name="beta")}
    world = World(Desired(revision="r", tasks={"a": make_task(disconnect="retry")}, hosts=rooms))
    world.look()
    before = world.statuses["a"]

    world.hosts = {"alpha": HostStatus(reachable=False, since=SILENT)}
    world.probed = frozenset({"alpha"})
    world.look()
    world.now += timedelta(minutes=1)
    world.look()

    after = world.statuses["a"]
    assert (before.assigned_host, after.assigned_host) == ("alpha", "beta")
    assert (after.attempt, after.failures) == (2, 1)


@given(fleets())
def test_whatever_goes_on_without_its_run_has_it_stopped(fleet):
    desired, observed = fleet

    planned = plan(desired, observed, NOW)

    left = {e.task: e.run for e in planned.events if isinstance(e, Retried | Failed)}
    stopped = {a.task: a.run for a in planned.actions if isinstance(a, StopRun)}
    assert left.items() <= stopped.items()
    for name in left:
        host = observed.statuses[name].assigned_host if name in observed.statuses else None
        assert host is None or not observed.hosts[host].reachable


# --- Drained hosts ---------------------------------------------------------


def test_what_still_runs_when_a_drain_is_over_goes_on_elsewhere():
    rooms = {"alpha": Host(name="alpha", slots=9), "beta": Host(name="beta")}
    world = World(Desired(revision="r", tasks={"a": make_task()}, hosts=rooms))
    world.look()

    draining = Host(name="alpha", drain=True, drain_until=NOW + timedelta(minutes=5))
    world.push(replace(world.desired, hosts={**rooms, "alpha": draining}))
    waiting = world.look()
    world.now += timedelta(minutes=5)
    stopping = world.look()
    world.work(stopping)
    world.look()

    status = world.statuses["a"]
    assert (waiting.actions, waiting.due) == ((), NOW + timedelta(minutes=5))
    assert [action.reason for action in stopping.actions] == [
        "host alpha is drained (drain_until: 2030-01-01T09:05:00Z)"
    ]
    assert (status.assigned_host, status.attempt, status.failures) == ("beta", 2, 0)


@pytest.mark.parametrize("host", [{"drain": True}, {"drain_until": SILENT}])
def test_without_both_drain_and_a_deadline_live_runs_may_end(host):
    rooms = {"alpha": Host(name="alpha", **host)}
    desired = Desired(revision="r", tasks={"a": make_task()}, hosts=rooms)

    planned = plan(desired, Observed({"a": live()}), NOW)

    assert [type(action) for action in planned.actions] == [FollowRun]


def test_a_deadline_counts_for_runs_whose_specs_are_broken_or_held_too():
    rooms = {"alpha": Host(name="alpha", drain=True, drain_until=NOW)}
    problem = Problem("specs/tasks/a.yaml", 3, 1, "unknown field")
    broken = Desired(revision="r", tasks={"a": make_task()}, hosts=rooms, broken={"a": (problem,)})
    held = Desired(revision="r", hosts=rooms)

    for desired in (broken, held):
        planned = plan(desired, Observed({"a": live()}), NOW)

        assert [type(action) for action in planned.actions if not hasattr(action, "event")] == [StopRun]


# --- Words -----------------------------------------------------------------


def make_task(**fields):
    return Task(**{"name": "a", "generation": blob("a"), "work": "work of a", "goal": "Do a.", **fields})


def live(**fields):
    head = {"phase": Phase.RUNNING, "since": SILENT, "created_at": SILENT}
    run = {"attempt": 1, "round": 1, "run": RUN, "assigned_host": "alpha", "adapter": "script"}
    return make_status(**{**head, **run, "generation": blob("a"), "work": "work of a", **fields})


def planned_for(
    task,
    *,
    since=SILENT,
    hosts=None,
    probed=ASKED,
    agent_over=frozenset(),
    broken=None,
    tasks=None,
    status=None,
    **fields,
):
    """Return the plan for a task that is live on a host that does not answer, with another host beside it."""
    desired = Desired(
        revision="r",
        fleet=FleetSpec(lost_after=LOST_AFTER),
        tasks={"a": task} if tasks is None else tasks,
        hosts={name: Host(name=name) for name in ("alpha", "beta")},
        broken=broken or {},
    )
    silent = {"alpha": HostStatus(reachable=False, since=since)}
    probes = silent if hosts is None else hosts
    observed = Observed(
        {"a": status or live(**fields)}, probes, followed=FOLLOWED, probed=probed, agent_over=agent_over
    )
    return plan(desired, observed, NOW)


def actions(planned):
    """Return what a plan does, a word each."""
    return [type(getattr(a, "event", a)).__name__.replace("Assigned", "Start") for a in planned.actions]

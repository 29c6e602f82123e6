from dataclasses import replace
from datetime import timedelta

import pytest

from reconciler.core.adapter import Budget, Usage
from reconciler.core.errors import Problem
from reconciler.core.events import (
    Archived,
    Cancelled,
    Created,
    Escalated,
    Removed,
    Renamed,
    Renewed,
    Restored,
    SpecChanged,
    SpecRemoved,
    WaitingChanged,
)
from reconciler.core.lifecycle import fold
from reconciler.core.model.runs import FailureClass, Report, run_key
from reconciler.core.model.specs import Agent, Desired, DesiredState, ExecutionMode, FleetSpec, Host, Task
from reconciler.core.model.status import Failure, Observed, Phase, Reason, Waiting
from reconciler.core.planning.plan import FollowRun, RecordEvent, StartRun, StopRun, prune_digest
from tests.statuses import changed, make_status
from tests.strategies import NOW, STOPPED, SUCCESS, World, blob, failed, plan

SOON = NOW + timedelta(minutes=7)
LOCAL = {"local": Host(name="local")}

# --- New tasks -------------------------------------------------------------


def test_a_new_task_is_created_and_started_in_one_plan():
    planned = planned_for(make_task("a"))

    created, start = planned.actions
    assert isinstance(created.event, Created)
    assert (start.task, start.event.run, start.event.holder.host) == (
        "a",
        run_key("a", blob("a"), 1),
        "local",
    )
    assert start.reason == "attempt 1 on local: 2 free, weight 1"
    assert planned.placements["a"] == start.placement
    assert planned.events == (created.event, start.event)


def test_a_new_task_that_waits_is_created_with_what_it_waits_for():
    planned = planned_for(make_task("a", desired=DesiredState.SUSPENDED))

    (created,) = planned.actions
    assert created.event.waiting == Waiting(
        reason=Reason.SUSPENDED, message="suspended in the spec", since=NOW
    )
    assert planned.waiting == {"a": created.event.waiting}


def test_a_task_cancelled_from_the_start_never_runs():
    assert kinds(planned_for(make_task("a", desired=DesiredState.CANCELLED))) == [Created, Cancelled]


def test_the_highest_priority_starts_first_then_the_oldest_then_by_name():
    specs = [make_task(name) for name in "dcba"] + [make_task("z", priority=5)]
    statuses = {"d": created("d", created_at=NOW - timedelta(days=1))}

    planned = planned_for(*specs, statuses=statuses, hosts={"local": Host(name="local", slots=4)})

    assert [a.task for a in planned.actions if isinstance(a, StartRun)] == ["z", "d", "a", "b"]
    assert planned.waiting["c"].reason is Reason.SLOT


# --- What tasks wait for ---------------------------------------------------


@pytest.mark.parametrize(
    ("task", "status", "reason", "message"),
    [
        ({"depends_on": ("b", "c")}, {}, Reason.DEPENDENCY, "waits for b, c (failed)"),
        ({"not_before": SOON}, {}, Reason.NOT_BEFORE, "not before 2030-01-01T09:07:00Z"),
        (
            {},
            {"not_before": SOON, "failure": Failure(kind=FailureClass.AGENT, message="no")},
            Reason.BACKOFF,
            "next attempt not before 2030-01-01T09:07:00Z",
        ),
        (
            {},
            {"not_before": SOON, "failure": Failure(kind=FailureClass.QUOTA, message="no")},
            Reason.QUOTA,
            "next attempt not before 2030-01-01T09:07:00Z",
        ),
        (
            {"execution_mode": ExecutionMode.HTTP_PULL},
            {},
            Reason.AGENT,
            "no agent fits: there is none in specs/agents",
        ),
        ({"requires": ("gpu",)}, {}, Reason.HOST, "no host fits: local lacks gpu"),
    ],
)
def test_a_task_says_what_it_waits_for(task, status, reason, message):
    others = {"b": live("b"), "c": settled("c", Phase.FAILED)}
    specs = [make_task("a", **task), make_task("b"), make_task("c")]

    planned = planned_for(*specs, statuses={"a": created("a", **status), **others})

    assert (planned.waiting["a"].reason, planned.waiting["a"].message) == (reason, message)


def test_a_plan_says_when_to_look_again():
    specs = [make_task("a", not_before=SOON), make_task("b"), make_task("c", desired=DesiredState.SUSPENDED)]
    statuses = {"b": created("b", not_before=SOON - timedelta(minutes=1)), "c": created("c", not_before=NOW)}

    assert planned_for(*specs, statuses=statuses).due == SOON - timedelta(minutes=1)
    assert planned_for(specs[2]).due is None


def test_hosts_that_are_full_are_told_in_words_that_do_not_change_with_them():
    hosts = {f"h{n}": Host(name=f"h{n}", slots=1) for n in range(7)}
    statuses = {f"t{n}": live(f"t{n}", assigned_host=f"h{n}") for n in range(7)}

    planned = planned_for(
        make_task("a"), *(make_task(name) for name in statuses), statuses=statuses, hosts=hosts
    )

    assert planned.waiting["a"].message == "no free slot on any host that fits"
    assert planned.placements["a"].full == tuple(hosts)


def test_a_fleet_without_hosts_says_so():
    planned = planned_for(make_task("a"), hosts={})

    assert planned.waiting["a"].message == "no host fits: there is none"


def test_the_fleet_may_have_a_limit_of_its_own():
    planned = planned_for(make_task("a"), make_task("b"), fleet=FleetSpec(max_running=1))

    assert [a.task for a in planned.actions if isinstance(a, StartRun)] == ["a"]
    assert planned.waiting["b"].message == "the fleet runs as many as it may (max_running: 1)"


def test_tasks_of_another_kind_are_placed_though_one_kind_finds_no_host():
    specs = [make_task("a", requires=("gpu",)), make_task("b", requires=("gpu",)), make_task("c")]

    planned = planned_for(*specs)

    assert [a.task for a in planned.actions if isinstance(a, StartRun)] == ["c"]
    assert planned.placements["a"] is planned.placements["b"]


def test_waiting_that_ended_is_taken_off_the_record():
    waiting = Waiting(reason=Reason.APPROVAL, message="allow it", since=NOW)
    statuses = {"a": settled("a", Phase.COMPLETED, waiting=waiting)}

    (change,) = planned_for(make_task("a"), statuses=statuses).events

    assert (change.waiting, change.origin.reason) == (None, "waits for nothing any more")


def test_the_record_follows_what_is_waited_for():
    before = Waiting(reason=Reason.SLOT, message="no free slot on alpha", since=NOW - timedelta(hours=1))
    status = created("a", waiting=before)

    (same,) = planned_for(make_task("a", requires=("gpu",)), statuses={"a": status}).events
    (kept,) = planned_for(
        make_task("a"), statuses={"a": status}, hosts=LOCAL, fleet=FleetSpec(max_running=0)
    ).events

    assert (same.waiting.reason, same.waiting.since) == (Reason.HOST, NOW)
    assert kept.waiting.since == before.since


def test_a_broken_spec_waits_for_a_person_even_before_it_was_ever_good():
    problem = Problem("specs/tasks/a.yaml", 3, 1, "unknown field")
    desired = make_desired(broken={"a": (problem,)})

    planned = plan(desired, Observed(), NOW)

    assert planned.actions == ()
    assert (planned.waiting["a"].reason, planned.waiting["a"].message) == (Reason.SPEC_ERROR, str(problem))


def test_a_broken_spec_with_a_good_version_is_created_and_waits():
    broken = {"a": (Problem("specs/tasks/a.yaml", 3, 1, "unknown field"),)}

    (record,) = plan(make_desired(make_task("a"), broken=broken), Observed(), NOW).actions

    assert record.event.waiting.reason is Reason.SPEC_ERROR


@pytest.mark.parametrize("is_pulled", [False, True])
@pytest.mark.parametrize("is_broken", [False, True])
@pytest.mark.parametrize("phase", [Phase.CREATED, Phase.CANCELLED, Phase.ESCALATED])
def test_a_task_that_never_had_a_run_can_be_thought_about(phase, is_broken, is_pulled):
    mode = ExecutionMode.HTTP_PULL if is_pulled else ExecutionMode.SSH_CLI
    spec = make_task("a", execution_mode=mode, budget=Budget(cost_usd=1), over_budget="stop")
    broken = {"a": (Problem("specs/tasks/a.yaml", 3, 1, "unknown field"),)} if is_broken else {}
    status = make_status(phase=phase, since=NOW, created_at=NOW, generation="older", work="older")
    assert status.run is None

    for removed in (False, True):
        observed = Observed({"a": status.model_copy(update={"removed": removed})})
        for tasks in ((spec,), ()):
            assert plan(make_desired(*tasks, broken=broken), observed, NOW).faults == {}


def test_a_live_run_goes_on_while_its_spec_is_broken():
    broken = {"a": (Problem("specs/tasks/a.yaml", 3, 1, "unknown field"),)}
    spec = make_task("a", desired=DesiredState.CANCELLED)

    planned = plan(make_desired(spec, broken=broken), Observed({"a": live("a")}), NOW)

    assert [type(action) for action in planned.actions] == [FollowRun]
    assert planned.waiting == {}


# --- Live runs -------------------------------------------------------------


def test_a_live_run_that_nobody_follows_is_taken_up():
    status = live("a", round=2)

    planned = planned_for(make_task("a"), statuses={"a": status})
    followed = plan(
        make_desired(make_task("a")), Observed({"a": status}, followed=frozenset({(status.run_key, 2)})), NOW
    )

    assert planned.actions == (
        FollowRun("a", status.run_key, 2, f"round 2 of {status.run_key} is on record"),
    )
    assert followed.actions == ()


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"desired": DesiredState.SUSPENDED}, "suspended in the spec"),
        ({"desired": DesiredState.CANCELLED}, "cancelled in the spec"),
        ({"on_change": "restart", "generation": blob("new")}, "the spec changed (on_change: restart)"),
    ],
)
def test_a_live_run_that_no_spec_asks_for_is_stopped(spec, reason):
    planned = planned_for(make_task("a", **spec), statuses={"a": live("a")})

    assert planned.actions == (StopRun("a", live("a").run_key, 1, reason),)


def test_a_live_run_goes_on_though_its_spec_changed():
    planned = planned_for(make_task("a", generation=blob("new")), statuses={"a": live("a")})

    assert [type(action) for action in planned.actions] == [FollowRun]


def test_a_live_run_whose_host_is_gone_from_the_specs_says_so():
    planned = planned_for(make_task("a"), statuses={"a": live("a")}, hosts={})

    assert kinds(planned) == [WaitingChanged]
    assert planned.waiting["a"].message == "host local of the live run is gone from specs/hosts"


def test_a_run_in_the_hands_of_an_outside_agent_is_left_to_it():
    statuses = {"a": live("a", assigned_host=None, assigned_agent="jeeves", request_key="k1")}
    desired = make_desired(make_task("a", execution_mode=ExecutionMode.HTTP_PULL))

    planned = plan(replace(desired, agents={"jeeves": Agent(name="jeeves")}), Observed(statuses), NOW)

    assert planned.actions == ()
    assert planned.waiting == {}


# --- Changed specs ---------------------------------------------------------


def test_a_task_that_waits_takes_up_its_new_spec():
    planned = planned_for(make_task("a", generation=blob("new")), statuses={"a": created("a")})

    assert [type(event).__name__ for event in planned.events] == ["SpecChanged", "Assigned"]
    assert planned.events[0].origin.reason == f"the spec is {blob('new')[:8]} now"


def test_a_live_run_takes_up_what_its_removal_would_mean():
    planned = planned_for(make_task("a", on_delete="orphan"), statuses={"a": live("a")})

    assert kinds(planned) == [SpecChanged, FollowRun]


@pytest.mark.parametrize("phase", [Phase.CREATED, Phase.REVIEW_PENDING])
def test_a_task_without_a_live_run_is_cancelled_at_once(phase):
    spec = make_task("a", desired=DesiredState.CANCELLED)

    assert kinds(planned_for(spec, statuses={"a": created("a", phase=phase)})) == [Cancelled]


def test_a_task_whose_budget_is_spent_is_for_a_person():
    status = created("a", usage=Usage(input_tokens=100))

    planned = planned_for(make_task("a", budget=Budget(tokens=100)), statuses={"a": status})

    assert kinds(planned) == [Escalated]
    assert planned.events[0].origin.reason == "budget spent: 100 of 100 tokens; raise the budget, then retry"
    assert planned.events[0].failure.kind is FailureClass.BUDGET


@pytest.mark.parametrize(
    ("phase", "change", "is_renewed"),
    [
        (Phase.FAILED, {}, False),
        (Phase.FAILED, {"generation": "new"}, True),
        (Phase.CANCELLED, {}, False),
        (Phase.CANCELLED, {"generation": "new"}, True),
        (Phase.COMPLETED, {"generation": "new"}, False),
        (Phase.COMPLETED, {"generation": "new", "work": "new"}, True),
        (Phase.ESCALATED, {"generation": "new"}, False),
        (Phase.ESCALATED, {"generation": "new", "work": "new"}, True),
        (Phase.COMPLETED, {"generation": "new", "work": "new", "desired": DesiredState.SUSPENDED}, False),
    ],
)
def test_a_settled_task_runs_again_only_when_asked(phase, change, is_renewed):
    planned = planned_for(make_task("a", **change), statuses={"a": settled("a", phase)})

    assert (Renewed in kinds(planned)) is is_renewed
    assert bool(planned.actions) is is_renewed


def test_a_cancelled_task_runs_again_when_its_cancellation_is_reverted():
    before = make_task("a")
    world = World(make_desired(before))
    world.look()

    world.push(make_desired(make_task("a", desired=DesiredState.CANCELLED, generation=blob("cancelled"))))
    world.run()
    stopped = world.statuses["a"].phase
    world.push(make_desired(before))
    world.run()

    assert stopped is Phase.CANCELLED
    assert world.statuses["a"].phase is Phase.COMPLETED
    assert world.statuses["a"].attempt == 2


def test_a_suspended_task_goes_on_with_its_session_when_resumed():
    world = World(make_desired(make_task("a")))
    world.look()

    world.push(make_desired(make_task("a", desired=DesiredState.SUSPENDED, generation=blob("suspended"))))
    world.run()
    waiting = world.statuses["a"].waiting.reason
    world.push(make_desired(make_task("a")))
    world.run()

    assert waiting is Reason.SUSPENDED
    assert (world.statuses["a"].phase, world.statuses["a"].failures) == (Phase.COMPLETED, 0)


def test_new_work_during_a_run_is_done_after_it():
    world = World(make_desired(make_task("a")))
    world.look()

    world.push(make_desired(make_task("a", generation=blob("new"), work="new")))
    world.run()

    assert [type(step.event).__name__ for step in world.history].count("Completed") == 2
    assert world.statuses["a"].work == "new"


# --- Removed and renamed specs ---------------------------------------------


def test_a_removed_task_that_waits_is_removed():
    planned = removal_of(created("a"))

    assert kinds(planned) == [SpecRemoved, Removed]


@pytest.mark.parametrize("phase", [Phase.COMPLETED, Phase.FAILED, Phase.CANCELLED, Phase.ESCALATED])
def test_a_settled_task_whose_spec_is_gone_is_archived_without_anybodys_approval(phase):
    other = make_task("other")
    statuses = {"a": settled("a", phase), "other": settled("other", Phase.COMPLETED, work=other.work)}

    planned = plan(make_desired(other), Observed(statuses), NOW)
    left, [step] = fold(statuses, planned.events)

    assert kinds(planned) == [Archived]
    assert left == {"other": statuses["other"]}
    assert step.after == statuses["a"].model_copy(update={"removed": True, "archived": True})


@pytest.mark.parametrize(
    ("phase", "end"),
    [(Phase.COMPLETED, Archived), (Phase.FAILED, Archived), (Phase.CANCELLED, Removed)],
)
def test_what_its_removal_cancelled_is_forgotten_and_any_other_end_archived(phase, end):
    planned = removal_of(settled("a", phase, removed=True))

    assert kinds(planned) == [end]


@pytest.mark.parametrize("phase", [Phase.COMPLETED, Phase.FAILED, Phase.CANCELLED, Phase.ESCALATED])
def test_an_archived_task_whose_spec_comes_back_is_as_it_was_and_not_done_again(phase):
    task = make_task("a")
    before = settled("a", phase, generation=task.generation, work=task.work)
    archived = before.model_copy(update={"removed": True, "archived": True})

    planned = plan(make_desired(task), Observed({"a": archived}), NOW)

    assert kinds(planned) == [Restored]
    assert fold({"a": archived}, planned.events)[0] == {"a": before}


def test_new_work_under_the_name_of_an_archived_task_is_done():
    task = make_task("a", work="other work", generation=blob("other"))
    archived = settled("a", Phase.COMPLETED, attempt=3, removed=True, archived=True)

    planned = plan(make_desired(task), Observed({"a": archived}), NOW)

    assert kinds(planned) == [Restored, Renewed, StartRun]
    assert planned.actions[-1].event.run.endswith(".a4")


def test_a_file_that_moves_to_the_name_of_an_archived_task_is_a_rename_and_goes_on_counting():
    task = make_task("a", work="moved", generation=blob("moved"))
    archived = settled("a", Phase.COMPLETED, attempt=3, removed=True, archived=True)
    done = settled("b", Phase.COMPLETED, work=task.work, generation=task.generation)

    planned = plan(make_desired(task), Observed({"a": archived, "b": done}), NOW)
    left, _ = fold({"a": archived, "b": done}, planned.events)

    assert kinds(planned) == [Renamed]
    assert left == {"a": done.model_copy(update={"attempt": 3})}


def test_nothing_is_planned_of_what_is_in_the_archive():
    planned = removal_of(settled("a", Phase.COMPLETED, removed=True, archived=True))

    assert kinds(planned) == []


@pytest.mark.parametrize(
    ("on_delete", "actions"), [("cancel", [SpecRemoved, StopRun]), ("finish", [SpecRemoved, FollowRun])]
)
def test_a_live_run_of_a_removed_task_is_stopped_or_may_end(on_delete, actions):
    planned = removal_of(live("a", on_delete=on_delete))

    assert kinds(planned) == actions


def test_a_live_run_may_be_let_go_of():
    planned = removal_of(live("a", on_delete="orphan"))

    assert kinds(planned) == [SpecRemoved, Removed]


def test_a_tombstone_goes_once_its_run_has_ended():
    world = World(make_desired(make_task("a"), make_task("b")))
    world.look()

    world.push(make_desired(make_task("b")))
    stopping = world.look()
    tombstone = world.statuses["a"].removed
    world.work(stopping)
    world.run()

    assert tombstone
    assert world.statuses.keys() == {"b"}


def test_a_spec_that_comes_back_takes_its_tombstone_away():
    statuses = {"a": live("a", removed=True)}

    planned = planned_for(make_task("a"), statuses=statuses)

    assert kinds(planned) == [Restored, FollowRun]


def test_removing_all_live_tasks_waits_for_a_person_and_touches_nothing():
    planned = plan(make_desired(), Observed({name: live(name) for name in "abc"}), NOW)

    assert kinds(planned) == [*[WaitingChanged] * 3, *[FollowRun] * 3]
    assert planned.waiting["a"].reason is Reason.APPROVAL
    assert "together with 2 others" in planned.waiting["a"].message
    assert f"`reconciler approve-prune` ({prune_digest('abc')})" in planned.waiting["a"].message


@pytest.mark.parametrize("names", ["a", "ab"])
@pytest.mark.parametrize("kept", [(), ("z",)])
def test_one_task_or_two_are_removed_as_asked_even_if_they_are_all(names, kept):
    desired = make_desired(*map(make_task, kept))
    statuses = {name: live(name) for name in names}

    planned = plan(desired, Observed(statuses), NOW)

    assert {event.task for event in planned.events if isinstance(event, SpecRemoved)} == set(names)
    assert Reason.APPROVAL not in {wait.reason for wait in planned.waiting.values()}


def test_the_only_open_task_goes_as_asked_but_not_with_everything_that_was_done():
    done = {f"done{n}": live(f"done{n}", phase=Phase.COMPLETED) for n in range(9)}

    beside = plan(make_desired(make_task("other")), Observed({"a": live("a")}), NOW)
    emptied = plan(make_desired(), Observed({"a": live("a"), **done}), NOW)

    assert [event.task for event in beside.events if isinstance(event, SpecRemoved)] == ["a"]
    assert not [event for event in emptied.events if isinstance(event, SpecRemoved)]


def test_a_removal_a_person_allowed_goes_on():
    fleet = FleetSpec(prune_approved=prune_digest("abc"))

    planned = plan(make_desired(fleet=fleet), Observed({name: live(name) for name in "abc"}), NOW)

    assert kinds(planned) == [*[SpecRemoved] * 3, *[StopRun] * 3]


def test_a_held_removal_stays_held_when_it_looks_small_later():
    world = World(make_desired(*map(make_task, "abc")))
    world.look()

    world.push(make_desired())
    world.look()
    many = [make_task(f"new{n}", desired=DesiredState.SUSPENDED) for n in range(50)]
    world.push(make_desired(*many))
    planned = world.look()
    world.run()

    held = {name for name, waiting in planned.waiting.items() if waiting.reason is Reason.APPROVAL}
    assert held == {"a", "b", "c"}
    assert world.statuses["a"].phase is Phase.COMPLETED
    assert not world.statuses["a"].removed


def test_a_held_task_that_starts_again_waits_for_nothing():
    waiting = Waiting(reason=Reason.APPROVAL, message="allow it", since=NOW)
    world = World(make_desired(make_task("a")), statuses={"a": created("a", waiting=waiting)})

    world.look()

    assert (world.statuses["a"].phase, world.statuses["a"].waiting) == (Phase.ASSIGNED, None)


def test_held_tasks_whose_specs_come_back_go_on():
    specs = [make_task("a"), make_task("b")]
    world = World(make_desired(*specs))
    world.look()

    world.push(make_desired())
    world.look()
    world.push(make_desired(*specs))
    world.run()

    assert {status.phase for status in world.statuses.values()} == {Phase.COMPLETED}
    assert {status.waiting for status in world.statuses.values()} == {None}


def test_a_file_that_moved_takes_its_live_run_along():
    moved = make_task("moved/a", generation=blob("a"), work="work of a")

    planned = planned_for(moved, statuses={"a": live("a")})

    assert kinds(planned) == [Renamed, FollowRun]
    assert planned.events[0].origin.reason == "the spec moved from a"


def test_a_file_that_moved_and_was_touched_is_still_the_same_work():
    moved = make_task("moved/a", generation=blob("touched"), work="work of a", priority=3)

    planned = planned_for(moved, statuses={"a": settled("a", Phase.COMPLETED)})

    assert kinds(planned) == [Renamed]


def test_two_files_of_the_same_content_are_no_rename():
    twins = [make_task(name, generation=blob("a"), work="work of a") for name in ("b", "c")]

    planned = planned_for(*twins, statuses={"a": settled("a", Phase.COMPLETED)})

    assert Renamed not in kinds(planned)
    assert {Archived, Created} <= set(kinds(planned))


def test_a_removed_dependency_counts_as_completed_no_more():
    statuses = {"a": settled("a", Phase.COMPLETED), "b": created("b")}

    planned = planned_for(make_task("b", depends_on=("a",)), statuses=statuses)

    assert planned.waiting["b"].message == "waits for a"


def test_a_run_is_handed_what_came_of_those_before_it():
    delivered = {"repo": "web", "branch_name": "task/a", "head_commit": "c" * 40}
    statuses = {
        "a": changed(settled("a", Phase.COMPLETED), **delivered, summary="The API has a version now."),
        "note": settled("note", Phase.COMPLETED),
        "b": created("b"),
    }
    tasks = [make_task(name) for name in ("a", "note")]

    planned = planned_for(*tasks, make_task("b", depends_on=("note", "a")), statuses=statuses)

    (event,) = [action.event for action in planned.actions if isinstance(action, StartRun)]
    assert [(each.task, each.branch, each.commit) for each in event.predecessors] == [
        ("note", None, None),
        ("a", "task/a", "c" * 40),
    ]
    assert event.predecessors[1].summary == "The API has a version now."


# --- Whole lives -----------------------------------------------------------


def test_a_task_is_tried_again_after_a_wait_and_then_completed():
    rounds = iter([failed(FailureClass.STALL), SUCCESS])
    hosts = {name: Host(name=name) for name in ("alpha", "beta")}
    world = World(make_desired(make_task("a"), hosts=hosts), ends=lambda *_: next(rounds))

    world.run()

    places = [step.event.holder.host for step in world.history if type(step.event).__name__ == "Assigned"]
    assert world.statuses["a"].phase is Phase.COMPLETED
    assert places == ["alpha", "beta"]
    assert world.now > NOW


def test_what_depends_on_a_failed_task_waits_and_says_for_what():
    specs = [make_task("a", retries=0), make_task("b", depends_on=("a",))]
    world = World(make_desired(*specs), ends=lambda *_: failed(FailureClass.AGENT))

    planned = world.run()

    assert planned.waiting["b"].message == "waits for a (failed)"
    assert planned.actions == ()


def test_every_action_names_its_task_and_its_reason():
    specs = [make_task("a"), make_task("b", desired=DesiredState.SUSPENDED), make_task("c")]
    wide = {"local": Host(name="local", slots=3)}

    planned = planned_for(*specs, statuses={"b": live("b"), "c": live("c")}, hosts=wide)

    assert {type(action) for action in planned.actions} == {RecordEvent, StartRun, FollowRun, StopRun}
    assert all(action.task and action.reason for action in planned.actions)


# --- Words -----------------------------------------------------------------


def make_task(name, **fields):
    fields = {"generation": blob(name), "work": f"work of {name}", "goal": f"Do {name}.", **fields}
    return Task(name=name, **fields)


def make_desired(*tasks, hosts=None, fleet=None, broken=None):
    return Desired(
        revision="r",
        fleet=fleet or FleetSpec(),
        tasks={task.name: task for task in tasks},
        hosts=LOCAL if hosts is None else hosts,
        broken=broken or {},
    )


def planned_for(*tasks, statuses=None, **desired):
    return plan(make_desired(*tasks, **desired), Observed(statuses or {}), NOW)


def removal_of(status):
    """Return the plan for a fleet of which one task of three was removed."""
    kept = [make_task("kept0"), make_task("kept1")]
    others = {task.name: created(task.name, waiting=None) for task in kept}
    others = {
        name: other.model_copy(update={"phase": Phase.REVIEW_PENDING}) for name, other in others.items()
    }
    return planned_for(*kept, statuses={"a": status, **others})


def created(name, **fields):
    return make_status(
        **{
            "phase": Phase.CREATED,
            "since": NOW,
            "created_at": NOW,
            "generation": blob(name),
            "work": f"work of {name}",
            **fields,
        }
    )


def live(name, **fields):
    run = {"attempt": 1, "round": 1, "run": run_key(name, blob(name), 1), "assigned_host": "local"}
    return created(name, **{"phase": Phase.RUNNING, **run, **fields})


def settled(name, phase, **fields):
    return live(name, phase=phase, **fields)


def kinds(planned):
    """Return what a plan does, a type each: of the event where something goes on record."""
    return [type(a.event) if isinstance(a, RecordEvent) else type(a) for a in planned.actions]


# --- Deadlines ----------------------------------------------------------------


def test_a_deadline_ends_a_live_run_and_then_asks_for_a_person():
    world = World(make_desired(make_task("t", deadline=timedelta(hours=1), retries=9)))
    world.look()
    assert world.look().due == NOW + timedelta(hours=1)

    world.now = NOW + timedelta(hours=1)
    [stop] = [action for action in world.look().actions if isinstance(action, StopRun)]
    world.end(stop.task, STOPPED)
    world.look()

    assert stop.reason == "the deadline of 1h for all its attempts is over"
    assert world.statuses["t"].phase is Phase.ESCALATED


def test_a_deadline_counts_over_all_attempts_and_what_is_waited_for_between_them():
    world = World(make_desired(make_task("t", deadline=timedelta(hours=1), retries=9)))
    world.look()
    world.now += timedelta(minutes=59)
    world.end("t", failed(FailureClass.AGENT))
    world.look()
    assert world.statuses["t"].phase is Phase.CREATED

    world.now = NOW + timedelta(hours=1)
    world.look()

    assert world.statuses["t"].phase is Phase.ESCALATED
    assert "the deadline of 1h" in world.history[-1].event.origin.reason
    assert world.statuses["t"].failure.message.startswith("the deadline of 1h")  # not why an attempt failed


SUBMITTED = Report(verdict=SUCCESS.verdict, head_commit="a" * 40, commits=1)


def test_a_deadline_does_not_count_while_work_waits_for_its_review():
    world = World(make_desired(make_task("t", deadline=timedelta(hours=1), review="merge", repo="shop")))
    world.look()
    world.end("t", SUBMITTED)
    world.now += timedelta(days=3)
    world.look()

    assert (world.statuses["t"].phase, world.statuses["t"].began_at) == (Phase.REVIEW_PENDING, None)

"""
Campaigns: which tasks begin, what the others wait for, and how all of it is stopped.
"""

from dataclasses import replace

from reconciler.core.lifecycle import fold
from reconciler.core.model.specs import Campaign, Desired, DesiredState, Host, Repo, StopAfter, Task
from reconciler.core.model.status import Observed, Phase, Reason, Status
from reconciler.core.planning.plan import Plan, StartRun
from tests.statuses import make_status
from tests.strategies import NOW, blob, plan

NAMES = tuple(f"up/{letter}" for letter in "abcdef")


def fleet(**campaign: object) -> Desired:
    spec = Campaign(name="up", tasks=NAMES, **{"pilot": 1, **campaign})
    tasks = {
        name: Task(
            name=name,
            goal=name,
            generation=blob(name),
            work="w",
            campaign="up",
            is_pilot=name in NAMES[: spec.pilot],
        )
        for name in NAMES
    }
    return Desired("1" * 40, tasks=tasks, hosts={"h": Host(name="h", slots=99)}, campaigns={"up": spec})


def at(desired: Desired, phases: dict[str, Phase]) -> Observed:
    statuses = {name: status(desired.tasks[name], phases.get(name, Phase.CREATED)) for name in NAMES}
    return Observed(statuses)


def status(task: Task, phase: Phase) -> Status:
    run = {} if phase is Phase.CREATED else {"run": f"{task.name}.g1.a1", "assigned_host": "h"}
    fields = {"generation": task.generation, "work": task.work, "campaign": "up", "since": NOW}
    return make_status(phase, created_at=NOW, **fields, **run)


def starts(what: Plan) -> list[str]:
    return [action.task for action in what.actions if isinstance(action, StartRun)]


def reasons(what: Plan) -> set[Reason]:
    return {wait.reason for wait in what.waiting.values()}


def test_only_the_pilot_begins():
    what = plan(fleet(), at(fleet(), {}), NOW)

    assert starts(what) == ["up/a"]
    assert reasons(what) == {Reason.PILOT}


def test_a_failed_pilot_keeps_the_others_waiting_and_says_so():
    what = plan(fleet(), at(fleet(), {"up/a": Phase.FAILED}), NOW)

    assert starts(what) == []
    assert what.waiting["up/b"].message == "waits for the pilot of campaign up: up/a (failed)"


def test_once_the_pilot_is_completed_as_many_begin_as_the_width_allows():
    desired = fleet(width=2)
    observed = at(desired, {"up/a": Phase.COMPLETED, "up/b": Phase.REVIEW_PENDING})

    what = plan(desired, observed, NOW)

    assert starts(what) == ["up/c"]
    assert what.waiting["up/d"].reason is Reason.WIDTH


def test_a_task_between_attempts_keeps_its_place_and_needs_no_other():
    desired = fleet(width=1)
    observed = at(desired, {"up/a": Phase.COMPLETED})
    begun = observed.statuses["up/f"].model_copy(update={"failures": 1})

    what = plan(desired, replace(observed, statuses={**observed.statuses, "up/f": begun}), NOW)

    assert starts(what) == ["up/f"]


def test_no_more_begin_after_so_many_failures():
    desired = fleet(stop_after=StopAfter(failures=2))
    observed = at(desired, {"up/a": Phase.COMPLETED, "up/b": Phase.FAILED, "up/c": Phase.CANCELLED})

    what = plan(desired, observed, NOW)

    assert starts(what) == []
    assert reasons(what) == {Reason.HALTED}


def test_what_a_person_cancelled_is_no_failure():
    desired = fleet(stop_after=StopAfter(failures=1))
    observed = at(desired, {"up/a": Phase.COMPLETED, "up/c": Phase.CANCELLED})
    cancelled = desired.tasks["up/c"].model_copy(update={"desired": DesiredState.CANCELLED})

    what = plan(replace(desired, tasks={**desired.tasks, "up/c": cancelled}), observed, NOW)

    assert starts(what) == ["up/b", "up/d", "up/e", "up/f"]


def test_every_task_of_a_campaign_ends_in_time_if_none_fails():
    desired, statuses = fleet(width=2), at(fleet(), {}).statuses

    for _ in range(len(NAMES)):
        what = plan(desired, Observed(statuses), NOW)
        statuses, _ = fold(statuses, what.events)
        statuses = {
            name: each.model_copy(update={"phase": Phase.COMPLETED}) if each.phase.is_live else each
            for name, each in statuses.items()
        }

    assert {each.phase for each in statuses.values()} == {Phase.COMPLETED}


def gone(desired: Desired, **fields: object) -> Desired:
    rest = {"tasks": {}, "campaigns": {}, "repos": {"web": Repo(name="web", url="/web")}, **fields}
    return replace(desired, **rest)


def test_a_campaign_is_stopped_whole_without_being_asked_about():
    observed = at(fleet(), {"up/a": Phase.COMPLETED, "up/b": Phase.RUNNING})

    what = plan(gone(fleet()), observed, NOW)

    assert not what.waiting
    assert {event.task for event in what.events} == set(NAMES)


def test_tasks_that_leave_the_matrix_of_a_campaign_count_each():
    observed = at(fleet(), {})
    left = {"up": Campaign(name="up", tasks=())}

    what = plan(gone(fleet(), campaigns=left), observed, NOW)

    assert reasons(what) == {Reason.APPROVAL}


def test_a_campaign_is_not_stopped_where_no_spec_file_is_left():
    what = plan(gone(fleet(), is_bare=True), at(fleet(), {}), NOW)

    assert reasons(what) == {Reason.APPROVAL}


def test_a_campaign_that_cannot_be_read_is_not_stopped():
    unreadable = gone(fleet(), unreadable_campaigns=frozenset({"up"}))

    what = plan(unreadable, at(fleet(), {"up/b": Phase.RUNNING}), NOW)

    assert not what.events

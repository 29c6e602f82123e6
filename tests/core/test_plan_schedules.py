"""Tasks that come again, and tasks that come back."""

from dataclasses import replace
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.events import Assigned, Completed, Created, Renamed, Renewed, Scheduled
from reconciler.core.model.runs import FailureClass, run_key
from reconciler.core.model.specs import Desired, DesiredState, Host, Task
from reconciler.core.model.status import Observed, Phase, Reason
from reconciler.core.planning.plan import needs_attention
from tests.statuses import make_status
from tests.strategies import NOW, SUCCESS, World, blob, failed, plan

DAILY = "30 9 * * *"
DUE = NOW.replace(minute=30)
DAY = timedelta(days=1)

# --- Schedules -------------------------------------------------------------


def test_a_due_time_is_told_in_the_tasks_own_time_zone():
    world = World(make_desired(make_task(schedule=DAILY, timezone="Europe/Berlin")))

    world.look()

    assert world.statuses["a"].waiting.message == "due 2030-01-02T09:30:00+01:00 (Europe/Berlin)"


def test_a_scheduled_task_starts_when_it_is_due():
    world = World(make_desired(make_task(schedule=DAILY)))

    first = world.look()
    before = world.statuses["a"]
    world.now = DUE
    world.look()

    assert [type(event) for event in first.events] == [Created, Scheduled]
    assert (before.waiting.reason, before.waiting.message) == (Reason.SCHEDULE, "due 2030-01-01T09:30:00Z")
    assert first.due == before.due_at == DUE
    assert world.statuses["a"].phase is Phase.ASSIGNED
    assert world.statuses["a"].due_at == DUE


def test_a_scheduled_task_is_done_once_for_each_due_time():
    world = World(make_desired(make_task(schedule=DAILY)))

    for _ in range(4):
        world.run()
        world.now = world.look().due

    starts = [step.event.origin.at for step in world.history if isinstance(step.event, Assigned)]
    assert starts == [DUE, DUE + DAY, DUE + 2 * DAY]
    assert world.statuses["a"].attempt == 3


def test_a_scheduled_task_that_is_settled_says_when_it_comes_again():
    world = World(make_desired(make_task(schedule=DAILY)))
    world.look()
    world.now = DUE

    world.run()

    status = world.statuses["a"]
    assert status.phase is Phase.COMPLETED
    assert (status.waiting.reason, status.waiting.message) == (Reason.SCHEDULE, "due 2030-01-02T09:30:00Z")
    assert world.look().actions == ()


def test_a_clock_that_was_ahead_for_a_while_skips_no_day():
    world = World(make_desired(make_task(schedule=DAILY)))
    world.look()
    world.now = DUE
    world.run()
    done = len([step for step in world.history if isinstance(step.event, Assigned)])

    world.now = DUE + 2 * DAY + timedelta(hours=1)
    world.run()
    world.look()
    world.now = DUE + timedelta(hours=1)
    world.look()

    assert world.statuses["a"].due_at == DUE + DAY
    starts = [step.event.origin.at for step in world.history if isinstance(step.event, Assigned)]
    assert len(starts) == done + 1
    for day in (1, 2, 3):
        world.now = DUE + day * DAY
        world.run()
        assert world.statuses["a"].since == world.now


@pytest.mark.parametrize("back", [timedelta(seconds=30), timedelta(minutes=20), timedelta(hours=23)])
def test_a_clock_that_is_set_back_does_nothing_twice(back):
    world = World(make_desired(make_task(schedule=DAILY)))
    world.look()
    world.now = DUE
    world.run()
    world.look()
    starts = len([step for step in world.history if isinstance(step.event, Assigned)])

    world.now = DUE - back
    world.look()
    world.now = DUE
    world.run()
    world.look()

    assert len([step for step in world.history if isinstance(step.event, Assigned)]) == starts
    assert world.statuses["a"].due_at == DUE + DAY


def test_a_retry_does_not_wait_for_a_clock_that_was_ahead_to_come_true():
    world = World(make_desired(make_task(retries=3)))
    world.now = NOW + 2 * DAY
    world.look()
    world.end("a", failed(FailureClass.AGENT))

    world.now = NOW
    world.look()

    assert world.statuses["a"].phase is Phase.ASSIGNED


def test_due_times_that_were_missed_are_caught_up_once():
    world = World(make_desired(make_task(schedule=DAILY)))
    world.look()

    world.now = DUE + 5 * DAY
    world.run()

    assert count(world, Assigned) == 1
    assert world.statuses["a"].due_at == DUE + 6 * DAY


def test_missed_while_settled_is_caught_up_once_too():
    world = settled_world()

    world.now = DUE + 5 * DAY + timedelta(hours=1)
    world.run()

    renewed = [step.event for step in world.history if isinstance(step.event, Renewed)]
    assert [event.origin.reason for event in renewed] == ["due 2030-01-02T09:30:00Z"]
    assert renewed[0].origin.cause == "clock"
    assert world.statuses["a"].due_at == DUE + 6 * DAY


def test_a_due_time_that_comes_while_the_task_runs_is_skipped_and_that_is_said():
    world = World(make_desired(make_task(schedule="*/10 * * * *")))
    world.look()
    world.now = NOW + timedelta(minutes=10)
    world.look()
    started = world.statuses["a"].phase

    world.now = NOW + timedelta(minutes=35)
    world.end("a", SUCCESS)
    planned = world.look()

    (scheduled,) = [event for event in planned.events if isinstance(event, Scheduled)]
    assert started is Phase.ASSIGNED
    assert scheduled.due_at == NOW + timedelta(minutes=40)
    why = "due 2030-01-01T09:40:00Z; what came due while it was at work is skipped"
    assert scheduled.origin.reason == why
    assert world.statuses["a"].phase is Phase.COMPLETED


def test_within_a_series_attempts_follow_each_other_without_waiting_for_the_schedule():
    rounds = iter([failed(FailureClass.AGENT), SUCCESS])
    world = World(make_desired(make_task(schedule=DAILY, retries=1)), ends=lambda *_: next(rounds))
    world.look()
    world.now = DUE

    world.run()

    assert world.statuses["a"].phase is Phase.COMPLETED
    assert world.now < DUE + timedelta(hours=1)


def test_a_series_that_failed_does_not_keep_the_next_from_coming():
    world = World(
        make_desired(make_task(schedule=DAILY, retries=0)), ends=lambda *_: failed(FailureClass.AGENT)
    )
    world.look()
    world.now = DUE
    world.run()
    failed_first = world.statuses["a"].phase

    world.ends = lambda *_: SUCCESS
    world.now = DUE + DAY
    world.run()

    assert failed_first is Phase.FAILED
    assert (world.statuses["a"].phase, world.statuses["a"].failures) == (Phase.COMPLETED, 0)


def test_what_is_for_a_person_does_not_come_again_by_itself():
    world = World(make_desired(make_task(schedule=DAILY)), ends=lambda *_: failed(FailureClass.BUDGET))
    world.look()
    world.now = DUE

    planned = world.run()

    assert world.statuses["a"].phase is Phase.ESCALATED
    assert (planned.due, planned.waiting) == (None, {})


@pytest.mark.parametrize("preference", [DesiredState.SUSPENDED, DesiredState.CANCELLED])
def test_a_task_that_is_not_wanted_does_not_come_again(preference):
    world = settled_world()

    world.push(make_desired(make_task(schedule=DAILY, desired=preference)))
    world.now = DUE + DAY
    world.run()

    assert count(world, Assigned) == 1
    assert world.statuses["a"].waiting is None


def test_work_that_is_asked_for_again_need_not_wait_for_the_schedule():
    world = settled_world()

    world.push(make_desired(make_task(schedule=DAILY, work="rerun", generation=blob("rerun"))))
    world.run()

    assert count(world, Assigned) == 2
    assert world.now < DUE + DAY
    assert world.statuses["a"].due_at == DUE + DAY


def test_a_new_schedule_is_not_taken_for_one_that_was_missed():
    world = settled_world()
    world.now = DUE + timedelta(hours=3)

    world.push(make_desired(make_task(schedule="0 10 * * *", generation=blob("later"))))
    world.run()

    assert count(world, Assigned) == 1
    assert world.statuses["a"].due_at == DUE.replace(hour=10, minute=0) + DAY


def test_a_task_that_gets_a_schedule_when_it_is_long_done_comes_when_it_is_due():
    world = World(make_desired(make_task()))
    world.run()
    world.now = NOW + 30 * DAY

    world.push(make_desired(make_task(schedule=DAILY, generation=blob("scheduled"))))
    world.run()

    assert count(world, Assigned) == 1
    assert world.statuses["a"].due_at == DUE + 30 * DAY


def test_a_schedule_that_is_never_due_says_so_and_does_nothing():
    world = World(make_desired(make_task(schedule="0 0 */40 2 MON#5")))

    planned = world.run()

    assert planned.waiting["a"].message == "its schedule has no more due times"
    assert planned.due is None


def test_a_settled_task_with_a_schedule_needs_attention():
    world = settled_world()

    assert needs_attention(world.desired.tasks["a"], world.statuses["a"])


@given(st.sampled_from(["UTC", "Europe/Berlin", "America/New_York"]), st.integers(0, 3), st.integers(1, 50))
def test_over_a_change_of_the_clocks_it_is_done_once_a_day(place, hour, minutes):
    world = World(make_desired(make_task(schedule=f"30 {hour} * * *", timezone=place)))
    end = datetime(2030, 4, 3, tzinfo=NOW.tzinfo)
    world.now = datetime(2030, 3, 5, 12, tzinfo=NOW.tzinfo)

    while world.now < end:
        planned = world.look()
        world.work(planned)
        world.now = max(world.look().due or world.now, world.now + timedelta(minutes=minutes))

    done = [step.event.origin.at for step in world.history if isinstance(step.event, Completed)]
    days = [at.astimezone(ZoneInfo(place)).date() for at in done]
    assert days == [days[0] + n * DAY for n in range(len(days))]
    assert len(days) >= 28


# --- Tasks that come back --------------------------------------------------


def test_a_task_that_comes_back_goes_on_counting_its_attempts():
    desired = make_desired(make_task())

    planned = plan(desired, Observed(past={"a": 7}), NOW)

    created, assigned = planned.events
    assert created.attempt == 7
    assert assigned.run == run_key("a", blob("a"), 8)


def test_a_task_that_moves_to_a_name_of_before_goes_on_counting_where_that_ended():
    moved = make_task(name="b")
    done = status(Phase.FAILED, attempt=1, run=run_key("a", blob("a"), 1))
    observed = Observed({"a": done}, past={"b": 4})

    planned = plan(make_desired(moved), observed, NOW)

    (renamed,) = planned.events
    assert isinstance(renamed, Renamed)
    assert renamed.attempt == 4


def test_a_removed_task_that_comes_back_rests_and_other_work_of_its_name_runs_under_a_new_key():
    world = World(make_desired(make_task(), make_task(name="b")))
    world.run()

    world.push(make_desired(make_task(name="b")))
    world.run()
    gone = "a" not in world.statuses
    world.push(make_desired(make_task(), make_task(name="b")))
    world.run()
    before = runs_of(world, "a")
    world.push(make_desired(make_task(generation=blob("c"), work="other work"), make_task(name="b")))
    world.run()

    assert gone
    assert before == [run_key("a", blob("a"), 1)]
    assert runs_of(world, "a") == [*before, run_key("a", blob("c"), 2)]


# --- Words -----------------------------------------------------------------


def runs_of(world, name):
    return [
        step.event.run for step in world.history if isinstance(step.event, Assigned) and step.task == name
    ]


def make_task(**fields):
    name = fields.get("name", "a")
    head = {"name": name, "generation": blob("a"), "work": f"work of {name}", "goal": "Do it."}
    return Task(**{**head, **({"work": "work of a"} if name == "b" else {}), **fields})


def make_desired(*tasks):
    return Desired(
        revision="r", tasks={task.name: task for task in tasks}, hosts={"local": Host(name="local", slots=4)}
    )


def status(phase, **fields):
    head = {"since": NOW, "created_at": NOW, "generation": blob("a"), "work": "work of a"}
    return make_status(phase=phase, **{**head, **fields})


def settled_world():
    """Return a world whose task was due and done, and waits for the next day."""
    world = World(make_desired(make_task(schedule=DAILY)))
    world.look()
    world.now = DUE
    world.run()
    return replace(world)


def count(world, kind):
    return sum(isinstance(step.event, kind) for step in world.history)

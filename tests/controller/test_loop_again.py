"""What comes back: hosts, names, due times, days; and what is done meanwhile."""

import asyncio
from datetime import timedelta

import pytest

from reconciler.core.adapter import Adapter, Budget, Usage, Version
from reconciler.core.events import Assigned, Retried
from reconciler.core.model.runs import FailureClass, Report, Verdict
from reconciler.core.model.specs import FleetSpec, Host
from reconciler.core.model.status import Phase, Reason
from tests.fakes import FAILURE, RED, START, SUCCESS, FakeDispatch, make_desired, make_task

# --- Names -----------------------------------------------------------------


async def test_a_task_that_was_removed_and_comes_back_is_done_and_new_work_runs_under_a_new_key(stage):
    tasks = [make_task(name) for name in ("a", "b", "c")]
    stage.specs.push(make_desired(*tasks))
    await stage.run()

    stage.specs.push(make_desired(*tasks[1:], revision="2" * 40))
    await stage.run()
    gone = "a" not in stage.state.statuses
    stage.dispatch.reports["a"] = [FAILURE]
    stage.specs.push(make_desired(*tasks, revision="3" * 40))
    await stage.run()
    same = stage.state.statuses["a"]
    changed = make_task("a", goal="Something else.", generation="9" * 40)
    stage.specs.push(make_desired(changed, *tasks[1:], revision="4" * 40))
    await stage.run()

    assert (same.phase, same.attempt, same.archived) == (Phase.COMPLETED, 1, False)
    assigned = [step for step in stage.state.log if isinstance(step.event, Assigned)]
    runs = [step.event.run for step in assigned if step.task == "a"]
    assert gone
    assert [run.rpartition(".")[2] for run in runs] == ["a1", "a2", "a3"]
    assert stage.dispatch.reports["a"] == []


async def test_a_run_whose_file_moved_meanwhile_is_recorded_under_the_new_name(stage):
    task = make_task("a")
    stage.dispatch.hold = True
    stage.specs.push(make_desired(task))
    loop = stage.loop()
    running = asyncio.create_task(loop.run())
    await turns()

    stage.specs.push(make_desired(task.model_copy(update={"name": "moved/a"}), revision="2" * 40))
    loop.inbox.notify()
    await turns()
    (order,) = stage.dispatch.follows
    stage.dispatch.finish(order)
    await turns()
    loop.stop()
    await running

    assert order.task == "a"
    assert stage.state.statuses.keys() == {"moved/a"}
    assert stage.state.statuses["moved/a"].phase is Phase.COMPLETED


async def test_a_success_of_a_task_whose_removal_is_held_is_judged_by_its_last_spec(stage):
    stage.dispatch.hold = True
    stage.specs.push(
        make_desired(make_task("a", review="merge"), make_task("b", fix_attempts=1), make_task("c"))
    )
    await stage.run("started")

    stage.dispatch.reports = {"a": [SUCCESS], "b": [RED, SUCCESS]}
    stage.dispatch.hold = False
    stage.specs.push(make_desired(revision="2" * 40))
    await stage.run("started")
    await stage.run("started")

    assert stage.state.statuses["a"].phase is Phase.REVIEW_PENDING
    assert stage.state.statuses["b"].phase is Phase.COMPLETED
    assert stage.state.statuses["b"].run.round == 2
    assert {status.waiting.reason for status in stage.state.statuses.values()} == {Reason.APPROVAL}


# --- Hosts -----------------------------------------------------------------


async def test_a_run_on_a_lost_host_goes_on_elsewhere_and_its_result_is_refused(stage):
    stage.dispatch = Deaf()
    stage.specs.push(far_and_near())
    await stage.run()
    stage.specs.push(far_and_near(make_task("a", disconnect="retry", prefer="far"), revision="2" * 40))
    loop = stage.loop()
    follow(loop, stage)
    await loop.run()

    old = next(iter(stage.dispatch.started.values()))
    status = stage.state.statuses["a"]
    retried = next(step for step in stage.state.log if isinstance(step.event, Retried))
    assert (old.host.name, status.assigned_host) == ("far", "near")
    assert (status.phase, status.attempt, status.failures) == (Phase.COMPLETED, 2, 1)
    assert retried.event.failure.kind is FailureClass.HOST
    assert stage.dispatch.stopped == [(old.run, retried.event.origin.reason)]
    assert stage.dispatch.ended[old.key] == SUCCESS


async def test_a_host_that_was_away_is_not_lost_before_it_was_asked_again(stage):
    stage.dispatch.hold = True
    stage.specs.push(far_and_near(make_task("a", disconnect="fail", requires="far")))
    await stage.run("started")
    stage.prober.away = {"far"}
    loop = stage.loop()
    loop.listeners.steps.append(lambda _: loop.stop())
    await loop.run()
    assert not stage.state.hosts["far"].reachable

    stage.clock.time += timedelta(days=1)
    stage.prober.away = set()
    stage.dispatch.hold = False
    await stage.run()

    assert stage.state.phases("a")[-1] == "completed"


async def test_a_far_host_is_asked_before_anything_starts_there(stage):
    version = Version(command=("sh", "--version"))
    shell = Adapter(name="script", command=("{shell}", "-c", "{script}"), version=version)
    task = make_task("a", requires="far")
    stage.specs.push(far_and_near(task, adapters={"script": shell}))

    await stage.run()

    first = stage.state.log[0]
    assert first.after.waiting.message.startswith("waits for the first answer")
    assert stage.state.statuses["a"].phase is Phase.COMPLETED


async def test_until_started_waits_for_the_first_answer_of_a_host(stage):
    stage.dispatch.hold = True
    stage.specs.push(far_and_near(make_task("a", requires="far")))

    await stage.run("started")

    assert stage.state.statuses["a"].phase is Phase.RUNNING


# --- Days ------------------------------------------------------------------


async def test_what_was_spent_today_is_counted_and_read_again_after_a_restart(stage):
    costly = Report(verdict=Verdict(outcome="success", usage=Usage(output_tokens=60)))
    stage.dispatch.reports = {name: [costly] for name in "abc"}
    fleet = FleetSpec(daily_budget=Budget(tokens=100), max_running=1)
    stage.specs.push(make_desired(*map(make_task, "abc"), fleet=fleet))

    loop = await stage.run()
    counted = stage.state.counted
    again = await stage.run()

    phases = {name: str(status.phase) for name, status in stage.state.statuses.items()}
    assert phases == {"a": "completed", "b": "completed", "c": "created"}
    assert counted == 1
    for cache in (loop.cache, again.cache):
        assert cache.waiting["c"].reason is Reason.BUDGET
        assert cache.last_plan.due == START.replace(hour=0) + timedelta(days=1)


async def test_on_the_next_day_there_is_money_again(stage):
    costly = Report(verdict=Verdict(outcome="success", usage=Usage(output_tokens=100)))
    stage.dispatch.reports = {"a": [costly]}
    fleet = FleetSpec(daily_budget=Budget(tokens=100), max_running=1)
    stage.specs.push(make_desired(make_task("a"), make_task("b"), fleet=fleet))
    await stage.run()

    stage.clock.time += timedelta(days=1)
    await stage.run()

    assert stage.state.statuses["b"].phase is Phase.COMPLETED


async def test_without_daily_budgets_nobody_counts(stage):
    stage.specs.push(make_desired(make_task("a")))

    await stage.run()

    assert stage.state.counted == 0


# --- The end ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"window": "22:00-06:00"}, Reason.WINDOW),
        ({"schedule": "0 3 * * *"}, Reason.SCHEDULE),
        ({"not_before": "2030-01-02"}, Reason.NOT_BEFORE),
    ],
)
async def test_idle_is_a_fleet_that_waits_for_the_clock(stage, fields, reason):
    stage.specs.push(make_desired(make_task("a", **fields)))

    loop = await stage.run()

    assert loop.cache.waiting["a"].reason is reason
    assert stage.clock.time < START + timedelta(hours=1)


async def test_idle_is_a_fleet_that_waits_for_a_quota(stage):
    later = START + timedelta(hours=5)
    full = Verdict(outcome="failed", kind=FailureClass.QUOTA, message="limit", retry_at=later)
    stage.dispatch.reports = {"a": [Report(verdict=full)]}
    stage.specs.push(make_desired(make_task("a")))

    loop = await stage.run()

    assert loop.cache.waiting["a"].reason is Reason.QUOTA


async def test_a_fleet_that_is_served_on_does_scheduled_work_day_by_day(stage):
    stage.specs.push(make_desired(make_task("a", schedule="0 3 * * *")))
    loop = stage.loop()
    starts = []

    def stop_after_three(step):
        if isinstance(getattr(step, "event", None), Assigned):
            starts.append(step.event.origin.at)
        if len(starts) == 3:
            loop.stop()

    loop.listeners.steps.append(stop_after_three)
    await loop.run()

    assert [at.date().day for at in starts] == [2, 3, 4]
    assert {at.hour for at in starts} == {3}


# --- Words -----------------------------------------------------------------


async def turns():
    """Let everybody have some turns."""
    for _ in range(50):
        await asyncio.sleep(0)


class Deaf(FakeDispatch):
    """Runs on the far host do not end before they are stopped; then they say that they were done."""

    def follow(self, order, emit):
        self.hold = order.host.name == "far"
        super().follow(order, emit)

    def stop(self, order, why, emit):
        self.stopped.append((order.run, why))
        self.emits[order.key] = emit
        self.finish(order, SUCCESS)


def far_and_near(*tasks, **fields):
    """Return a revision with a host that is reached over SSH, and one that is here."""
    hosts = {"far": Host(name="far", address="far.example.org"), "near": Host(name="near")}
    return make_desired(*tasks, hosts=hosts, **fields)


def follow(loop, stage):
    """Let the far host fall silent once the run is there, and end with the task."""

    def step(step):
        status = getattr(step, "after", None)
        if getattr(status, "phase", None) is Phase.RUNNING and status.assigned_host == "far":
            stage.prober.away = {"far"}
        if getattr(status, "phase", None) is Phase.COMPLETED:
            loop.stop()

    loop.listeners.steps.append(step)

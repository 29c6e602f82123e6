"""What a mistake of ours in thinking about one thing does to all others: nothing."""

import asyncio
import logging
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest

from reconciler.controller import cache, observe
from reconciler.controller.poller import Poller
from reconciler.core.adapter import Adapter, Budget
from reconciler.core.conditions import conditions
from reconciler.core.errors import Problem
from reconciler.core.events import HostSeen, Origin, Removed
from reconciler.core.lifecycle import Transition
from reconciler.core.model.runs import Report, Verdict
from reconciler.core.model.specs import Host
from reconciler.core.model.status import Phase, Reason
from reconciler.core.planning.incremental import Planner
from reconciler.core.planning.plan import RecordEvent
from reconciler.core.runs import decide
from tests.fakes import FakeDispatch, FakeState, make_desired, make_task

ODD = Report(verdict=Verdict(outcome="success").model_copy(update={"outcome": "failed", "kind": "odd"}))
"""No reader makes such a verdict: judging it raises."""
UNPLANNABLE = {"schedule": "no cron expression"}
"""No file is let in with it: planning it raises."""


@dataclass
class Clumsy(FakeDispatch):
    """Fails, by a mistake of ours, to send anybody to a run of one task."""

    task: str = "a"

    def follow(self, order, emit):
        if order.task == self.task:
            raise KeyError(order.task)
        super().follow(order, emit)


@dataclass
class Choosy(FakeState):
    """Cannot write down what is about one task or host."""

    subject: str = "a"
    attempts: int = 0

    async def commit(self, steps):
        if any(_subject(step) == self.subject for step in steps):
            self.attempts += 1
            raise ValueError("this cannot be written")
        await super().commit(steps)


def _subject(step):
    return step.task if isinstance(step, Transition) else step.host


def broken_judging(stage):
    stage.dispatch.reports["a"] = [ODD, ODD, ODD]
    return {}


def broken_planning(_stage):
    return UNPLANNABLE


def broken_sending(stage):
    stage.dispatch = Clumsy()
    return {}


def broken_writing(stage):
    stage.state = Choosy()
    return {}


WAYS = [broken_judging, broken_planning, broken_sending, broken_writing]


@pytest.mark.parametrize("way", WAYS)
async def test_a_mistake_about_one_task_keeps_no_other_from_its_end(stage, way, caplog):
    fields = way(stage)
    stage.specs.push(make_desired(make_task("a", **fields), *map(make_task, "bcd")))

    await stage.run()

    assert {stage.state.statuses[name].phase for name in "bcd"} == {Phase.COMPLETED}
    assert any(record.exc_info for record in caplog.records if record.levelno >= logging.ERROR)


async def test_a_task_that_cannot_be_judged_stalls_alone_and_a_restart_does_not_loop(stage, monkeypatch):
    def next_event(task, *rest, **options):
        if task.name == "a":
            raise ValueError("a number that nobody thought of")
        return decide.next_event(task, *rest, **options)

    monkeypatch.setattr(observe, "next_event", next_event)
    stage.specs.push(make_desired(*map(make_task, "abcd"), make_task("e", depends_on=["d"])))
    await stage.run()
    recorded = len(stage.state.log)
    status = stage.state.statuses["a"]

    for restarts in range(1, 4):
        loop = await asyncio.wait_for(stage.run(), 60)
        assert len([order for order in stage.dispatch.follows if order.task == "a"]) == 1 + restarts

    assert {stage.state.statuses[name].phase for name in "bcde"} == {Phase.COMPLETED}
    (stalled,) = (each for each in conditions(make_task("a"), status, status.waiting) if each.status)
    assert (stalled.type, stalled.reason) == ("Stalled", Reason.FAULT)
    assert "a bug of the reconciler (ValueError" in stalled.message
    assert len(stage.state.log) == recorded
    assert loop.backoff.why == ""


async def test_what_is_planned_and_cannot_happen_sets_aside_its_own_task_alone(stage, monkeypatch):
    def odd_plan(planner, desired, observed, now):
        made = plain_plan(planner, desired, observed, now)
        if "a" not in observed.statuses or "a" in observed.faults:
            return made
        odd = Removed(
            task="a",
            origin=Origin(stage.clock.time, "out of the blue"),
        )
        return replace(made, actions=(*made.actions, RecordEvent(odd)))

    plain_plan = Planner.plan
    monkeypatch.setattr(Planner, "plan", odd_plan)
    stage.specs.push(make_desired(make_task("a", not_before="2031-01-01"), *map(make_task, "bc")))

    await stage.run()
    recorded = len(stage.state.log)
    loop = await stage.run()

    assert {stage.state.statuses[name].phase for name in "bc"} == {Phase.COMPLETED}
    assert stage.state.statuses["a"].waiting.reason is Reason.FAULT
    assert len(stage.state.log) == recorded
    assert loop.backoff.why == ""


async def test_a_task_of_which_it_cannot_be_told_whether_it_is_open_keeps_no_other_back(stage, monkeypatch):
    def needs_attention(spec, status):
        if spec is not None and spec.name == "a":
            raise ValueError
        return real(spec, status)

    real = cache.needs_attention
    monkeypatch.setattr(cache, "needs_attention", needs_attention)
    stage.specs.push(make_desired(*map(make_task, "abc")))

    loop = await stage.run()

    assert {status.phase for status in stage.state.statuses.values()} == {Phase.COMPLETED}
    assert loop.backoff.why == ""


@pytest.mark.parametrize("way", [broken_judging, broken_sending])
async def test_it_says_so_on_record_once_however_often_the_controller_is_started(stage, way):
    way(stage)
    stage.specs.push(make_desired(make_task("a")))
    await stage.run()
    waiting, before = stage.state.statuses["a"].waiting, len(stage.state.log)

    for _ in range(3):
        await stage.run()

    assert waiting.reason is Reason.FAULT
    assert "a bug of the reconciler" in waiting.message
    assert len(stage.state.log) == before


async def test_a_task_that_cannot_be_planned_says_so_once_and_goes_on_when_its_spec_is_mended(stage):
    stage.specs.push(make_desired(make_task("a", not_before="2031-01-01")))
    await stage.run()
    stage.specs.push(make_desired(make_task("a", **UNPLANNABLE), revision="2" * 40))
    await stage.run()
    before = len(stage.state.log)
    await stage.run()
    waiting = stage.state.statuses["a"].waiting

    stage.specs.push(make_desired(make_task("a"), revision="3" * 40))
    await stage.run()

    assert waiting.reason is Reason.FAULT
    assert len(stage.state.log) > before
    assert stage.state.statuses["a"].phase is Phase.COMPLETED
    assert stage.state.statuses["a"].waiting is None


async def test_what_came_of_a_run_is_judged_again_when_the_spec_changes(stage):
    stage.dispatch.reports["a"] = [ODD]
    stage.specs.push(make_desired(make_task("a")))
    await stage.run()
    (key,) = stage.dispatch.ended
    stage.dispatch.ended[key] = Report(verdict=Verdict(outcome="success"))

    stage.specs.push(make_desired(make_task("a", title="Mended"), revision="2" * 40))
    await stage.run()

    assert stage.state.statuses["a"].phase is Phase.COMPLETED
    assert stage.state.statuses["a"].waiting is None


async def test_a_run_that_cannot_be_thought_about_keeps_its_slots(stage):
    stage.dispatch.reports["a"] = [ODD]
    hosts = {"local": Host(name="local", slots=1)}
    stage.specs.push(make_desired(make_task("a"), make_task("b"), hosts=hosts))

    await stage.run("started")

    assert stage.state.statuses["a"].phase.is_live
    assert stage.state.statuses["b"].waiting.reason is Reason.SLOT


async def test_what_cannot_be_recorded_is_not_acted_on(stage):
    stage.state = Choosy()
    stage.specs.push(make_desired(make_task("a"), make_task("b", depends_on=["a"])))

    loop = await stage.run()

    assert stage.dispatch.started == {}
    assert loop.cache.statuses["b"].waiting.reason is Reason.DEPENDENCY
    assert stage.state.attempts < 5


async def test_a_task_whose_status_is_damaged_is_left_alone_and_everything_of_its_runs_is_kept(stage):
    problem = Problem("fleet-state/tasks/a.yaml", 3, 1, "not readable as YAML")
    stage.state.damaged["a"] = problem
    stage.specs.push(make_desired(make_task("a"), make_task("b"), make_task("c", depends_on=["a"])))

    loop = await stage.run()

    assert {order.task for order in stage.dispatch.follows} == {"b"}
    assert stage.state.statuses.keys() == {"b", "c"}
    assert loop.cache.waiting["a"].message == str(problem)
    assert stage.state.statuses["c"].waiting.reason is Reason.DEPENDENCY
    assert all(needs.is_of_damaged("a.g12345678.a1") for needs in stage.dispatch.swept)


async def test_a_damaged_status_is_no_spec_that_was_removed(stage):
    stage.state.damaged["a"] = Problem("fleet-state/tasks/a.yaml", 1, 1, "not UTF-8")
    stage.specs.push(make_desired(make_task("b")))

    await stage.run()

    assert stage.state.statuses.keys() == {"b"}


async def test_what_a_probe_finds_of_one_host_keeps_no_other_waiting(stage, caplog):
    odd = HostSeen(host="far", at=stage.clock(), status="odd")
    hosts = {name: Host(name=name, address=name) for name in ("far", "near")}
    stage.specs.push(make_desired(make_task("a", requires="near"), hosts=hosts))
    loop = stage.loop()
    loop.inbox.emit(odd)

    await loop.run("idle")

    assert stage.state.statuses["a"].phase is Phase.COMPLETED
    assert "host far" in caplog.text


async def test_a_look_that_fails_altogether_is_taken_again_later(stage, caplog):
    stage.specs.push(make_desired(make_task("a")))
    loop, read = stage.loop(), stage.specs.read
    failures = [RuntimeError("a mistake")] * 3

    async def fail(statuses):
        if failures:
            raise failures.pop()
        return await read(statuses)

    stage.specs.read = fail
    started = stage.clock.time
    await loop.run("idle")

    assert stage.state.statuses["a"].phase is Phase.COMPLETED
    assert stage.clock.time - started >= timedelta(seconds=7)
    assert "a look failed with an unexpected error" in caplog.text


# --- Beside the tasks ------------------------------------------------------


async def test_spending_that_cannot_be_read_holds_up_what_a_budget_bounds_and_nothing_else(stage):
    class Broke(FakeState):
        async def spent(self, since):
            raise KeyError("a bug")

    stage.state = Broke()
    shell = Adapter(name="script", command=("{shell}", "-c", "{script}"))
    paid = shell.model_copy(update={"name": "paid", "daily_budget": Budget(cost_usd=1)})
    adapters = {"script": shell, "paid": paid}
    stage.specs.push(make_desired(make_task("a"), make_task("b", adapter="paid"), adapters=adapters))

    loop = await stage.run()

    assert stage.state.statuses["a"].phase is Phase.COMPLETED
    assert stage.state.statuses["b"].waiting.reason is Reason.BUDGET
    assert "what was spent today cannot be read" in stage.state.statuses["b"].waiting.message
    assert loop.backoff.why == ""


async def test_a_listener_that_fails_costs_nobody_else_the_news(stage):
    def fail(*_):
        raise KeyError("a bug")

    heard = []
    stage.specs.push(make_desired(make_task("a")))
    loop = stage.loop()
    loop.listeners.steps += [fail, heard.append]
    loop.listeners.specs += [fail, lambda: heard.append("specs")]

    await loop.run(until="idle")

    assert stage.state.statuses["a"].phase is Phase.COMPLETED
    assert [step for step in heard if isinstance(step, Transition)] == stage.state.log
    assert "specs" in heard
    assert loop.backoff.why == ""


async def test_a_poll_that_meets_a_bug_says_so_to_whom_it_is_about(stage):
    polls = []

    async def poll(subject):
        polls.append(subject)
        raise KeyError("a bug")

    poller = Poller(
        poll=poll,
        subjects=lambda: {"web": 1},
        interval=lambda: timedelta(minutes=1),
        clock=lambda: stage.clock.time,
        failure="it is not asked now",
    )
    poller.poll_due(stage.clock.time)
    await asyncio.gather(*poller.running.values())

    stage.clock.time += timedelta(minutes=11)

    assert "a bug of the reconciler (KeyError" in poller.lasting_failures(stage.clock.time)["web"]

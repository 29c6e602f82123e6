"""
Hosts on which no run can start: they take no task, fail none, and come back by themselves.
"""

from dataclasses import replace
from datetime import timedelta

import pytest

from reconciler.controller.loop import Loop
from reconciler.core.hosts import FAILED_STARTS
from reconciler.core.model.runs import FailureClass, Report, Verdict
from reconciler.core.model.specs import Host
from reconciler.core.model.status import Phase
from reconciler.core.runs.decide import MOST_FAILED_STARTS
from tests.fakes import SUCCESS, UNSTARTED, make_desired, make_task

MANY = [make_task(f"t{number:02}", retries=0) for number in range(40)]
ALONE = {"bad": Host(name="bad", address="192.0.2.1", slots=2)}
BESIDE = {**ALONE, "good": Host(name="good", address="192.0.2.2", slots=2)}


def phases(stage) -> set[Phase]:
    return {status.phase for status in stage.state.statuses.values()}


async def until_hour(stage, loop: Loop, hours: float) -> None:
    """Let the loop go on for so long."""
    end = stage.clock.time + timedelta(hours=hours)

    async def pause(news, longest) -> None:
        await stage.clock.pause(news, longest)
        if stage.clock.time >= end:
            loop.stop()

    loop.ports = replace(loop.ports, pause=pause)
    await loop.run()


@pytest.mark.parametrize("seen_by_probe", [True, False])
async def test_forty_tasks_before_one_broken_host_wait_and_none_fails(stage, seen_by_probe):
    stage.dispatch.broken = {"bad"}
    stage.prober.faults = {"bad": "no room"} if seen_by_probe else {}
    stage.specs.push(make_desired(*MANY, hosts=ALONE))

    await until_hour(stage, stage.loop(), 3)

    assert phases(stage) == {Phase.CREATED}
    assert all(status.failures == 0 for status in stage.state.statuses.values())
    assert len(stage.dispatch.refused) <= (0 if seen_by_probe else FAILED_STARTS + 2 + 9)
    message = {status.waiting.message for status in stage.state.statuses.values() if status.waiting}
    assert any("no host fits: bad cannot start runs: " in each for each in message), message
    assert stage.state.hosts["bad"].fault


async def test_a_broken_host_does_not_keep_the_others_from_working(stage):
    stage.dispatch.broken = {"bad"}
    stage.specs.push(make_desired(*MANY, hosts=BESIDE))

    await stage.run()

    assert phases(stage) == {Phase.COMPLETED}
    assert {order.host.name for order in stage.dispatch.started.values()} == {"good"}


@pytest.mark.parametrize("seen_by_probe", [True, False])
async def test_a_mended_host_works_again_by_itself(stage, seen_by_probe):
    stage.dispatch.broken = {"bad"}
    stage.prober.faults = {"bad": "no room"} if seen_by_probe else {}
    stage.specs.push(make_desired(*MANY, hosts=ALONE))
    loop = stage.loop()
    await until_hour(stage, loop, 1)

    stage.dispatch.broken, stage.prober.faults = set(), {}
    again = stage.loop() if seen_by_probe else loop
    again._is_stopped = False
    await until_hour(stage, again, 4)

    assert phases(stage) == {Phase.COMPLETED}
    assert stage.state.hosts["bad"].fault == ""


async def test_while_it_is_broken_the_same_words_stay_on_record(stage):
    stage.dispatch.broken = {"bad"}
    stage.specs.push(make_desired(*MANY, hosts=ALONE))
    loop = stage.loop()
    await until_hour(stage, loop, 1)
    before, hosts = len(stage.state.log), len(stage.state.host_log)

    loop._is_stopped = False
    await until_hour(stage, loop, 5)

    others = [step for step in stage.state.log[before:] if step.task not in tried(stage)]
    assert others == []
    assert len(stage.state.host_log) == hosts


def tried(stage) -> set[str]:
    """Return the tasks that a start was tried for."""
    return {order.task for order in stage.dispatch.refused}


async def test_a_task_that_alone_cannot_start_fails_in_the_end_and_its_host_goes_on(stage):
    stage.dispatch.reports = {"a": [UNSTARTED] * (MOST_FAILED_STARTS + 1)}
    stage.specs.push(make_desired(make_task("a", retries=0), make_task("b"), hosts=ALONE))

    await stage.run()

    assert stage.state.statuses["a"].phase is Phase.FAILED
    assert stage.state.statuses["a"].failure.kind is FailureClass.HOST
    assert stage.state.statuses["a"].attempt == MOST_FAILED_STARTS + 1
    assert stage.state.statuses["b"].phase is Phase.COMPLETED
    assert stage.state.hosts["bad"].fault == ""


async def test_a_host_that_ends_the_runs_of_three_tasks_in_a_row_takes_down_no_more(stage):
    killed = Verdict(outcome="failed", kind=FailureClass.HOST, message="ended by SIGKILL")
    names = [f"t{number}" for number in range(9)]
    stage.dispatch.reports = {name: [Report(verdict=killed)] * 9 for name in names}
    one = {"bad": Host(name="bad", address="192.0.2.1", slots=1)}
    stage.specs.push(make_desired(*(make_task(name, retries=0) for name in names), hosts=one))

    await until_hour(stage, stage.loop(), 0.05)

    failed = [name for name, status in stage.state.statuses.items() if status.phase is Phase.FAILED]
    assert len(failed) == FAILED_STARTS + 1, "three, and the one that tried it a minute later"
    assert stage.state.hosts["bad"].fault == (
        "the runs of 3 tasks in a row were ended by a fault of the host: ended by SIGKILL"
    )


async def test_a_start_that_succeeds_makes_the_count_begin_anew(stage):
    names = ("a", "b", "c", "d")
    stage.dispatch.reports = {name: [UNSTARTED] for name in names if name != "c"}
    one = {"bad": Host(name="bad", address="192.0.2.1", slots=1)}
    stage.specs.push(make_desired(*(make_task(name) for name in names), hosts=one))

    await stage.run()

    assert phases(stage) == {Phase.COMPLETED}
    assert all(change.after is None or not change.after.fault for change in stage.state.host_log)


async def test_what_fails_on_a_host_after_the_agent_started_is_an_attempt(stage):
    gone = Verdict(outcome="failed", kind=FailureClass.HOST, message="the disk is full")
    stage.dispatch.reports = {"a": [Report(verdict=gone), SUCCESS]}
    stage.specs.push(make_desired(make_task("a", retries=1), hosts=ALONE))

    await stage.run()

    assert stage.state.statuses["a"].failures == 1
    assert stage.state.hosts["bad"].fault == ""


async def test_this_machine_is_a_host_like_any_other(stage):
    stage.dispatch.broken = {"local"}
    stage.specs.push(make_desired(*MANY))

    await until_hour(stage, stage.loop(), 1)

    assert phases(stage) == {Phase.CREATED}
    assert stage.state.hosts["local"].fault

"""
What a sweep may take away, and which runs it ends.
"""

from datetime import timedelta

import pytest

from reconciler.core.model.specs import FleetSpec
from reconciler.core.model.status import Phase, Status
from tests.fakes import START
from tests.statuses import make_status, retention_of

FLEET = FleetSpec(keep_failed=timedelta(days=7), keep_failed_mb=10)
LIVE = [phase for phase in Phase if phase.is_live]
OVER = [phase for phase in Phase if not phase.is_live]


def status(run: str | None, phase: Phase = Phase.RUNNING, *, age: timedelta = timedelta(0)) -> Status:
    return make_status(
        phase=phase,
        since=START - age,
        created_at=START - age,
        generation="1" * 40,
        work="w",
        attempt=int(run.rpartition(".a")[2]) if run else 0,
        run=run,
    )


def of(**statuses: Status):
    return retention_of(statuses, START, FLEET)


@pytest.mark.parametrize("phase", LIVE)
def test_the_run_a_task_asks_for_is_not_stale(phase):
    assert not of(a=status("a.g1.a2", phase)).is_stale("a.g1.a2")


@pytest.mark.parametrize("phase", list(Phase))
def test_an_attempt_that_its_task_has_left_behind_is_stale(phase):
    assert of(a=status("a.g1.a2", phase)).is_stale("a.g0.a1")


@pytest.mark.parametrize("phase", OVER)
def test_a_run_that_is_on_record_as_over_is_stale(phase):
    assert of(a=status("a.g1.a2", phase)).is_stale("a.g1.a2")


def test_a_run_of_a_task_without_a_status_was_let_go_of_and_is_left_alone():
    assert not of(a=status("a.g1.a2")).is_stale("b.g1.a1")


@pytest.mark.parametrize("run", ["a.g1.a3", "a.g2.a2"])
def test_a_run_that_is_not_on_record_here_is_left_alone(run):
    assert not of(a=status("a.g1.a2")).is_stale(run)


@pytest.mark.parametrize("name", ["a", "", "a.g1", "a.g1.ax", "a.a1"])
def test_what_is_no_run_is_left_alone(name):
    assert not of(a=status("a.g1.a2")).is_stale(name)


def test_a_run_keeps_its_name_when_its_task_is_renamed():
    found = of(new=status("old.g1.a1"), old=status("old.g1.a2"))

    assert not found.is_stale("old.g1.a1")


def test_all_of_open_tasks_and_fresh_failures_are_needed():
    found = of(
        a=status("a.g1.a1", Phase.REVIEW_PENDING),
        b=status("b.g1.a1", Phase.COMPLETED),
        c=status("c.g1.a1", Phase.FAILED, age=timedelta(days=1)),
        d=status("d.g1.a1", Phase.FAILED),
        e=status("e.g1.a1", Phase.FAILED, age=timedelta(days=7)),
        f=status(None, Phase.CREATED),
    )

    assert found.open == {"a.g1.a1"}
    assert found.failed == ("d.g1.a1", "c.g1.a1")


@pytest.mark.parametrize(
    ("sizes", "kept"),
    [
        ({}, "abc"),
        ({"a": 4, "b": 4, "c": 2}, "abc"),
        ({"a": 4, "b": 4, "c": 3}, "ab"),
        ({"a": 4, "b": 7, "c": 1}, "a"),
        ({"a": 11}, ""),
    ],
)
def test_the_oldest_failures_give_way_when_there_is_no_room(sizes, kept):
    names = {name: f"{name}.g1.a1" for name in "abc"}
    found = of(
        **{
            name: status(run, Phase.FAILED, age=timedelta(hours=ord(name)))
            for name, run in reversed(names.items())
        }
    )

    stay = found.failed_with_room({names[name]: mb * 1024 for name, mb in sizes.items()})

    assert stay == {names[name] for name in kept}


def test_earlier_attempts_of_an_open_task_belong_to_it():
    found = of(**{"web/a": status("web/a.g1.a3", Phase.CREATED), "b": status("b.g1.a1", Phase.COMPLETED)})

    assert found.is_of_open_task("web/a.g0.a1")
    assert not found.is_of_open_task("b.g1.a1")
    assert not found.is_of_open_task("c.g1.a1")

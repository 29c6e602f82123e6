from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.events import Assigned, Created, Origin
from reconciler.core.faults import OUTCOME, culprits, fault_message
from reconciler.core.fields import parse_duration
from reconciler.core.lifecycle import transition
from reconciler.core.model.runs import run_key
from reconciler.core.model.status import Observed, OnHost, Reason
from reconciler.core.planning.plan import FollowRun, StartRun, plan
from tests.fakes import START, make_desired, make_task

names = st.lists(st.text("abc", min_size=1, max_size=3), unique=True, max_size=20)


@given(names, st.data())
def test_exactly_those_are_found_that_cannot_be_thought_about(everybody, data):
    bad = data.draw(st.sets(st.sampled_from(everybody))) if everybody else set()

    def think(some):
        for name in some:
            if name in bad:
                raise ValueError(name)

    found = culprits(think, everybody)

    assert {name: str(error) for name, error in found.items()} == {name: name for name in bad}


def test_those_that_fail_only_together_are_all_found():
    def think(some):
        if {"b", "c"} <= {*some}:
            raise ValueError("one of us too many")

    assert culprits(think, ["a", "b"]) == {}
    assert culprits(think, ["a", "b", "c", "d"]).keys() == {"a", "b", "c", "d"}


def test_a_mistake_has_the_same_words_whatever_values_led_to_it():
    told = set()
    for value in ("a", "b"):
        try:
            parse_duration(value)
        except ValueError as error:
            told.add(fault_message(error, OUTCOME))

    (message,) = told
    assert "ValueError in reconciler.core.fields:" in message


@given(st.integers(0, 5), st.integers(0, 5))
def test_a_task_that_cannot_be_planned_says_so_and_all_others_are_planned_as_without_it(good, bad):
    fine = [make_task(f"good{number}") for number in range(good)]
    odd = [make_task(f"odd{number}", schedule="none") for number in range(bad)]

    alone = plan(make_desired(*fine), Observed(), START)
    mixed = plan(make_desired(*fine, *odd), Observed(), START)

    assert mixed.faults.keys() == {task.name for task in odd}
    assert [action for action in mixed.actions if isinstance(action, StartRun)] == [
        action for action in alone.actions if isinstance(action, StartRun)
    ]
    assert {
        name for name, wait in mixed.waiting.items() if wait.reason is Reason.FAULT
    } == mixed.faults.keys()


def test_a_task_that_is_set_aside_is_neither_followed_nor_started():
    task = make_task("a")
    new = transition(None, Created(task="a", origin=Origin(START, ""), spec=task))
    run = run_key("a", task.generation, 1)
    live = transition(
        new, Assigned(task="a", origin=Origin(START, ""), run=run, holder=OnHost(host="local"), spec=task)
    )
    desired, statuses = make_desired(task, make_task("b")), {"a": live, "b": new}
    assert len(plan(desired, Observed(statuses), START).actions) > 1

    found = plan(desired, Observed(statuses, faults={"a": "why", "b": "why"}), START)

    assert not [action for action in found.actions if isinstance(action, FollowRun | StartRun)]
    assert {wait.message for wait in found.waiting.values()} == {"why"}

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.conditions import conditions
from reconciler.core.errors import Problem
from reconciler.core.model.runs import FailureClass
from reconciler.core.model.specs import Task
from reconciler.core.model.status import Failure, Phase, Reason, Waiting
from tests.statuses import make_status
from tests.strategies import NOW, WAITINGS, statuses, tasks

TASK = Task(name="a", generation="1" * 40, work="w", goal="Do it.")


@given(st.data())
def test_a_task_is_never_two_of_ready_progressing_and_stalled(data):
    task = data.draw(tasks("a"))
    status = data.draw(st.none() | statuses(task))
    waiting = data.draw(st.none() | WAITINGS)
    problems = data.draw(st.sampled_from([(), (Problem("specs/tasks/a.yaml", 1, 1, "no"),)]))

    found = conditions(task, status, waiting, problems)

    assert [condition.type for condition in found] == ["Ready", "Progressing", "Stalled"]
    assert all(condition.reason and condition.message for condition in found)
    if status is None or status.phase is not Phase.COMPLETED:
        assert sum(condition.status for condition in found) <= 1


@pytest.mark.parametrize(
    ("phase", "holds"),
    [
        (Phase.CREATED, "Progressing"),
        (Phase.ASSIGNED, "Progressing"),
        (Phase.RUNNING, "Progressing"),
        (Phase.REVIEW_PENDING, "Progressing"),
        (Phase.COMPLETED, "Ready"),
        (Phase.FAILED, "Stalled"),
        (Phase.ESCALATED, "Stalled"),
        (Phase.CANCELLED, None),
    ],
)
def test_a_phase_is_one_condition_or_none(phase, holds):
    assert true_ones(conditions(TASK, stand(phase), None)) == ([holds] if holds else [])


@pytest.mark.parametrize(
    ("reason", "holds"),
    [
        (Reason.DEPENDENCY, "Progressing"),
        (Reason.SLOT, "Progressing"),
        (Reason.BACKOFF, "Progressing"),
        (Reason.QUOTA, "Progressing"),
        (Reason.AGENT, "Progressing"),
        (Reason.HOST, "Stalled"),
        (Reason.SPEC_ERROR, "Stalled"),
        (Reason.APPROVAL, "Stalled"),
        (Reason.SUSPENDED, None),
    ],
)
def test_waiting_is_progress_unless_a_person_must_act(reason, holds):
    waiting = Waiting(reason=reason, message="words", since=NOW)

    found = conditions(TASK, stand(Phase.CREATED), waiting)

    assert true_ones(found) == ([holds] if holds else [])
    assert {(c.reason, c.message, c.since) for c in found} == {(reason, "words", NOW)}


def test_a_broken_spec_is_said_first():
    problem = Problem("specs/tasks/a.yaml", 3, 5, "unknown field")
    waiting = Waiting(reason=Reason.SLOT, message="no free slot", since=NOW)

    for since, given_waiting in ((None, None), (NOW, waiting)):
        found = conditions(None, None, given_waiting, [problem])
        assert true_ones(found) == ["Stalled"]
        assert found[0].message == "specs/tasks/a.yaml:3:5: error: unknown field"
        assert found[0].since == since


def test_a_task_that_was_never_seen_is_new():
    found = conditions(TASK, None, None)

    assert true_ones(found) == ["Progressing"]
    assert found[0].reason == "New"


FAILURE = Failure(kind=FailureClass.AUTH, message="log in again")


@pytest.mark.parametrize(
    ("status", "message"),
    [
        ({"phase": Phase.CREATED}, "about to start"),
        ({"phase": Phase.RUNNING}, "round 2 of attempt 3 on alpha"),
        ({"phase": Phase.REVIEW_PENDING}, "task/a waits to be merged"),
        ({"phase": Phase.COMPLETED}, "done"),
        ({"phase": Phase.COMPLETED, "work": "older"}, "done; newer work is asked for"),
        ({"phase": Phase.FAILED, "failure": FAILURE}, "log in again"),
        ({"phase": Phase.ESCALATED}, "escalated"),
        ({"phase": Phase.CANCELLED}, "cancelled"),
        ({"phase": Phase.RUNNING, "removed": True}, "the spec was removed; cleaning up"),
    ],
)
def test_the_message_says_where_the_task_stands(status, message):
    found = conditions(TASK, stand(**status), None)

    assert {condition.message for condition in found} == {message}


def test_the_reason_is_one_word():
    assert conditions(TASK, stand(Phase.REVIEW_PENDING), None)[0].reason == "ReviewPending"


# --- Words -----------------------------------------------------------------


def stand(phase, **fields):
    head = {"since": NOW, "created_at": NOW, "generation": "1" * 40, "work": "w"}
    run = {"attempt": 3, "round": 2, "assigned_host": "alpha", "branch_name": "task/a"}
    return make_status(**{"phase": phase, **head, **run, **fields})


def true_ones(found):
    return [condition.type for condition in found if condition.status]

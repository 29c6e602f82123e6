"""Which comments are commands, what they change, and what people are answered."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.forge.comments import (
    Command,
    apply_command,
    parse_command,
    refusal_reply,
    status_reply,
    success_reply,
)
from reconciler.core.model.runs import FailureClass
from reconciler.core.model.specs import TaskSpec
from reconciler.core.model.status import Failure, Phase, PullRequest, Reason, Status, Waiting
from tests.fakes import START
from tests.statuses import make_status


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/agent retry", Command("retry")),
        ("\n  /agent  cancel \r\nbecause it is wrong", Command("cancel")),
        ("/agent status", Command("status")),
        ("/agent model claude-opus-4.5[1m]", Command("model", "claude-opus-4.5[1m]")),
        ("/agent host gpu-1", Command("host", "gpu-1")),
        ("/agent answer Use B.", Command("answer", "Use B.")),
        (
            " /agent  answer q1-2 Use B.\r\n\n- it is new\n",
            Command("answer", "Use B.\n\n- it is new", "q1-2"),
        ),
        ("/agent answer\nUse B.", Command("answer", "Use B.")),
        ("/agent answer q1-2x is it", Command("answer", "q1-2x is it")),
        ("/agent answer", Command("unknown", "/agent answer")),
        ("/agent answer q1-2 \n", Command("unknown", "/agent answer q1-2")),
        ("/agent answers no", Command("unknown", "/agent answers no")),
        ("/agent", Command("unknown", "/agent")),
        ("/agent retry now", Command("unknown", "/agent retry now")),
        ("/agent model", Command("unknown", "/agent model")),
        ("/agent model --dangerously", Command("unknown", "/agent model --dangerously")),
        ("/agent model $(id)", Command("unknown", "/agent model $(id)")),
        ("/agent Retry", Command("unknown", "/agent Retry")),
    ],
)
def test_the_first_line_of_a_comment_may_be_a_command(text, expected):
    assert parse_command(text) == expected


@pytest.mark.parametrize(
    "text", ["", "please /agent retry", "> /agent retry", "/agents", "ok\n/agent retry", "`/agent retry`"]
)
def test_any_other_comment_asks_for_nothing(text):
    assert parse_command(text) is None


@given(st.text(max_size=200))
def test_a_value_is_one_safe_word_whatever_stands_there(text):
    found = parse_command(f"/agent model {text}")

    assert found.verb == "unknown" or re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:/@+\[\]-]*", found.value)


def status(phase: Phase, **fields: object) -> Status:
    known = {"since": START, "created_at": START, "generation": "a" * 40, "work": "b" * 12}
    return make_status(phase, **known, **fields)


# --- What they change ------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "phase", "expected"),
    [
        (Command("retry"), Phase.FAILED, {"rerun": 3}),
        (Command("retry"), Phase.RUNNING, "a is running: it is not settled, so there is nothing to retry"),
        (Command("cancel"), Phase.RUNNING, {"desired": "cancelled"}),
        (Command("model", "m"), Phase.RUNNING, {"model": "m"}),
        (Command("host", "gpu-1"), Phase.CREATED, {"prefer": ["gpu-1"]}),
        (Command("host", "cpu"), Phase.CREATED, "there is no host 'cpu'; there are: gpu-1, local"),
        (Command("unknown", "/agent dance"), Phase.CREATED, "'/agent dance' is no command"),
    ],
)
def test_a_command_changes_the_file_of_its_task(command, phase, expected):
    spec = TaskSpec(goal="g", rerun=2)

    assert apply_command(command, "a", spec, status(phase), {"local", "gpu-1"}) == expected


def test_an_answer_goes_to_the_question_that_waits():
    asking = status(Phase.CREATED, questions=[{"id": "q1-1", "text": "A or B?", "asked_at": START}])

    changes = apply_command(Command("answer", "B"), "a", TaskSpec(goal="g"), asking, ())

    assert changes == {"answer": {"to": "q1-1", "text": "B"}}


def test_a_cancelled_task_is_brought_back_by_retry():
    spec = TaskSpec(goal="g", desired="cancelled")

    assert apply_command(Command("retry"), "a", spec, None, ()) == {"desired": "active", "rerun": 1}


# --- Answers ---------------------------------------------------------------


def test_the_standing_says_phase_attempts_and_what_is_waited_for_and_nothing_in_it_is_obeyed():
    waiting = Waiting(reason=Reason.BACKOFF, message="@all `x`\n#1", since=START)
    failure = Failure(kind=FailureClass.VALIDATION, message="<img src=x>")
    pull = PullRequest(number=9, url="https://forge.example.org/calc/pulls/9")
    facts = {"attempt": 2, "failures": 1, "review_count": 1, "assigned_host": "gpu-1"}

    text = status_reply(
        "web/a", status(Phase.CREATED, waiting=waiting, failure=failure, pull_request=pull, **facts)
    )

    assert text == (
        "Task `web/a` is **created**.\n\n"
        "- waits for Backoff: ``@all `x` #1``\n"
        "- last failure (validation): `<img src=x>`\n"
        "- attempts: 2, of which 1 failed\n"
        "- last run on `gpu-1`\n"
        "- rounds of requested changes: 1\n"
        "- pull request: #9"
    )


def test_a_task_without_a_record_is_new():
    assert status_reply("a", None) == "Task `a` is new; nothing is on record yet."
    assert status_reply("a", status(Phase.CREATED)) == "Task `a` is **created**."


@pytest.mark.parametrize("verb", ["retry", "cancel", "model", "host", "answer"])
def test_an_answer_is_no_command_itself(verb):
    assert parse_command(success_reply(Command(verb, "x"), "a")) is None
    assert parse_command(refusal_reply("/agent retry")) is None

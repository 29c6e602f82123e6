"""A plan first: what is asked for, what an answer to it means, and that nothing else is done before."""

import pytest

from reconciler.core.adapter import Adapter
from reconciler.core.edits import answering, approving, rejecting, releasing
from reconciler.core.errors import UsageError
from reconciler.core.events import Cancelled, Escalated, QuestionAsked, RunEnded
from reconciler.core.forge.comments import apply_command, parse_command
from reconciler.core.lifecycle import fold, transition
from reconciler.core.model.runs import Declaration, Report, Verdict, read_run_key
from reconciler.core.model.specs import FleetSpec
from reconciler.core.model.status import Observed, Phase
from reconciler.core.plans import MOST_PLANS, plan_answer
from reconciler.core.runs.command import build_run_request
from reconciler.core.runs.decide import next_event
from reconciler.core.views import ReadModel, task_need
from tests.fakes import make_desired, make_task
from tests.strategies import NOW, plan

CLAUDE = Adapter(
    name="script",
    command=("claude", "{mode}", "{session}"),
    work=("--do",),
    plan=("--look",),
    resume=("--resume", "{session_id}"),
)
PLAN = "1. Move the table.\n2. Test it."


def task(**fields):
    return make_task("a", mode="plan", **fields)


def desired(spec):
    return make_desired(spec, adapters={"script": CLAUDE})


def after(spec, statuses):
    """Return the statuses after what a plan puts on record."""
    return fold(statuses, plan(desired(spec), Observed(statuses), NOW).events)[0]


def ended(spec, statuses, text=PLAN, **fields):
    """Return the event of a round that ended well, with its last words."""
    run, number = statuses["a"].last_run.round_key
    report = Report(verdict=Verdict(outcome="success", text=text, session_id="s1"), **fields)
    fact = RunEnded(task="a", run=run, round=number, at=NOW, report=report)
    return next_event(spec, statuses["a"], fact, NOW, FleetSpec())


def begun(spec):
    return after(spec, after(spec, {}))


def planned(spec):
    """Return the statuses of a task whose plan waits for its answer."""
    statuses = begun(spec)
    return fold(statuses, [ended(spec, statuses)])[0]


def answered(text, to="q1-1"):
    """Return the task with an answer in its file, and the statuses after the look at it."""
    spec = make_task("a", mode="plan", answer={"to": to, "text": text})
    return spec, after(spec, planned(task()))


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("approve", "yes"),
        ("Yes!", "yes"),
        ("  LGTM.", "yes"),
        ("go ahead", "yes"),
        ("reject", "no"),
        ("No.", "no"),
        ("yes, but leave the tests alone", "change"),
        ("no tables", "change"),
        ("", "change"),
    ],
)
def test_only_a_yes_alone_approves_and_only_a_no_alone_rejects(text, meaning):
    assert plan_answer(text) == meaning


def test_the_first_round_only_makes_a_plan():
    spec = task(validation=["make test"])

    order = build_run_request(spec, begun(spec)["a"], desired(spec))

    assert (order.mode, order.argv) == ("plan", ("claude", "--look"))
    assert "only a plan" in order.prompt


def test_a_plan_waits_for_a_person_with_its_slot_free_and_its_session_kept():
    status = planned(task())["a"]

    assert (status.phase, status.live_run, status.session.id) == (Phase.CREATED, None, "s1")
    assert (status.question.kind, status.question.text) == ("plan", PLAN)
    assert status.waiting.message == "has a plan and waits for a yes (q1-1): 1. Move the table. 2. Test it."
    view = ReadModel(desired(task()), Observed({"a": status})).task("a")
    assert task_need(view) == ("Question", status.waiting.message)


def test_an_approved_plan_is_carried_out_by_the_same_session_in_the_same_attempt():
    spec, statuses = answered("approve")

    order = build_run_request(spec, statuses["a"], desired(spec))

    assert (order.run, order.round, order.mode) == (statuses["a"].run_key, 2, "work")
    assert order.argv == ("claude", "--do", "--resume", "s1")
    assert "Carry it out now." in order.prompt
    assert "only a plan" not in order.prompt


def test_an_answer_with_words_asks_for_another_plan():
    spec, statuses = answered("Leave the table alone.")

    order = build_run_request(spec, statuses["a"], desired(spec))

    assert (order.round, order.mode, order.argv[1]) == (2, "plan", "--look")
    assert "Leave the table alone." in order.prompt
    assert "Carry it out" not in order.prompt


def test_a_rejected_plan_ends_the_task_until_it_is_asked_for_again():
    spec, statuses = answered("no")

    settled = after(spec, statuses)
    again = make_task("a", mode="plan", answer={"to": "q1-1", "text": "no"}, rerun=1)
    renewed = after(again, settled)

    assert (statuses["a"].phase, settled) == (Phase.CANCELLED, statuses)
    assert (renewed["a"].phase, renewed["a"].last_run.mode, renewed["a"].attempt) == (
        Phase.ASSIGNED,
        "plan",
        2,
    )


def test_the_rejection_says_who():
    spec = make_task("a", mode="plan", answer={"to": "q1-1", "text": "reject"})
    events = plan(desired(spec), Observed(planned(task())), NOW).events

    [cancelled] = [event for event in events if isinstance(event, Cancelled)]
    assert "plan q1-1 was rejected" in cancelled.origin.reason


def test_work_that_failed_is_tried_again_without_another_plan_and_with_the_approved_one():
    spec, statuses = answered("yes")
    live = statuses["a"]
    failed = fold(statuses, [ended(spec, statuses, commits=0)])[0]
    assert failed["a"].phase is Phase.COMPLETED  # no repo: nothing to change
    fresh = live.model_copy(update={"phase": Phase.CREATED, "session": None, "failures": 1})

    again = after(spec, {"a": fresh.model_copy(update={"questions": live.questions, "attempt": 1})})

    order = build_run_request(spec, again["a"], desired(spec))
    assert order.mode == "work"
    assert "Move the table." in order.prompt


def test_a_question_while_planning_is_asked_and_the_plan_comes_after_it():
    spec = task()
    statuses = begun(spec)
    declared = Declaration(kind="question", text="Which?")
    asking = fold(statuses, [ended(spec, statuses, text="", declared=declared)])[0]
    assert asking["a"].question.kind == "question"

    told = make_task("a", mode="plan", answer={"to": "q1-1", "text": "yes"})

    assert after(told, asking)["a"].last_run.mode == "plan"


def test_a_plan_without_words_is_a_failure():
    spec = task(retries=0)

    assert ended(spec, begun(spec), text=" ").failure.message.endswith("its last words hold none")


def test_plans_are_limited_in_number():
    spec = task()
    statuses = begun(spec)
    old = [
        {"id": f"q0-{n}", "kind": "plan", "text": "p", "asked_at": NOW, "answer": "other"}
        for n in range(MOST_PLANS)
    ]
    questions = tuple(type(planned(spec)["a"].question).model_validate(each) for each in old)
    many = {"a": statuses["a"].model_copy(update={"questions": questions})}

    assert isinstance(ended(spec, many), Escalated)
    assert isinstance(ended(spec, statuses), QuestionAsked)


def test_new_work_needs_a_new_plan():
    _, statuses = answered("yes")
    settled = {"a": statuses["a"].model_copy(update={"phase": Phase.COMPLETED})}

    renewed = after(make_task("a", goal="Something else.", mode="plan"), settled)

    assert (renewed["a"].questions, renewed["a"].last_run.mode) == ((), "plan")


def test_a_long_plan_is_cut():
    spec = task()
    statuses = begun(spec)

    status = transition(statuses["a"], ended(spec, statuses, text="x" * 99_999))

    assert len(status.question.text) < 12_100


def test_commands_and_comments_approve_and_reject_a_plan_and_nothing_else():
    spec, status = task(), planned(task())["a"]
    yes = {"answer": {"to": "q1-1", "text": "approve"}}
    no = {"answer": {"to": "q1-1", "text": "reject"}}
    plain = status.model_copy(
        update={"questions": (status.question.model_copy(update={"kind": "question"}),)}
    )

    assert approving("a", spec, status) == yes
    assert rejecting("a", spec, status) == no
    assert apply_command(parse_command("/agent approve"), "a", spec, status, ()) == yes
    assert apply_command(parse_command("/agent reject\nno time"), "a", spec, status, ()) == no
    assert answering("a", spec, status, "other") == {"answer": {"to": "q1-1", "text": "other"}}
    with pytest.raises(UsageError, match="has no plan, but a question"):
        approving("a", spec, plain)
    with pytest.raises(UsageError, match="asks nothing"):
        approving("a", spec, None)


@pytest.mark.parametrize("text", ["approve", "reject"])
def test_an_answer_in_a_file_that_was_copied_from_another_task_s_answers_no_plan(text):
    spec = make_task("a", mode="plan", answer={"to": "q1-1", "text": text})

    waiting = after(spec, planned(spec))["a"]

    assert (waiting.question.id, waiting.live_run, waiting.phase) == ("q2-1", None, Phase.CREATED)
    assert (waiting.attempt, read_run_key(waiting.run_key)) == (2, ("a", 2))


def test_a_file_that_is_written_over_with_another_s_answers_no_plan_of_its_next_attempt():
    settled = {"a": planned(task())["a"].model_copy(update={"phase": Phase.COMPLETED, "questions": ()})}
    spec = make_task("a", goal="Other.", mode="plan", answer={"to": "q2-1", "text": "yes"})
    live = after(spec, settled)

    waiting = after(spec, fold(live, [ended(spec, live)])[0])["a"]

    assert (waiting.question.id, waiting.live_run) == ("q3-1", None)


def test_a_task_that_is_given_back_has_its_plan_waiting_still():
    spec = make_task("a", mode="plan", held=True)

    assert releasing("a", spec, planned(task())["a"], "ok") == {"held": None}

"""
Best of n: who is chosen and when, what becomes of the others, and that it is decided once.
"""

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from reconciler.core.adapter import Adapter, Budget, Usage
from reconciler.core.edits import answering
from reconciler.core.errors import Problem, UsageError
from reconciler.core.events import (
    Assigned,
    Cancelled,
    ChoiceRequested,
    Escalated,
    QuestionAsked,
    Retried,
    RunEnded,
    VariantChosen,
    VariantTaken,
)
from reconciler.core.lifecycle import fold
from reconciler.core.model.runs import Report, Verdict
from reconciler.core.model.specs import FleetSpec, Host, Repo, Requester
from reconciler.core.model.status import Observed, Phase, Reason, VariantChoice
from reconciler.core.planning.incremental import Planner
from reconciler.core.planning.plan import StartRun, StopRun
from reconciler.core.runs.command import build_run_request
from reconciler.core.runs.decide import next_event
from reconciler.core.runs.judging import with_diffs
from reconciler.core.variants import variants_of
from tests.fakes import SUCCESS, make_desired, make_task
from tests.statuses import make_status
from tests.strategies import NOW, plan

JUDGE = Adapter(name="wise", command=("wise", "{mode}", "{prompt}"), plan=("--look",), prompt="argument")
HEADS = {1: "1" * 40, 2: "2" * 40, 3: "3" * 40}


def task(generation="9" * 40, **fields):
    return make_task("a", generation, **{"repo": "shop", "variants": 2, "retries": 0, **fields})


def fleet(spec):
    adapters = {name: Adapter(name=name, command=(name,)) for name in ("script", "codex")}
    return make_desired(
        spec,
        *variants_of(spec),
        adapters={**adapters, "wise": JUDGE},
        hosts={"local": Host(name="local", slots=9)},
        repos={"shop": Repo(name="shop", url="/shop")},
    )


def at(spec, *phases, **fields):
    """Return the statuses of a task that is not begun, and of its variants in these phases."""
    known = {"created_at": NOW, "generation": spec.generation, "work": spec.work}
    statuses = {"a": make_status(since=NOW, **known, **fields)}
    for number, phase in enumerate(phases, 1):
        head = {"head_commit": HEADS[number]} if phase is Phase.REVIEW_PENDING else {}
        run = {"run": f"a@{number}.g1.a1", "branch_name": f"task/a@{number}", "adapter": "script"}
        run = {} if phase is Phase.CREATED else run
        since = NOW - timedelta(minutes=number)
        statuses[f"a@{number}"] = make_status(phase, since=since, attempt=1, **known, **head, **run)
    return statuses


def planned(spec, statuses):
    return plan(fleet(spec), Observed(statuses), NOW)


def events(what, kind):
    return [event for event in what.events if isinstance(event, kind)]


def starts(what):
    return [action.task for action in what.actions if isinstance(action, StartRun)]


def after(spec, statuses):
    return fold(statuses, planned(spec, statuses).events)[0]


PASSED, FAILED, RUNS, NEW = Phase.REVIEW_PENDING, Phase.FAILED, Phase.RUNNING, Phase.CREATED


def test_each_variant_is_a_task_as_the_file_asks_for_by_its_own_agent_on_its_own_branch():
    spec = task(
        adapter="codex", model="big", variants=["codex", {"model": "small"}, "script"], review="merge"
    )

    variants = variants_of(spec)

    assert [(each.name, each.adapter, each.model, each.branch) for each in variants] == [
        ("a@1", "codex", "big", "task/a@1"),
        ("a@2", "codex", "small", "task/a@2"),
        ("a@3", "script", None, "task/a@3"),
    ]
    assert {(each.review, each.variant_of, each.work) for each in variants} == {("none", "a", spec.work)}


def test_variants_run_while_their_task_waits_for_them():
    spec = task()
    what = planned(spec, at(spec, NEW, NEW))

    assert starts(what) == ["a@1", "a@2"]
    assert what.waiting["a"].message == "waits for its variants: a@1, a@2"


def test_without_a_judge_the_first_that_passes_is_chosen_and_the_other_is_stopped():
    spec = task()
    statuses = after(spec, at(spec, RUNS, PASSED))
    assert statuses["a"].choice.variant == "a@2"

    what = planned(spec, statuses)

    [stop] = [action for action in what.actions if isinstance(action, StopRun)]
    assert (stop.task, "not chosen: a@2 was" in stop.reason) == ("a@1", True)
    assert what.waiting["a"].reason is Reason.VARIANTS


def test_a_judge_waits_for_all_and_chooses_among_those_that_passed():
    spec = task(variants=3, judge="wise")
    early = planned(spec, at(spec, PASSED, RUNS, FAILED))
    late = planned(spec, at(spec, PASSED, PASSED, FAILED))

    assert starts(early) == []
    assert starts(late) == ["a"]
    [assigned] = events(late, Assigned)
    assert assigned.spec.adapter == "wise"
    assert {each.task for each in assigned.predecessors} == {"a@1", "a@2"}


def judging(spec):
    return after(spec, at(spec, PASSED, PASSED))


def verdict_of(spec, statuses, text):
    run, number = statuses["a"].last_run.round_key
    report = Report(verdict=Verdict(outcome="success", text=text, usage=Usage(cost_usd=0.5)))
    fact = RunEnded(task="a", run=run, round=number, at=NOW, report=report)
    return next_event(spec, statuses["a"], fact, NOW, FleetSpec())


def test_the_judge_sees_the_diffs_as_data_and_changes_nothing():
    spec = task(judge="wise")

    order = build_run_request(spec, judging(spec)["a"], fleet(spec))
    whole = with_diffs(order, {HEADS[1]: "+one", HEADS[2]: "+two"})

    assert (order.mode, order.argv[1], set(order.candidates)) == ("judge", "--look", {HEADS[1], HEADS[2]})
    assert (whole.candidates, "+one" in whole.prompt, "+two" in whole.argv[2]) == ((), True, True)
    assert "\0" not in whole.prompt


def test_what_the_judge_chooses_is_on_record_with_its_reason_and_what_it_took():
    spec = task(judge="wise")
    statuses = judging(spec)

    event = verdict_of(spec, statuses, json.dumps({"commit": HEADS[2], "reason": "It is\nsimple."}))
    after_it = fold(statuses, [event])[0]["a"]

    assert isinstance(event, VariantChosen)
    assert after_it.choice == VariantChoice(variant="a@2", by="wise", reason="It is simple.")
    assert (after_it.phase, after_it.usage.cost_usd) == (Phase.CREATED, 0.5)


@pytest.mark.parametrize(
    "text", ["", "the second", json.dumps({"commit": "f" * 40}), json.dumps({"choice": 2})]
)
def test_a_judge_that_chooses_nothing_is_tried_again_and_then_a_person_is_asked(text):
    spec = task(judge="wise")

    assert isinstance(verdict_of(task(judge="wise", retries=1), judging(spec), text), Retried)
    asked = verdict_of(spec, judging(spec), text)
    assert isinstance(asked, QuestionAsked)
    assert set(asked.options) == {"a@1", "a@2"}


def test_a_person_is_asked_once_and_only_an_option_is_an_answer():
    spec = task(judge="person")
    statuses = after(spec, at(spec, PASSED, PASSED))
    question = statuses["a"].question

    assert (question.kind, set(question.options)) == ("choice", {"a@1", "a@2"})
    assert events(planned(spec, statuses), ChoiceRequested) == []
    with pytest.raises(UsageError, match="which variant to choose"):
        answering("a", spec, statuses["a"], "the best")
    assert answering("a", spec, statuses["a"], "2") == {"answer": {"to": question.id, "text": "2"}}

    told = task(judge="person", answer={"to": question.id, "text": "@1"})
    assert after(told, statuses)["a"].choice.variant == "a@1"
    other = task(judge="person", answer={"to": question.id, "text": "none"})
    assert after(other, statuses)["a"].choice is None


def test_where_only_one_passed_nobody_need_choose():
    spec = task(judge="wise")

    assert after(spec, at(spec, FAILED, PASSED))["a"].choice.variant == "a@2"


def test_where_none_passed_a_person_must_act():
    spec = task(judge="wise")
    what = planned(spec, at(spec, FAILED, Phase.ESCALATED))

    [escalated] = events(what, Escalated)
    assert "no variant passed: a@1 (failed), a@2 (escalated)" in escalated.failure.message


def test_the_chosen_work_becomes_that_of_its_task():
    spec = task(review="merge")
    choice = {"variant": "a@1", "by": "wise", "reason": "good"}
    statuses = at(spec, PASSED, PASSED, choice=choice)
    taken = VariantTaken(
        task="a",
        origin=replace(planned(task(), at(task(), NEW, NEW)).events[0].origin),
        head=HEADS[1],
        branch="task/a",
        title="Do a.",
        chosen=statuses["a@1"],
    )

    status = fold(statuses, [taken])[0]["a"]

    assert (status.phase, status.head_commit, status.last_run.branch) == (PASSED, HEADS[1], "task/a")
    assert status.choice.is_taken


def test_a_review_round_is_done_by_who_did_the_chosen_variant():
    spec = task(adapter="script", variants=["script", "codex"], review="merge")
    choice = {"variant": "a@2", "by": "wise", "reason": "good", "is_taken": True}
    run = {"run": "a@2.g1.a1", "assigned_host": "local", "adapter": "codex", "branch_name": "task/a"}
    statuses = at(spec, Phase.CANCELLED, Phase.COMPLETED, choice=choice, review_count=1, attempt=1, **run)

    [assigned] = events(planned(spec, statuses), Assigned)

    assert (assigned.spec.adapter, assigned.run.startswith("a.g")) == ("codex", True)


def test_new_work_begins_all_variants_again_and_stops_what_goes_on():
    old, new = task(judge="wise"), task("8" * 40, judge="wise", goal="Something else.")
    statuses = at(old, PASSED, FAILED)

    again = after(new, statuses)

    assert {again[name].phase for name in ("a@1", "a@2")} == {Phase.ASSIGNED}
    running = planned(new, at(old, RUNS, PASSED))
    assert [each.reason for each in running.actions if isinstance(each, StopRun)] == [
        "other work is asked for by now"
    ]


def test_an_edit_that_asks_for_the_same_runs_no_failed_variant_again():
    statuses = at(task(judge="person"), PASSED, FAILED)

    what = planned(task("8" * 40, judge="person", priority=3), statuses)

    assert starts(what) == []


def test_a_cancelled_task_takes_its_variants_with_it():
    spec = task(desired="cancelled")
    what = planned(
        spec,
        at(
            spec,
            RUNS,
            PASSED,
        ),
    )

    assert {event.task for event in events(what, Cancelled)} == {"a", "a@2"}
    assert [action.task for action in what.actions if isinstance(action, StopRun)] == ["a@1"]


def test_a_budget_counts_what_all_variants_took_together():
    spec = task(budget=Budget(cost_usd=1.0))
    statuses = at(spec, FAILED, RUNS)
    spent = {
        name: status.model_copy(update={"usage": Usage(cost_usd=0.6)}) if "@" in name else status
        for name, status in statuses.items()
    }

    what = planned(spec, spent)

    assert [event.task for event in events(what, Escalated)] == ["a"]
    assert [a.task for a in planned(spec, fold(spent, what.events)[0]).actions if isinstance(a, StopRun)] == [
        "a@2"
    ]


def test_variants_of_a_file_that_cannot_be_read_are_left_alone():
    spec = task()
    desired = replace(fleet(spec), tasks={}, broken={"a": (Problem("specs/tasks/a.yaml", 1, 1, "no"),)})

    what = plan(desired, Observed(at(spec, RUNS, PASSED)), NOW)

    assert {event.task for event in what.events} == {"a"}  # it says what is wrong with it
    assert not [action for action in what.actions if isinstance(action, StopRun)]


def test_a_task_with_its_variants_is_one_removal():
    spec, other = task(), make_task("b")
    statuses = at(spec, RUNS, RUNS) | {
        "b": make_status(since=NOW, created_at=NOW, generation="g", work=other.work)
    }

    what = plan(make_desired(other), Observed(statuses), NOW)

    assert not [name for name, wait in what.waiting.items() if wait.reason is Reason.APPROVAL]


def moved_to_b(spec, statuses):
    """Return what becomes of the statuses when the file is moved, and what is begun and ended then."""
    moved = spec.model_copy(update={"name": "b"})
    what = plan(fleet(moved), Observed(statuses), NOW)
    acts = [action for action in what.actions if isinstance(action, StartRun | StopRun)]
    return fold(statuses, what.events)[0], acts


def test_the_variants_of_a_moved_file_go_on_under_its_new_name():
    spec = task(judge="wise")
    before = at(spec, PASSED, RUNS)

    after, acts = moved_to_b(spec, before)

    assert after.keys() == {"b", "b@1", "b@2"}
    assert [after[f"b@{number}"].run for number in (1, 2)] == [before[f"a@{number}"].run for number in (1, 2)]
    assert not acts


def test_a_choice_among_the_variants_of_a_moved_file_is_one_among_those_of_its_new_name():
    spec = task(judge="person")
    asked = at(spec, PASSED, PASSED)
    asked |= fold(asked, planned(spec, asked).events)[0]
    chosen = at(spec, PASSED, PASSED, choice=VariantChoice(variant="a@2", by="ann", reason="neat"))

    assert {*moved_to_b(spec, asked)[0]["b"].question.options} == {"b@1", "b@2"}
    assert moved_to_b(spec, chosen)[0]["b"].choice.variant == "b@2"


@pytest.mark.parametrize("judge", [None, "wise", "person"])
def test_the_incremental_twin_finds_the_same_at_each_step_until_one_is_kept(judge):
    spec = task(judge=judge)
    desired, statuses, twin = fleet(spec), {}, Planner()
    twin.notice(desired.tasks)
    for _ in range(8):
        observed = Observed(statuses)
        whole, part = plan(desired, observed, NOW), twin.plan(desired, observed, NOW)
        assert part.events == whole.events
        before = statuses
        statuses, _ = fold(statuses, whole.events)
        statuses = {name: _ended(spec, name, status) for name, status in statuses.items()}
        twin.notice(name for name in statuses if statuses[name] is not before.get(name))
    if judge == "person":
        assert statuses["a"].question.kind == "choice"
    else:
        assert statuses["a"].choice


def _ended(spec, name, status):
    """Return the status once a live run has ended well."""
    if not status.phase.is_live:
        return status
    text = json.dumps({"commit": "f" * 40}) if name == "a" else "done"
    verdict = Verdict(outcome="success", text=text)
    run, number = status.last_run.round_key
    fact = RunEnded(
        task=name, run=run, round=number, at=NOW, report=SUCCESS.model_copy(update={"verdict": verdict})
    )
    own = next(each for each in (spec, *variants_of(spec)) if each.name == name)
    return fold({name: status}, [next_event(own, status, fact, NOW, FleetSpec())])[0][name]


def test_a_choice_that_a_person_makes_names_that_person():
    spec = task(judge="person")
    statuses = after(spec, at(spec, PASSED, PASSED))
    told = task(judge="person", answer={"to": statuses["a"].question.id, "text": "2"})
    desired = replace(fleet(told), askers={"a": Requester(person="alice", message="")})

    chosen = fold(statuses, plan(desired, Observed(statuses), NOW).events)[0]["a"].choice

    assert (chosen.variant, chosen.by) == ("a@2", "alice")


def test_after_a_judge_that_failed_a_review_round_goes_on_with_no_run_of_a_variant():
    spec = task(judge="wise", review="merge")
    statuses = judging(spec)
    asked = fold(statuses, [verdict_of(spec, statuses, "")])[0]
    told = task(judge="wise", review="merge", answer={"to": asked["a"].question.id, "text": "2"})
    chosen = after(told, asked)["a"]
    taken = chosen.model_copy(update={"run": statuses["a@2"].last_run, "attempt": 1})

    assert taken.run.round == 1
    assert taken.interrupted_run is None

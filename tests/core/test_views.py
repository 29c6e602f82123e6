"""
The read model: what is shown of tasks, hosts and workers, the same by commands and by the API.
"""

from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given

from reconciler.api.views import history_body, host_body, task_body, worker_body
from reconciler.cli.render import host_document, spec_document, task_document
from reconciler.core.errors import Problem
from reconciler.core.figures import LiveFigures
from reconciler.core.model.runs import Claim, FailureClass
from reconciler.core.model.specs import Agent, Host
from reconciler.core.model.status import Failure, HostStatus, Observed, Phase, Reason, Waiting
from reconciler.core.outages import ForgeOutage
from reconciler.core.planning.placement import slots_in_use
from reconciler.core.transitions import TransitionRecord, transition_document
from reconciler.core.views import ReadModel, forge_waits, observed_on_record
from tests.fakes import START, make_desired, make_task
from tests.statuses import changed, make_status
from tests.strategies import fleets

PROBLEM = Problem("specs/tasks/a.yaml", 2, 1, "unknown field", "gaol", "goal")
SLOT = Waiting(reason=Reason.SLOT, message="no free slot", since=START)


def status(phase, **fields):
    stand = {"since": START, "created_at": START, "generation": "a" * 40, "work": "b" * 12}
    return make_status(phase=phase, **{**stand, **fields})


# --- What belongs to the state ----------------------------------------------


@pytest.mark.parametrize("phase", [*Phase])
def test_how_an_earlier_attempt_failed_is_not_shown_beside_one_that_goes_on(phase):
    timeout = Failure(kind=FailureClass.TIMEOUT, message="took longer than 5m")
    model = ReadModel(make_desired(make_task("a")), Observed({"a": status(phase, failure=timeout)}))

    view = model.task("a")

    is_over = phase not in {Phase.ASSIGNED, Phase.RUNNING, Phase.REVIEW_PENDING}
    assert (view.reason, view.cause is not None) == ("timeout: took longer than 5m" * is_over, is_over)


def test_work_in_review_waits_for_a_forge_that_does_not_answer_whatever_it_said_before():
    review = Waiting(reason=Reason.REVIEW, message="waits for 1 approval", since=START)
    person = Waiting(reason=Reason.PERSON, message="somebody works on its branch", since=START)
    waits = {"quiet": None, "asked": review, "paused": person}
    statuses = {name: status(Phase.REVIEW_PENDING, waiting=waiting) for name, waiting in waits.items()}
    statuses |= {"live": status(Phase.RUNNING), "other": status(Phase.REVIEW_PENDING)}
    tasks = [make_task(name, repo="far" if name == "other" else "web") for name in statuses]
    desired = make_desired(*tasks)

    began = START + timedelta(hours=1)
    unrecorded = forge_waits(desired, statuses, {"web": ForgeOutage("no answer within 60 s", began)})
    model = ReadModel(desired, Observed(statuses), unrecorded=unrecorded)

    told = "Retrying: its forge does not answer: no answer within 60 s"
    assert {name for name, view in model.tasks().items() if view.reason == told} == {"quiet", "asked"}
    assert {wait.since for wait in unrecorded.values()} == {began}
    assert model.task("paused").reason == "Person: somebody works on its branch"


# --- Commands and the API --------------------------------------------------


@given(fleets())
def test_commands_and_the_api_tell_the_same_of_every_task(fleet):
    for name, view in ReadModel(*fleet).tasks().items():
        shown, sent = task_document(view), task_body(view)

        assert (shown["name"], shown["phase"]) == (sent.name, sent.phase) == (name, str(sent.phase))
        assert (shown["status"] is None) == (sent.since is None)
        if shown["problems"]:
            assert (sent.waiting_reason, sent.waiting) == ("SpecError", shown["problems"][0])
        elif sent.waiting:
            assert shown["reason"] == f"{sent.waiting_reason}: {sent.waiting}"
        if shown["cause"]:
            assert shown["cause"]["summary"] == sent.failure


@given(fleets())
def test_commands_and_the_api_count_the_slots_that_the_planner_counts(fleet):
    desired, observed = fleet
    used = slots_in_use(observed.statuses, observed)

    for name, view in ReadModel(desired, observed).hosts().items():
        assert host_document(view)["slots"]["used"] == host_body(view).used_slots == used[name]


def test_commands_and_the_api_tell_the_same_of_a_worker():
    desired = make_desired(agents={"jeeves": Agent(name="jeeves"), "hermes": Agent(name="hermes")})
    held = status(Phase.RUNNING, run="a.g1.a1", assigned_agent="jeeves", request_key="k")
    checked = changed(held, claim=Claim(outcome="completed"))
    statuses = {"b": held, "a": checked, "c": held.model_copy(update={"phase": Phase.COMPLETED})}

    workers = ReadModel(desired, Observed(statuses)).workers()

    assert spec_document(workers["jeeves"])["held"] == ["a", "b"]
    assert worker_body(workers["jeeves"], None).held == ("a", "b")
    assert worker_body(workers["hermes"], None).held == ()


def test_commands_and_the_api_name_the_fields_of_a_transition_alike():
    record = TransitionRecord(at=START, task="a", before="created", after="assigned", commit="c" * 40)

    assert transition_document(record) == history_body(record).model_dump()
    assert transition_document(record)["at"] == "2030-01-01T09:00:00Z"


# --- Tasks -----------------------------------------------------------------


def test_a_task_that_is_not_on_record_is_created_and_waits_for_what_the_plan_says():
    model = ReadModel(make_desired(make_task("a")), Observed(), planned={"a": SLOT})

    view = model.task("a")

    assert (view.phase, view.state, view.since) == (Phase.CREATED, "new", None)
    assert (view.reason, view.blocker) == ("Slot: no free slot", (Reason.SLOT, "no free slot"))


def test_what_is_on_record_goes_before_what_the_plan_says():
    statuses = {"a": status(Phase.RUNNING, run="a.g1.a1")}

    assert ReadModel(make_desired(), Observed(statuses), planned={"a": SLOT}).task("a").blocker is None


@pytest.mark.parametrize("waiting", [None, SLOT])
def test_a_broken_spec_is_what_a_task_waits_for_whatever_else_is_on_record(waiting):
    observed = Observed({"a": status(Phase.CREATED, waiting=waiting)})

    view = ReadModel(make_desired(broken={"a": (PROBLEM,)}), observed).task("a")

    assert (view.blocker, view.is_stalled) == ((Reason.SPEC_ERROR, str(PROBLEM)), True)


def test_a_status_that_cannot_be_read_is_no_new_task():
    model = ReadModel(make_desired(make_task("a")), Observed(damaged={"a": PROBLEM}))

    view = model.task("a")

    assert (view.state, view.blocker) == ("broken", (Reason.SPEC_ERROR, str(PROBLEM)))
    assert model.has("a")
    assert not model.has("b")


def test_a_failure_names_its_class_once():
    text = ("timeout: took 2h", "took 2h")
    failures = (Failure(kind=FailureClass.TIMEOUT, message=message) for message in text)
    statuses = {str(number): status(Phase.FAILED, failure=each) for number, each in enumerate(failures)}

    views = ReadModel(make_desired(), Observed(statuses)).tasks().values()

    assert {view.failure for view in views} == {"timeout: took 2h"}


def test_a_task_whose_spec_is_gone_is_shown_as_it_was_worked_on():
    observed = Observed(
        {"a": status(Phase.RUNNING, run="a.g1.a1", repo="web", assigned_agent="jeeves", request_key="k")}
    )

    view = ReadModel(make_desired(), observed).task("a")

    assert (view.title, view.repo, view.execution_mode) == ("a", "web", "http_pull")


class Unlisted(dict):
    """Things that are looked up by name alone."""

    def __iter__(self):
        raise AssertionError("all of them were looked at")

    keys = values = items = __iter__


def test_one_task_is_found_without_a_look_at_all():
    task = make_task("a")
    desired = replace(make_desired(task), tasks=Unlisted(a=task), broken=Unlisted())
    live = status(Phase.RUNNING, run="a.g1.a1", round=1)
    observed = Observed(Unlisted(a=live), damaged=Unlisted())
    model = ReadModel(desired, observed, live=lambda *_: LiveFigures(last_output_at=START))

    assert model.has("a")
    assert model.task("a").last_activity_at == START
    assert model.task("b").state == "new"


# --- Hosts -----------------------------------------------------------------


def test_runs_on_the_own_machine_of_another_reconciler_take_no_slots_here():
    here = HostStatus(reachable=True, since=START, machine="m2")
    runs = {
        name: status(Phase.RUNNING, run=f"{name}.g1.a1", assigned_host="local", machine=machine)
        for name, machine in (("a", "m1"), ("b", "m2"), ("c", None))
    }
    desired = make_desired(hosts={"local": Host(name="local")})

    known = ReadModel(desired, observed_on_record(runs, {"local": here}, {})).hosts()["local"]
    unknown = ReadModel(desired, observed_on_record(runs, {}, {})).hosts()["local"]

    assert (known.runs, known.used, known.free) == (("b.g1.a1", "c.g1.a1"), 2, 0)
    assert unknown.used == 3


# --- What needs a person ---------------------------------------------------


def test_what_needs_a_person_is_told_once_the_specs_first():
    observed = Observed(
        {
            "a": status(Phase.CREATED),
            "b": status(Phase.FAILED, failure=Failure(kind=FailureClass.AGENT, message="gave up")),
            "c": status(Phase.CREATED, waiting=Waiting(reason=Reason.HOST, message="none fits", since=START)),
            "d": status(
                Phase.RUNNING, waiting=Waiting(reason=Reason.APPROVAL, message="9 of 9 go", since=START)
            ),
        },
        {"h": HostStatus(reachable=False, since=START, message="no answer")},
    )
    hosts = {"h": Host(name="h", address="h.example")}
    desired = make_desired(broken={"a": (PROBLEM,)}, problems=(PROBLEM,), hosts=hosts)

    needs = list(ReadModel(desired, observed).needs())

    assert [(need.what, need.why) for need in needs] == [
        ("specs/tasks/a.yaml:2", "Broken"),
        ("task b", "Failed"),
        ("task c", "Stalled"),
        ("task d", "Approval"),
        ("host h", "Down"),
    ]
    assert Counter(need.message for need in needs)["agent: gave up"] == 1

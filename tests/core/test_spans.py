"""
Spans: a task from its spec to its merge as one trace, made of the recorded steps alone.
"""

from dataclasses import replace
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.adapter import Usage
from reconciler.core.errors import IllegalTransition
from reconciler.core.events import (
    Assigned,
    ChangesRequested,
    Completed,
    Created,
    FixRequested,
    Origin,
    PullRequestOpened,
    Renewed,
    Retried,
    Started,
    Submitted,
)
from reconciler.core.lifecycle import step
from reconciler.core.model.runs import Check, FailureClass, Report, Verdict
from reconciler.core.model.specs import Task
from reconciler.core.model.status import Failure, OnHost, PullRequest
from reconciler.core.spans import spans
from tests.strategies import NOW, sample_events

SPEC = Task(name="web/a", goal="Do it.", generation="1" * 40, work="w1", repo="web", adapter="codex")
RUN = "web/a.g11111111.a1"
RED = Report(
    verdict=Verdict(outcome="success", usage=Usage(seconds=30, output_tokens=7)),
    checks=(Check(command="make test", exit_code=2, seconds=10),),
)
GREEN = Report(
    verdict=Verdict(outcome="success", usage=Usage(seconds=20, input_tokens=5, cached_tokens=2)),
    checks=(Check(command="make test", exit_code=0, seconds=10),),
    head_commit="c" * 40,
    commits=1,
)
PULL = PullRequest(number=12, url="https://forge.example.org/acme/web/pulls/12")


def at(seconds):
    return Origin(NOW + timedelta(seconds=seconds), "it happened")


def life():
    """Return the events of a task whose first round is red, and whose pull request is merged."""
    return [
        Created(task="web/a", origin=at(0), spec=SPEC),
        Assigned(task="web/a", origin=at(60), run=RUN, holder=OnHost(host="gpu1"), spec=SPEC),
        Started(task="web/a", origin=at(65), run=RUN),
        FixRequested(task="web/a", origin=at(120), run=RUN, report=RED),
        Submitted(task="web/a", origin=at(180), run=RUN, report=GREEN),
        PullRequestOpened(task="web/a", origin=at(185), pull=PULL),
        Completed(task="web/a", origin=at(900)),
    ]


def traced(events, fleet="f1"):
    """Return the spans that events end, each as of its own step: nothing else is remembered."""
    statuses, made = {}, []
    for event in events:
        taken = step(statuses, event)
        made += spans(taken, fleet)
        statuses = {taken.task: taken.after} if taken.after else {}
    return made


def seconds(span):
    return [(time - NOW).total_seconds() for time in (span.begin, span.end)]


def test_a_task_from_its_spec_to_its_merge_is_one_trace():
    made = traced(life())

    assert [(span.name, *seconds(span)) for span in made] == [
        ("task", 0, 0),
        ("queue", 0, 60),
        ("dispatch", 60, 65),
        ("round", 80, 120),
        ("validation", 110, 120),
        ("round", 150, 180),
        ("validation", 170, 180),
        ("delivery", 180, 180),
        ("run", 65, 180),
        ("review", 180, 900),
        ("merge", 900, 900),
    ]
    by_name = {span.name: span for span in made}
    root, run = by_name["task"], by_name["run"]
    assert len({span.trace_id for span in made}) == 1
    assert len({span.span_id for span in made}) == len(made)
    assert {span.parent_id for span in made if span.name in {"queue", "run", "review", "merge"}} == {
        root.span_id
    }
    assert {span.parent_id for span in made if span.name == "round"} == {run.span_id}
    assert root.parent_id is None


def test_what_is_known_stands_in_the_attributes_by_their_conventional_names():
    by_name = {span.name: span.attributes for span in traced(life())}

    assert (
        by_name["run"]
        | {
            "host.name": "gpu1",
            "gen_ai.agent.name": "codex",
            "vcs.repository.name": "web",
            "vcs.ref.head.name": "task/web/a",
            "reconciler.run": RUN,
            "reconciler.attempt": 1,
        }
        == by_name["run"]
    )
    assert by_name["round"]["gen_ai.usage.input_tokens"] == 7
    assert by_name["delivery"]["vcs.ref.head.revision"] == "c" * 40
    assert by_name["review"]["vcs.change.id"] == "12"
    assert by_name["merge"]["vcs.change.state"] == "merged"


def test_what_failed_says_of_which_class():
    red, *_ = [span for span in traced(life()) if span.name == "validation"]
    failure = Failure(kind=FailureClass.TIMEOUT, message="too long")
    ended = [
        *life()[:3],
        Retried(task="web/a", origin=at(99), run=RUN, failure=failure, report=None, not_before=None),
    ]

    assert (red.error, red.attributes["error.type"], red.attributes["process.exit.code"]) == (
        "validation",
        "validation",
        2,
    )
    assert traced(ended)[-1].error == "timeout"


def test_a_review_round_is_part_of_the_trace_and_other_work_begins_another():
    again = (
        replace(SPEC, work="w2")
        if not hasattr(SPEC, "model_copy")
        else SPEC.model_copy(update={"work": "w2"})
    )
    second = "web/a.g11111111.a2"
    reviewed = [
        *life()[:6],
        ChangesRequested(task="web/a", origin=at(300)),
        Assigned(task="web/a", origin=at(301), run=second, holder=OnHost(host="gpu1"), spec=SPEC),
        Started(task="web/a", origin=at(302), run=second),
        Submitted(task="web/a", origin=at(400), run=second, report=GREEN),
        Completed(task="web/a", origin=at(500)),
    ]
    before = traced(reviewed)
    after = traced([*reviewed, Renewed(task="web/a", origin=at(600), spec=again)])[len(before) :]

    assert len({span.trace_id for span in before}) == 1
    assert [span.name for span in before].count("task") == 1
    assert [span.name for span in before].count("run") == 2
    assert [(span.name, span.trace_id in {each.trace_id for each in before}) for span in after] == [
        ("task", False)
    ]


def test_the_same_task_of_another_fleet_has_another_trace():
    assert traced(life())[0].trace_id != traced(life(), "f2")[0].trace_id


KINDS = list(sample_events("x", None))


@given(st.lists(st.tuples(st.sampled_from(KINDS), st.integers(1, 90)), max_size=30))
def test_whatever_happens_every_span_is_told_of_once_and_ends_after_it_begins(line):
    statuses, made, minutes = {}, [], 0
    for kind, later in line:
        minutes += later
        event = sample_events("web/a", statuses.get("web/a"))[kind]
        event = replace(event, origin=Origin(NOW + timedelta(minutes=minutes), "it happened"))
        try:
            taken = step(statuses, event)
        except IllegalTransition:
            continue
        if taken is None or taken.task != "web/a":
            continue
        made += spans(taken, "f1")
        statuses = {"web/a": taken.after} if taken.after else {}

    assert len({(span.trace_id, span.span_id) for span in made}) == len(made)
    assert all(span.begin <= span.end for span in made)

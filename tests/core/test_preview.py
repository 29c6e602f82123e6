"""What a pull request changes of the plan, and how it is shown."""

from reconciler.core.errors import Problem
from reconciler.core.events import Assigned, Created, Origin, WaitingChanged
from reconciler.core.lifecycle import fold
from reconciler.core.model.status import Observed, OnHost
from reconciler.core.planning.plan import plan
from reconciler.core.planning.preview import (
    Difference,
    PlanLine,
    actions,
    comment,
    difference,
    forecast,
    has_changes,
    no_plan_comment,
    summary,
)
from tests.fakes import START, make_desired, make_task

HEAD = "c" * 40
OBSERVED = Observed()


def compare(base, head, observed):
    return difference(forecast(base, observed, START), forecast(head, observed, START))


def lines(found: Difference) -> list[tuple[str, str]]:
    return [(line.verb, line.task) for line in found.new]


def test_what_would_happen_anyway_is_not_said():
    a, b, c = (make_task(name) for name in "abc")
    waits = make_task("waits", depends_on=["a"])
    base = make_desired(a, waits)

    assert compare(base, base, OBSERVED) == Difference()

    found = compare(base, make_desired(a, waits, b, c, revision="2" * 40), OBSERVED)
    assert lines(found) == [("start", "b"), ("wait", "c")]
    assert found.gone == ()


def test_what_would_not_happen_any_more_is_said():
    a, b = make_task("a"), make_task("b")
    base = make_desired(a, b)

    found = compare(base, make_desired(a, revision="2" * 40), OBSERVED)

    assert lines(found) == []
    assert [(line.verb, line.task) for line in found.gone] == [("start", "b")]


def test_a_task_that_was_edited_counts_as_another():
    base, head = make_desired(make_task("a")), make_desired(make_task("a", goal="More."), revision="2" * 40)

    assert lines(compare(base, head, OBSERVED)) == [("start", "a")]


def test_only_new_problems_fail_it():
    old, new = (Problem(f"specs/tasks/{name}.yaml", 3, 1, "unknown field", "gaol", "goal") for name in "ab")
    base = make_desired(problems=(old,))
    head = make_desired(revision="2" * 40, problems=(old, new))

    same, worse = (compare(base, each, OBSERVED) for each in (base, head))

    assert (same.problems, same.old_problems) == ((), 1)
    assert summary(same) == ("success", "no task is touched")
    assert (worse.problems, worse.old_problems) == ((new,), 1)
    assert summary(worse) == ("failure", "1 problem in the specs; no task is touched")


def test_the_comment_says_it_all_and_nothing_in_it_is_obeyed():
    found = Difference(
        new=(
            PlanLine("start", "web/fix", "gpu-1", "attempt 1 on gpu-1: 2 slots free"),
            PlanLine("wait", "b", "", "Dependency: waits for @all\n``` <b>"),
        ),
        gone=(PlanLine("start", "c", "local", "because"),),
        problems=(Problem("specs/tasks/a.yaml", 3, 1, "unknown field", "gaol", "goal"),),
        old_problems=2,
    )

    assert (
        comment(found, HEAD)
        == """\
### Plan of cccccccccc

Start 1, wait 1, not any more: 1.

**Wrong in the specs:**

```text
specs/tasks/a.yaml:3:1: error: gaol: unknown field (did you mean 'goal'?)
```

2 problems of the specs in force would stay.

**With this merged now:**

````text
start  web/fix  gpu-1  attempt 1 on gpu-1: 2 slots free
wait   b               Dependency: waits for @all ``` <b>
````

**Not any more:**

```text
start  c  local  because
```"""
    )
    assert summary(found) == ("failure", "1 problem in the specs; start 1, wait 1, not any more: 1")


def test_of_a_long_plan_the_beginning_is_shown():
    found = Difference(new=tuple(PlanLine("start", f"t{n}", "local", "x" * 999) for n in range(250)))

    text = comment(found, HEAD)

    assert "… and 150 more" in text
    assert len(text) < 25_000


def test_where_there_is_no_plan_it_says_why():
    assert (
        no_plan_comment("conflicts in `a`", HEAD)
        == "### Plan of cccccccccc\n\nThere is none: `` conflicts in `a` ``"
    )


def test_two_that_differ_in_reasons_alone_come_to_the_same():
    one, other = (Difference(new=(PlanLine("start", "a", "local", why),)) for why in ("2 free", "1 free"))

    assert one.gist == other.gist
    assert one.gist != Difference(new=(PlanLine("start", "a", "gpu-1", "2 free"),)).gist
    assert one.gist != Difference(gone=one.new).gist


def test_waiting_for_something_else_is_no_change_and_stopping_is_one():
    task = make_task("a")
    statuses, _ = fold({}, [Created(task="a", origin=Origin(START, "new"), spec=task)])
    later = make_desired(make_task("a", generation=task.generation, not_before="2031-01-01"))

    waits = plan(later, Observed(statuses), START)

    assert [type(event) for event in waits.events] == [WaitingChanged]
    assert not has_changes(waits)
    assert has_changes(plan(make_desired(task), Observed(), START))


def test_a_stop_and_what_goes_on_record_without_a_run_have_lines():
    task = make_task("a")
    events = [
        Created(task="a", origin=Origin(START, "new"), spec=task),
        Assigned(
            task="a", origin=Origin(START, "there"), spec=task, run="a.g.a1", holder=OnHost(host="local")
        ),
    ]
    others = [make_task(name) for name in "bcd"]
    events += [Created(task=each.name, origin=Origin(START, "new"), spec=each) for each in others]
    statuses, _ = fold({}, events)

    suspended = make_desired(make_task("a", desired="suspended"), *others)
    base, head = make_desired(task, *others), make_desired(*others, revision="2" * 40)

    stopped = plan(suspended, Observed(statuses), START)
    removed = compare(base, head, Observed(statuses))

    assert ("stop", "a") in [line[:2] for line in actions(stopped)]
    assert ("remove", "a") in lines(removed)


def test_problems_that_stay_are_counted_in_the_comment():
    text = comment(Difference(old_problems=2), HEAD)

    assert "2 problems of the specs in force would stay." in text

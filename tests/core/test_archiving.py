"""Which spec files are archived: those whose tasks are all done, long ago, and that nobody needs."""

from datetime import timedelta

import pytest

from reconciler.core.archiving import finished_specs
from reconciler.core.model.specs import Desired
from reconciler.core.model.status import Observed, Phase
from tests.fakes import make_task
from tests.statuses import make_status
from tests.strategies import NOW

AGE = timedelta(days=90)


def test_the_files_of_tasks_that_were_done_long_ago_are_archived():
    assert finished(task("a"), task("web/b", phase=Phase.CANCELLED)) == {
        "specs/tasks/a.yaml": ["a"],
        "specs/tasks/web/b.yaml": ["web/b"],
    }


@pytest.mark.parametrize(
    "still_wanted",
    [
        {"since": NOW - AGE + timedelta(seconds=1)},
        {"phase": Phase.FAILED},
        {"phase": Phase.ESCALATED},
        {"phase": Phase.REVIEW_PENDING},
        {"work": "done before"},
    ],
)
def test_what_ended_lately_or_waits_for_somebody_or_is_asked_for_anew_stays(still_wanted):
    assert not finished(task("a", **still_wanted))


def test_a_task_stays_as_long_as_one_that_stays_depends_on_it_however_many_are_between():
    last = task("c", {"depends_on": ("b",)}, phase=Phase.FAILED)
    between = task("b", {"start_from": "a"})

    assert set(finished(task("a"), between, last, task("other"))) == {"specs/tasks/other.yaml"}
    assert len(finished(task("a"), between, task("other"))) == 3


def test_a_file_of_several_tasks_goes_once_all_of_them_are_done():
    one, other = ({"campaign": "docs"} for _ in range(2))

    assert finished(task("docs/a", one), task("docs/b", other)) == {
        "specs/campaigns/docs.yaml": ["docs/a", "docs/b"]
    }
    assert not finished(task("docs/a", one), task("docs/b", other, phase=Phase.FAILED))


def task(name, spec=None, *, phase=Phase.COMPLETED, **fields):
    """Return a task and its status, done long enough ago unless told otherwise."""
    made = make_task(name).model_copy(update=spec or {})
    known = {"since": NOW - AGE, "created_at": NOW - AGE, "generation": made.generation, "work": made.work}
    return made, make_status(phase, **{**known, **fields})


def finished(*pairs):
    desired = Desired(revision="1" * 40, tasks={spec.name: spec for spec, _ in pairs})
    return finished_specs(desired, Observed({spec.name: status for spec, status in pairs}), NOW, AGE)

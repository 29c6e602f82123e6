import pytest

from reconciler.core.edits import cancelling, resuming, retrying, suspending
from reconciler.core.errors import UsageError
from reconciler.core.model.specs import DesiredState, TaskSpec
from reconciler.core.model.status import Phase
from tests.statuses import make_status
from tests.strategies import NOW


def spec(preference=DesiredState.ACTIVE, **fields):
    return TaskSpec(goal="Do it.", desired=preference, **fields)


def status(phase):
    return make_status(phase=phase, since=NOW, created_at=NOW, generation="a1" * 20, work="b2" * 6)


@pytest.mark.parametrize(
    ("ask", "preference", "answer"),
    [
        (suspending, DesiredState.ACTIVE, {"desired": "suspended"}),
        (suspending, DesiredState.SUSPENDED, "a is suspended already"),
        (suspending, DesiredState.CANCELLED, "a is cancelled already"),
        (resuming, DesiredState.SUSPENDED, {"desired": "active"}),
        (resuming, DesiredState.ACTIVE, "a is active already"),
        (cancelling, DesiredState.ACTIVE, {"desired": "cancelled"}),
        (cancelling, DesiredState.SUSPENDED, {"desired": "cancelled"}),
        (cancelling, DesiredState.CANCELLED, "a is cancelled already"),
    ],
)
def test_a_wish_changes_what_is_desired_unless_it_is_so_already(ask, preference, answer):
    assert ask("a", spec(preference), None) == answer


def test_a_cancelled_task_is_not_resumed_but_asked_for_again():
    with pytest.raises(UsageError, match="reconciler retry a"):
        resuming("a", spec(DesiredState.CANCELLED), None)

    assert retrying("a", spec(DesiredState.CANCELLED, rerun=2), None) == {"desired": "active", "rerun": 3}


@pytest.mark.parametrize("phase", Phase)
def test_only_what_is_settled_is_tried_again(phase):
    answer = retrying("a", spec(rerun=1), status(phase))

    if phase.is_settled:
        assert answer == {"rerun": 2}
    else:
        assert answer == f"a is {phase}: it is not settled, so there is nothing to retry"


def test_a_task_that_is_not_on_record_is_new():
    assert retrying("a", spec(), None) == "a is new: it is not settled, so there is nothing to retry"

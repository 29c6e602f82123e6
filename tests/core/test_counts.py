"""
Counts of a fleet: cheap, and the same as what is shown one by one.
"""

from collections import Counter
from datetime import timedelta

from hypothesis import given

from reconciler.core.counts import NOTHING, fleet_counts
from reconciler.core.model.status import HostStatus, Phase, Reason, Status, Waiting
from reconciler.core.views import ReadModel, observed_on_record
from tests.fakes import START, make_desired, make_task
from tests.strategies import fleets


def waiting_since(since):
    waiting = Waiting(reason=Reason.SLOT, message="full", since=since)
    return Status(
        phase=Phase.CREATED, since=START, created_at=START, generation="a", work="b", waiting=waiting
    )


@given(fleets())
def test_what_is_counted_is_what_is_shown(fleet):
    model = ReadModel(*fleet)
    views = model.tasks().values()

    counts = fleet_counts(model)

    shown = Counter((view.phase, view.blocker.reason if view.blocker else NOTHING) for view in views)
    assert counts.tasks == shown
    assert counts.needs == Counter(need.why for need in model.needs())


def test_the_oldest_of_each_reason_counts():
    statuses = {
        name: waiting_since(START - timedelta(hours=hours)) for name, hours in (("a", 1), ("b", 3), ("c", 2))
    }
    model = ReadModel(make_desired(*map(make_task, statuses)), observed_on_record(statuses, {}, {}))

    assert fleet_counts(model).waiting_since == {Reason.SLOT: START - timedelta(hours=3)}


def test_a_host_that_is_down_needs_a_person_since_it_went():
    hosts = {"local": HostStatus(reachable=False, since=START)}

    counts = fleet_counts(ReadModel(make_desired(), observed_on_record({}, hosts, {})))

    assert (counts.needs, counts.needs_since) == ({"Down": 1}, START)

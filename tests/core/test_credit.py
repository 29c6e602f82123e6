"""
What the specs ask for is on record with who asked, and why.
"""

from dataclasses import replace

import pytest

from reconciler.core.attribution import attribute
from reconciler.core.events import (
    Assigned,
    Cancelled,
    Created,
    Origin,
    Released,
    Renewed,
    SpecChanged,
    WaitingChanged,
)
from reconciler.core.model.status import Observed, OnHost, Reason, Waiting
from reconciler.core.planning.plan import plan
from reconciler.core.requesters import Requester
from tests.fakes import START, make_desired, make_task

ADA = Requester("Ada", "Suspend a: the budget is gone")
SPEC = make_task("a")


def asked(asker=ADA):
    return replace(make_desired(SPEC), askers={"a": asker})


@pytest.mark.parametrize(
    "event",
    [
        Created(task="a", origin=Origin(START, "a new spec"), spec=SPEC),
        SpecChanged(task="a", origin=Origin(START, "the spec is 1 now"), spec=SPEC),
        Renewed(task="a", origin=Origin(START, "asked for again"), spec=SPEC),
        Cancelled(task="a", origin=Origin(START, "cancelled in the spec")),
        Released(task="a", origin=Origin(START, "stopped", cause="host"), run="a.g1.a1"),
        WaitingChanged(
            task="a",
            origin=Origin(START, "suspended"),
            waiting=Waiting(reason=Reason.SUSPENDED, message="suspended", since=START),
        ),
    ],
    ids=lambda event: type(event).__name__,
)
def test_what_answers_a_commit_is_owed_to_its_author(event):
    found = attribute(asked(), event)

    assert found.origin.actor == "Ada"
    assert found.origin.reason == f"{event.origin.reason}: Suspend a: the budget is gone"
    assert replace(found, origin=event.origin) == event
    assert attribute(make_desired(SPEC), event) is event


@pytest.mark.parametrize(
    "event",
    [
        Assigned(
            task="a", origin=Origin(START, "attempt 1"), run="a.g1.a1", holder=OnHost(host="local"), spec=SPEC
        ),
        Renewed(task="a", origin=Origin(START, "due", cause="clock"), spec=SPEC),
        Cancelled(task="a", origin=Origin(START, "/agent cancel", cause="person", actor="grace")),
        WaitingChanged(task="a", origin=Origin(START, "no free slot"), waiting=None),
    ],
    ids=lambda event: type(event).__name__,
)
def test_what_happened_for_another_reason_is_not(event):
    assert attribute(asked(), event) is event


def test_names_and_words_are_made_harmless_and_short():
    event = Created(task="a", origin=Origin(START, "a new spec"), spec=SPEC)
    hostile = Requester("\x1b[31mAda\u202e\nMallory" + "x" * 500, "a\nTo: completed\x07" + "b " * 900)

    found = attribute(asked(hostile), event)

    assert found.origin.actor.startswith("Ada Mallory")
    assert found.origin.actor.isprintable()
    assert found.origin.reason.isprintable()
    assert len(found.origin.actor) <= 80
    assert len(found.origin.reason) <= 220


def test_a_plan_names_who_asked():
    planned = plan(asked(), Observed(), START)

    [created] = [event for event in planned.events if isinstance(event, Created)]
    origin = created.origin
    assert (origin.actor, origin.reason) == ("Ada", "a new spec: Suspend a: the budget is gone")

"""
Decisions made again from what is on record of their inputs.
"""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.events import Assigned, Renamed
from reconciler.core.lifecycle import Transition, transition
from reconciler.core.model.inputs import NO_INPUTS, DecisionInputs
from reconciler.core.model.specs import Host
from reconciler.core.model.status import HostStatus, Observed
from reconciler.core.planning.inputs import MOST_RIVALS
from reconciler.core.planning.replay import RecordedStep, replay
from reconciler.core.transitions import task_record
from tests.fakes import make_desired, make_task
from tests.strategies import NOW, desireds, observeds, plan


def recorded(desired, observed):
    """Return every step of a plan as a record has it, with what was on record before it."""
    statuses, steps = dict(observed.statuses), []
    for event in plan(desired, observed, NOW).events:
        old = event.old if isinstance(event, Renamed) else event.task
        before = statuses.pop(old, None)
        after = transition(before, event)
        seen = Observed(
            dict(statuses) | ({old: before} if before else {}),
            observed.hosts,
            accounts=observed.accounts,
            damaged=observed.damaged,
            machine=observed.machine,
        )
        if after:
            statuses[event.task] = after
        record = task_record(Transition(event.task, before, after, event))
        steps.append((event, RecordedStep(record=record, before=before, after=after), seen))
    return steps


def assigned(desired, observed):
    """Return the first assignment of a plan, and what was on record before it."""
    return next(
        (step, seen) for event, step, seen in recorded(desired, observed) if isinstance(event, Assigned)
    )


def fleet(loads, **settings):
    """Return what is asked of a fleet, and observed: one task, and hosts with a load each."""
    hosts = {name: Host(name=name, address=f"{name}.example.org", slots=4, **settings) for name in loads}
    desired = replace(make_desired(make_task("a")), hosts=hosts)
    up = HostStatus(reachable=True, since=NOW)
    return desired, Observed(hosts=dict.fromkeys(hosts, up), load=loads)


@given(st.data())
def test_every_assignment_of_a_plan_is_made_again_from_what_is_on_record(data):
    desired = data.draw(desireds())
    observed = data.draw(observeds(desired))

    replays = [
        replay(step, desired, seen)
        for event, step, seen in recorded(desired, observed)
        if isinstance(event, Assigned)
    ]

    assert {(each.verdict, each.differences) for each in replays} <= {("same", ())}


def test_the_load_that_told_hosts_apart_is_on_record_and_said():
    desired, observed = fleet({"alpha": 1.5, "beta": 0.25, "gamma": 3.0})
    step, seen = assigned(desired, observed)

    made_again = replay(step, desired, seen)

    assert step.record.inputs == '{"load":{"beta":0.25,"alpha":1.5,"gamma":3.0}}'
    assert (made_again.verdict, made_again.decisive) == ("same", ("load: without it, alpha",))
    assert made_again.hosts[0] == "beta: 3.75 (4 free, weight 1, load 0.25)"


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (
            {"inputs": '{"load":{"beta":2.0,"alpha":1.5}}'},
            "assigned_host: the record says beta, the decision alpha",
        ),
        ({"inputs": "{"}, "Decision-Inputs cannot be read: "),
        ({"inputs": '{"weather":1}'}, "Decision-Inputs cannot be read: "),
        ({"reason": "because"}, "reason: the record says because, the decision attempt 1 on beta: "),
        ({"after": "running"}, "says created → running, but the files say created → assigned"),
    ],
)
def test_a_record_that_was_changed_is_told(change, difference):
    desired, observed = fleet({"alpha": 1.5, "beta": 0.25})
    step, seen = assigned(desired, observed)

    made_again = replay(replace(step, record=replace(step.record, **change)), desired, seen)

    assert made_again.verdict == "differs"
    assert any(each.startswith(difference) for each in made_again.differences)


def test_of_a_thousand_hosts_only_the_nearest_are_on_record():
    desired, observed = fleet({f"host{number:04}": 0.1 + number % 7 / 10 for number in range(1000)})
    step, seen = assigned(desired, observed)

    made_again = replay(step, desired, seen)

    assert made_again.verdict == "same"
    assert len(DecisionInputs.parse(step.record.inputs).load) == 1 + MOST_RIVALS
    assert len(step.record.inputs) < 250


def test_where_too_many_hosts_are_alike_in_all_but_their_load_it_is_said_that_it_is_open():
    slots = {f"host{number:02}": 4 + number // 20 for number in range(30)}
    load = {name: 0.0 if name == "host00" else 4.0 if slots[name] == 5 else 0.5 for name in slots}
    desired, observed = fleet(load)
    hosts = {name: host.model_copy(update={"slots": slots[name]}) for name, host in desired.hosts.items()}
    step, seen = assigned(replace(desired, hosts=hosts), observed)

    made_again = replay(step, replace(desired, hosts=hosts), seen)

    assert step.after.assigned_host == "host00"
    assert (made_again.verdict, made_again.differences) == ("open", ())
    assert made_again.message.startswith("host28 may have had as little load")


def test_inputs_are_read_as_they_were_written():
    inputs = DecisionInputs(
        load={"a": 0.5}, floor=0.25, half_open=("a",), kept={"b": "big"}, capabilities=("gpu",)
    )

    assert DecisionInputs.parse(str(inputs)) == inputs
    assert DecisionInputs.parse(str(NO_INPUTS)) == NO_INPUTS
    assert str(NO_INPUTS) == ""

"""
Crashes at every failpoint: nothing is lost and nothing happens twice.

`python -m tests.crashes` prints the whole table.

By default a start dies after each side effect, one start after the other. More by hand:
RECONCILER_TEST_CRASHES=all dies before each, too, and at all of them over SSH; =each lets
a start that is left alone follow each crash.
"""

import os
from collections.abc import Sequence

import pytest

from tests.crashes.agents import agent_table
from tests.crashes.failpoints import AGENT_POINTS, FORGE_POINTS, GROUPS, Failpoint, find
from tests.crashes.forge import forge_table
from tests.crashes.runs import FLEETS, CrashFleet, crash_chain, crash_table, points_of
from tests.crashes.table import GOOD, Row
from tests.dispatch.sshd import needs_sshd

HOW = os.environ.get("RECONCILER_TEST_CRASHES", "")
ONLY_FAR = {"fetch", "push", "launch", "take up", "bring back", "push branch"}
"""Side effects that are others where record and host are elsewhere."""


def crashed(kind: str, fleet: CrashFleet) -> Sequence[Row]:
    points = points_of(kind)
    if HOW == "each":
        return list(crash_table(fleet, points))
    if HOW == "all":
        return crash_chain(fleet, points)
    return crash_chain(
        fleet, [each for each in points if kind == "local" or each.name in ONLY_FAR], ["after"]
    )


@pytest.mark.timeout(900 if HOW else 300)
@pytest.mark.parametrize("kind", ["local", pytest.param("ssh", marks=needs_sshd)])
def test_a_reconciler_that_dies_after_any_side_effect_loses_nothing_and_starts_nothing_twice(kind, tmp_path):
    with FLEETS[kind](tmp_path) as fleet:
        rows = crashed(kind, fleet)

    assert [str(row) for row in rows if row.outcome != GOOD] == []


@pytest.mark.timeout(300)
def test_a_server_that_dies_as_it_opens_a_pull_request_opens_one(tmp_path):
    points = [point for point in FORGE_POINTS if point.name == "open pull request"]

    rows = list(forge_table(tmp_path, points, ["after"]))

    assert [str(row) for row in rows if row.outcome != GOOD] == []


@pytest.mark.timeout(300)
def test_a_server_that_dies_as_it_answers_a_worker_gives_the_same_answer_again(tmp_path):
    points = [point for point in AGENT_POINTS if point.name in {"hand out", "acknowledge"}]

    rows = list(agent_table(tmp_path, points, ["before"]))

    assert [str(row) for row in rows if row.outcome != GOOD] == []


@pytest.mark.parametrize(
    "point", [point for group in GROUPS.values() for point in group], ids=lambda point: point.place
)
def test_a_failpoint_is_a_function_of_the_program(point: Failpoint):
    owner, name = find(point)

    assert callable(getattr(owner, name))

"""
Crashes at every failpoint: nothing is lost and nothing starts twice. `crashes.py` prints the whole table.

By default a start dies after each side effect, one start after the other. More by hand:
RECONCILER_TEST_CRASHES=all dies before each, too, and at all of them over SSH; =each lets
a start that is left alone follow each crash.
"""

import os
from collections.abc import Sequence

import pytest

from tests.dispatch.sshd import needs_sshd
from tests.e2e.crashes import FLEETS, GOOD, CrashFleet, Row, crash_chain, crash_table, points_of

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

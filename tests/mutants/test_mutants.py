"""What breaks the promises on purpose still fits the program; `python -m tests.mutants` carries it out."""

from pathlib import Path

import pytest

from tests.mutants.mutants import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.promise}: {mutant.about}")
def test_a_mutant_changes_what_is_there_and_its_guards_are(mutant: Mutant):
    for edit in mutant.edits:
        assert (ROOT / edit.path).read_text().count(edit.old) == 1
    for guard in mutant.guards:
        path, _, name = guard.partition("::")
        assert f"def {name}" in (ROOT / path).read_text()


def test_each_promise_has_a_mutant():
    assert {mutant.promise for mutant in MUTANTS} == {f"P{number}" for number in range(1, 8)}

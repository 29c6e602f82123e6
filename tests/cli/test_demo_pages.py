"""
What `demo --serve` has to show: specs that are right, but for the one that is meant to be wrong.
"""

from reconciler.cli.demo import SIGHTS, make_fleet, make_project
from reconciler.specs.build import build
from reconciler.specs.worktree import read_worktree


def test_the_sights_of_the_demo_are_right_but_for_one(tmp_path):
    make_project(tmp_path / "calculator")
    make_fleet(tmp_path / "fleet", "script", SIGHTS)

    desired = build(read_worktree(tmp_path / "fleet"), revision="work tree")

    assert {problem.path for problem in desired.problems} == {"specs/tasks/search/typo.yaml"}
    assert len(desired.tasks) == len(SIGHTS) - 2 + 3  # a host, a mistake; and those of the example

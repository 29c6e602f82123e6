"""A round that only makes a plan: nothing of what its agent did stays, and what a person did since does."""

import pytest

from tests.dispatch.world import World, git

DRAFT = """
git() { command git -c user.name=x -c user.email=x@example.org "$@"; }
echo draft >draft; echo 'print()' >src/main.py; git update-index --assume-unchanged src/main.py
echo one >one; git add one; git commit -q -m one; git tag kept
git checkout -q --detach; echo two >two; git add two; git commit -q -m two; git checkout -q -b other
echo three >three; git add three; git stash -q
git checkout -q task/web/fix; echo mine >two; git add two; git commit -q -m mine; git merge -q other && exit 1
exit 0
"""


@pytest.fixture
def world(tmp_path) -> World:
    return World(tmp_path / "a world")


async def test_nothing_that_a_plan_left_is_delivered_and_what_a_person_left_since_is(world):
    planned = await world.carry_out(world.order(DRAFT, mode="plan"))
    work = world.data / "host" / "f1" / "work" / "web+fix.g12345678.a1"
    left = git(work, "status", "--porcelain"), git(work, "for-each-ref", "--format=%(refname)", "refs/heads")
    (work / "of a person").write_text("mine\n")
    again = await world.carry_out(world.order("echo more >more", mode="plan", number=2, keeps_work=True))

    done = await world.carry_out(world.order("echo done >done", number=3, keeps_work=True))

    outcomes = [each.verdict.outcome for each in (planned, again, done)]
    assert (outcomes, left) == (["success"] * 3, ("", "refs/heads/task/web/fix"))
    assert done.failed_check is None
    changed = git(world.code, "diff", "--name-only", "main", "task/web/fix").splitlines()
    # Where something of a person's lies, a second plan takes nothing back: it cannot tell whose it is.
    assert changed == ["done", "more", "of a person"]
    assert git(world.code, "rev-list", "--count", "main..task/web/fix") == "1"

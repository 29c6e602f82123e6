"""
A merge queue, end to end: what is approved lands by way of it, and what breaks it goes back and comes again.
"""

from pathlib import Path

import pytest

from tests.e2e.forge_world import CODE, World
from tests.forge.double import ForgejoDouble


@pytest.fixture
def world(tmp_path: Path):
    with ForgejoDouble(tmp_path / "forge") as forge:
        world = World(tmp_path, forge)
        forge.repos[CODE].allows_manual_merges = True
        yield world
        (tmp_path / "over").touch()


QUEUE = "merge: queue\nvalidation: ['test ! -e strict.txt || test ! -e red.txt || test -e mended.txt']\n"


def test_what_is_approved_lands_and_what_breaks_the_rest_goes_back_to_its_agent_and_comes_again(world):
    tasks = {f"tasks__{name}": f"goal: 'write {name}.txt: one'\nrepo: code\n" for name in ("green", "red")}
    world.settings(code=QUEUE, hosts__local="slots: 2\n", **tasks)

    with world.serving():
        green, red = world.pull_of("green"), world.pull_of("red")
        world.forge.push_as_person(CODE, "main", {"strict.txt": "yes\n"})
        for pull in (red, green):
            world.forge.review(CODE, pull.number, "approved")
        world.reaches("green", "completed")
        world.pull_of("red", times=2)
        world.forge.review(CODE, red.number, "approved")
        world.reaches("red", "completed")
        world.eventually(lambda: green.merged and red.merged)
        proof = world.reconciler("verify", "green")

    assert (world.has("green.txt"), world.has("mended.txt")) == ("one", "yes")
    assert "it does not pass: `test" in world.reconciler("history", "red")
    [landed] = [line for line in proof.splitlines() if line.startswith("landed")]
    assert f"with {world.status('green')['validated'][:10]}" in landed
    assert "ok" in landed
    assert {pull.merged_by for pull in (green, red)} == {world.bot}

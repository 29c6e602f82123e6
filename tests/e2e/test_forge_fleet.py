"""
From an issue to a merge: a fleet on a forge, end to end, with the program as a person starts it.
"""

from pathlib import Path

import pytest

from tests.e2e.forge_world import CODE, FLEET, World
from tests.forge.double import ForgejoDouble


@pytest.fixture
def world(tmp_path: Path):
    with ForgejoDouble(tmp_path / "forge") as forge:
        made = World(tmp_path, forge)
        yield made
        made.kill()


TASK = "issues/code-1"
"""What the first issue becomes."""

# --- The full circle ---------------------------------------------------------

ISSUE = "Greet the world.\n\nwrite greeting.txt: helo\n\n## Validation\n\n```\ntest -s greeting.txt\n```\n"
STORY = """\
created
created → assigned
assigned → running
running → review_pending
review_pending, pull opened
review_pending → created
created → assigned
assigned → running
running → review_pending
review_pending → created
created → assigned
assigned → running
running → review_pending
review_pending → completed
""".splitlines()


def go_full_circle(world: World) -> int:
    """Take an issue to its merge, by way of two rounds of review; return the number of the pull request."""
    world.open_issue("Greet the world", ISSUE)
    number = world.pull_of(TASK).number
    typo = ("greeting.txt", 1, "A typo.\nwrite greeting.txt: hello")
    world.forge.review(CODE, number, "rejected", "Almost.", (typo,))
    world.pull_of(TASK, times=2)
    world.forge.review(CODE, number, "rejected", "Say whom.\nwrite greeting.txt: hello, world")
    world.pull_of(TASK, times=3)
    world.forge.review(CODE, number, "approved", "Good.")
    world.eventually(lambda: world.forge.repos[CODE].tickets[1].state == "closed")
    return number


@pytest.mark.parametrize("webhooks", ["normal", "dropped", "shuffled"])
def test_an_issue_goes_full_circle_with_nobody_but_a_reviewer(world, webhooks):
    world.settings(code="merge: when_approved\nlabels: [robot]\n")
    world.forge.webhooks = webhooks

    with world.serving():
        number = go_full_circle(world)
        world.eventually(world.is_swept)

    assert world.story(TASK) == STORY, f"{world}"
    assert world.commits() == len(STORY) + len(["first start", "host local: unknown → up"]), f"{world}"
    check_words(world, number)
    check_rounds(world)
    assert world.has("greeting.txt") == "hello, world"


def check_words(world: World, number: int) -> None:
    """Check what people saw on the forge."""
    pull, issue = world.forge.repos[CODE].pull(number), world.forge.repos[CODE].tickets[1]
    assert (pull.title, pull.merged_by) == ("Greet the world", "bot")
    for words in ("Greet the world.", "issue #1", "test -s greeting.txt` passed", "`apprentice`", "2 of 3"):
        assert words in pull.body
    assert world.labels(number) == {"robot", "agent/completed"}
    assert world.labels(issue.number) == {"agent", "agent/completed"}
    assert world.light(pull.head) == "success"
    assert world.said(number) == []
    [words] = world.said(issue.number)
    assert f"is completed in pull request #{number}" in words
    [taken_up] = world.git(FLEET, "log", "--format=%an: %s", "--", "specs/tasks").splitlines()
    assert taken_up == f"reconciler: Take up {TASK}: Greet the world"


def check_rounds(world: World) -> None:
    """Check that the agent was told of each review, and went on where it was."""
    first, second, third = world.diary()
    assert {note["session"] for note in world.diary()} == {first["session"]}
    assert (first["resumed"], second["resumed"], third["resumed"]) == (False, True, True)
    assert "Review by ann on greeting.txt, line 1" in second["prompt"]
    assert "A typo." in second["prompt"]
    assert "A typo." not in third["prompt"]
    assert "Say whom." in third["prompt"]
    assert set(world.forge.repos[CODE].branches()) == {"main", f"task/{TASK}"}

"""
From an issue to a merge on GitLab, end to end: the double of it, and the program as a person starts it.

Whatever is asked and answered is held to what GitLab's own description says.
"""

from pathlib import Path

import pytest

from tests.e2e.forge_world import CODE, FLEET, World
from tests.e2e.test_forge_fleet import GREET, STORY, TASK, WAITS, check_rounds, check_words, go_full_circle
from tests.forge.gitlab import GitLabDouble, Rules


@pytest.fixture
def world(tmp_path: Path):
    with GitLabDouble(tmp_path / "forge") as gitlab:
        yield World(tmp_path, gitlab)
        (tmp_path / "over").touch()
    assert gitlab.mismatches == []


@pytest.mark.parametrize("webhooks", ["normal", "dropped"])
def test_an_issue_goes_full_circle_with_nobody_but_a_reviewer(world, webhooks):
    world.settings(code="merge: when_approved\nlabels: [robot]\n")
    world.forge.webhooks = webhooks

    with world.serving():
        number = go_full_circle(world)
        world.eventually(world.is_swept)

    assert [step for step in world.story(TASK) if step != WAITS] == STORY, f"{world}"
    check_words(world, number)
    check_rounds(world)
    assert world.has("greeting.txt") == "hello, world"


def test_failed_jobs_are_fixed_and_a_project_that_wants_green_pipelines_merges(world):
    world.forge.rules[CODE] = Rules(pipeline=True)
    world.settings(code="failed_checks: fix\nmerge: when_green\n", tasks__greet=GREET)

    with world.serving():
        pull = world.pull_of("greet")
        world.forge.job(CODE, pull.head, "lint", "failed", allow_failure=True)
        world.forge.job(CODE, pull.head, "build", "failed", why="2 tests fail")
        world.pull_of("greet", times=2)
        world.forge.job(CODE, pull.head, "build", "running")
        world.forge.job(CODE, pull.head, "build", "success")
        world.reaches("greet", "completed")

    assert "- build: 2 tests fail" in world.diary()[-1]["prompt"]
    assert "lint" not in world.diary()[-1]["prompt"]
    assert world.has("mended.txt") == "yes"


def test_a_merge_request_against_the_specs_gets_its_plan_also_from_a_fork(world):
    world.extra["RECONCILER_REPO"] = f"file://{world.folder(FLEET)}"
    tasks = {"specs/tasks/docs/greet.yaml": "goal: Greet.\nadapter: script\nscript: echo hi\n"}

    with world.serving():
        head = world.forge.push_as_person(FLEET, "more", tasks, author="mallory")
        number = world.forge.open_pull(FLEET, "more", "Greet in the docs", author="mallory")
        world.forge.repos[FLEET].pull(number).is_from_fork = True
        world.forge.delete_branch(FLEET, "more")
        [message] = world.eventually(lambda: world.said(number, FLEET))
        world.eventually(lambda: world.commit_status(head, "reconciler/plan", FLEET) == "success")

    assert "docs/greet" in message

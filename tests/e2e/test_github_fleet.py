"""
From an issue to a merge on GitHub, end to end: the double of it, and the program as a person starts it.

Whatever is asked and answered is held to GitHub's own description, where that is installed.
"""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.e2e.forge_world import CODE, World
from tests.e2e.test_forge_fleet import GREET, STORY, TASK, WAITS, check_rounds, check_words, go_full_circle
from tests.forge.github import SLUG, App, GitHubDouble, Rules


@pytest.fixture
def world(tmp_path: Path):
    with GitHubDouble(tmp_path / "forge") as github:
        yield World(tmp_path, github)
        (tmp_path / "over").touch()
    assert github.mismatches == []


def let_an_app_in(world: World) -> None:
    """Let it be the App of the forge instead of an account with a token."""
    key = rsa.generate_private_key(65537, 2048)
    form, no = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (world.root / "app.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, form, no))
    world.forge.app = App(id=12345, installation=678, public_key=key.public_key())
    world.credential = f"app: {{id: 12345, key: {{file: {world.root / 'app.pem'}}}}}"
    world.bot = f"{SLUG}[bot]"


@pytest.mark.parametrize(("webhooks", "is_app"), [("normal", True), ("dropped", False)])
def test_an_issue_goes_full_circle_with_nobody_but_a_reviewer(world, webhooks, is_app):
    if is_app:
        let_an_app_in(world)
    world.settings(code="merge: when_approved\nlabels: [robot]\n")
    world.forge.webhooks = webhooks

    with world.serving():
        number = go_full_circle(world)
        world.eventually(world.is_swept)

    assert [step for step in world.story(TASK) if step != WAITS] == STORY, f"{world}"
    check_words(world, number)
    check_rounds(world)
    assert world.has("greeting.txt") == "hello, world"


def test_failed_check_runs_are_fixed_and_green_ones_merge_by_the_queue(world):
    world.forge.rules[CODE] = Rules(checks=("build",), queue=True)
    world.settings(code="failed_checks: fix\nmerge: when_green\n", tasks__greet=GREET)

    with world.serving():
        pull = world.pull_of("greet")
        world.forge.check_run(pull.head, "build", "failure", title="2 tests fail")
        world.pull_of("greet", times=2)
        world.forge.check_run(pull.head, "build", None)
        world.forge.check_run(pull.head, "build", "success")
        world.eventually(lambda: "in the merge queue, at position 1" in pull.body)
        world.forge.finish_queue(CODE)
        world.reaches("greet", "completed")

    assert "- build: 2 tests fail" in world.diary()[-1]["prompt"]
    assert world.has("mended.txt") == "yes"

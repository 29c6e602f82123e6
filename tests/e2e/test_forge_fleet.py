"""
From an issue to a merge: a fleet on a forge, end to end, with the program as a person starts it.
"""

import hmac
import itertools
import json
import os
import random
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.forge_world import APPRENTICE, CODE, FLEET, SECRET, World
from tests.forge.double import ForgejoDouble, outage
from tests.forge.samples import signed

KILLS = int(os.environ.get("RECONCILER_TEST_KILLS", "6"))
"""How often the reconciler is killed; more by hand: RECONCILER_TEST_KILLS=50."""


@pytest.fixture
def world(tmp_path: Path):
    with ForgejoDouble(tmp_path / "forge") as forge:
        yield World(tmp_path, forge)
        (tmp_path / "over").touch()


TASK = "issues/code-1"
"""What the first issue becomes."""
GREET = "goal: 'write a.txt: one'\nrepo: code\n"


def waiting_for(gate: Path) -> str:
    """Return a task that waits for a file in the middle of its work."""
    return f"goal: |\n  wait for {gate}\n  write a.txt: one\nrepo: code\n"


# --- The full circle ---------------------------------------------------------

ISSUE = "Greet the world.\n\nwrite greeting.txt: helo\n\n## Validation\n\n```\ntest -s greeting.txt\n```\n"
STORY = """\
created
created → assigned
assigned → running
running → review_pending
review_pending, pull request opened
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
WAITS = "review_pending, waiting changed"
"""A reason why it is not merged, such as a request for changes that still stands: one a round, if seen."""


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

    story = world.story(TASK)
    told = [step for step in story if step != WAITS]
    assert told == STORY, f"{world}"
    assert len(story) - len(told) <= len(["after round 1", "after round 2"]), f"{world}"
    assert world.commits() == len(story) + len(["first start", "host local: unknown → up"]), f"{world}"
    check_words(world, number)
    check_rounds(world)
    assert world.has("greeting.txt") == "hello, world"


def check_words(world: World, number: int) -> None:
    """Check what people saw on the forge."""
    pull, issue = world.forge.repos[CODE].pull(number), world.forge.repos[CODE].tickets[1]
    assert (pull.title, pull.merged_by) == ("Greet the world", world.bot)
    for message in ("Greet the world.", "issue #1", "test -s greeting.txt` passed", "`apprentice`", "2 of 3"):
        assert message in pull.body
    assert world.labels(number) == {"robot", "agent/completed"}
    assert world.labels(issue.number) == {"agent", "agent/completed"}
    assert world.commit_status(pull.head) == "success"
    assert world.said(number) == []
    [message] = world.said(issue.number)
    assert f"is completed in pull request {world.forge.sign}{number}" in message
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


@pytest.mark.slow
def test_killed_at_random_moments_it_says_and_does_everything_once(world):
    world.settings(code="merge: when_approved\nretries: 3\n")
    chance = random.Random(11)

    with world.serving():
        world.kill_at(itertools.accumulate(chance.uniform(0.3, 2.2) for _ in range(KILLS)))
        number = go_full_circle(world)

    assert world.story(TASK)[-1] == "review_pending → completed"
    assert [pull.number for pull in world.forge.repos[CODE].pulls] == [number]
    for ticket in world.forge.repos[CODE].tickets.values():
        marks = [message.splitlines()[0] for message in world.said(ticket.number)]
        assert len(marks) == len(set(marks)), f"{marks} {world}"
    runs = [(note["run"], note["session"]) for note in world.diary()]
    assert len(runs) == len(set(runs))
    assert world.has("greeting.txt") == "hello, world"


# --- What people do at a pull request ----------------------------------------


def test_when_changes_are_requested_too_often_a_person_must_act(world):
    world.settings(code="max_reviews: 1\n", tasks__greet=GREET)

    with world.serving():
        number = world.pull_of("greet").number
        world.forge.review(CODE, number, "rejected", "write a.txt: two")
        world.pull_of("greet", times=2)
        world.forge.review(CODE, number, "rejected", "write a.txt: three")
        world.reaches("greet", "escalated")
        [message] = world.eventually(lambda: world.said(number))
        world.eventually(lambda: "agent/escalated" in world.labels(number))

    assert "max_reviews: 1" in message
    assert len(world.diary()) == 2


def test_closing_cancels_and_reopening_revives(world):
    world.settings(tasks__greet=GREET)

    with world.serving():
        number = world.pull_of("greet").number
        world.forge.close_pull(CODE, number)
        world.reaches("greet", "cancelled")
        world.eventually(lambda: "agent/cancelled" in world.labels(number))

        world.forge.reopen_pull(CODE, number)
        world.reaches("greet", "review_pending", times=2)
        world.eventually(lambda: "agent/review_pending" in world.labels(number))
        world.forge.merge_pull(CODE, number)
        world.reaches("greet", "completed")

    assert "by ann" in world.reconciler("history", "greet")
    assert len(world.diary()) == 1


def test_the_agent_leaves_the_branch_to_a_person_until_changes_are_requested(world):
    world.settings(tasks__greet=GREET)

    with world.serving():
        pull = world.pull_of("greet")
        commit = world.forge.push_as_person(CODE, pull.branch, {"b.txt": "mine\n"})
        world.eventually(lambda: (world.status("greet").get("waiting") or {}).get("reason") == "Person")
        [message] = world.eventually(lambda: world.said(pull.number))
        assert "ann pushed" in message

        world.forge.review(CODE, pull.number, "rejected", "write a.txt: two")
        world.pull_of("greet", times=2)

    assert commit in world.git(CODE, "rev-list", pull.branch)
    assert (world.has("a.txt", pull.branch), world.has("b.txt", pull.branch)) == ("two", "mine")


def test_questions_are_answered_on_the_issue_and_then_on_the_pull_request(world):
    with world.serving():
        number = world.open_issue("Greet", "ask What is the word?\n\nwrite greeting.txt: {answer}")
        [question] = world.eventually(lambda: world.said(number))
        world.forge.comment(CODE, number, "/agent answer goodbye", author="mallory")
        world.forge.comment(CODE, number, "/agent answer q1-1 hello")
        pull = world.pull_of(TASK)

        world.forge.review(CODE, pull.number, "rejected", "ask How loud?\nwrite greeting.txt: {answer}")
        [second] = world.eventually(lambda: world.said(pull.number))
        world.forge.comment(CODE, pull.number, "/agent answer HELLO")
        world.pull_of(TASK, times=2)

    assert "What is the word?" in question
    assert "/agent answer q1-1" in question
    assert "How loud?" in second
    assert world.has("greeting.txt", pull.branch) == "HELLO"
    status = world.status(TASK)
    assert [(each["id"], each["answer"]) for each in status["questions"]] == [
        ("q1-1", "hello"),
        ("q2-1", "HELLO"),
    ]
    assert (status["attempt"], status["review_count"], status.get("failures", 0)) == (2, 1, 0)
    assert len({note["session"] for note in world.diary()}) == 1
    [edit, _] = world.git(
        FLEET,
        "log",
        "--format=%s by %(trailers:key=Forge-Author,valueonly,separator=)",
        "--grep=^Answer",
        "main",
    ).splitlines()
    assert edit == f"Answer {TASK}: HELLO by ann"


def test_a_push_while_the_agent_works_is_not_overwritten(world):
    gate = world.root / "gate"
    world.settings(tasks__greet=GREET)

    with world.serving():
        pull = world.pull_of("greet")
        world.forge.review(CODE, pull.number, "rejected", f"wait for {gate}\nwrite a.txt: two")
        world.reaches("greet", "running", times=2)
        commit = world.forge.push_as_person(CODE, pull.branch, {"b.txt": "mine\n"})
        gate.touch()
        world.reaches("greet", "review_pending", times=2)
        world.eventually(lambda: any("pauses" in message for message in world.said(pull.number)))

    assert world.forge.repos[CODE].branches()[pull.branch] == commit


def test_a_person_takes_a_review_round_over_and_gives_it_back(world):
    gate = world.root / "gate"
    world.settings(tasks__greet=GREET)

    with world.serving():
        pull = world.pull_of("greet")
        world.forge.review(CODE, pull.number, "rejected", f"wait for {gate}\nwrite a.txt: two")
        world.reaches("greet", "running", times=2)
        printed = world.reconciler("attach", "greet").splitlines()
        [command] = [line for line in printed if line.startswith("sh -c ")]
        subprocess.run(
            shlex.split(command), env={**world.env, "SHELL": "sh"}, input=b"echo mine >b.txt", check=True
        )
        gate.touch()
        world.reconciler("release", "greet", "I wrote b.txt; do the rest")
        world.reaches("greet", "review_pending", times=2)

    assert (world.has("a.txt", pull.branch), world.has("b.txt", pull.branch)) == ("two", "mine")
    status = world.status("greet")
    assert (status["attempt"], status["round"], status["review_count"]) == (2, 2, 1)
    assert "I wrote b.txt; do the rest" in world.diary()[-1]["prompt"]


def test_a_merge_ends_a_round_that_is_under_way(world):
    world.settings(tasks__greet=GREET)

    with world.serving():
        number = world.pull_of("greet").number
        world.forge.review(CODE, number, "rejected", f"wait for {world.root / 'never'}")
        world.reaches("greet", "running", times=2)
        world.forge.merge_pull(CODE, number)
        world.reaches("greet", "completed")
        world.eventually(world.is_swept)


def test_work_that_is_asked_for_again_gets_another_pull_request(world):
    world.settings(tasks__greet=GREET)

    with world.serving():
        first = world.pull_of("greet").number
        world.forge.merge_pull(CODE, first)
        world.reaches("greet", "completed")
        world.forge.push_as_person(CODE, "main", {"a.txt": "another\n"})
        world.reconciler("retry", "greet")
        world.reaches("greet", "review_pending", times=2)
        second = world.pull_of("greet", times=2).number
        world.forge.merge_pull(CODE, second)
        world.reaches("greet", "completed", times=2)

    assert first != second
    assert world.has("a.txt") == "one"


def test_a_draft_is_merged_once_somebody_made_it_ready(world):
    world.settings(code="draft: true\nmerge: when_approved\n", tasks__greet=GREET)

    with world.serving():
        pull = world.pull_of("greet")
        assert pull.title == "WIP: write a.txt: one"
        world.forge.review(CODE, pull.number, "approved")
        world.forge.edit_issue(CODE, pull.number, title="write a.txt: one")
        world.reaches("greet", "completed")


@pytest.mark.slow
def test_many_tasks_in_one_repo_are_followed_side_by_side(world):
    world.forge.webhooks = "shuffled"
    names = [f"t{number}" for number in range(8)]
    tasks = {f"tasks__{name}": f"goal: 'write {name}.txt: one'\nrepo: code\n" for name in names}
    world.settings(code="merge: when_approved\n", hosts__local="slots: 4\n", **tasks)

    with world.serving():
        pulls = [world.pull_of(name).number for name in names]
        for number in pulls:
            world.forge.review(CODE, number, "approved")
        for name in names:
            world.reaches(name, "completed")

    assert len(set(pulls)) == len(world.forge.repos[CODE].pulls) == len(names)


# --- Work that builds on other work ------------------------------------------

BELOW = "goal: 'write a.txt: one'\nrepo: code\n"
ABOVE = "goal: 'write b.txt: two'\nrepo: code\nstart_from: below\nvalidation: [grep -q one a.txt]\n"


@pytest.mark.parametrize("style", ["merge", "squash", "rebase"])
def test_stacked_work_is_against_the_branch_below_it_until_that_one_is_merged(world, style):
    world.settings(tasks__below=BELOW, tasks__above=ABOVE)

    with world.serving():
        below, above = world.pull_of("below"), world.pull_of("above")
        against = above.base
        own = world.git(CODE, "diff", "--name-only", f"{above.base}...{above.branch}")
        parent = world.git(CODE, "rev-parse", f"{above.branch}^")
        world.forge.merge_pull(CODE, below.number, style=style)
        world.eventually(lambda: above.base == "main")
        still_open = world.phase("above")
        world.forge.merge_pull(CODE, above.number, style=style)
        world.reaches("above", "completed")

    assert (against, own, parent) == ("task/below", "b.txt", below.head)
    assert still_open == "review_pending"
    assert (world.has("a.txt"), world.has("b.txt")) == ("one", "two")
    assert len(world.diary()) == len(["below", "above"])


def test_stacked_work_is_not_merged_by_itself_before_what_is_below_it(world):
    world.settings(code="merge: when_approved\n", tasks__below=BELOW, tasks__above=ABOVE)

    with world.serving():
        below, above = world.pull_of("below"), world.pull_of("above")
        world.forge.review(CODE, above.number, "approved")
        waiting = world.eventually(lambda: world.status("above").get("waiting"))
        merged_early = above.merged_by
        world.forge.review(CODE, below.number, "approved")
        world.reaches("below", "completed")
        world.reaches("above", "completed")

    assert merged_early is None
    assert (waiting["reason"], waiting["message"]) == (
        "Dependency",
        "is merged after below, on whose branch it stands",
    )
    assert above.base == "main"
    assert (world.has("a.txt"), world.has("b.txt")) == ("one", "two")


@pytest.mark.parametrize("way", ["leave", "merge", "rebase"])
def test_stacked_work_that_is_reviewed_after_what_is_below_it_was_merged_goes_on(world, way):
    world.settings(code=f"base_moved: {way}\n", tasks__below=BELOW, tasks__above=ABOVE)

    with world.serving():
        below, above = world.pull_of("below"), world.pull_of("above")
        world.forge.merge_pull(CODE, below.number)
        world.eventually(lambda: above.base == "main")
        world.forge.review(CODE, above.number, "rejected", "write b.txt: three")
        world.pull_of("above", times=2)
        world.forge.merge_pull(CODE, above.number)
        world.reaches("above", "completed")

    assert (world.has("a.txt"), world.has("b.txt")) == ("one", "three")
    assert [pull.number for pull in world.forge.repos[CODE].pulls] == [below.number, above.number]


def test_work_on_a_branch_that_was_closed_waits_and_says_so(world):
    world.settings(tasks__below=BELOW)

    with world.serving():
        world.forge.close_issue(CODE, world.pull_of("below").number)
        world.reaches("below", "cancelled")
        world.push({"specs/tasks/above.yaml": ABOVE})
        waiting = world.eventually(lambda: world.status("above").get("waiting"))

    assert (waiting["reason"], waiting["message"]) == ("Dependency", "waits for below (cancelled)")


# --- Forges that are down ------------------------------------------------------


@pytest.mark.parametrize("how", ["refused", "502"])
def test_while_the_forge_is_down_nothing_fails_and_afterwards_all_goes_on(world, how):
    world.settings(code="merge: when_approved\n", tasks__greet=GREET)

    with world.serving():
        pull = world.pull_of("greet")
        with outage(world.forge, how):
            before = world.talk.count("is not asked now")
            world.forge.review(CODE, pull.number, "rejected", "write a.txt: two")
            world.push(
                {"specs/tasks/other.yaml": "goal: Work.\nadapter: script\nscript: echo hi\nreview: none\n"}
            )
            world.reaches("other", "completed")
            world.eventually(lambda: world.talk.count("is not asked now") > before)
            assert world.phase("greet") == "review_pending"
        world.pull_of("greet", times=2)
        with outage(world.forge, how):
            world.forge.review(CODE, pull.number, "approved")
        world.reaches("greet", "completed")

    assert "Traceback" not in world.talk


def test_a_forge_that_goes_down_after_the_push_gets_its_pull_request_when_it_is_back(world):
    gate = world.root / "gate"
    world.settings(tasks__greet=waiting_for(gate))

    with world.serving():
        world.reaches("greet", "running")
        with outage(world.forge, "refused"):
            before = world.talk.count("is not asked now")
            gate.touch()
            world.reaches("greet", "review_pending")
            world.eventually(lambda: world.talk.count("is not asked now") >= before + 2)
            assert world.forge.repos[CODE].pulls == []
        world.pull_of("greet")

    assert len(world.forge.repos[CODE].pulls) == 1
    assert "failed" not in " ".join(world.story("greet"))


@pytest.mark.slow
def test_a_token_that_is_revoked_fails_nothing_and_its_successor_is_taken_up(world):
    world.settings(tasks__greet=GREET)

    with world.serving():
        number = world.pull_of("greet").number
        known = dict(world.forge.tokens)
        world.forge.tokens.clear()
        world.forge.review(CODE, number, "rejected", "write a.txt: two")
        world.eventually(lambda: "the token is refused" in world.talk)
        assert world.phase("greet") == "review_pending"
        world.forge.tokens.update(known)
        world.pull_of("greet", times=2)

    assert world.forge.token not in world.talk


def test_a_pull_request_that_a_person_opened_is_adopted(world):
    gate = world.root / "gate"
    world.settings(tasks__greet=waiting_for(gate))

    with world.serving():
        world.reaches("greet", "running")
        with outage(world.forge, "refused"):
            gate.touch()
            world.reaches("greet", "review_pending")
            number = world.forge.open_pull(CODE, "task/greet", "My title", body="My words.")
        assert world.pull_of("greet").number == number
        world.eventually(lambda: "agent/review_pending" in world.labels(number))
        pull = world.forge.repos[CODE].pull(number)
        world.eventually(lambda: "write a.txt" in pull.body)

    assert pull.title == "My title"
    assert "My words." in pull.body
    assert world.phase("greet") == "review_pending"


# --- What comes of the work ------------------------------------------------------


def test_an_agent_that_changes_nothing_gets_a_verdict_and_no_pull_request(world):
    world.settings(tasks__idle="goal: Look around.\nrepo: code\nretries: 0\n")

    with world.serving():
        world.reaches("idle", "failed")

    assert world.forge.repos[CODE].pulls == []
    assert world.status("idle")["failure"]["message"] == (
        "the agent changed nothing: there is nothing to review"
    )
    assert "task/idle" not in world.forge.repos[CODE].branches()


@pytest.mark.parametrize("way", ["merge", "rebase"])
def test_work_is_brought_up_to_a_base_that_moved(world, way):
    gate = world.root / "gate"
    world.settings(code=f"base_moved: {way}\n", tasks__greet=waiting_for(gate))

    with world.serving():
        world.reaches("greet", "running")
        base = world.forge.push_as_person(CODE, "main", {"b.txt": "moved\n"})
        gate.touch()
        pull = world.pull_of("greet")

    assert base in world.git(CODE, "rev-list", pull.branch)
    assert (world.has("a.txt", pull.branch), world.has("b.txt", pull.branch)) == ("one", "moved")
    merges = world.git(CODE, "rev-list", "--merges", f"main..{pull.branch}").split()
    assert len(merges) == (1 if way == "merge" else 0)


def test_a_conflict_at_the_delivery_is_given_back_to_the_agent(world):
    gate = world.root / "gate"
    world.settings(code="base_moved: merge\n", tasks__greet=waiting_for(gate))

    with world.serving():
        world.reaches("greet", "running")
        world.forge.push_as_person(CODE, "main", {"a.txt": "another\n"})
        gate.touch()
        pull = world.pull_of("greet")

    assert world.has("a.txt", pull.branch) == "one"
    first, second = world.diary()
    assert (second["run"], second["resumed"]) == (first["run"], True)
    assert "git merge origin/main" in second["prompt"].partition("# What failed")[2]


@pytest.mark.slow
def test_a_pull_request_that_comes_to_conflict_is_a_round_for_the_agent(world):
    world.settings(
        code="base_moved: merge\nmerge: when_approved\n",
        tasks__greet=GREET,
    )

    with world.serving():
        number = world.pull_of("greet").number
        world.forge.push_as_person(CODE, "main", {"a.txt": "another\n"})
        world.pull_of("greet", times=2)
        world.forge.review(CODE, number, "approved")
        world.reaches("greet", "completed")

    assert world.has("a.txt") == "one"
    assert "conflicts with main" in world.reconciler("history", "greet")


def test_failed_checks_are_mended_and_green_ones_merge(world):
    world.settings(code="failed_checks: fix\nmerge: when_green\n", tasks__greet=GREET)

    with world.serving():
        pull = world.pull_of("greet")
        world.forge.set_status(CODE, pull.head, "failure", description="2 tests fail")
        world.pull_of("greet", times=2)
        world.forge.set_status(CODE, pull.head, "pending")
        world.forge.set_status(CODE, pull.head, "success")
        world.reaches("greet", "completed")

    assert "- ci/test: 2 tests fail" in world.diary()[-1]["prompt"]
    assert world.has("mended.txt") == "yes"


# --- Issues and commands ---------------------------------------------------------


def test_an_issue_is_followed_wherever_it_goes(world):
    def spec() -> str:
        return world.git(FLEET, "show", f"main:specs/tasks/{TASK}.yaml")

    with world.serving():
        number = world.open_issue("Greet", f"wait for {world.root / 'never'}\n\n## Rules\n\n- Be kind.\n")
        world.reaches(TASK, "running")
        assert "constraints: [Be kind.]" in spec()

        world.push({f"specs/tasks/{TASK}.yaml": f"{spec()}\npriority: 7\n"})
        world.forge.edit_issue(CODE, number, body="write a.txt: one\n\n## Rules\n\n- Be brief.\n")
        world.eventually(lambda: "constraints: [Be brief.]" in spec())
        assert "Be kind." not in spec()
        assert "priority: 7" in spec()

        world.forge.unlabel_issue(CODE, number, "agent")
        world.reaches(TASK, "cancelled")
        world.forge.label_issue(CODE, number, "agent")
        world.pull_of(TASK)

        world.forge.close_issue(CODE, number)
        world.reaches(TASK, "cancelled", times=2)
        world.eventually(lambda: world.said(number))

    assert "review_pending → cancelled" in world.story(TASK)


def test_commands_of_allowed_people_are_followed_and_answered_once(world):
    with world.serving():
        number = world.open_issue("Greet", f"wait for {world.root / 'never'}\n")
        world.reaches(TASK, "running")
        world.forge.comment(CODE, number, "/agent cancel", author="mallory")
        world.forge.comment(CODE, number, "/agent status")
        [message] = world.eventually(lambda: answers(world, number))
        assert "**running**" in message

        world.forge.comment(CODE, number, "/agent cancel\nIt was a mistake.")
        world.reaches(TASK, "cancelled")
        world.forge.edit_issue(CODE, number, body="write a.txt: one\n")
        world.forge.comment(CODE, number, "/agent model small")
        world.forge.comment(CODE, number, "/agent retry")
        pull = world.pull_of(TASK)
        world.forge.comment(CODE, pull.number, "/agent host nowhere")
        world.eventually(lambda: answers(world, pull.number))
        world.eventually(lambda: len(answers(world, number)) == 4)

    assert "there is no host 'nowhere'" in answers(world, pull.number)[0]
    assert "mallory may not command agents" in world.talk
    assert world.status(TASK)["model"] == "small"
    who = "%(trailers:key=Forge-Author,valueonly,separator=)"
    told = world.git(FLEET, "log", "--reverse", f"--format={who} %s", "main").splitlines()
    assert [line.removeprefix("ann ") for line in told if line.startswith("ann ")] == [
        f"Cancel {TASK}",
        f"Model {TASK}: small",
        f"Retry {TASK}",
    ]


def answers(world: World, number: int) -> list[str]:
    """Return what was answered to commands."""
    return [message for message in world.said(number) if "reconciler:command:" in message]


# --- Plans on pull requests ------------------------------------------------------


def test_a_pull_request_against_the_specs_gets_its_plan_and_keeps_it(world):
    with world.serving():
        head = world.forge.push_as_person(
            FLEET, "more", {"specs/tasks/docs/greet.yaml": "goal: Greet.\nadapter: script\nscript: echo hi\n"}
        )
        number = world.forge.open_pull(FLEET, "more", "Greet in the docs")
        [message] = world.eventually(lambda: world.said(number, FLEET))
        world.eventually(lambda: world.commit_status(head, "reconciler/plan", FLEET) == "success")
        assert "docs/greet" in message

        head = world.forge.push_as_person(FLEET, "more", {"specs/tasks/docs/bad.yaml": "goal: x\ngaol: y\n"})
        world.eventually(lambda: world.commit_status(head, "reconciler/plan", FLEET) == "failure")
        [message] = world.said(number, FLEET)
        assert "specs/tasks/docs/bad.yaml:2:1" in message
        assert head[:10] in message
        assert "docs/greet" not in world.reconciler("get", "tasks")

        world.forge.push_as_person(FLEET, "more", {"specs/tasks/docs/bad.yaml": "goal: x\nrequires: gpu\n"})
        world.forge.merge_pull(FLEET, number)
        world.reaches("docs/greet", "completed")


# --- Pull agents -----------------------------------------------------------------


def test_the_work_of_an_outside_agent_gets_a_pull_request_too(world):
    world.settings(
        code="merge: when_approved\nvalidation: test -s a.txt\nvalidate_on: local\n",
        tasks__greet="goal: 'write a.txt: one'\nrepo: code\nexecution_mode: http_pull\n",
    )
    world.extra["RECONCILER_TOKEN"] = world.reconciler("token", "new", "helper").splitlines()[0]
    work = f"{sys.executable} {APPRENTICE} {world.root / 'diary'} session"
    who = "-c user.name=Test -c user.email=test@example.org"
    command = f"{work} && git add -A && git {who} commit -qm Work"

    with world.serving():
        ask = ("agent", "pull", "--url", world.url, "--once", "--command", command)
        world.reconciler(*ask)
        pull = world.pull_of("greet")
        world.forge.review(CODE, pull.number, "rejected", "write a.txt: two")
        world.reaches("greet", "created")
        world.reconciler(*ask)
        world.pull_of("greet", times=2)
        world.forge.review(CODE, pull.number, "approved")
        world.reaches("greet", "completed")
        world.eventually(lambda: "agent/completed" in world.labels(pull.number))

    assert "Agent: `helper`" in pull.body
    assert "`test -s a.txt` passed" in pull.body
    assert world.has("a.txt") == "two"
    assert len(world.forge.repos[CODE].pulls) == 1


# --- Webhooks --------------------------------------------------------------------


@pytest.mark.parametrize(("name", "place"), [("code", CODE), ("fleet", FLEET)])
def test_a_webhook_is_set_up_and_tried_by_commands(world, name, place):
    (world.root / "secret").unlink()
    world.start()

    told = world.reconciler("webhook", "install", name, "--url", world.url)
    shown = world.reconciler("webhook", "test", name)

    secret, *_ = (world.root / "secret").read_text().split()
    [hook] = world.forge.repos[place].hooks.values()
    assert (hook.url, hook.secret) == (world.hook_url, secret)
    assert secret not in told + shown
    assert "push" in shown
    assert "main" in shown
    world.kill()


# --- Strangers -------------------------------------------------------------------


def test_what_is_not_from_the_forge_is_refused_and_leaves_nothing(world):
    world.forge.webhooks = "dropped"

    with world.serving():
        world.eventually(lambda: world.commits() >= len(["first start", "host local: unknown → up"]))
        body = json.dumps({"ref": "refs/heads/x", "repository": {"full_name": CODE}}).encode()
        sha1 = hmac.new(SECRET.encode(), body, "sha1").hexdigest()
        record = world.git(FLEET, "rev-parse", "fleet-state")

        assert world.deliver(body, {}) == 401
        assert world.deliver(body, {"X-Forgejo-Signature": ""}) == 401
        assert world.deliver(body, {"X-Hub-Signature-256": "sha256="}) == 401
        assert world.deliver(body, {"X-Hub-Signature": f"sha1={sha1}"}) == 401
        assert world.deliver(body, signed("push", body, "another secret")) == 401
        assert world.deliver(body + b" ", signed("push", body, SECRET)) == 401
        for wrong in (b"not JSON", b"[]", b'"push"', b"{}", b"\xff\xfe", b"[" * 100_000):
            assert world.deliver(wrong, signed("push", wrong, SECRET)) == 400
        before = world.memory()
        large = b"x" * 50 * 2**20
        for _ in range(4):
            assert world.deliver(large, signed("push", large[:9], SECRET)) == 413
            assert world.deliver((large[: 2**20] for _ in range(50)), signed("push", b"x", SECRET)) == 413
        assert world.memory() < before + 40 * 2**20

        # That some came is all that stays, for those who look why events do not come in.
        [kept] = (world.root / "data/hooks").iterdir()
        assert (kept.name, kept.stat().st_size < 10_000) == ("rejected.json", True)
        assert "xxx" not in kept.read_text()
        assert world.git(FLEET, "rev-parse", "fleet-state") == record
        assert world.deliver(body, signed("push", body, SECRET)) == 202
        assert (world.root / "data/hooks/deliveries.jsonl").exists()

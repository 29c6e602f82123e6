"""
Finished work is reviewed by a second agent before it is delivered, in a checkout of its own.
"""

import os
from datetime import timedelta

import pytest

from reconciler.core.adapter import Adapter
from reconciler.core.model.runs import FailureClass, Reviewer, RunRequest
from reconciler.dispatch.local import LocalTransport
from reconciler.dispatch.logs import LogFolder
from tests.dispatch.world import RUN, SCRIPT, World, git, until

WORK = "echo new >>README; git commit -qam work"
FORM = """printf '{"commit": "%s", "verdict": "%s", "findings": %s}' "$(git rev-parse HEAD)" """


@pytest.fixture
def world(tmp_path) -> World:
    world = World(tmp_path / "a world")
    environ = {"PATH": os.environ["PATH"], "HOME": str(world.folder), "LANG": "C.UTF-8"}
    world.transport = LocalTransport(world.folder, environ)
    return world


def order(world: World, review: str, *, work: str = WORK, **fields) -> RunRequest:
    adapter = Adapter(name="codex", command=("sh", "-c", review), prompt="stdin", stop=SCRIPT.stop)
    terms = {"is_last": False, "has_people": True} | fields
    order = world.order(work)
    reviewer = Reviewer(adapter=adapter, model=None, brief="Say it.", timeout=order.timeout, **terms)
    return order.model_copy(update={"reviewer": reviewer})


def is_delivered(world: World) -> bool:
    return "task/web/fix" in git(world.code, "branch", "--format=%(refname:short)").splitlines()


async def test_approved_work_is_delivered_and_nothing_that_the_reviewer_wrote_comes_with_it(world):
    review = f"cat >{world.folder}/prompt; echo mine >>README; echo x >left; {FORM} approve '[]'"

    report = await world.carry_out(order(world, review.replace(str(world.folder), f"'{world.folder}'")))

    assert (report.opinion.verdict, report.opinion.commit) == ("approve", report.head_commit)
    assert git(world.code, "show", f"{report.head_commit}:README") == "hello\nnew"
    assert "left" not in git(world.code, "ls-tree", "--name-only", "-r", "task/web/fix")
    prompt = (world.folder / "prompt").read_text()
    assert "+new" in prompt
    assert "Say it." in prompt
    assert report.head_commit in prompt
    labels = [label for label, _ in LogFolder(world.data / "logs").paths(RUN)]
    assert "round 1 second opinion" in labels
    assert len(labels) == len(set(labels))


async def test_work_that_needs_changes_is_not_delivered_until_its_agent_has_had_its_rounds(world):
    review = f"""{FORM} changes '[{{"text": "it lies", "path": "README", "line": 2}}]'"""

    held = await world.carry_out(order(world, review))
    was_delivered = is_delivered(world)
    passed_on = await world.carry_out(
        order(world, review, is_last=True).model_copy(update={"run": "web/fix.g12345678.a2"})
    )

    assert (held.objection.findings[0].place, held.head_commit) == ("README:2: ", None)
    assert not was_delivered
    assert (passed_on.opinion.verdict, passed_on.objection) == ("changes", None)
    assert is_delivered(world)


@pytest.mark.parametrize(
    ("review", "why"),
    [
        ("echo 'looks good'", "do not end with a verdict"),
        ("""printf '{"commit": "abc", "verdict": "approve"}'""", "names another commit"),
        ("echo 'quota?'; exit 3", "exit 3"),
    ],
    ids=["no form", "a verdict that was quoted", "a failed run"],
)
async def test_a_review_without_a_verdict_approves_nothing(world, review, why):
    alone = await world.carry_out(order(world, review, has_people=False))

    assert alone.opinion.verdict == "failed"
    assert why in alone.opinion.message
    assert alone.objection is not None
    assert not is_delivered(world)


async def test_a_review_that_came_to_no_verdict_is_tried_once_more(world):
    seen = world.folder / "seen"
    review = f"echo x >>'{seen}'; [ $(wc -l <'{seen}') = 1 ] || {FORM} approve '[]'"

    report = await world.carry_out(order(world, review, has_people=False))

    assert seen.read_text() == "x\nx\n"
    assert report.opinion.verdict == "approve"
    assert is_delivered(world)


async def test_a_review_that_takes_too_long_names_its_own_limit_and_is_not_tried_again(world):
    asked = order(world, "sleep 600", has_people=False)
    reviewer = asked.reviewer.model_copy(update={"timeout": timedelta(seconds=1)})

    report = await world.carry_out(asked.model_copy(update={"reviewer": reviewer}))

    assert "raise `review_by.timeout`" in report.opinion.message


async def test_a_review_is_done_once_though_the_reconciler_is_killed_in_the_middle_of_it(world):
    go, seen = world.folder / "go", world.folder / "seen"
    review = f"echo x >>'{seen}'; until [ -e '{go}' ]; do sleep 0.05; done; {FORM} approve '[]'"
    asked, events = order(world, review), []
    first = world.dispatcher()
    first.follow(asked, events.append)
    await until(seen.exists)
    await first.close()
    go.touch()

    report = await world.carry_out(asked)

    assert seen.read_text() == "x\n"
    assert report.opinion.verdict == "approve"
    assert is_delivered(world)


async def test_a_run_that_is_stopped_during_its_review_is_over_and_delivers_nothing(world):
    seen = world.folder / "seen"
    asked, events = order(world, f"touch '{seen}'; sleep 600"), []
    dispatcher = world.dispatcher()
    dispatcher.follow(asked, events.append)
    await until(seen.exists)

    dispatcher.stop(asked, "cancelled", events.append)
    await until(lambda: any(hasattr(event, "report") for event in events))

    assert events[-1].report.verdict.kind is FailureClass.CANCELLED
    assert not is_delivered(world)
    await dispatcher.close()

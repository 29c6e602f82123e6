"""A push to the branch of a task is a sign of life, with a pull request and without."""

from dataclasses import replace
from datetime import timedelta

import pytest

from reconciler.controller.branches import SETTLES, BranchController
from reconciler.controller.notify import notify, specs_poller
from reconciler.controller.poller import Poller
from reconciler.core.errors import Unavailable
from reconciler.core.model.forge import Hint
from reconciler.core.model.specs import FLEET_FORGE
from reconciler.core.model.status import Phase
from tests.controller.forging import FORGE, Scene, reviewed, turns
from tests.fakes import make_task


@pytest.fixture
async def scene():
    scene = Scene()
    scene.dispatch.hold = True
    yield scene
    await scene.stop()


class Pushes:
    """Webhooks of pushes to a fleet, and a controller that is told of them."""

    def __init__(self, scene):
        self.scene, self.done = scene, []
        loop = scene.loop
        self.branches = BranchController(scene.forges, loop.cache, loop.inbox, scene.clock)
        self.pulls = loop.controllers.pulls

    async def come(self, branch, delivery="d-1", after=SETTLES):
        hint = Hint(delivery=delivery, event="push", place=FORGE.repo, repos=("web",), branch=branch)
        self.notify(hint)
        self.branches.poller.poll_due(self.scene.clock())
        await self.look(after)

    def notify(self, hint, *pollers):
        notify(
            hint,
            lambda: self.done.append(hint.delivery),
            pulls=self.pulls,
            branches=self.branches,
            pollers=pollers,
            state_branch="fleet-state",
        )

    async def look(self, after=SETTLES):
        self.scene.clock.time += after
        self.branches.poller.poll_due(self.scene.clock())
        self.scene.loop.inbox.notify()
        await turns()


async def test_specs_are_fetched_after_a_push_and_not_after_a_comment(scene):
    await scene.start()
    fetches, pushes = [], Pushes(scene)

    async def fetch():
        fetches.append(scene.clock.time)

    specs = specs_poller(fetch, scene.loop.inbox, lambda: timedelta(minutes=1), scene.clock)
    comment = Hint(delivery="d-1", event="issue_comment", place=FORGE.repo, repos=(FLEET_FORGE,), pull=1)

    for hint in (comment, replace(comment, delivery="d-2", pull=None, branch="main")):
        pushes.notify(hint, specs)
        specs.poll_due(scene.clock())
        await turns()

    assert len(fetches) == 1
    assert pushes.done == ["d-1", "d-2"]


@pytest.mark.parametrize("task", [make_task("a", repo="web"), reviewed("a")], ids=["none", "pull_request"])
async def test_a_push_while_an_agent_works_is_its_tasks_last_activity(scene, task):
    scene.push(task)
    await scene.start()
    assert scene.status("a").phase in {Phase.ASSIGNED, Phase.RUNNING}
    before, commits = scene.status("a"), len(scene.state.log)
    pushes = Pushes(scene)
    head = scene.site.push("task/a", pusher="ann")

    await pushes.come("task/a")

    after = scene.status("a")
    assert before.since + SETTLES < after.last_activity_at <= scene.clock.time
    assert replace_activity(after) == replace_activity(before)
    [step] = scene.state.log[commits:]
    assert (step.event.origin.reason, step.event.origin.delivery) == (
        f"{head[:8]} was pushed to task/a",
        "d-1",
    )
    assert pushes.done == ["d-1"]


async def test_a_push_that_is_told_again_or_is_our_own_delivery_is_no_news(scene):
    scene.push(reviewed("a"))
    await scene.start()
    pushes = Pushes(scene)
    scene.site.push("task/a", pusher="ann")
    await pushes.come("task/a")
    commits = len(scene.state.log)

    await pushes.come("task/a", "d-2")
    assert (len(scene.state.log), pushes.done) == (commits, ["d-1", "d-2"])

    await pushes.come("task/b", "d-3")
    await pushes.come("main", "d-4")
    assert (len(scene.state.log), pushes.done) == (commits, ["d-1", "d-2", "d-3", "d-4"])


async def test_what_we_delivered_is_no_news(scene):
    scene.push(reviewed("a"))
    await scene.start()
    scene.dispatch.finish(scene.dispatch.follows[-1])
    await scene.pass_time(SETTLES)
    commits = len(scene.state.log)
    assert scene.status("a").phase is Phase.REVIEW_PENDING

    pushes = Pushes(scene)
    await pushes.come("task/a")

    assert (len(scene.state.log), scene.status("a").head_commit) == (commits, scene.site.heads["task/a"])


async def test_a_push_is_looked_for_again_if_the_forge_is_away(scene, monkeypatch):
    scene.push(reviewed("a"))
    await scene.start()
    pushes = Pushes(scene)
    scene.site.push("task/a", pusher="ann")
    answers = [Unavailable("away")]

    async def away(forge, branch):
        if answers:
            raise answers.pop()
        return scene.site.heads[branch]

    monkeypatch.setattr(scene.forges, "branch_head", away)
    await pushes.come("task/a")
    assert pushes.done == []

    await pushes.look(scene.loop.cache.desired.fleet.forge_interval)

    assert pushes.done == ["d-1"]
    assert scene.status("a").last_activity_at > scene.clock.time - SETTLES


def replace_activity(status):
    return status.model_copy(update={"last_activity_at": None})


async def test_our_own_pushes_to_the_state_branch_make_nobody_look(scene):
    scene.dispatch.hold = False
    scene.push(reviewed("a"))
    await scene.start()
    pushes, us = Pushes(scene), await scene.forges.whoami(FORGE)
    polled = {}

    for delivery, sender, branch in (
        ("d-1", us, "fleet-state"),
        ("d-2", us, "main"),
        ("d-3", "ann", "fleet-state"),
    ):
        poller = Poller(
            poll=scene.forges.whoami,
            subjects=lambda: {FLEET_FORGE: FORGE},
            interval=lambda: SETTLES,
            clock=scene.clock,
            failure="",
            due={FLEET_FORGE: scene.clock.time + SETTLES},
        )
        hint = Hint(
            delivery=delivery,
            event="push",
            place="acme/fleet",
            repos=(FLEET_FORGE,),
            branch=branch,
            sender=sender,
        )
        pushes.notify(hint, poller)
        polled[delivery] = poller.next()

    assert polled["d-1"] is not None
    assert (polled["d-2"], polled["d-3"]) == (None, None)
    assert pushes.done == ["d-1"]


class NoWalk(dict):
    """A mapping that nobody may walk over."""

    def __iter__(self):
        raise AssertionError("walked over")

    items = values = keys = __iter__


async def test_the_tasks_of_a_branch_are_found_without_a_walk_over_all(scene):
    scene.push(
        make_task("a", repo="web"),
        make_task("b", repo="web", branch_name="their/own"),
        make_task("c", repo="web", branch_name="task/b"),
        make_task("their/own"),
    )
    await scene.start()
    cache = scene.loop.cache

    cache.desired = replace(cache.desired, tasks=NoWalk(cache.desired.tasks))
    cache.statuses = NoWalk(dict(cache.statuses))

    assert cache.on_branch("web", "task/a") == ["a"]
    assert cache.on_branch("web", "their/own") == ["b"]
    assert cache.on_branch("web", "task/b") == ["c"]
    assert cache.on_branch("web", "main") == cache.on_branch("other", "task/a") == []


async def test_a_renamed_task_is_found_by_the_branch_of_its_run(scene):
    scene.push(make_task("a", repo="web", generation="a" * 40))
    await scene.start()

    scene.push(make_task("b", repo="web", generation="a" * 40))
    await scene.pass_time(SETTLES)

    assert scene.loop.cache.on_branch("web", "task/a") == ["b"]
    assert scene.loop.cache.on_branch("web", "task/b") == []

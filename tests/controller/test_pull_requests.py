"""Pull requests are followed and shown politely, and one that is odd keeps no other waiting."""

import asyncio
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest

from reconciler.controller import pull_requests
from reconciler.controller.merge_turns import MERGE_TURN
from reconciler.controller.pull_requests import MEMORY, SETTLES, SHOW_TURN
from reconciler.core.errors import Conflict, Unavailable
from reconciler.core.model.forge import Hint, MergeRefusal
from reconciler.core.model.status import Phase
from tests.controller.forging import FORGE, REPO, Scene, reviewed, turns

HOUR = timedelta(hours=1)


@pytest.fixture
async def scene():
    scene = Scene()
    yield scene
    await scene.stop()


async def test_a_quiet_fleet_asks_its_forge_once_in_an_interval(scene):
    scene.push(reviewed("a"), reviewed("b"))
    await scene.start()
    await scene.pass_time(timedelta(minutes=5))
    commits, shown = len(scene.state.log), scene.forges.asked["show"]
    scene.forges.asked.clear()

    await scene.pass_time(HOUR)

    assert {scene.status(name).phase for name in "ab"} == {Phase.REVIEW_PENDING}
    assert shown
    assert scene.forges.asked.keys() - {"whoami"} == {"pulls"}  # that is remembered
    assert scene.forges.asked["pulls"] in {59, 60}
    assert len(scene.state.log) == commits


async def test_a_merge_that_is_never_allowed_is_not_asked_for_all_the_time(scene):
    scene.forges.refuses_merges = True
    scene.push(reviewed("a"), repo=REPO.model_copy(update={"merge": "when_approved"}))
    await scene.start()
    scene.site.review(scene.status("a").review.pull_request.number, "approved")
    await scene.pass_time(timedelta(minutes=5))
    scene.forges.asked.clear()

    await scene.pass_time(HOUR)

    assert scene.status("a").phase is Phase.REVIEW_PENDING
    assert scene.forges.asked["show"] <= 61


async def test_a_merge_that_the_forge_was_not_ready_for_is_asked_for_again_soon(scene):
    scene.forges.refuses_merges = True
    scene.push(reviewed("a"), repo=REPO.model_copy(update={"merge": "when_approved"}))
    await scene.start()
    number = scene.status("a").review.pull_request.number
    scene.site.review(number, "approved")
    scene.webhooks(number)
    await turns()
    scene.forges.refuses_merges = False

    await scene.pass_time(timedelta(seconds=6))

    assert scene.status("a").phase is Phase.COMPLETED


async def test_a_merge_that_is_refused_is_asked_for_again_when_something_is_new_or_after_a_time(scene):
    scene.forges.refuses_merges, scene.forges.refusal = True, MergeRefusal("2 approvals")
    scene.push(reviewed("a"), repo=REPO.model_copy(update={"merge": "when_approved"}))
    await scene.start()
    number = scene.status("a").review.pull_request.number
    scene.site.review(number, "approved")
    scene.webhooks(number)
    await turns()
    refused = scene.forges.asked["show"]

    for _ in range(10):
        scene.webhooks(number)
        await turns()
    quiet = scene.forges.asked["show"]
    scene.forges.refuses_merges = False
    scene.site.review(number, "approved", author="bea")
    scene.webhooks(number)
    await turns()

    assert quiet == refused
    assert scene.status("a").phase is Phase.COMPLETED


async def test_merges_that_take_long_leave_their_turn_to_what_is_new(scene):
    names = "abcdef"
    scene.push(*map(reviewed, names), repo=REPO.model_copy(update={"merge": "when_approved"}))
    await scene.start()
    for name in names:
        scene.site.review(scene.status(name).review.pull_request.number, "approved")
    scene.forges.merge_time = MERGE_TURN * 0.6
    scene.webhooks()
    scene.forges.shown.clear()
    scene.push(*map(reviewed, "abcdefg"), repo=REPO.model_copy(update={"merge": "when_approved"}))

    await scene.pass_time(timedelta(minutes=1))

    order = [view.task for view in scene.forges.shown if view.merges or view.opens]
    assert set(order) == set("abcdefg")
    assert order.index("g") < len(names) - 1
    assert {scene.status(name).phase for name in names} == {Phase.COMPLETED}


async def test_a_forge_that_computes_is_asked_for_merges_alone_until_somebody_does_something(scene):
    scene.push(*map(reviewed, "ab"), repo=REPO.model_copy(update={"merge": "when_approved"}))
    await scene.start()
    scene.forges.refuses_merges, scene.forges.refusal = True, MergeRefusal("computing", kind="computing")
    for name in "ab":
        scene.site.review(scene.status(name).review.pull_request.number, "approved")
    scene.webhooks()
    await turns()

    scene.forges.asked.clear()
    await scene.pass_time(MERGE_TURN / 2)
    computing = Counter(scene.forges.asked)
    scene.webhooks()
    await turns()
    after_news = Counter(scene.forges.asked) - computing
    scene.forges.refuses_merges = False
    await scene.pass_time(2 * MERGE_TURN)

    assert computing["show"] > 2
    assert computing.keys() == {"show"}
    assert after_news["pulls"] == 1
    assert {scene.status(name).phase for name in "ab"} == {Phase.COMPLETED}


async def test_what_somebody_does_while_others_are_merged_is_read_before_the_merge(scene, monkeypatch):
    async def show(forge, view):
        if view.merges and view.task == "a":
            scene.site.review(numbers["b"], "changes_requested", author="bea")
            scene.webhooks(numbers["b"])
        return await real(forge, view)

    scene.push(*map(reviewed, "abc"), repo=REPO.model_copy(update={"merge": "when_approved"}))
    await scene.start()
    numbers = {name: scene.status(name).review.pull_request.number for name in "abc"}
    real = scene.forges.show
    monkeypatch.setattr(scene.forges, "show", show)
    for number in numbers.values():
        scene.site.review(number, "approved")

    scene.webhooks(*numbers.values())
    await scene.pass_time(timedelta(seconds=2))

    assert {scene.status(name).phase for name in "ac"} == {Phase.COMPLETED}
    assert not scene.site.pulls[numbers["b"]].is_merged
    assert scene.status("b").review.count == 1


async def test_what_was_merged_goes_on_record_while_others_are_still_to_be(scene):
    scene.push(*map(reviewed, "ab"), repo=REPO.model_copy(update={"merge": "when_approved"}))
    await scene.start()
    for name in "ab":
        scene.site.review(scene.status(name).review.pull_request.number, "approved")

    def compute():
        scene.forges.refuses_merges, scene.forges.refusal = True, MergeRefusal("computing", kind="computing")

    scene.forges.meanwhile["b"] = compute
    scene.webhooks()
    await scene.pass_time(MERGE_TURN / 2)

    assert [scene.status(name).phase for name in "ab"] == [Phase.COMPLETED, Phase.REVIEW_PENDING]


async def test_a_pull_request_is_opened_while_news_of_others_goes_on_record(scene):
    scene.forges.odd = "b"  # its pull request is still to be opened
    scene.push(*map(reviewed, "ab"))
    await scene.start()
    commit, gate = scene.state.commit, asyncio.Event()

    async def slow(steps):
        await gate.wait()
        await commit(steps)

    scene.state.commit, scene.forges.odd = slow, ""
    number = scene.status("a").review.pull_request.number
    scene.site.review(number, "changes_requested", "Not so.")
    scene.webhooks(number)
    await turns()
    opened = [view.task for view in scene.forges.shown if view.opens]
    gate.set()

    assert opened == ["a", "b"]


async def test_what_is_approved_while_all_are_shown_again_after_a_restart_is_merged_before_the_last(scene):
    names = "abcdefghij"
    scene.push(*map(reviewed, names), repo=REPO.model_copy(update={"merge": "when_approved"}))
    await scene.start()
    number = scene.status("j").review.pull_request.number
    scene.forges.show_time = SHOW_TURN * 0.4
    scene.forges.shown.clear()

    def approve():
        scene.site.review(number, "approved")
        scene.webhooks(number)

    scene.forges.meanwhile["b"] = approve
    await scene.restart()
    await scene.pass_time(timedelta(minutes=2))

    order = [view.task for view in scene.forges.shown]
    merged = [view.task for view in scene.forges.shown if view.merges]
    assert merged == ["j"]
    assert set(order) == set(names)
    assert order.index("j") < len(names) - 1
    assert scene.status("j").phase is Phase.COMPLETED


async def test_what_gave_no_sign_is_read_in_its_turn_however_often_hints_come(scene):
    scene.push(reviewed("a"))
    await scene.start()
    scene.forges.refreshes.clear()

    for _ in range(20):
        scene.webhooks()
        await scene.pass_time(timedelta(seconds=6))

    assert len(scene.forges.refreshes) >= 20
    assert 2 <= sum(scene.forges.refreshes) <= 4


async def test_what_a_merge_waits_for_by_new_rules_is_told_at_once(scene):
    task = reviewed("a")
    scene.push(task, repo=REPO.model_copy(update={"merge": "never"}))
    await scene.start()
    assert "a person has to merge it" in scene.status("a").waiting.message

    scene.push(task, repo=REPO.model_copy(update={"merge": "when_approved"}))
    scene.loop.inbox.notify()
    await turns()

    assert "not approved yet" in scene.status("a").waiting.message


async def test_a_check_is_looked_for_at_the_pull_request_of_its_commit(scene):
    scene.push(reviewed("a"), reviewed("b"))
    await scene.start()
    status = scene.status("b")
    scene.forges.fresh.clear()

    hint = Hint(
        delivery="d-9",
        event="status",
        place=FORGE.repo,
        repos=("web",),
        commit=status.head_commit,
        sender="bot",
    )
    scene.loop.controllers.pulls.notify(hint)
    await turns()

    assert scene.forges.fresh == [{status.review.pull_request.number}]


async def test_one_task_that_cannot_be_shown_keeps_no_other_waiting(scene, caplog):
    scene.forges.odd = "a"
    scene.push(reviewed("a"), reviewed("b"))

    await scene.start()

    assert scene.status("b").review.pull_request is not None
    assert scene.status("a").review.pull_request is None
    assert "task a cannot be shown on its forge" in caplog.text


async def test_the_end_of_a_task_is_told_once_however_often_the_record_is_read_anew(scene):
    scene.push(reviewed("a"))
    await scene.start()
    scene.site.merge(scene.status("a").review.pull_request.number)
    await scene.pass_time(timedelta(minutes=2))
    assert scene.status("a").phase is Phase.COMPLETED
    scene.forges.asked.clear()

    for _ in range(5):
        scene.state.moved = True
        await scene.pass_time(timedelta(minutes=1))

    assert scene.forges.asked == {}


async def test_a_restart_tells_of_what_has_ended_of_late_and_not_of_old(scene):
    scene.push(reviewed("a"))
    await scene.start()
    scene.site.merge(scene.status("a").review.pull_request.number)
    await scene.pass_time(timedelta(minutes=2))

    scene.forges.asked.clear()
    await scene.restart()
    told = scene.forges.asked["show"]
    scene.forges.asked.clear()
    scene.clock.time += MEMORY
    await scene.restart()

    assert told == 1
    assert scene.forges.asked == {}


async def test_an_end_that_a_forge_could_not_hear_of_is_told_later(scene):
    scene.push(reviewed("a"))
    await scene.start()
    number = scene.status("a").review.pull_request.number
    scene.site.close(number)
    scene.webhooks(number)
    real = scene.forges.show
    scene.forges.show = away
    await scene.pass_time(timedelta(minutes=10))
    assert scene.status("a").phase is Phase.CANCELLED

    scene.forges.show = real
    await scene.pass_time(timedelta(minutes=2))

    assert "agent/cancelled" in scene.site.pulls[number].labels


async def away(forge, want):
    raise Unavailable("no answer")


async def test_webhooks_about_pull_requests_of_people_cost_one_look_and_little_memory(scene):
    scene.push(reviewed("a"))
    await scene.start()
    ours = scene.status("a").review.pull_request.number
    scene.forges.fresh.clear()

    scene.webhooks(*range(1000, 6000))
    scene.webhooks(ours, delivery="d-2")
    await turns()

    assert scene.forges.fresh == [{ours}]


async def test_a_webhook_about_our_own_deed_makes_a_look_in_a_moment_and_reads_nothing_anew(scene):
    scene.push(reviewed("a"))
    await scene.start()
    number = scene.status("a").review.pull_request.number
    scene.forges.fresh.clear()
    hint = Hint(delivery="d-9", event="pull_request", place=FORGE.repo, repos=("web",), pull=number)

    scene.loop.controllers.pulls.notify(replace(hint, sender=await scene.forges.whoami(FORGE)))
    await turns()
    at_once = list(scene.forges.fresh)
    await scene.pass_time(SETTLES + timedelta(seconds=1))
    scene.loop.controllers.pulls.notify(replace(hint, sender="ann"))
    await turns()

    assert at_once == []
    assert scene.forges.fresh == [set(), {number}]


async def test_pull_requests_on_record_are_read_by_their_numbers_once_after_a_start(scene):
    scene.push(reviewed("a"))
    await scene.start()
    number = scene.status("a").review.pull_request.number
    scene.forges.fresh.clear()

    await scene.restart()
    await scene.pass_time(timedelta(minutes=3))

    assert scene.forges.fresh[0] == {number}
    assert not any(scene.forges.fresh[1:])


async def test_a_hint_that_an_outage_met_is_followed_after_it(scene):
    scene.push(reviewed("a"))
    await scene.start()
    number = scene.status("a").review.pull_request.number
    scene.forges.away = True
    scene.webhooks(number)
    await turns()
    scene.forges.away = False
    scene.site.merge(number)
    scene.forges.fresh.clear()

    await scene.pass_time(timedelta(minutes=2))

    assert scene.forges.fresh[0] == {number}
    assert next(step for step in reversed(scene.state.log)).event.origin.delivery == "d-1"


async def test_what_is_shown_is_never_older_than_what_was_read(scene):
    """A fact that comes while the loop thinks is not taken for one that it has thought of."""
    scene.push(reviewed("a"))
    await scene.start()
    waiting = []

    class SlowActuator:
        async def act(self, *_):
            if not waiting:
                waiting.append(asyncio.ensure_future(scene.loop.inbox.wait_recorded({"a"})))
                await asyncio.sleep(0)
                scene.loop.inbox.news.clear()  # as if the look that this news led to were this one

    scene.loop.stages = replace(scene.loop.stages, actuator=SlowActuator())
    scene.loop.inbox.notify()
    await turns(3)

    assert waiting
    assert not waiting[0].done()
    scene.loop.inbox.notify()
    await turns()
    assert waiting[0].done()


async def test_a_conflict_on_the_record_tells_nothing_twice(scene):
    scene.push(reviewed("a"))
    scene.state.refuse = [Conflict("moved")] * 3

    await scene.start()

    assert len(scene.site.pulls) == 1
    assert scene.status("a").review.pull_request is not None


async def test_a_task_that_cannot_be_followed_on_its_forge_keeps_no_other_back(scene, monkeypatch):
    def is_followed(task, status):
        if task.name == "a":
            raise ValueError
        return real(task, status)

    real = pull_requests.is_followed
    monkeypatch.setattr(pull_requests, "is_followed", is_followed)
    scene.push(reviewed("a"), reviewed("b"))

    await scene.start()

    assert {pull.branch for pull in scene.site.pulls.values()} == {scene.status("b").run.branch}
    assert scene.loop.backoff.why == ""


async def test_a_merge_that_cannot_be_thought_about_keeps_no_other_back(scene, monkeypatch):
    def may_merge(task, *args, **more):
        if task.name == "a":
            raise ValueError
        return real(task, *args, **more)

    real = pull_requests.may_merge
    scene.push(*map(reviewed, "abc"), repo=REPO.model_copy(update={"merge": "when_approved"}))
    await scene.start()
    monkeypatch.setattr(pull_requests, "may_merge", may_merge)
    numbers = [scene.status(name).review.pull_request.number for name in "bc"]
    for number in numbers:
        scene.site.review(number, "approved")
    scene.webhooks(*numbers)
    await scene.pass_time(timedelta(seconds=2))

    assert {scene.status(name).phase for name in "bc"} == {Phase.COMPLETED}

"""What people do on a forge, as it becomes an event of the task: the same on Forgejo and on GitHub."""

import itertools
from datetime import timedelta, timezone

import pytest

from reconciler import clock
from reconciler.core.events import BranchTouched, Cancelled, ChangesRequested, Completed, Reopened
from reconciler.core.forge.pull_request import follow, may_merge
from reconciler.core.model.specs import Repo, Task
from reconciler.core.model.status import Phase, PullRequest
from tests.forge.conftest import REPO, TOKEN
from tests.forge.github import Rules
from tests.forge.state import Review
from tests.forge.test_contract import BRANCH, want
from tests.statuses import make_status

SHOP = Repo(name="shop", url="r.git", merge="when_approved")
TASK = Task(name="mend", generation="1" * 40, work="w1", goal="Mend it.", repo="shop", review="pull_request")


class Site:
    """A forge of either kind with the open pull request of a task, and what the task makes of a look."""

    def __init__(self, forge, connect):
        self.forge, self.forges, self.spec = forge, connect(forge.token), forge.spec(REPO, TOKEN)
        self.head = forge.push_as_person(REPO, BRANCH, {"a.txt": "1\n"}, author="bot")
        self.number = 0

    async def open(self, **fields):
        pull = await self.forges.show(self.spec, want(**fields))
        self.number = pull.number

    async def merge(self):
        return await self.forges.show(self.spec, want(merges=self.head))

    async def read(self):
        return (await self.forges.pulls(self.spec, [BRANCH], [self.number]))[BRANCH]

    def status(self, phase=Phase.REVIEW_PENDING):
        began = clock.now() - timedelta(hours=3)
        return make_status(
            phase=phase,
            since=began,
            created_at=began,
            generation=TASK.generation,
            work="w1",
            run="mend.g11111111.a1",
            assigned_host="alpha",
            branch_name=BRANCH,
            head_commit=self.head,
            pull_request=PullRequest(number=self.number, url="http://127.0.0.1/1"),
        )

    async def event(self, phase=Phase.REVIEW_PENDING):
        """Return what the task learns from a look."""
        return follow(TASK, self.status(phase), await self.read(), SHOP, clock.now(), bot="bot")

    async def is_to_be_merged(self):
        return may_merge(TASK, self.status(), await self.read(), SHOP, bot="bot")


@pytest.fixture(params=["double", "github"])
async def site(request, connect):
    site = Site(request.getfixturevalue(request.param), connect)
    site.forge.computing = 0
    await site.open()
    return site


@pytest.mark.parametrize("leaves", ["the branch", "no branch"])
@pytest.mark.parametrize("style", ["merge", "squash", "rebase"])
async def test_a_merge_by_hand_completes_the_task_whatever_its_style(site, style, leaves):
    site.forge.merge_pull(REPO, site.number, author="ann", style=style)
    if leaves == "no branch":
        site.forge.delete_branch(REPO, BRANCH)

    event = await site.event()

    assert isinstance(event, Completed)
    assert event.origin.actor == "ann"


async def test_a_pull_request_that_is_closed_cancels_and_one_that_is_opened_again_revives(site):
    site.forge.close_pull(REPO, site.number, author="ann")
    closed = await site.event()
    site.forge.reopen_pull(REPO, site.number, author="ann")

    reopened = await site.event(Phase.CANCELLED)

    assert isinstance(closed, Cancelled)
    assert isinstance(reopened, Reopened)


async def test_a_suggestion_that_is_applied_is_a_push_of_who_applied_it_and_pauses_the_agent(site):
    site.forge.push_as_person(REPO, BRANCH, {"a.txt": "2\n"}, author="ann", message="Apply suggestion")

    event = await site.event()

    assert isinstance(event, BranchTouched)
    assert event.origin.actor == "ann"


async def test_a_branch_that_was_rewritten_is_a_push_and_its_approval_is_of_another_commit(site):
    site.forge.review(REPO, site.number, "approved")
    site.forge.delete_branch(REPO, "task/aside")
    other = site.forge.push_as_person(REPO, "task/aside", {"b.txt": "1\n"})
    site.forge.repos[REPO].git("update-ref", f"refs/heads/{BRANCH}", other)
    site.forge.notice("ann")

    event = await site.event()

    assert isinstance(event, BranchTouched)
    assert event.head == other
    assert not await site.is_to_be_merged()


async def test_a_request_for_changes_starts_a_round_and_an_approval_lets_it_merge_until_it_is_dismissed(site):
    site.forge.review(REPO, site.number, "rejected", "No.", author="ann")
    asked = await site.event()
    site.forge.review(REPO, site.number, "approved", author="ann")
    approved = await site.is_to_be_merged()
    review = site.forge.repos[REPO].pull(site.number).reviews[-1].id

    site.forge.dismiss_review(REPO, site.number, review)

    assert isinstance(asked, ChangesRequested)
    assert approved
    assert not await site.is_to_be_merged()


async def test_comments_are_quoted_as_they_stand_after_they_were_edited_and_deleted(site):
    tabs, gone = (site.forge.comment(REPO, site.number, text) for text in ("Use tabs.", "And mind the gap."))
    before = await site.read()
    site.forge.edit_comment(REPO, site.number, tabs, "Use spaces.")
    site.forge.delete_comment(REPO, site.number, gone)
    site.forge.review(REPO, site.number, "rejected", "No.", author="ann")

    event = await site.event()

    assert [comment.body for comment in before.comments] == ["Use tabs.", "And mind the gap."]
    assert {note.text for note in event.reviews} == {"Use spaces.", "No."}


async def test_a_request_for_changes_that_is_dismissed_starts_no_round(site):
    site.forge.review(REPO, site.number, "rejected", "No.", author="ann")
    review = site.forge.repos[REPO].pull(site.number).reviews[-1].id
    site.forge.dismiss_review(REPO, site.number, review)

    assert not isinstance(await site.event(), ChangesRequested)


async def test_a_forge_below_a_path_is_asked_nothing_outside_of_it(connect, double):
    double.root, double.computing = "/git", 0
    site = Site(double, connect)
    await site.open()
    double.review(REPO, site.number, "approved", author="ann")
    before = await site.read()

    merged = await site.merge()

    assert f":{double.port}/git/{REPO}/pulls/" in before.url
    assert merged.is_merged


async def test_who_owns_the_code_and_did_not_approve_is_named_until_they_did(site):
    if site.forge.kind == "github":
        site.forge.roles["rev"] = "write"
        site.forge.rules[REPO] = Rules(owners=frozenset({"rev"}))
    else:
        site.forge.repos[REPO].protections.append({"block_on_official_review_requests": True})
    pull = site.forge.repos[REPO].pull(site.number)
    pull.reviews.append(Review(1, "rev", "REQUEST_REVIEW", "", pull.head, site.forge.now()))
    site.forge.review(REPO, site.number, "approved", author="ann")

    refused = await site.merge()
    site.forge.review(REPO, site.number, "approved", author="rev")
    merged = await site.merge()

    assert refused.refusal.kind == "refused"
    assert "(asked for a review: rev)" in refused.refusal.message
    assert merged.is_merged


@pytest.mark.parametrize("hours", [-3, 3])
async def test_a_forge_whose_clock_and_zone_are_others_is_followed_all_the_same(site, hours):
    zone = timezone(timedelta(hours=5, minutes=30))
    site.forge.now = lambda: (clock.now() + timedelta(hours=hours)).astimezone(zone).replace(microsecond=0)
    site.forge.review(REPO, site.number, "approved", author="ann")
    approved = await site.is_to_be_merged()

    site.forge.merge_pull(REPO, site.number)

    assert approved
    assert isinstance(await site.event(), Completed)


async def test_among_many_open_pull_requests_ours_is_found_and_a_look_stays_cheap(site):
    site.forge.push_as_person(REPO, "people/work", {"c.txt": "1\n"})
    began, seconds = clock.now().replace(microsecond=0), itertools.count()
    site.forge.now = lambda: began + timedelta(seconds=next(seconds))
    for number in range(500):
        site.forge.open_pull(REPO, "people/work", f"Work {number}")
    await site.read()
    before = len(site.forge.requests)

    pull = await site.read()

    assert pull.number == site.number
    assert len(site.forge.requests) - before <= len(["list", "pull", "status", "checks", "reviews", "more"])

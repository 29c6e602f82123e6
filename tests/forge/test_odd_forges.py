"""Odd things that forges and people do: each costs the one thing it is about, and is told."""

import asyncio
from contextlib import suppress
from datetime import timedelta

import pytest

from reconciler import clock
from reconciler.core.errors import Unavailable
from reconciler.core.model.forge import ManagedComment
from reconciler.forge.forgejo import ForgeRegistry
from reconciler.forge.writer import _whole
from tests.fakes import FakeClock
from tests.forge import api
from tests.forge.conftest import REPO
from tests.forge.test_contract import BRANCH, want

OTHER = "task/other"
PULLS = f"GET /repos/{REPO}/pulls"


def opened(double, *branches: str) -> None:
    for branch in branches:
        double.push_as_person(REPO, branch, {f"{branch}.txt": "1\n"})
        double.open_pull(REPO, branch, branch)


async def test_a_conversation_that_is_too_large_costs_no_other_pull_request(double, forges, spec):
    opened(double, BRANCH, OTHER)
    for _ in range(20):
        double.comment(REPO, 1, "x" * 2**20)

    seen = await forges.pulls(spec, [BRANCH, OTHER], [])

    assert isinstance(seen[BRANCH], Unavailable)
    assert "larger than" in str(seen[BRANCH])
    assert seen[OTHER].number == 2


async def test_large_comments_keep_no_command_from_being_seen(double, forges, spec):
    issue = double.open_issue(REPO, "Mend it")
    for _ in range(20):
        double.comment(REPO, issue, "x" * 2**20)
    double.comment(REPO, issue, "/agent status")

    comments = await forges.comments(spec, clock.now() - timedelta(hours=1))

    assert comments[-1].body == "/agent status"


async def test_a_pull_request_from_the_future_hides_no_change_of_the_others(double, spec, connect):
    time = FakeClock(clock.now().replace(microsecond=0))
    double.now, forges = time, connect(double.token, time)
    opened(double, BRANCH, OTHER)
    double.repos[REPO].pull(1).updated = time() + timedelta(days=400)
    await forges.pulls(spec, [BRANCH, OTHER], [], refreshes=False)
    time.time += timedelta(minutes=1)
    double.edit_issue(REPO, 2, title="Another")

    seen = await forges.pulls(spec, [BRANCH, OTHER], [], refreshes=False)

    assert seen[OTHER].title == "Another"


async def test_of_several_open_pull_requests_of_a_branch_the_first_is_followed(double, forges, spec):
    opened(double, BRANCH)
    double.push_as_person(REPO, "release", {"r.txt": "1\n"})
    double.open_pull(REPO, BRANCH, "Into the release too", base="release")

    seen = await forges.pulls(spec, [BRANCH], [])

    assert (seen[BRANCH].number, seen[BRANCH].base) == (1, "main")


async def test_a_token_of_another_account_is_taken_for_that_one(double, spec):
    tokens = [double.token]

    async def secret(_):
        return tokens[-1]

    forges = ForgeRegistry(secret, clock.now)
    before = await forges.whoami(spec)
    tokens.append(double.add_user("robot"))
    del double.tokens[double.token]
    with suppress(Unavailable):  # it is looked up anew once it was refused
        await forges.branch_head(spec, "main")
    await forges.branch_head(spec, "main")

    after = await forges.whoami(spec)
    await forges.close()

    assert (before, after) == ("bot", "robot")


async def test_a_bot_that_was_renamed_says_nothing_twice(double, forges, spec):
    opened(double, BRANCH)
    note = ManagedComment(key="run/1", text="Begun.")
    await forges.upsert_comment(spec, 1, note, on_pull=True)
    double.tokens[double.token] = "robot"
    for comment in double.repos[REPO].pull(1).comments:
        comment.author = "robot"

    await forges.upsert_comment(spec, 1, ManagedComment(key="run/1", text="Done."), on_pull=True)
    await forges.upsert_comment(spec, 1, ManagedComment(key="run/1", text="Done."), on_pull=True)

    assert len(double.repos[REPO].pull(1).comments) == 1


@pytest.mark.parametrize("count", ["0", "3", "10000", "-1", "many"])
async def test_a_count_that_lies_hides_nothing(double, forges, spec, count, monkeypatch):
    whole = api.Request.page

    def lie(self, items, show):
        status, body, _ = whole(self, items, show)
        return status, body, {"X-Total-Count": count}

    monkeypatch.setattr(api.Request, "page", lie)
    names = [f"task/{number}" for number in range(60)]
    opened(double, *names)

    seen = await forges.pulls(spec, names, [])

    assert len(seen) == 60


@pytest.mark.parametrize("odd", [{}, None, [], [None], "", 0, [[]]])
async def test_a_list_of_pull_requests_that_is_empty_closes_nothing(double, forges, spec, odd):
    opened(double, BRANCH)
    await forges.pulls(spec, [BRANCH], [])
    double.odd[PULLS] = lambda _: odd

    seen = await forges.pulls(spec, [BRANCH], [])

    assert seen[BRANCH].state == "open"


async def test_a_list_of_pull_requests_that_is_something_else_is_told(double, forges, spec):
    double.odd[PULLS] = lambda _: {"message": "ok"}

    with pytest.raises(Unavailable, match="a list was expected"):
        await forges.pulls(spec, [BRANCH], [])


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_write_that_is_sent_elsewhere_is_not_followed(double, forges, spec, status):
    opened(double, BRANCH)
    double.push_as_person(REPO, OTHER, {"o": "1"})
    await forges.pulls(spec, [BRANCH], [])
    double.broken[f"POST /repos/{REPO}/pulls"] = (status, {"Location": "http://127.0.0.1:1/x"})

    with pytest.raises(Unavailable, match="moved"):
        await forges.show(spec, want(branch=OTHER))
    pull = await forges.show(spec, want(branch=OTHER))

    assert pull.number == 2


async def test_nulls_in_a_pull_request_cost_nothing(double, forges, spec):
    opened(double, BRANCH)

    def nulls(body):
        for key in ("user", "labels", "body", "requested_reviewers", "merged_by", "mergeable", "draft"):
            body[key] = None
        return body

    double.odd[f"{PULLS}/1"] = nulls
    double.odd[PULLS] = lambda body: [nulls(each) for each in body]

    seen = await forges.pulls(spec, [BRANCH], [])

    assert seen[BRANCH].author == "ghost"


async def test_a_repository_that_takes_no_writes_says_so_of_the_pull_request(double, forges, spec):
    head = double.push_as_person(REPO, BRANCH, {"a.txt": "1\n"})
    pull = await forges.show(spec, want())
    double.computing = 0
    double.broken[f"POST /repos/{REPO}/pulls/{pull.number}/merge"] = (423, {})

    with pytest.raises(Unavailable, match="423 as the test wants it"):
        await forges.show(spec, want(merges=head))


async def test_an_account_that_may_only_read_is_told_before_it_writes_and_until_it_may(double, forges, spec):
    opened(double, BRANCH)
    double.weak = {"bot"}
    await forges.pulls(spec, [BRANCH], [])
    [denial] = forges.denials(spec)
    double.weak = set()

    await forges.pulls(spec, [BRANCH], [])

    assert "may only read" in denial
    assert forges.denials(spec) == []


async def test_labels_of_the_owner_that_a_token_may_not_read_are_no_fault_of_it(double, forges, spec):
    double.add_label(REPO, "agent")

    issues = await forges.issues(spec, "agent")

    assert issues == []
    assert ("GET", f"/orgs/{REPO.partition('/')[0]}/labels?page=1&limit=50") in double.requests
    assert forges.denials(spec) == []


async def test_a_label_is_there_if_the_repository_or_its_owner_has_it(double, forges, spec):
    double.add_label(REPO, "agent")
    double.organisation_labels = {"shared"}
    double.tokens_read_organisations = True

    there = [await forges.has_label(spec, name) for name in ("agent", "shared", "Agent")]

    assert there == [True, True, False]


@pytest.mark.parametrize("is_deep", [False, True])
async def test_a_merge_that_was_cut_off_half_way_counts_and_its_pull_request_is_closed(
    double, spec, connect, is_deep
):
    time = FakeClock(clock.now())
    forges = connect(double.token, time)
    head = double.push_as_person(REPO, BRANCH, {"a.txt": "1\n"})
    await forges.show(spec, want())
    double.computing, double.cuts_merges_off = 0, True
    double.repos[REPO].pull(1).computing = 0
    if is_deep:  # below the newest commits of the base
        double.odd[f"GET /repos/{REPO}/commits"] = lambda _: []
    cut_off = await forges.show(spec, want(merges=head))
    at_once = await forges.show(spec, want(merges=head))
    time.time += timedelta(minutes=1)

    merged = await forges.show(spec, want(merges=head))
    shown = await forges.show(spec, want(phase="completed", opens=False))

    assert (cut_off.is_merged, at_once.is_merged) == (False, not is_deep)
    assert (merged.is_merged, shown.is_merged, shown.state) == (True, True, "closed")
    assert "Its commits are in main" in double.repos[REPO].pull(1).comments[-1].body


async def test_a_merge_under_way_is_waited_for_when_it_is_cancelled():
    began, may_end, ends = asyncio.Event(), asyncio.Event(), []

    async def request() -> None:
        began.set()
        await may_end.wait()
        ends.append("whole")

    task = asyncio.create_task(_whole(request()))
    await began.wait()
    task.cancel()
    await asyncio.sleep(0)
    may_end.set()
    with suppress(asyncio.CancelledError):
        await task

    assert ends == ["whole"]
    assert task.cancelled()

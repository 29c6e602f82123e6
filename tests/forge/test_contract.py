"""
What the loop relies on, of forges in memory, of the double and of a real Forgejo alike.
"""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from reconciler import clock
from reconciler.core.errors import Unavailable
from reconciler.core.model.forge import CommitStatus, ForgeView, ManagedComment

BRANCH = "task/mend"


def want(**fields: object) -> ForgeView:
    known = {"task": "mend", "branch": BRANCH, "base": "main", "phase": "review_pending", "opens": True}
    return ForgeView(**{**known, "title": "Mend it", "body": "What was done.", **fields})


async def test_a_stacked_pull_request_moves_to_the_base_branch_unless_a_person_moved_it(hand):
    first, newer = "task/first", "task/newer"
    hand.push(first)
    hand.push(newer)
    hand.push(BRANCH)
    opened = await hand.forges.show(hand.forge, want(base=first))

    stays = await hand.forges.show(hand.forge, want(base="main", leaves=newer))
    moved = await hand.forges.show(hand.forge, want(base="main", leaves=first))
    again = await hand.forges.show(hand.forge, want(base="main", leaves=first))

    assert [pull.base for pull in (opened, stays, moved, again)] == [first, first, "main", "main"]
    assert moved.number == opened.number


async def test_a_pull_request_is_opened_once(hand):
    head = hand.push(BRANCH)

    first = await hand.forges.show(hand.forge, want(labels=("from-agent",)))
    again = await hand.forges.show(hand.forge, want(labels=("from-agent",)))
    seen = await hand.forges.pulls(hand.forge, [BRANCH, "task/other"], [])

    assert (first.head, first.title, first.state) == (head, "Mend it", "open")
    assert set(first.labels) == {"from-agent", "agent/review_pending"}
    assert again.number == first.number
    assert {branch: pull.number for branch, pull in seen.items()} == {BRANCH: first.number}


async def test_no_pull_request_is_opened_unless_it_is_wanted(hand):
    hand.push(BRANCH)

    shown = await hand.forges.show(hand.forge, want(opens=False))

    assert shown is None
    assert await hand.forges.pulls(hand.forge, [BRANCH], []) == {}


async def test_a_branch_that_is_not_there_is_no_pull_request_and_no_failed_task(hand):
    with pytest.raises(Unavailable, match="task/never"):
        await hand.forges.show(hand.forge, want(branch="task/never"))


async def test_the_phase_is_one_label_that_replaces_the_last(hand):
    hand.push(BRANCH)
    await hand.forges.show(hand.forge, want(phase="review_pending"))

    pull = await hand.forges.show(hand.forge, want(phase="running"))

    assert pull.labels == ("agent/running",)


async def test_our_text_follows_and_that_of_people_stays(hand):
    hand.push(BRANCH)
    opened = await hand.forges.show(hand.forge, want(body="First."))
    hand.edit(opened.number, title="What a person calls it", body=f"Mind this.\n\n{opened.body}")

    pull = await hand.forges.show(hand.forge, want(title="Mend it all", body="Second."))

    assert pull.title == "What a person calls it"
    assert "Mind this." in pull.body
    assert "Second." in pull.body
    assert "First." not in pull.body


async def test_a_title_that_nobody_edited_is_ours(hand):
    hand.push(BRANCH)
    await hand.forges.show(hand.forge, want())

    pull = await hand.forges.show(hand.forge, want(title="Mend it all"))

    assert pull.title == "Mend it all"


async def test_a_pull_request_that_is_closed_is_still_found_and_another_opened_if_that_is_wanted(hand):
    hand.push(BRANCH)
    first = await hand.forges.show(hand.forge, want())
    hand.close(first.number)

    seen = await hand.forges.pulls(hand.forge, [BRANCH], [])
    second = await hand.forges.show(hand.forge, want())

    assert (seen[BRANCH].state, seen[BRANCH].is_merged) == ("closed", False)
    assert second.number > first.number
    assert second.state == "open"


async def test_a_push_is_seen(hand):
    hand.push(BRANCH)
    opened = await hand.forges.show(hand.forge, want())

    head = hand.push(BRANCH)
    seen = await hand.forges.pulls(hand.forge, [BRANCH], [opened.number])

    assert seen[BRANCH].head == head != opened.head


async def test_a_note_is_one_comment_whose_text_follows(hand):
    hand.push(BRANCH)
    pull = await hand.forges.show(hand.forge, want(notes=(ManagedComment(key="run/1", text="Begun."),)))

    again, other = [
        await hand.forges.upsert_comment(
            hand.forge, pull.number, ManagedComment(key=key, text=text), on_pull=True
        )
        for key, text in (("run/1", "Done."), ("run/2", "Begun again."))
    ]

    assert (again, other) == (False, True)
    texts = hand.comments(pull.number)
    assert [next(word for word in ("Done.", "Begun again.") if word in text) for text in texts] == [
        "Done.",
        "Begun again.",
    ]


async def test_comments_are_told_since_a_time(hand):
    hand.push(BRANCH)
    pull = await hand.forges.show(hand.forge, want())
    hand.comment(pull.number, "/agent retry")

    comments = await hand.forges.comments(hand.forge, clock.now() - timedelta(hours=1))
    later = await hand.forges.comments(hand.forge, clock.now() + timedelta(hours=1))

    assert [(comment.number, comment.body) for comment in comments] == [(pull.number, "/agent retry")]
    assert list(later) == []


async def test_our_comments_are_those_of_our_account(hand):
    hand.push(BRANCH)
    await hand.forges.show(hand.forge, want(notes=(ManagedComment(key="run/1", text="Begun."),)))

    me = await hand.forges.whoami(hand.forge)
    comments = await hand.forges.comments(hand.forge, clock.now() - timedelta(hours=1))

    assert [(comment.author, comment.key, "Begun." in comment.body) for comment in comments] == [
        (me, "run/1", True)
    ]


async def test_checks_are_those_of_others(hand):
    head = hand.push(BRANCH)
    commit_status = CommitStatus(commit=head, state="success", description="in review")
    opened = await hand.forges.show(hand.forge, want(commit_status=commit_status))
    before = opened.checks

    hand.set_status(head, "failure", "ci/test")
    seen = await hand.forges.pulls(hand.forge, [BRANCH], [opened.number])

    assert before == "none"
    assert seen[BRANCH].checks == "failure"
    assert seen[BRANCH].failed_checks == ("ci/test: said",)


async def test_reviews_come_with_their_words(hand):
    hand.push(BRANCH)
    opened = await hand.forges.show(hand.forge, want())

    hand.review(opened.number, "Think of the edges.")
    seen = await hand.forges.pulls(hand.forge, [BRANCH], [opened.number])

    [review] = seen[BRANCH].reviews
    assert (review.verdict, review.commit) == ("comment", opened.head)
    assert [note.text for note in review.notes] == ["Think of the edges."]


async def test_a_wanted_merge_is_done_when_it_can_be(hand):
    head = hand.push(BRANCH)
    pull = await hand.forges.show(hand.forge, want())

    assert await _until_merged(hand.forges, hand.forge, want(merges=head)) == (pull.number, True)


@pytest.mark.parametrize("style", ["squash", "rebase"])
async def test_a_merge_whose_answer_nobody_heard_is_known_by_its_commits_and_not_done_twice(hand, style):
    if hand.notices_merges:
        pytest.skip("this forge does a merge as a whole")
    head = hand.push(BRANCH)
    other = hand.push(f"{BRANCH}-more")
    opened = await hand.forges.show(hand.forge, want())
    beside = await hand.forges.show(hand.forge, want(branch=f"{BRANCH}-more"))
    hand.land(opened.number, style)
    before, forges = hand.commits(), hand.restarted()

    merged = await forges.show(hand.forge, want(merges=head, merge_style=style))
    shown = await forges.show(hand.forge, want(phase="completed", opens=False))

    assert (merged.is_merged, shown.is_merged, shown.state) == (True, True, "closed")
    assert hand.commits() == before
    asked = want(branch=f"{BRANCH}-more", merges=other, merge_style=style)
    assert await _until_merged(forges, hand.forge, asked) == (beside.number, True)


@pytest.mark.parametrize("style", ["squash", "rebase"])
async def test_a_merge_that_is_on_record_is_ended_on_the_forge_after_a_restart_too(hand, style):
    if hand.notices_merges:
        pytest.skip("this forge does a merge as a whole")
    hand.push(BRANCH)
    opened = await hand.forges.show(hand.forge, want())
    hand.land(opened.number, style)

    ended = await hand.restarted().show(hand.forge, want(phase="completed", opens=False))

    assert (ended.is_merged, ended.state) == (True, "closed")


async def _until_merged(forges, forge, asked) -> tuple[int, bool]:
    """Ask for a merge again while a real forge computes."""
    for _ in range(50):
        pull = await forges.show(forge, asked)
        if pull.is_merged:
            break
        await asyncio.sleep(0.1)
    return pull.number, pull.is_merged


async def test_a_merge_that_is_refused_is_told_in_the_text(hand):
    head = hand.push(BRANCH)
    await hand.forges.show(hand.forge, want(is_draft=True))

    refused = await hand.forges.show(hand.forge, want(is_draft=True, merges=head, body="Not merged yet."))
    [seen] = (await hand.forges.pulls(hand.forge, [BRANCH], [])).values()

    assert (refused.is_merged, seen.state) == (False, "open")
    assert refused.refusal.message
    assert "Not merged yet." in seen.body


async def test_another_head_than_the_judged_one_is_not_merged(hand):
    head = hand.push(BRANCH)
    await hand.forges.show(hand.forge, want())
    hand.push(BRANCH)

    pull = await hand.forges.show(hand.forge, want(merges=head))

    assert (pull.is_merged, pull.state) == (False, "open")


async def test_issues_are_those_that_have_the_label(hand):
    number = hand.open_issue("Mend it", "agent")
    hand.open_issue("Talk about it")

    issues = await hand.forges.issues(hand.forge, "agent")
    unknown = await hand.forges.issues(hand.forge, "no-such-label")

    assert [(issue.number, issue.title, issue.labels) for issue in issues] == [
        (number, "Mend it", ("agent",))
    ]
    assert list(unknown) == []


async def test_an_issue_is_labelled_answered_and_closed(hand):
    number = hand.open_issue("Mend it", "agent")
    hand.push(BRANCH)
    done = want(
        issue=number, phase="completed", issue_notes=(ManagedComment(key="done", text="It is done."),)
    )

    await hand.forges.show(hand.forge, replace(done, closes_issue=True))
    issue = await hand.forges.issue(hand.forge, number)

    assert issue.state == "closed"
    assert issue.closed_at is not None
    assert set(issue.labels) == {"agent", "agent/completed"}
    assert any("It is done." in text for text in hand.comments(number))
    assert await hand.forges.issue(hand.forge, 4711) is None


async def test_open_pull_requests_are_those_against_a_base(hand):
    hand.push(BRANCH)
    pull = await hand.forges.show(hand.forge, want())

    against_main = await hand.forges.open_pulls(hand.forge, "main")
    against_other = await hand.forges.open_pulls(hand.forge, "other")

    assert [each.number for each in against_main] == [pull.number]
    assert list(against_other) == []


async def test_the_head_of_a_branch_is_read_and_a_branch_that_is_gone_has_none(hand):
    head = hand.push(BRANCH)

    assert await hand.forges.branch_head(hand.forge, BRANCH) == head
    assert await hand.forges.branch_head(hand.forge, "task/never there") is None

"""What is another thing on GitLab: verdicts without reviews, two numberings, jobs, reasons, limits."""

import json
import re
from dataclasses import replace
from datetime import timedelta

import pytest

from reconciler import clock
from reconciler.core.errors import Unavailable
from reconciler.core.model.forge import CommitStatus, ForgeView, ManagedComment
from reconciler.core.times import EARLIEST
from reconciler.forge.dialects import DIALECTS
from reconciler.forge.gitlab import GITLAB_OPERATIONS
from reconciler.forge.setup import forge_setup
from tests.forge.conftest import NESTED as REPO
from tests.forge.conftest import TOKEN
from tests.forge.gitlab import FIRST, GUEST, Rules, encoded
from tests.forge.gitlab_facts import facts

BRANCH = "task/mend"
AT = f"/projects/{encoded(REPO)}"


def want(**fields):
    known = {"task": "mend", "branch": BRANCH, "base": "main", "phase": "review_pending", "opens": True}
    return ForgeView(**{**known, "title": "Mend it", "body": "What was done.", **fields})


@pytest.fixture
def spec(gitlab):
    return gitlab.spec(REPO, TOKEN)


@pytest.fixture
async def forges(gitlab, connect):
    return connect(gitlab.token)


@pytest.fixture
def head(gitlab):
    return gitlab.push_as_person(REPO, BRANCH, {"mend.txt": "one\n"}, author="bot")


async def pull_now(forges, spec, number=None):
    """Return the merge request of the branch as it is, read anew."""
    seen = await forges.pulls(spec, [BRANCH], [number or FIRST])
    return seen[BRANCH]


def ours(gitlab):
    return gitlab.repos[REPO].pull(FIRST)


def test_what_is_not_in_the_description_is_noticed():
    ask = (f"{AT}/merge_requests", {"scope": "all"}, None)

    good = facts().mismatches(("GET", *ask), 200, [{"iid": 1, "author": {"username": "ann"}}])
    bad = facts().mismatches(
        ("GET", ask[0], {"scope": "mine"}, {"x": 1}), 200, [{"author": {"login": "ann"}}]
    )
    unknown = facts().mismatches(("GET", f"{AT}/pulls", {}, None), 200, [])

    assert good == []
    assert [each.partition(": ")[2] for each in bad] == [
        "parameter scope is not mine",
        "body has no x",
        "UserBasic has no login",
    ]
    assert unknown[0].endswith("there is no such operation")


# --- Approvals and requests for changes -----------------------------------------


@pytest.mark.parametrize("tells_times", [True, False])
async def test_an_approval_is_of_the_head_that_there_was(gitlab, forges, spec, head, tells_times):
    gitlab.tells_approval_times = tells_times
    await forges.show(spec, want())
    gitlab.review(REPO, FIRST, "approved")
    before = (await pull_now(forges, spec)).reviews

    gitlab.push_as_person(REPO, BRANCH, {"mend.txt": "two\n"})
    after = (await pull_now(forges, spec)).reviews

    assert [(each.verdict, each.commit, each.is_official, each.is_stale) for each in before] == [
        ("approved", head, True, False)
    ]
    assert [(each.verdict, each.commit, each.is_stale) for each in after] == [("approved", head, True)]


async def test_an_approval_that_is_revoked_is_none(gitlab, forges, spec, head):
    await forges.show(spec, want())
    gitlab.review(REPO, FIRST, "approved")
    gitlab.revoke(REPO, FIRST, "ann")

    assert (await pull_now(forges, spec)).reviews == ()


async def test_an_approval_of_somebody_who_may_not_write_does_not_count(gitlab, forges, spec, head):
    gitlab.levels["guest"] = GUEST
    await forges.show(spec, want())
    gitlab.review(REPO, FIRST, "approved", author="guest")
    gitlab.review(REPO, FIRST, "approved", author="passer-by")

    reviews = (await pull_now(forges, spec)).reviews

    assert [(each.author, each.is_official, each.is_by_member) for each in reviews] == [
        ("guest", False, False),
        ("passer-by", False, False),
    ]


async def test_changes_are_asked_for_by_the_state_of_a_reviewer(gitlab, forges, spec, head):
    await forges.show(spec, want())

    first = gitlab.review(REPO, FIRST, "rejected", "Not yet.")
    asked = await pull_now(forges, spec)
    gitlab.push_as_person(REPO, BRANCH, {"mend.txt": "two\n"}, author="bot")
    second = gitlab.review(REPO, FIRST, "rejected", "Still not.")
    again = await pull_now(forges, spec)
    gitlab.review(REPO, FIRST, "approved")
    done = await pull_now(forges, spec)

    assert [(each.id, each.verdict, each.commit) for each in asked.reviews] == [
        (first, "changes_requested", head)
    ]
    assert [(each.id, each.verdict) for each in again.reviews] == [(second, "changes_requested")]
    assert [each.verdict for each in done.reviews] == ["approved"]
    assert [each.body for each in again.comments] == ["Not yet.", "Still not."]


READS = ("", "/approvals", "/reviewers", "/versions", "/notes")
"""What is read of a merge request; a review comes after one of them was answered."""


@pytest.mark.parametrize("read", READS)
async def test_a_review_that_comes_while_it_is_read_has_its_words(gitlab, forges, spec, head, read):
    await forges.show(spec, want())
    gitlab.review(REPO, FIRST, "approved", author="bob")

    def reviewed(answer):
        gitlab.odd.clear()
        gitlab.review(REPO, FIRST, "rejected", "Not yet.", (("mend.txt", 1, "A typo."),))
        return answer

    gitlab.odd[f"GET {AT}/merge_requests/{FIRST}{read}"] = reviewed
    pulls = [await pull_now(forges, spec) for _ in range(2)]

    for pull in pulls:
        quoted = {each.text for review in pull.reviews for each in review.notes}
        quoted |= {each.body for each in pull.comments}
        is_asked = "changes_requested" in {each.verdict for each in pull.reviews}
        assert quoted >= {"Not yet.", "A typo."} or not is_asked
    assert is_asked


async def test_words_of_people_are_no_verdict(gitlab, forges, spec, head):
    await forges.show(spec, want())
    for text in ("requested changes", "approved this merge request"):
        gitlab.comment(REPO, FIRST, text)

    pull = await pull_now(forges, spec)

    assert pull.reviews == ()
    assert [each.body for each in pull.comments] == ["requested changes", "approved this merge request"]


async def test_a_request_that_no_note_tells_of_is_one_still(gitlab, forges, spec, head):
    await forges.show(spec, want())
    ours(gitlab).reviewers |= {"ann": "requested_changes", "bob": "requested_changes"}

    reviews = (await pull_now(forges, spec)).reviews

    assert [(each.author, each.verdict) for each in reviews] == [
        ("ann", "changes_requested"),
        ("bob", "changes_requested"),
    ]
    assert len({each.id for each in reviews}) == 2


async def test_notes_on_lines_are_quoted_until_their_thread_is_resolved(gitlab, forges, spec, head):
    await forges.show(spec, want())
    lines = (("mend.txt", 1, "A typo."), ("mend.txt", 3, "And here."))
    gitlab.review(REPO, FIRST, "comment", "In all, well.", lines)
    ours(gitlab).comments[0].resolved = True

    pull = await pull_now(forges, spec)

    [review] = pull.reviews
    assert [(note.path, note.line, note.text) for note in review.notes] == [("mend.txt", 3, "And here.")]
    assert (review.verdict, review.commit, review.is_by_member) == ("comment", head, True)
    assert [each.body for each in pull.comments] == ["In all, well."]


async def test_a_note_that_was_deleted_or_is_odd_costs_itself(gitlab, forges, spec, head):
    await forges.show(spec, want())
    gitlab.comment(REPO, FIRST, "Fine.")
    gitlab.odd[f"GET {AT}/merge_requests/{FIRST}/notes"] = lambda notes: [None, *notes]

    assert [each.body for each in (await pull_now(forges, spec)).comments] == ["Fine."]


async def test_comments_are_as_they_stand_now_edited_or_deleted(gitlab, forges, spec, head):
    await forges.show(spec, want())
    for text in ("First.", "Second."):
        gitlab.comment(REPO, FIRST, text)
    first, second = ours(gitlab).comments
    before = [each.body for each in (await pull_now(forges, spec)).comments]

    first.body = "First, edited."
    ours(gitlab).comments.remove(second)

    assert before == ["First.", "Second."]
    assert [each.body for each in (await pull_now(forges, spec)).comments] == ["First, edited."]


async def test_a_branch_that_was_rewritten_takes_a_new_approval(gitlab, forges, spec, head):
    await forges.show(spec, want())
    gitlab.review(REPO, FIRST, "approved")
    gitlab.repos[REPO].git("update-ref", f"refs/heads/{BRANCH}", "main")
    gitlab.push_as_person(REPO, BRANCH, {"mend.txt": "anew\n"})

    pull = await pull_now(forges, spec)

    assert pull.head != head
    assert [(each.verdict, each.commit == pull.head) for each in pull.reviews] == [("approved", False)]


# --- Two numberings -------------------------------------------------------------------


async def test_a_comment_on_an_issue_is_none_on_the_merge_request_of_that_number(gitlab, forges, spec, head):
    await forges.show(spec, want())
    issue = gitlab.open_issue(REPO, "Mend it")
    gitlab.repos[REPO].tickets[issue].number = FIRST
    gitlab.comment(REPO, issue, "/agent retry")
    gitlab.comment(REPO, FIRST, "/agent status")

    comments = await forges.comments(spec, EARLIEST + timedelta(days=3))
    for on_pull in (True, False):
        note = ManagedComment(key="reply", text=f"on_pull: {on_pull}")
        await forges.upsert_comment(spec, FIRST, note, on_pull=on_pull)

    assert [(each.number, each.on_pull, each.body) for each in comments] == [
        (FIRST, False, "/agent retry"),
        (FIRST, True, "/agent status"),
    ]
    assert "on_pull: True" in ours(gitlab).comments[-1].body
    assert "on_pull: False" in gitlab.repos[REPO].tickets[issue].comments[-1].body


async def test_comments_are_those_since_a_time_however_many_there_were(gitlab, forges, spec, head):
    issue = gitlab.open_issue(REPO, "Talk")
    for number in range(130):
        gitlab.comment(REPO, issue, f"{number}")
    since = gitlab.repos[REPO].tickets[issue].comments[3].created
    gitlab.requests.clear()
    gitlab.largest_page = 100

    comments = await forges.comments(spec, since)

    # The time is cut to its second, in which others may have come.
    assert [each.body for each in comments][-127:] == [f"{number}" for number in range(3, 130)]
    assert [path.partition("?")[0] for _, path in gitlab.requests] == [
        "/user",
        f"{AT}/events",
        f"{AT}/events",
    ]


async def test_issues_that_are_switched_off_are_not_none_left(gitlab, forges, spec):
    there = await forges.issues(spec, "agent")
    gitlab.repos[REPO].has_issues = False

    assert there == []
    assert await forges.issues(spec, "agent") is None


async def test_what_is_not_for_all_is_neither_taken_up_nor_quoted(gitlab, forges, spec, head):
    for title in ("Mend it", "Secret"):
        gitlab.open_issue(REPO, title, labels=("agent",))
    gitlab.confidential.add(2)
    await forges.show(spec, want())
    gitlab.note(REPO, ours(gitlab), "Between us.", "ann", internal=True)
    position = gitlab.position(ours(gitlab), "mend.txt", 1)
    gitlab.note(REPO, ours(gitlab), "Here, too.", "ann", internal=True, position=position)

    pull = await pull_now(forges, spec)

    assert [issue.title for issue in await forges.issues(spec, "agent")] == ["Mend it"]
    assert (pull.comments, pull.reviews) == ((), ())


# --- What an agent wrote -----------------------------------------------------------------


async def test_what_an_agent_wrote_closes_nothing(gitlab, forges, spec, head):
    text = "Run\n/close\n  /close \nand see /close, or /usr/bin/close."
    wanted = want(body=text, notes=(ManagedComment(key="said", text=text),))

    await forges.show(spec, wanted)
    before = len(gitlab.requests)
    again = await forges.show(spec, wanted)

    assert again.state == "open"
    assert "\\/close" in ours(gitlab).body
    assert "or /usr/bin/close" in ours(gitlab).body
    assert {method for method, _ in gitlab.requests[before:]} == {"GET"}


async def test_a_pull_request_is_linked_as_gitlab_does(gitlab, forges, spec, head):
    await forges.show(spec, want(body="See pull request #7 and issue #7."))

    assert "See pull request !7 and issue #7." in ours(gitlab).body


# --- Checks -----------------------------------------------------------------------------------

JOBS = {
    "none": ([], "none"),
    "succeeded": ([("build", "success", False)], "success"),
    "failed": ([("build", "failed", False)], "failure"),
    "failed, and may": ([("build", "failed", True)], "success"),
    "cancelled": ([("build", "canceled", False)], "failure"),
    "waits for a person": ([("deploy", "manual", False)], "pending"),
    "may wait for a person": ([("deploy", "manual", True)], "success"),
    "scheduled": ([("build", "scheduled", False)], "pending"),
    "in a state of tomorrow": ([("build", "dreaming", False)], "pending"),
    "skipped": ([("build", "skipped", False)], "success"),
    "run again": ([("build", "failed", False), ("build", "success", False)], "success"),
    "one of two": ([("build", "success", False), ("test", "running", False)], "pending"),
}


@pytest.mark.parametrize("case", JOBS)
async def test_jobs_are_checks(gitlab, forges, spec, head, case):
    jobs, expected = JOBS[case]
    await forges.show(spec, want())

    for name, state, may_fail in jobs:
        gitlab.job(REPO, head, name, state, allow_failure=may_fail)

    assert (await pull_now(forges, spec)).checks == expected


RESULTS = {"running": "pending", "failed": "failure", "success": "success", "manual": "pending"}


@pytest.mark.parametrize("state", RESULTS)
async def test_the_pipeline_of_the_merged_result_is_a_check_of_its_head(gitlab, forges, spec, head, state):
    await forges.show(spec, want())
    gitlab.merged_result(REPO, FIRST, state)
    before = await pull_now(forges, spec)
    gitlab.push_as_person(REPO, BRANCH, {"mend.txt": "two\n"}, author="bot")

    assert before.checks == RESULTS[state]
    assert (await pull_now(forges, spec)).checks == "none"


async def test_hundreds_of_jobs_are_read_to_the_last(gitlab, forges, spec, head):
    await forges.show(spec, want())
    for number in range(230):
        gitlab.repos[REPO].statuses.append(status(head, f"job-{number}", "success"))
    gitlab.repos[REPO].statuses.append(status(head, "last", "failure"))

    assert (await pull_now(forges, spec)).failed_checks == ("last: said",)


def status(sha, name, state):
    known = {"id": int(name.rpartition("-")[2]) if "-" in name else 999, "sha": sha, "status": state}
    return {**known, "context": name, "description": "said", "target_url": ""}


async def test_our_own_status_holds_up_no_pipeline_and_is_not_set_twice(gitlab, forges, spec, head):
    gitlab.rules[REPO] = Rules(pipeline=True)
    waits = CommitStatus(commit=head, state="pending", description="the agent makes the changes")
    gitlab.job(REPO, head, "build", "success")

    await forges.show(spec, want(commit_status=waits))
    before = len(gitlab.requests)
    await forges.show(spec, want(commit_status=replace(waits, description="waits for review")))
    writes = [method for method, _ in gitlab.requests[before:] if method != "GET"]
    pull = await forges.show(spec, want(commit_status=waits, merges=head))

    assert writes == []
    assert pull.is_merged
    assert gitlab.newest(gitlab.repos[REPO], head)[-1]["status"] == "skipped"


# --- Merging --------------------------------------------------------------------------------

REFUSALS = {
    "approvals": (Rules(approvals=2), "approvals that the project requires are missing"),
    "a pipeline": (Rules(pipeline=True), "merges only what a pipeline succeeded for"),
    "threads": (Rules(threads=True), "once all threads are resolved"),
    "another role": (Rules(merge_level=50), "the account of the token may not merge"),
    "no squashing": (Rules(may_squash=False), "Squashing not allowed"),
}


async def test_the_rule_of_approval_that_is_not_met_is_named_with_who_may_approve(gitlab, forges, spec, head):
    gitlab.rules[REPO] = Rules(approvals=2, approvers=("ann", "bea", "cleo"))
    gitlab.computing = 0
    await forges.show(spec, want())
    gitlab.review(REPO, FIRST, "approved", author="ann")

    pull = await forges.show(spec, want(merges=head))

    assert pull.refusal.message == (
        "approvals that the project requires are missing; rule Core takes 1 more of bea, cleo"
    )


@pytest.mark.parametrize("case", REFUSALS)
async def test_why_it_is_not_merged_is_told(gitlab, forges, spec, head, case):
    gitlab.rules[REPO], why = REFUSALS[case]
    gitlab.computing = 0
    await forges.show(spec, want())
    gitlab.review(REPO, FIRST, "comment", "", (("mend.txt", 1, "Hm."),))

    pull = await forges.show(spec, want(merges=head, merge_style="squash"))

    assert not pull.is_merged
    assert why in pull.refusal.message
    assert forges.denials(spec) == []


async def test_a_running_pipeline_is_told(gitlab, forges, spec, head):
    gitlab.rules[REPO] = Rules(pipeline=True)
    gitlab.computing = 0
    await forges.show(spec, want())
    gitlab.job(REPO, head, "build", "running")

    refusal = (await forges.show(spec, want(merges=head))).refusal

    assert (refusal.message, refusal.kind) == ("a pipeline is still running", "running")


async def test_a_reason_of_tomorrow_is_told_as_gitlab_calls_it(gitlab, forges, spec, head):
    await forges.show(spec, want())
    path = f"{AT}/merge_requests/{FIRST}"
    gitlab.always_broken[f"PUT {path}/merge"] = 405
    gitlab.odd[f"GET {path}"] = lambda shown: {**shown, "detailed_merge_status": "moon_is_full"}

    refusal = (await forges.show(spec, want(merges=head))).refusal

    assert (refusal.message, refusal.kind) == ("GitLab says: moon is full", "refused")


async def test_a_conflict_is_a_conflict_and_is_asked_for_no_merge(gitlab, forges, spec, head):
    gitlab.push_as_person(REPO, "main", {"mend.txt": "other\n"})
    gitlab.computing = 0
    await forges.show(spec, want())

    pull = await pull_now(forges, spec)

    assert (pull.is_conflicting, pull.mergeable) == (True, False)


STYLES = {"merge": ("merge", 2), "squash": ("merge", 1), "rebase": ("ff", 1)}
"""Merge method of the project, and parents of the new commit, by style."""


@pytest.mark.parametrize("style", STYLES)
async def test_it_is_merged_in_the_wanted_style(gitlab, forges, spec, head, style):
    method, parents = STYLES[style]
    gitlab.rules[REPO] = Rules(merge_method=method)
    await forges.show(spec, want())

    pull = await forges.show(spec, want(merges=head, merge_style=style))

    assert pull.is_merged
    assert len(gitlab.repos[REPO].git("log", "-1", "--format=%P", "main").split()) == parents


async def test_a_style_that_the_project_has_not_is_not_replaced_by_another(gitlab, forges, spec, head):
    gitlab.computing = 0
    await forges.show(spec, want())

    pull = await forges.show(spec, want(merges=head, merge_style="rebase"))

    assert not pull.is_merged
    assert "merge method" in pull.refusal.message


async def test_what_has_to_be_rebased_says_so(gitlab, forges, spec, head):
    gitlab.rules[REPO] = Rules(merge_method="ff")
    gitlab.computing = 0
    await forges.show(spec, want())
    gitlab.push_as_person(REPO, "main", {"other.txt": "one\n"})

    assert "base_moved" in (await forges.show(spec, want(merges=head))).refusal.message


async def test_a_draft_is_a_draft_until_somebody_made_it_ready(gitlab, forges, spec, head):
    gitlab.computing = 0
    opened = await forges.show(spec, want(is_draft=True))
    renamed = await forges.show(spec, want(is_draft=True, title="Mend it all"))
    refused = await forges.show(spec, want(is_draft=True, title="Mend it all", merges=head))
    gitlab.edit_issue(REPO, FIRST, title="Mend it all")
    ours(gitlab).draft = False

    ready = await forges.show(spec, want(is_draft=True, title="Mend it all", merges=head))

    assert (opened.title, opened.is_draft, renamed.title) == ("Draft: Mend it", True, "Draft: Mend it all")
    assert refused.refusal.message == "it is a draft"
    assert ready.is_merged


async def test_a_branch_that_was_deleted_leaves_the_merge_request_open(gitlab, forges, spec, head):
    gitlab.computing = 0
    await forges.show(spec, want())
    gitlab.delete_branch(REPO, BRANCH)

    pull = await forges.show(spec, want(merges=head))

    assert (pull.state, pull.refusal.message) == ("open", "its source branch is gone, or has no commits")


async def test_a_merge_request_that_is_being_merged_is_open_still(gitlab, forges, spec, head):
    await forges.show(spec, want())
    path = f"{AT}/merge_requests/{FIRST}"
    gitlab.odd[f"GET {path}"] = lambda shown: {**shown, "state": "locked", "sha": None}

    pull = await pull_now(forges, spec)

    assert (pull.state, pull.is_merged, pull.mergeable, pull.head) == ("open", False, None, "")


async def test_a_merge_that_gitlab_does_by_itself_is_seen_with_who_asked_for_it(gitlab, forges, spec, head):
    await forges.show(spec, want())
    gitlab.merge_pull(REPO, FIRST, author="bob", style="rebase")
    gitlab.delete_branch(REPO, BRANCH)

    pull = await pull_now(forges, spec)

    assert (pull.is_merged, pull.by, pull.head) == (True, "bob", head)


async def test_who_closed_and_who_merged_it_is_told(gitlab, forges, spec, head):
    await forges.show(spec, want())
    gitlab.close_pull(REPO, FIRST, author="bob")
    closed = await pull_now(forges, spec)
    gitlab.reopen_pull(REPO, FIRST)
    gitlab.merge_pull(REPO, FIRST, author="ann", style="squash")
    merged = await pull_now(forges, spec)

    assert (closed.by, closed.is_merged, merged.by, merged.is_merged) == ("bob", False, "ann", True)


# --- Opening ---------------------------------------------------------------------------------


async def test_why_none_can_be_opened_is_told(gitlab, forges, spec):
    with pytest.raises(Unavailable, match="Source branch task/mend does not exist"):
        await forges.show(spec, want())


async def test_one_that_a_person_opened_is_adopted(gitlab, forges, spec, head):
    gitlab.open_pull(REPO, BRANCH, "By hand", author="bob")

    pull = await forges.show(spec, want())

    assert (pull.number, pull.author, pull.title) == (FIRST, "bob", "By hand")


async def test_one_from_a_fork_with_that_branch_is_another(gitlab, forges, spec, head):
    ours_not = gitlab.open_pull(REPO, BRANCH, "Mine", author="mallory")
    gitlab.repos[REPO].pull(ours_not).is_from_fork = True

    assert await forges.pulls(spec, [BRANCH], []) == {}
    assert [each.number for each in await forges.open_pulls(spec, "main")] == [FIRST]


async def test_reviewers_are_asked_and_those_that_cannot_be_are_told_of(gitlab, forges, spec, head):
    await forges.show(spec, want(reviewers=("ann", "bob", "nobody")))
    pull = await pull_now(forges, spec)

    assert set(ours(gitlab).reviewers) == {"ann", "bob"}
    seen = (await forges.pulls(spec, [BRANCH], [pull.number]))[BRANCH]
    assert any("nobody cannot be asked" in each.body for each in seen.comments)


async def test_of_hundreds_of_open_ones_only_what_moved_is_asked_for(gitlab, forges, spec, head):
    await forges.show(spec, want())
    for number in range(500):
        gitlab.open_pull(REPO, "main", f"Other {number}", author="ann")
    await forges.pulls(spec, [BRANCH], [FIRST])
    gitlab.requests.clear()

    seen = await forges.pulls(spec, [BRANCH], [])

    assert seen[BRANCH].number == FIRST
    lists = [path for _, path in gitlab.requests if path.startswith(f"{AT}/merge_requests?")]
    assert len(lists) <= 2  # several have the time of the newest
    assert len(gitlab.requests) < 12


# --- Tokens and limits -------------------------------------------------------------------------

LIMITS = {
    "seconds": (429, {"Retry-After": "90"}, {"message": "429 Too Many Requests"}, 90),
    "a time": (
        429,
        {"RateLimit-Reset": "1764000090", "Date": "Mon, 24 Nov 2025 16:00:00 GMT"},
        {"error": "Too many requests"},
        91,
    ),
    "words alone": (429, {}, {"message": {"error": "This endpoint has been requested too many times."}}, 60),
}


@pytest.mark.parametrize("case", LIMITS)
async def test_a_limit_is_kept_to_by_all_that_use_the_token(gitlab, connect, spec, case):
    code, headers, body, seconds = LIMITS[case]
    gitlab.add_repo("acme/other")
    forges = connect(gitlab.token)
    gitlab.limits.append((code, headers, body))

    with pytest.raises(Unavailable, match=f"it asks to wait for {seconds} s"):
        await forges.issues(spec, "agent")
    count = len(gitlab.requests)
    with pytest.raises(Unavailable, match="asks to wait for"):
        await forges.issues(gitlab.spec("acme/other", TOKEN), "agent")

    assert len(gitlab.requests) == count


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("Token is expired. You can either do re-authorization or token refresh.", "Token is expired"),
        ("Token was revoked. You have to re-authorize from the user.", "Token was revoked"),
    ],
)
async def test_a_token_that_is_not_good_any_more_is_told_with_the_reason(gitlab, forges, spec, said, why):
    gitlab.token_error = said

    with pytest.raises(Unavailable, match=rf"the token is refused \(invalid_token: {why}.*`forge.token`"):
        await forges.issues(spec, "agent")

    gitlab.token_error = ""


@pytest.mark.parametrize(
    ("scope", "lacks"),
    [("read_api", "it lacks the scope api;"), ("read_user", "it lacks the scope api or read_api;")],
)
async def test_the_scope_that_a_token_lacks_is_named(gitlab, forges, spec, scope, lacks):
    gitlab.push_as_person(REPO, BRANCH, {"mend.txt": "one\n"}, author="bot")
    gitlab.scopes = {scope}

    with pytest.raises(Unavailable, match=lacks):
        await forges.show(spec, want())


async def test_a_role_that_is_not_enough_is_told_with_the_one_that_is(gitlab, forges, spec, head):
    gitlab.levels["bot"] = GUEST

    with pytest.raises(Unavailable, match=r"403 Forbidden.*role Developer"):
        await forges.show(spec, want())


async def test_what_is_wrong_with_a_request_is_told_by_field(gitlab, forges, spec):
    body = {"message": {"title": ["can't be blank", "is too short"], "base": ["Not now"]}}
    gitlab.limits.append((400, {}, body))

    with pytest.raises(Unavailable, match="400 title can't be blank; is too short; Not now"):
        await forges.issues(spec, "agent")


async def test_a_project_that_has_moved_is_told(gitlab, forges, spec):
    gitlab.always_broken[f"GET {AT}/issues"] = 301

    with pytest.raises(Unavailable, match="it has moved"):
        await forges.issues(spec, "agent")


@pytest.mark.parametrize(("scopes", "missing"), [(None, []), ({"read_api", "read_user"}, ["api"])])
async def test_rights_are_tried_by_use(gitlab, spec, scopes, missing):
    gitlab.scopes = scopes

    async def token():
        return gitlab.token

    async with forge_setup(spec, token) as setup:
        repository = await setup.repository()

        assert await setup.missing_rights(repository) == missing
        assert (repository.default_branch, repository.permissions.push) == ("main", True)


# --- Webhooks -----------------------------------------------------------------------------------


async def test_a_webhook_is_made_anew_with_another_secret(gitlab, forges, spec, receiver):
    url, kept = receiver
    first = await forges.install_hook(spec, url, "first")
    again = await forges.install_hook(spec, url, "second")

    await forges.test_hook(spec, again)
    gitlab.wait_for_webhooks()

    assert [hook.id for hook in await forges.hooks(spec)] == [again.id] != [first.id]
    assert set(again.events) == set(DIALECTS["gitlab"].hook_events)
    assert [headers["x-gitlab-token"] for headers, _ in kept] == ["second"]
    assert json.loads(kept[0][1])["project"]["path_with_namespace"] == REPO


async def test_a_webhook_that_gitlab_switched_off_is_not_active(gitlab, forges, spec):
    hook = await forges.install_hook(spec, "https://reconciler.example.org/hooks/forgejo", "s3cret")
    gitlab.repos[REPO].hooks[hook.id].active = False
    gitlab.delivery_list = [{"id": 1, "url": hook.url, "response_status": "502"}]

    [seen] = await forges.hooks(spec)

    assert not seen.is_active
    assert await forges.last_response(spec, seen) == "502"


async def test_who_may_not_administer_sees_no_webhooks(gitlab, forges, spec):
    gitlab.levels["bot"] = 30

    with pytest.raises(Unavailable, match="Maintainer"):
        await forges.hooks(spec)


# --- The table of operations ----------------------------------------------------------------------


def test_a_request_that_the_dialect_has_no_operation_for_is_a_mistake_of_ours():
    with pytest.raises(LookupError, match="GET milestones"):
        GITLAB_OPERATIONS.find("GET", "milestones")


async def test_a_clock_that_is_off_changes_nothing_of_what_is_seen(gitlab, connect, spec, head):
    forges = connect(gitlab.token, lambda: clock.now() - timedelta(days=400))
    await forges.show(spec, want())
    gitlab.review(REPO, FIRST, "approved")

    pull = (await forges.pulls(spec, [BRANCH], []))[BRANCH]

    assert [(each.verdict, each.commit) for each in pull.reviews] == [("approved", head)]
    assert re.fullmatch(r"[0-9a-f]{40}", head)

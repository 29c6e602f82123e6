"""Pull requests and issues on the double: what it costs to look, and what goes wrong at a forge."""

import asyncio
import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from reconciler.core.errors import Unavailable
from reconciler.core.model.forge import CommitStatus, ManagedComment, MergeRefusal
from reconciler.forge.forgejo import InstalledWebhook
from reconciler.forge.pull_requests import REFRESHED
from tests.fakes import FakeClock
from tests.forge.conftest import REPO
from tests.forge.double import outage
from tests.forge.test_contract import BRANCH, want

START = datetime(2030, 1, 1, tzinfo=UTC)


def opened(double, *branches: str) -> None:
    for branch in branches:
        double.push_as_person(REPO, branch, {f"{branch}.txt": "1\n"})
        double.open_pull(REPO, branch, branch)


async def asked(double, question) -> list[str]:
    """Return what is asked of the forge, without the parameters."""
    before = len(double.requests)
    await question
    return [
        f"{verb} {path.partition('?')[0].removeprefix(f'/repos/{REPO}')}"
        for verb, path in double.requests[before:]
    ]


def writes(requests: list[str]) -> list[str]:
    return [request for request in requests if not request.startswith("GET ")]


# --- What it costs ---------------------------------------------------------


async def test_a_quiet_repository_costs_one_request_and_a_few_for_what_moves_without_a_sign(
    double, forges, spec
):
    seconds = (START + timedelta(seconds=number) for number in itertools.count())
    double.now = lambda: next(seconds)
    names = [f"task/{number}" for number in range(2 * REFRESHED)]
    opened(double, *names)
    for _ in range(4):
        await forges.pulls(spec, names, [])

    look = await asked(double, forges.pulls(spec, names, []))

    assert look.count("GET /pulls") == 1
    assert len(look) == 1 + 3 * REFRESHED


async def test_every_open_pull_request_has_its_turn(double, forges, spec):
    names = [f"task/{number}" for number in range(2 * REFRESHED)]
    opened(double, *names)
    for _ in range(4):
        await forges.pulls(spec, names, [])
    for pull in double.repos[REPO].pulls:
        double.set_status(REPO, pull.head, "success")

    await forges.pulls(spec, names, [])
    seen = await forges.pulls(spec, names, [])

    assert {pull.checks for pull in seen.values()} == {"success"}


async def test_to_open_a_pull_request_costs_few_requests(double, forges, spec):
    head = double.push_as_person(REPO, BRANCH, {"a.txt": "1\n"})
    commit_status = CommitStatus(commit=head, state="pending", description="waits for review")
    await forges.show(spec, want(branch="none", opens=False, issue=double.open_issue(REPO, "Do it")))

    requests = await asked(double, forges.show(spec, want(commit_status=commit_status)))

    assert writes(requests) == ["POST /pulls", f"POST /statuses/{head}"]
    assert len(requests) == len(["look", *writes(requests)])


async def test_what_we_did_ourselves_is_not_read_again_though_a_list_tells_less_of_it(double, forges, spec):
    head = double.push_as_person(REPO, BRANCH, {"a.txt": "1\n"})
    commit_status = CommitStatus(commit=head, state="pending", description="waits for review")
    await forges.show(spec, want(labels=("robot",), reviewers=("ann",), commit_status=commit_status))
    after_opening = await asked(double, forges.pulls(spec, [BRANCH], [], refreshes=False))
    double.review(REPO, 1, "approved")
    await forges.pulls(spec, [BRANCH], [1], refreshes=False)

    merged = await forges.show(spec, want(merges=head, commit_status=commit_status))
    after_merge = await asked(double, forges.pulls(spec, [BRANCH], [], refreshes=False))

    assert merged.is_merged
    assert after_opening == after_merge == ["GET /pulls"]


async def test_closed_pull_requests_and_branches_of_nobody_cost_nothing(double, forges, spec):
    opened(double, "task/a", "task/b", "somebody")
    await forges.pulls(spec, ["task/a", "task/b"], [])
    for number in (1, 2):
        double.close_pull(REPO, number)
    await forges.pulls(spec, ["task/a", "task/b"], [])

    look = await asked(double, forges.pulls(spec, ["task/a", "task/b"], []))

    assert look == ["GET /pulls"]


async def test_what_is_shown_already_is_not_written_again(double, forges, spec, connect):
    head = double.push_as_person(REPO, BRANCH, {"a.txt": "1\n"})
    issue = double.open_issue(REPO, "Mend it")
    whole = want(
        labels=("bot",),
        commit_status=CommitStatus(
            commit=head, state="pending", description="in review", url="https://example.org/t"
        ),
        notes=(ManagedComment(key="run", text="Done."),),
        issue=issue,
        issue_notes=(ManagedComment(key="task", text="Begun."),),
    )
    await forges.show(spec, whole)

    again = await asked(double, forges.show(spec, whole))
    after_a_restart = await asked(double, connect(double.token).show(spec, whole))

    assert writes(again) == writes(after_a_restart) == []


async def test_the_webhook_that_comes_before_the_answer_finds_the_pull_request(double, forges, spec):
    """What is read while it is being opened is what was opened."""
    double.computing = 0
    head = double.push_as_person(REPO, BRANCH, {"a.txt": "1\n"})
    commit_status = CommitStatus(commit=head, state="pending", description="waits for review")

    pull = await forges.show(spec, want(commit_status=commit_status))
    seen = await forges.pulls(spec, [BRANCH], [pull.number])

    assert seen[BRANCH] == pull


# --- Outages in the middle -------------------------------------------------


@pytest.mark.parametrize("how", ["refused", "502"])
async def test_an_outage_is_told_and_the_next_look_knows_everything(double, forges, spec, how):
    opened(double, BRANCH)
    before = await forges.pulls(spec, [BRANCH], [])
    with outage(double, how):
        double.review(REPO, 1, "rejected", "Not yet.")
        with pytest.raises(Unavailable):
            await forges.pulls(spec, [BRANCH], [1])

    after = await forges.pulls(spec, [BRANCH], [])

    assert before[BRANCH].reviews == ()
    assert [review.verdict for review in after[BRANCH].reviews] == ["changes_requested"]


STEPS = ["pulls", "labels", "pulls/1/requested_reviewers", "issues/1/comments", "pulls/1"]


@pytest.mark.parametrize("step", STEPS)
async def test_whatever_write_fails_the_next_time_brings_the_rest_and_nothing_twice(
    double, forges, spec, step
):
    head = double.push_as_person(REPO, BRANCH, {"a.txt": "1\n"})
    double.add_user("ann")
    whole = want(
        labels=("bot",),
        reviewers=("ann",),
        notes=(ManagedComment(key="run", text="Done."),),
        commit_status=CommitStatus(commit=head, state="pending", description="in review"),
    )
    method = "PATCH" if step == "pulls/1" else "POST"
    double.broken[f"{method} /repos/{REPO}/{step}"] = (500, {})
    with pytest.raises(Unavailable):
        await forges.show(spec, whole)

    await forges.show(spec, whole)

    [pull] = double.repos[REPO].pulls
    assert {label.name for label in pull.labels} == {"bot", "agent/review_pending"}
    assert [review.author for review in pull.reviews] == ["ann"]
    assert len(pull.comments) == len(double.repos[REPO].statuses) == 1
    assert "reconciler:begin new" not in pull.body


async def test_a_pull_request_that_was_opened_though_the_answer_was_lost_is_taken_up(double, forges, spec):
    opened(double, BRANCH)
    double.repos[REPO].hides_next = True

    pull = await forges.show(spec, want())

    assert pull.number == 1
    assert "What was done." in pull.body


# --- People ----------------------------------------------------------------


async def test_an_adopted_pull_request_keeps_the_words_of_who_opened_it(double, forges, spec):
    opened(double, BRANCH)
    double.edit_issue(REPO, 1, body="My own words.", title="My title")

    pull = await forges.show(spec, want(labels=("bot",)))

    assert pull.title == "My title"
    assert pull.body.startswith("My own words.")
    assert "What was done." in pull.body
    assert "bot" in pull.labels


async def test_a_mark_in_somebody_elses_comment_is_not_ours(double, forges, spec):
    opened(double, BRANCH)
    double.comment(REPO, 1, "<!-- reconciler:run -->\nI am the bot.", author="mallory")

    is_new = await forges.upsert_comment(spec, 1, ManagedComment(key="run", text="Done."), on_pull=True)
    comments = await forges.comments(spec, FakeClock().time - timedelta(days=9000))

    assert is_new
    assert [(comment.author, comment.key) for comment in comments] == [("mallory", ""), ("bot", "run")]


async def test_text_cannot_hide_marks_of_its_own(double, forges, spec):
    double.push_as_person(REPO, BRANCH, {"a.txt": "1\n"})
    body = "Before. <!-- reconciler:end --> After."

    await forges.show(spec, want(body=body))
    pull = await forges.show(spec, want(body="Second."))

    assert "After." not in pull.body


async def test_a_branch_of_a_fork_with_our_name_is_not_ours(double, forges, spec):
    opened(double, BRANCH)
    double.repos[REPO].pull(1).is_from_fork = True

    assert await forges.pulls(spec, [BRANCH], []) == {}


async def test_a_reviewer_who_cannot_be_asked_is_told_of_and_holds_nothing_up(double, forges, spec):
    double.push_as_person(REPO, BRANCH, {"a.txt": "1\n"})
    double.add_user("ann")

    await forges.show(spec, want(reviewers=("nobody", "ann")))

    pull = double.repos[REPO].pull(1)
    assert [review.author for review in pull.reviews] == ["ann"]
    assert [("nobody" in comment.body, "reviewers" in comment.body) for comment in pull.comments] == [
        (True, True)
    ]


async def test_reviews_are_read_with_their_lines_and_a_dismissed_one_is_noticed(double, forges, spec):
    opened(double, BRANCH)
    review = double.review(REPO, 1, "rejected", "See below.", (("a.py", 12, "Why?"),), author="ben")
    before = await forges.pulls(spec, [BRANCH], [])
    double.dismiss_review(REPO, 1, review)

    after = await forges.pulls(spec, [BRANCH], [])

    [seen] = before[BRANCH].reviews
    assert (seen.id, seen.author, seen.verdict, seen.is_dismissed) == (
        review,
        "ben",
        "changes_requested",
        False,
    )
    assert [(note.text, note.path, note.line) for note in seen.notes] == [
        ("See below.", None, None),
        ("Why?", "a.py", 12),
    ]
    assert [each.is_dismissed for each in after[BRANCH].reviews] == [True]


async def test_who_pushed_and_who_closed_is_told(double, forges, spec):
    opened(double, BRANCH, "task/b")
    double.push_as_person(REPO, BRANCH, {"a.txt": "2\n"}, author="ben")
    open_ones = await forges.pulls(spec, [BRANCH, "task/b"], [])
    double.close_pull(REPO, 1, author="eve")
    double.merge_pull(REPO, 2, author="dan")

    closed = await forges.pulls(spec, [BRANCH, "task/b"], [])

    assert open_ones[BRANCH].pusher == "ben"
    assert {branch: (pull.by, pull.is_merged) for branch, pull in closed.items()} == {
        BRANCH: ("eve", False),
        "task/b": ("dan", True),
    }


async def test_a_deleted_branch_still_names_its_pull_request(double, forges, spec):
    opened(double, BRANCH)
    double.delete_branch(REPO, BRANCH)

    seen = await forges.pulls(spec, [BRANCH], [])

    assert (seen[BRANCH].number, seen[BRANCH].state) == (1, "closed")


async def test_a_draft_is_one_until_people_say_it_is_ready(double, forges, spec):
    double.push_as_person(REPO, BRANCH, {"a.txt": "1\n"})
    draft = await forges.show(spec, want(is_draft=True))
    still = await forges.show(spec, want(is_draft=True, title="Mend it all"))
    double.edit_issue(REPO, 1, title="Mend it all")

    ready = await forges.show(spec, want(is_draft=True, title="Mend it all"))

    assert [pull.is_draft for pull in (draft, still, ready)] == [True, True, False]
    assert (still.title, ready.title) == ("WIP: Mend it all", "Mend it all")


async def test_where_labels_are_not_exclusive_ours_are_exchanged(double, forges, spec):
    opened(double, BRANCH)
    for phase in ("running", "review_pending"):
        double.add_label(REPO, f"agent/{phase}")
    double.label_issue(REPO, 1, "agent/running", "wanted-by-people")

    pull = await forges.show(spec, want())

    assert set(pull.labels) == {"wanted-by-people", "agent/review_pending"}


async def test_a_label_that_was_deleted_is_made_anew_the_next_time(double, forges, spec):
    opened(double, BRANCH)
    await forges.show(spec, want())
    double.repos[REPO].labels.clear()
    double.unlabel_issue(REPO, 1, "agent/review_pending")
    with pytest.raises(Unavailable, match="deleted just now"):
        await forges.show(spec, want())

    pull = await forges.show(spec, want())

    assert pull.labels == ("agent/review_pending",)


async def test_every_check_counts_however_many_there_are(double, forges, spec):
    opened(double, BRANCH)
    head = double.repos[REPO].pull(1).head
    double.set_status(REPO, head, "error", context="first", description="broke")
    for number in range(5):
        double.set_status(REPO, head, "success", context=f"ci/{number}")
    double.largest_page = 2

    seen = await forges.pulls(spec, [BRANCH], [])

    assert (seen[BRANCH].checks, seen[BRANCH].failed_checks) == ("failure", ("first: broke",))


async def test_a_number_that_is_no_pull_request_is_passed_over(double, forges, spec):
    opened(double, BRANCH)
    issue = double.open_issue(REPO, "Mend it")

    seen = await forges.pulls(spec, [BRANCH], [1, issue, 4711])

    assert set(seen) == {BRANCH}


# --- Merges ----------------------------------------------------------------


async def test_a_conflict_is_called_one_only_when_it_lasts(double, spec, connect):
    clock = FakeClock()
    forges = connect(double.token, clock)
    opened(double, BRANCH)
    double.push_as_person(REPO, "main", {f"{BRANCH}.txt": "another\n"})
    looks = [(await forges.pulls(spec, [BRANCH], []))[BRANCH] for _ in range(4)]

    clock.time += timedelta(minutes=1)
    after = (await forges.pulls(spec, [BRANCH], []))[BRANCH]

    assert {(pull.mergeable, pull.is_conflicting) for pull in looks} == {(None, False)}
    assert (after.mergeable, after.is_conflicting) == (False, True)


async def test_a_merge_that_meets_a_conflict_says_so_at_once(double, forges, spec):
    opened(double, BRANCH)
    double.push_as_person(REPO, "main", {f"{BRANCH}.txt": "another\n"})
    double.repos[REPO].pull(1).computing = 0
    head = double.repos[REPO].pull(1).head

    pull = await forges.show(spec, want(merges=head))

    assert (pull.state, pull.is_conflicting) == ("open", True)


async def test_a_merge_that_finds_the_forge_computing_costs_one_request(double, forges, spec):
    double.computing = 100
    opened(double, BRANCH)
    head = double.repos[REPO].pull(1).head
    await forges.show(spec, want())
    await forges.pulls(spec, [BRANCH], [1])

    refusal = (await forges.show(spec, want(merges=head))).refusal
    tries = [await asked(double, forges.show(spec, want(merges=head))) for _ in range(2)]

    assert tries == [["POST /pulls/1/merge"]] * 2
    assert refusal.kind == "computing"


async def test_a_merge_that_is_not_allowed_comes_back_with_what_the_forge_says(double, forges, spec):
    opened(double, BRANCH)
    double.edit_issue(REPO, 1, title="WIP: not yet")
    head = double.repos[REPO].pull(1).head

    pull = await forges.show(spec, want(merges=head))

    assert (pull.state, pull.refusal) == ("open", MergeRefusal("Work in progress PRs cannot be merged"))


async def test_a_merge_at_which_the_forge_fails_without_a_word_is_told_too(double, forges, spec):
    opened(double, BRANCH)
    head = double.repos[REPO].pull(1).head
    double.broken[f"POST /repos/{REPO}/pulls/1/merge"] = (500, {})

    pull = await forges.show(spec, want(merges=head))

    assert pull.state == "open"
    assert "does it depend on an issue or a pull request that is open?" in pull.refusal.message
    assert double.api not in pull.refusal.message


@pytest.mark.parametrize("style", ["merge", "squash", "rebase"])
async def test_a_merge_is_in_git(double, forges, spec, style):
    head = double.push_as_person(REPO, BRANCH, {"a.txt": "1\n"})
    await forges.show(spec, want())
    double.repos[REPO].pull(1).computing = 0

    pull = await forges.show(spec, want(merges=head, merge_style=style))

    assert (pull.is_merged, pull.by) == (True, "bot")
    assert double.repos[REPO].git("show", "main:a.txt") == "1"


async def test_a_merged_pull_request_no_longer_says_why_it_is_not_merged(double, forges, spec):
    double.push_as_person(REPO, BRANCH, {"a.txt": "1\n"})
    await forges.show(spec, want(body="Not merged yet: it is not approved."))
    double.edit_issue(REPO, 1, body=f"{double.repos[REPO].pull(1).body}\n\nMine.")
    double.merge_pull(REPO, 1)

    done = want(body="Done.", title="Another", phase="completed", opens=False)
    again = [await asked(double, forges.show(spec, done)) for _ in range(2)][1]

    pull = double.repos[REPO].pull(1)
    assert "Done." in pull.body
    assert "Not merged" not in pull.body
    assert pull.body.endswith("Mine.")
    assert pull.title == "Mend it"
    assert writes(again) == []


# --- Hooks -----------------------------------------------------------------


async def test_a_hook_is_installed_once_and_its_secret_replaced(double, forges, spec):
    first = await forges.install_hook(spec, "http://127.0.0.1:9/hooks/forgejo", "one")
    again = await forges.install_hook(spec, "http://127.0.0.1:9/hooks/forgejo", "two")

    assert again == replace(first, id=again.id)
    assert first.is_active
    assert {"push", "pull_request", "issues"} <= set(first.events)
    assert [hook.secret for hook in double.repos[REPO].hooks.values()] == ["two"]
    assert await forges.hooks(spec) == [again]


async def test_a_hook_that_the_forge_does_not_keep_is_no_success(double, forges, spec):
    double.odd[f"GET /repos/{REPO}/hooks"] = lambda hooks: [{**hook, "active": False} for hook in hooks]

    with pytest.raises(Unavailable, match="is not there, or not active"):
        await forges.install_hook(spec, "http://127.0.0.1:9/hooks/forgejo", "one")


async def test_pull_requests_from_forks_are_among_the_open_ones(double, forges, spec):
    for branch in ("task/a", "task/b"):
        double.push_as_person(REPO, branch, {f"{branch}.txt": "1\n"})
        double.open_pull(REPO, branch, "Work")
    double.repos[REPO].pull(1).is_from_fork = True

    found = await forges.open_pulls(spec, "main")

    assert {pull.branch for pull in found} == {"task/a", "task/b"}


async def test_a_pull_request_that_cannot_be_read_keeps_no_other_from_being_seen(
    double, forges, spec, caplog
):
    opened(double, "a", "b")
    pulls = {pull.branch: pull for pull in double.repos[REPO].tickets.values()}

    pulls["a"].body = {"no": "text"}
    first = await forges.pulls(spec, ["a", "b"], [pulls["a"].number])
    pulls["a"].body = "text"
    second = await forges.pulls(spec, ["a", "b"], [pulls["a"].number])

    assert set(first) == {"b"}
    assert set(second) == {"a", "b"}
    assert "passed over" in caplog.text


# --- Odd answers -----------------------------------------------------------

LISTS = ["/pulls", "/pulls/1/reviews", "/issues/1/comments", "/issues/1/timeline", "/labels"]


@pytest.mark.parametrize("path", LISTS)
async def test_a_null_in_a_list_is_no_item(double, forges, spec, path):
    opened(double, BRANCH, "task/b")
    double.comment(REPO, 1, "please", author="ann")
    double.odd[f"GET /repos/{REPO}{path}"] = lambda items: [None, *items]
    if "timeline" in path:
        double.close_pull(REPO, 1, author="zoe")

    seen = await forges.pulls(spec, [BRANCH, "task/b"], [])
    shown = await forges.show(spec, want(opens=False))

    assert {branch: pull.number for branch, pull in seen.items()} == {BRANCH: 1, "task/b": 2}
    assert shown.number == 1


@pytest.mark.parametrize("path", ["/pulls/1", "/pulls/1/reviews"])
@pytest.mark.parametrize("answer", [[7], {"strange": True}, 500, 418])
async def test_one_pull_request_that_cannot_be_read_says_why_and_costs_no_other(
    double, forges, spec, path, answer
):
    opened(double, BRANCH, "task/b")
    if isinstance(answer, int):
        double.broken[f"GET /repos/{REPO}{path}"] = (answer, {})
    else:
        double.odd[f"GET /repos/{REPO}{path}"] = lambda _: answer

    seen = await forges.pulls(spec, [BRANCH, "task/b"], [])

    assert seen["task/b"].number == 2
    assert isinstance(seen[BRANCH], Unavailable)


async def test_pull_requests_that_get_no_answer_one_after_another_are_an_outage(double, forges, spec):
    opened(double, BRANCH, "task/b", "task/c")
    await forges.pulls(spec, [], [])
    for number in (1, 2, 3):
        double.always_broken[f"GET /repos/{REPO}/pulls/{number}"] = 504

    with pytest.raises(Unavailable, match="504"):
        await forges.pulls(spec, [BRANCH, "task/b", "task/c"], [])


async def test_who_closed_a_long_pull_request_is_the_last_who_did(double, forges, spec):
    opened(double, BRANCH)
    timeline = double.repos[REPO].pull(1).timeline
    timeline.extend({"type": "close", "user": {"login": f"p{number}"}} for number in range(50))
    double.close_pull(REPO, 1, author="zoe")

    seen = await forges.pulls(spec, [BRANCH], [])

    assert seen[BRANCH].by == "zoe"


async def test_a_list_that_knows_no_pages_is_read_once(double, forges, spec):
    opened(double, BRANCH)
    double.close_pull(REPO, 1, author="zoe")
    closed = [{"type": "close", "user": {"login": "zoe"}}]
    double.odd[f"GET /repos/{REPO}/issues/1/timeline"] = lambda _: closed

    look = await asked(double, forges.pulls(spec, [BRANCH], []))

    assert look.count("GET /issues/1/timeline") == 2


# --- Set-ups that people have ----------------------------------------------


@pytest.mark.parametrize("may_be_read", [True, False])
async def test_a_label_of_the_organisation_beside_one_of_the_repository_hides_no_issue(
    double, forges, spec, may_be_read
):
    double.open_issue(REPO, "Do it", "", author="ann", labels=["agent"])
    double.organisation_labels = {"agent"}
    double.tokens_read_organisations = may_be_read

    assert [issue.number for issue in await forges.issues(spec, "agent")] == [1]


async def test_no_issues_is_another_answer_than_issues_that_are_switched_off(double, forges, spec):
    assert await forges.issues(spec, "agent") == []
    double.repos[REPO].has_issues = False

    assert await forges.issues(spec, "agent") is None
    assert await forges.comments(spec, START) == []


async def test_a_token_that_may_not_read_its_account_takes_the_name_from_the_spec(double, forges, spec):
    opened(double, BRANCH)
    double.tokens_are_limited = True
    with pytest.raises(Unavailable, match=r"name the account of the token as `forge\.account`"):
        await forges.whoami(spec)

    assert await forges.whoami(spec.model_copy(update={"account": "bot"})) == "bot"


async def test_a_known_pull_request_is_shown_without_a_list(double, forges, spec):
    opened(double, BRANCH)
    await forges.pulls(spec, [BRANCH], [])

    assert "GET /pulls" not in await asked(double, forges.show(spec, want(body="new")))


async def test_a_change_that_the_forge_takes_and_does_not_make_is_no_success(double, forges, spec):
    opened(double, BRANCH)
    for method in ("GET", "PATCH"):
        double.odd[f"{method} /repos/{REPO}/pulls/1"] = lambda pull: {**pull, "labels": []}

    with pytest.raises(Unavailable, match="does not show the label agent/review_pending"):
        await forges.show(spec, want())


async def test_an_issue_that_others_block_says_so_and_rests(double, forges, spec):
    double.open_issue(REPO, "Do it", "", author="ann", labels=["agent"])
    double.always_broken[f"PATCH /repos/{REPO}/issues/1"] = 412
    for _ in range(2):
        await forges.show(
            spec, want(branch="none", opens=False, issue=1, closes_issue=True, phase="completed")
        )

    [comment] = double.repos[REPO].tickets[1].comments
    assert "this cannot be closed" in comment.body


@pytest.mark.parametrize("status", [301, 307, 404, 410])
async def test_an_issue_that_was_transferred_or_deleted_is_gone_and_its_task_is_shown_without_it(
    double, forges, spec, status
):
    double.push_as_person(REPO, BRANCH, {"a.txt": "1\n"})
    number = double.open_issue(REPO, "Mend it", "Please.")
    double.always_broken[f"GET /repos/{REPO}/issues/{number}"] = status

    pull = await forges.show(spec, want(issue=number, closes_issue=True))

    assert pull.state == "open"
    assert await forges.issue(spec, number) is None


async def test_an_issue_of_a_repository_that_has_moved_is_not_gone(double, forges, spec):
    number = double.open_issue(REPO, "Mend it", "Please.")
    for path in (f"/repos/{REPO}/issues/{number}", f"/repos/{REPO}"):
        double.always_broken[f"GET {path}"] = 301

    with pytest.raises(Unavailable, match="it has moved"):
        await forges.issue(spec, number)


async def test_the_conversation_comes_with_a_pull_request(double, forges, spec):
    opened(double, BRANCH)
    double.comment(REPO, 1, "use tabs", author="ann")

    seen = await forges.pulls(spec, [BRANCH], [])

    assert [(comment.author, comment.body) for comment in seen[BRANCH].comments] == [("ann", "use tabs")]


async def test_a_comment_that_comes_while_a_request_for_changes_is_read_is_there(double, forges, spec):
    opened(double, BRANCH)
    double.comment(REPO, 1, "use tabs")
    double.review(REPO, 1, "rejected", "See above.")
    double.odd[f"GET /repos/{REPO}/pulls/1"] = lambda answer: {**answer, "comments": 0}

    seen = await forges.pulls(spec, [BRANCH], [])

    assert [comment.body for comment in seen[BRANCH].comments] == ["use tabs"]
    assert seen[BRANCH].comments[0].updated_at is not None


async def test_where_a_forge_lists_its_deliveries_the_last_answer_is_told(double, forges, spec):
    double.delivery_list = [
        {"id": 2, "status": "failed to connect to host", "status_code": 502},
        {"id": 1, "status": "OK", "status_code": 202},
    ]
    hook = InstalledWebhook(id=1, url="http://127.0.0.1:1", is_active=True, events=())

    of_github = await forges.last_response(spec.model_copy(update={"kind": "github"}), hook)

    assert of_github == "502 failed to connect to host"
    assert await forges.last_response(spec, hook) == ""


async def test_of_what_people_write_it_is_told_whether_they_are_members(double, forges, spec):
    opened(double, BRANCH)
    double.outsiders = {"zoe"}
    for name in ("ann", "zoe"):
        double.comment(REPO, 1, "use tabs", author=name)
        double.review(REPO, 1, "comment", "not so", author=name)

    seen = (await forges.pulls(spec, [BRANCH], []))[BRANCH]
    requests = await asked(double, forges.pulls(spec, [BRANCH], [1]))

    assert {each.author: each.is_by_member for each in seen.comments} == {"ann": True, "zoe": False}
    assert {each.author: each.is_by_member for each in seen.reviews} == {"ann": True, "zoe": False}
    assert "GET /assignees" not in requests


@pytest.mark.parametrize("status", [403, 404, 500])
async def test_where_members_are_not_told_nobody_is_one_and_all_else_is_read(double, forges, spec, status):
    opened(double, BRANCH)
    double.always_broken[f"GET /repos/{REPO}/assignees"] = status
    double.comment(REPO, 1, "use tabs", author="ann")

    seen = (await forges.pulls(spec, [BRANCH], []))[BRANCH]

    assert [each.is_by_member for each in seen.comments] == [False]


async def test_many_that_are_shown_at_once_make_a_label_once(double, forges, spec):
    branches = [f"task/{number}" for number in range(6)]
    for branch in branches:
        double.push_as_person(REPO, branch, {f"{branch[5:]}.txt": "1\n"})

    shows = [forges.show(spec, want(branch=branch, labels=("robot",))) for branch in branches]
    before = len(double.requests)
    pulls = await asyncio.gather(*shows)

    assert len({pull.number for pull in pulls}) == len(branches)
    assert {frozenset(pull.labels) for pull in pulls} == {frozenset({"robot", "agent/review_pending"})}
    assert double.requests[before:].count(("POST", f"/repos/{REPO}/labels")) == len(["robot", "the phase"])

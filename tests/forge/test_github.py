"""GitHub's ways: what is asked, what is made of the answers, and what people are told."""

import json
import shutil
import subprocess
from datetime import timedelta
from email.utils import formatdate
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from reconciler import clock
from reconciler.core.errors import Unavailable
from reconciler.core.model.forge import CommitStatus, ManagedComment, MergeRefusal
from reconciler.core.model.specs import Forge, ForgeApp
from reconciler.forge.github import ENQUEUE, QUEUE_QUERY
from tests.fakes import FakeClock
from tests.forge.conftest import REPO, TOKEN
from tests.forge.description import PACKAGES, PATH, description
from tests.forge.github import SLUG, App, Rules
from tests.forge.test_contract import BRANCH, want

CHECK_GRAPHQL = Path(__file__).with_name("check_graphql.mjs")
GRAPHQL = PACKAGES / "@octokit/graphql-schema"


@pytest.fixture
def spec(github):
    return github.spec(REPO, TOKEN)


@pytest.fixture
def forges(github, connect):
    return connect(github.token)


@pytest.fixture
def head(github):
    """Return the head of a branch of a task."""
    return github.push_as_person(REPO, BRANCH, {"a.txt": "1\n"}, author="bot")


async def seen(forges, spec, pull):
    """Return a pull request as it is now."""
    return (await forges.pulls(spec, [BRANCH], [pull.number]))[BRANCH]


@pytest.mark.skipif(not PATH.exists(), reason="npm install --prefix tests/forge, for GitHub's description")
def test_what_is_not_in_the_description_is_noticed():
    good = ("GET", f"/repos/{REPO}/labels", {"per_page": "50"}, None)
    label = {"id": 1, "node_id": "L", "url": "http://a/", "name": "x", "description": None}
    label |= {"color": "ffffff", "default": False}

    at = description().mismatches

    assert at(good, 200, [label]) == []
    assert at(("GET", f"/repos/{REPO}/etiquettes", {}, None), 200, []) != []
    assert at((*good[:2], {"limit": "50"}, None), 200, [label]) != []
    assert at((*good[:2], {"per_page": "50"}, None), 200, [{**label, "exclusive": True}]) != []
    assert at((*good[:2], {"per_page": "50"}, None), 200, [{**label, "id": "1"}]) != []
    assert at(("POST", good[1], {}, {"name": "x", "exclusive": True}), 201, label) != []


# --- Checks ----------------------------------------------------------------


@pytest.mark.parametrize(
    "case",
    [
        (None, "pending"),
        ("success", "success"),
        ("neutral", "success"),
        ("skipped", "success"),
        ("failure", "failure"),
        ("timed_out", "failure"),
        ("cancelled", "failure"),
        ("action_required", "failure"),
    ],
)
async def test_a_check_run_is_a_check(github, forges, spec, head, case):
    conclusion, checks = case
    pull = await forges.show(spec, want())

    github.check_run(head, "build / linux", conclusion, title="2 tests failed" if conclusion else None)
    now = await seen(forges, spec, pull)

    assert now.checks == checks
    assert now.failed_checks == (("build / linux: 2 tests failed",) if checks == "failure" else ())


async def test_check_runs_and_commit_statuses_are_judged_together(github, forges, spec, head):
    own = CommitStatus(commit=head, state="pending", description="in review")
    pull = await forges.show(spec, want(commit_status=own))
    github.check_run(head, "lint", "success")
    before = await seen(forges, spec, pull)

    github.set_status(REPO, head, "error", context="ci/deploy", description="no room")
    github.check_run(head, "test", "failure")
    after = await seen(forges, spec, pull)

    assert before.checks == "success"
    assert after.checks == "failure"
    assert after.failed_checks == ("ci/deploy: no room", "test: failure")


async def test_hundreds_of_check_runs_are_read_to_the_last(github, forges, spec, head):
    github.largest_page = 40
    pull = await forges.show(spec, want())
    for number in range(101):
        github.check_run(head, f"part {number}", "success")

    github.check_run(head, "the last", "failure")

    assert (await seen(forges, spec, pull)).failed_checks == ("the last: failure",)


async def test_a_fine_grained_token_sees_the_runs_of_actions(github, forges, spec, head):
    github.is_fine_grained = True
    pull = await forges.show(spec, want())

    github.check_run(head, "ci", "failure", is_of_actions=True)
    failed = await seen(forges, spec, pull)
    github.check_run(head, "ci", "success", is_of_actions=True)
    fixed = await seen(forges, spec, pull)

    assert failed.failed_checks == ("ci: failure",)
    assert fixed.checks == "success"


async def test_checks_that_may_not_be_read_are_no_green_checks(github, forges, spec, head):
    pull = await forges.show(spec, want())
    github.is_fine_grained = True
    github.lacking[f"GET /repos/{REPO}/actions/runs"] = "actions=read"

    with pytest.raises(Unavailable, match="it lacks `Checks: read`"):
        await seen(forges, spec, pull)


# --- Reviews ---------------------------------------------------------------


async def test_an_approval_counts_if_its_author_may_write(github, forges, spec, head):
    github.add_user("stranger")
    github.add_user("triager")
    github.roles["triager"] = "triage"
    pull = await forges.show(spec, want())

    for name in ("stranger", "triager", "ann"):
        github.review(REPO, pull.number, "approved", author=name)
    reviews = (await seen(forges, spec, pull)).reviews

    assert [(review.author, review.verdict, review.is_official) for review in reviews] == [
        ("stranger", "approved", False),
        ("triager", "approved", False),
        ("ann", "approved", True),
    ]


async def test_the_review_of_an_app_is_no_approval(github, forges, spec, head):
    pull = await forges.show(spec, want())

    github.review(REPO, pull.number, "approved", author="copilot-reviewer[bot]")

    assert [review.is_official for review in (await seen(forges, spec, pull)).reviews] == [False]


async def test_inline_comments_name_the_line_of_the_file_also_when_they_are_outdated(
    github, forges, spec, head
):
    pull = await forges.show(spec, want())
    github.review(REPO, pull.number, "rejected", "Almost.", (("a.txt", 17, "A typo."),))
    fresh = await seen(forges, spec, pull)

    github.push_as_person(REPO, BRANCH, {"a.txt": "2\n"}, author="bot")
    outdated = await seen(forges, spec, pull)

    for now, is_stale in ((fresh, False), (outdated, True)):
        [review] = now.reviews
        assert (review.verdict, review.is_stale) == ("changes_requested", is_stale)
        assert [(note.text, note.path, note.line) for note in review.notes] == [
            ("Almost.", None, None),
            ("A typo.", "a.txt", 17),
        ]


async def test_a_review_that_comes_while_it_is_read_has_its_comments(github, forges, spec, head):
    """The pull request says that there are none, and the list of reviews has one."""
    pull = await forges.show(spec, want())
    github.review(REPO, pull.number, "rejected", "Almost.", (("a.txt", 1, "A typo."),))
    github.odd[f"GET /repos/{REPO}/pulls/{pull.number}"] = lambda body: {**body, "review_comments": 0}

    [review] = (await seen(forges, spec, pull)).reviews

    assert [note.text for note in review.notes] == ["Almost.", "A typo."]


async def test_a_dismissed_review_is_no_verdict(github, forges, spec, head):
    pull = await forges.show(spec, want())
    review = github.review(REPO, pull.number, "rejected", "No.")

    github.dismiss_review(REPO, pull.number, review)

    [review] = (await seen(forges, spec, pull)).reviews
    assert (review.verdict, review.is_dismissed) == ("comment", True)


# --- Merging ---------------------------------------------------------------


@pytest.mark.parametrize(
    "case",
    [
        (Rules(checks=("ci",)), 'Required status check "ci" is expected'),
        (Rules(approvals=1), "At least 1 approving review is required"),
        (Rules(styles=("squash",)), "Merge commits are not allowed on this repository"),
    ],
)
async def test_a_rule_that_is_in_the_way_of_a_merge_is_told(github, forges, spec, head, case):
    rules, why = case
    github.computing, github.rules[REPO] = 0, rules
    await forges.show(spec, want())

    pull = await forges.show(spec, want(merges=head))

    assert (pull.is_merged, pull.state) == (False, "open")
    assert why in pull.refusal.message


async def test_a_draft_is_a_draft_until_somebody_made_it_ready(github, forges, spec, head):
    github.computing = 0
    opened = await forges.show(spec, want(is_draft=True))
    refused = await forges.show(spec, want(is_draft=True, merges=head))

    github.repos[REPO].pull(opened.number).draft = False
    merged = await forges.show(spec, want(is_draft=True, merges=head))

    assert (opened.is_draft, opened.title) == (True, "Mend it")
    assert "still a draft" in refused.refusal.message
    assert merged.is_merged


async def test_a_conflict_is_a_conflict_at_once(github, forges, spec, head):
    github.computing = 0
    pull = await forges.show(spec, want())

    github.push_as_person(REPO, "main", {"a.txt": "another\n"})

    assert (await seen(forges, spec, pull)).is_conflicting


@pytest.mark.parametrize("style", ["merge", "squash", "rebase"])
async def test_it_is_merged_in_the_wanted_style(github, forges, spec, head, style):
    await forges.show(spec, want())

    pull = await forges.show(spec, want(merges=head, merge_style=style))

    assert (pull.is_merged, pull.by) == (True, "bot")


# --- The merge queue -------------------------------------------------------


def enqueued(github) -> int:
    return sum(path.endswith("/graphql") for _, path in github.requests)


async def test_what_goes_by_the_merge_queue_is_put_there_once_and_says_where_it_stands(
    github, forges, spec, head
):
    github.computing, github.rules[REPO] = 0, Rules(queue=True)
    await forges.show(spec, want())

    first = await forges.show(spec, want(merges=head))
    asked = enqueued(github)
    again = await forges.show(spec, want(merges=head))
    github.finish_queue(REPO)
    merged = await forges.show(spec, want(merges=head))

    place = MergeRefusal("it is in the merge queue, at position 1 (awaiting checks)", kind="queued")
    assert first.refusal == again.refusal == place
    assert (asked, enqueued(github)) == (2, 3)
    assert (merged.is_merged, merged.by) == (True, "github-merge-queue[bot]")


async def test_what_the_merge_queue_removed_is_put_back_after_a_push(github, forges, spec, head):
    github.computing, github.rules[REPO] = 0, Rules(queue=True)
    pull = await forges.show(spec, want())
    await forges.show(spec, want(merges=head))

    github.dequeue(pull.number, "FAILED_CHECKS")
    removed = await forges.show(spec, want(merges=head))
    newer = github.push_as_person(REPO, BRANCH, {"a.txt": "2\n"}, author="bot")
    pushed = await forges.show(spec, want(merges=newer))

    why = "the merge queue removed it (failed checks): push a commit, or put it there by hand"
    assert removed.refusal == MergeRefusal(why)
    assert "at position 1" in pushed.refusal.message


@pytest.mark.skipif(
    not (shutil.which("node") and GRAPHQL.exists()),
    reason="npm install --prefix tests/forge, for GitHub's schema of GraphQL",
)
def test_what_is_asked_of_the_merge_queue_is_in_githubs_schema():
    texts = json.dumps([QUEUE_QUERY, ENQUEUE, "{ merlin }"])

    done = subprocess.run(
        ["node", CHECK_GRAPHQL], input=texts, capture_output=True, text=True, check=True, timeout=60
    )

    assert json.loads(done.stdout) == ['Cannot query field "merlin" on type "Query".']


# --- What it declines ------------------------------------------------------


async def test_why_no_pull_request_can_be_opened_is_told(github, forges, spec):
    github.repos[REPO].git("update-ref", f"refs/heads/{BRANCH}", "main")

    with pytest.raises(Unavailable, match=f"Validation Failed: No commits between main and {BRANCH}"):
        await forges.show(spec, want())


async def test_a_pull_request_that_a_person_opened_is_adopted(github, forges, spec, head):
    number = github.open_pull(REPO, BRANCH, "By hand", author="ann")

    assert (await forges.show(spec, want())).number == number


async def test_reviewers_that_cannot_be_asked_are_told_of(github, forges, spec, head):
    pull = await forges.show(spec, want(reviewers=("ann", "nobody")))

    [comment] = github.repos[REPO].pull(pull.number).comments
    assert "nobody cannot be asked for a review: Reviews may only be requested from collab" in comment.body
    assert [review.author for review in github.repos[REPO].pull(pull.number).reviews] == ["ann"]


async def test_names_of_labels_know_no_case(github, forges, spec, head):
    github.add_label(REPO, "From-Agent")
    number = github.open_issue(REPO, "Mend it", labels=("Agent",))

    pull = await forges.show(spec, want(labels=("from-agent",)))
    issues = await forges.issues(spec, "agent")

    assert set(pull.labels) == {"From-Agent", "agent/review_pending"}
    assert [issue.number for issue in issues] == [number]


async def test_pull_requests_with_the_label_are_no_issues(github, forges, spec, head):
    number = github.open_pull(REPO, BRANCH, "By hand")
    github.label_issue(REPO, number, "agent")

    assert list(await forges.issues(spec, "agent")) == []


# --- Limits and rights -----------------------------------------------------


@pytest.mark.parametrize(
    "case",
    [
        (403, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "+120"}, "API rate limit exceeded", 121),
        (429, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "+90"}, "API rate limit exceeded", 91),
        (403, {"Retry-After": "45"}, "You have exceeded a secondary rate limit", 45),
        (403, {}, "You have exceeded a secondary rate limit. Please wait a few minutes", 60),
        (429, {}, "Too many requests", 60),
    ],
)
async def test_a_limit_is_kept_to_by_all_that_use_the_token(github, connect, spec, case):
    status, headers, message, seconds = case
    github.add_repo("acme/other")
    forges, other = connect(github.token), github.spec("acme/other", TOKEN)
    now = int(clock.now().timestamp()) - 7_000  # their clock is two hours behind
    sent = {name: str(now + int(value)) if value[0] == "+" else value for name, value in headers.items()}
    github.limits.append((status, {"Date": formatdate(now, usegmt=True), **sent}, message))

    with pytest.raises(Unavailable, match=f"asks to wait for {seconds} s"):
        await forges.issues(spec, "agent")
    with pytest.raises(Unavailable, match="asks to wait for"):
        await forges.issues(other, "agent")

    assert len(github.requests) == 1


async def test_a_short_limit_is_waited_for(github, forges, spec):
    github.limits.append((403, {"Retry-After": "2"}, "You have exceeded a secondary rate limit"))

    assert list(await forges.issues(spec, "agent")) == []


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        (
            {"X-Accepted-GitHub-Permissions": "issues=write; pull_requests=write"},
            "it lacks `Issues: write` or `Pull requests: write`",
        ),
        (
            {"X-Accepted-GitHub-Permissions": "pull_requests=read,contents=read"},
            "it lacks `Pull requests: read` with `Contents: read`",
        ),
        (
            {"X-Accepted-OAuth-Scopes": "repo", "X-OAuth-Scopes": "public_repo"},
            "it lacks a scope of repo; it has public_repo",
        ),
        (
            {"X-GitHub-SSO": "required; url=https://github.com/orgs/acme/sso?authorization_request=A"},
            "single sign-on: https://github.com/orgs/acme/sso?authorization_request=A",
        ),
        ({}, "see the rights for GitHub in docs/forge.md"),
    ],
)
async def test_the_right_that_a_token_lacks_is_named(github, forges, spec, headers, why):
    github.broken[f"GET /repos/{REPO}/issues"] = (403, headers)

    with pytest.raises(Unavailable) as caught:
        await forges.issues(spec, "agent")

    assert why in str(caught.value)


# --- Conditional requests --------------------------------------------------


async def test_what_did_not_change_is_not_sent_again_and_what_did_is_seen(github, forges, spec, head):
    github.computing = 0
    pull = await forges.show(spec, want())
    for _ in range(2):
        await seen(forges, spec, pull)
    github.statuses.clear()

    same = await seen(forges, spec, pull)
    unchanged = list(github.statuses)
    github.edit_issue(REPO, pull.number, title="Another")
    changed = await seen(forges, spec, pull)

    assert set(unchanged) == {304}
    assert (same.title, changed.title) == ("Mend it", "Another")


# --- Webhooks --------------------------------------------------------------


async def test_a_webhook_that_is_set_up_again_has_the_new_secret(github, forges, spec, receiver):
    url, kept = receiver
    first = await forges.install_hook(spec, url, "first")

    again = await forges.install_hook(spec, url, "second")
    await forges.test_hook(spec, again)
    github.settle()

    assert (again.id, again.is_active, again.url) == (first.id, True, url)
    assert {"check_suite", "status", "pull_request_review"} <= set(again.events)
    [(headers, body)] = kept
    assert headers["x-github-event"] == "push"
    assert github.repos[REPO].hooks[again.id].secret == "second"
    assert headers["x-hub-signature-256"].startswith("sha256=")
    assert body


# --- Apps ------------------------------------------------------------------


@pytest.fixture(scope="module")
def key():
    return rsa.generate_private_key(65537, 2048)


def pem(key) -> str:
    form, no = serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, form, no).decode()


@pytest.fixture
def app(github, key):
    github.app = App(id=12345, installation=678, public_key=key.public_key())
    return github.app


@pytest.fixture
def app_spec(github, app):
    return Forge(kind="github", api=github.api, repo=REPO, app=ForgeApp(id=app.id, key=TOKEN))


@pytest.mark.usefixtures("head")
async def test_an_app_does_what_an_account_does(connect, app, app_spec, key):
    forges = connect(pem(key))
    note = ManagedComment(key="run/1", text="Begun.")

    opened = await forges.show(app_spec, want(notes=(note,)))
    again = await forges.show(app_spec, want(notes=(note,)))
    comments = await forges.comments(app_spec, clock.now() - timedelta(hours=1))

    assert await forges.whoami(app_spec) == f"{SLUG}[bot]"
    assert (opened.author, again.number) == (f"{SLUG}[bot]", opened.number)
    assert [(comment.author, comment.key) for comment in comments] == [(f"{SLUG}[bot]", "run/1")]
    assert len(app.tokens) == 1
    assert app.repositories == [["widgets"]]


async def test_the_token_of_an_app_is_renewed_before_it_expires(github, connect, app, app_spec, key):
    now = FakeClock()
    github.now = now
    forges = connect(pem(key), now)

    for minutes, tokens in ((0, 1), (50, 1), (6, 2), (54, 2), (2, 3)):
        now.time += timedelta(minutes=minutes)
        await forges.issues(app_spec, "agent")
        assert len(app.tokens) == tokens


async def test_a_token_of_an_app_that_is_refused_is_exchanged(github, connect, app, app_spec, key):
    forges = connect(pem(key))
    await forges.issues(app_spec, "agent")
    app.tokens.clear()

    with pytest.raises(Unavailable, match=r"the token is refused .*`forge\.app`"):
        await forges.issues(app_spec, "agent")

    assert list(await forges.issues(app_spec, "agent")) == []


async def test_the_installation_may_be_given(github, connect, app, key):
    given = ForgeApp(id=app.id, key=TOKEN, installation=678)
    spec = Forge(kind="github", api=github.api, repo=REPO, app=given)

    await connect(pem(key)).issues(spec, "agent")

    assert not any(path.endswith("/installation") for _, path in github.requests)


async def test_a_key_that_is_not_the_apps_is_told_of(github, connect, app, app_spec):
    another = pem(rsa.generate_private_key(65537, 2048))

    with pytest.raises(Unavailable, match=r"the token is refused .*`forge\.app\.key`"):
        await connect(another).issues(app_spec, "agent")


@pytest.mark.parametrize("text", ["", "ghp_token", "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n", "curve"])
async def test_what_is_no_key_of_an_app_is_told_of(github, connect, app, app_spec, text):
    text = pem(ec.generate_private_key(ec.SECP256R1())) if text == "curve" else text

    with pytest.raises(Unavailable, match="no RSA private key in PEM") as caught:
        await connect(text).issues(app_spec, "agent")

    assert not text or text not in str(caught.value)
    assert github.requests == []

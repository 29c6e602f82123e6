"""Clocks of forges that are off: no time of a forge is taken for one of ours, on any kind of forge."""

from datetime import UTC, datetime, timedelta

import pytest

from reconciler import clock
from reconciler.core.events import Completed, PullRequestOpened
from reconciler.core.forge.pull_request import follow
from reconciler.core.model.specs import Repo, Task
from reconciler.core.model.status import Phase
from reconciler.forge.forge_clock import ForgeClock
from tests.forge.conftest import NESTED, REPO, TOKEN
from tests.forge.github import SLUG
from tests.forge.test_contract import BRANCH, want
from tests.forge.test_github import app, app_spec, key, pem  # noqa: F401 - fixtures
from tests.statuses import make_status

SHOP = Repo(name="shop", url="r.git", merge="when_approved")
TASK = Task(name="mend", generation="1" * 40, work="w1", goal="Mend it.", repo="shop", review="pull_request")
OFF = {
    "3 h behind": timedelta(hours=-3),
    "3 h ahead": timedelta(hours=3),
    "2 days behind": timedelta(days=-2),
    "2 days ahead": timedelta(days=2),
}
NEAR = timedelta(minutes=1)


@pytest.fixture(params=OFF)
def off(request):
    return OFF[request.param]


@pytest.fixture(params=["double", "github", "gitlab"])
def forge(request, off):
    forge = request.getfixturevalue(request.param)
    true = forge.now
    forge.now = lambda: true() + off
    return forge


@pytest.fixture
def repo(forge):
    return NESTED if NESTED in forge.repos else REPO


@pytest.fixture
def spec(forge, repo):
    return forge.spec(repo, TOKEN)


@pytest.fixture
def forges(forge, connect):
    return connect(forge.token)


def delivered(head: str, since: datetime):
    """Return the status of work that waits for review, whose pull request is not on record."""
    return make_status(
        phase=Phase.REVIEW_PENDING,
        since=since,
        created_at=since,
        generation=TASK.generation,
        work="w1",
        run="mend.g11111111.a1",
        assigned_host="alpha",
        branch_name=BRANCH,
        head_commit=head,
    )


async def merged(forge, forges, spec, repo):
    """Return a pull request that was merged just now, and its head."""
    head = forge.push_as_person(repo, BRANCH, {"a.txt": "1\n"}, author="bot")
    opened = await forges.show(spec, want())
    forge.merge_pull(repo, opened.number, author="ann")
    return (await forges.pulls(spec, [BRANCH], [opened.number]))[BRANCH], head


async def test_one_that_was_merged_before_it_was_on_record_completes_the_task(forge, forges, spec, repo):
    began = clock.now()
    pull, head = await merged(forge, forges, spec, repo)
    status = delivered(head, began)

    opened = follow(TASK, status, pull, SHOP, clock.now(), bot="bot")
    assert isinstance(opened, PullRequestOpened)

    known = status.model_copy(
        update={"review": status.review.model_copy(update={"pull_request": opened.pull})}
    )
    assert isinstance(follow(TASK, known, pull, SHOP, clock.now(), bot="bot"), Completed)


async def test_one_of_an_earlier_life_of_the_branch_is_none_of_the_work(forge, forges, spec, repo):
    pull, head = await merged(forge, forges, spec, repo)
    later = clock.now() + timedelta(minutes=10)

    assert follow(TASK, delivered(head, later), pull, SHOP, later, bot="bot") is None


async def test_what_is_written_now_is_listed_with_the_time_that_it_is_here(forge, forges, spec, repo):
    number = forge.open_issue(repo, "Mend it", "Please.")
    forge.comment(repo, number, "/agent status")

    comments = await forges.comments(spec, clock.now() - NEAR)

    assert [comment.body for comment in comments] == ["/agent status"]
    assert abs(comments[0].created_at - clock.now()) < NEAR


async def test_an_issue_was_closed_at_the_time_that_it_was_here(forge, forges, spec, repo):
    number = forge.open_issue(repo, "Mend it", "Please.")
    forge.close_issue(repo, number)

    issue = await forges.issue(spec, number)

    assert abs((issue.closed_at or issue.updated_at) - clock.now()) < NEAR


@pytest.mark.usefixtures("app")
async def test_an_app_gets_its_token(github, connect, app_spec, key, off):  # noqa: F811 - fixtures
    true = github.now
    github.now = lambda: true() + off
    github.push_as_person(REPO, BRANCH, {"a.txt": "1\n"}, author="bot")

    opened = await connect(pem(key)).show(app_spec, want())

    assert opened.author == f"{SLUG}[bot]"
    assert sum("access_tokens" in path for _, path in github.requests) == 1


# --- What answers tell -----------------------------------------------------


SENT = datetime(2026, 11, 28, 12, 0, 0, 900_000, tzinfo=UTC)
CAME = SENT + timedelta(seconds=0.3)


def noted(*dates: str) -> timedelta:
    forge_clock = ForgeClock()
    for date in dates:
        forge_clock.note({"date": date}, SENT, CAME)
    return forge_clock.offset


@pytest.mark.parametrize("second", ["12:00:00", "12:00:01"])
def test_a_second_that_may_be_ours_tells_of_no_offset(second):
    assert noted(f"Sat, 28 Nov 2026 {second} GMT") == timedelta()


def test_an_offset_stays_as_long_as_answers_agree_with_it():
    first = noted("Sat, 28 Nov 2026 15:00:00 GMT")

    assert abs(first - timedelta(hours=3)) < timedelta(seconds=1)
    assert noted("Sat, 28 Nov 2026 15:00:00 GMT", "Sat, 28 Nov 2026 15:00:01 GMT") in {
        first,
        noted("Sat, 28 Nov 2026 15:00:01 GMT"),
    }
    mended = noted("Sat, 28 Nov 2026 15:00:00 GMT", "Sat, 28 Nov 2026 12:00:01 GMT")
    assert abs(mended) < timedelta(seconds=1)


@pytest.mark.parametrize("date", ["", "soon", "Sat, 99 Nov 2026 15:00:00 GMT"])
def test_an_answer_without_a_time_tells_nothing(date):
    assert noted("Sat, 28 Nov 2026 15:00:00 GMT", date) == noted("Sat, 28 Nov 2026 15:00:00 GMT")


def test_the_ends_of_time_stay_where_they_are():
    forge_clock = ForgeClock()
    forge_clock.note({"date": "Sat, 28 Nov 2026 15:00:00 GMT"}, SENT, CAME)
    earliest = datetime.min.replace(tzinfo=UTC)

    assert forge_clock.ours(earliest) == earliest

"""Pull requests whose commits a merge queue pushed to the base branch: merged, on any kind of forge."""

import pytest

from tests.forge.conftest import NESTED, REPO, TOKEN
from tests.forge.test_contract import BRANCH, want


@pytest.fixture(params=["double", "github", "gitlab"])
def forge(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def repo(forge):
    return NESTED if NESTED in forge.repos else REPO


async def landed(forge, forges, repo):
    """Return a pull request as it is shown after its commits came to the base by a push."""
    spec, at = forge.spec(repo, TOKEN), forge.repos[repo]
    head = forge.push_as_person(repo, BRANCH, {"a.txt": "1\n"})
    opened = await forges.show(spec, want())
    at.put("main", f"{head}^{{tree}}", [at.branches()["main"], head], "Merge it\n", "bot")
    forge.notice("bot")
    ended = await forges.show(spec, want(phase="completed", opens=False))
    again = await forges.show(spec, want(phase="completed", opens=False))
    assert opened.state == "open"
    assert ended == again
    return ended


async def test_a_pull_request_whose_commits_were_pushed_to_its_base_counts_as_merged(forge, connect, repo):
    forge.repos[repo].allows_manual_merges = True

    ended = await landed(forge, connect(forge.token), repo)

    assert (ended.is_merged, ended.state, ended.comments) == (True, "closed", ())


async def test_a_squash_whose_answer_nobody_heard_counts_as_merged_with_its_own_commit(double, connect, spec):
    at = double.repos[REPO]
    at.allows_manual_merges = True
    head = double.push_as_person(REPO, BRANCH, {"a.txt": "1\n"})
    opened = await connect(double.token).show(spec, want())
    squash = at.put("main", f"{head}^{{tree}}", [at.branches()["main"]], f"It (#{opened.number})\n", "bot")

    ended = await connect(double.token).show(spec, want(phase="completed", opens=False))

    assert (ended.is_merged, ended.state, ended.comments) == (True, "closed", ())
    assert at.pull(ended.number).merge_commit == squash


async def test_where_a_repository_allows_no_manual_merges_it_is_closed_and_says_why(double, connect):
    ended = await landed(double, connect(double.token), REPO)

    assert (ended.is_merged, ended.state) == (True, "closed")
    assert "allow manually merged ones" in double.repos[REPO].pull(ended.number).comments[-1].body


async def test_commits_that_came_after_what_landed_keep_a_pull_request_open(double, connect):
    forges, spec, at = connect(double.token), double.spec(REPO, TOKEN), double.repos[REPO]
    head = double.push_as_person(REPO, BRANCH, {"a.txt": "1\n"})
    await forges.show(spec, want())
    at.put("main", f"{head}^{{tree}}", [at.branches()["main"], head], "Merge it\n", "bot")
    double.push_as_person(REPO, BRANCH, {"b.txt": "1\n"})

    shown = await forges.show(spec, want(phase="completed", opens=False))

    assert (shown.is_merged, shown.state) == (False, "open")

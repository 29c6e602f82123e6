"""
Commits and files as people are shown them.
"""

import pytest

from reconciler.core.errors import NotFound
from reconciler.core.model.status import Phase
from reconciler.store.commit_view import FileCommits, resolve_commit, statuses_at, view_commit, view_file
from tests.store.world import BRANCH, commit, created, git, started


@pytest.fixture
async def repository(open_repository, checkout):
    return await open_repository(checkout)


async def test_a_commit_is_shown_with_its_message_and_what_it_changed(repository, open_state, checkout):
    state = await open_state(checkout)
    await state.commit([created("web/a", "the spec is new")])
    head = git(checkout, "rev-parse", BRANCH)

    view = await view_commit(repository, (BRANCH,), head[:9])

    assert view.commit == head
    assert view.parents == (git(checkout, "rev-parse", f"{BRANCH}^"),)
    assert "Task: web/a" in view.message
    assert "+++ b/fleet-state/tasks/web/a.yaml" in view.patch
    assert view.author.startswith("reconciler <")


async def test_a_merge_is_shown_against_its_first_parent(repository, checkout):
    first = commit(checkout, "a", "1")
    side = git(checkout, "commit-tree", f"{first}^{{tree}}", "-p", first, "-m", "Aside")
    merged = git(checkout, "commit-tree", f"{first}^{{tree}}", "-p", first, "-p", side, "-m", "Merge")
    git(checkout, "update-ref", "refs/heads/main", merged)

    view = await view_commit(repository, ("main",), merged)

    assert (view.parents, view.patch) == ((first, side), "")


async def test_what_is_on_no_branch_of_the_fleet_is_not_shown(repository, checkout):
    head = commit(checkout, "specs/a", "1")
    hidden = git(checkout, "commit-tree", f"{head}^{{tree}}", "-m", "A secret")
    git(checkout, "update-ref", "refs/heads/private", hidden)

    with pytest.raises(NotFound):
        await view_commit(repository, ("main", BRANCH), hidden)


@pytest.mark.parametrize("name", ["0" * 40, "abcdef0", "HEAD^{tree}"])
async def test_a_commit_that_is_not_there_is_not_found(repository, checkout, name):
    commit(checkout, "specs/a", "1")
    with pytest.raises(NotFound):
        await view_commit(repository, ("main",), name)


async def test_a_file_is_shown_as_it_is_at_a_commit_with_who_changed_it_last(repository, checkout):
    first = commit(checkout, "specs/tasks/a.yaml", "goal: One.\n")
    second = commit(checkout, "specs/tasks/b.yaml", "goal: Two.\n")

    view = await view_file(repository, "main", second, "specs/tasks/a.yaml")

    assert (view.text, view.revision, view.changed) == ("goal: One.\n", second, first)
    with pytest.raises(NotFound):
        await view_file(repository, "main", first, "specs/tasks/b.yaml")


async def test_what_is_no_text_is_not_shown(repository, checkout):
    head = commit(checkout, "specs/a.bin", "a\0b")
    with pytest.raises(NotFound):
        await view_file(repository, "main", head, "specs/a.bin")


async def test_a_status_is_had_as_it_was_after_each_step(repository, open_state, checkout):
    state = await open_state(checkout)
    await state.commit([created("a"), created("b"), started("a")])
    newest, _, oldest = git(checkout, "rev-list", "--max-count=3", BRANCH).splitlines()

    statuses = await statuses_at(repository, [(newest, "a"), (oldest, "b"), (oldest, "a")])

    assert [status and status.phase for status in statuses] == [Phase.RUNNING, None, Phase.CREATED]


async def test_the_last_commit_of_each_file_follows_the_branch(repository, checkout):
    commits, path = FileCommits(repository, "main"), "specs/hosts/h.yaml"
    first = commit(checkout, path, "slots: 1\n")
    commit(checkout, "specs/other", "1")

    assert await commits.of([path, "specs/none"]) == {path: first}
    second = commit(checkout, path, "slots: 2\n")

    assert await commits.of([path]) == {path: second}


async def test_a_revision_is_a_commit_or_a_branch_and_never_an_option(repository, checkout):
    head = commit(checkout, "specs/a", "1")

    assert await resolve_commit(repository, head) == head
    assert await resolve_commit(repository, "main") == head
    for name in ("--all", "-h", "none"):
        with pytest.raises(NotFound):
            await resolve_commit(repository, name)

import asyncio
from contextlib import aclosing

import pytest

from reconciler.store.watch import ref_changes
from tests.store.world import commit, git


@pytest.mark.parametrize("branch", ["main", "team/main"])
async def test_a_commit_on_a_watched_branch_is_noticed(open_repository, checkout, branch):
    git(checkout, "checkout", "-q", "-B", branch)
    repository = await open_repository(checkout)

    async with aclosing(ref_changes(repository, [repository.ref(branch)])) as changes:
        noticed = asyncio.ensure_future(anext(changes))
        await until_watching(checkout, noticed)

        assert await noticed is None


async def until_watching(checkout, noticed):
    """Commit until it is noticed: nobody says when the watch is set up."""
    number = 0
    while not noticed.done():
        number += 1
        commit(checkout, "file", str(number))
        await asyncio.wait([noticed], timeout=0.1)


async def test_other_branches_and_other_files_are_not_noticed(open_repository, checkout):
    repository = await open_repository(checkout)
    git(checkout, "branch", "watched")
    seen = []

    async with aclosing(ref_changes(repository, ["refs/heads/watched"])) as changes:
        noticed = asyncio.ensure_future(anext(changes))
        while not noticed.done():
            commit(checkout, "file", str(len(seen)))  # on main
            seen.append(git(checkout, "rev-parse", "main"))
            if len(seen) == 4:
                assert not noticed.done()
            if len(seen) >= 4:
                git(checkout, "branch", "-f", "watched", "main")
            await asyncio.wait([noticed], timeout=0.1)

    assert len(seen) >= 4

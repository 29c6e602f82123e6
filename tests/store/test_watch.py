import asyncio
import os
import struct
from contextlib import aclosing

import pytest

from reconciler.store import watch
from reconciler.store.inotify import folder_changes, has_inotify
from reconciler.store.watch import ref_changes
from tests.store.world import commit, git

pytestmark = pytest.mark.usefixtures("way")
linux = pytest.mark.skipif(not has_inotify(), reason="only Linux tells by itself")


@pytest.fixture(params=["told", "polled"])
def way(request, monkeypatch):
    if request.param == "polled":
        monkeypatch.setattr(watch, "has_inotify", lambda: False)


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


@linux
async def test_a_folder_that_was_removed_and_made_again_is_watched_again(tmp_path):
    def folders():
        return [below if below.is_dir() else tmp_path]

    below = tmp_path / "below"
    below.mkdir()
    async with aclosing(folder_changes(folders)) as changes:
        told = asyncio.ensure_future(anext(changes))
        await asyncio.sleep(0)
        below.rmdir()
        assert await told == str(below)
        assert await anext(changes) is None  # from here on the one above is watched
        below.mkdir()
        assert await anext(changes) == str(below)
        assert await anext(changes) is None
        (below / "new").touch()

        assert await anext(changes) == str(below / "new")


@linux
async def test_what_is_renamed_into_a_watched_folder_is_told_and_what_is_below_it_is_not(tmp_path):
    below = tmp_path / "below"
    below.mkdir()
    (tmp_path / "new.lock").touch()

    async with aclosing(folder_changes(lambda: [tmp_path])) as changes:
        told = asyncio.ensure_future(anext(changes))
        await asyncio.sleep(0)  # it is set up at its first step
        (below / "other").touch()
        (tmp_path / "new.lock").rename(tmp_path / "new")

        assert [await told, await anext(changes)] == [str(tmp_path / "new.lock"), str(tmp_path / "new")]


@linux
async def test_changes_that_the_kernel_could_not_keep_count_as_changes_of_everything(tmp_path, monkeypatch):
    lost = struct.pack("iIII", -1, 0x4000, 0, 0)

    async with aclosing(folder_changes(lambda: [tmp_path])) as changes:
        told = asyncio.ensure_future(anext(changes))
        await asyncio.sleep(0)
        monkeypatch.setattr(os, "read", lambda *_: lost)
        (tmp_path / "one").touch()
        path = await told
        monkeypatch.undo()

    assert path is None


@linux
async def test_a_folder_that_cannot_be_watched_is_an_error_with_its_name(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        await anext(folder_changes(lambda: [tmp_path / "nowhere"]))

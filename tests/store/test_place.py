"""Where a fleet is: a copied folder is told from a moved one, and has a way on."""

import json
import shutil

import pytest

from reconciler.core.errors import UsageError
from reconciler.store.place import adopt_place, note_place, require_own_place, why_copy
from tests.store.world import BRANCH, created, start


@pytest.fixture
async def fleet(open_repository, bare):
    """Return a fleet that was reconciled."""
    await put(open_repository, bare, "a")
    return bare


async def put(open_repository, place, name):
    """Let a reconciler put a task on record in a repository."""
    repository = await open_repository(place)
    require_own_place(repository)
    state = await start(repository)
    await state.load()
    await state.commit([created(name)])
    await state.close()
    note_place(repository)


async def test_a_copy_is_not_reconciled_as_long_as_its_original_is_there(open_repository, fleet, tmp_path):
    shutil.copytree(fleet, tmp_path / "copy.git")

    with pytest.raises(UsageError, match=rf"is a copy of {fleet}, .*adopt-record --copy"):
        await put(open_repository, tmp_path / "copy.git", "b")

    await put(open_repository, fleet, "b")
    shutil.rmtree(fleet)
    await put(open_repository, tmp_path / "copy.git", "b")


async def test_a_fleet_that_was_moved_goes_on_and_is_told_from_its_copies(open_repository, fleet, tmp_path):
    moved = fleet.rename(tmp_path / "moved.git")
    shutil.copytree(moved, fleet)  # a copy where it was before

    await put(open_repository, moved, "b")

    (tmp_path / "link").symlink_to(moved)
    await put(open_repository, tmp_path / "link", "c")
    shutil.copytree(moved, tmp_path / "copy.git")
    assert why_copy(await open_repository(tmp_path / "copy.git"))


async def test_a_copy_that_is_adopted_is_the_fleet_and_its_original_the_copy(
    open_repository, fleet, tmp_path
):
    shutil.copytree(fleet, tmp_path / "copy.git")
    copy = await open_repository(tmp_path / "copy.git")

    assert await adopt_place(copy, BRANCH) == str(fleet)

    await put(open_repository, tmp_path / "copy.git", "b")
    original = await open_repository(fleet)
    assert why_copy(original)
    with pytest.raises(UsageError, match=r"has more on record .*git fetch"):
        await adopt_place(original, BRANCH)
    with pytest.raises(UsageError, match="is no copy"):
        await adopt_place(copy, BRANCH)


async def test_a_copy_is_not_adopted_while_its_original_is_reconciled(
    open_repository, open_state, fleet, tmp_path
):
    shutil.copytree(fleet, tmp_path / "copy.git")
    state = await open_state(await open_repository(fleet))
    await state.load()

    with pytest.raises(UsageError, match=r"a reconciler \(pid \d+\) is at work"):
        await adopt_place(await open_repository(tmp_path / "copy.git"), BRANCH)


@pytest.mark.parametrize(
    "note",
    [
        "[" * 100_000,
        "",
        "[]",
        "{}",
        '{"path": 3, "inode": "x"}',
        "\x00\xff",
        json.dumps({"path": "/nowhere"}),
    ],
)
async def test_a_damaged_note_keeps_nobody_from_going_on(open_repository, fleet, note):
    (fleet / "reconciler-place.json").write_text(note, encoding="latin-1")

    await put(open_repository, fleet, "b")

    assert json.loads((fleet / "reconciler-place.json").read_text())["path"] == str(fleet)

"""Which shard has which task, on a branch of the remote."""

import pytest

from reconciler.core.errors import Conflict, Rewound
from reconciler.core.shards import Owner, Owners
from reconciler.store.bot_commits import bot_git
from reconciler.store.high_water import HighWaterMarks
from reconciler.store.owners import OwnersBranch, OwnersReader
from tests.store.world import BRANCH, created, git, started

A, B = Owner("a", "1" * 40), Owner("b", "2" * 40)


@pytest.fixture
async def registry(open_repository, bare, tmp_path):
    """Return a function that opens the registry for a shard, in a clone of its own."""
    marks = []

    async def opened(shard):
        repository = await open_repository(f"file://{bare}", tmp_path / shard)
        marks.append(HighWaterMarks(repository, tmp_path / shard))
        return OwnersBranch(repository, BRANCH, shard, committer=bot_git(repository.git), marks=marks[-1])

    yield opened
    for each in marks:
        await each.close()


async def test_of_two_shards_that_want_a_task_the_second_is_refused_and_reads_who_was_first(registry):
    one, other = await registry("a"), await registry("b")
    await one.change(None, {}, (), {"a", "b"})
    await other.fetch()
    before = await other.read()

    await one.change(await one.read(), {"x/t": A, "y": A}, (), {"a", "b"})
    with pytest.raises(Conflict):
        await other.change(before, {"x/t": B}, (), {"a", "b"})
    await other.fetch()

    after = await other.read()
    assert after == Owners(after.head, frozenset({"a", "b"}), {"x/t": A, "y": A})
    assert after == await one.read()


async def test_two_shards_that_begin_at_once_begin_one_branch(registry):
    one, other = await registry("a"), await registry("b")

    await one.change(None, {"x": A}, (), {"a"})
    with pytest.raises(Conflict):
        await other.change(None, {"x": B}, (), {"b"})


async def test_what_is_released_is_gone_for_who_reads_on_and_for_who_reads_anew(
    registry,
):
    one, other = await registry("a"), await registry("b")
    await one.change(None, {"x": A, "y/z": B}, (), {"a", "b"})
    await other.fetch()
    await other.read()

    await one.change(await one.read(), {}, {"y/z"}, {"a"})
    await other.fetch()

    read_on = await other.read()
    assert (read_on.tasks, read_on.shards) == ({"x": A}, frozenset({"a"}))
    assert read_on == await OwnersReader(other._repository, BRANCH).read()


async def test_a_fleet_of_one_reconciler_has_no_owners(registry):
    assert await (await registry("a")).read() is None


async def test_a_branch_that_went_back_is_not_believed(registry, bare):
    one = await registry("a")
    await one.change(None, {}, (), {"a"})
    first = git(bare, "rev-parse", f"{BRANCH}.shards")
    await one.change(await one.read(), {"x": A}, (), {"a"})
    await one.read()

    git(bare, "update-ref", f"refs/heads/{BRANCH}.shards", first)
    await one.fetch()

    with pytest.raises(Rewound):
        await one.read()


async def test_a_task_that_comes_back_to_another_shard_is_given_no_attempt_twice(
    registry, open_state, bare, tmp_path
):
    one, url = await registry("a"), f"file://{bare}"
    own = await open_state(url, tmp_path / "own", f"{BRANCH}-a", elsewhere=one.past_attempts)
    state = await open_state(url, tmp_path / "state", f"{BRANCH}-b")
    await state.commit([created("x"), started("x", 2)])
    await one.fetch()
    alone = await own.past_attempts(["x", "y"])
    await one.change(None, {}, (), {"a"})  # b was given up
    first = await own.past_attempts(["x", "y"])
    await state.commit([started("x", 3)])
    await one.fetch()

    assert (alone, first) == ({}, {"x": 2})
    assert await own.past_attempts(["x", "y"]) == {"x": 3}


async def test_what_other_shards_have_on_record_is_read_whoever_owns_it(registry, open_state, bare, tmp_path):
    state = await open_state(f"file://{bare}", tmp_path / "state", f"{BRANCH}-b")
    await state.commit([created("x"), created("y/z")])

    one = await registry("a")

    assert await one.also_recorded(["x", "new"], {"a", "b", "c"}) == {"x": "b"}
    recorded = await one.recorded({"y/z": "b", "new": "b", "x": "c"})
    assert {name: status and status.generation for name, status in recorded.items()} == {
        "y/z": "a1" * 20,
        "new": None,
        "x": None,
    }
    assert await one.all_recorded({"b", "c"}) == {name: Owner("b", "a1" * 20) for name in ("x", "y/z")}

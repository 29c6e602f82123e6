"""A clone of a fleet: what it knows of the record, and that it does not make it its own."""

import shutil

import pytest

from reconciler.core.errors import UsageError
from reconciler.core.names import DEFAULT_SHARD
from reconciler.store.reader import StateReader
from reconciler.store.remote_record import adopt, begin_record, fetched_record, require_own_record, unfetched
from tests.store.world import BRANCH, commit, created, git, start


@pytest.fixture
async def fleet(open_repository, bare):
    """Return a fleet that was run."""
    state = await start(await open_repository(bare))
    await state.load()
    await state.commit([created("a")])
    await state.close()
    return bare


async def more(open_repository, place, *names):
    """Let a reconciler put more on record in a repository."""
    state = await start(await open_repository(place))
    await state.load()
    await state.commit([created(name) for name in names])
    await state.close()


CLONES = {
    "a clone": ["clone"],
    "a remote of another name": ["clone", "--origin", "upstream/eu"],
    "one branch": ["clone", "--single-branch"],
    "no checkout": ["clone", "--no-checkout"],
    "a shallow one": ["clone", "--depth=1", "--no-local"],
    "a bare mirror": ["clone", "--mirror"],
    "a bare one": ["clone", "--bare"],
}


@pytest.fixture(params=CLONES.values(), ids=CLONES)
def clone(request, fleet, tmp_path):
    git(tmp_path, *request.param, "-q", f"file://{fleet}", "clone")
    return tmp_path / "clone"


async def test_no_clone_makes_the_record_its_own(open_repository, clone, fleet):
    with pytest.raises(
        UsageError, match=rf"(the record of this fleet|is a mirror of|is a clone of).*--repo file://{fleet}"
    ):
        await require_own_record(await open_repository(clone), BRANCH)


@pytest.mark.parametrize("args", [["clone"], ["clone", "--origin", "upstream/eu"], ["clone", "--mirror"]])
async def test_nor_does_the_clone_of_a_clone(open_repository, fleet, tmp_path, args):
    git(tmp_path, "clone", "-q", "--origin", "hub/one", f"file://{fleet}", "clone")
    git(tmp_path, *args, "-q", f"file://{tmp_path}/clone", "of-clone")
    last = await open_repository(tmp_path / "of-clone")

    with pytest.raises(UsageError, match=r"is a clone as well.*adopt-record --anew"):
        await require_own_record(last, BRANCH)

    await begin_record(last, BRANCH)
    await require_own_record(last, BRANCH)


async def test_nor_does_any_later_clone(open_repository, fleet, tmp_path):
    for before, after in (("fleet", "first"), ("first", "second"), ("second", "third")):
        place = fleet if before == "fleet" else tmp_path / before
        git(tmp_path, "clone", "-q", f"file://{place}", after)

    with pytest.raises(UsageError, match=r"is a clone as well.*adopt-record --anew"):
        await require_own_record(await open_repository(tmp_path / "third"), BRANCH)


@pytest.mark.parametrize("change", ["remote remove origin", "remote set-url origin {}/empty.git"])
async def test_a_clone_stays_one_when_its_remote_is_another_or_gone(open_repository, fleet, tmp_path, change):
    git(tmp_path, "init", "-q", "--bare", "empty.git")
    git(tmp_path, "clone", "-q", f"file://{fleet}", "clone")
    git(tmp_path / "clone", *change.format(tmp_path).split())
    clone = await open_repository(tmp_path / "clone")

    with pytest.raises(UsageError, match=rf"record of this fleet is at file://{fleet}, .*git remote add"):
        await require_own_record(clone, BRANCH)

    git(tmp_path / "clone", "remote", "add", "before", f"file://{fleet}")
    await adopt(clone, BRANCH, "before")
    git(tmp_path / "clone", "remote", "remove", "before")
    await require_own_record(clone, BRANCH)


async def test_a_clone_of_what_had_no_record_begins_one(open_repository, checkout, tmp_path):
    git(tmp_path, "clone", "-q", "--bare", str(checkout), "template.git")
    git(tmp_path, "clone", "-q", f"file://{tmp_path}/template.git", "clone")
    git(tmp_path / "clone", "remote", "remove", "origin")

    await require_own_record(await open_repository(tmp_path / "clone"), BRANCH)


async def test_a_work_tree_beside_a_clone_is_that_clone(open_repository, fleet, tmp_path):
    git(tmp_path, "clone", "-q", str(fleet), "clone")
    git(tmp_path / "clone", "worktree", "add", "-q", "--detach", str(tmp_path / "beside"))

    with pytest.raises(UsageError, match="adopt-record"):
        await require_own_record(await open_repository(tmp_path / "beside"), BRANCH)


async def test_one_of_several_remotes_that_has_the_record_is_enough(
    open_repository, fleet, checkout, tmp_path
):
    git(tmp_path, "init", "-q", "--bare", "empty.git")
    git(checkout, "remote", "add", "origin", str(tmp_path / "empty.git"))
    repository = await open_repository(checkout)
    await require_own_record(repository, BRANCH)

    git(checkout, "remote", "add", "company", str(fleet))

    with pytest.raises(UsageError, match=r"company .*adopt-record --from company"):
        await require_own_record(repository, BRANCH)


@pytest.mark.parametrize(
    ("ours", "theirs", "message"),
    [
        ([], ["b"], "the one here has not all of it"),
        (["c"], ["b"], "the one here has not all of it"),
        (["c"], [], None),
        ([], [], None),
    ],
)
async def test_a_record_here_counts_if_it_has_all_of_the_remotes(  # noqa: PLR0917 - a table's columns
    open_repository, fleet, tmp_path, ours, theirs, message
):
    git(tmp_path, "clone", "-q", str(fleet), "clone")
    git(tmp_path / "clone", "branch", "-q", BRANCH, f"origin/{BRANCH}")
    repository = await open_repository(tmp_path / "clone")
    if ours:
        await more(open_repository, tmp_path / "clone", *ours)
    if theirs:
        await more(open_repository, fleet, *theirs)

    if message is None:
        await require_own_record(repository, BRANCH, was_here=True)
    else:
        with pytest.raises(UsageError, match=message):
            await require_own_record(repository, BRANCH)


async def test_a_copy_of_what_is_being_served_is_not_served_too(open_repository, open_state, fleet, tmp_path):
    git(tmp_path, "clone", "-q", "--bare", str(fleet), "copy.git")
    repository = await open_repository(tmp_path / "copy.git")
    await require_own_record(repository, BRANCH, was_here=True)

    await open_state(fleet)

    with pytest.raises(UsageError, match=r"a reconciler \(pid \d+\) is at work on it"):
        await require_own_record(repository, BRANCH, was_here=True)


async def test_a_remote_that_does_not_answer_is_taken_at_what_was_fetched(open_repository, fleet, tmp_path):
    git(tmp_path, "clone", "-q", str(fleet), "clone")
    git(tmp_path, "clone", "-q", "--single-branch", str(fleet), "blind")
    shutil.rmtree(fleet)

    with pytest.raises(UsageError, match="everything on record there would be done again"):
        await require_own_record(await open_repository(tmp_path / "clone"), BRANCH)
    with pytest.raises(UsageError, match=r"cannot be asked: .*adopt-record --anew"):
        await require_own_record(await open_repository(tmp_path / "blind"), BRANCH)
    repository = await open_repository(tmp_path / "blind")
    await begin_record(repository, BRANCH)
    await require_own_record(repository, BRANCH)


async def test_a_clone_shows_the_record_as_it_was_fetched(open_repository, fleet, tmp_path):
    git(tmp_path, "clone", "-q", "--origin", "upstream/eu", str(fleet), "clone")
    repository = await open_repository(tmp_path / "clone")

    fetched = await fetched_record(repository, BRANCH)
    repository.look_at(BRANCH, fetched.ref)
    tasks, _ = await StateReader(repository, {DEFAULT_SHARD: BRANCH}).load()

    assert set(tasks) == {"a"}
    assert (fetched.remote, fetched.commit) == ("upstream/eu", git(fleet, "rev-parse", BRANCH))
    assert fetched.at is not None


async def test_a_clone_knows_whether_it_has_anything_of_the_record(open_repository, clone, tmp_path):
    repository = await open_repository(clone)
    known = repository.read_ref(f"refs/heads/{BRANCH}") or await fetched_record(repository, BRANCH)

    assert [each.name for each in await unfetched(repository, BRANCH)] == ([] if known else ["origin"])


async def test_one_that_is_behind_what_was_fetched_is_told_so(open_repository, fleet, tmp_path):
    git(tmp_path, "clone", "-q", str(fleet), "clone")
    git(tmp_path / "clone", "branch", "-q", BRANCH, f"origin/{BRANCH}")
    await more(open_repository, fleet, "b")
    git(tmp_path / "clone", "fetch", "-q")

    with pytest.raises(UsageError, match="the one here is behind it"):
        await require_own_record(await open_repository(tmp_path / "clone"), BRANCH)


@pytest.mark.parametrize("is_ahead", [True, False])
async def test_the_record_here_is_shown_unless_it_is_behind(open_repository, fleet, tmp_path, is_ahead):
    git(tmp_path, "clone", "-q", str(fleet), "clone")
    git(tmp_path / "clone", "branch", "-q", BRANCH, f"origin/{BRANCH}")
    await more(open_repository, tmp_path / "clone" if is_ahead else fleet, "b")
    git(tmp_path / "clone", "fetch", "-q")

    fetched = await fetched_record(await open_repository(tmp_path / "clone"), BRANCH)

    assert (fetched is None) is is_ahead


async def test_a_record_is_adopted_and_gone_on_with(open_repository, fleet, tmp_path):
    git(tmp_path, "clone", "-q", "--single-branch", str(fleet), "clone")
    repository = await open_repository(tmp_path / "clone")

    assert await adopt(repository, BRANCH, None) == git(fleet, "rev-parse", BRANCH)
    await require_own_record(repository, BRANCH, was_here=True)
    await more(open_repository, tmp_path / "clone", "b")

    await require_own_record(repository, BRANCH)
    assert set((await StateReader(repository, {DEFAULT_SHARD: BRANCH}).load())[0]) == {"a", "b"}
    await more(open_repository, fleet, "c")
    with pytest.raises(UsageError, match="different ways"):
        await adopt(repository, BRANCH, "origin")


async def test_a_fleet_without_remotes_or_with_one_that_has_none_is_its_own(
    open_repository, checkout, tmp_path
):
    repository = await open_repository(checkout)
    await require_own_record(repository, BRANCH)
    git(tmp_path, "init", "-q", "--bare", "hub.git")
    git(checkout, "remote", "add", "origin", str(tmp_path / "hub.git"))
    git(checkout, "push", "-q", "origin", "main")

    await require_own_record(repository, BRANCH)

    with pytest.raises(UsageError, match=f"none has a branch {BRANCH}"):
        await adopt(repository, BRANCH, None)
    assert commit(checkout, "specs/tasks/b.yaml", "goal: b\n")

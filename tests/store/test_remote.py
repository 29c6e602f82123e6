import asyncio
import shutil

import pytest

from reconciler.controller.ports import NoMeter
from reconciler.core.errors import Conflict, Refused, Unavailable
from reconciler.git.remote import push
from tests.store.world import BRANCH, commit, created, git, start, started


@pytest.fixture
def url(bare) -> str:
    return f"file://{bare}"


async def test_what_is_acknowledged_is_on_the_remote(open_state, bare, url):
    state = await open_state(url)

    await state.commit([created("a"), started("a")])

    assert git(bare, "log", "--format=%s", BRANCH).splitlines() == [
        "task a: assigned → running",
        "task a: created",
        "fleet: first start",
    ]


async def test_two_reconcilers_on_one_remote_lose_nothing(open_state, bare, url, tmp_path):
    async def work(name: str) -> None:
        state = await open_state(url, tmp_path / name)
        for number in range(6):
            await insist(state, created(f"{name}/t{number}"))

    await asyncio.gather(work("one"), work("two"))

    tasks, _ = await (await open_state(url, tmp_path / "three")).load()
    assert set(tasks) == {f"{name}/t{number}" for name in ("one", "two") for number in range(6)}
    subjects = git(bare, "log", "--format=%s", BRANCH).splitlines()
    assert len(subjects) == len(set(subjects)) == 13
    assert git(bare, "rev-list", "--min-parents=2", BRANCH) == ""
    assert git(bare, "fsck", "--full", "--strict", "--no-dangling") == ""


async def insist(state, transition) -> None:
    """Do as the loop does: after a conflict, load and try again."""
    while True:
        try:
            await state.commit([transition])
        except Conflict:
            await state.load()
        else:
            return


async def test_both_find_the_same_identity_whoever_came_first(open_repository, url, tmp_path):
    repositories = [await open_repository(url, tmp_path / name) for name in ("one", "two")]

    states = await asyncio.gather(
        *(
            start(repository, token=token)
            for repository, token in zip(repositories, ("aaaa", "bbbb"), strict=True)
        )
    )

    assert states[0].fleet_id == states[1].fleet_id
    for state in states:
        await state.close()


async def test_a_silent_remote_keeps_nothing_half_way_and_it_is_recorded_later(
    open_state, bare, url, tmp_path
):
    state = await open_state(url)
    await state.commit([created("a")])
    bare.rename(tmp_path / "away")

    with pytest.raises(Unavailable):
        await state.commit([created("b")])
    with pytest.raises(Unavailable):
        await state.load()
    (tmp_path / "away").rename(bare)
    await state.commit([created("c")])

    assert set((await state.load())[0]) == {"a", "c"}


async def test_a_remote_that_hangs_is_not_waited_for_in_the_end(open_repository, bare, url, tmp_path):
    state = await start(await open_repository(url))
    hook = bare / "hooks" / "pre-receive"
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/pushing\nsleep 600\n")
    hook.chmod(0o755)
    committing = asyncio.create_task(state.commit([created("a")]))
    while not (tmp_path / "pushing").exists():  # noqa: ASYNC110 - of another process
        await asyncio.sleep(0.01)

    await state.close()

    with pytest.raises(TimeoutError):
        await committing
    hook.unlink()
    again = await start(await open_repository(url))
    assert (await again.load())[0] == {}
    await again.close()


async def test_a_remote_that_says_no_is_unavailable_to_the_loop_and_refused_to_a_person(
    open_state, open_repository, bare, url, tmp_path
):
    state = await open_state(url)
    hook = bare / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\necho this branch is protected >&2\nexit 1\n")
    hook.chmod(0o755)

    with pytest.raises(Unavailable, match=r"the remote said no: .*protected"):
        await state.commit([created("a")])
    other = await open_repository(url, tmp_path / "other")
    with pytest.raises(Refused, match="protected"):
        await push(other.network, "origin", git(bare, "rev-parse", "main"), "fresh")


async def test_a_push_that_would_take_something_away_is_a_conflict(open_repository, bare, url, checkout):
    repository = await open_repository(url)
    old = git(bare, "rev-parse", "main")
    commit(checkout, "specs/tasks/b.yaml", "goal: b\n")
    git(checkout, "push", "-q", str(bare), "main")

    with pytest.raises(Conflict, match="somebody else was first"):
        await push(repository.network, "origin", old, "main")


async def test_a_remote_that_lost_the_branch_gets_it_back(open_state, bare, url):
    state = await open_state(url)
    await state.commit([created("a")])
    git(bare, "update-ref", "-d", f"refs/heads/{BRANCH}")

    tasks, _ = await state.load()

    assert set(tasks) == {"a"}
    assert git(bare, "log", "--format=%s", BRANCH).splitlines() == ["task a: created", "fleet: first start"]


async def test_everything_is_rebuilt_when_the_clone_is_deleted(open_repository, bare, url, cache):
    state = await start(await open_repository(url))
    await state.commit([created("a"), started("a")])
    before = await state.load()
    await state.close()

    shutil.rmtree(cache)
    again = await start(await open_repository(url))

    assert await again.load() == before
    assert again.fleet_id == state.fleet_id
    await again.close()


async def test_a_fetch_brings_new_specs_and_takes_away_branches_that_are_gone(
    open_repository, bare, url, checkout
):
    repository = await open_repository(url)
    head = commit(checkout, "specs/tasks/b.yaml", "goal: b\n")
    git(checkout, "push", "-q", str(bare), "main", "main:side")

    await repository.fetch()
    git(bare, "branch", "-q", "-D", "side")
    seen = repository.read_ref(repository.ref("side"))
    await repository.fetch()

    assert repository.read_ref(repository.ref("main")) == seen == head
    assert repository.read_ref(repository.ref("side")) is None


async def test_an_address_may_be_rewritten_by_the_configuration_of_the_person(open_repository, bare, person):
    person.write_text(
        f'{person.read_text()}[url "file://{bare}"]\n\tinsteadOf = https://127.0.0.1:9/fleet.git\n'
    )

    repository = await open_repository("https://127.0.0.1:9/fleet.git")

    assert repository.read_ref(repository.ref("main")) == git(bare, "rev-parse", "main")


class Refusals(NoMeter):
    def __init__(self):
        self.reasons = []

    def push_refused(self, why):
        self.reasons.append(why)


async def test_every_push_that_is_not_taken_is_counted_with_why(
    open_state, open_repository, bare, url, tmp_path
):
    state, refusals = await open_state(url), Refusals()
    state._meter = refusals

    await (await open_state(url, tmp_path / "other")).commit([created("b")])
    with pytest.raises(Conflict):
        await state.commit([created("a")])
    await state.load()
    (bare / "hooks").mkdir(exist_ok=True)
    hook = bare / "hooks/pre-receive"
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    with pytest.raises(Unavailable):
        await state.commit([created("a")])
    hook.unlink()
    bare.rename(bare.with_name("away"))
    with pytest.raises(Unavailable):
        await state.commit([created("a")])

    assert refusals.reasons[:2] == ["conflict", "refused"]
    assert len(refusals.reasons) == 3

"""
Mirrors of code repositories: what comes in is checked, what goes out is wanted.
"""

import asyncio
import shlex
import shutil
from pathlib import Path

import pytest

from reconciler.core.errors import NotFound, Unavailable
from reconciler.core.model.runs import FailureClass
from reconciler.core.model.specs import Repo
from reconciler.dispatch.repos import CodeRepository, _Delivery
from reconciler.dispatch.retrying import StepFailed
from tests.dispatch.world import World, git

NOBODY = "1" * 40


@pytest.fixture
def world(tmp_path) -> World:
    return World(tmp_path / "a world")


@pytest.fixture
def repository(world) -> CodeRepository:
    return mirror_of(world)


def mirror_of(world: World, **fields) -> CodeRepository:
    repo = Repo(**{"name": "code", "url": "code.git"} | fields)
    return CodeRepository(repo, mirrors=world.data / "repos", fleet=world.folder)


def bundle_of(folder: Path, commit: str, base: str) -> bytes:
    """Return a commit as a host would send it."""
    git(folder, "update-ref", "refs/reconciler/done/a.r1", commit)
    git(folder, "bundle", "create", "-q", "work.bundle", "refs/reconciler/done/a.r1", f"^{base}")
    return (folder / "work.bundle").read_bytes()


def commit_in(folder: Path) -> str:
    with (folder / "work").open("a") as work:
        work.write("more\n")
    git(folder, "add", "work")
    git(folder, "commit", "-q", "-m", "Go on")
    return git(folder, "rev-parse", "HEAD")


async def test_work_comes_back_whole(world, repository):
    base = await repository.starting_point(None)
    seed = world.folder / "seed"
    head = commit_in(seed)

    received = await repository.receive(bundle_of(seed, head, base), "a.r1")
    commits = await repository.check(base, received)
    await repository.deliver(received, "task/a", None)
    await repository.deliver(received, "task/a", None)

    assert (received, commits) == (head, 1)
    assert git(world.code, "rev-parse", "task/a") == head


@pytest.mark.parametrize("damage", [slice(0), slice(10), slice(-30)])
async def test_a_damaged_bundle_is_refused(world, repository, damage):
    base = await repository.starting_point(None)
    seed = world.folder / "seed"
    bundle = bundle_of(seed, commit_in(seed), base)

    with pytest.raises(StepFailed, match="the work is refused") as failed:
        await repository.receive(bundle[damage], "a.r1")

    assert failed.value.kind == FailureClass.AGENT


async def test_objects_that_git_would_not_make_are_refused(world, repository):
    base = await repository.starting_point(None)
    seed = world.folder / "seed"
    (seed / "malformed").write_text(
        f"tree {git(seed, 'rev-parse', 'HEAD^{tree}')}\nparent {base}\nno author\n\nx\n"
    )
    args = ("hash-object", "-t", "commit", "-w", "--literally", "malformed")
    bundle = bundle_of(seed, git(seed, *args), base)

    with pytest.raises(StepFailed, match="missing"):
        await repository.receive(bundle, "a.r1")


async def test_work_on_top_of_commits_that_are_not_known_is_refused(world, repository):
    await repository.starting_point(None)
    seed = world.folder / "seed"
    unknown = commit_in(seed)

    with pytest.raises(StepFailed, match="the work is refused"):
        await repository.receive(bundle_of(seed, commit_in(seed), unknown), "a.r1")


async def test_a_commit_to_go_on_from_that_is_gone_is_a_matter_for_a_person(repository):
    with pytest.raises(StepFailed, match=f"commit {NOBODY}") as failed:
        await repository.starting_point(NOBODY)

    assert failed.value.kind == FailureClass.CONFIG


async def test_a_workspace_may_start_from_the_base_branch_and_from_what_it_goes_on_from(world, repository):
    older = await repository.starting_point(None)
    seed = world.folder / "seed"
    commit_in(seed)
    git(seed, "push", "-q", str(world.code), "main")
    await repository.starting_point(None)
    foreign = commit_in(seed)
    git(seed, "push", "-q", str(world.code), "HEAD:refs/heads/task/a")

    await repository.check_base(older, None)
    await repository.check_base(foreign, foreign)
    with pytest.raises(StepFailed, match="is not on 'main'"):
        await repository.check_base(foreign, None)


async def test_a_rewritten_base_branch_is_followed(world, repository):
    before = await repository.starting_point(None)
    seed = world.folder / "seed"
    git(seed, "commit", "-q", "--amend", "-m", "Begin differently")
    git(seed, "push", "-q", "-f", str(world.code), "main")

    after = await repository.starting_point(None)

    assert after == git(seed, "rev-parse", "HEAD") != before


@pytest.mark.parametrize(
    ("hook", "script", "message"),
    [
        (
            "pre-receive",
            "echo the quota is used up >&2; exit 1",
            "the quota is used up .*pre-receive hook declined",
        ),
        ("update", "exit 1", "hook declined"),
        ("update", "echo ticket not found >&2; exit 1", "ticket not found .*the rules of the branch"),
        ("update", "yes be patient and read on | head -n 100 >&2; exit 1", "read on .*hook declined"),
        ("reference-transaction", "exit 1", "aborted by hook"),
        ("update", "touch refs/heads/task/a.lock", "remote rejected"),
    ],
)
async def test_a_push_that_the_forge_declines_is_told_in_its_words(world, repository, hook, script, message):
    base = await repository.starting_point(None)
    place = world.code / "hooks" / hook
    place.parent.mkdir(exist_ok=True)
    place.write_text(f"#!/bin/sh\nmkdir -p refs/heads/task\n{script}\n")
    place.chmod(0o755)

    with pytest.raises(StepFailed, match=message) as failed:
        await repository.deliver(base, "task/a", None)

    assert failed.value.kind == FailureClass.CONFIG


def hook_of(world, script, name="update"):
    place = world.code / "hooks" / name
    place.parent.mkdir(exist_ok=True)
    place.write_text(f"#!/bin/sh\n{script}\n")
    place.chmod(0o755)


async def delivered_together(repository, head, *branches, expected=None):
    """Deliver to branches at the same time; return what came of each."""
    tasks = [
        asyncio.create_task(repository.deliver(head, branch, (expected or {}).get(branch)))
        for branch in branches
    ]
    return await asyncio.gather(*tasks, return_exceptions=True)


async def test_what_goes_together_is_refused_alone(world, repository):
    base = await repository.starting_point(None)
    head = commit_in(world.folder / "seed")
    git(world.folder / "seed", "push", "-q", str(world.code), f"{head}:refs/heads/task/d")
    hook_of(world, "[ $1 != refs/heads/task/b ] || { echo no such ticket >&2; exit 1; }")

    done = await delivered_together(
        repository, base, *(f"task/{name}" for name in "abcdef"), expected={"task/d": base, "task/f": NOBODY}
    )

    assert [type(each) for each in done] == [str, StepFailed, str, StepFailed, str, str]
    assert str(done[1]).startswith(f"repo code: cannot push 'task/b' to {world.code}: ")
    assert "no such ticket" in str(done[1])
    assert str(done[3]) == (
        f"repo code: somebody pushed {head} to branch 'task/d' after {base} was delivered; it is left alone"
    )
    there = git(world.code, "for-each-ref", "--format=%(refname:short) %(objectname)", "refs/heads/task")
    assert there.splitlines() == [f"task/{name} {head if name == 'd' else base}" for name in "acdef"]


async def test_a_push_that_is_never_answered_takes_no_other_with_it(world, repository, monkeypatch):
    async def push(deliveries, *options):
        if any("slow" in each.ref for each in deliveries):
            raise Unavailable("does not answer")
        return await push_together(deliveries, *options)

    push_together = repository._push_together
    monkeypatch.setattr(repository, "_push_together", push)
    base = await repository.starting_point(None)

    done = await delivered_together(repository, base, "task/slow", "task/a", "task/slow2", "task/b")

    assert [done[1], done[3]] == [base, base]
    assert [type(done[0]), type(done[2])] == [Unavailable, Unavailable]


@pytest.mark.parametrize(("url", "pushes"), [("code.git", [8]), ("gitlab/code.git", [3, 3, 2])])
async def test_gitlab_gets_no_push_of_more_branches_than_it_tells_ci_of(world, url, pushes):
    (world.folder / "gitlab").symlink_to(world.code.parent)
    repository = mirror_of(world, url=url)
    base = await repository.starting_point(None)
    hook_of(world, f"wc -l >>{shlex.quote(str(world.folder / 'pushes'))}", "post-receive")

    assert await repository._push_all(
        [_Delivery(f"refs/heads/task/{name}", base, None) for name in "abcdefgh"]
    )

    assert [int(each) for each in (world.folder / "pushes").read_text().split()] == pushes


async def test_a_branch_that_was_tidied_away_after_its_delivery_is_made_anew(world, repository):
    base = await repository.starting_point(None)

    await repository.deliver(base, "task/a", NOBODY)

    assert git(world.code, "rev-parse", "task/a") == base


async def test_work_is_merged_once_the_base_branch_has_it(world, repository):
    base = await repository.starting_point(None)
    head = commit_in(world.folder / "seed")
    await repository.receive(bundle_of(world.folder / "seed", head, base), "a.r1")
    before = await repository.merged([head])

    git(world.folder / "seed", "push", "-q", str(world.code), f"{head}:main")

    assert before == frozenset()
    assert await repository.merged([head, NOBODY]) == {head}


async def test_a_repository_that_cannot_be_reached_is_tried_again_by_the_caller(world):
    with pytest.raises(Unavailable, match="repo code: cannot fetch from"):
        await mirror_of(world, url="http://127.0.0.1:9/code.git").starting_point(None)


async def test_credentials_in_an_address_are_not_told(world):
    with pytest.raises(Unavailable) as failed:
        await mirror_of(world, url="http://me:hush@127.0.0.1:9/code.git").starting_point(None)

    assert "hush" not in str(failed.value)


async def test_a_deleted_mirror_is_made_again(world, repository):
    first = await repository.starting_point(None)
    shutil.rmtree(repository.folder)

    assert await mirror_of(world).starting_point(None) == first


async def test_many_callers_at_once_get_the_same_commit(repository):
    found = await asyncio.gather(*(repository.starting_point(None) for _ in range(8)))

    assert len(set(found)) == 1


async def test_what_work_changes_is_told_from_the_mirror_alone(world, repository):
    base = await repository.starting_point(None)
    seed = world.folder / "seed"
    (seed / "new.txt").write_text("hello\n")
    git(seed, "add", "new.txt")
    head = commit_in(seed)
    await repository.receive(bundle_of(seed, head, base), "a.r1")

    diff = await repository.diff(base, head)

    assert "+++ b/new.txt" in diff
    assert "+hello" in diff
    for missing in (NOBODY, "--output=/tmp/x"):
        with pytest.raises(NotFound):
            await repository.diff(base, missing)

"""A pull request is read as if it were merged, and nothing is changed by that."""

import asyncio

import pytest

from reconciler.core.errors import Conflict, Unavailable
from reconciler.core.model.forge import PullRequestSnapshot
from reconciler.serve.fleet import pull_readers
from reconciler.specs.source import SpecSource
from reconciler.store.merge_preview import PullTree
from tests.fakes import START
from tests.store.world import commit, git


@pytest.fixture
def pull(bare, checkout) -> str:
    """Return the head of pull request 4, as a forge keeps it; main has gone on since."""
    git(checkout, "checkout", "-q", "-b", "side")
    head = commit(checkout, "specs/tasks/b.yaml", "goal: b\n")
    git(checkout, "push", "-q", str(bare), "side:refs/pull/4/head")
    git(checkout, "checkout", "-q", "main")
    commit(checkout, "specs/tasks/c.yaml", "goal: c\n")
    git(checkout, "push", "-q", str(bare), "main")
    git(checkout, "branch", "-q", "-D", "side")
    return head


def base_of(place) -> str:
    return git(place, "rev-parse", "main")


@pytest.mark.parametrize("is_remote", [True, False])
async def test_its_specs_are_those_of_both(open_repository, bare, pull, is_remote):
    tree = PullTree(await open_repository(f"file://{bare}" if is_remote else bare))
    refs = git(bare, "for-each-ref")

    await tree.check_out_merge("refs/pull/4/head", pull, base_of(bare))
    desired = await SpecSource(tree).read({})

    assert sorted(desired.tasks) == ["a", "b", "c"]
    assert git(bare, "for-each-ref") == refs


async def test_the_same_two_commits_are_the_same_revision(open_repository, bare, pull, tmp_path):
    heads = []
    for name in ("one", "other"):
        tree = PullTree(await open_repository(f"file://{bare}", tmp_path / name))
        await tree.check_out_merge("refs/pull/4/head", pull, base_of(bare))
        heads.append(await tree.head())

    assert heads[0] == heads[1]


async def test_one_source_reads_one_after_the_other(open_repository, bare, checkout, pull):
    git(checkout, "checkout", "-q", "-b", "another")
    second = commit(checkout, "specs/tasks/a.yaml", None)
    git(checkout, "push", "-q", str(bare), "another:refs/pull/5/head")
    tree = PullTree(await open_repository(f"file://{bare}"))
    source = SpecSource(tree)

    found = []
    for number, head in ((4, pull), (5, second), (4, pull)):
        await tree.check_out_merge(f"refs/pull/{number}/head", head, base_of(bare))
        found.append(sorted((await source.read({})).tasks))

    assert found == [["a", "b", "c"], ["c"], ["a", "b", "c"]]


async def test_what_others_changed_too_needs_a_person(open_repository, bare, checkout, pull):
    commit(checkout, "specs/tasks/b.yaml", "goal: theirs\n")
    git(checkout, "push", "-q", str(bare), "main")
    tree = PullTree(await open_repository(f"file://{bare}"))

    with pytest.raises(Conflict, match=r"meanwhile: specs/tasks/b\.yaml$"):
        await tree.check_out_merge("refs/pull/4/head", pull, base_of(bare))


async def test_a_head_that_is_not_there_is_looked_for_later(open_repository, bare, checkout, pull):
    tree = PullTree(await open_repository(f"file://{bare}"))

    with pytest.raises(Unavailable, match="moved on from ffff"):
        await tree.check_out_merge("refs/pull/4/head", "f" * 40, base_of(bare))
    with pytest.raises(Unavailable, match="fetch failed"):
        await tree.check_out_merge("refs/pull/99/head", "f" * 40, base_of(bare))


async def test_many_heads_are_fetched_at_once(open_repository, bare, checkout, pull, monkeypatch):
    git(checkout, "checkout", "-q", "-b", "another")
    second = commit(checkout, "specs/tasks/a.yaml", None)
    git(checkout, "push", "-q", str(bare), "another:refs/pull/5/head")
    repository = await open_repository(f"file://{bare}")
    tree, fetched, run = PullTree(repository), [], type(repository.network).run

    async def counted(network, *args, **more):
        fetched.extend(refs for refs in [[arg for arg in args if arg.startswith("refs/")]] if refs)
        return await run(network, *args, **more)

    monkeypatch.setattr(type(repository.network), "run", counted)
    await tree.fetch({"refs/pull/4/head": pull, "refs/pull/5/head": second})
    for number, head in ((4, pull), (5, second)):
        await tree.check_out_merge(f"refs/pull/{number}/head", head, base_of(bare))

    assert fetched == [["refs/pull/4/head", "refs/pull/5/head"]]


async def test_a_head_that_cannot_be_had_holds_up_no_other(open_repository, bare, pull):
    tree = PullTree(await open_repository(f"file://{bare}"))

    await tree.fetch({"refs/pull/4/head": pull, "refs/pull/99/head": "f" * 40})
    await tree.check_out_merge("refs/pull/4/head", pull, base_of(bare))

    assert sorted((await SpecSource(tree).read({})).tasks) == ["a", "b", "c"]


async def test_who_reads_one_waits_for_no_remote_that_is_silent_about_another(
    open_repository, bare, pull, monkeypatch
):
    repository = await open_repository(f"file://{bare}")
    tree, silence = PullTree(repository), asyncio.Event()
    await tree.obtain("refs/pull/4/head", pull)
    read, fetch = pull_readers(repository, lambda desired: desired)

    async def silent(self, refs):
        await silence.wait()

    monkeypatch.setattr(PullTree, "_fetch_refs", silent)
    away = make_pull(5, "f" * 40)
    waiting = [asyncio.create_task(each) for each in (read(away, base_of(bare)), fetch([away]))]
    await asyncio.sleep(0)
    desired = await read(make_pull(4, pull), base_of(bare))
    silence.set()
    answers = await asyncio.gather(*waiting, return_exceptions=True)

    assert sorted(desired.tasks) == ["a", "b", "c"]
    assert isinstance(answers[0], Unavailable)
    assert answers[1] is None


def make_pull(number, head):
    texts = dict.fromkeys(("url", "title", "body", "author", "branch", "base"), "x")
    return PullRequestSnapshot(
        number=number, head=head, ref=f"refs/pull/{number}/head", updated_at=START, **texts
    )

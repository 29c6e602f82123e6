"""What a start remembers of history is what is in it, whatever became of the file."""

import pytest

from reconciler.core.hosts import host_change
from reconciler.core.model.status import HostStatus
from reconciler.store import last_transitions as module
from reconciler.store.last_transitions import LastTransitions, last_transitions, load_last, save_last, up_to
from tests.store.test_state import assigned, removed
from tests.store.world import BRANCH, NOW, created, git, start

BATCHES = (
    [created("a"), created("web/b")],
    [assigned("a", 1)],
    [removed("a", 1), created("a"), assigned("web/b", 1)],
    [assigned("a", 2), removed("a", 2)],
)


@pytest.fixture
def read(monkeypatch):
    """Return the revisions that are read of history."""
    read = []

    async def noted(repository, revisions):
        read.append(revisions)
        return await last_transitions(repository, revisions)

    monkeypatch.setattr(module, "last_transitions", noted)
    return read


async def written(open_repository, bare, kept=None, batches=BATCHES):
    """Write steps, each batch by a reconciler of its own; return the repository."""
    repository = await open_repository(bare)
    for batch in batches:
        state = await start(repository, kept=kept)
        await state.load()
        await state.commit(batch)
        await state.close()
    return repository


async def test_what_is_read_in_two_parts_is_what_is_read_at_once(open_repository, bare):
    repository = await written(open_repository, bare)
    commits = git(bare, "rev-list", BRANCH).split()
    whole = await last_transitions(repository, commits[0])

    for commit in commits:
        known = await last_transitions(repository, commit)
        assert await up_to(repository, commits[0], known) == whole


async def test_a_start_reads_what_is_new_and_remembers_the_rest(open_repository, bare, tmp_path, read):
    kept = tmp_path / "kept.json"

    repository = await written(open_repository, bare, kept)

    assert len(read) == 1  # at the first start
    assert load_last(kept) == await last_transitions(repository, git(bare, "rev-parse", BRANCH))


async def test_after_a_kill_the_next_start_reads_what_was_not_kept(open_repository, bare, tmp_path, read):
    kept = tmp_path / "kept.json"
    await written(open_repository, bare, kept, BATCHES[:2])
    old, head = kept.read_bytes(), git(bare, "rev-parse", BRANCH)
    repository = await written(open_repository, bare, kept, BATCHES[2:3])
    kept.write_bytes(old)
    read.clear()

    await written(open_repository, bare, kept, BATCHES[3:])

    assert [revisions.partition("..")[0] for revisions in read] == [head]
    assert load_last(kept) == await last_transitions(repository, git(bare, "rev-parse", BRANCH))


@pytest.mark.parametrize("content", [b"", b"\n", b"{}", b"0" * 64 + b"\n[]", None])
async def test_a_file_that_is_damaged_or_missing_is_passed_over(open_repository, bare, tmp_path, content):
    kept = tmp_path / "kept.json"
    repository = await written(open_repository, bare, kept, BATCHES[:2])
    kept.write_bytes(kept.read_bytes()[:-5] if content is None else content)
    assert load_last(kept) == LastTransitions()

    await written(open_repository, bare, kept, BATCHES[2:])

    assert load_last(kept) == await last_transitions(repository, git(bare, "rev-parse", BRANCH))


async def test_of_a_branch_that_went_back_all_is_read(open_repository, bare, tmp_path):
    kept = tmp_path / "kept.json"
    repository = await written(open_repository, bare, kept)
    git(bare, "update-ref", f"refs/heads/{BRANCH}", f"{BRANCH}~3")

    await written(open_repository, bare, kept, [[created("c")]])

    last = load_last(kept)
    assert last == await last_transitions(repository, git(bare, "rev-parse", BRANCH))
    assert last.transitions["c"] == last.head


async def test_changes_of_hosts_are_remembered_beside_those_of_tasks(open_repository, bare, tmp_path):
    kept = tmp_path / "kept.json"
    repository = await open_repository(bare)
    state = await start(repository, kept=kept)
    await state.commit([created("a")])
    await state.commit([host_change("far", None, HostStatus(reachable=True, since=NOW), NOW)])

    known = await state.last_host_commits()
    await state.close()

    head = git(bare, "rev-parse", BRANCH)
    assert known == load_last(kept).hosts == {"far": head}


def test_where_it_cannot_be_kept_nothing_is_lost(tmp_path):
    (tmp_path / "file").touch()

    save_last(tmp_path / "file" / "kept.json", LastTransitions("1" * 40))

    assert load_last(tmp_path / "file" / "kept.json") == LastTransitions()

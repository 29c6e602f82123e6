import shutil

import pytest

from reconciler.controller.tree import TreeEntry
from reconciler.core.errors import Refused, Unavailable, UsageError
from reconciler.git.objects import GitTree
from reconciler.git.process import printable_error
from reconciler.git.repository import Repository
from tests.store.world import commit, git


async def test_a_bare_path_a_work_tree_a_folder_in_it_and_a_url_show_the_same_files(
    open_repository, bare, checkout
):
    head = git(checkout, "rev-parse", "HEAD")

    for place in (bare, checkout, checkout / "specs" / "tasks", f"file://{bare}"):
        repository = await open_repository(place)
        tree = GitTree(repository, await repository.specs_branch(None))

        assert await tree.head() == head
        assert set(await tree.files(head, "specs")) == {"specs/tasks/a.yaml"}


async def test_a_linked_work_tree_has_a_head_of_its_own(open_repository, checkout, tmp_path):
    git(checkout, "worktree", "add", "-q", "-b", "side", str(tmp_path / "side"))

    repository = await open_repository(tmp_path / "side")

    assert await repository.specs_branch(None) == "side"
    assert await repository.checkout_of("main") == checkout


@pytest.mark.parametrize(
    "name",
    [
        "refs/tags/main",
        "refs/heads/refs/heads/main",
        "refs/heads/HEAD",
        "refs/remotes/origin/main",
        "refs/heads/heads/main",
    ],
)
async def test_a_ref_of_a_like_name_changes_nothing(open_repository, bare, checkout, name):
    head = git(bare, "rev-parse", "refs/heads/main")
    other = commit(checkout, "specs/tasks/b.yaml", "goal: b\n")
    git(checkout, "push", "-q", str(bare), f"{other}:{name}")
    git(checkout, "reset", "-q", "--hard", head)
    git(checkout, "update-ref", name, other)

    for place in (bare, checkout, f"file://{bare}"):
        repository = await open_repository(place)
        branch = await repository.specs_branch(None)

        assert (branch, await GitTree(repository, branch).head()) == ("main", head)


async def test_a_fleet_of_sha256_is_read_by_its_url_as_by_its_path(open_repository, tmp_path):
    place = tmp_path / "sha256"
    git(tmp_path, "init", "-q", "--object-format=sha256", str(place))
    head = commit(place, "specs/tasks/a.yaml", "goal: a\n")

    for address in (place, f"file://{place}"):
        repository = await open_repository(address)
        tree = GitTree(repository, await repository.specs_branch(None))
        (entry,) = (await tree.files(head, "specs")).values()

        assert (await tree.head(), repository.blob_id(b"goal: a\n")) == (head, entry.blob)


async def test_old_commits_that_git_would_not_make_any_more_are_read_by_url_too(open_repository, bare):
    blob = git(bare, "rev-parse", "main:specs/tasks/a.yaml")
    tree = bytes.fromhex(blob)
    folder = bare.parent / "tree"
    folder.write_bytes(b"0100644 odd\0" + tree)
    odd = git(bare, "hash-object", "-t", "tree", "-w", "--literally", str(folder))
    old = git(bare, "commit-tree", odd, "-m", "Old")
    newest = git(bare, "commit-tree", "main^{tree}", "-p", old, "-m", "New")
    git(bare, "update-ref", "refs/heads/main", newest)

    repository = await open_repository(f"file://{bare}")

    assert await GitTree(repository, "main").head() == newest


@pytest.mark.parametrize(
    "damage",
    [
        ("HEAD", ""),
        ("config", "[oops\n"),
        ("packed-refs", "oops\n"),
        ("shallow.lock", ""),
        ("refs/remotes/origin/main", ""),
        ("refs/remotes/origin/main.lock", ""),
        ("refs", None),
        ("objects", None),
    ],
)
async def test_a_clone_that_is_damaged_is_made_again(open_repository, bare, checkout, cache, damage):
    path, content = damage
    await (await open_repository(f"file://{bare}")).close()
    (clone,) = cache.iterdir()
    if content is None:
        shutil.rmtree(clone / path)
    else:
        (clone / path).write_text(content)
    newest = commit(checkout, "specs/tasks/b.yaml", "goal: b\n")
    git(checkout, "push", "-q", str(bare), "main")

    repository = await open_repository(f"file://{bare}")
    tree = GitTree(repository, await repository.specs_branch(None))

    assert await tree.head() == newest
    assert len(await tree.files(newest, "specs")) == 2


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("/nowhere/at/all", "No such file"),
        ("ext::sh -c 'touch /tmp/x'", "no git repository"),
        ("ftp://127.0.0.1/x", "ftp:// is not supported"),
        ("https://me:hunter2@127.0.0.1/x", "carries a password"),
    ],
)
async def test_a_place_that_cannot_be_a_repository_is_refused_in_words(place, said, cache):
    with pytest.raises(UsageError, match=said) as refused:
        await Repository.open(place, cache)

    assert "hunter2" not in str(refused.value)


async def test_an_empty_repository_a_missing_branch_and_a_detached_head_are_told_apart(
    open_repository, checkout, tmp_path
):
    git(tmp_path, "init", "-q", "--bare", "empty.git")
    empty, full = await open_repository(tmp_path / "empty.git"), await open_repository(checkout)

    with pytest.raises(UsageError, match="it is empty"):
        await empty.specs_branch(None)
    with pytest.raises(UsageError, match="there are: main"):
        await full.specs_branch("mian")
    git(checkout, "checkout", "-q", "--detach")
    with pytest.raises(UsageError, match="HEAD names no branch"):
        await full.specs_branch(None)


async def test_a_remote_that_does_not_exist_is_refused_and_one_that_is_silent_is_unavailable(cache):
    with pytest.raises(Refused, match="check its address"):
        await Repository.open("file:///nowhere/at/all.git", cache)
    with pytest.raises(Unavailable, match="fetch failed"):
        await Repository.open("http://127.0.0.1:9/x.git", cache)


async def test_a_branch_is_found_in_packed_refs_too(open_repository, bare):
    repository = await open_repository(bare)
    loose = repository.read_ref("refs/heads/main")

    git(bare, "pack-refs", "--all")

    assert not (bare / "refs/heads/main").exists()
    assert repository.read_ref("refs/heads/main") == loose
    assert repository.read_ref("refs/heads/mai") is None


async def test_a_branch_that_is_gone_is_unavailable_and_not_an_empty_tree(open_repository, bare):
    tree = GitTree(await open_repository(bare), "gone")

    with pytest.raises(Unavailable, match="no branch 'gone'"):
        await tree.head()


async def test_changes_between_two_commits_name_what_is_new_changed_and_gone(open_repository, checkout):
    old = commit(checkout, "specs/tasks/b.yaml", "goal: b\n")
    commit(checkout, "specs/tasks/b.yaml", None)
    commit(checkout, "specs/tasks/ü x.yaml", "goal: c\n")
    commit(checkout, "other/file", "no spec\n")
    new = commit(checkout, "specs/tasks/a.yaml", "goal: changed\n")
    tree = GitTree(await open_repository(checkout), "main")

    changed = await tree.changed(old, new, "specs")

    files = await tree.files(new, "specs")
    assert changed == {**files, "specs/tasks/b.yaml": None}
    assert await tree.entry(new, "specs/tasks/a.yaml") == files["specs/tasks/a.yaml"]
    assert await tree.entry(new, "specs/tasks") == TreeEntry(
        "040000", git(checkout, "rev-parse", "HEAD:specs/tasks")
    )


async def test_large_blobs_are_cut_and_the_next_ones_are_whole(open_repository, checkout):
    commit(checkout, "large", "x" * 300_000)
    new = commit(checkout, "small", "y" * 10)
    tree = GitTree(await open_repository(checkout), "main")
    files = await tree.files(new, "")
    ids = [files["large"].blob, files["small"].blob, *[files["small"].blob] * 600, files["large"].blob]

    contents = await tree.blobs(ids, limit=100)

    assert contents == {files["large"].blob: b"x" * 101, files["small"].blob: b"y" * 10}


async def test_a_missing_object_is_unavailable_and_reading_goes_on_after_it(open_repository, checkout):
    tree = GitTree(await open_repository(checkout), "main")
    there = (await tree.files("main", ""))["specs/tasks/a.yaml"].blob

    with pytest.raises(Unavailable, match="not in the repository"):
        await tree.blobs([there, "0123" * 10, there], limit=10)

    assert await tree.blobs([there], limit=100) == {there: b"goal: a\n"}


async def test_reading_goes_on_when_the_process_behind_it_was_killed(open_repository, checkout):
    repository = await open_repository(checkout)
    tree = GitTree(repository, "main")
    there = (await tree.files("main", ""))["specs/tasks/a.yaml"].blob
    await tree.blobs([there], limit=100)

    repository.objects._process.kill()
    repository.objects._process.wait()

    assert await tree.blobs([there], limit=100) == {there: b"goal: a\n"}


async def test_earlier_versions_of_a_file_come_newest_first(open_repository, checkout):
    texts = ["goal: 1\n", "goal: 2\n", "goal: 2\n\n", "goal: 3\n"]
    for text in texts:
        head = commit(checkout, "specs/tasks/b.yaml", text)
    repository = await open_repository(checkout)
    tree = GitTree(repository, "main")

    blobs = [repository.blob_id(text.encode()) for text in texts]

    assert await tree.versions(head, "specs/tasks/b.yaml", 9) == [blobs[2], blobs[1], blobs[0]]
    assert await tree.versions(head, "specs/tasks/b.yaml", 1) == [blobs[2]]


async def test_nothing_that_a_repository_configures_is_executed(
    open_repository, open_state, checkout, tmp_path
):
    trap = tmp_path / "trap.sh"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/sprung\n")
    trap.chmod(0o755)
    for hook in ("reference-transaction", "post-index-change", "pre-commit", "post-commit", "pre-auto-gc"):
        (checkout / ".git" / "hooks" / hook).symlink_to(trap)
    for key in (
        "core.fsmonitor",
        "core.pager",
        "core.editor",
        "diff.external",
        "gpg.program",
        "core.sshCommand",
    ):
        git(checkout, "config", key, str(trap))
    for alias in ("log", "rev-parse", "ls-tree", "fast-import"):
        git(checkout, "config", f"alias.{alias}", f"!{trap}")
    git(checkout, "config", "commit.gpgSign", "true")
    (tmp_path / "sprung").unlink(missing_ok=True)

    state = await open_state(checkout)
    tree = GitTree(await open_repository(checkout), "main")
    await tree.files(await tree.head(), "")
    await state.load()

    assert not (tmp_path / "sprung").exists()


def test_what_git_says_is_repeated_without_credentials_and_control_characters():
    said = b"fatal: unable to access 'https://me:hunter2@example.org/x'\r\n\x1b[31mremote: no\x07"

    assert printable_error(said) == "fatal: unable to access 'https://example.org/x' remote: no"
    assert len(printable_error("x" * 5000)) < 700

"""A clone is a copy: whatever is wrong with it, the fleet's next start finds it whole."""

import os
import shutil
import subprocess

import pytest

from reconciler.core.errors import UsageError
from reconciler.core.names import DEFAULT_SHARD
from reconciler.git.objects import GitTree
from reconciler.store.reader import StateReader
from tests.store.world import BRANCH, commit, git, start

WRECKS = {
    "an empty HEAD": lambda clone: (clone / "HEAD").write_bytes(b""),
    "no HEAD": lambda clone: (clone / "HEAD").unlink(),
    "a HEAD of zeros": lambda clone: (clone / "HEAD").write_bytes(b"\0" * 40),
    "a folder for HEAD": lambda clone: ((clone / "HEAD").unlink(), (clone / "HEAD").mkdir()),
    "an empty ref": lambda clone: (clone / "refs/remotes/origin/main").write_bytes(b""),
    "a ref of zeros": lambda clone: (clone / f"refs/remotes/origin/{BRANCH}").write_bytes(b"\0" * 41),
    "an empty line of ours": lambda clone: (clone / f"refs/heads/{BRANCH}").write_bytes(b""),
    "a ref to nothing": lambda clone: (clone / "refs/remotes/origin/main").write_text("d" * 40 + "\n"),
    "a file for a folder of refs": lambda clone: (
        shutil.rmtree(clone / "refs/remotes"),
        (clone / "refs/remotes").write_bytes(b""),
    ),
    "an empty config": lambda clone: (clone / "config").write_bytes(b""),
    "a config that is none": lambda clone: (clone / "config").write_bytes(b"[[[\n"),
    "packed refs that are none": lambda clone: (clone / "packed-refs").write_bytes(b"rubbish\n"),
    "empty objects": lambda clone: [
        (path.chmod(0o600), path.write_bytes(b""))
        for path in (clone / "objects").rglob("*")
        if path.is_file()
    ],
    "no objects": lambda clone: shutil.rmtree(clone / "objects"),
    "a lock that was left behind": lambda clone: _old(clone / "refs/remotes/origin/main.lock"),
    "a lock of the config": lambda clone: _old(clone / "config.lock"),
    "a folder for a lock": lambda clone: _old_folder(clone / "HEAD.lock"),
    "a folder for a lock of a ref": lambda clone: _old_folder(clone / "refs/remotes/origin/main.lock"),
    "a pipe for a ref": lambda clone: os.mkfifo(clone / "refs/heads/pipe"),
    "a pipe for HEAD": lambda clone: ((clone / "HEAD").unlink(), os.mkfifo(clone / "HEAD")),
    "a pipe for the config": lambda clone: ((clone / "config").unlink(), os.mkfifo(clone / "config")),
    "a file in its place": lambda clone: (shutil.rmtree(clone), clone.write_bytes(b"")),
    "a link to nowhere in its place": lambda clone: (shutil.rmtree(clone), clone.symlink_to("/nowhere")),
    "nothing at all": lambda clone: (shutil.rmtree(clone), clone.mkdir()),
}


def _old(path):
    path.write_bytes(b"")
    os.utime(path, (1, 1))


def _old_folder(path):
    (path / "x").mkdir(parents=True)
    os.utime(path, (1, 1))


@pytest.mark.parametrize("wreck", WRECKS.values(), ids=WRECKS)
async def test_whatever_a_power_loss_leaves_of_it_the_clone_is_whole_at_the_next_start(
    open_repository, bare, checkout, cache, wreck
):
    state = await start(await open_repository(f"file://{bare}"))
    await state.close()
    (clone,) = cache.iterdir()
    wreck(clone)
    git(checkout, "push", "-q", str(bare), f"{commit(checkout, 'specs/tasks/b.yaml', 'goal: b')}:main")

    repository = await open_repository(f"file://{bare}")
    again = await start(repository)
    tree = GitTree(repository, "main")
    files = await tree.files(await tree.head(), "specs")
    await again.close()

    assert again.fleet_id == state.fleet_id
    assert set(files) == {"specs/tasks/a.yaml", "specs/tasks/b.yaml"}


async def test_a_ref_that_breaks_while_we_serve_is_mended_by_the_next_fetch(open_repository, bare, cache):
    repository = await open_repository(f"file://{bare}")
    (clone,) = cache.iterdir()
    (clone / "refs/remotes/origin/main").write_bytes(b"")

    await repository.fetch()

    assert repository.read_ref("refs/remotes/origin/main") == git(bare, "rev-parse", "main")


@pytest.fixture
def sha256(tmp_path):
    place = tmp_path / "sha256"
    made = subprocess.run(["git", "init", "-q", "--object-format=sha256", str(place)], check=False)
    if made.returncode:
        pytest.skip("this git knows no SHA-256")
    commit(place, "specs/tasks/a.yaml", "goal: a\n", "specs")
    return place


async def test_a_fleet_that_lacks_part_of_its_history_is_cloned_as_it_is(open_repository, checkout, tmp_path):
    commit(checkout, "specs/tasks/b.yaml", "goal: b\n", "specs")
    shallow = f"file://{tmp_path}/shallow"
    git(tmp_path, "clone", "-q", "--bare", "--depth=1", f"file://{checkout}", "shallow")

    state = await start(await open_repository(shallow))
    await state.close()
    again = await open_repository(shallow)

    assert await again.specs_branch(None) == "main"
    assert await StateReader(again, {DEFAULT_SHARD: BRANCH}).fleet_id("a") == state.fleet_id


async def test_an_empty_fleet_behind_a_url_is_told_as_such(open_repository, tmp_path):
    git(tmp_path, "init", "-q", "--bare", "empty.git")
    repository = await open_repository(f"file://{tmp_path}/empty.git")

    with pytest.raises(UsageError, match="it is empty: commit the specs first"):
        await repository.specs_branch(None)


async def test_a_fleet_behind_a_url_whose_head_leads_nowhere_says_which_branches_there_are(
    open_repository, bare
):
    git(bare, "symbolic-ref", "HEAD", "refs/heads/nowhere")

    with pytest.raises(UsageError, match="there are: main"):
        await (await open_repository(f"file://{bare}")).specs_branch(None)


async def test_a_fleet_with_sha256_is_cloned_as_it_is(open_repository, sha256, cache):
    repository = await open_repository(f"file://{sha256}")
    state = await start(repository)
    await state.close()
    again = await open_repository(f"file://{sha256}")

    entries = await GitTree(again, "main").files(await GitTree(again, "main").head(), "specs")

    assert again.hash_name == "sha256"
    assert entries["specs/tasks/a.yaml"].blob == again.blob_id(b"goal: a\n")
    assert await StateReader(again, {DEFAULT_SHARD: BRANCH}).fleet_id("a") == state.fleet_id

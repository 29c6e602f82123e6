"""
Specs that must be signed: what is acted on, and what is not until somebody vouches for it.
"""

import subprocess

import pytest

from reconciler.core.errors import Unavailable
from reconciler.git.provenance import signature
from reconciler.store.bot_commits import BotCommitter
from reconciler.store.guarded_tree import GuardedTree
from reconciler.store.high_water import HighWaterMarks
from reconciler.store.signed_specs import SignedSpecs
from tests.store.world import commit, git


@pytest.fixture
def key(tmp_path):
    """Return the key of who may sign."""
    return make_key(tmp_path / "key")


@pytest.fixture
def signers(tmp_path, key):
    """Return the file of allowed signers."""
    file = tmp_path / "signers"
    file.write_text(f"test@example.org,reconciler@localhost {key.with_suffix('.pub').read_text()}")
    return file


def make_key(path):
    subprocess.run(["ssh-keygen", "-qt", "ed25519", "-N", "", "-f", path], check=True)
    return path


def sign_with(place, key):
    """Let commits in a work tree be signed with a key; with none, not at all."""
    git(place, "config", "gpg.format", "ssh")
    git(place, "config", "user.signingKey", str(key))
    git(place, "config", "commit.gpgSign", "true" if key else "false")


@pytest.fixture
async def look(open_repository, checkout, signers, tmp_path):
    """Return a function that reads which commit is acted on and why no later one, as a new process would."""

    async def looked():
        repository = await open_repository(checkout)
        marks = HighWaterMarks(repository, tmp_path / "data")
        tree = GuardedTree(repository, "main", marks, signed=SignedSpecs(repository, signers))
        tree.is_acted_on = True
        head = await tree.head()
        await tree.act_on(head)
        await marks.close()
        return head, tree.unsigned

    return looked


async def test_signed_commits_are_acted_on_and_what_follows_an_unsigned_one_is_not(checkout, look, key):
    sign_with(checkout, key)
    first = commit(checkout, "specs/tasks/a.yaml", "goal: b\n", "signed")
    assert await look() == (first, "")

    sign_with(checkout, "")
    commit(checkout, "specs/tasks/a.yaml", "goal: c\n", "not signed")
    sign_with(checkout, key)
    commit(checkout, "specs/tasks/a.yaml", "goal: d\n", "signed, on top")
    head, why = await look()

    assert head == first
    assert "by Test: not signed is not signed by any of" in why
    assert f"`git reset --hard {first[:10]}`" in why


async def test_a_signed_merge_vouches_for_what_it_brings(checkout, look, key):
    sign_with(checkout, key)
    first = commit(checkout, "specs/tasks/a.yaml", "goal: b\n", "signed")
    await look()
    sign_with(checkout, "")
    unsigned = commit(checkout, "specs/tasks/a.yaml", "goal: c\n", "not signed")
    assert (await look())[0] == first

    sign_with(checkout, key)
    git(checkout, "reset", "-q", "--hard", first)
    git(checkout, "merge", "-q", "--no-ff", "-m", "yes", unsigned)

    assert await look() == (git(checkout, "rev-parse", "HEAD"), "")


@pytest.mark.parametrize("is_by_another", [True, False])
async def test_a_first_commit_without_a_good_signature_is_not_acted_on(
    checkout, look, key, tmp_path, is_by_another
):
    sign_with(checkout, make_key(tmp_path / "other") if is_by_another else "")
    commit(checkout, "specs/tasks/a.yaml", "goal: b\n", "mine")

    with pytest.raises(Unavailable, match=r"is not signed by any of .* push one that is signed"):
        await look()


async def test_a_key_that_is_allowed_no_more_signs_nothing_new(checkout, look, key, signers):
    sign_with(checkout, key)
    first = commit(checkout, "specs/tasks/a.yaml", "goal: b\n", "signed")
    await look()

    signers.write_text("")
    commit(checkout, "specs/tasks/a.yaml", "goal: c\n", "signed too late")

    assert (await look())[0] == first


async def test_a_mark_that_others_can_push_does_not_stand_for_a_signature(checkout, look, key):
    sign_with(checkout, key)
    first = commit(checkout, "specs/tasks/a.yaml", "goal: b\n", "signed")
    await look()
    sign_with(checkout, "")
    unsigned = commit(checkout, "specs/tasks/a.yaml", "goal: c\n", "not signed")
    git(checkout, "update-ref", "refs/fleet/specs/main", unsigned)

    assert (await look())[0] == first


async def test_commits_of_the_reconciler_are_signed_with_its_key(
    open_repository, checkout, look, key, signers
):
    sign_with(checkout, key)
    commit(checkout, "specs/tasks/a.yaml", "goal: b\n", "signed")
    await look()
    repository = await open_repository(checkout)

    made = await BotCommitter(repository, "main", key).put(
        {"specs/tasks/b.yaml": "goal: b\n"}, "From an issue"
    )

    assert (await signature(repository.git, made, signers)).is_good
    assert await look() == (made, "")

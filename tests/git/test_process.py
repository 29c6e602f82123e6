import os
import subprocess

import pytest

from reconciler.core.errors import Unavailable
from reconciler.git.checkout import Checkout
from reconciler.git.process import Git, GitFailed
from tests.store.world import commit, git


@pytest.fixture(autouse=True)
def person(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    config = tmp_path / "gitconfig"
    config.write_text("[user]\n\tname = Test\n\temail = test@example.org\n[init]\n\tdefaultBranch = main\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")


@pytest.fixture
def place(tmp_path):
    """Return a work tree whose `origin` is a bare repository."""
    place, origin = tmp_path / "work", tmp_path / "origin.git"
    subprocess.run(["git", "init", "-q", str(place)], check=True)
    commit(place, "a", "1\n")
    subprocess.run(["git", "clone", "-q", "--bare", str(place), str(origin)], check=True)
    git(place, "remote", "add", "origin", str(origin))
    return place


def overrides(made):
    """Return the settings that a git is given, by what they set."""
    message = [word for flag, word in zip(made.options, made.options[1:], strict=False) if flag == "-c"]
    return dict(word.split("=", 1) for word in message)


def test_every_purpose_but_a_persons_own_has_the_same_list(place):
    lists = [
        overrides(made)
        for made in (
            Git.local(place / ".git"),
            Git.networked(place / ".git"),
            Git.nowhere(),
            Git.discovering(place),
        )
    ]

    assert all(each == lists[0] for each in lists)
    assert overrides(Git.workspace(place, {}, timeout=9)) == lists[0] | {"core.logAllRefUpdates": "true"}
    assert overrides(Git.personal(place / ".git")) == {}


async def test_a_work_tree_that_an_agent_wrote_in_starts_no_program_of_its_own(place, tmp_path):
    trap = tmp_path / "trap"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/sprung\n")
    trap.chmod(0o755)
    for hook in ("pre-push", "post-checkout", "reference-transaction"):
        (place / ".git/hooks" / hook).symlink_to(trap)
    git(tmp_path, "clone", "-q", "--bare", str(place), "borrowed.git")
    (place / ".git/objects/info/alternates").write_text(f"{tmp_path}/borrowed.git/objects\n")
    for name in ("core.fsmonitor", "core.alternateRefsCommand", "gpg.program"):
        git(place, "config", name, str(trap))
    git(place, "config", "push.gpgSign", "true")
    (tmp_path / "sprung").unlink(missing_ok=True)
    made = Git.workspace(place, dict(os.environ), timeout=60)

    await made.run("status", "--porcelain")
    await made.run("checkout", "-q", "-B", "task")
    await made.run("push", "-q", "origin", "task:task")
    await made.run("fetch", "-q", "origin")

    assert not (tmp_path / "sprung").exists()


async def test_what_a_hook_says_of_another_repository_leads_nobody_there(place, tmp_path, monkeypatch):
    other = tmp_path / "other"
    git(tmp_path, "init", "-q", str(other))
    for name, value in (("GIT_DIR", ".git"), ("GIT_WORK_TREE", "."), ("GIT_INDEX_FILE", ".git/index")):
        monkeypatch.setenv(name, str(other / value))
    (place / "a").write_text("2\n")

    checkout = Checkout(place)
    checkout.commit("Change a", "a")
    ours = await Git.local(place / ".git").line("rev-parse", "HEAD")

    assert checkout.head() == ours
    assert not checkout.is_touched("a")


async def test_an_exit_code_that_is_not_expected_is_told_in_gits_words(place):
    made = Git.local(place / ".git")

    with pytest.raises(GitFailed, match=r"git rev-parse failed \(128\): fatal: Needed a single revision"):
        await made.run("rev-parse", "--verify", "nothing")
    with pytest.raises(GitFailed, match=r"git diff failed \(128\): fatal: .*nothing"):
        Checkout(place).diff("HEAD", "nothing")
    assert (await made.attempt("rev-parse", "--verify", "-q", "nothing")).code == 1


async def test_without_git_it_says_so(place, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(Unavailable, match="git cannot be started"):
        await Git.local(place / ".git").run("status")

"""
What agents propose waits on branches of a real repository.
"""

import subprocess
from dataclasses import replace

import pytest

from reconciler.api.proposals import Proposals
from reconciler.core.errors import NotNow, UsageError
from reconciler.core.model.specs import FleetSpec
from reconciler.core.views import Elsewhere
from reconciler.git.repository import Repository
from reconciler.specs.edit import edit
from reconciler.store.bot_commits import BotCommitter
from reconciler.wire import ProposalRequest
from tests.api.world import FakeWorld
from tests.fakes import make_desired, make_task

PATH = "specs/tasks/web/idea.yaml"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A fleet's repository with one commit."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    folder = tmp_path / "fleet.git"
    git = ("git", "-c", "user.name=Test", "-c", "user.email=test@example.org")
    subprocess.run([*git, "init", "-q", "--bare", "--initial-branch=main", folder], check=True)
    empty = subprocess.run([*git, "-C", folder, "mktree"], input=b"", capture_output=True, check=True).stdout
    args = ("commit-tree", "-m", "begin", empty.decode().strip())
    commit = subprocess.run([*git, "-C", folder, *args], capture_output=True, check=True).stdout
    subprocess.run([*git, "-C", folder, "update-ref", "refs/heads/main", commit.decode().strip()], check=True)
    return folder


@pytest.fixture
async def proposals(folder, tmp_path):
    async def approve(path, text):
        return ()

    async with await Repository.open(str(folder), tmp_path / "clones") as repository:
        yield Proposals(FakeWorld().controller, BotCommitter(repository, "main"), edit, approve)


@pytest.fixture
def show(folder):
    def show(what):
        done = subprocess.run(["git", "-C", folder, "show", what], capture_output=True, check=True)
        return done.stdout.decode()

    return show


def asked(goal="More.", **fields):
    return ProposalRequest(**{"name": "web/idea", "goal": goal, **fields})


async def test_a_proposal_is_a_file_on_a_branch_of_its_own(proposals, show):
    made = await proposals.propose(asked(validation=("make test",)), "jeeves")

    assert (made.task, made.branch) == ("web/idea", "proposals/web/idea")
    assert (
        show(f"proposals/web/idea:{PATH}")
        == "goal: More.\nvalidation: [make test]\nexecution_mode: http_pull\n"
    )
    assert "Proposed-By: jeeves" in show(made.commit)
    assert show("main:") == "tree main:\n\n"


async def test_the_same_again_is_the_same_proposal(proposals):
    first = await proposals.propose(asked(), "jeeves")
    again = await proposals.propose(asked(), "jeeves")

    assert again == first


@pytest.mark.parametrize("agent", ["jeeves", "hermes"])
async def test_what_a_person_may_be_reading_is_not_replaced(proposals, show, agent):
    made = await proposals.propose(asked("Mend the lock."), "jeeves")

    with pytest.raises(NotNow, match="proposed already"):
        await proposals.propose(asked("Open the lock."), agent)

    assert show(f"{made.branch}:{PATH}") == "goal: Mend the lock.\nexecution_mode: http_pull\n"


async def test_nothing_is_hidden_from_whoever_reads_a_proposal(proposals, show):
    await proposals.propose(
        asked("Tidy\u200b \u202eup\U000e0041.", constraints=("a\u2063\x1b[8mb",)), "jeeves"
    )

    assert (
        show(f"proposals/web/idea:{PATH}") == "goal: Tidy up.\nconstraints: [ab]\nexecution_mode: http_pull\n"
    )


@pytest.mark.parametrize("name", ["../hosts/a", "/a", "a/../b", ".git/a", "a b", "-a", "a.lock", "", "a\n"])
async def test_a_proposal_leads_nowhere_else(proposals, name):
    with pytest.raises(UsageError):
        await proposals.propose(asked(name=name), "jeeves")


async def test_a_task_that_is_there_is_not_proposed_anew(proposals):
    proposals._view.desired = make_desired(make_task("web/idea"))

    with pytest.raises(NotNow, match="there is a task"):
        await proposals.propose(asked(), "jeeves")


async def test_nothing_is_proposed_in_place_of_a_task_of_another_shard(proposals):
    others = Elsewhere(shard="b", desired=make_desired(make_task("web/idea")))
    proposals._view.elsewhere = lambda: others

    with pytest.raises(NotNow, match="there is a task"):
        await proposals.propose(asked(), "jeeves")


async def test_a_proposal_is_for_the_agent_that_is_the_default_where_there_is_one(proposals, show):
    desired = proposals._view.desired
    proposals._view.desired = replace(desired, fleet=FleetSpec(adapter="claude-code"))

    made = await proposals.propose(asked(), "jeeves")

    assert show(f"{made.branch}:{PATH}") == "goal: More.\n"

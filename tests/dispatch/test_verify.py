"""
What outside agents say they finished: looked at, and validated once.
"""

import asyncio
import os
import re
import shutil
from datetime import timedelta

import pytest

from reconciler.core.adapter import Usage
from reconciler.core.errors import Unavailable
from reconciler.core.model.runs import Assignment, Claim, FailureClass, Report
from reconciler.core.model.specs import Host
from reconciler.dispatch.local import LocalTransport
from reconciler.dispatch.protocol import check_key, run_of
from tests.dispatch.sshd import needs_sshd, quick, yard
from tests.dispatch.world import LOCAL, RUN, World, git, needs_of, sweep, until

FAR = Host(name="far", address="127.0.0.1", workdir="far")
"""Reached by a local transport, but treated as another machine: it shares no mirror with us."""
BRANCH = "task/web/fix"
DONE = Claim(outcome="completed", result="All done.\x1b[2J", usage=Usage(input_tokens=7))


@pytest.fixture
def world(tmp_path) -> World:
    world = World(tmp_path / "a world")
    world.transport = LocalTransport(
        world.folder, {"PATH": os.environ["PATH"], "HOME": str(world.folder), "LANG": "C"}
    )
    return world


def assignment(world: World, *validation: str, **fields) -> Assignment:
    values = {
        "run": RUN,
        "epoch": 1,
        "task": "web/fix",
        "title": "Mend it",
        "prompt": "Do it.",
        "repo": world.repo,
        "branch": BRANCH,
        "validation": validation,
        "validate_on": LOCAL if validation else None,
        "review": "none",
        "timeout": timedelta(minutes=1),
    }
    return Assignment(**values | fields)


def push(world: World, path: str = "x", branch: str = BRANCH) -> str:
    """Push a commit as an outside agent would, from a clone of its own; return it."""
    clone = world.folder / "clone"
    if not clone.exists():
        git(world.folder, "clone", "-q", str(world.code), str(clone))
    (clone / path).write_text(f"{path}\n")
    git(clone, "add", ".")
    git(clone, "commit", "-q", "-m", f"Add {path}")
    git(clone, "push", "-q", "-f", "origin", f"HEAD:refs/heads/{branch}")
    return git(clone, "rev-parse", "HEAD")


async def verify(world: World, asked: Assignment, claim: Claim = DONE, **options) -> Report:
    """Verify with a dispatcher that was just started."""
    dispatcher = world.dispatcher(**options)
    try:
        return await dispatcher.verify(asked, claim)
    finally:
        await dispatcher.close()


# --- The branch ----------------------------------------------------------------


async def test_work_that_is_there_is_believed(world):
    base = git(world.code, "rev-parse", "main")
    head = push(world)

    report = await verify(world, assignment(world))

    assert (report.verdict.outcome, report.verdict.text) == ("success", "All done.")
    assert report.verdict.usage == Usage(input_tokens=7)
    assert (report.base_commit, report.head_commit, report.commits) == (base, head, 1)
    assert report.checks == ()


async def test_an_agent_may_name_another_branch(world):
    head = push(world, branch="jeeves/1")

    report = await verify(world, assignment(world), Claim(outcome="completed", branch="jeeves/1"))

    assert report.head_commit == head


@pytest.mark.parametrize(
    ("branch", "message"),
    [
        ("missing", "branch 'missing' is not there; push it and report again"),
        ("main", "branch 'main' is the base branch, .* push your work to 'task/web/fix'"),
        ("same", "branch 'same' has no commits that 'main' does not have; commit your work"),
        ("alien", "has no commit in common with 'main'; start from that branch"),
        ("outside", "touches 'other', outside of the repo's `paths`"),
    ],
)
async def test_work_that_is_not_what_was_asked_for_is_refused_with_words_for_the_agent(
    world, branch, message
):
    world.repo = world.repo.model_copy(update={"paths": ("src/",)})
    push(world, "other", "outside")
    git(world.code, "branch", "same", "main")
    tree = git(world.code, "rev-parse", "main^{tree}")
    git(world.code, "branch", "alien", git(world.code, "commit-tree", "-m", "Alien", tree))

    report = await verify(world, assignment(world), Claim(outcome="completed", result="Done.", branch=branch))

    assert report.verdict.kind == FailureClass.AGENT
    assert re.search(message, report.verdict.message)
    assert (report.verdict.text, report.head_commit) == ("Done.", None)


async def test_work_that_merged_the_base_branch_counts_for_itself_alone(world):
    world.repo = world.repo.model_copy(update={"paths": ("x",)})
    push(world)
    seed = world.folder / "seed"
    (seed / "theirs").write_text("theirs\n")
    git(seed, "add", ".")
    git(seed, "commit", "-q", "-m", "Go on")
    git(seed, "push", "-q", str(world.code), "HEAD:main")
    git(world.folder / "clone", "pull", "-q", "--no-rebase", "--no-edit", "origin", "main")
    git(world.folder / "clone", "push", "-q", "origin", f"HEAD:{BRANCH}")

    report = await verify(world, assignment(world))

    assert (report.verdict.message, report.commits) == ("", 2)
    assert report.base_commit == git(seed, "rev-parse", "HEAD")


# --- After a review ------------------------------------------------------------


async def test_work_goes_on_from_what_was_reviewed(world):
    first = push(world)
    second = push(world, "y")

    report = await verify(world, assignment(world, start_from=first))

    assert (report.base_commit, report.head_commit, report.commits) == (first, second, 1)


async def test_nothing_new_since_the_review_is_no_failure_of_its_own(world):
    head = push(world)

    report = await verify(world, assignment(world, start_from=head))

    assert (report.verdict.outcome, report.head_commit, report.commits) == ("success", head, 0)


async def test_an_empty_commit_since_the_review_is_nothing_new(world):
    head = push(world)
    git(world.folder / "clone", "commit", "-q", "--allow-empty", "-m", "Done as asked")
    git(world.folder / "clone", "push", "-q", "origin", f"HEAD:{BRANCH}")

    report = await verify(world, assignment(world, start_from=head))

    assert (report.verdict.outcome, report.head_commit, report.commits) == ("success", head, 0)


async def test_to_bring_a_reviewed_branch_up_to_date_is_work_whatever_it_changes(world):
    head, seed = push(world), world.folder / "seed"
    (seed / "x").write_text("x\n")
    git(seed, "add", ".")
    git(seed, "commit", "-q", "-m", "The same")
    git(seed, "push", "-q", str(world.code), "HEAD:main")
    git(world.folder / "clone", "pull", "-q", "--no-rebase", "--no-edit", "origin", "main")
    git(world.folder / "clone", "push", "-q", "origin", f"HEAD:{BRANCH}")

    report = await verify(world, assignment(world, start_from=head))

    assert report.commits == 1


@pytest.mark.parametrize("then", ["--allow-empty", "revert"])
async def test_a_branch_whose_commits_change_nothing_is_no_work(world, then):
    push(world)
    clone = world.folder / "clone"
    if then == "revert":
        git(clone, "revert", "--no-edit", "HEAD")
    else:
        git(clone, "reset", "-q", "--hard", "origin/main")
        git(clone, "commit", "-q", "--allow-empty", "-m", "Done")
    git(clone, "push", "-q", "-f", "origin", f"HEAD:{BRANCH}")

    report = await verify(world, assignment(world))

    assert (report.verdict.outcome, report.head_commit, report.commits) == ("success", None, 0)


@pytest.mark.parametrize("branch", ["missing", "same"])
async def test_a_task_that_may_change_nothing_needs_no_branch(world, branch):
    git(world.code, "branch", "same", "main")
    asked = assignment(world, "test -f README", allow_empty=True)

    report = await verify(world, asked, Claim(outcome="completed", branch=branch))

    assert (report.verdict.outcome, report.failed_check) == ("success", None), report
    assert (len(report.checks), report.head_commit, report.commits) == (1, None, 0)


async def test_rewritten_history_is_refused(world):
    reviewed = push(world)
    await verify(world, assignment(world))
    git(world.folder / "clone", "reset", "-q", "--hard", "origin/main")
    push(world, "y")

    report = await verify(world, assignment(world, start_from=reviewed))

    assert report.verdict.kind == FailureClass.AGENT
    assert "history must not be rewritten" in report.verdict.message


# --- Validation ----------------------------------------------------------------


@pytest.mark.parametrize("host", [LOCAL, FAR])
async def test_the_validation_runs_on_the_named_host_once_for_each_commit(world, host):
    head = push(world)
    command = f'{world.note("ran")}; echo "$WHO on $RECONCILER_BRANCH"; git rev-parse HEAD; cat x'
    asked = assignment(world, command, validate_on=host, env={"WHO": "me"})

    first = await verify(world, asked)
    again = await verify(world, asked)
    push(world, "y")
    later = await verify(world, asked)

    assert [check.output for check in first.checks] == [f"me on {BRANCH}\n{head}\nx"]
    assert (first.failed_check, again) == (None, first)
    assert later.head_commit != first.head_commit
    assert world.noted == ["ran", "ran"]


async def test_a_failed_validation_is_told_as_that_of_a_run(world):
    head = push(world)

    report = await verify(world, assignment(world, "true", "echo oops; exit 3", world.note("never")))

    assert (report.verdict.outcome, report.head_commit) == ("success", head)
    assert [(check.exit_code, check.output) for check in report.checks] == [(0, ""), (3, "oops")]
    assert world.noted == []


async def test_validation_that_was_under_way_at_a_restart_is_waited_for(world):
    push(world)
    gate = world.folder / "gate"
    command = f"{world.note('ran')}; while ! test -e '{gate}'; do sleep 0.05; done; echo x >junk"
    asked = assignment(world, command, "test -f junk")
    before = world.dispatcher()
    waiting = asyncio.create_task(before.verify(asked, DONE))
    await until(lambda: world.noted)
    waiting.cancel()
    await asyncio.wait([waiting])
    await before.close()

    after = asyncio.create_task(verify(world, asked))
    await asyncio.sleep(0.1)
    gate.touch()
    report = await after

    assert [check.exit_code for check in report.checks] == [0, 0]
    assert world.noted == ["ran"]


async def test_work_that_was_refused_is_not_validated(world):
    push(world, branch="other")

    report = await verify(world, assignment(world, world.note("ran")))

    assert report.verdict.kind == FailureClass.AGENT
    assert world.noted == []


async def test_what_validation_printed_is_found_among_the_logs_of_the_run(world):
    head = push(world)

    await verify(world, assignment(world, "echo checked"))

    ((label, path),) = world.dispatcher().logs.paths(RUN)
    assert label == f"validation of {head[:12]}"
    assert path.read_text() == "$ echo checked\nchecked\n"


async def test_what_validation_left_stays_as_long_as_its_task_is_open(world):
    push(world)
    asked = assignment(world, world.note("ran"))
    await verify(world, asked)

    await sweep(world, needs_of(RUN))
    await verify(world, asked)
    kept = sorted(path.name for path in (world.folder / "f1/work").iterdir())
    await sweep(world, needs_of())

    assert world.noted == ["ran"]
    assert [run_of(name) for name in kept] == [RUN]
    assert list((world.folder / "f1/work").iterdir()) == []
    assert [path for path in (world.folder / "f1/runs").iterdir() if path.is_dir()] == []


def test_what_is_kept_of_a_check_belongs_to_its_run():
    key = check_key(RUN, "0123456789abcdef" * 3)

    assert run_of(key.replace("/", "+")) == RUN
    assert run_of(f"{key.replace('/', '+')}.r1v") == RUN


# --- Without a repo -------------------------------------------------------------


async def test_without_a_repo_an_agent_is_taken_at_its_word(world):
    report = await verify(world, assignment(world, repo=None))

    assert (report.verdict.outcome, report.head_commit, report.commits) == ("success", None, 0)


# --- Trouble ---------------------------------------------------------------------


async def test_a_repository_that_is_away_is_no_failure(world):
    world.repo = world.repo.model_copy(update={"url": "http://127.0.0.1:9/code.git"})

    with pytest.raises(Unavailable, match="repo code: cannot fetch"):
        await verify(world, assignment(world))


async def test_a_host_that_cannot_do_it_is_no_failure_of_the_agent(world):
    push(world)
    tools = world.folder / "tools"
    tools.mkdir()
    for tool in ("sh", "mkdir", "cat", "rm", "mv", "chmod"):
        (tools / tool).symlink_to(shutil.which(tool) or "")
    world.transport = LocalTransport(world.folder, {"PATH": str(tools), "HOME": str(world.folder)})

    with pytest.raises(Unavailable, match="git is not installed"):
        await verify(world, assignment(world, "true", validate_on=FAR))


@needs_sshd[0]
@needs_sshd[1]
async def test_a_host_without_a_way_to_the_code_repository_validates_over_ssh(tmp_path):
    with yard(tmp_path / "servers") as servers:
        server = servers.sshd()
        host, transports = server.host(), quick()
        world = World(tmp_path / "a world")
        world.transport = transports(host)
        push(world)
        asked = assignment(world, world.note("ran"), "test -f x", validate_on=host)

        report = await verify(world, asked)
        again = await verify(world, asked)
        await transports.close()
        away = quick()
        world.transport = away(host.model_copy(update={"port": 9}))
        push(world, "y")
        with pytest.raises(Unavailable, match="host h1"):
            await verify(world, asked)
        await away.close()

    assert [check.exit_code for check in report.checks] == [0, 0]
    assert again == report
    assert world.noted == ["ran"]


async def test_work_with_a_token_in_it_is_not_taken_from_an_outside_agent(world):
    token = "ghp_" + "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7bC0eF3hI6"
    push(world, token)

    report = await verify(world, assignment(world, "true"))

    assert "the name of '***" in report.failed_check.output
    assert report.head_commit is None
    assert token not in report.model_dump_json()

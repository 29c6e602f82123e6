"""
Work whose base branch moved meanwhile: merged, replayed, or given back to its agent.
"""

import os
import shutil

import pytest

from reconciler.core.model.runs import FailureClass, RunRequest
from reconciler.core.model.specs import Host
from reconciler.dispatch.local import LocalTransport
from reconciler.dispatch.merging import MergeConflict
from reconciler.dispatch.repos import CodeRepository
from reconciler.dispatch.retrying import StepFailed
from tests.dispatch.sshd import needs_sshd, quick, yard
from tests.dispatch.world import LOCAL, World, git

FAR = Host(name="far", address="127.0.0.1", workdir="far")
"""Reached by a local transport, but treated as another machine: it shares no mirror with us."""
BRANCH = "task/web/fix"
MERGE = "git merge -q origin/main"
RESOLVE = f"{MERGE} || {{ echo both >README && git commit -qam 'Bring both together'; }}"


@pytest.fixture
def world(tmp_path) -> World:
    world = World(tmp_path / "a world")
    world.transport = LocalTransport(
        world.folder, {"PATH": os.environ["PATH"], "HOME": str(world.folder), "XDG_DATA_HOME": "nowhere"}
    )
    return world


def rule(world: World, base_moved: str, **fields) -> None:
    world.repo = world.repo.model_copy(update={"base_moved": base_moved, **fields})


def move(world: World, path: str = "theirs", text: str = "theirs\n") -> str:
    """Let somebody push to the base branch; return the commit."""
    seed = world.folder / "seed"
    (seed / path).parent.mkdir(exist_ok=True)
    (seed / path).write_text(text)
    git(seed, "add", ".")
    git(seed, "commit", "-q", "-m", f"Change {path}")
    git(seed, "push", "-q", str(world.code), "HEAD:main")
    return git(seed, "rev-parse", "HEAD")


def older(world: World, script: str, **fields) -> RunRequest:
    """Return an order that starts from the base branch as it was at first."""
    first = git(world.code, "rev-list", "--max-parents=0", "main")
    return world.order(script, start_from=first, **fields)


def on_branch(world: World, form: str) -> str:
    return git(world.code, "log", "-1", f"--format={form}", BRANCH)


def text(world: World, path: str) -> str:
    return git(world.code, "show", f"{BRANCH}:{path}")


# --- By the rule of the repo -------------------------------------------------


@pytest.mark.parametrize("host", [LOCAL, FAR])
@pytest.mark.parametrize("push", ["reconciler", "host"])
async def test_work_is_merged_with_a_base_branch_that_moved(world, host, push):
    rule(world, "merge", push=push)
    newest = move(world)

    report = await world.carry_out(older(world, "echo x >x", host=host, validation=("test ! -e theirs",)))

    work, base = on_branch(world, "%P").split()
    assert (report.verdict.message, report.failed_check, report.commits) == ("", None, 1)
    assert report.head_commit == git(world.code, "rev-parse", BRANCH)
    assert base == newest
    assert git(world.code, "log", "-1", "--format=%an", work) == "script"
    assert (text(world, "x"), text(world, "theirs")) == ("x", "theirs")
    assert on_branch(world, "%an <%ae>|%cn|%s") == (
        "reconciler <reconciler@reconciler.invalid>|reconciler|Merge branch 'main' into task/web/fix"
    )


@pytest.mark.parametrize("host", [LOCAL, FAR])
async def test_work_is_replayed_with_its_authors_times_and_messages(world, host):
    rule(world, "rebase")
    newest = move(world)
    script = (
        "echo a >a; git add a; GIT_AUTHOR_DATE='2029-05-06T07:08:09+0200' "
        "git -c user.name=Ümit -c user.email=u@example.org commit -qm 'One\n\nwith a body'; echo b >b"
    )

    report = await world.carry_out(older(world, script, host=host))

    one = git(world.code, "log", "-1", "--format=%an <%ae>|%aI|%cn|%s|%b", f"{BRANCH}~1")
    assert report.commits == 2
    assert one == "Ümit <u@example.org>|2029-05-06T07:08:09+02:00|Ümit|One|with a body"
    assert git(world.code, "rev-parse", f"{BRANCH}~2") == newest
    assert (text(world, "a"), text(world, "b"), text(world, "theirs")) == ("a", "b", "theirs")


async def test_what_the_base_branch_has_by_now_is_not_replayed_but_an_empty_commit_is(world):
    rule(world, "rebase")
    move(world)
    script = (
        "echo theirs >theirs; git add .; git commit -qm Same; "
        "git commit -q --allow-empty -m Empty; echo x >x; git add .; git commit -qm More"
    )

    await world.carry_out(older(world, script))

    assert git(world.code, "log", "--format=%s", "main..task/web/fix").splitlines() == ["More", "Empty"]


async def test_work_with_merges_of_its_own_is_merged_where_replaying_would_lose_them(world):
    rule(world, "rebase")
    newest = move(world)
    script = (
        "git checkout -qb side; echo a >a; git add .; git commit -qm Aside; git checkout -q -; "
        "git merge -q --no-ff -m Join side"
    )

    await world.carry_out(older(world, script))

    assert on_branch(world, "%P").split()[1] == newest
    assert text(world, "a") == "a"


@pytest.mark.parametrize("base_moved", ["leave", "merge", "rebase"])
async def test_work_on_the_newest_base_is_delivered_as_it_is(world, base_moved):
    rule(world, base_moved)

    await world.carry_out(world.order("echo x >x; git add x; git commit -qm Mine"))

    assert git(world.code, "log", "--format=%s", BRANCH).splitlines() == ["Mine", "Begin"]


async def test_work_is_left_where_it_is_unless_the_repo_says_otherwise(world):
    move(world)

    await world.carry_out(older(world, "echo x >x"))

    assert git(world.code, "log", "--format=%s", BRANCH).splitlines() == ["Mend it", "Begin"]


@pytest.mark.parametrize("base_moved", ["merge", "rebase"])
async def test_no_merge_driver_runs_on_our_machine(world, base_moved, monkeypatch):
    (world.folder / "attributes").write_text("* merge=evil\n")
    (settings := world.folder / "settings").write_text(
        f'[core]\n\tattributesFile = "{world.folder}/attributes"\n'
        f'[merge "evil"]\n\tdriver = "touch \'{world.journal}\'"\n'
    )
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
    rule(world, base_moved)
    move(world, "README", "theirs\nhello\n")

    await world.carry_out(older(world, "echo more >>README"))

    assert not world.journal.exists()
    assert text(world, "README") == "theirs\nhello\nmore"


@pytest.mark.parametrize("base_moved", ["leave", "merge", "rebase"])
async def test_work_on_top_of_other_work_is_left_there_until_that_is_on_the_base_branch(world, base_moved):
    rule(world, base_moved)
    first = await world.carry_out(world.order("echo x >x", branch="task/first"))
    move(world)
    stacked = {"start_from": first.head_commit, "stack": first.head_commit}

    then = await world.carry_out(world.order("cat x; echo y >y", run="web/then.g12345678.a1", **stacked))

    assert (then.verdict.message, then.commits) == ("", 1)
    assert git(world.code, "rev-parse", f"{BRANCH}~1") == first.head_commit
    assert (text(world, "x"), text(world, "y")) == ("x", "y")


# --- Again, after a crash --------------------------------------------------------


@pytest.mark.parametrize("base_moved", ["merge", "rebase"])
@pytest.mark.parametrize("is_mirror_lost", [False, True])
async def test_a_delivery_that_is_made_again_is_found_delivered(world, base_moved, is_mirror_lost):
    rule(world, base_moved)
    move(world)
    order = older(world, "echo x >x", host=FAR)
    first = await world.carry_out(order)
    move(world, "later")
    if is_mirror_lost:
        shutil.rmtree(world.data / "repos")

    again = await world.carry_out(order)

    assert again == first
    assert again.head_commit == git(world.code, "rev-parse", BRANCH)


async def test_a_delivery_that_is_made_again_after_its_merge_is_left_alone(world):
    rule(world, "merge")
    order = world.order("echo x >x")
    first = await world.carry_out(order)
    git(world.code, "update-ref", "refs/heads/main", first.head_commit or "")
    move_on = world.folder / "seed"
    git(move_on, "pull", "-q", str(world.code), "main")
    move(world, "later")

    assert await world.carry_out(order) == first


async def test_merged_work_whose_branch_was_tidied_away_is_not_merged_again(world):
    rule(world, "merge")
    move(world)
    order = older(world, "echo x >x")
    first = await world.carry_out(order)
    git(world.code, "update-ref", "refs/heads/main", first.head_commit or "")
    git(world.code, "update-ref", "-d", f"refs/heads/{BRANCH}")

    again = await world.carry_out(order)

    repository = CodeRepository(world.repo, mirrors=world.data / "repos", fleet=world.folder)
    assert again.verdict.outcome == "success"
    assert await repository.merged([again.head_commit or ""]) == {again.head_commit}


# --- Conflicts -------------------------------------------------------------------


@pytest.mark.parametrize("host", [LOCAL, FAR])
@pytest.mark.parametrize("base_moved", ["merge", "rebase"])
async def test_a_conflict_is_a_round_for_the_agent_which_finds_the_base_branch_in_its_workspace(
    world, host, base_moved
):
    rule(world, base_moved)
    move(world, "README", "theirs\n")

    first = await world.carry_out(older(world, "echo mine >README", host=host, validation=("true",)))
    before = git(world.code, "for-each-ref", f"refs/heads/{BRANCH}")
    newest = move(world)
    second = await world.carry_out(older(world, RESOLVE, host=host, number=2, validation=("true",)))

    passed, clash = first.checks
    assert (first.verdict.outcome, passed.exit_code, first.head_commit) == ("success", 0, None)
    assert first.failed_check == clash
    assert (clash.command, clash.exit_code) == ("git merge origin/main", 1)
    assert clash.output.splitlines() == [
        "main has moved, and changes the same as this work. Conflicts in:",
        "README",
    ]
    assert before == ""
    assert (second.failed_check, second.commits) == (None, 2)
    assert on_branch(world, "%s|%P").endswith(newest)
    assert (text(world, "README"), text(world, "theirs")) == ("both", "theirs")


async def test_a_conflict_that_is_not_mended_is_told_again(world):
    rule(world, "merge")
    move(world, "README", "theirs\n")

    first = await world.carry_out(older(world, "echo mine >README"))
    second = await world.carry_out(older(world, "true", number=2))

    assert second.checks == first.checks != ()


def test_files_with_conflicts_are_named_on_a_line_each_and_harmlessly():
    check = MergeConflict(["a\nb\x1b[2J", *map(str, range(99))]).check("main")

    lines = check.output.splitlines()
    assert lines[1:3] == ["a b", "0"]
    assert lines[-1] == "and 50 more"
    assert len(lines) == 52


@pytest.mark.parametrize("answer", ["git checkout -q --ours README; git add README", "echo both >README"])
async def test_a_merge_that_the_agent_left_uncommitted_goes_back_to_it(world, answer):
    rule(world, "merge")
    newest = move(world, "README", "theirs\n")
    await world.carry_out(older(world, "echo mine >README"))

    left = await world.carry_out(older(world, f"{MERGE}; {answer}", number=2))
    report = await world.carry_out(older(world, "git commit -q -a -m Both", number=3))

    assert left.failed_check is not None
    assert "A merge is under way" in left.failed_check.output
    assert report.failed_check is None
    assert on_branch(world, "%s|%P").split("|")[1].split()[1] == newest


# --- Paths -----------------------------------------------------------------------


async def test_what_a_merge_brings_in_is_not_held_against_the_agent(world):
    rule(world, "leave", paths=("src/",))
    move(world, "docs/guide", "read me\n")

    report = await world.carry_out(older(world, f"echo x >src/x; git add .; git commit -qm Mine; {MERGE}"))

    assert (report.verdict.message, report.commits) == ("", 2)


async def test_what_the_agent_changes_in_a_merge_is(world):
    rule(world, "leave", paths=("src/",))
    move(world, "docs/guide", "read me\n")
    script = f"echo x >src/x; git add .; git commit -qm Mine; {MERGE}; echo mine >docs/guide"

    report = await world.carry_out(older(world, script))

    assert report.verdict.kind == FailureClass.AGENT
    assert "touches 'docs/guide'" in report.verdict.message


# --- Reviews ---------------------------------------------------------------------


async def test_a_review_round_that_changes_nothing_stands_where_it_stood(world):
    rule(world, "merge")
    first = await world.carry_out(world.order("echo x >x"))
    move(world)
    head = first.head_commit

    order = world.order("true", run="web/fix.g12345678.a2", start_from=head, expected_head=head)
    report = await world.carry_out(order)

    assert (report.verdict.outcome, report.commits, report.head_commit) == ("success", 0, head)
    assert git(world.code, "rev-parse", BRANCH) == head


@pytest.mark.parametrize("host", [LOCAL, FAR])
async def test_a_review_round_finds_the_newest_base_branch_in_its_workspace(world, host):
    first = await world.carry_out(world.order("echo x >x", host=host))
    newest = move(world)
    head = first.head_commit

    script = "git rev-parse origin/main; echo y >y"
    order = world.order(script, run="web/fix.g12345678.a2", start_from=head, expected_head=head, host=host)
    report = await world.carry_out(order)

    assert report.verdict.text.strip() == newest
    assert (report.base_commit, report.commits) == (head, 1)


async def test_a_lock_that_a_kill_left_in_the_workspace_is_in_nobodys_way(world):
    lock = ".git/refs/remotes/origin/main.lock"
    first = await world.carry_out(world.order(f"echo x >x; : >{lock}; test -e {lock} && echo locked"))
    newest, head = move(world), first.head_commit

    order = world.order("git rev-parse origin/main; echo y >y", number=2, expected_head=head)
    report = await world.carry_out(order)

    assert first.verdict.text.strip() == "locked"
    assert (report.verdict.outcome, report.verdict.text.strip()) == ("success", newest)


@pytest.mark.parametrize("base_moved", ["merge", "rebase"])
async def test_the_work_of_a_review_round_is_brought_up_to_the_base_branch_too(world, base_moved):
    rule(world, base_moved)
    head = (await world.carry_out(world.order("echo x >x"))).head_commit
    move(world)

    order = world.order("echo y >y", run="web/fix.g12345678.a2", start_from=head, expected_head=head)
    report = await world.carry_out(order)
    again = await world.carry_out(order)

    assert (report.verdict.message, again) == ("", report)
    assert report.head_commit == git(world.code, "rev-parse", BRANCH)
    assert (text(world, "x"), text(world, "y"), text(world, "theirs")) == ("x", "y", "theirs")


@pytest.mark.parametrize("base_moved", ["leave", "merge", "rebase"])
async def test_a_push_of_somebody_else_is_named_and_left_alone(world, base_moved):
    rule(world, base_moved)
    head = (await world.carry_out(world.order("echo x >x"))).head_commit
    seed = world.folder / "seed"
    git(seed, "pull", "-q", str(world.code), BRANCH)
    git(seed, "commit", "-q", "--allow-empty", "-m", "Help")
    git(seed, "push", "-q", str(world.code), f"HEAD:{BRANCH}")
    pushed = git(seed, "rev-parse", "HEAD")

    order = world.order("echo y >y", run="web/fix.g12345678.a2", start_from=head, expected_head=head)
    report = await world.carry_out(order)

    assert (report.verdict.outcome, report.head_commit, report.touched) == ("failed", None, pushed)
    assert f"somebody pushed {pushed}" in report.verdict.message
    assert "the work is kept" in report.verdict.message
    assert git(world.code, "rev-parse", BRANCH) == pushed


async def test_a_push_in_the_moment_of_ours_is_named_too(world):
    repository = CodeRepository(world.repo, mirrors=world.data / "repos", fleet=world.folder)
    base = await repository.newest()
    pushed = move(world)
    git(world.code, "update-ref", "refs/heads/task/a", base)

    async def push(commit: str, ref: str, expected: str | None) -> str:
        git(world.code, "update-ref", ref, pushed)
        return "! [rejected] task/a (stale info)"

    with pytest.raises(StepFailed, match="somebody pushed") as failed:
        await repository.deliver("1" * 40, "task/a", base, push)

    assert failed.value.touched == pushed


async def test_a_branch_that_was_there_before_is_nobodys_touch(world):
    git(world.code, "update-ref", f"refs/heads/{BRANCH}", git(world.code, "rev-parse", "main"))

    report = await world.carry_out(world.order("echo x >x"))

    assert (report.verdict.kind, report.touched) == (FailureClass.CONFIG, None)


# --- Over SSH --------------------------------------------------------------------


@needs_sshd[0]
@needs_sshd[1]
async def test_a_conflict_is_mended_on_a_host_that_has_no_way_to_the_code_repository(tmp_path):
    with yard(tmp_path / "servers") as servers:
        host, transports = servers.sshd().host(), quick()
        world = World(tmp_path / "a world")
        world.transport = transports(host)
        rule(world, "merge")
        newest = move(world, "README", "theirs\n")

        first = await world.carry_out(older(world, "echo mine >README", host=host), patience=30)
        second = await world.carry_out(older(world, RESOLVE, host=host, number=2), patience=30)
        await transports.close()

    assert first.failed_check
    assert (second.verdict.message, second.failed_check) == ("", None)
    assert on_branch(world, "%P").split()[1] == newest
    assert text(world, "README") == "both"

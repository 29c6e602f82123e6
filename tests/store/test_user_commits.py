import asyncio

import pytest

from reconciler.core.errors import Conflict, Refused, Unavailable, UsageError
from reconciler.store.user_commits import commit_file, remove_files
from tests.store.world import commit, git

PATH = "specs/tasks/a.yaml"
NEW = "goal: a\ndesired: suspended\n"


def show(place, rev="main", path=PATH) -> str:
    return git(place, "show", f"{rev}:{path}")


async def test_in_a_checkout_the_file_is_edited_and_committed_with_hooks_and_nothing_else(
    open_repository, checkout
):
    (checkout / "draft").write_text("mine\n")
    (checkout / "other").write_text("staged\n")
    git(checkout, "add", "other")
    hook = checkout / ".git/hooks/commit-msg"
    hook.write_text('#!/bin/sh\necho "Signed-off-by: Test" >> "$1"\n')
    hook.chmod(0o755)

    made = await commit_file(await open_repository(checkout), "main", PATH, NEW, "Suspend a", push=False)

    assert (checkout / PATH).read_text() == NEW
    assert git(checkout, "rev-parse", "main") == made
    assert git(checkout, "show", "--name-only", "--format=%an %ae%n%B", made).splitlines() == [
        *("Test test@example.org", "Suspend a", "Signed-off-by: Test", "", "", PATH)
    ]
    assert git(checkout, "status", "--porcelain").splitlines() == ["A  other", "?? draft"]


async def test_a_file_is_made_and_removed_in_a_checkout(open_repository, checkout):
    repository = await open_repository(checkout)

    await commit_file(repository, "main", "specs/tasks/new/b.yaml", NEW, "Add b", push=False)
    await commit_file(repository, "main", PATH, None, "Remove a", push=False)

    assert git(checkout, "ls-tree", "-r", "--name-only", "main") == "specs/tasks/new/b.yaml"
    assert git(checkout, "status", "--porcelain") == ""


async def test_many_files_are_removed_in_one_commit_and_nothing_else(open_repository, checkout):
    other = "specs/tasks/web/b.yaml"
    commit(checkout, other, "goal: b\n")
    (checkout / "draft").write_text("mine\n")
    git(checkout, "add", "draft")

    made = await remove_files(await open_repository(checkout), "main", [PATH, other], "Archive", push=False)

    assert git(checkout, "diff", "--name-status", f"{made}^", made).split() == ["D", PATH, "D", other]
    assert git(checkout, "status", "--porcelain") == "A  draft"


async def test_files_are_removed_where_nothing_is_checked_out(open_repository, bare):
    made = await remove_files(await open_repository(bare), "main", [PATH], "Archive", push=False)

    assert git(bare, "ls-tree", "-r", "--name-only", made) == ""


async def test_of_files_of_which_one_is_being_edited_none_is_removed(open_repository, checkout):
    commit(checkout, "specs/tasks/b.yaml", "goal: b\n")
    (checkout / PATH).write_text("goal: half a thought\n")

    with pytest.raises(UsageError, match="not committed"):
        await remove_files(
            await open_repository(checkout), "main", [PATH, "specs/tasks/b.yaml"], "Archive", push=False
        )

    assert git(checkout, "status", "--porcelain").split() == ["M", PATH]


async def test_a_hook_that_forbids_a_removal_leaves_the_files_there(open_repository, checkout):
    hook = checkout / ".git/hooks/pre-commit"
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)

    with pytest.raises(Unavailable):
        await remove_files(await open_repository(checkout), "main", [PATH], "Archive", push=False)

    assert (checkout / PATH).exists()
    assert git(checkout, "status", "--porcelain") == ""


@pytest.mark.parametrize("is_staged", [False, True])
async def test_a_file_that_is_being_edited_is_left_to_its_editor(open_repository, checkout, is_staged):
    (checkout / PATH).write_text("goal: half a thought\n")
    if is_staged:
        git(checkout, "add", PATH)
    before = git(checkout, "status", "--porcelain")

    with pytest.raises(UsageError, match="not committed"):
        await commit_file(await open_repository(checkout), "main", PATH, NEW, "Suspend a", push=False)

    assert (checkout / PATH).read_text() == "goal: half a thought\n"
    assert git(checkout, "status", "--porcelain") == before


@pytest.mark.parametrize("path", [PATH, "specs/tasks/new.yaml"])
async def test_a_hook_that_says_no_leaves_everything_as_it_was(open_repository, checkout, path):
    hook = checkout / ".git/hooks/pre-commit"
    hook.write_text("#!/bin/sh\necho not on a Friday >&2\nexit 1\n")
    hook.chmod(0o755)

    with pytest.raises(Unavailable, match="not on a Friday"):
        await commit_file(await open_repository(checkout), "main", path, NEW, "Suspend a", push=False)

    assert git(checkout, "status", "--porcelain") == ""
    assert show(checkout) == "goal: a"


async def test_where_another_branch_is_checked_out_index_and_files_stay(open_repository, checkout):
    git(checkout, "checkout", "-q", "-b", "side")
    repository = await open_repository(checkout)

    made = await commit_file(repository, "main", PATH, NEW, "Suspend a", push=False)

    assert show(checkout, made) == NEW.strip()
    assert git(checkout, "rev-parse", "main") == made
    assert git(checkout, "status", "--porcelain", "--branch") == "## side"
    assert git(checkout, "log", "-1", "--format=%an <%ae> %s", "main") == "Test <test@example.org> Suspend a"


async def test_a_branch_in_a_linked_work_tree_is_edited_there(open_repository, checkout, tmp_path):
    git(checkout, "checkout", "-q", "-b", "side")
    git(checkout, "worktree", "add", "-q", str(tmp_path / "linked"), "main")

    await commit_file(await open_repository(checkout), "main", PATH, NEW, "Suspend a", push=False)

    assert (tmp_path / "linked" / PATH).read_text() == NEW
    assert git(tmp_path / "linked", "status", "--porcelain") == ""


async def test_a_bare_repository_gets_its_commit_and_the_same_again_makes_none(open_repository, bare):
    repository = await open_repository(bare)

    made = await commit_file(repository, "main", PATH, NEW, "Suspend a", push=False)
    again = await commit_file(repository, "main", PATH, NEW, "Suspend a", push=False)
    removed = await commit_file(repository, "main", PATH, None, "Remove a", push=False)

    assert made == again == git(bare, "rev-parse", f"{removed}^")
    assert git(bare, "ls-tree", "-r", "main") == ""


async def test_several_people_at_once_lose_nothing(open_repository, bare, cache, tmp_path):
    places = [str(bare), f"file://{bare}", f"file://{bare}"]
    repositories = [await open_repository(place, tmp_path / str(at)) for at, place in enumerate(places)]

    made = await asyncio.gather(
        *(
            commit_file(each, "main", f"specs/t{at}.yaml", NEW, "Add", push=True)
            for at, each in enumerate(repositories)
        )
    )

    assert len(set(made)) == 3
    assert git(bare, "ls-tree", "-r", "--name-only", "main").splitlines() == [
        *("specs/t0.yaml", "specs/t1.yaml", "specs/t2.yaml", PATH)
    ]


async def test_the_same_file_changed_by_somebody_else_is_a_conflict(open_repository, bare, checkout):
    repository = await open_repository(f"file://{bare}")
    commit(checkout, PATH, "goal: theirs\n")
    git(checkout, "push", "-q", str(bare), "main")

    with pytest.raises(Conflict, match="changed by somebody else"):
        await commit_file(repository, "main", PATH, NEW, "Suspend a", push=True)

    assert show(bare) == "goal: theirs"


async def test_a_checkout_pushes_to_its_upstream_and_says_how_to_catch_up(
    open_repository, bare, tmp_path, checkout
):
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(bare), str(clone))
    repository = await open_repository(clone)

    await commit_file(repository, "main", PATH, NEW, "Suspend a", push=True)
    assert show(bare) == NEW.strip()

    git(checkout, "pull", "-q", str(bare), "main")
    commit(checkout, "specs/tasks/b.yaml", "goal: b\n")
    git(checkout, "push", "-q", str(bare), "main")
    with pytest.raises(Conflict, match="git pull --rebase"):
        await commit_file(repository, "main", PATH, "goal: again\n", "Resume a", push=True)
    assert show(clone) == "goal: again"


@pytest.mark.parametrize("is_checked_out", [True, False])
async def test_a_push_that_is_refused_says_that_the_commit_is_here_and_how_it_gets_there(
    open_repository, bare, tmp_path, is_checked_out
):
    clone, hook = tmp_path / "clone", bare / "hooks/pre-receive"
    git(tmp_path, "clone", "-q", str(bare), str(clone))
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho not today >&2\nexit 1\n")
    hook.chmod(0o755)
    if not is_checked_out:
        git(clone, "switch", "-q", "-c", "elsewhere")
    repository = await open_repository(clone)

    with pytest.raises(Refused, match=r"not pushed to origin.*not today.*`git push` sends it") as refused:
        await commit_file(repository, "main", PATH, NEW, "Suspend a", push=True)

    assert f"committed here as {git(clone, 'rev-parse', 'main')[:10]}" in str(refused.value)
    assert show(clone) == NEW.strip()


async def test_without_an_upstream_there_is_nothing_to_push(open_repository, checkout):
    made = await commit_file(await open_repository(checkout), "main", PATH, NEW, "Suspend a", push=True)

    assert git(checkout, "rev-parse", "main") == made


async def test_nobody_commits_without_a_name(open_repository, bare, checkout, person):
    person.write_text("")

    for place in (bare, checkout):
        with pytest.raises(UsageError, match=r"git config --global user\.name"):
            await commit_file(await open_repository(place), "main", PATH, NEW, "Suspend a", push=False)

    assert (checkout / PATH).read_text() == "goal: a\n"


@pytest.mark.parametrize("path", ["../out.yaml", "/etc/x", ".git/config", ""])
async def test_a_path_out_of_the_repository_is_refused(open_repository, checkout, path):
    with pytest.raises(UsageError, match="not a file of the repository"):
        await commit_file(await open_repository(checkout), "main", path, NEW, "x", push=False)

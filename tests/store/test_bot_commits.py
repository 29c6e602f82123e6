import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from reconciler.core.errors import Conflict, Unavailable, UsageError
from reconciler.store import commits
from reconciler.store.bot_commits import BotCommitter
from tests.store.world import commit, git

TASK = "specs/tasks/a.yaml"
MADE = "specs/tasks/issues/calc-7.yaml"
GOAL = "goal: add\n"
MESSAGE = "Take up issue 7\n\nIssue: https://forge.example.org/calc/7\nForge-Comment: calc/42\n"


def show(place, path, rev="main") -> str:
    return git(place, "show", f"{rev}:{path}")


async def test_a_commit_is_the_bots_and_a_person_pulls_it_like_any_other(open_repository, bare):
    bot = BotCommitter(await open_repository(bare), "main")

    made = await bot.put({MADE: GOAL, TASK: None}, MESSAGE)

    assert git(bare, "rev-parse", "main") == made
    assert git(bare, "log", "-1", "--format=%an <%ae> %cn <%ce>%n%B", "main") == (
        "reconciler <reconciler@localhost> reconciler <reconciler@localhost>\n" + MESSAGE.strip()
    )
    assert git(bare, "ls-tree", "-r", "--name-only", "main") == MADE
    assert show(bare, MADE) == GOAL.strip()


async def test_what_is_there_already_makes_no_commit(open_repository, bare):
    bot = BotCommitter(await open_repository(bare), "main")
    made = await bot.put({MADE: GOAL}, MESSAGE)

    again = await bot.put({MADE: GOAL, "specs/tasks/never.yaml": None}, MESSAGE)

    assert again == made
    assert git(bare, "rev-list", "--count", "main") == "2"


async def test_a_remote_that_is_the_record_gets_the_commit_and_it_is_read_back_at_once(open_repository, bare):
    repository = await open_repository(f"file://{bare}")
    bot = BotCommitter(repository, "main")

    made = await bot.put({MADE: GOAL}, MESSAGE)

    assert git(bare, "rev-parse", "main") == made
    assert await bot.files("specs/tasks/issues/") == (made, {MADE: GOAL})


async def test_others_who_push_meanwhile_lose_nothing(open_repository, bare, checkout, tmp_path):
    bot = BotCommitter(await open_repository(f"file://{bare}"), "main")
    other = BotCommitter(await open_repository(f"file://{bare}", tmp_path / "other"), "main")
    commit(checkout, "specs/tasks/b.yaml", "goal: b\n")
    git(checkout, "push", "-q", str(bare), "main")

    await asyncio.gather(
        *(bot.put({f"specs/tasks/issues/{n}.yaml": GOAL}, MESSAGE) for n in range(3)),
        other.put({MADE: GOAL}, MESSAGE),
    )

    there = git(bare, "ls-tree", "-r", "--name-only", "main").splitlines()
    assert there == [
        *(TASK, "specs/tasks/b.yaml"),
        *(f"specs/tasks/issues/{n}.yaml" for n in range(3)),
        MADE,
    ]
    assert git(bare, "rev-list", "--count", "--merges", "main") == "0"


async def test_an_edit_made_since_the_file_was_read_is_not_written_over(open_repository, bare, checkout):
    bot = BotCommitter(await open_repository(bare), "main")
    read, _ = await bot.files("specs/tasks/")
    commit(checkout, TASK, "goal: theirs\n")
    git(checkout, "push", "-q", str(bare), "main")

    with pytest.raises(Conflict, match="changed by somebody else"):
        await bot.put({TASK: "goal: ours\n"}, MESSAGE, made_from=read)
    await bot.put({MADE: GOAL}, MESSAGE, made_from=read)

    assert show(bare, TASK) == "goal: theirs"
    assert show(bare, MADE) == GOAL.strip()


async def test_another_branch_begins_where_the_specs_are_and_goes_on_from_itself(open_repository, bare):
    bot = BotCommitter(await open_repository(bare), "main")
    main = git(bare, "rev-parse", "main")

    first = await bot.put({MADE: GOAL}, "Propose", branch="proposals/calc")
    second = await bot.put({MADE: "goal: more\n"}, "Propose more", branch="proposals/calc")

    assert git(bare, "rev-parse", "main") == main
    assert git(bare, "rev-list", "proposals/calc").splitlines() == [second, first, main]


# --- Where the branch is checked out ---------------------------------------


async def test_a_checkout_follows_and_what_somebody_does_there_stays(open_repository, checkout):
    commit(checkout, "README", "hello\n")
    (checkout / "README").write_text("half a thought\n")
    (checkout / "draft").write_text("mine\n")
    (checkout / "other").write_text("staged\n")
    git(checkout, "add", "other")
    before = git(checkout, "status", "--porcelain")
    bot = BotCommitter(await open_repository(checkout), "main")

    made = await bot.put({MADE: GOAL, TASK: "goal: b\n"}, MESSAGE)

    assert git(checkout, "rev-parse", "main") == made
    assert (checkout / MADE).read_text() == GOAL
    assert (checkout / TASK).read_text() == "goal: b\n"
    assert git(checkout, "status", "--porcelain") == before
    assert (checkout / "README").read_text() == "half a thought\n"


@pytest.mark.parametrize("is_staged", [False, True])
async def test_a_file_that_somebody_is_editing_there_is_waited_for(open_repository, checkout, is_staged):
    head = git(checkout, "rev-parse", "main")
    (checkout / TASK).write_text("goal: half a thought\n")
    if is_staged:
        git(checkout, "add", TASK)
    before = git(checkout, "status", "--porcelain")
    bot = BotCommitter(await open_repository(checkout), "main")

    with pytest.raises(Unavailable, match="commit or undo"):
        await bot.put({MADE: GOAL, TASK: "goal: b\n"}, MESSAGE)

    assert git(checkout, "rev-parse", "main") == head
    assert git(checkout, "status", "--porcelain") == before
    assert (checkout / TASK).read_text() == "goal: half a thought\n"
    assert not (checkout / MADE).exists()


async def test_a_file_that_nobody_added_yet_is_not_written_over(open_repository, checkout):
    (checkout / MADE).parent.mkdir()
    (checkout / MADE).write_text("mine\n")
    bot = BotCommitter(await open_repository(checkout), "main")

    with pytest.raises(Unavailable, match="commit or undo"):
        await bot.put({MADE: GOAL}, MESSAGE)

    assert (checkout / MADE).read_text() == "mine\n"


async def test_a_checkout_goes_back_if_the_branch_cannot_be_moved(open_repository, checkout):
    (checkout / ".git/refs/heads/main.lock").write_text("")
    bot = BotCommitter(await open_repository(checkout), "main")

    with pytest.raises(Unavailable, match="could not be moved"):
        await bot.put({MADE: GOAL}, MESSAGE)

    assert git(checkout, "status", "--porcelain") == ""
    assert not (checkout / MADE).exists()


async def test_what_a_crash_left_in_a_checkout_is_taken_up(open_repository, checkout):
    bot = BotCommitter(await open_repository(checkout), "main")
    await bot.put({MADE: GOAL}, MESSAGE)
    git(checkout, "update-ref", "refs/heads/main", "main^")  # as if it had not come that far

    made = await bot.put({MADE: GOAL}, MESSAGE)

    assert git(checkout, "rev-parse", "main") == made
    assert git(checkout, "status", "--porcelain") == ""


async def test_a_branch_checked_out_beside_another_is_left_alone(open_repository, checkout, tmp_path):
    git(checkout, "checkout", "-q", "-b", "side")
    git(checkout, "worktree", "add", "-q", str(tmp_path / "linked"), "main")
    bot = BotCommitter(await open_repository(checkout), "main")

    await bot.put({MADE: GOAL}, MESSAGE)

    assert not (checkout / MADE).exists()
    assert (tmp_path / "linked" / MADE).read_text() == GOAL
    assert git(tmp_path / "linked", "status", "--porcelain") == ""


# --- Reading ---------------------------------------------------------------


async def test_what_is_no_text_is_left_out(open_repository, checkout):
    (checkout / "specs/tasks/binary.yaml").write_bytes(b"\xff\xfe")
    (checkout / "specs/tasks/huge.yaml").write_bytes(b"#" * (1024 * 1024 + 1))
    (checkout / "specs/tasks/link.yaml").symlink_to("a.yaml")
    git(checkout, "add", "-A")
    git(checkout, "commit", "-q", "-m", "odd ones")
    bot = BotCommitter(await open_repository(checkout), "main")

    head, files = await bot.files("specs/tasks/")

    assert head == git(checkout, "rev-parse", "main")
    assert files == {TASK: "goal: a\n"}


async def test_a_trailer_is_found_whole_and_only_since_a_time(open_repository, bare):
    bot = BotCommitter(await open_repository(bare), "main")
    await bot.put({MADE: GOAL}, MESSAGE)
    long_ago = datetime(2020, 1, 1, 12, 30, 15, 250_000, tzinfo=UTC)
    made_at = datetime.fromisoformat(git(bare, "log", "-1", "--format=%cI", "main"))

    assert await bot.has_told("Forge-Comment", "calc/42", long_ago)
    assert not await bot.has_told("Forge-Comment", "calc/4", long_ago)
    assert not await bot.has_told("Forge-Comment", "calc/421", long_ago)
    assert not await bot.has_told("Forge-Comment", "calc/42", made_at + timedelta(hours=1))


async def test_a_file_tells_when_it_was_last_changed_by_others(open_repository, checkout):
    bot = BotCommitter(await open_repository(checkout), "main")
    await bot.put({MADE: GOAL}, "Take up issue 7\n\nIssue: 7\n")
    git(checkout, "commit", "-q", "--allow-empty", "-m", "nothing of it")

    assert await bot.touched_at(MADE, apart_from="Issue") is None

    commit(checkout, MADE, "goal: more\n")
    changed_at = datetime.fromisoformat(git(checkout, "log", "-1", "--format=%cI", "main"))
    await bot.put({MADE: GOAL}, "Update\n\nIssue: 7\n")

    assert await bot.touched_at(MADE, apart_from="Issue") == changed_at


async def test_one_file_is_read_alone_and_the_newest_of_it(open_repository, checkout):
    bot = BotCommitter(await open_repository(checkout), "main")

    before = [await bot.files(TASK), await bot.files(TASK), await bot.files("specs/tasks/never.yaml")]
    commit(checkout, TASK, "goal: b\n")
    _, after = await bot.files(TASK)

    assert [files for _, files in before] == [{TASK: "goal: a\n"}, {TASK: "goal: a\n"}, {}]
    assert after == {TASK: "goal: b\n"}


@pytest.mark.parametrize("path", ["../out.yaml", "/etc/x", ".git/config", ""])
async def test_a_path_out_of_the_repository_is_refused(open_repository, bare, path):
    with pytest.raises(UsageError, match="not a file of the repository"):
        await BotCommitter(await open_repository(bare), "main").put({path: GOAL}, MESSAGE)


async def test_of_many_places_that_are_asked_for_few_are_remembered(open_repository, bare):
    bot = BotCommitter(await open_repository(bare), "main")

    for number in range(40):
        assert (await bot.files(f"specs/tasks/{number}.yaml"))[1] == {}
        await bot.files(TASK)

    assert len(bot._read) == 16
    assert TASK in bot._read


@pytest.mark.parametrize("branch", [None, "proposals/deep/below/it"])
async def test_what_was_committed_has_its_names_on_disk_too(open_repository, bare, monkeypatch, branch):
    """Power may go the moment after the answer: git syncs files, and no folder that they are in."""
    bot, synced = BotCommitter(await open_repository(bare), "main"), []
    monkeypatch.setattr(commits, "sync_folder", lambda folder: synced.append(folder.resolve()))

    made = await bot.put({"specs/tasks/new/deep.yaml": GOAL}, MESSAGE, branch=branch)

    ids = git(bare, "rev-list", "--objects", made, "^main~0" if branch else f"{made}~1").split("\n")
    loose = {bare.resolve() / "objects" / line[:2] for line in ids if line}
    ref = (bare / "refs/heads" / (branch or "main")).resolve()
    folders = [folder for folder in ref.parents if folder.is_relative_to(bare.resolve())]
    assert loose <= set(synced)
    assert set(folders) <= set(synced)
    assert max(synced.index(folder) for folder in loose) < synced.index(ref.parent)

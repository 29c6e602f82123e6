import json
import os
import shutil

import pytest

from reconciler.core.errors import Rewound, Unavailable
from reconciler.git.process import Git
from reconciler.store import slots
from reconciler.store.high_water import HighWaterMarks, MarkFile, pause_after
from reconciler.store.layout import IDENTITY_FILE
from reconciler.store.state import StateBranch
from tests.store.world import BRANCH, NOW, REVISION, commit, created, git, start

MARK = f"refs/fleet/record/{BRANCH}"


def line(place, number, begin="anew"):
    """Make commits of a line of its own, in the object database alone; return them, oldest first."""
    tree, made = git(place, "mktree", stdin=""), []
    for count in range(number):
        parents = ["-p", made[-1]] if made else []
        made.append(git(place, "commit-tree", tree, *parents, "-m", f"{begin} {count}"))
    return made


def approving(place, head, *marks):
    """Make a commit that lets a line go on without others."""
    message = "\n".join(f"Rewind-Approved: {mark}" for mark in marks)
    return git(place, "commit-tree", f"{head}^{{tree}}", "-p", head, "-m", f"go on\n\n{message}\n")


def put(place, to, branch=BRANCH):
    """Let the branch be elsewhere, as who has the repository can."""
    if to is None:
        git(place, "update-ref", "-d", f"refs/heads/{branch}")
    else:
        git(place, "update-ref", f"refs/heads/{branch}", to)


@pytest.fixture
def data(tmp_path):
    return tmp_path / "data"


@pytest.fixture
async def remember(open_repository, data):
    """Return a function that remembers a commit of a place as a reconciler does that ends then."""

    async def do(place, commit_id, kind="record", branch=BRANCH):
        marks = HighWaterMarks(await open_repository(place), data)
        await marks.advance(kind, branch, commit_id)
        await marks.close()
        return marks

    return do


@pytest.fixture
def look(open_repository, data):
    """Return a function that says how a line went back, as who comes later sees it."""

    async def do(place, kind="record", branch=BRANCH, data_dir=None):
        repository = await open_repository(place)
        await repository.fetch()
        head = repository.read_ref(repository.ref(branch))
        return await HighWaterMarks(repository, data_dir or data).rewind(kind, branch, head)

    return do


@pytest.fixture(params=["folder", "bare", "remote"])
def place(request, checkout, bare):
    """Return the fleet as it may be named, and the folder to do harm in."""
    return {
        "folder": (checkout, checkout),
        "bare": (bare, bare),
        "remote": (f"file://{bare}", bare),
    }[request.param]


def harm(there, made, how):
    """Let the branch go back."""
    tip = git(there, "commit-tree", f"{made[-2]}^{{tree}}", "-p", made[-2], "-m", "another")
    to = {"one back": made[-2], "six back": made[-7], "gone": None, "one back and another on top": tip}
    put(there, line(there, 3, how)[-1] if how == "unrelated" else to[how])


HARMS = ("one back", "six back", "gone", "unrelated", "one back and another on top")


@pytest.mark.parametrize("lost", ["nothing", "data folder", "ref"])
@pytest.mark.parametrize("how", HARMS)
async def test_a_line_that_went_back_is_found_out_whatever_else_is_lost(
    place, remember, look, *, data, how, lost
):
    name, there = place
    made = line(there, 8)
    put(there, made[-1])
    await remember(name, made[-1])
    assert await look(name) is None

    harm(there, made, how)
    if lost == "data folder":
        shutil.rmtree(data)
        shutil.rmtree(data.parent / "cache", ignore_errors=True)
    if lost == "ref":
        git(there, "update-ref", "-d", MARK)

    rewind = await look(name)
    assert rewind is not None
    assert rewind.was == made[-1]
    assert f"approve-rewind {rewind.kind}" in str(rewind)
    assert "restore-record" in str(rewind)


async def test_with_every_mark_lost_a_line_is_believed(place, remember, look, data):
    name, there = place
    made = line(there, 4)
    put(there, made[-1])
    await remember(name, made[-1])
    shutil.rmtree(data)
    shutil.rmtree(data.parent / "cache", ignore_errors=True)
    git(there, "update-ref", "-d", MARK)
    put(there, made[0])

    assert await look(name) is None


async def test_a_line_that_goes_on_is_believed_by_whom_it_is_gone_on_with(place, remember, look):
    name, there = place
    made = line(there, 6)
    put(there, made[2])
    await remember(name, made[2])

    for head in made[2:]:
        put(there, head)
        assert await look(name) is None


async def test_a_commit_on_top_of_a_mark_takes_no_process_to_believe(
    bare, open_repository, data, remember, monkeypatch
):
    made = line(bare, 4)
    put(bare, made[2])
    await remember(bare, made[2], "specs")
    put(bare, made[3])
    repository = await open_repository(bare)
    started = []
    monkeypatch.setattr(Git, "attempt", lambda _, *args: started.append(args))

    assert await HighWaterMarks(repository, data).rewind("specs", BRANCH, made[3]) is None

    assert started == []


async def test_marks_that_the_commit_before_has_shown_take_no_process_to_believe(
    bare, open_repository, data, remember, monkeypatch
):
    made = line(bare, 5)
    put(bare, made[1])
    await remember(bare, made[1], "specs")
    repository = await open_repository(bare)
    marks = HighWaterMarks(repository, data)
    put(bare, made[3])
    assert await marks.rewind("specs", BRANCH, made[3]) is None  # by a walk: there is one between them
    started, attempt = [], Git.attempt
    monkeypatch.setattr(Git, "attempt", lambda *args, **more: started.append(args) or attempt(*args, **more))
    put(bare, made[4])

    assert await marks.rewind("specs", BRANCH, made[4]) is None
    assert started == []
    put(bare, made[0])
    assert (await marks.rewind("specs", BRANCH, made[0])).was == made[1]


async def test_marks_keep_what_they_name_from_being_collected(place, remember, look, data):
    name, there = place
    made = line(there, 5)
    put(there, made[-1])
    await remember(name, made[-1])
    put(there, made[0])

    git(there, "-c", "gc.pruneExpire=now", "-c", "gc.reflogExpire=now", "gc", "-q", "--prune=now")

    rewind = await look(name)
    assert rewind is not None
    assert not rewind.is_lost


async def test_what_is_lost_altogether_is_told_as_lost(bare, remember, look, data):
    made = line(bare, 5)
    put(bare, made[-1])
    await remember(bare, made[-1])
    await remember(bare, git(bare, "rev-parse", "main"), "specs", "main")
    put(bare, made[0])
    git(bare, "update-ref", "-d", MARK)
    git(bare, "-c", "gc.pruneExpire=now", "-c", "gc.reflogExpire=now", "gc", "-q", "--prune=now")

    rewind = await look(bare)

    assert rewind.is_lost
    assert "bring it back from a newer backup" in str(rewind)
    assert "restore-record" not in str(rewind)


@pytest.mark.parametrize("kind", ["record", "specs"])
async def test_an_approval_counts_for_the_commit_that_it_names_and_for_no_other(place, remember, look, kind):
    name, there = place
    made = line(there, 6)
    put(there, made[-1])
    await remember(name, made[-1], kind)
    put(there, approving(there, made[1], made[-2]))
    assert await look(name, kind) is not None

    put(there, approving(there, made[1], made[-2], made[-1]))
    assert await look(name, kind) is None


@pytest.mark.parametrize(
    "text",
    ["  Rewind-Approved: {}", "> Rewind-Approved: {}", "Rewind-Approved: {} or so", "Rewind-Approved:{}"],
)
async def test_what_only_looks_like_an_approval_is_none(bare, remember, look, text):
    made = line(bare, 3)
    put(bare, made[-1])
    await remember(bare, made[-1])
    message = "go on\n\n" + text.format(made[-1])
    put(bare, git(bare, "commit-tree", f"{made[0]}^{{tree}}", "-p", made[0], "-m", message))

    assert await look(bare) is not None


async def test_an_approved_line_that_goes_back_behind_its_approval_is_found_out(place, remember, look):
    name, there = place
    made = line(there, 6)
    put(there, made[-1])
    await remember(name, made[-1])
    approved = approving(there, made[1], made[-1])
    put(there, approved)
    await remember(name, approved)

    for head in (made[1], made[-1], None):
        put(there, head)
        assert (await look(name)).was == approved


async def test_another_fleet_in_the_place_of_one_that_is_gone_is_believed(tmp_path, checkout, remember, look):
    made = line(checkout, 3)
    put(checkout, made[-1])
    await remember(checkout, made[-1])
    shutil.rmtree(checkout)
    checkout.mkdir()
    git(checkout, "init", "-q")
    commit(checkout, "specs/tasks/b.yaml", "goal: b\n", "specs")
    put(checkout, line(checkout, 2, "other")[-1])

    assert await look(checkout) is None


async def test_what_is_taken_for_another_fleets_counts_once_it_is_known_to_be_ours(
    tmp_path, checkout, open_repository, data
):
    def founded(goal):
        """Make the fleet in its place, with the same id; return its specs and its record."""
        shutil.rmtree(checkout, ignore_errors=True)
        checkout.mkdir()
        git(checkout, "init", "-q")
        commit(checkout, "specs/tasks/b.yaml", f"goal: {goal}\n", "specs")
        specs = git(checkout, "rev-parse", "HEAD")
        commit(checkout, IDENTITY_FILE, "id: abc\n", "fleet")
        return specs, git(checkout, "rev-parse", "HEAD")

    specs, record = founded("a")
    marks = HighWaterMarks(await open_repository(checkout), data, tmp_path / "machine")
    assert await marks.rewind("record", BRANCH, record) is None
    await marks.advance("record", BRANCH, record)
    await marks.advance("specs", BRANCH, specs)
    await marks.close()
    others, other = founded("b")
    marks = HighWaterMarks(await open_repository(checkout), data, tmp_path / "machine")

    assert await marks.rewind("specs", BRANCH, others) is None  # before it is known which fleet this is
    assert (await marks.rewind("record", BRANCH, other)).was == record
    assert (await marks.rewind("specs", BRANCH, others)).was == specs


async def test_a_pipe_in_the_place_of_a_mark_keeps_nobody_waiting(bare, remember, look, *, data):
    made = line(bare, 3)
    put(bare, made[-1])
    await remember(bare, made[-1])
    put(bare, made[0])
    (file,) = (data / "marks").glob("*.json")
    file.unlink()
    os.mkfifo(file)

    assert await look(bare) is not None


@pytest.mark.parametrize("mark", ["commit", "ref"])
@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"record/fleet-state": 3}', '{"record/fleet-state": "x"}', "\0", "\xff", "[" * 100_000],
    ids=lambda text: text[:24],
)
async def test_a_damaged_mark_is_as_if_it_were_lost(bare, remember, look, *, data, mark, content):
    made = line(bare, 3)
    put(bare, made[-1])
    await remember(bare, made[-1])
    put(bare, made[0])
    (file,) = (data / "marks").glob("*.json")
    if mark == "commit":
        file.write_text(content, encoding="latin-1")
    else:
        (bare / MARK).write_text(content, encoding="latin-1")

    assert await look(bare) is not None  # the other one still tells


async def test_a_mark_that_cannot_be_written_is_an_error(bare, remember, data):
    data.mkdir()
    (data / "marks").write_text("in the way")

    with pytest.raises(Unavailable, match="cannot be written"):
        await remember(bare, line(bare, 1)[-1])


async def test_a_mark_is_written_over_only_if_the_disk_is_known_to_have_it(
    bare, open_repository, data, monkeypatch
):
    def inode():
        return next((data / "marks").iterdir()).stat().st_ino

    async def advance(marks, number):
        """Return whether the mark went into the place of the one before last, in the same file."""
        before = inode()
        await marks.advance("record", BRANCH, made[number])
        return inode() == before

    def fail(_):
        raise OSError(5, "Input/output error")

    made, repository = line(bare, 6), await open_repository(bare)
    first, second = HighWaterMarks(repository, data), HighWaterMarks(repository, data)
    await first.advance("record", BRANCH, made[0])

    assert await advance(first, 1)
    assert not await advance(second, 2)  # the one before may have been killed before its sync
    assert await advance(second, 3)

    with monkeypatch.context() as patched:
        patched.setattr(slots, "_sync", fail)
        with pytest.raises(Unavailable, match="cannot be written"):
            await second.advance("record", BRANCH, made[4])
    assert not await advance(second, 4)
    assert await advance(second, 5)
    await first.close()
    await second.close()


async def test_a_remote_that_keeps_no_such_refs_is_served_with_the_data_folders_marks(
    bare, remember, look, data
):
    (bare / "hooks").mkdir(exist_ok=True)
    (bare / "hooks/pre-receive").write_text("#!/bin/sh\nexit 1\n")
    (bare / "hooks/pre-receive").chmod(0o755)
    url, made = f"file://{bare}", line(bare, 3)
    put(bare, made[-1])

    marks = await remember(url, made[-1])
    put(bare, made[0])

    assert marks.publish_error
    assert (await look(url)).was == made[-1]


async def test_a_remote_that_is_away_gets_the_mark_with_the_next_commit(bare, open_repository, data):
    url, made = f"file://{bare}", line(bare, 3)
    put(bare, made[-1])
    repository = await open_repository(url)
    marks = HighWaterMarks(repository, data)
    away = bare.rename(bare.with_name("away.git"))
    await marks.advance("record", BRANCH, made[1])
    await marks.close()
    away.rename(bare)

    await marks.advance("record", BRANCH, made[2])
    await marks.close()

    assert git(bare, "rev-parse", MARK) == made[2]


async def test_refs_follow_the_first_commit_and_the_last_of_many_and_files_follow_each(
    bare, open_repository, data
):
    made = line(bare, 12)
    repository = await open_repository(bare)
    marks, moved = HighWaterMarks(repository, data), set()
    for commit_ in made:
        await marks.advance("record", BRANCH, commit_)
        assert made[made.index(commit_)] in next((data / "marks").iterdir()).read_text()
        moved.add(repository.read_ref(MARK))
    await marks.close()

    assert git(bare, "rev-parse", MARK) == made[-1]
    assert len(moved) < len(made)


def test_a_slow_remote_is_left_alone_for_longer_and_never_for_long():
    assert [pause_after(took) for took in (0.01, 0.5, 60)] == [1.0, 5.0, 30.0]


async def test_the_marks_of_two_fleets_with_one_data_folder_are_apart(checkout, bare, remember, look, data):
    mine, other = line(checkout, 3), line(bare, 3, "other")
    put(checkout, mine[-1])
    put(bare, other[-1])
    await remember(checkout, mine[-1])
    await remember(bare, other[-1])
    put(bare, other[0])

    assert await look(checkout) is None
    assert (await look(bare)).was == other[-1]


async def test_marks_are_for_nobody_else_and_hold_no_more_than_commits(bare, remember, data):
    made = line(bare, 1)
    await remember(bare, made[-1])

    (file,) = (data / "marks").iterdir()
    assert file.parent.stat().st_mode & 0o77 == 0
    assert MarkFile(file).marks == {f"record/{BRANCH}": made[-1]}


async def test_a_shallow_clone_is_told_how_to_become_whole(tmp_path, checkout, open_repository, data):
    first = git(checkout, "rev-parse", "HEAD")
    commit(checkout, "specs/tasks/a.yaml", "goal: b\n")
    shallow = tmp_path / "shallow"
    git(tmp_path, "clone", "-q", "--depth=1", f"file://{checkout}", str(shallow))
    repository = await open_repository(shallow)
    marks = HighWaterMarks(repository, data)
    head = repository.read_ref("refs/heads/main")
    await marks.advance("specs", "main", head)
    await marks.close()
    assert await HighWaterMarks(repository, data).rewind("specs", "main", head) is None

    (file,) = (data / "marks").iterdir()
    file.write_text(json.dumps({"specs/main": first}))
    rewind = await HighWaterMarks(repository, data).rewind("specs", "main", head)

    assert "git fetch --unshallow" in str(rewind)


async def test_what_went_back_is_raised_with_who_did_it(bare, open_repository, data, remember):
    made = line(bare, 3)
    put(bare, made[-1])
    await remember(bare, made[-1])
    other = line(bare, 1, "Begin \x1b[2J")[0]

    with pytest.raises(Rewound, match=f"{other[:10]} .Test, .*: Begin") as raised:
        await HighWaterMarks(await open_repository(bare), data).require("record", BRANCH, other)

    assert "\x1b" not in str(raised.value)


# --- What the machine remembers, apart from the data folder ----------------


@pytest.fixture
def reconciled(open_repository, tmp_path):
    """Return a function that lets a fleet put a task on record as a reconciler does: marks first."""

    async def do(place, name, token="0123456789ab"):
        repository = await open_repository(place)
        marks = HighWaterMarks(repository, tmp_path / "data", tmp_path / "machine")
        head = repository.read_ref(f"refs/heads/{BRANCH}")
        await marks.require("record", BRANCH, head)
        await marks.require("specs", "main", repository.read_ref("refs/heads/main"))
        state = await start(repository, token=token)
        await state.load()
        await state.commit([created(name)])
        await state.close()
        await marks.require("record", BRANCH, state.head)
        await marks.advance("record", BRANCH, state.head)
        await marks.advance("specs", "main", repository.read_ref("refs/heads/main"))
        await marks.close()

    return do


def back_up(tmp_path, bare):
    shutil.copytree(bare, tmp_path / "backup/fleet")
    shutil.copytree(tmp_path / "data", tmp_path / "backup/data") if (tmp_path / "data").exists() else None


def restore(tmp_path, bare):
    for place, name in ((bare, "fleet"), (tmp_path / "data", "data")):
        shutil.rmtree(place)
        if (tmp_path / "backup" / name).exists():
            shutil.copytree(tmp_path / "backup" / name, place)


@pytest.mark.parametrize("was", ["reconciled", "new"])
async def test_a_fleet_that_is_restored_with_its_data_folder_is_found_out(tmp_path, bare, reconciled, was):
    if was == "reconciled":
        await reconciled(bare, "a")
    back_up(tmp_path, bare)
    await reconciled(bare, "b")
    restore(tmp_path, bare)

    with pytest.raises(Rewound, match=r"newer backup or from another copy.*approve-rewind record"):
        await reconciled(bare, "b")


async def test_specs_that_are_restored_with_all_marks_are_found_out(tmp_path, bare, checkout, reconciled):
    await reconciled(bare, "a")
    back_up(tmp_path, bare)
    commit(checkout, "specs/agents/jeeves.yaml", "suspended: true\n", "Revoke")
    git(checkout, "push", "-q", str(bare), "main")
    await reconciled(bare, "b")
    restore(tmp_path, bare)
    git(tmp_path, "clone", "-q", "--mirror", str(bare), str(tmp_path / "moved.git"))

    for place in (bare, tmp_path / "moved.git"):
        with pytest.raises(Rewound):
            await reconciled(place, "c")


@pytest.mark.parametrize("goes_on", ["the copy", "the original"])
async def test_of_a_fleet_and_its_copy_only_the_one_that_went_on_goes_on(tmp_path, bare, reconciled, goes_on):
    await reconciled(bare, "a")
    copy, away = tmp_path / "copy.git", tmp_path / "away.git"
    shutil.copytree(bare, copy)
    first, second = (copy, bare) if goes_on == "the copy" else (bare, copy)
    await reconciled(first, "b")
    first.rename(away)

    with pytest.raises(Rewound):
        await reconciled(second, "b")
    await reconciled(away, "c")


async def test_another_fleet_in_the_place_of_one_that_is_gone_goes_on(tmp_path, bare, checkout, reconciled):
    await reconciled(bare, "a")
    shutil.rmtree(bare)
    git(checkout, "commit", "-q", "--amend", "-m", "another")
    git(tmp_path, "clone", "-q", "--bare", f"file://{checkout}", str(bare))

    await reconciled(bare, "a", "ba9876543210")
    await reconciled(bare, "b")


async def test_where_the_machine_remembers_nothing_the_fleet_goes_on(tmp_path, bare, reconciled):
    (tmp_path / "machine").write_text("no folder")

    await reconciled(bare, "a")
    await reconciled(bare, "b")


async def test_a_line_that_goes_on_while_it_is_looked_at_did_not_go_back(
    tmp_path, bare, reconciled, open_repository
):
    await reconciled(bare, "a")
    repository = await open_repository(bare)
    before = repository.read_ref(f"refs/heads/{BRANCH}")
    await reconciled(bare, "b")

    marks = HighWaterMarks(repository, tmp_path / "data", tmp_path / "machine")

    assert await marks.rewind("record", BRANCH, before) is None


async def test_a_mark_whose_commit_is_lost_is_told_and_ends_no_look(bare, remember, look):
    made = line(bare, 3)
    put(bare, made[-1])
    await remember(bare, made[-1])
    (bare / MARK).write_text(f"{'12' * 20}\n")

    assert "not in the repository any more" in str(await look(bare))


# --- A loss of power ---------------------------------------------------------


def tear(place, lost):
    """Let the disk keep the branch at a commit, and not the pack that has it."""
    for index in (place / "objects" / "pack").glob("*.idx"):
        if f"{lost} commit" in git(place, "verify-pack", "-v", str(index)):
            for file in index.parent.glob(f"{index.stem}.*"):
                file.unlink()


async def opened(repository, data):
    marks = HighWaterMarks(repository, data)
    state = await StateBranch.open(
        repository, BRANCH, token=lambda: "0" * 12, clock=lambda: NOW, revision=lambda: REVISION, marks=marks
    )
    return state, marks


async def test_a_batch_whose_pack_was_lost_with_the_power_is_dropped_if_it_was_not_acknowledged(
    bare, open_repository, data
):
    state, marks = await opened(await open_repository(bare), data)
    await state.commit([created("kept")])
    kept = state.head
    await marks.close()
    remembered = shutil.copytree(data, data.with_name("remembered"))
    await state.commit([created("torn")])
    torn = state.head
    await state.close()
    await marks.close()
    shutil.rmtree(data)
    shutil.copytree(remembered, data)
    git(bare, "update-ref", MARK, kept)
    tear(bare, torn)

    state, marks = await opened(await open_repository(bare), data)
    tasks, _ = await state.load()
    await state.commit([created("torn")])
    await state.close()
    await marks.close()

    assert tasks.keys() == {"kept"}
    assert git(bare, "rev-parse", f"{BRANCH}^") == kept
    assert git(bare, "fsck", "--full", "--no-dangling") == ""


async def test_an_acknowledged_batch_whose_pack_is_lost_is_never_dropped(bare, open_repository, data):
    state, marks = await opened(await open_repository(bare), data)
    await state.commit([created("kept")])
    await state.commit([created("acknowledged")])
    lost = state.head
    await state.close()
    await marks.close()
    tear(bare, lost)

    with pytest.raises(Unavailable):
        await opened(await open_repository(bare), data)

    assert (bare / "refs" / "heads" / BRANCH).read_text().strip() == lost

"""
Layout: a folder takes so many status files, and subfolders take the rest.
"""

from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.events import Origin, Removed, Renamed
from reconciler.core.lifecycle import Transition
from reconciler.core.names import DEFAULT_SHARD
from reconciler.store import statuses
from reconciler.store.commit_view import statuses_at
from reconciler.store.history import read_history
from reconciler.store.layout import FOLDER_SIZE, TASKS, name_under, status_paths
from reconciler.store.reader import StateReader
from reconciler.store.state_files import StateFiles
from tests.store.world import BRANCH, NOW, commit, created, git, start, started, status

_MANY = FOLDER_SIZE * 3
_SEGMENTS = st.sampled_from(("a", "0_0", "a_f", "fix-login", "b.c", "7"))
_NAMES = st.lists(_SEGMENTS, min_size=1, max_size=4).map("/".join)


@given(_NAMES)
def test_wherever_a_status_is_its_path_gives_the_name_back(name):
    assert {name_under(TASKS, path) for path in status_paths(name)} == {name}
    assert status_paths(name)[0] == f"{TASKS}{name}.yaml"


def test_a_file_in_a_subfolder_that_is_not_its_own_is_no_tasks():
    own = status_paths("web/fix")[1]
    others = [f"{TASKS}web/_{digit}/fix.yaml" for digit in "0123456789abcdef"]

    assert [path for path in others if name_under(TASKS, path) == "web/fix"] == [own]
    assert all(name_under(TASKS, path) == path[len(TASKS) : -5] for path in others if path != own)


@given(st.lists(_NAMES, unique=True, max_size=20), st.data())
def test_files_of_a_draft_count_once_it_is_applied(names, data):
    files = StateFiles.of({})
    for name in names:
        draft = files.draft()
        draft.put(draft.place(status_paths(name)), "blob")
        assert not files.places(status_paths(name))
        if data.draw(st.booleans()):
            files.apply(draft)
            assert files.places(status_paths(name)) == [status_paths(name)[0]]


def test_no_folder_takes_more_than_its_share_and_a_file_stays_where_it_is():
    files, places = StateFiles.of({}), {}
    for number in range(10_000):
        paths = status_paths(f"issues/{number}")
        places[number] = files.place(paths)
        files.put(places[number], "blob")

    sizes = [sum(1 for _ in group) for group in _by_folder(places.values()).values()]
    assert max(sizes) == FOLDER_SIZE
    assert len(sizes) < 1 + 16 + 256 + 1
    assert {files.place(status_paths(f"issues/{number}")) for number in places} == set(places.values())


def _by_folder(paths):
    folders = {}
    for path in paths:
        folders.setdefault(path.rpartition("/")[0], []).append(path)
    return folders


async def test_a_task_of_a_full_folder_is_found_by_its_name_like_any_other(open_repository, bare):
    repository = await open_repository(bare)
    state = await start(repository)
    await state.load()
    await state.commit([created(f"issues/{number}") for number in range(_MANY)])
    await state.commit([started(f"issues/{_MANY - 1}")])
    await state.close()
    last = f"issues/{_MANY - 1}"
    [path] = git(bare, "ls-tree", "-r", "--name-only", BRANCH, "--", *status_paths(last)).split("\n")

    tasks, _ = await StateReader(repository, {DEFAULT_SHARD: BRANCH}).load()
    history = await read_history(repository, BRANCH, last)
    was = await statuses_at(repository, [(entry.commit, last) for entry in history])

    assert path != status_paths(last)[0]
    assert set(tasks) == {f"issues/{number}" for number in range(_MANY)}
    assert tasks[last] == started(last).after
    assert [entry.after for entry in history] == ["running", "created"]
    assert was == [started(last).after, status()]
    assert git(bare, "log", "--format=%H", BRANCH, "--", path).split() == [entry.commit for entry in history]
    assert git(bare, "log", "--format=%H", BRANCH, "--", f"*/{_MANY - 1}.yaml").split() == [
        entry.commit for entry in history
    ]
    assert git(bare, "fsck", "--full", "--strict") == ""


async def test_a_task_of_a_full_folder_can_be_renamed_removed_and_come_back(open_repository, bare):
    repository = await open_repository(bare)
    state = await start(repository)
    await state.load()
    await state.commit([created(f"issues/{number}") for number in range(_MANY)])
    old, new = f"issues/{_MANY - 1}", "web/fix"
    renamed = Renamed(task=new, old=old, origin=Origin(NOW, "the file moved"))

    def removed(name):
        return Transition(name, status(), None, Removed(task=name, origin=Origin(NOW, "gone")))

    await state.commit([Transition(new, status(), status(), renamed)])
    await state.commit([created(old), removed(old)])
    await state.commit([removed("issues/0")])
    await state.commit([created(old)])
    tasks, _ = await state.load()
    await state.close()

    assert git(bare, "ls-tree", "-r", "--name-only", BRANCH, "--", *status_paths(old)) == status_paths(old)[0]
    assert set(tasks) == {f"issues/{number}" for number in range(1, _MANY)} | {new}
    assert next(entry.after for entry in await read_history(repository, BRANCH, old)) == "created"
    assert [entry.task for entry in await read_history(repository, BRANCH, new)] == [new, old]


async def test_of_two_files_of_one_task_the_plainest_counts_and_the_other_goes(open_repository, checkout):
    plain, deep, *_ = status_paths("a")
    git(checkout, "checkout", "-q", "--orphan", BRANCH)
    commit(checkout, deep, statuses.dump_status(status()).decode(), "by hand")
    commit(checkout, plain, statuses.dump_status(started("a").before).decode(), "by hand")
    git(checkout, "checkout", "-q", "main")
    repository = await open_repository(checkout)
    state = await start(repository)

    tasks, _ = await state.load()
    await state.commit([started("a")])
    await state.close()

    assert tasks == {"a": started("a").before}
    assert git(checkout, "ls-tree", "-r", "--name-only", BRANCH, "--", plain, deep) == plain

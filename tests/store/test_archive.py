"""
The archive: tasks that settled and whose specs are gone are in no list, and are there by their names.
"""

import pytest

from reconciler.core.adapter import Usage
from reconciler.core.events import Archived, Completed, Origin, Restored
from reconciler.core.lifecycle import Transition, transition
from reconciler.core.model.status import Phase
from reconciler.core.names import DEFAULT_SHARD
from reconciler.store import archive_paths
from reconciler.store.archive import read_archived
from reconciler.store.audit import SpecPlaces, audit_record
from reconciler.store.history import HistoryReader, read_history
from reconciler.store.layout import archive_path, recorded_task
from reconciler.store.reader import StateReader
from reconciler.store.spending import spending
from tests.store.world import BRANCH, NOW, commit, created, git, start, status

USAGE = Usage(input_tokens=100, cost_usd=0.25)
NO_SPECS = SpecPlaces(own=str, campaign=lambda _: "", generation=lambda *_: "")


def completed(name):
    before = created(name).after
    after = status(Phase.COMPLETED, run=f"{name}.ga1a1a1a1.a1", attempt=1, usage=USAGE, since=NOW)
    return Transition(name, before, after, Completed(task=name, origin=Origin(NOW, "done")))


def step(before, kind, name):
    event = kind(task=name, origin=Origin(NOW, "the spec"))
    return Transition(name, before, transition(before, event), event)


def archived(name):
    return step(completed(name).after, Archived, name)


async def test_an_archived_task_is_found_by_its_name_alone(open_repository, open_state, bare):
    state = await open_state(bare)
    await state.commit([created("web/a"), completed("web/a"), created("b"), archived("web/a")])
    repository = await open_repository(bare)
    reader = StateReader(repository, {DEFAULT_SHARD: BRANCH})

    every, _ = await reader.load()
    named, _ = await reader.load(["web/a", "b", "no"])
    steps = await read_history(repository, BRANCH, "web/a")

    assert set(every) == {"b"}
    assert named == {"b": every["b"], "web/a": archived("web/a").after}
    assert [entry.reason for entry in steps] == ["the spec", "done", "the spec is new"]
    assert await HistoryReader(repository, lambda: state.head).archived("web/a") == named["web/a"]
    assert await HistoryReader(repository, lambda: state.head).archived("../no name") is None
    files = git(bare, "ls-tree", "-r", "--name-only", BRANCH, "fleet-archive/")
    assert files == archive_path("web/a", "2026-01")


async def test_what_enters_the_archive_and_leaves_it_is_spent_once_and_sound(
    open_repository, open_state, bare
):
    state = await open_state(bare)
    await state.commit([created("web/a"), completed("web/a"), archived("web/a")])
    await state.commit([step(archived("web/a").after, Restored, "web/a")])
    await state.commit([archived("web/a")])
    repository = await open_repository(bare)

    spent = await spending(repository, BRANCH)
    audited = await audit_record(repository, BRANCH, "main", spec_places=NO_SPECS)

    assert [each.usage for each in spent] == [USAGE]
    assert not [flaw for flaw in audited.flaws if "which is not on main" not in flaw.what]


async def test_many_names_are_looked_up_in_one_listing(open_repository, open_state, bare, monkeypatch):
    state = await open_state(bare)
    names = ["web/a", "web/b", "c"]
    await state.commit([each for name in names for each in (created(name), completed(name), archived(name))])
    repository = await open_repository(bare)

    one_by_one = await read_archived(repository, state.head, ["c", "no", "web/a"])
    monkeypatch.setattr(archive_paths, "_FEW", 2)
    listed = await read_archived(repository, state.head, ["c", "no", "web/a"])

    assert set(one_by_one.statuses) == {"c", "web/a"}
    assert listed == one_by_one


async def test_a_file_of_the_archive_that_cannot_be_read_is_told(open_repository, checkout):
    state = await start(await open_repository(checkout))
    await state.commit([created("a"), completed("a"), archived("a")])
    await state.close()
    path = archive_path("a", "2026-01")
    git(checkout, "checkout", "-q", BRANCH)
    commit(checkout, path, "phase: sideways\n")
    git(checkout, "checkout", "-q", "main")
    reader = StateReader(await open_repository(checkout), {DEFAULT_SHARD: BRANCH})

    tasks, _ = await reader.load(["a"])

    assert tasks == {}
    assert reader.damaged["a"].path == path


@pytest.mark.parametrize("name", ["a", "web/fix", "a/b/c@2"])
def test_a_path_in_the_archive_names_its_task_and_none_other_does(name):
    path = archive_path(name, "2026-03")

    assert recorded_task(path) == name
    assert recorded_task(path.replace("2026-03", "march")) is None


async def test_after_a_rewind_an_archived_task_goes_on_with_an_attempt_that_was_never_given(open_state, bare):
    state = await open_state(bare)
    await state.commit([created("a"), completed("a"), archived("a")])
    (await state._recall()).attempts["a"] = 7

    found = await state.archived(["a"])

    assert found.statuses["a"] == archived("a").after.model_copy(update={"attempt": 7})

"""The specs of a branch, from real git: read as a whole or not at all, and only what changed."""

import asyncio
import os
import subprocess
from datetime import UTC, datetime

import pytest

from reconciler.core.errors import Unavailable
from reconciler.core.model.status import Phase, Status
from reconciler.git.objects import GitTree
from reconciler.git.repository import Repository
from reconciler.specs import build as fleet_room
from reconciler.specs import source as source_room
from reconciler.specs.build import build
from reconciler.specs.source import SpecSource, read_revision

NOW = datetime(2030, 1, 1, tzinfo=UTC)
GOOD = {
    "specs/repos/r.yaml": "url: /r\n",
    "specs/tasks/a.yaml": "goal: a\nscript: make\nrepo: r\n",
    "specs/tasks/b.yaml": "goal: b\nscript: make\n",
}


class Fleet:
    """A work tree of people who push."""

    def __init__(self, place):
        self.place = place
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        self.env = {**environment, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
        subprocess.run(["git", "init", "-q", "-b", "main", str(place)], env=self.env, check=True)

    def git(self, *args):
        person = ("-c", "user.name=Test", "-c", "user.email=test@example.org")
        command = ["git", "-C", str(self.place), *person, *args]
        return subprocess.run(
            command, env=self.env, check=True, capture_output=True, text=True
        ).stdout.strip()

    def push(self, files):
        for path, text in files.items():
            file = self.place / path
            file.parent.mkdir(parents=True, exist_ok=True)
            if text is None:
                file.unlink()
            else:
                file.write_text(text)
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", "specs")
        return self.git("rev-parse", "HEAD")


class Failing:
    """A tree of which one call fails, and which counts what is read."""

    def __init__(self, tree):
        self.tree = tree
        self.fail_at = None
        self.calls = 0
        self.read = []

    def _call(self):
        self.calls += 1
        if self.calls == self.fail_at:
            raise Unavailable("the disk is busy")

    async def head(self):
        self._call()
        return await self.tree.head()

    async def files(self, commit, under):
        self._call()
        return await self.tree.files(commit, under)

    async def changed(self, old, new, under):
        self._call()
        return await self.tree.changed(old, new, under)

    async def blobs(self, ids, *, limit):
        self._call()
        self.read += ids
        return await self.tree.blobs(ids, limit=limit)

    async def versions(self, commit, path, most):
        self._call()
        return await self.tree.versions(commit, path, most)


@pytest.fixture
def fleet(tmp_path):
    return Fleet(tmp_path / "fleet")


@pytest.fixture
async def tree(fleet, tmp_path):
    fleet.push(GOOD)
    async with await Repository.open(str(fleet.place), tmp_path / "cache") as repository:
        yield Failing(GitTree(repository, "main"))


async def fresh(tree):
    """Return what somebody sees who has just come, without any good version of before."""
    commit = await tree.head()
    return build(await read_revision(tree, commit), revision=commit)


def status(generation):
    return Status(phase=Phase.CREATED, since=NOW, created_at=NOW, generation=generation, work="")


async def test_the_first_look_reads_everything(tree):
    desired = await SpecSource(tree).read({})

    assert desired == await fresh(tree)
    assert set(desired.tasks) == {"a", "b"}
    assert desired.problems == ()


async def test_the_same_revision_is_the_same_object(tree):
    source = SpecSource(tree)
    before = await source.read({})
    tree.read.clear()

    assert await source.read({}) is before
    assert tree.read == []


async def test_only_what_changed_is_read(fleet, tree):
    source = SpecSource(tree)
    await source.read({})
    tree.read.clear()
    fleet.push({"specs/tasks/b.yaml": None, "specs/tasks/c.yaml": "goal: c\nscript: x\n", "code.py": "1"})

    desired = await source.read({})

    assert desired == await fresh(tree)
    assert set(desired.tasks) == {"a", "c"}
    assert tree.read[:1] == [desired.tasks["c"].generation]


@pytest.mark.parametrize("call", range(1, 6))
async def test_a_failed_read_changes_nothing_and_the_next_one_makes_up_for_it(fleet, tree, call):
    source = SpecSource(tree)
    before = await source.read({})
    fleet.push({"specs/tasks/a.yaml": "goal: [", "specs/tasks/b.yaml": None})
    tree.calls, tree.fail_at = 0, call

    try:
        failed = await source.read({})
    except Unavailable:
        failed = source._desired
        assert failed is before

    tree.fail_at = None
    desired = await source.read({})
    assert set(desired.tasks) == {"a"}
    assert desired.tasks["a"] == before.tasks["a"]
    assert set(desired.broken) == {"a"}


async def test_a_broken_file_keeps_its_last_good_version_also_after_a_restart(fleet, tree):
    source = SpecSource(tree)
    before = await source.read({})
    for number in range(3):
        fleet.push({"specs/tasks/a.yaml": f"goal: [{number}", "specs/repos/r.yaml": f"uri: /{number}\n"})

    stayed = await source.read({})
    restarted = await SpecSource(tree).read({})

    assert stayed == restarted
    assert stayed.tasks == before.tasks
    assert stayed.repos == before.repos
    assert set(stayed.broken) == {"a"}


async def test_the_version_that_was_in_force_comes_before_a_later_one_that_never_was(fleet, tree):
    first = (await SpecSource(tree).read({})).tasks["a"]
    fleet.push({"specs/tasks/a.yaml": "goal: never seen\nscript: make\n"})
    fleet.push({"specs/tasks/a.yaml": "goal: ["})

    desired = await SpecSource(tree).read({"a": status(first.generation)})

    assert desired.tasks["a"] == first


async def test_a_broken_file_without_any_good_version_stalls_only_itself(fleet, tree):
    fleet.push({"specs/tasks/new.yaml": "goal: [", "specs/hosts/new.yaml": "slots: x\n"})

    desired = await SpecSource(tree).read({"new": status("0" * 40)})

    assert set(desired.tasks) == {"a", "b"}
    assert set(desired.hosts) == {"local"}
    assert set(desired.broken) == {"new"}


async def test_a_mended_file_is_in_force_again(fleet, tree):
    source = SpecSource(tree)
    fleet.push({"specs/tasks/a.yaml": "goal: ["})
    await source.read({})
    fleet.push({"specs/tasks/a.yaml": "goal: fixed\nscript: make\n"})

    desired = await source.read({})

    assert desired.tasks["a"].goal == "fixed"
    assert desired.problems == ()


async def test_a_branch_that_was_rewritten_is_read_anew(fleet, tree):
    source = SpecSource(tree)
    await source.read({})
    source._built = "1" * 40  # a commit that is gone
    fleet.push({"specs/tasks/b.yaml": None})

    desired = await source.read({})

    assert desired == await fresh(tree)
    assert set(desired.tasks) == {"a"}


async def test_a_revision_with_too_many_files_leaves_the_one_before_in_force(fleet, tree, monkeypatch):
    source = SpecSource(tree)
    before = await source.read({})
    monkeypatch.setattr(fleet_room, "MAX_FILES", 3)
    fleet.push({"specs/tasks/c.yaml": "goal: c\nscript: x\n"})

    crowded = await source.read({})

    assert (crowded.revision, crowded.tasks) == (before.revision, before.tasks)
    assert [problem.path for problem in crowded.problems] == ["specs"]
    fleet.push({"specs/tasks/a.yaml": None})
    assert set((await source.read({})).tasks) == {"b", "c"}


async def test_links_and_large_files_are_told_of_and_not_read_whole(fleet, tree):
    (fleet.place / "specs/tasks/link.yaml").symlink_to("/etc/passwd")
    fleet.push({"specs/tasks/large.yaml": "#" * 300_000})

    desired = await SpecSource(tree).read({})

    assert [str(problem).partition("error: ")[2] for problem in desired.problems] == [
        "larger than 256 KiB",
        "a symbolic link is not followed; put the file itself here",
    ]


async def test_names_of_any_bytes_are_told_of_in_plain_characters(fleet, tree):
    name = b"specs/tasks/\xff\x1b[31m\n.yaml"
    with open(os.path.join(os.fsencode(fleet.place), name), "w") as file:  # noqa: ASYNC230, PTH118, PTH123 - bytes
        file.write("goal: x\n")
    fleet.push({})

    desired = await SpecSource(tree).read({})

    assert str(desired.problems[0]).isprintable()
    assert str(desired.problems[0]).startswith("specs/tasks/\\udcff\\x1b[31m\\n.yaml:1:1: error: unsafe name")


async def test_files_are_read_in_batches(tree, monkeypatch):
    monkeypatch.setattr(source_room, "BATCH", 1)

    desired = await SpecSource(tree).read({})

    assert tree.calls == 2 + len(GOOD)
    assert set(desired.tasks) == {"a", "b"}


async def test_a_task_is_recalled_as_it_was(fleet, tree):
    source = SpecSource(tree)
    before = (await source.read({})).tasks["a"]
    fleet.push(
        {"specs/tasks/a.yaml": "goal: else\nscript: make\n", "specs/repos/r.yaml": "url: /r\npriority: 9\n"}
    )
    await source.read({})

    recalled = await source.recall("a", before.generation)

    assert recalled == before.model_copy(update={"priority": 9})
    assert await source.recall("a", "0" * 40) is None


# --- Who asks ------------------------------------------------------------------


async def test_who_changed_a_task_is_known_until_the_record_answers(fleet, tree):
    source = SpecSource(tree, tree.tree.touched)

    first = await source.read({})
    known = {name: status(task.generation) for name, task in first.tasks.items()}
    fleet.push({"specs/tasks/a.yaml": "goal: other\nscript: echo\n"})
    second = await source.read(known)
    fleet.push({"specs/tasks/c.yaml": "goal: new\nscript: echo\n"})
    third = await source.read({**known, "a": status(second.tasks["a"].generation)})

    assert set(first.askers) == {"a", "b"}
    assert set(second.askers) == {"a"}
    assert set(third.askers) == {"c"}


async def test_who_took_a_task_away_while_nobody_looked_is_known(fleet, tree):
    fleet.push({"specs/tasks/a.yaml": None})
    source = SpecSource(tree, tree.tree.touched)

    await source.read({})
    desired = await source.read({"a": status("0" * 40), "b": status("1" * 40)})

    assert set(desired.askers) == {"a", "b"}


async def test_a_history_that_cannot_be_read_hides_no_specs(fleet, tree):
    async def unavailable(*_):
        raise Unavailable("shallow")

    desired = await SpecSource(tree, unavailable).read({})

    assert set(desired.tasks) == {"a", "b"}
    assert desired.askers == {}


async def test_a_commit_is_acted_on_before_anybody_gets_what_was_read_of_it(fleet, tree):
    acted_on, may_end = [], asyncio.Event()

    async def act_on(commit):
        acted_on.append(commit)
        await may_end.wait()

    reading = asyncio.create_task(SpecSource(tree, act_on=act_on).read({}))

    done, _ = await asyncio.wait([reading], timeout=0.2)
    assert not done
    may_end.set()
    assert (await reading).revision == acted_on[0]


async def test_a_commit_that_cannot_be_remembered_is_not_read_until_it_is(fleet, tree):
    refused = [Unavailable("the disk is full")]

    async def act_on(_):
        if refused:
            raise refused[0]

    source = SpecSource(tree, act_on=act_on)
    for _ in range(2):
        with pytest.raises(Unavailable, match="full"):
            await source.read({})
    refused.clear()

    assert set((await source.read({})).tasks) == {"a", "b"}

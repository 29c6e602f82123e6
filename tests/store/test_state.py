import asyncio
import hashlib
import os
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from reconciler.core.adapter import Usage
from reconciler.core.errors import Conflict, Unavailable, UsageError
from reconciler.core.events import Assigned, Completed, Origin, Removed, Renamed
from reconciler.core.lifecycle import Transition
from reconciler.core.model.runs import run_key
from reconciler.core.model.status import HostStatus, OnHost, Phase, Reason, Waiting
from reconciler.core.names import DEFAULT_SHARD
from reconciler.git.upkeep import keep_up, lacks_graph
from reconciler.store import statuses
from reconciler.store.history import read_history
from reconciler.store.last_transitions import last_transitions
from reconciler.store.reader import StateReader
from tests.store.world import BRANCH, NOW, REVISION, commit, created, git, spec, start, started, status


def line(place: Path, branch: str = BRANCH) -> list[str]:
    """Return the subjects on the state branch, oldest first."""
    return git(place, "log", "--reverse", "--format=%s", branch).splitlines()


async def test_the_first_start_makes_an_orphan_branch_with_the_id_of_the_fleet(open_repository, bare):
    repository = await open_repository(bare)
    assert await StateReader(repository, {DEFAULT_SHARD: BRANCH}).fleet_id("a") is None

    state = await start(repository, token="aaaabbbbcccc")
    await state.close()
    again = await start(repository, token="another0id00")
    await again.close()

    assert state.fleet_id == again.fleet_id == "aaaabbbbcccc"
    assert await StateReader(repository, {DEFAULT_SHARD: BRANCH}).fleet_id("a") == "aaaabbbbcccc"
    assert git(bare, "rev-list", "--count", BRANCH) == "1"
    assert git(bare, "merge-base", "--all", "main", "main") != git(bare, "rev-parse", BRANCH)


async def test_an_existing_branch_gets_the_id_on_top(open_state, checkout, bare):
    git(checkout, "push", "-q", str(bare), "main:fleet-state")

    state = await open_state(bare)

    assert line(bare) == ["specs", "fleet: first start"]
    assert git(bare, "show", f"{BRANCH}:fleet-state/fleet.yaml") == f'id: "{state.fleet_id}"'
    assert git(bare, "show", f"{BRANCH}:specs/tasks/a.yaml") == "goal: a"


async def test_the_state_branch_may_be_the_specs_branch_of_a_bare_repository(open_state, checkout, bare):
    state = await open_state(bare, branch="main")
    commit(checkout, "specs/tasks/b.yaml", "goal: b\n")
    git(checkout, "pull", "-q", "--rebase", str(bare), "main")
    git(checkout, "push", "-q", str(bare), "main")

    with pytest.raises(Conflict):
        await state.commit([created("a")])
    await state.load()
    await state.commit([created("a")])

    assert line(bare, "main") == ["specs", "fleet: first start", "edit", "task a: created"]


async def test_a_transition_is_one_commit_and_reading_it_back_gives_the_same_state(open_state, bare):
    state = await open_state(bare)

    await state.commit([created("web/a"), created("b")])
    await state.commit([started("web/a")])

    tasks, hosts = await state.load()
    assert tasks == {"web/a": started("web/a").after, "b": status()}
    assert hosts == {}
    assert line(bare) == [
        "fleet: first start",
        "task web/a: created",
        "task b: created",
        "task web/a: assigned → running",
    ]
    assert git(bare, "fsck", "--full", "--strict") == ""


async def test_the_same_state_again_makes_no_commit(open_state, bare):
    state = await open_state(bare)
    await state.commit([created("a")])
    before = git(bare, "rev-parse", BRANCH)

    await state.commit([created("a"), created("a")])
    await state.commit([])

    assert git(bare, "rev-parse", BRANCH) == before


async def test_each_transition_names_the_one_before_it_within_a_batch_and_across_restarts(
    open_repository, bare
):
    repository = await open_repository(bare)
    for attempt in (1, 2):
        state = await start(repository)
        await state.load()
        await state.commit([replace(created("a"), after=status(attempt=attempt)), created(f"b{attempt}")])
        await state.commit([started("a", attempt), started("a", attempt + 10), created(f"c{attempt}")])
        await state.commit([started("a", attempt + 20)])
        await state.close()

    told = git(
        bare, "log", "--format=%H %(trailers:key=Prev-Transition,valueonly)", "--grep=^Task: a$", BRANCH
    )

    pairs = [row.split() for row in told.splitlines() if row]
    assert len(pairs) == 8
    assert [before for _, *before in pairs] == [[commit] for commit, *_ in pairs[1:]] + [[]]


async def test_a_renamed_task_takes_its_file_and_its_history_along(open_state, open_repository, bare):
    state = await open_state(bare)
    await state.commit([created("old"), started("old")])
    event = Renamed(task="new/name", old="old", origin=Origin(NOW, "the file moved"))
    running = started("old").after

    await state.commit([Transition("new/name", running, running, event)])
    await state.commit(
        [
            Transition(
                "new/name",
                running,
                None,
                Removed(task="new/name", origin=Origin(NOW, "gone")),
            )
        ]
    )

    assert (await state.load())[0] == {}
    told = await read_history(await open_repository(bare), BRANCH, "new/name")
    assert [(entry.task, entry.before, entry.after) for entry in told] == [
        ("new/name", "running", None),
        ("new/name", "running", "running"),
        ("old", "assigned", "running"),
        ("old", None, "created"),
    ]


async def test_callers_at_the_same_time_share_a_batch_and_each_is_answered(open_state, bare):
    state = await open_state(bare)

    await asyncio.gather(*(state.commit([created(f"t{number}")]) for number in range(50)))

    assert len((await state.load())[0]) == 50
    assert len(list((bare / "objects" / "pack").glob("*.pack"))) < 10


async def test_a_caller_that_gives_up_leaves_the_others_in_peace(open_state, bare):
    state = await open_state(bare)
    impatient = asyncio.create_task(state.commit([created("a")]))
    patient = asyncio.create_task(state.commit([created("b")]))
    await asyncio.sleep(0)

    impatient.cancel()
    await patient

    assert "b" in (await state.load())[0]


async def test_somebody_elses_commit_is_a_conflict_and_nothing_of_the_batch_is_recorded(
    open_state, bare, tmp_path
):
    state = await open_state(bare)
    await state.commit([created("a")])
    other = tmp_path / "other"
    git(tmp_path, "clone", "-q", "-b", BRANCH, str(bare), str(other))
    commit(other, "fleet-state/tasks/b.yaml", statuses.dump_status(status()).decode(), "by hand")
    git(other, "push", "-q")

    for _ in range(2):
        with pytest.raises(Conflict, match="somebody else wrote"):
            await state.commit([created("c"), created("d")])

    tasks, _ = await state.load()
    assert set(tasks) == {"a", "b"}
    await state.commit([created("c")])
    assert line(bare)[-2:] == ["by hand", "task c: created"]


async def test_a_writer_goes_on_when_the_git_behind_it_was_killed(open_state, bare):
    state = await open_state(bare)
    await state.commit([created("a")])

    state._writer._stream._process.kill()
    state._writer._stream._process.wait()
    await state.commit([created("b")])

    assert line(bare)[1:] == ["task a: created", "task b: created"]


async def test_a_batch_is_written_although_somebody_pruned_the_pack_it_went_to(open_state, bare):
    state = await open_state(bare)
    await state.commit([created("first")])

    git(bare, "prune", "--expire=now")
    await state.commit([created("second")])

    assert git(bare, "log", "--format=%s", "-1", BRANCH) == "task second: created"
    assert git(bare, "fsck", "--full", "--strict", "--no-dangling") == ""


async def test_a_ref_that_cannot_be_moved_is_unavailable_in_gits_own_words(open_state, bare):
    state = await open_state(bare)
    lock = bare / "refs" / "heads" / f"{BRANCH}.lock"
    lock.touch()

    with pytest.raises(Unavailable, match=r"could not be moved: .*\.lock"):
        await state.commit([created("a")])
    lock.unlink()
    await state.commit([created("a")])

    assert line(bare)[1:] == ["task a: created"]


async def test_a_failed_batch_leaves_no_crash_report_of_git_behind(open_state, bare):
    state = await open_state(bare)
    await state.commit([created("a")])
    packs = bare / "objects" / "pack"
    moved = packs.rename(bare / "objects" / "moved")
    packs.touch()

    with pytest.raises(Unavailable, match="cannot be written: fatal: "):
        await state.commit([created("b")])
    packs.unlink()
    moved.rename(packs)
    await state.commit([created("b")])

    assert line(bare)[1:] == ["task a: created", "task b: created"]
    assert [path.name for path in bare.iterdir() if "crash" in path.name] == []


async def test_a_second_writer_is_refused_with_the_pid_of_the_first(open_state, open_repository, bare):
    await open_state(bare)
    held = await open_repository(bare)

    script = (
        "import asyncio, sys; from pathlib import Path\n"
        "from reconciler.git.repository import Repository\n"
        "from reconciler.store.writer import Writer\n"
        "async def main():\n"
        "    async with await Repository.open(sys.argv[1], Path('/')) as repository:\n"
        "        await Writer.open(repository, 'fleet-state')\n"
        "asyncio.run(main())"
    )
    second = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(held.git_dir), stderr=asyncio.subprocess.PIPE
    )
    _, said = await second.communicate()

    assert b"UsageError: another reconciler (pid %d) writes to fleet-state" % os.getpid() in said


async def test_a_lock_that_a_killed_writer_left_does_not_stop_the_next(open_repository, bare):
    repository = await open_repository(bare)
    state = await start(repository)
    await state.close()
    (bare / "refs" / "heads" / f"{BRANCH}.lock").touch()

    state = await start(repository)
    await state.commit([created("a")])
    await state.close()

    assert line(bare)[1:] == ["task a: created"]


async def test_a_lock_left_on_a_mark_is_removed_at_the_next_start(open_repository, bare):
    lock = bare / "refs" / "fleet" / "specs" / "team" / "main.lock"
    lock.parent.mkdir(parents=True)
    lock.touch()

    await (await start(await open_repository(bare))).close()

    assert not lock.exists()


async def test_a_branch_that_somebody_works_on_is_refused(open_repository, checkout):
    git(checkout, "checkout", "-q", "-b", BRANCH)
    repository = await open_repository(checkout)

    with pytest.raises(UsageError, match=f"{BRANCH} is checked out in {checkout}"):
        await start(repository)


async def test_nothing_is_written_while_somebody_has_the_branch_checked_out(open_state, checkout, tmp_path):
    state = await open_state(checkout)
    elsewhere = tmp_path / "elsewhere"
    git(checkout, "worktree", "add", "-q", str(elsewhere), BRANCH)

    with pytest.raises(Unavailable, match=f"{BRANCH} is checked out in {elsewhere}"):
        await state.commit([created("a")])
    assert git(elsewhere, "status", "--porcelain") == ""
    git(elsewhere, "checkout", "-q", "--detach")
    await state.commit([created("a")])

    assert git(checkout, "log", "-1", "--format=%s", BRANCH) == "task a: created"
    assert git(elsewhere, "status", "--porcelain") == ""


async def test_index_and_work_tree_of_a_checkout_are_the_same_byte_for_byte(open_state, checkout):
    (checkout / "draft").write_text("not added\n")
    (checkout / "specs/tasks/a.yaml").write_text("goal: edited\n")
    before = fingerprint(checkout)

    state = await open_state(checkout)
    await state.commit([created("a")])
    await state.load()

    assert fingerprint(checkout) == before


def fingerprint(checkout: Path) -> dict[str, str]:
    files = [path for path in checkout.rglob("*") if path.is_file() and ".git" not in path.parts]
    watched = [*files, checkout / ".git/index", checkout / ".git/HEAD", checkout / ".git/refs/heads/main"]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in watched}


async def test_hosts_on_record_are_read_and_other_files_are_left_alone(open_state, checkout):
    git(checkout, "checkout", "-q", "-b", BRANCH)
    known = HostStatus(reachable=False, since=NOW, message="no route")
    commit(checkout, "fleet-state/hosts/gpu.yaml", statuses.dump_status(known).decode())
    commit(checkout, "fleet-state/README.md", "for people\n")
    git(checkout, "checkout", "-q", "main")

    tasks, hosts = await (await open_state(checkout)).load()

    assert (tasks, hosts) == ({}, {"gpu": known})


async def test_a_damaged_status_names_its_file_and_what_was_good_is_read_once_it_is_mended(
    open_repository, bare, checkout
):
    git(checkout, "checkout", "-q", "-b", BRANCH)
    repository = await open_repository(checkout)
    reader = StateReader(repository, {DEFAULT_SHARD: BRANCH})
    good = statuses.dump_status(status()).decode()
    commit(checkout, "fleet-state/tasks/a.yaml", good)
    await reader.load()
    commit(checkout, "fleet-state/tasks/b.yaml", "phase: nowhere\n")

    while_damaged = set((await reader.load())[0])
    problem = reader.damaged["b"]
    commit(checkout, "fleet-state/tasks/b.yaml", good)

    assert while_damaged == {"a"}
    assert str(problem).startswith("fleet-state/tasks/b.yaml:1:1: error: phase: ")
    assert set((await reader.load())[0]) == {"a", "b"}
    assert reader.damaged == {}


DAMAGE = [
    b"",
    b"\0\xff\xfe",
    b"[]\n",
    b"- a\n",
    b"phase: created\n",
    b"since: 9999-12-31T23:59:59-12:00\n",
    b"attempt: 1" + b"0" * 5000 + b"\n",
    b"a: &a [*a]\n",
    b"[" * 5000,
    b"!!python/object/apply:os.system [id]\n",
    b"2030-99-99: 1\n",
    b"x" * (1 << 20) + b"\n",
]


@pytest.mark.parametrize("content", DAMAGE, ids=[repr(each[:12]) for each in DAMAGE])
@pytest.mark.parametrize("name", ["tasks/b", "hosts/gpu"])
async def test_whatever_stands_in_a_status_file_the_others_are_read(open_repository, checkout, content, name):
    commit(checkout, "fleet-state/tasks/a.yaml", statuses.dump_status(status()).decode())
    path = checkout / f"fleet-state/{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    git(checkout, "add", ".")
    git(checkout, "commit", "-q", "-m", "damage")
    reader = StateReader(await open_repository(checkout), {DEFAULT_SHARD: "main"})

    tasks, hosts = await reader.load()

    assert (set(tasks), hosts) == ({"a"}, {})
    assert set(reader.damaged) == ({"b"} if name == "tasks/b" else set())


async def test_an_object_that_is_gone_or_corrupt_is_a_damaged_file_and_no_more(open_repository, checkout):
    for name in ("a", "b", "c"):
        waits = Waiting(reason=Reason.SLOT, message=name, since=NOW)
        text = statuses.dump_status(status().model_copy(update={"waiting": waits})).decode()
        commit(checkout, f"fleet-state/tasks/{name}.yaml", text)
    for name, content in (("b", None), ("c", b"rubbish")):
        blob = git(checkout, "rev-parse", f"main:fleet-state/tasks/{name}.yaml").strip()
        loose = checkout / ".git/objects" / blob[:2] / blob[2:]
        loose.unlink()
        if content:
            loose.write_bytes(content)
    reader = StateReader(await open_repository(checkout), {DEFAULT_SHARD: "main"})

    tasks, _ = await reader.load()

    assert set(tasks) == {"a"}
    assert set(reader.damaged) == {"b", "c"}


async def test_a_fleet_whose_id_is_damaged_is_the_one_it_was(open_repository, open_state, checkout):
    first = (await open_state(checkout)).fleet_id
    git(checkout, "checkout", "-q", BRANCH)
    commit(checkout, "fleet-state/fleet.yaml", "id: [\n")
    commit(checkout, "fleet-state/fleet.yaml", "")

    assert await StateReader(await open_repository(checkout), {DEFAULT_SHARD: BRANCH}).fleet_id("a") == first


async def test_a_symbolic_link_in_the_state_is_not_followed(open_repository, checkout):
    (checkout / "fleet-state/tasks").mkdir(parents=True)
    (checkout / "fleet-state/tasks/a.yaml").symlink_to("/etc/passwd")
    git(checkout, "add", ".")
    git(checkout, "commit", "-q", "-m", "link")

    reader = StateReader(await open_repository(checkout), {DEFAULT_SHARD: "main"})
    tasks, _ = await reader.load()

    assert tasks == {}
    assert "not a regular file" in reader.damaged["a"].message


async def test_a_name_that_leads_out_of_the_folder_is_never_written(open_state, bare):
    state = await open_state(bare)

    for name in ("../../specs/tasks/a", "a\nM 100644 inline b", "-x", "a/.git/b"):
        with pytest.raises(ValueError, match="unsafe name"):
            await state.commit([created(name)])

    assert line(bare) == ["fleet: first start"]


async def test_upkeep_joins_packs_and_writing_goes_on_beside_it(open_state, bare):
    state = await open_state(bare)
    for number in range(12):
        await state.commit([created(f"t{number}")])

    await asyncio.gather(
        state._writer.tidy(), *(state.commit([created(f"u{number}")]) for number in range(9))
    )
    await state.commit([created("last")])

    assert len(list((bare / "objects" / "pack").glob("*.pack"))) < 12
    assert (bare / "objects/info/commit-graphs/commit-graph-chain").exists()
    assert len((await state.load())[0]) == 22
    assert git(bare, "fsck", "--full", "--strict") == ""


async def test_upkeep_that_was_killed_is_done_by_the_next(open_state, bare):
    state = await open_state(bare)
    for number in range(3):
        await state.commit([created(f"t{number}")])
    objects = bare / "objects"
    (objects / "info/commit-graphs").mkdir(parents=True, exist_ok=True)
    old, new = (
        [
            objects / f"pack/multi-pack-index.lock{end}",
            objects / f"info/commit-graphs/commit-graph-chain.lock{end}",
            objects / f"pack/tmp_pack_{end or 'old'}",
        ]
        for end in ("", ".new")
    )
    for left in (*old, *new):
        left.write_bytes(b"left")
    for left in old:
        os.utime(left, (0, 0))

    await state._writer.tidy()
    await state.commit([created("last")])

    assert [left for left in (*old, *new) if left.exists()] == new
    assert (objects / "info/commit-graphs/commit-graph-chain").exists()
    assert len(list((objects / "pack").glob("pack-*.pack"))) == 2


async def test_upkeep_may_be_cut_off_at_any_moment_and_two_may_be_at_it(open_state, bare):
    state = await open_state(bare)
    git(bare, "config", "gc.auto", "0")
    for number in range(24):
        await state.commit([created(f"t{number}")])
        upkeep = asyncio.create_task(state._writer.tidy())
        for _ in range(number):
            await asyncio.sleep(0)
        upkeep.cancel()
        await asyncio.wait([upkeep])
    for lock in (bare / "objects").rglob("*.lock"):
        os.utime(lock, (0, 0))
    done = await asyncio.gather(*(keep_up(state._repository.git, bare) for _ in range(2)))
    theirs = await asyncio.create_subprocess_exec("git", "-C", str(bare), "gc", "-q")
    await state.commit([created("beside")])
    await theirs.wait()
    await state.commit([created("last")])

    assert done == [True, False]
    assert theirs.returncode == 0
    assert len((await state.load())[0]) == 26
    assert git(bare, "fsck", "--full", "--strict") == ""


async def test_a_graph_that_knows_no_paths_is_replaced_by_one_that_does(
    open_repository, open_state, bare, monkeypatch
):
    monkeypatch.setattr("reconciler.git.upkeep._LARGE_INDEX", 1000)
    earlier = await start(await open_repository(bare))
    for number in range(3):
        await earlier.commit([created(f"t{number}")])
    await earlier.close()
    git(bare, "-c", "gc.writeCommitGraph=true", "gc", "-q")
    assert lacks_graph(bare)

    state = await open_state(bare)
    await state.commit([created("last")])
    await asyncio.wait([state._writer._upkeep])

    assert not lacks_graph(bare)
    assert git(bare, "commit-graph", "verify") == ""


async def test_trailers_say_what_git_log_is_asked_for(open_state, bare):
    state = await open_state(bare)
    await state.commit([created("a"), started("a")])

    asked = "%(trailers:key=Task,key=From,key=To,key=Run,key=Host,key=Cause,key=Spec-Revision,separator=|)"

    assert git(bare, "log", "-1", f"--format={asked}", BRANCH) == (
        f"Task: a|From: assigned|To: running|Run: a.ga1a1a1a1.a1|Host: local|Cause: host"
        f"|Spec-Revision: {REVISION}"
    )
    assert started("a").after.phase is Phase.RUNNING


# --- What was before -------------------------------------------------------


def assigned(name, attempt):
    """Return the step by which a task gets its run."""
    run = run_key(name, "a1" * 20, attempt)
    before = status(attempt=attempt - 1)
    after = status(Phase.ASSIGNED, attempt=attempt, run=run, assigned_host="local")
    event = Assigned(
        task=name, origin=Origin(NOW, "placed"), run=run, holder=OnHost(host="local"), spec=spec(name)
    )
    return Transition(name, before, after, event)


def removed(name, attempt):
    """Return the step by which a task that had runs goes."""
    before = assigned(name, attempt).after.model_copy(update={"removed": True})
    return Transition(
        name,
        before,
        None,
        Removed(task=name, origin=Origin(NOW, "gone")),
    )


async def test_the_attempts_of_a_task_are_known_after_it_is_gone_and_after_a_restart(open_repository, bare):
    repository = await open_repository(bare)
    state = await start(repository)
    before = await state.past_attempts(["a", "b", "c"])
    await state.commit([created("a"), assigned("a", 1), created("web/b")])
    await state.commit([removed("a", 1), created("a"), assigned("a", 2), removed("a", 2)])
    known = await state.past_attempts(["a", "web/b", "c"])
    await state.close()

    again = await start(repository)
    await again.load()
    recalled = await again.past_attempts(["a", "web/b", "c"])
    await again.close()

    assert before == {}
    assert known == recalled == {"a": 2}


async def test_attempts_are_those_of_the_name_that_the_runs_had(open_state, bare, open_repository):
    state = await open_state(bare)
    old, new = assigned("a", 3).after, assigned("b", 4)
    moved = Transition(
        "b",
        old,
        old,
        Renamed(task="b", old="a", origin=Origin(NOW, "moved")),
    )
    await state.commit([created("a"), assigned("a", 3), moved, new, created("a"), assigned("a", 4)])
    await state.commit([Transition("b", new.after, old, new.event)])

    found = await last_transitions(await open_repository(bare), git(bare, "rev-parse", BRANCH))

    assert await state.past_attempts(["a", "b"]) == found.attempts == {"a": 4, "b": 4}


async def test_a_status_that_somebody_deleted_by_hand_left_its_attempts(open_repository, bare, tmp_path):
    repository = await open_repository(bare)
    state = await start(repository)
    await state.commit([created("a"), assigned("a", 5)])
    git(tmp_path, "clone", "-q", "-b", BRANCH, str(bare), "clone")
    commit(tmp_path / "clone", "fleet-state/tasks/a.yaml", None, "forget a")
    git(tmp_path / "clone", "push", "-q")

    await state.load()
    known = await state.past_attempts(["a"])
    await state.close()

    assert known == {"a": 5}


async def test_what_was_spent_is_told_by_whose_money_it_was(open_state, bare):
    state = await open_state(bare)
    usage = Usage(output_tokens=10, cost_usd=0.5)
    place = {"assigned_host": "far", "adapter": "codex", "repo": "shop"}
    before, after = status(Phase.RUNNING, **place), status(Phase.COMPLETED, usage=usage, **place)
    done = Transition(
        "a",
        before,
        after,
        Completed(task="a", origin=Origin(NOW, "done")),
    )

    await state.commit([created("a"), done])

    whose = (("fleet", "fleet"), ("repo", "shop"), ("adapter", "codex"), ("host", "far"))
    assert await state.spent(NOW) == dict.fromkeys(whose, usage)
    assert await state.spent(NOW + timedelta(seconds=1)) == {}

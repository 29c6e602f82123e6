"""
What sweeping takes from a host and from our logs, and what it leaves.
"""

import asyncio
import contextlib
import os
import shutil
from datetime import timedelta

import pytest

from reconciler.core.model.runs import FailureClass
from reconciler.core.model.specs import Host
from reconciler.core.model.status import Phase
from reconciler.dispatch.local import LocalTransport
from tests import processes
from tests.dispatch.world import (
    LOCAL,
    NOW,
    RUN,
    World,
    ended,
    git,
    make_runs,
    needs_of,
    run,
    seen,
    start,
    sweep,
    until,
)
from tests.dispatch.world import finish as follow


@pytest.fixture
def world(tmp_path) -> World:
    return World(tmp_path / "a world")


@contextlib.asynccontextmanager
async def live(world: World, key: str, word: str):
    """Let a run go on that nobody follows; end it at the end."""
    order = world.order(f": {word}; echo x >x; while :; do sleep 0.1; done", run=key, repo=None)
    dispatcher, facts = world.dispatcher(), asyncio.Queue()
    dispatcher.follow(order, facts.put_nowait)
    await seen(facts)
    await until(lambda: processes.with_word(word))
    await dispatcher.close()
    yield order
    dispatcher = world.dispatcher()
    dispatcher.stop(order, "the test is over", facts.put_nowait)
    await ended(facts)
    await dispatcher.close()


def workspaces(world: World) -> list[str]:
    return sorted(path.name for path in (world.data / "host/f1/work").iterdir())


def run_folders(world: World) -> list[str]:
    return sorted(path.name for path in (world.data / "host/f1/runs").iterdir() if path.is_dir())


# --- On a host ---------------------------------------------------------------


async def test_what_open_tasks_need_and_what_is_alive_stays(world):
    for name in ("kept", "old"):
        await world.carry_out(world.order("true", run=f"{name}.g1.a1", validation=("true",)))

    async with live(world, "live.g1.a1", "nobody"):
        await sweep(world, needs_of("kept.g1.a1"))

        assert workspaces(world) == ["kept.g1.a1", "live.g1.a1"]
        assert run_folders(world) == ["kept.g1.a1.r1", "kept.g1.a1.r1v", "live.g1.a1.r1"]


async def test_a_live_run_whose_task_has_moved_on_is_stopped_and_swept(world):
    word = f"moved{os.getpid()}on"

    async with live(world, "web/a.g1.a1", word):
        await sweep(world, needs_of("web/a.g1.a2"))

        assert processes.with_word(word) == []
        assert (workspaces(world), run_folders(world)) == ([], [])


@pytest.mark.parametrize("on_record", [(), ("web/a.g1.a1",), ("web/b.g1.a7",)])
async def test_a_live_run_that_is_asked_for_or_was_let_go_of_goes_on(world, on_record):
    word = f"goes{os.getpid()}on"

    async with live(world, "web/a.g1.a1", word):
        await sweep(world, needs_of(*on_record))

        assert len(processes.with_word(word)) == 1
        assert workspaces(world) == ["web+a.g1.a1"]


async def test_a_stale_run_that_is_still_followed_ends_for_its_follower_too(world):
    dispatcher, facts = world.dispatcher(), asyncio.Queue()
    order = world.order("while :; do sleep 0.1; done", run="a.g1.a1", repo=None)
    dispatcher.follow(order, facts.put_nowait)
    await seen(facts)

    await dispatcher.sweep(LOCAL, lambda: needs_of("a.g1.a2"))
    report = await ended(facts)
    await dispatcher.close()

    assert report.verdict.kind == FailureClass.CANCELLED


async def test_failed_runs_go_for_want_of_room_the_oldest_first(world):
    names = ["a.g1.a1", "b.g1.a1", "c.g1.a1"]
    for name in names:
        await world.carry_out(world.order("head -c 700000 /dev/zero >big; exit 1", run=name, repo=None))

    left = []
    for mb in (100, 1, 0):
        await sweep(world, needs_of(*names, phase=Phase.FAILED, mb=mb))
        left.append((workspaces(world), len(run_folders(world))))

    assert left == [(names, 3), (names[:1], 1), ([], 0)]


async def test_what_a_step_that_was_killed_had_on_its_way_goes_with_its_run_and_not_before(world):
    await world.carry_out(world.order("true", run="web/a.g1.a1"))
    scratch = world.data / "host/f1/scratch"
    for name in ("web+a.g1.a1", "web+b.g1.a1"):
        (scratch / name).mkdir()
        (scratch / name / "out.lock").touch()

    await sweep(world, needs_of("web/a.g1.a1"))

    assert sorted(path.name for path in scratch.iterdir()) == ["web+a.g1.a1"]


async def test_nothing_is_beside_the_workspaces_at_any_moment_that_a_sweep_could_take_for_one(world):
    tools = world.folder / "tools"
    tools.mkdir()
    for name in ("git", "cat", "mv", "wc"):
        (tools / name).write_text(
            f"#!/bin/sh\nls '{world.data}/host/f1/work' >>'{world.journal}' 2>/dev/null\n"
            f'exec {shutil.which(name)} "$@"\n'
        )
        (tools / name).chmod(0o755)
    env = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"}
    world.transport = LocalTransport(world.data / "host", env)
    far = Host(name="far", address="127.0.0.1", workdir=".")

    for host in (LOCAL, far):
        await world.carry_out(world.order("echo x >x", run="web/a.g1.a1", host=host, validation=("true",)))
        await sweep(world, needs_of())

    assert set(world.noted) == {"web+a.g1.a1"}


async def test_any_number_of_runs_is_swept(world):
    await world.carry_out(world.order("true", repo=None))
    for number in range(700):
        (world.data / f"host/f1/runs/{'x' * 60}{number}.g12345678.a1.r1").mkdir()
        (world.data / f"host/f1/work/{'x' * 60}{number}.g12345678.a1").mkdir()

    await sweep(world, needs_of())

    assert (workspaces(world), run_folders(world)) == ([], [])


async def test_a_run_that_ends_after_the_events_were_cut_short_is_noticed(tmp_path):
    runs, gate = make_runs(tmp_path), tmp_path / "gate"
    await run(runs, "old.r1", "true")
    state = await start(runs, "a.r1", f"while [ ! -e '{gate}' ]; do sleep 0.05; done; exit 3")
    events = tmp_path / "host/fleet/runs/events"
    following = asyncio.create_task(follow(runs, "a.r1", state))

    def is_read() -> bool:
        with events.open("a") as file:
            file.write("before.g12345678.a1.r1 0\n" * 3000)
        return bool(runs._follower._ended)

    await until(is_read)

    await runs.remove(["old.r1"])
    size = events.stat().st_size
    gate.touch()
    end = await following
    await runs.close()

    assert (size, end.exit_code) == (0, 3)
    assert events.read_text() == "a.r1 3\n"


# --- In the data folder --------------------------------------------------------


def make_log(world: World, key: str, *, age: timedelta, size: int = 1000) -> None:
    folder = world.data / "logs" / f"{key.replace('/', '+')}.r1"
    folder.mkdir(parents=True)
    (folder / "out").write_bytes(bytes(size))
    written = (NOW - age).timestamp()
    for path in (folder / "out", folder):
        os.utime(path, (written, written))


def logs(world: World) -> list[str]:
    return sorted(path.name for path in (world.data / "logs").iterdir())


async def test_logs_go_when_they_are_old_but_for_those_of_open_tasks(world):
    for name in ("fresh.g1.a1", "web/open.g1.a1", "web/open.g1.a2"):
        make_log(world, name, age=timedelta(days=29))
    for name in ("old.g1.a1", "web/open.g0.a1"):
        make_log(world, name, age=timedelta(days=31))

    await sweep(world, needs_of("web/open.g1.a2", phase=Phase.CREATED))

    assert logs(world) == ["fresh.g1.a1.r1", *(f"web+open.{run}.r1" for run in ("g0.a1", "g1.a1", "g1.a2"))]


async def test_logs_go_for_want_of_room_the_oldest_first(world):
    for age, name in enumerate(("a", "b", "c", "open"), 1):
        make_log(world, f"{name}.g1.a1", age=timedelta(hours=age), size=400_000)

    await sweep(world, needs_of("open.g1.a1"), keep_logs_mb=1)

    assert logs(world) == ["a.g1.a1.r1", "open.g1.a1.r1"]


async def test_logs_of_a_run_that_is_followed_stay(world):
    make_log(world, "a.g1.a1", age=timedelta(days=99))
    dispatcher, facts = world.dispatcher(), asyncio.Queue()
    dispatcher.follow(world.order("sleep 100", run="a.g1.a1", repo=None), facts.put_nowait)
    await seen(facts)

    await dispatcher.sweep(LOCAL, needs_of)
    left = logs(world)
    dispatcher.stop(world.order("", run="a.g1.a1", repo=None), "the test is over", facts.put_nowait)
    await ended(facts)
    await dispatcher.close()

    assert left == ["a.g1.a1.r1"]


def test_a_batch_of_the_longest_names_fits_on_a_command_line():
    from reconciler.core.names import NAME_LENGTH
    from reconciler.dispatch.protocol import batches

    names = ["x" * (NAME_LENGTH + 40)] * 1000

    assert sum(len(batch) for batch in batches(names)) == 1000
    assert all(len(" ".join(batch)) < 100_000 for batch in batches(names))


async def test_work_that_was_never_delivered_is_not_removed_without_a_word(world, caplog):
    await world.carry_out(world.order("echo half >half; exit 1"))
    delivered = RUN.replace("a1", "a2")
    await world.carry_out(world.order("echo whole >whole", run=delivered))
    work = world.data / "host" / "f1" / "work"
    commit = git(work / "web+fix.g12345678.a1", "rev-parse", "HEAD")

    await sweep(world, needs_of())

    told = [record.getMessage() for record in caplog.records if "never delivered" in record.getMessage()]
    assert told == [
        (
            f"host local: the workspace of {RUN} was removed, with work that was never delivered: "
            f"commit {commit[:12]}"
        )
    ]

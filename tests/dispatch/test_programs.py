"""
The programs that steps on a host start: each costs more than all that a shell does by itself.
"""

import asyncio
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest

from reconciler.dispatch.local import LocalTransport
from reconciler.dispatch.protocol import Stage, agent_job, payload
from reconciler.dispatch.scripts import Scripts
from tests.dispatch.world import QUICK, RUN, World, ended, finish, make_runs, seen, start, until

PROGRAMS = (
    "cat",
    "cut",
    "env",
    "grep",
    "head",
    "ln",
    "mkdir",
    "mv",
    "perl",
    "rm",
    "sed",
    "sha256sum",
    "tr",
    "wc",
)


class Counted:
    """A host on which each of these programs notes its name before it does what it is for."""

    def __init__(self, folder: Path) -> None:
        self._notes = folder / "notes"
        self._tools = tools = folder / "tools"
        tools.mkdir()
        for name in PROGRAMS:
            text = f'#!/bin/sh\necho {name} >>{self._notes}\nexec {shutil.which(name)} "$@"\n'
            (tools / name).write_text(text)
            (tools / name).chmod(0o755)
        environ = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"}
        self.transport = LocalTransport(folder / "host", environ)

    def replace(self, name: str, text: str) -> None:
        """Let a program do something else."""
        (self._tools / name).write_text(f"#!/bin/sh\nNOTES={self._notes}\n{text}\n")

    def take(self) -> list[str]:
        """Return which programs were started since the last look."""
        names = sorted(self._notes.read_text().split()) if self._notes.exists() else []
        self._notes.unlink(missing_ok=True)
        return names


@pytest.fixture
def counted(tmp_path: Path) -> Counted:
    return Counted(tmp_path)


async def test_scripts_that_are_in_their_place_are_summed_and_nothing_else(tmp_path, counted):
    runs = make_runs(tmp_path, counted.transport)
    await runs.install_scripts_then_stat("a.r1")
    counted.take()

    was_changed, state, _ = await runs.install_scripts_then_stat("a.r1")

    assert (was_changed, state.stage) == (False, Stage.ABSENT)
    assert counted.take() == ["sha256sum"]


@pytest.mark.parametrize("perl", ["working", "broken"])
async def test_an_order_that_was_cut_on_its_way_is_refused_and_starts_nothing(tmp_path, counted, perl):
    if perl == "broken":
        counted.replace("perl", "exit 1")
    runs = make_runs(tmp_path, counted.transport)
    await runs.install_scripts()
    (wrapper,) = (tmp_path / "host" / "bin").glob("wrapper-*")
    order = payload(agent_job(["true"], env={}, folder="/"), b"prompt", seal="5ea1")
    script = payload(agent_job(["true"], env={}, folder="/"), seal="5ea1")
    limits = ("60", "TERM", "1", "sh", "10ck")

    for whole in (order, script):
        for cut in (len(whole) - 1, len(whole) - 3, len(whole) // 2, whole.index(b"\n") + 1, 3, 0):
            argv = ("sh", str(wrapper), "start", "./runs", "a.r1", *limits)
            answer = await counted.transport.call(argv, whole[:cut], timeout=60)
            assert answer.stdout.startswith(b"E "), (cut, answer)
            assert list((tmp_path / "host" / "runs" / "a.r1").glob("by.*")) == []

    names = {path.name for path in (tmp_path / "host" / "runs" / "a.r1").iterdir()}
    assert names <= {"supervisor.log"}


async def test_a_host_is_asked_twice_to_begin_a_run_without_a_repo(tmp_path, monkeypatch):
    world = World(tmp_path / "a world")
    dispatcher, facts, asked = world.dispatcher(), asyncio.Queue(), []
    dispatcher.follow(world.order("true", repo=None), facts.put_nowait)
    await ended(facts)  # brought the scripts there
    call = LocalTransport.call

    async def count(transport, argv, stdin=b"", **limits):
        asked.append(tuple(argv[2:3]))
        return await call(transport, argv, stdin, **limits)

    monkeypatch.setattr(LocalTransport, "call", count)
    dispatcher.follow(world.order("true", repo=None, run=f"{RUN[:-1]}2"), facts.put_nowait)
    await seen(facts)

    assert asked[:2] == [(), ("start",)]  # the first is shell text
    assert (await ended(facts)).verdict.outcome == "success"
    await dispatcher.close()


@pytest.mark.parametrize("sums", ["working", "broken"])
async def test_a_script_that_was_changed_is_put_right_whether_or_not_the_host_has_sums(
    tmp_path, counted, sums
):
    if sums == "broken":
        counted.replace("sha256sum", "exit 1")
    runs = make_runs(tmp_path, counted.transport)
    assert [await runs.install_scripts() for _ in range(3)] == [False, False, False]
    at = next((tmp_path / "host" / "bin").glob("wrapper-*"))
    ours = at.read_bytes()
    at.write_bytes(ours.replace(b"umask 077", b"umask 000"))

    was_changed, state, _ = await runs.install_scripts_then_stat("a.r1")

    assert (was_changed, state.stage) == (True, Stage.ABSENT)
    assert at.read_bytes() == ours
    assert await runs.install_scripts() is False


async def test_a_host_without_sums_is_asked_for_them_once(tmp_path, counted):
    counted.replace("sha256sum", "echo sha256sum >>$NOTES; exit 127")
    runs = make_runs(tmp_path, counted.transport)
    await runs.install_scripts()
    await runs.install_scripts()
    counted.take()

    await runs.install_scripts()

    assert counted.take() == ["cat", "cat"]


async def test_a_workspace_without_a_repo_is_made_by_its_folders_alone(counted):
    scripts = Scripts(counted.transport, host="local", shell="sh", workdir=".")
    stdin = b"script\n\n\n\n\n\n\nwork\n"
    await scripts.call("workspace", "prepare", "./f1", "a.g1.a1", "a.g1.a1.r1", stdin=stdin)
    counted.take()

    answer = await scripts.call("workspace", "prepare", "./f1", "b.g1.a1", "b.g1.a1.r1", stdin=stdin)

    assert answer.startswith(b"S ready\n")
    assert counted.take() == ["mkdir", "rm"]


async def test_a_run_is_started_by_few_programs(tmp_path, counted):
    runs = make_runs(tmp_path, counted.transport)
    ended = await start(runs, "a.r1", "exit 0")
    await finish(runs, "a.r1", ended)
    await runs.remove(["a.r1"])  # so that there are ids of runs whose folders were removed
    job = agent_job(["sh", "-c", "echo up; exec sleep 60"], env={}, folder="/", declared=f"{tmp_path}/d")
    counted.take()

    state = await runs.start("b.r1", job, timeout=60, ending=QUICK)

    await until(lambda: (tmp_path / "host" / "fleet" / "runs" / "b.r1" / "out").read_bytes() == b"up\n")
    names = Counter(counted.take())
    assert names.pop("mkdir") in {2, 3}  # of the run, of what it declares, and where it can be a cgroup
    assert names == {"grep": 1, "ln": 1, "perl": 1, "rm": 1}
    await runs.cancel("b.r1", "cancelled", QUICK)
    assert (await finish(runs, "b.r1", state)).why == "cancelled"
    await runs.close()

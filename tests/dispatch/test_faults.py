"""
What goes wrong on hosts, here and over SSH: an error that names host, step and remedy, and no run that hangs.
"""

import asyncio
import contextlib
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from reconciler.core.model.runs import FailureClass
from reconciler.core.model.specs import HostAdapter
from reconciler.dispatch.local import LocalTransport
from reconciler.dispatch.output import read_output
from reconciler.dispatch.transport import CommandResult, Transport
from tests import processes
from tests.dispatch.sshd import Yard, needs_sshd, quick, yard
from tests.dispatch.world import LOCAL, RUN, World, ended, seen, until

TOOLS = (
    *(
        "sh",
        "cat",
        "rm",
        "mv",
        "cp",
        "ln",
        "mkdir",
        "ls",
        "head",
        "tail",
        "tr",
        "awk",
        "wc",
        "sleep",
        "setsid",
    ),
    *("env", "date", "true"),
)
HOSTILE = "it's \"quoted\" $(touch gone) `touch gone` $HOME \\ \\n %s ! # ; & | > < * ~ {a,b}\nEOF\n'\"'\"'\n"


@pytest.fixture(params=["here", pytest.param("over SSH", marks=needs_sshd)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator["Place"]:
    """A machine: this one, or a server of its own."""
    if request.param == "here":
        yield Place(tmp_path, None)
    else:
        with yard(tmp_path / "servers") as servers:
            yield Place(tmp_path, servers)


@dataclass
class Place:
    folder: Path
    servers: Yard | None

    @property
    def name(self) -> str:
        return "h1" if self.servers else "local"

    @contextlib.asynccontextmanager
    async def world(self, *, workdir: Path | None = None, path: Path | None = None):
        """Yield a world whose host works in this folder and finds tools on this path."""
        env = {"PATH": str(path)} if path else {}
        made = World(self.folder / "a world")
        workdir = workdir or self.folder / "host"
        if self.servers is None:
            host = LOCAL
            made.transport = LocalTransport(workdir, os.environ | env)
            closing: Transport = made.transport
        else:
            host = self.servers.sshd(env=env).host(workdir=str(workdir))
            closing = (transports := quick())(host)
            made.transport = closing
        order = made.order
        made.order = lambda script, **fields: order(script, **{"host": host} | fields)
        yield made
        await closing.close()
        if self.servers:
            await transports.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def tools_without(folder: Path, *missing: str) -> Path:
    """Return a folder with links to the usual tools, but for those."""
    folder.mkdir()
    for name in set(TOOLS) - set(missing):
        (folder / name).symlink_to(shutil.which(name) or "")
    return folder


def fill(disk: Path) -> None:
    """Leave no room on a small disk."""
    with contextlib.suppress(OSError), (disk / "ballast").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


# --- What a host lacks -------------------------------------------------------------


async def test_a_host_without_git_is_told_so(place):
    async with place.world(path=tools_without(place.folder / "tools", "git")) as world:
        report = await world.carry_out(world.order("true"))

    assert (report.verdict.kind, report.started) == (FailureClass.HOST, False)
    assert f"host {place.name}: workspace prepare: git is not installed" in report.verdict.message
    assert "install it" in report.verdict.message


async def test_a_cli_that_is_missing_is_told_so(place):
    async with place.world() as world:
        report = await world.carry_out(world.order("", argv=("no-such-cli", "-p"), repo=None))

    assert (report.verdict.kind, report.started) == (FailureClass.CONFIG, True)
    assert report.verdict.message == (
        f"host {place.name}: no-such-cli is not there; "
        "install it, or name its `path` under the host's `adapters`"
    )


async def test_a_host_whose_environment_has_no_tools_has_started_nothing(place):
    async with place.world() as world:
        order = world.order("echo x >x", validation=("true",))
        host = order.host.model_copy(update={"env": {"PATH": "/nonexistent"}})
        report = await world.carry_out(order.model_copy(update={"host": host}))

    assert (report.verdict.kind, report.started) == (FailureClass.HOST, False)
    assert "under its `env` no `sh` can be started" in report.verdict.message


async def test_the_interpreter_of_a_clis_script_may_lie_beside_it_and_nowhere_else(place):
    folder = place.folder / "node's folder"
    folder.mkdir()
    for name, script in {"my-node": "#!/bin/sh\necho found\n", "cli": "#!/usr/bin/env my-node\n"}.items():
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)
    async with place.world() as world:
        order = world.order("", argv=("cli",), repo=None)
        host = order.host.model_copy(update={"adapters": {"script": HostAdapter(path=str(folder / "cli"))}})
        report = await world.carry_out(order.model_copy(update={"host": host}))

    assert (report.verdict.outcome, report.verdict.text) == ("success", "found\n"), report


async def test_a_working_folder_that_cannot_be_written_to_is_told_so(place):
    (place.folder / "file").touch()
    async with place.world(workdir=place.folder / "file/work") as world:
        report = await world.carry_out(world.order("true", repo=None))

    assert (report.verdict.kind, report.started) == (FailureClass.HOST, False)
    assert str(place.folder / "file/work") in report.verdict.message
    assert "check `workdir`" in report.verdict.message


# --- A full disk -------------------------------------------------------------------


async def test_a_disk_that_is_full_before_anything_is_there_is_told(place, small_disk):
    fill(small_disk)
    async with place.world(workdir=small_disk / "work") as world:
        report = await world.carry_out(world.order("true", repo=None))

    assert (report.verdict.kind, report.started) == (FailureClass.HOST, False)
    assert "the disk" in report.verdict.message


@pytest.mark.parametrize("repo", [True, False])
async def test_a_disk_that_is_full_before_the_start_is_told(place, small_disk, repo):
    async with place.world(workdir=small_disk / "work") as world:
        await world.carry_out(world.order("true", run="first.g1.a1"))
        fill(small_disk)

        order = world.order(world.note("started"), **({} if repo else {"repo": None}))
        report = await world.carry_out(order)

    assert (report.verdict.kind, report.started) == (FailureClass.HOST, False)
    assert f"host {place.name}: " in report.verdict.message
    assert "see whether the disk is full there" in report.verdict.message
    assert world.noted == []


async def test_a_disk_that_an_agent_fills_fails_its_run_and_no_other(place, small_disk):
    async with place.world(workdir=small_disk / "work") as world:
        full = await world.carry_out(world.order("cat /dev/zero >big; echo x >x", repo=None))
        (small_disk / f"work/f1/work/{RUN.replace('/', '+')}/big").unlink()
        next_one = await world.carry_out(world.order("true", run="next.g1.a1"))

    assert (full.verdict.outcome, full.started) == ("failed", True)
    assert full.verdict.message
    assert next_one.verdict.outcome == "success"


async def test_a_disk_that_is_full_at_the_end_is_told_and_the_work_is_kept(place, small_disk):
    async with place.world(workdir=small_disk / "work") as world:
        report = await world.carry_out(world.order("head -c 3000000 /dev/urandom >big; true"))

    assert (report.verdict.kind, report.started) == (FailureClass.HOST, True)
    assert "see" in report.verdict.message
    assert f"host {place.name}: " in report.verdict.message


class Mute(LocalTransport):
    """A machine that looks and cancels, and on which every start goes unanswered."""

    def __init__(self, folder: Path, *, starts: bool) -> None:
        super().__init__(folder)
        self.starts = starts

    async def call(self, message, stdin=b"", *, timeout):
        if "start" not in message:
            return await super().call(message, stdin, timeout=timeout)
        if self.starts:
            await super().call(message, stdin, timeout=timeout)
        return CommandResult(2, b"", b"sh: 0: Cannot fork")


@pytest.mark.parametrize("starts", [True, False])
async def test_a_start_that_is_never_acknowledged_is_given_up_once_it_is_sure_that_it_never_will_be(
    tmp_path: Path, *, starts: bool
):
    world = World(tmp_path / "world")
    world.transport = Mute(tmp_path / "host", starts=starts)

    report = await world.carry_out(world.order(world.note("started"), repo=None), patience=0)

    assert report.started is starts
    assert world.noted == ["started"] * starts
    if not starts:
        assert "Cannot fork" in report.verdict.message
        world.transport = LocalTransport(tmp_path / "host")
        again = await world.carry_out(world.order(world.note("again"), repo=None))
        assert (again.verdict.outcome, world.noted) == ("failed", [])


# --- What happens to a run ---------------------------------------------------------


@pytest.mark.parametrize("what", ["the run's folder", "its claim", "all of the working folder"])
async def test_a_run_whose_folder_is_removed_is_ended_and_told(place, what):
    word = f"removed{os.getpid()}under"
    async with place.world() as world:
        order = world.order(f": {word}; while :; do sleep 0.1; done", repo=None)
        dispatcher, facts = world.dispatcher(), asyncio.Queue()
        dispatcher.follow(order, facts.put_nowait)
        await seen(facts)
        await until(lambda: processes.with_word(word))
        run = next((place.folder / "host").glob("f1/runs/*.r1"))

        removed = {"the run's folder": run, "its claim": run / "claim"}.get(what, place.folder / "host")
        shutil.rmtree(removed) if removed.is_dir() else removed.unlink()
        report = await ended(facts)
        await dispatcher.close()

    assert report.verdict.kind == FailureClass.HOST
    assert report.verdict.message == (
        f"host {place.name}: the run's folder was removed under it; see who removes files below `workdir`"
    )
    assert processes.with_word(word) == []


async def test_a_clock_that_is_off_by_a_day_changes_nothing(place):
    tools = tools_without(place.folder / "tools", "date")
    (tools / "git").symlink_to(shutil.which("git") or "")
    (tools / "date").write_text(f'#!/bin/sh\nexec {shutil.which("date")} -d tomorrow "$@"\n')
    (tools / "date").chmod(0o755)
    async with place.world(path=tools) as world:
        report = await world.carry_out(world.order("date +%s; echo x >x", validation=("true",)))

    assert (report.verdict.outcome, report.commits) == ("success", 1)
    assert report.verdict.usage.seconds < 3600
    assert report.checks[0].seconds < 3600


# --- What agents print, and what they are told ---------------------------------------


async def test_fifty_megabytes_of_any_bytes_arrive_as_they_were_printed(place):
    written = place.folder / "written"
    async with place.world() as world:
        order = world.order(f"head -c 50000000 /dev/urandom | tee '{written}'", repo=None)
        dispatcher, facts = world.dispatcher(read_output=read_output), asyncio.Queue()
        dispatcher.follow(order, facts.put_nowait)
        report = await ended(facts)
        await dispatcher.close()
        (log,) = (path for label, path in dispatcher.logs.paths(RUN) if path.name == "out")

        assert digest(log) == digest(written)

    assert report.verdict.outcome == "success"
    assert not set(report.verdict.text) & set("\0\a\b\x1b\x7f")


async def test_a_line_of_five_megabytes_is_read(place):
    async with place.world() as world:
        script = "head -c 5000000 /dev/zero | tr '\\0' x; echo; echo done"
        report = await world.carry_out(world.order(script, repo=None), read_output=read_output)

    assert report.verdict.outcome == "success"
    assert report.verdict.text.endswith("done")


async def test_a_prompt_of_a_megabyte_of_quotes_arrives_as_it_is(place):
    prompt = (HOSTILE * 12_000)[:1_000_000]
    async with place.world() as world:
        report = await world.carry_out(world.order("cat", prompt=prompt, repo=None))

    assert report.verdict.text == prompt
    assert not list(place.folder.rglob("gone"))


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

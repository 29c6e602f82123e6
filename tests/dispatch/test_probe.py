"""
What a host says of itself, and which of it goes on record.
"""

import contextlib
import os
import shutil
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.adapter import Adapter, Version
from reconciler.core.errors import Unavailable
from reconciler.core.hosts import host_change
from reconciler.core.model.specs import Host, HostAdapter
from reconciler.core.model.status import HostCli, HostStatus
from reconciler.dispatch.local import LocalTransport
from reconciler.dispatch.probe import CliFacts, HostFacts, host_problems, probe, reachable, unreachable
from reconciler.dispatch.prober import HostProber
from tests.dispatch.sshd import needs_sshd, quick, yard

BOOT_ID = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
GIT = subprocess.check_output(["git", "--version"], text=True).removeprefix("git version ").strip()
NOW = datetime(2030, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
HEALTHY = HostFacts(
    latency=0.01,
    os="Linux",
    arch="x86_64",
    boot_id="b",
    cores=4,
    load=1.0,
    disk_free_mb=100_000,
    workdir_writable=True,
    clock=int(NOW.timestamp()),
    git="2.39.5",
)
AWAY = Unavailable("host h1: nothing listens there")


def agent(name: str = "agent", seconds: float = 60, required: str | None = None) -> Adapter:
    version = Version(command=(name, "--version"), timeout=timedelta(seconds=seconds), range=required)
    return Adapter(name=name, version=version)


def install(folder: Path, name: str, script: str) -> Path:
    """Put a CLI into the folder that does this when it is asked for its version."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


async def look(tmp_path: Path, *adapters: Adapter, **fields: object) -> HostFacts:
    """Probe this machine as a host that finds CLIs in tmp_path/bin."""
    env = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    host = Host.model_validate({"name": "h1", "env": env} | fields)
    asked = {adapter.name: adapter for adapter in adapters}
    return await probe(LocalTransport(tmp_path), host, asked, workdir=str(tmp_path / "work"))


def cli(facts: HostFacts, name: str = "agent") -> HostCli:
    assert facts.clis is not None
    return facts.clis[name].cli


# --- What it says ------------------------------------------------------------


async def test_a_host_says_what_it_is(tmp_path: Path):
    facts = await look(tmp_path)

    uname = os.uname()
    assert (facts.os, facts.arch) == (uname.sysname, uname.machine)
    assert facts.cores == os.cpu_count()
    assert facts.boot_id == BOOT_ID
    assert facts.git == GIT
    assert facts.load_per_core is not None
    assert facts.memory_mb
    assert facts.memory_free_mb
    assert facts.disk_free_mb
    assert facts.workdir_writable
    assert facts.latency > 0


async def test_no_cli_is_asked_unless_adapters_are_given(tmp_path: Path):
    facts = await probe(LocalTransport(tmp_path), Host(name="h1"), workdir=str(tmp_path))

    assert facts.clis is None
    assert facts.os


@pytest.mark.parametrize("shell", ["bash", "dash", "busybox"])
async def test_every_shell_gives_the_same_answers(tmp_path: Path, shell: str):
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    shell_path = install(
        tmp_path / "shells", "sh", f'exec {program} {"sh" if shell == "busybox" else ""} "$@"'
    )
    path = install(tmp_path / "bin", "agent", "echo agent 1.2.3")

    facts = await look(tmp_path, agent(), shell=str(shell_path))

    assert cli(facts) == HostCli(path=str(path), version="1.2.3", ok=True, message="1.2.3, any will do")
    assert (facts.os, facts.cores, facts.workdir_writable) == (os.uname().sysname, os.cpu_count(), True)


@needs_sshd[0]
@needs_sshd[1]
async def test_a_host_over_ssh_is_asked_the_same(tmp_path: Path):
    path = install(tmp_path / "bin", "agent", "echo agent 1.2.3")
    with yard(tmp_path / "servers") as servers:
        server = servers.sshd()
        host = server.host(adapters={"agent": HostAdapter(path=str(tmp_path / "bin"))})
        transports = quick()
        facts = await probe(transports(host), host, {"agent": agent()})
        await transports.close()

    assert cli(facts).path == str(path)
    assert cli(facts).version == "1.2.3"
    assert facts.boot_id == BOOT_ID
    assert (server.home / ".local/state/reconciler").is_dir()


# --- The agents' CLIs --------------------------------------------------------


@pytest.mark.parametrize("place", ["bin", "bin/agent"])
async def test_a_cli_is_found_where_the_host_says(tmp_path: Path, place: str):
    install(tmp_path / "a folder's $bin", "agent", "echo agent 1.2.3")
    path = str(tmp_path / place.replace("bin", "a folder's $bin"))

    facts = await look(tmp_path, agent(), adapters={"agent": HostAdapter(path=path)})

    assert cli(facts).path == str(tmp_path / "a folder's $bin" / "agent")
    assert cli(facts).ok


async def test_the_interpreter_of_a_script_may_lie_beside_it_and_nowhere_else(tmp_path: Path):
    folder = tmp_path / "node's folder"
    install(folder, "my-node", 'echo "agent 1.2.3"')
    install(folder, "agent", "exec my-node").write_text("#!/usr/bin/env my-node\n")

    facts = await look(tmp_path, agent(), adapters={"agent": HostAdapter(path=str(folder / "agent"))})

    assert cli(facts).ok, cli(facts)


async def test_a_host_is_asked_for_what_it_offers_only(tmp_path: Path):
    install(tmp_path / "bin", "one", "echo 1.0.0")
    install(tmp_path / "bin", "two", "echo 2.0.0")

    facts = await look(tmp_path, agent("one"), agent("two"), adapters={"two": HostAdapter()})

    assert facts.clis is not None
    assert set(facts.clis) == {"two"}


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo agent 0.9.0", "0.9.0 is not in >=1.0"),
        ("echo hello", "no version in 'hello'"),
        ("echo no licence >&2; exit 3", "`agent --version` ended with 3: no licence"),
        ("kill -9 $$", "`agent --version` ended with 137: "),
    ],
)
async def test_a_cli_that_will_not_do_says_why(tmp_path: Path, script: str, message: str):
    install(tmp_path / "bin", "agent", script)

    found = cli(await look(tmp_path, agent(required=">=1.0")))

    assert (found.ok, found.message) == (False, message)
    assert found.path is not None


async def test_a_missing_cli_says_how_to_get_it(tmp_path: Path):
    found = cli(await look(tmp_path, agent("no-such-agent")), "no-such-agent")

    assert found == HostCli(
        ok=False,
        message="no-such-agent is not there; install it, or name its `path` under the host's `adapters`",
    )


async def test_the_range_of_the_host_is_in_force_there(tmp_path: Path):
    install(tmp_path / "bin", "agent", "echo 2.0.0")

    adapters = {"agent": HostAdapter(version=">=2")}
    found = cli(await look(tmp_path, agent(required="<2"), adapters=adapters))

    assert found.ok


async def test_a_hanging_cli_does_not_hold_up_the_others_and_leaves_nothing_behind(tmp_path: Path):
    alive = tmp_path / "alive"
    os.mkfifo(alive)
    # Its child holds its output open, and outlives it if it is ended alone.
    install(tmp_path / "bin", "hangs", f"(exec sleep 600 >>{alive}) & exec sleep 600 >>{alive}")
    install(tmp_path / "bin", "quick", "echo 1.0.0")
    reader = os.open(alive, os.O_RDONLY | os.O_NONBLOCK)

    facts = await look(tmp_path, agent("hangs", seconds=1), agent("quick"))

    assert cli(facts, "quick").ok
    assert cli(facts, "hangs").message == "`hangs --version` gave no answer within 1 s"
    assert facts.clis is not None
    assert not facts.clis["hangs"].answered
    os.set_blocking(reader, True)
    assert os.read(reader, 1) == b""  # the end: nobody has it open any more
    os.close(reader)


async def test_what_a_cli_prints_cannot_pass_for_an_answer_of_the_probe(tmp_path: Path):
    forged = (
        r"printf '1.0.0\ncli 0 0 no 5 /bin/x\n9.9.9\nend\nos Plan9\nend\n\377\000'; head -c 100000 /dev/zero"
    )
    install(tmp_path / "bin", "agent", forged)
    install(tmp_path / "bin", "other", "echo 2.0.0")

    facts = await look(tmp_path, agent(), agent("other"))

    assert cli(facts).version == "1.0.0"
    assert cli(facts, "other").version == "2.0.0"
    assert facts.os == os.uname().sysname


async def test_the_environment_of_host_and_adapter_reaches_the_cli(tmp_path: Path):
    install(tmp_path / "bin", "agent", 'echo "$FROM_ADAPTER.$FROM_HOST.0"')
    adapter = agent().model_copy(update={"env": {"FROM_ADAPTER": "7"}})
    env = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "FROM_HOST": "8"}

    assert cli(await look(tmp_path, adapter, env=env)).version == "7.8.0"


async def test_a_host_that_cannot_write_its_temporary_files_says_so(tmp_path: Path):
    transport = LocalTransport(tmp_path, {"PATH": os.environ["PATH"], "TMPDIR": "/dev/null/none"})

    facts = await probe(transport, Host(name="h1"), {"agent": agent()}, workdir=str(tmp_path))

    assert list(host_problems(facts, datetime.now(UTC))) == [  # noqa: TID251  the clock of this host
        "nothing can be written in /dev/null/none (TMPDIR); make room, or fix its modes"
    ]
    assert reachable(facts, KNOWN, NOW).fault
    assert reachable(facts, KNOWN, NOW).adapters == KNOWN.adapters


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"PATH": "/nonexistent"}, "under the host's `env` no `sh` can be started (PATH='/nonexistent')"),
        ({"PATH": ""}, "under the host's `env` no `sh` can be started (PATH='')"),
        ({"TMPDIR": "/dev/null/none"}, "nothing can be written in /dev/null/none (TMPDIR)"),
    ],
)
async def test_an_environment_under_which_nothing_starts_is_a_fault(tmp_path: Path, env, message):
    facts = await probe(LocalTransport(tmp_path), Host(name="h1", env=env), workdir=str(tmp_path))

    assert message in reachable(facts, None, NOW).fault


async def test_a_working_folder_that_cannot_be_written_to_is_a_trouble(tmp_path: Path):
    facts = await look(tmp_path)
    assert not list(host_problems(facts, datetime.now(UTC)))  # noqa: TID251  the clock of this host

    host = Host(name="h1", workdir="/dev/null/work")
    facts = await probe(LocalTransport(tmp_path), host)

    assert not facts.workdir_writable
    assert any("change `workdir`" in message for message in host_problems(facts, NOW))


# --- What goes on record -----------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"git": None}, "git is missing"),
        ({"workdir_writable": False}, "working folder cannot be written to"),
        ({"disk_free_mb": 12}, "less than 64 MiB of disk"),
        ({"disk_free_mb": 999}, "less than 1024 MiB of disk"),
        ({"files_free": 12}, "takes less than 1000 more files"),
        ({"temporary_fault": "/tmp"}, "nothing can be written in /tmp"),
        ({"clock": HEALTHY.clock + 86_400}, "its clock is off by more than 5 minutes"),
        ({"clock": HEALTHY.clock - 86_400}, "its clock is off by more than 5 minutes"),
    ],
)
def test_what_is_wrong_with_a_host_stands_in_its_status(changes: dict[str, object], message: str):
    facts = replace(HEALTHY, **changes)

    status = reachable(facts, None, NOW)

    assert status.reachable
    assert message in status.message
    assert host_change("host", reachable(HEALTHY, None, NOW), status, NOW) is not None


FAULTS = [
    {"git": None},
    {"workdir_writable": False},
    {"disk_free_mb": 12},
    {"files_free": 12},
    {"temporary_fault": "/tmp"},
    {"environment_fault": "PATH='/nonexistent'"},
]


@pytest.mark.parametrize("changes", FAULTS)
def test_a_host_on_which_no_run_can_start_is_not_up_until_one_can(changes: dict[str, object]):
    broken = reachable(replace(HEALTHY, **changes), KNOWN, LATER)
    still = reachable(replace(HEALTHY, **changes), broken, LATER + timedelta(hours=1))
    fixed = reachable(replace(HEALTHY, clock=None), still, LATER + timedelta(hours=2))

    assert broken.reachable
    assert broken.fault in broken.message
    assert (broken.since, still.since, fixed.since) == (LATER, LATER, LATER + timedelta(hours=2))
    assert "no run can start there" in getattr(host_change("host", KNOWN, broken, NOW), "reason", "")
    assert host_change("host", broken, still, NOW) is None
    assert fixed.fault == ""
    assert "runs can start there again" in getattr(host_change("host", still, fixed, NOW), "reason", "")


@pytest.mark.parametrize("changes", [{"clock": 0}, {"disk_free_mb": 999}, {"load": 900.0}])
def test_what_keeps_no_run_from_starting_is_no_fault(changes: dict[str, object]):
    assert reachable(replace(HEALTHY, **changes), None, NOW).fault == ""


@pytest.mark.parametrize(("figure", "least"), [("disk_free_mb", 64), ("files_free", 1000)])
def test_a_figure_about_the_least_does_not_make_a_host_come_and_go(figure: str, least: int):
    broken = reachable(replace(HEALTHY, **{figure: least - 1}), KNOWN, NOW)

    assert (
        host_change("host", broken, reachable(replace(HEALTHY, **{figure: least + 1}), broken, NOW), NOW)
        is None
    )
    assert reachable(replace(HEALTHY, **{figure: least * 2}), broken, NOW).fault == ""


@pytest.fixture
def small_disk(tmp_path: Path):
    """Yield a folder on a file system of its own, and what fills it."""
    folder = tmp_path / "small"
    folder.mkdir()
    options = "size=70m,nr_inodes=2000"
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path, what: str) -> None:
    """Leave no room on a small disk, or none for another file."""
    if what == "bytes":
        with contextlib.suppress(OSError), (disk / "ballast").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(65536))
    elif what == "inodes":
        with contextlib.suppress(OSError):
            for number in range(10_000):
                (disk / f"ballast{number}").touch()
    else:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("bytes", "No space left on device"),
        ("inodes", "No space left on device"),
        ("ro", "Read-only file system"),
    ],
)
async def test_a_disk_on_which_nothing_can_be_written_is_a_fault_while_it_lasts(
    tmp_path: Path, small_disk: Path, what: str, message: str
):
    work = small_disk / "work"
    before = reachable(await probe(LocalTransport(tmp_path), Host(name="h1"), workdir=str(work)), None, NOW)
    fill(small_disk, what)

    facts = await probe(LocalTransport(tmp_path), Host(name="h1"), workdir=str(work))

    assert before.fault == ""
    assert message in reachable(facts, before, NOW).fault
    assert not list(work.glob(".probe*"))


async def test_a_disk_with_hardly_any_files_left_is_a_fault(tmp_path: Path, small_disk: Path):
    for number in range(1500):
        (small_disk / str(number)).touch()

    facts = await probe(LocalTransport(tmp_path), Host(name="h1"), workdir=str(small_disk))

    assert facts.workdir_writable
    assert "takes less than 1000 more files" in reachable(facts, None, NOW).fault


async def test_a_spec_that_cannot_stand_on_a_command_line_is_no_mistake_of_ours(tmp_path: Path):
    host = Host(name="h1", address="127.0.0.1").model_copy(update={"workdir": "/a b"})
    prober = HostProber(lambda _: LocalTransport(tmp_path), data=tmp_path, clock=lambda: NOW)

    status, _ = await prober.probe(host, {}, None)

    assert not status.reachable
    assert "workdir '/a b' is not safe on a command line" in status.message


@needs_sshd[0]
@needs_sshd[1]
@pytest.mark.parametrize("was_broken", [False, True])
async def test_a_host_that_takes_probes_and_nothing_else_starts_no_runs(tmp_path: Path, *, was_broken: bool):
    words = '"$SSH_ORIGINAL_COMMAND"'
    gate = f"case {words} in *work*) echo not allowed >&2 ;; *) exec sh -c {words} ;; esac"
    before = HostStatus(reachable=True, since=NOW, fault="the disk is full") if was_broken else None
    with yard(tmp_path / "servers") as servers:
        host, transports = servers.sshd(ForceCommand=gate).host(), quick()
        prober = HostProber(transports, data=tmp_path, clock=lambda: NOW)

        status, _ = await prober.probe(host, {}, None)
        again, _ = await prober.probe(host, {}, before or status)
        await transports.close()

    for each in (status, again):
        assert each.reachable
        assert "workspace ls gave no answer (exit 0): not allowed" in each.fault
        assert "forced command" in each.fault


figures = st.fixed_dictionaries(
    {
        "load": st.none() | st.floats(0, 1000),
        "latency": st.floats(0, 100),
        "memory_free_mb": st.none() | st.integers(0, 10**7),
        "disk_free_mb": st.integers(1024, 10**9),
    }
)


@given(figures=figures, drift=st.integers(-299, 299), after=st.timedeltas(timedelta(0), timedelta(days=900)))
def test_a_figure_is_never_put_on_record(figures, drift, after):
    before = reachable(HEALTHY, None, NOW)
    now = NOW + after
    facts = replace(HEALTHY, clock=int(now.timestamp()) + drift, **figures)

    assert host_change("host", before, reachable(facts, before, now), NOW) is None


CLI = HostCli(path="/bin/agent", version="1.0.0", ok=True)
WITH_CLI = replace(HEALTHY, clis={"agent": CliFacts(cli=CLI)})
KNOWN = reachable(WITH_CLI, None, NOW)


@pytest.mark.parametrize(
    "changes",
    [
        {"boot_id": "another"},
        {"git": "2.40.0"},
        {"os": "Darwin"},
        {"arch": "aarch64"},
        {"clis": {"agent": CliFacts(cli=HostCli(path="/bin/agent", version="2.0.0", ok=True))}},
        {"clis": {"agent": CliFacts(cli=HostCli(ok=False))}},
        {"clis": {}},
    ],
)
def test_a_change_of_what_the_host_is_goes_on_record(changes: dict[str, object]):
    assert host_change("host", KNOWN, reachable(replace(WITH_CLI, **changes), KNOWN, LATER), NOW) is not None


def test_the_first_word_of_a_host_goes_on_record():
    assert host_change("host", None, KNOWN, NOW) is not None
    assert host_change("host", None, unreachable(AWAY, None, NOW), NOW) is not None


def test_up_and_down_move_the_time_and_nothing_else_does():
    down = unreachable(AWAY, KNOWN, LATER)
    assert host_change("host", KNOWN, down, NOW) is not None
    assert (down.reachable, down.since, down.message) == (False, LATER, str(AWAY))
    assert down.adapters == KNOWN.adapters

    still = unreachable(Unavailable("another reason"), down, LATER + timedelta(hours=1))
    assert host_change("host", down, still, NOW) is None
    assert still.since == LATER

    up = reachable(replace(WITH_CLI, clock=None), down, LATER)
    assert host_change("host", down, up, NOW) is not None
    assert (up.reachable, up.since, up.message) == (True, LATER, "")


def test_a_cli_that_was_slow_once_keeps_its_version_on_record():
    slow = CliFacts(cli=HostCli(path="/bin/agent", ok=False, message="no answer"), answered=False)
    facts = replace(HEALTHY, clis={"agent": slow})

    assert reachable(facts, KNOWN, NOW) == KNOWN
    assert reachable(facts, None, NOW).adapters == {"agent": slow.cli}


def test_clis_that_were_not_asked_stay_as_they_were():
    assert reachable(HEALTHY, KNOWN, NOW) == KNOWN


def test_a_status_reads_back_from_what_is_written():
    assert HostStatus.model_validate(KNOWN.model_dump(mode="json")) == KNOWN


# --- One look ---------------------------------------------------------------


class Cut(LocalTransport):
    """This machine, at the end of a line that is cut off a few times."""

    def __init__(self, folder: Path, cuts: int) -> None:
        super().__init__(folder)
        self.cuts = cuts

    async def call(self, message, stdin=b"", *, timeout):
        if self.cuts:
            self.cuts -= 1
            raise Unavailable("cut off")
        return await super().call(message, stdin, timeout=timeout)


@pytest.mark.parametrize(("cuts", "is_up"), [(0, True), (1, True), (2, False)])
async def test_a_connection_that_ends_is_no_news_of_a_host_but_one_that_cannot_be_had_is(
    tmp_path: Path, cuts: int, *, is_up: bool
):
    line = Cut(tmp_path, cuts)
    prober = HostProber(lambda _: line, data=tmp_path, clock=lambda: NOW)

    status, _ = await prober.probe(Host(name="local"), {}, KNOWN)

    assert status.reachable is is_up

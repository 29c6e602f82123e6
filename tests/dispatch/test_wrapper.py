"""
The run protocol on a host, under every shell that may be there.
"""

import asyncio
import contextlib
import errno
import os
import random
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from reconciler.core.errors import Refused, Unavailable
from reconciler.dispatch.local import LocalTransport
from reconciler.dispatch.logs import LogFolder
from reconciler.dispatch.protocol import RunState, Stage, agent_job, payload
from reconciler.dispatch.runs import Bounds, RunEnding
from tests import processes
from tests.dispatch.world import QUICK, finish, make_runs, run, start, until

CODES = [0, 1, 7, 125, 126, 127, 143, 255]
HOSTILE = b"""it's "quoted" $(touch gone) `touch gone` $HOME \\ \\n %s ! # ; & | > < * ? ~ {a,b}
\x00NUL\x00 \xff\xfe \r\n\ttab\n\n'"'"' EOF\n"""


@pytest.fixture(params=["dash", "bash", "busybox", "nothing but busybox"])
def shell_and_path(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """Give a shell and where its tools are; with the last, every other tool is of BusyBox too."""
    program = shutil.which(request.param.split()[-1])
    if program is None:
        pytest.skip(f"{request.param} is not installed")
    if request.param.startswith("nothing"):
        (tmp_path / "tools").mkdir()
        subprocess.run([program, "--install", "-s", tmp_path / "tools"], check=True)
        return "sh", str(tmp_path / "tools")
    if request.param == "busybox":
        (tmp_path / "sh").symlink_to(program)
        return str(tmp_path / "sh"), os.environ["PATH"]
    return program, os.environ["PATH"]


@pytest.fixture
async def runs_in_shell(shell_and_path: tuple[str, str], tmp_path: Path):
    shell, path = shell_and_path
    made = make_runs(tmp_path, LocalTransport(tmp_path / "host", os.environ | {"PATH": path}), shell=shell)
    yield made
    await made.close()


@pytest.fixture
async def runs(tmp_path: Path):
    made = make_runs(tmp_path)
    yield made
    await made.close()


def read(folder: Path, run_id: str, stream: str = "out") -> bytes:
    return LogFolder(folder / "logs").read(run_id, stream)


# --- Starting and ending, in every shell -------------------------------------


async def test_exit_codes_are_exact_in_every_shell(tmp_path, runs_in_shell):
    runs = runs_in_shell

    ends = [await run(runs, f"code.a{code}.r1", f"exit {code}") for code in CODES]

    assert [end.exit_code for end in ends] == CODES
    assert {end.why for end in ends} == {"exit"}


async def test_prompt_arguments_and_environment_arrive_byte_for_byte_in_every_shell(tmp_path, runs_in_shell):
    runs = runs_in_shell
    prompt = (HOSTILE * 6000)[:1_000_003]
    text = HOSTILE.replace(b"\0", b"").replace(b"\xff\xfe", "é".encode()).decode()
    job = agent_job(["sh", "-c", 'printf %s "$1$A"; cat', "sh", text], env={"A": text}, folder="/")

    state = await runs.start("a.r1", job, prompt, timeout=60, ending=QUICK)
    end = await finish(runs, "a.r1", state)

    assert end.exit_code == 0
    assert read(tmp_path, "a.r1") == text.encode() * 2 + prompt
    assert not list(tmp_path.rglob("gone"))


async def test_cancel_ends_the_whole_tree_in_every_shell(tmp_path, runs_in_shell):
    runs = runs_in_shell
    word = f"tree{os.getpid()}x"
    stubborn = f"trap '' TERM; : {word}; while :; do sleep 0.2; done"
    script = f'setsid sh -c "{stubborn}" & (setsid sh -c "{stubborn}" &) ; {stubborn}'
    await start(runs, "tree.r1", script)
    await until(lambda: len(processes.with_word(word)) >= 3)

    state = await runs.cancel("tree.r1", "cancelled", QUICK)

    assert (state.stage, state.why, state.exit_code) == (Stage.DONE, "cancelled", 137)
    assert processes.with_word(word) == []


async def test_twenty_racing_launches_start_once_in_every_shell(tmp_path, runs_in_shell):
    runs, journal = runs_in_shell, tmp_path / "journal"
    await runs.list()  # the wrapper is there

    states = await asyncio.gather(*(start(runs, "race.r1", f"echo x >>'{journal}'") for _ in range(20)))
    end = await finish(runs, "race.r1", states[0])

    assert end.exit_code == 0
    assert journal.read_text() == "x\n"
    assert [path.name for path in (tmp_path / "host/fleet/runs/race.r1").glob("by.*")] == []


# --- One shell is enough from here on ------------------------------------------


async def test_a_name_that_is_started_again_answers_how_it_ended(runs, tmp_path):
    await run(runs, "a.r1", f"echo x >>'{tmp_path}/journal'; exit 3")

    state = await start(runs, "a.r1", f"echo y >>'{tmp_path}/journal'")

    assert (state.stage, state.exit_code) == (Stage.DONE, 3)
    assert (tmp_path / "journal").read_text() == "x\n"


@pytest.mark.parametrize("prompt", [b"a prompt", b""], ids=["prompt", "no-prompt"])
async def test_an_upload_that_was_cut_starts_nothing(runs, tmp_path, prompt):
    await runs.list()
    job = f"touch '{tmp_path}/gone'\n{agent_job(['true'], env={}, folder='/')}"
    whole = payload(job, prompt)
    (wrapper,) = (tmp_path / "host/bin").glob("wrapper-*")
    message = ("sh", f"./bin/{wrapper.name}", "start", "./fleet/runs", "cut.r1", "9", "TERM", "1", "sh")

    answers = [
        await LocalTransport(tmp_path / "host").call(message, whole[:size], timeout=300)
        for size in (0, 3, 20, whole.index(b"await_cell"), len(whole) - 9, len(whole) - 1)
    ]
    host_runs = await runs.stat(["cut.r1"])

    assert all(answer.stdout.startswith(b"E ") for answer in answers)
    assert host_runs.states["cut.r1"].stage is Stage.UNSTARTED
    assert not (tmp_path / "gone").exists()
    assert (await run(runs, "cut.r1", "exit 5")).exit_code == 5


async def test_job_and_prompt_have_no_name_while_the_agent_runs(runs, tmp_path):
    folder = tmp_path / "host/fleet/runs/a.r1"

    await run(runs, "a.r1", f"ls -A '{folder}'", b"the prompt", SECRET="hush")

    names = {name for name in read(tmp_path, "a.r1").decode().split() if not name.endswith(".claim")}
    assert names == {"claim", "pid", "out", "err", "supervisor.log"}
    assert not [path for path in folder.rglob("*") if b"hush" in path.read_bytes()]
    assert oct(folder.stat().st_mode)[-3:] == "700"


async def test_the_agent_ignores_no_signal_and_leads_its_own_session(runs, tmp_path):
    await run(runs, "a.r1", "grep -E 'SigIgn|SigBlk' /proc/self/status; cut -d' ' -f1,5,6 /proc/$$/stat")

    ignored, blocked, numbers = sorted(read(tmp_path, "a.r1").decode().splitlines(), reverse=True)

    assert {int(line.split()[1], 16) for line in (ignored, blocked)} == {0}
    assert len(set(numbers.split())) == 1


async def test_the_environment_of_the_reconciler_stays_with_it(tmp_path):
    environ = {"PATH": os.environ["PATH"], "SECRET_KEY": "hush", "LC_TIME": "C", "SSH_AUTH_SOCK": "/x"}
    runs = make_runs(tmp_path, LocalTransport(tmp_path / "host", environ))

    await run(runs, "a.r1", "env")

    names = {line.split(b"=")[0] for line in read(tmp_path, "a.r1").splitlines()}
    assert {b"PATH", b"LC_TIME", b"RECONCILER_RUN_DIR"} <= names
    assert not {b"SECRET_KEY", b"SSH_AUTH_SOCK", b"LC_ALL"} & names
    await runs.close()


async def test_output_is_copied_byte_for_byte(runs, tmp_path):
    data = os.urandom(5_000_000)
    (tmp_path / "data").write_bytes(data)

    end = await run(runs, "a.r1", f"cat '{tmp_path}/data'; echo oops >&2")

    assert read(tmp_path, "a.r1") == data
    assert read(tmp_path, "a.r1", "err") == b"oops\n"
    assert (end.out_bytes, end.err_bytes) == (5_000_000, 5)


async def test_a_follower_that_was_cut_off_goes_on_where_it_stopped(tmp_path):
    gate = tmp_path / "gate"
    script = f"seq 1 50000; while [ ! -e '{gate}' ]; do sleep 0.05; done; seq 50001 100000"
    first = make_runs(tmp_path)
    state = await start(first, "a.r1", script)
    following = asyncio.create_task(finish(first, "a.r1", state))
    await until(lambda: LogFolder(tmp_path / "logs").size("a.r1", "out") > 0)
    following.cancel()
    await first.close()
    gate.touch()

    second = make_runs(tmp_path)
    end = await finish(second, "a.r1", await start(second, "a.r1", script))

    assert end.exit_code == 0
    assert read(tmp_path, "a.r1") == b"".join(b"%d\n" % number for number in range(1, 100001))
    await second.close()


async def test_output_is_whole_when_our_own_disk_was_full_for_a_while(tmp_path):
    class Full(LogFolder):
        """Takes half of a piece, twice, before there is room again."""

        refusals = 2

        def append(self, run_id, stream, data):
            if self.refusals:
                self.refusals -= 1
                super().append(run_id, stream, data[: len(data) // 2])
                raise OSError(errno.ENOSPC, "no space left on device")
            super().append(run_id, stream, data)

    runs = make_runs(tmp_path, logs=Full(tmp_path / "logs"))

    end = await run(runs, "a.r1", "seq 1 100000")

    assert end.exit_code == 0
    assert read(tmp_path, "a.r1") == b"".join(b"%d\n" % number for number in range(1, 100001))
    await runs.close()


async def test_a_mistake_in_following_is_heard_by_whoever_waits(tmp_path):
    class Broken(LogFolder):
        def append(self, run_id, stream, data):
            raise ZeroDivisionError

    runs = make_runs(tmp_path, logs=Broken(tmp_path / "logs"))

    with pytest.raises(ZeroDivisionError):
        await run(runs, "a.r1", "echo x")
    await runs.close()


async def test_a_child_left_behind_does_not_outlive_the_run(runs):
    word = f"left{os.getpid()}"

    end = await run(runs, "a.r1", f"setsid sh -c ': {word}; while :; do sleep 0.2; done' & exit 4")

    assert end.exit_code == 4
    assert processes.with_word(word) == []


async def test_nothing_of_a_run_is_left_when_it_is_over(runs, tmp_path):
    for number in range(40):
        state = await start(runs, f"a{number}.r1", "true", timeout=3600)
        await finish(runs, f"a{number}.r1", state)

    await until(lambda: processes.with_word(str(tmp_path)) == [])

    assert not list(tmp_path.glob("host/fleet/runs/*/by.*"))
    assert not list(tmp_path.glob("host/fleet/runs/*/cancel"))


# --- Ends that are brought about ---------------------------------------------------


async def test_a_run_that_is_cancelled_before_its_start_never_starts(runs, tmp_path):
    cancelled = await runs.cancel("a.r1", "cancelled", QUICK)

    started = await start(runs, "a.r1", f"touch '{tmp_path}/gone'")

    assert (cancelled.stage, cancelled.why) == (Stage.DONE, "cancelled")
    assert started == cancelled
    assert not (tmp_path / "gone").exists()


async def test_who_looks_while_a_run_that_never_started_is_being_ended_sees_that_we_do(runs, tmp_path):
    folder = tmp_path / "host/fleet/runs/a.r1"
    stubborn = ["sh", "-c", "trap '' TERM; sleep 20.0816; :"]
    with subprocess.Popen(  # noqa: ASYNC220  it takes no time
        stubborn, env={"PATH": os.environ["PATH"], "RECONCILER_RUN_DIR": str(folder)}
    ) as process:
        ending = asyncio.create_task(runs.cancel("a.r1", "cancelled", RunEnding(grace=60)))
        await until((folder / "claim").exists)

        seen = (await runs.stat(["a.r1"])).states["a.r1"]
        process.kill()
        ended = await ending

    assert (seen.stage, ended.stage) == (Stage.RUNNING, Stage.DONE)
    assert runs.proofs.is_ours("a.r1", seen)
    assert runs.proofs.is_ours("a.r1", ended)


async def test_cancelling_what_is_over_changes_nothing(runs):
    end = await run(runs, "a.r1", "exit 3")

    again = await runs.cancel("a.r1", "cancelled", QUICK)

    assert again == end


async def test_an_agent_may_end_politely_when_it_is_cancelled(runs):
    word = f"polite{os.getpid()}"
    await start(runs, "a.r1", f"trap 'exit 3' INT; : {word}; while :; do sleep 0.05; done")
    await until(lambda: processes.with_word(word))

    state = await runs.cancel("a.r1", "cancelled", RunEnding(signal="INT", grace=20))

    assert (state.exit_code, state.why) == (3, "cancelled")


async def test_the_host_keeps_the_time_limit_by_itself(tmp_path):
    runs = make_runs(tmp_path)
    await start(runs, "a.r1", "sleep 100", timeout=1)
    await runs.close()  # nobody looks

    await until((tmp_path / "host/fleet/runs/a.r1/exit").exists)
    host_runs = await runs.stat(["a.r1"])

    assert host_runs.states["a.r1"].why == "timeout"


async def test_silence_is_told_from_a_time_limit(runs):
    state = await start(runs, "a.r1", "echo one; sleep 100")

    end = await finish(runs, "a.r1", state, silence=0.5)

    assert (end.why, end.exit_code) == ("stall", 143)


async def test_output_without_end_is_stopped(runs, tmp_path):
    state = await start(runs, "a.r1", "yes")

    end = await finish(runs, "a.r1", state, most=100_000)

    assert end.why == "output"
    assert len(read(tmp_path, "a.r1")) == 100_000


# --- Faults --------------------------------------------------------------------


def pid_of(folder: Path, record: str) -> int:
    return int((folder / record).read_text().split()[0])


async def test_without_its_supervisor_a_run_goes_on_as_an_orphan_and_is_lost_in_the_end(runs, tmp_path):
    folder, gate = tmp_path / "host/fleet/runs/a.r1", tmp_path / "gate"
    state = await start(runs, "a.r1", f"while [ ! -e '{gate}' ]; do sleep 0.05; done; echo end")
    await until((folder / "pid").exists)
    os.kill(supervisor := pid_of(folder, "claim"), signal.SIGKILL)
    await until(lambda: not processes.is_alive(supervisor))

    orphan = (await runs.stat(["a.r1"])).states["a.r1"]
    again = await start(runs, "a.r1", "echo twice")
    gate.touch()
    end = await finish(runs, "a.r1", state)

    assert (orphan.stage, again.stage, end.stage) == (Stage.ORPHAN, Stage.ORPHAN, Stage.LOST)
    assert read(tmp_path, "a.r1") == b"end\n"


@pytest.mark.parametrize("does_end", [True, False])
async def test_nothing_keeps_the_time_of_a_run_whose_supervisor_was_killed(runs, tmp_path, does_end):
    folder = tmp_path / "host/fleet/runs/a.r1"
    await start(runs, "a.r1", f"until [ -e '{tmp_path}/gate' ]; do sleep 0.05; done")
    await until((folder / "pid").exists)
    os.kill(pid_of(folder, "claim"), signal.SIGKILL)
    if does_end:
        (tmp_path / "gate").touch()

    await runs.cancel("a.r1", "cancelled", QUICK)

    await until(lambda: not processes.with_word(str(folder)))


async def test_an_orphan_can_be_cancelled(runs, tmp_path):
    folder = tmp_path / "host/fleet/runs/a.r1"
    await start(runs, "a.r1", "sleep 100")
    await until((folder / "pid").exists)
    os.kill(pid_of(folder, "claim"), signal.SIGKILL)

    state = await runs.cancel("a.r1", "cancelled", QUICK)

    assert (state.stage, state.why) == (Stage.DONE, "cancelled")


async def test_another_boot_of_the_host_is_told_from_a_run_that_goes_on(runs, tmp_path):
    folder = tmp_path / "host/fleet/runs/a.r1"
    folder.mkdir(parents=True)
    (folder / "claim").write_text(f"{os.getpid()} 1 another-boot ok\n")

    host_runs = await runs.stat(["a.r1"])

    assert host_runs.states["a.r1"] == RunState(Stage.REBOOTED)


async def test_a_pid_that_was_given_to_another_process_is_not_taken_for_the_run(runs, tmp_path):
    folder = tmp_path / "host/fleet/runs/a.r1"
    folder.mkdir(parents=True)
    boot = await asyncio.to_thread(Path("/proc/sys/kernel/random/boot_id").read_text)
    (folder / "claim").write_text(f"{os.getpid()} 1 {boot.strip()} ok\n")

    host_runs = await runs.stat(["a.r1"])

    assert host_runs.states["a.r1"] == RunState(Stage.LOST)


async def test_a_run_folder_that_is_deleted_under_a_live_run_ends_its_following(runs, tmp_path):
    script = f"touch '{tmp_path}/up'; until [ -e '{tmp_path}/gate' ]; do sleep 0.05; done"
    state = await start(runs, "a.r1", script)
    await until((tmp_path / "up").exists)  # until nothing more is written into the folder
    shutil.rmtree(tmp_path / "host/fleet/runs/a.r1")

    end = await finish(runs, "a.r1", state)
    (tmp_path / "gate").touch()

    assert end.stage is Stage.ABSENT


STOP_SUPERVISOR = 'read -r pid rest <"$RECONCILER_RUN_DIR/claim"; kill -STOP "$pid"; '


@pytest.mark.parametrize(("then", "code"), [("exit 3", 3), ("exec sleep 100", 143)])
async def test_a_run_whose_agent_stopped_its_supervisor_is_ended_in_time(
    runs, monkeypatch, tmp_path, then, code
):
    monkeypatch.setattr("reconciler.dispatch.runs._OVERTIME", 0.0)
    state = await start(runs, "a.r1", STOP_SUPERVISOR + then)
    supervisor = (tmp_path / "host/fleet/runs/a.r1/claim").read_text().split()[0]
    await until(lambda: ") T " in Path(f"/proc/{supervisor}/stat").read_text())

    end = await runs.follow("a.r1", state, Bounds(output=1000, time=0.0), RunEnding(grace=0))

    assert end.stage is Stage.DONE
    assert (end.exit_code, end.why) == (code, "timeout")
    assert runs.proofs.is_ours("a.r1", end)


async def test_live_runs_are_not_removed_and_ended_ones_are(runs, tmp_path):
    await run(runs, "old.r1", "true")
    await start(runs, "live.r1", "sleep 100")

    with pytest.raises(Refused, match=r"live\.r1 is alive"):
        await runs.remove(["live.r1"])
    await runs.remove(["old.r1", "never.r1"])

    assert set(await runs.list()) == {"live.r1"}
    await runs.cancel("live.r1", "cancelled", QUICK)


async def test_removals_of_the_same_runs_may_meet(runs, tmp_path):
    """As of two hosts that are one place."""
    names = [f"old{number}.r1" for number in range(20)]
    for name in names:
        folder = tmp_path / "host/fleet/runs" / name
        folder.mkdir(parents=True)
        (folder / "exit").write_text("0\n")

    await asyncio.gather(*(runs.remove(names) for _ in range(4)))

    assert await runs.list() == {}


async def test_a_record_that_is_not_there_yet_is_not_removed_under_whoever_makes_it_meanwhile(tmp_path):
    """What stands in its place is."""
    removed, tools = tmp_path / "removed", tmp_path / "tools"
    tools.mkdir()
    program = tools / "rm"
    program.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" >>'{removed}'\nexec {shutil.which('rm')} \"$@\"\n")
    program.chmod(0o755)
    path = f"{tools}:{os.environ['PATH']}"
    runs = make_runs(tmp_path, LocalTransport(tmp_path / "host", os.environ | {"PATH": path}))
    records = {name: tmp_path / "host/fleet/runs" / name for name in ("events", "past")}

    for _ in range(2):
        removed.write_text("")
        await run(runs, "a.a1.r1", "true")
        await runs.remove(["a.a1.r1"])
        assert records.keys() & {Path(line).name for line in removed.read_text().splitlines()} == set()

    for record in records.values():
        record.unlink()
        record.mkdir()
    await run(runs, "b.a1.r1", "true")
    await runs.remove(["b.a1.r1"])
    assert [record.is_file() for record in records.values()] == [True, True]
    await runs.close()


async def test_a_folder_that_cannot_be_made_is_refused_in_words(tmp_path):
    (tmp_path / "host").mkdir()
    (tmp_path / "host/fleet").write_text("a file in the way")
    runs = make_runs(tmp_path)

    with pytest.raises(Refused, match="cannot make the folder"):
        await start(runs, "a.r1", "true")
    await runs.close()


async def test_a_host_that_does_not_answer_is_unavailable(tmp_path):
    runs = make_runs(tmp_path, shell="true")

    with pytest.raises((Unavailable, Refused), match="local"):
        await runs.list()
    await runs.close()


@pytest.mark.parametrize("name", ["../up", "a b", "", ".hidden"])
async def test_a_name_that_is_none_never_becomes_a_path(tmp_path, name):
    transport = LocalTransport(tmp_path / "host")
    runs = make_runs(tmp_path, transport)
    await runs.list()
    (wrapper,) = (tmp_path / "host/bin").glob("wrapper-*")
    call = f"sh ./bin/{wrapper.name} start ./fleet/runs '{name}' 9 TERM 1 sh </dev/null"

    answer = await transport.call(("sh", "-s"), call.encode(), timeout=300)

    assert answer.stdout.startswith(b"E ")
    await runs.close()


async def test_without_proc_the_processes_are_found_by_ps(tmp_path):
    if shutil.which("ps") is None:
        pytest.skip("ps is not installed")
    word = f"noproc{os.getpid()}"
    wrapped = tmp_path / "sh"
    wrapped.write_text('#!/bin/sh\nRECONCILER_PROC=/nowhere exec dash "$@"\n')
    wrapped.chmod(0o755)
    runs = make_runs(tmp_path, shell=str(wrapped))
    await start(runs, "a.r1", f"sh -c ': {word}; while :; do sleep 0.2; done' & wait")
    await until(lambda: processes.with_word(word))

    alive = (await runs.stat(["a.r1"])).states["a.r1"]
    state = await runs.cancel("a.r1", "cancelled", QUICK)

    assert alive.stage is Stage.RUNNING
    assert (state.stage, state.why) == (Stage.DONE, "cancelled")
    assert processes.with_word(word) == []
    await runs.close()


async def test_no_kill_at_any_moment_starts_a_run_twice(tmp_path):
    """Kill one process of the wrapper after up to 30 ms, then ask for the start again; fifty times."""
    draw = random.Random(20300131)
    runs = make_runs(tmp_path)
    await runs.list()

    for number in range(50):
        run_id = f"fuzz.a{number}.r1"
        launch = asyncio.create_task(start(runs, run_id, f"echo {number} >>'{tmp_path}/journal'; sleep 0.02"))
        await asyncio.sleep(draw.random() * 0.03)
        victims = processes.with_word(run_id)
        if victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(draw.choice(victims), signal.SIGKILL)
        await asyncio.gather(launch, return_exceptions=True)
        end = await finish(runs, run_id, await start(runs, run_id, f"echo {number} >>'{tmp_path}/journal'"))

        assert end.stage in {Stage.DONE, Stage.LOST}

    started = (tmp_path / "journal").read_text().split()
    assert len(started) == len(set(started))
    assert len(started) >= 10
    await runs.close()

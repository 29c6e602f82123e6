"""
What ends with a run: everything it started, by whatever the host has to find it.
"""

import asyncio
import os
import shutil
import signal
from pathlib import Path

import pytest

from reconciler.core.model.specs import Host
from reconciler.dispatch.dry_run import dry_run
from reconciler.dispatch.local import LocalTransport
from reconciler.dispatch.logs import LogFolder
from reconciler.dispatch.protocol import Stage
from tests import processes
from tests.dispatch.sshd import needs_sshd, quick, yard
from tests.dispatch.world import QUICK, make_runs, run, start, until

LOOP = "trap '' TERM HUP INT; : {word}; while :; do sleep 0.2; done"
WAYS = {
    "a session": 'setsid sh -c "$loop" &',
    "a cleared environment": 'env -i sh -c "$loop" &',
    "both": 'setsid env -i sh -c "$loop" &',
    "a double fork": '(env -i setsid sh -c \'(env -i setsid sh -c "$0" &)\' "$loop" &);',
    "nohup": 'env -i nohup setsid sh -c "$loop" >/dev/null 2>&1 &',
    "another cgroup": (
        'for at in /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/*/cgroup.procs; do echo $$ >"$at"; done '
        '2>/dev/null; setsid env -i sh -c "$loop" &'
    ),
    "forks without end": "env -i setsid sh -c 'f() { f & exit; }; : '$word'; f' >/dev/null 2>&1 &",
}
HELPERS = ("perl", "python3", "neither")


def tools(folder: Path, helper: str) -> str:
    """Return a PATH on which there is at most one of what can do more than a shell."""
    folder.mkdir()
    for name in os.environ["PATH"].split(":"):
        for file in Path(name).glob("*") if Path(name).is_dir() else ():
            link = folder / file.name
            if not file.name.startswith(("perl", "python")) and not link.is_symlink():
                link.symlink_to(file)
    program = shutil.which("python3", path="/usr/bin:/usr/local/bin") if helper == "python3" else None
    program = program or (shutil.which(helper) if helper != "neither" else None)
    if program:
        (folder / helper).symlink_to(Path(program).resolve())
    return str(folder)


@pytest.fixture
def word() -> str:
    return f"tree{os.getpid()}y"


@pytest.fixture
def make(tmp_path: Path):
    def made(helper: str):
        environ = os.environ | {"PATH": tools(tmp_path / "tools", helper)}
        return make_runs(tmp_path, LocalTransport(tmp_path / "host", environ))

    return made


@pytest.mark.parametrize("helper", ["perl", "python3"])
@pytest.mark.parametrize("way", WAYS)
async def test_nothing_that_a_run_started_outlives_it(make, word, way, helper):
    runs = make(helper)
    if "reaper" not in await runs.means():
        pytest.skip(f"there is no {helper} that works")

    end = await run(runs, "a.r1", f"{WAYS[way]} exit 4", loop=LOOP.format(word=word), word=word)

    assert (end.stage, end.exit_code) == (Stage.DONE, 4)
    assert processes.with_word(word) == []
    await runs.close()


@pytest.mark.parametrize("way", ["both", "a double fork", "nohup"])
async def test_nothing_that_a_run_started_outlives_its_cancel(make, word, way):
    runs = make("perl")
    await start(runs, "a.r1", f"{WAYS[way]} {LOOP.format(word=word)}", loop=LOOP.format(word=word))
    await until(lambda: len(processes.with_word(word)) > 1)

    state = await runs.cancel("a.r1", "cancelled", QUICK)

    assert (state.stage, state.why) == (Stage.DONE, "cancelled")
    assert processes.with_word(word) == []
    await runs.close()


@pytest.mark.parametrize("helper", HELPERS)
async def test_what_keeps_its_environment_is_found_without_anything_but_a_shell(make, word, helper):
    runs = make(helper)

    await run(runs, "a.r1", f"{WAYS['a session']} exit 0", loop=LOOP.format(word=word))

    assert "mark" in await runs.means()
    assert processes.with_word(word) == []
    await runs.close()


async def test_a_run_in_a_cgroup_leaves_nothing_even_if_its_agent_kills_who_watches_over_it(make, word):
    runs = make("neither")
    if "cgroup" not in await runs.means():
        pytest.skip("no cgroup can be made here")
    kill = 'kill -9 $(cut -d" " -f1 "$RECONCILER_RUN_DIR/claim")'

    end = await run(runs, "a.r1", f"{WAYS['both']} sleep 0.2; {kill}", loop=LOOP.format(word=word))
    await runs.cancel("a.r1", "cancelled", QUICK)

    assert end.stage is Stage.LOST
    assert processes.with_word(word) == []
    await runs.close()


@pytest.mark.parametrize("helper", ["perl", "python3"])
async def test_signals_that_were_ignored_at_the_start_have_their_defaults_in_the_agent(
    make, tmp_path, helper
):
    runs = make(helper)
    kept = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGHUP, signal.SIGUSR1)}
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        await run(runs, "a.r1", "grep -E 'SigIgn|SigBlk' /proc/self/status")
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})
        for number, handler in kept.items():
            signal.signal(number, handler)

    lines = LogFolder(tmp_path / "logs").read("a.r1", "out").splitlines()
    assert [int(line.split()[1], 16) for line in lines] == [0, 0]
    await runs.close()


# --- Tried before it is needed --------------------------------------------------


@pytest.mark.parametrize("helper", HELPERS)
async def test_a_check_says_what_ends_runs_and_what_does_not(tmp_path, helper):
    environ = os.environ | {"PATH": tools(tmp_path / "tools", helper)}
    transport = LocalTransport(tmp_path / "host", environ)

    found = await dry_run(Host(name="local"), transport, token="0123456789")

    escapes = [message for message in found.warnings if "outlives its run" in message]
    assert found.problems == ()
    assert bool(escapes) == (found.held_by == ("mark",))
    assert any("as the user of the reconciler" in message for message in found.warnings)
    assert not [path for path in (tmp_path / "host/host-check/runs").iterdir() if path.is_dir()]


async def test_a_check_finds_a_host_that_answers_and_cannot_start_a_run(tmp_path):
    path = tools(tmp_path / "tools", "neither")
    (tmp_path / "tools/ln").unlink()
    transport = LocalTransport(tmp_path / "host", os.environ | {"PATH": path})

    found = await dry_run(Host(name="local"), transport, token="0123456789")

    assert found.problems


def links(folder: Path) -> list[Path]:
    return [path.readlink() for path in folder.glob("agent-*")]


@needs_sshd[0]
@needs_sshd[1]
async def test_a_check_leaves_the_forwarded_agent_to_live_runs(tmp_path_factory):
    with yard(tmp_path_factory.mktemp("s") / "s") as servers:
        server = servers.sshd()
        host = server.host(agent_forwarding=True)
        link = server.home / ".local/state/reconciler"
        agent = await asyncio.create_subprocess_exec(
            "ssh-agent", "-D", "-a", str(server.home / "a"), stdout=asyncio.subprocess.PIPE
        )
        assert agent.stdout
        await agent.stdout.readline()
        staying, passing = (
            quick(agent_path=str(server.home / "a"), is_lasting=lasting) for lasting in (True, False)
        )
        await staying(host).call(("true",), timeout=300)
        before = await asyncio.to_thread(links, link)

        found = await dry_run(host, passing(host), token="0123456789")
        await passing.close()

        after = await asyncio.to_thread(links, link)
        await staying.close()
        agent.terminate()
        await agent.wait()

    assert found.problems == ()
    assert before == after != []

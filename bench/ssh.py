"""
Work over SSH beside the tools people use for it, on loopback servers of this machine.

It needs sshd and the OpenSSH client; `ansible` and `pssh` are compared if they are on the PATH. Client and
servers share this machine, so the ratios mean more than the rates.
"""

import asyncio
import contextlib
import getpass
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.rows import Beside, Row, Skipped, row
from reconciler.dispatch.logs import LogFolder
from reconciler.dispatch.proofs import Proofs
from reconciler.dispatch.protocol import RunState, agent_job
from reconciler.dispatch.runs import REMOTE_PACE, Bounds, RunEnding, Runs
from reconciler.dispatch.scripts import Scripts
from reconciler.dispatch.transport import Transport
from tests.dispatch.sshd import Sshd, quick, yard

WORKDIR = "$HOME/.local/state/reconciler"
PROMPT = b"x" * 10_000
ENDING = RunEnding(grace=1)
EXEC = "A command is a channel, a process and its end on the server: sshd takes most of it."
FORKS = (
    "Seven programs are started one after another on the host, with five milliseconds of CPU: they make the "
    "run's folder, keep its input, leave the session and claim it; and two syncs here keep its seal."
)
FOLLOW = "Each line of output is a message of its own, decrypted and written to the log."
WRITER = """
import sys, time
paths, line = sys.stdin.read().split("\\n"), b"x" * 399 + b"\\n"
files = [open(path, "ab", buffering=0) for path in paths]
while True:
    began = time.monotonic()
    for file in files:
        file.write(line)
    time.sleep(max(0, 1 - (time.monotonic() - began)))
"""
"""Stands in for agents that print a line each second: that many of them would take all of this machine."""


@dataclass(frozen=True)
class Sizes:
    hosts: int = 50
    runs: int = 300
    cli_runs: int = 100
    """For tools that take long."""
    repeat: int = 3
    followed: tuple[int, int] = (200, 1000)
    """Runs on one host, and on all."""
    window: float = 15
    """Seconds."""


QUICK = Sizes(hosts=3, runs=12, cli_runs=6, repeat=2, followed=(5, 10), window=2)


def rows(quick: bool) -> list[Row]:
    if not (shutil.which("sshd") or Path("/usr/sbin/sshd").exists()):
        raise Skipped("OpenSSH's server is not installed")
    sizes = QUICK if quick else Sizes()
    with tempfile.TemporaryDirectory(prefix="bench-ssh-") as folder, yard(Path(folder, "s")) as servers:
        hosts = [servers.sshd(f"h{number}", MaxStartups="100") for number in range(sizes.hosts)]
        return asyncio.run(measure(Path(folder), hosts, sizes))


async def measure(folder: Path, hosts: list[Sshd], sizes: Sizes) -> list[Row]:
    async with connected(hosts) as transports:
        runs = [on_host(folder, transport, number) for number, transport in enumerate(transports)]
        found = [
            *await dispatch(folder, hosts, transports, sizes),
            *await starts(folder, hosts, runs, sizes),
            *await acknowledged(transports[0], runs[0], 5 if sizes is QUICK else 60),
            await tailing(folder, hosts[0], runs[0], *((10**6, 1) if sizes is QUICK else (50 * 10**6, 5))),
            await following(hosts[:1], runs[:1], sizes.followed[0], sizes.window),
            await following(hosts, runs, sizes.followed[1], sizes.window),
        ]
        for each in runs:
            await each.close()
    return found


@contextlib.asynccontextmanager
async def connected(hosts: Sequence[Sshd]) -> AsyncIterator[list[Transport]]:
    """Yield a transport for each host, its connection open."""
    pool = quick()
    transports = [pool(server.host()) for server in hosts]
    await asyncio.gather(*(transport.call(("true",), timeout=60) for transport in transports))
    yield transports
    await pool.close()


def on_host(folder: Path, transport: Transport, number: int) -> Runs:
    scripts = Scripts(transport, host=f"h{number}", shell="sh", workdir=WORKDIR)
    logs = LogFolder(folder / "logs" / str(number))
    proofs = Proofs(folder / "proofs" / str(number))
    return Runs(scripts, transport, root=f"{WORKDIR}/bench/runs", logs=logs, pace=REMOTE_PACE, proofs=proofs)


# --- Short commands: one open connection per host, against OpenSSH's ----------


async def dispatch(
    folder: Path, hosts: list[Sshd], transports: list[Transport], sizes: Sizes
) -> Iterator[Row]:
    async def ours() -> None:
        spread = (transports[n % len(transports)] for n in range(sizes.runs))
        await asyncio.gather(*(transport.call(("true",), timeout=120) for transport in spread))

    with masters(folder, hosts) as commands:

        async def theirs() -> None:
            few = asyncio.Semaphore(50)

            async def one(command: list[str]) -> None:
                async with few:
                    process = await asyncio.create_subprocess_exec(*command, "true")
                    assert await process.wait() == 0

            await asyncio.gather(*(one(commands[n % len(commands)]) for n in range(sizes.runs)))

        mine, other = await side_by_side(sizes.repeat, ours, theirs)
    what = f"{sizes.runs} x `true` on {len(hosts)} hosts, connections open"
    rate, theirs_rate = ([sizes.runs / each for each in walls] for walls in (mine, other))
    beside = "OpenSSH with ControlMaster"
    return iter([row(what, "/s", rate, theirs_rate, beside=beside, aim="≥ 4", behind=EXEC)])


@contextlib.contextmanager
def masters(folder: Path, hosts: Sequence[Sshd]) -> Iterator[list[list[str]]]:
    """Yield a command line for each host that goes over an open master connection."""
    sockets = [folder / f"m{number}" for number in range(len(hosts))]
    commands = [
        [*ssh_words(folder, server), "-S", str(socket), "-p", str(server.port), "127.0.0.1"]
        for server, socket in zip(hosts, sockets, strict=True)
    ]
    for command in commands:
        subprocess.run([*command[:-1], "-M", "-N", "-f", command[-1]], check=True)
    yield commands
    for command in commands:
        subprocess.run([*command[:-1], "-O", "exit", command[-1]], check=True, stderr=subprocess.DEVNULL)


# --- Starts that can be found again -------------------------------------------


async def starts(folder: Path, hosts: list[Sshd], runs: list[Runs], sizes: Sizes) -> list[Row]:
    names = iter(range(10**9))

    async def ours() -> None:
        jobs = (start(runs[n % len(runs)], next(names), "true") for n in range(sizes.runs))
        await asyncio.gather(*jobs)

    await asyncio.gather(*(start(each, next(names), "true") for each in runs))  # brings the wrapper there
    tools = [tool for tool in others(folder, hosts, sizes.cli_runs) if shutil.which(tool[1][0])]
    ways = [lambda command=command: quiet(command) for _, command, _ in tools]
    mine, *walls = await side_by_side(sizes.repeat, ours, *ways)
    rate = [sizes.runs / each for each in mine]
    what = f"starts that can be found again, on {len(hosts)} hosts"
    found = [row(what, "/s", rate)]
    for (name, _, aim), wall in zip(tools, walls, strict=True):
        other = [sizes.cli_runs / each for each in wall]
        more: Beside = {"beside": f"{name}, of a command that cannot", "aim": f"≥ {aim}", "behind": FORKS}
        found.append(row(what, "/s", rate, other, **more))
    return found


async def start(runs: Runs, number: int, script: str) -> None:
    job = agent_job(["sh", "-c", script], env={}, folder="/")
    await runs.start(f"bench{number}.r1", job, PROMPT, timeout=600, ending=ENDING)


def others(folder: Path, hosts: Sequence[Sshd], count: int) -> Iterator[tuple[str, list[str], int]]:
    """Yield name, command and aim of the tools to compare with."""
    chosen = [hosts[n % len(hosts)] for n in range(count)]
    common = " ".join(ssh_words(folder, hosts[0])[1:])
    inventory = folder / "inventory"
    inventory.write_text(
        "".join(f"r{n} ansible_host=127.0.0.1 ansible_port={s.port}\n" for n, s in enumerate(chosen))
        + f"[all:vars]\nansible_user={getpass.getuser()}\nansible_python_interpreter={sys.executable}\n"
        + f"ansible_ssh_common_args='{common}'\n"
    )
    ansible = ["ansible", "all", "-i", str(inventory), "-f", "50", "-a", "true", "-m"]
    yield "ansible raw, 50 at once", [*ansible, "raw"], 5
    yield "ansible shell, 50 at once", [*ansible, "shell"], 10
    listed = folder / "hosts"
    listed.write_text("".join(f"127.0.0.1:{server.port}\n" for server in chosen))
    pssh = "parallel-ssh" if shutil.which("parallel-ssh") else "pssh"  # the first is Debian's name for it
    yield "pssh, 50 at once", [pssh, "-h", str(listed), "-p", "50", "-t", "0", "-x", common, "true"], 5


async def quiet(command: list[str]) -> None:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.DEVNULL, env=os.environ | {"ANSIBLE_NOCOLOR": "1"}
    )
    assert await process.wait() == 0, command


# --- One start, and what it costs to be acknowledged --------------------------


async def acknowledged(transport: Transport, runs: Runs, count: int) -> list[Row]:
    async def plain() -> None:
        await transport.call(("true",), timeout=60)

    names = iter(range(10**6, 10**9))

    async def whole() -> None:
        await start(runs, next(names), "true")

    call, ack = await side_by_side(count, plain, whole)
    more = statistics.median(ack) - statistics.median(call)
    aim: Beside = {"beside": "of a plain command", "aim": "≤ 2", "behind": FORKS}
    return [
        row("start → acknowledged, one at a time", "ms", ack, call, scale=1000, **aim),
        row(
            "start → acknowledged, more than a plain command",
            "ms",
            [more],
            scale=1000,
            aim="≤ 8",
            behind=FORKS,
        ),
    ]


# --- Following what grows -----------------------------------------------------


async def following(hosts: list[Sshd], runs: list[Runs], count: int, window: float) -> Row:
    run_ids = [f"follow{count}-{n}.r1" for n in range(count)]
    job = agent_job(["sleep", "600"], env={}, folder="/")
    spread = [(run_id, runs[n % len(runs)], hosts[n % len(hosts)]) for n, run_id in enumerate(run_ids)]

    async def begin(run_id: str, each: Runs) -> asyncio.Task[object]:
        state = await each.start(run_id, job, timeout=900, ending=ENDING)
        return asyncio.create_task(each.follow(run_id, state, Bounds(output=2**30), ENDING))

    followed = await asyncio.gather(*(begin(run_id, each) for run_id, each, _ in spread))
    paths = [str(s.home / ".local/state/reconciler/bench/runs" / run_id / "out") for run_id, _, s in spread]
    writer = await asyncio.create_subprocess_exec(sys.executable, "-c", WRITER, stdin=asyncio.subprocess.PIPE)
    assert writer.stdin is not None
    writer.stdin.write("\n".join(paths).encode())
    writer.stdin.close()
    await asyncio.sleep(3)  # to get into step
    before = time.process_time()
    await asyncio.sleep(window)
    spent = (time.process_time() - before) / count / window
    writer.kill()
    await writer.wait()
    for task in followed:
        task.cancel()
    await asyncio.gather(*followed, return_exceptions=True)
    for server in hosts:
        await asyncio.to_thread(server.clear)
    what = f"client's CPU per followed run and second, {count} runs on {len(hosts)} hosts"
    return row(what, "ms", [spent], scale=1000, aim="≤ 0.2", behind=FOLLOW)


async def tailing(folder: Path, server: Sshd, runs: Runs, size: int, repeat: int) -> Row:
    """Copy the output of a run that is over, and print the same file by OpenSSH."""
    names = iter(range(10**9))
    output = server.home / "output"
    output.write_bytes((b"x" * 399 + b"\n") * (size // 400))

    async def begin() -> tuple[str, RunState]:
        run_id = f"tail{next(names)}.r1"
        job = agent_job(["cat", str(output)], env={}, folder="/")
        await runs.start(run_id, job, timeout=600, ending=ENDING)
        while (state := (await runs.stat([run_id])).states[run_id]).stage.is_alive:
            await asyncio.sleep(0.05)
        return run_id, state

    begun = [await begin() for _ in range(repeat)]

    async def ours() -> None:
        run_id, state = begun.pop()
        await runs.follow(run_id, state, Bounds(output=2**30), ENDING)

    command = [*ssh_words(folder, server), "-p", str(server.port), "127.0.0.1", f"cat {output}"]

    async def theirs() -> None:
        process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL)
        assert await process.wait() == 0

    mine, other = await side_by_side(repeat, ours, theirs)
    what = f"copying {size // 10**6} MB of a run's output"
    return row(what, "s", mine, other, beside="of `ssh host cat`", aim="≤ 1.3")


# --- Measuring ----------------------------------------------------------------


async def side_by_side(repeat: int, *ways: Callable[[], Awaitable[None]]) -> list[list[float]]:
    """Return the seconds of each way, taken in turn so that what else goes on meets all alike."""
    rounds = [[await seconds(way) for way in ways] for _ in range(repeat)]
    return [list(column) for column in zip(*rounds, strict=True)]


async def seconds(way: Callable[[], Awaitable[None]]) -> float:
    before = time.perf_counter()
    await way()
    return time.perf_counter() - before


def ssh_words(folder: Path, server: Sshd) -> list[str]:
    """Return the OpenSSH client with nothing of its user's configuration."""
    options = [f"UserKnownHostsFile={folder / 'known_hosts'}", "StrictHostKeyChecking=no", "LogLevel=ERROR"]
    options += ["GlobalKnownHostsFile=/dev/null", "BatchMode=yes", f"IdentityFile={server.identity}"]
    return ["ssh", "-F", "none", *(word for option in options for word in ("-o", option))]

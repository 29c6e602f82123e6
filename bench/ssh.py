"""
Measure work over SSH beside the tools people use for it, on loopback servers of this machine.

Usage: `python -m bench.ssh [--hosts 50] [--runs 300] [--repeat 3]`, in the root of the repository, with sshd
and the OpenSSH client installed; `ansible` and `pssh` are compared if they are on the PATH. All figures are
medians of the same run. Client and servers share this machine, so the ratios mean more than the rates.
"""

import argparse
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
from pathlib import Path

from reconciler.dispatch.logs import LogFolder
from reconciler.dispatch.proofs import Proofs
from reconciler.dispatch.protocol import agent_job
from reconciler.dispatch.runs import REMOTE_PACE, Bounds, RunEnding, Runs
from reconciler.dispatch.scripts import Scripts
from reconciler.dispatch.transport import Transport
from tests.dispatch.sshd import Sshd, quick, yard

WORKDIR = "$HOME/.local/state/reconciler"
PROMPT = b"x" * 10_000
ENDING = RunEnding(grace=1)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, default=50)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--cli-runs", type=int, default=100, help="for tools that take long")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-ssh-") as folder, yard(Path(folder, "s")) as servers:
        hosts = [servers.sshd(f"h{number}", MaxStartups="100") for number in range(options.hosts)]
        asyncio.run(measure(Path(folder), hosts, options))


async def measure(folder: Path, hosts: list[Sshd], options: argparse.Namespace) -> None:
    async with connected(hosts) as transports:
        await dispatch(folder, hosts, transports, options)
        runs = [on_host(folder, transport, number) for number, transport in enumerate(transports)]
        await starts(folder, hosts, runs, options)
        await acknowledged(transports[0], runs[0])
        await following(hosts[:1], runs[:1], 200)
        await following(hosts, runs, 1000)
        for each in runs:
            await each.close()


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


async def dispatch(folder: Path, hosts: list[Sshd], transports: list[Transport], options) -> None:
    async def ours() -> None:
        spread = (transports[n % len(transports)] for n in range(options.runs))
        await asyncio.gather(*(transport.call(("true",), timeout=120) for transport in spread))

    with masters(folder, hosts) as commands:

        async def theirs() -> None:
            few = asyncio.Semaphore(50)

            async def one(command: list[str]) -> None:
                async with few:
                    process = await asyncio.create_subprocess_exec(*command, "true")
                    assert await process.wait() == 0

            await asyncio.gather(*(one(commands[n % len(commands)]) for n in range(options.runs)))

        mine, other = await side_by_side(options.repeat, ours, theirs)
    print(f"{options.runs} x `true` on {len(hosts)} hosts, connections open")
    show("reconciler", options.runs / mine, "/s")
    show("ssh with ControlMaster", options.runs / other, "/s", ratio=other / mine, aim=2)


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


async def starts(folder: Path, hosts: list[Sshd], runs: list[Runs], options) -> None:
    names = iter(range(10**9))

    async def ours() -> None:
        jobs = (start(runs[n % len(runs)], next(names), "true") for n in range(options.runs))
        await asyncio.gather(*jobs)

    await asyncio.gather(*(start(each, next(names), "true") for each in runs))  # brings the wrapper there
    tools = [tool for tool in others(folder, hosts, options.cli_runs) if shutil.which(tool[1][0])]
    ways = [lambda command=command: quiet(command) for _, command, _ in tools]
    mine, *walls = await side_by_side(options.repeat, ours, *ways)
    rate = options.runs / mine
    print(f"Starts that can be found again, on {len(hosts)} hosts (the others: of a command that cannot)")
    show("reconciler", rate, "/s")
    for (name, _, aim), wall in zip(tools, walls, strict=True):
        show(name, options.cli_runs / wall, "/s", ratio=rate * wall / options.cli_runs, aim=aim)
    print("  (compared are those of ansible and pssh that are installed)")


async def start(runs: Runs, number: int, script: str) -> None:
    job = agent_job(["sh", "-c", script], env={}, folder="/")
    await runs.start(f"bench{number}.r1", job, PROMPT, timeout=600, ending=ENDING)


def others(folder: Path, hosts: Sequence[Sshd], count: int) -> Iterator[tuple[str, list[str], float]]:
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
    yield "pssh, 50 at once", [pssh, "-h", str(listed), "-p", "50", "-t", "0", "-x", common, "true"], 3


async def quiet(command: list[str]) -> None:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.DEVNULL, env=os.environ | {"ANSIBLE_NOCOLOR": "1"}
    )
    assert await process.wait() == 0, command


# --- One start, and what it costs to be acknowledged --------------------------


async def acknowledged(transport: Transport, runs: Runs) -> None:
    async def plain() -> None:
        await transport.call(("true",), timeout=60)

    names = iter(range(10**6, 10**9))

    async def whole() -> None:
        await start(runs, next(names), "true")

    call, ack = await side_by_side(60, plain, whole)
    print("One command at a time, median of 60")
    show("plain command", call * 1000, "ms")
    show("start, acknowledged", ack * 1000, "ms", ratio=ack / call, aim=-5)
    print(f"  {'':<28} {(ack - call) * 1000:+9.1f} ms  (aim: at most +15 ms)")


# --- Following what grows -----------------------------------------------------


async def following(hosts: list[Sshd], runs: list[Runs], count: int, window: float = 15) -> None:
    run_ids = [f"follow{count}-{n}.r1" for n in range(count)]
    job = agent_job(["sleep", "600"], env={}, folder="/")
    spread = [(run_id, runs[n % len(runs)], hosts[n % len(hosts)]) for n, run_id in enumerate(run_ids)]

    async def begin(run_id: str, each: Runs) -> asyncio.Task:
        state = await each.start(run_id, job, timeout=900, ending=ENDING)
        return asyncio.create_task(each.follow(run_id, state, Bounds(output=2**30), ENDING))

    followed = await asyncio.gather(*(begin(run_id, each) for run_id, each, _ in spread))
    paths = [str(s.home / ".local/state/reconciler/bench/runs" / run_id / "out") for run_id, _, s in spread]
    writer = await asyncio.create_subprocess_exec(sys.executable, "-c", WRITER, stdin=asyncio.subprocess.PIPE)
    writer.stdin.write("\n".join(paths).encode())
    writer.stdin.close()
    await asyncio.sleep(3)  # to get into step
    before = time.process_time()
    await asyncio.sleep(window)
    spent = (time.process_time() - before) / count / window
    writer.kill()
    await writer.wait()
    print(f"Following {count} runs on {len(hosts)} hosts, a line a second each")
    show("CPU of the client", spent * 1000, "ms per run and second", aim=-0.4, ratio=spent * 1000)
    for task in followed:
        task.cancel()
    await asyncio.gather(*followed, return_exceptions=True)
    for server in hosts:
        await asyncio.to_thread(server.clear)


# --- Measuring ----------------------------------------------------------------


async def side_by_side(repeat: int, *ways: Callable[[], Awaitable[None]]) -> list[float]:
    """Return the median seconds of each way, taken in turn so that what else goes on meets all alike."""
    rounds = [[await seconds(way) for way in ways] for _ in range(repeat)]
    return [statistics.median(column) for column in zip(*rounds, strict=True)]


async def seconds(way: Callable[[], Awaitable[None]]) -> float:
    before = time.perf_counter()
    await way()
    return time.perf_counter() - before


def ssh_words(folder: Path, server: Sshd) -> list[str]:
    """Return the OpenSSH client with nothing of its user's configuration."""
    options = [f"UserKnownHostsFile={folder / 'known_hosts'}", "StrictHostKeyChecking=no", "LogLevel=ERROR"]
    options += ["GlobalKnownHostsFile=/dev/null", "BatchMode=yes", f"IdentityFile={server.identity}"]
    return ["ssh", "-F", "none", *(word for option in options for word in ("-o", option))]


def show(name: str, value: float, unit: str, *, ratio: float | None = None, aim: float | None = None) -> None:
    """Print a line; an aim below zero is an upper limit."""
    verdict = ""
    if ratio is not None and aim is not None:
        verdict = f"{ratio:9.2f}x" if unit != "ms per run and second" else ""
        verdict += f"  (aim: {'at most' if aim < 0 else 'at least'} {abs(aim):g})"
    print(f"  {name:<28} {value:9.2f} {unit}{verdict}")


if __name__ == "__main__":
    main()

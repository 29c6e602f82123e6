"""
A fleet in which nothing happens: the memory of `reconciler run`, and what silent runs cost it.

Memory is what is resident once every task is on record, beside a fleet of one;
the hosts do not answer. The runs are local, each a process
that waits; CPU is that of the reconciler alone.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from bench.latency import WHO
from bench.rows import Row, row

LONGEST = 1800.0
"""Seconds until a fleet has to be at rest."""
BEHIND = "Specs and statuses are held as checked values, all of them."


def rows(quick: bool) -> Iterator[Row]:
    tasks, hosts, runs, window = (200, 5, 5, 3.0) if quick else (10_000, 100, 100, 60.0)
    least, memory = resident_after(1, 0), resident_after(tasks, hosts)
    yield row("memory with one task", "MiB", [least])
    what = f"memory with {tasks:,} tasks and {hosts} hosts"
    yield row(what, "MiB", [memory], aim="≤ 150", behind=BEHIND)
    cpu, commits = while_idle(runs, window)
    yield row(f"CPU while {runs} live runs are silent", "% of a core", [cpu * 100], aim="≤ 2")
    yield row(f"what is recorded in these {window:.0f} s", "commits", [float(commits)], aim="≤ 0")


def resident_after(tasks: int, hosts: int) -> float:
    """Return the MiB that are resident once so many tasks wait, and each host was found silent."""
    files = {"specs/fleet.yaml": "execution_mode: http_pull\n"}
    files |= {f"specs/hosts/h{n}.yaml": "address: 127.0.0.1\nport: 1\n" for n in range(hosts)}
    files |= {f"specs/tasks/p{n // 100}/t{n}.yaml": "goal: Wait.\n" for n in range(tasks)}
    with running(files) as (process, out):
        wait_for(out, "· → created", tasks)
        wait_for(out, "host ", hosts)
        status = Path(f"/proc/{process.pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) / 1024


def while_idle(runs: int, seconds: float) -> tuple[float, int]:
    """Return the share of a core that the reconciler takes while runs are silent, and its commits."""
    with tempfile.TemporaryDirectory() as folder:
        gate = Path(folder) / "gate"
        os.mkfifo(gate)
        files = {
            "specs/fleet.yaml": f"max_running: {runs}\n",
            "specs/hosts/local.yaml": f"slots: {runs}\n",
            **{f"specs/tasks/t{n}.yaml": f"goal: Wait.\nscript: cat {gate}\n" for n in range(runs)},
        }
        with running(files) as (process, out):
            wait_for(out, "assigned → running", runs)
            time.sleep(seconds / 4)  # what follows the starts is over
            before, commits = cpu(process.pid), count_commits(out.parent)
            time.sleep(seconds)
            spent, made = cpu(process.pid) - before, count_commits(out.parent) - commits
            with suppress(OSError):  # lets every run end
                os.close(os.open(gate, os.O_WRONLY | os.O_NONBLOCK))
            wait_for(out, "running → completed", runs)
    return spent / seconds, made


@contextmanager
def running(files: Mapping[str, str]) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Run a fleet with these files; yield its process, and the file with what it prints."""
    with tempfile.TemporaryDirectory() as name:
        folder, fleet = Path(name), Path(name, "fleet")
        for path, content in files.items():
            (fleet / path).parent.mkdir(parents=True, exist_ok=True)
            (fleet / path).write_text(content)
        env = {**os.environ, **WHO, "RECONCILER_DATA_DIR": f"{folder}/data"}
        for args in (("init", "-qb", "main"), ("add", "-A"), ("commit", "-qm", "Begin")):
            subprocess.run(["git", *args], cwd=fleet, env=env, check=True)
        with (folder / "printed").open("wb") as printed:
            command = [sys.executable, "-m", "reconciler", "run"]
            process = subprocess.Popen(command, cwd=fleet, env=env, stdout=printed, stderr=subprocess.DEVNULL)
        try:
            yield process, folder / "printed"
        finally:
            process.terminate()
            process.wait(60)


def wait_for(out: Path, text: str, count: int) -> None:
    """Wait until so many lines have the text."""
    until = time.monotonic() + LONGEST
    while sum(text in line for line in out.read_text().splitlines()) < count:
        if time.monotonic() > until:
            raise SystemExit(f"{count} times {text!r} did not come within {LONGEST:.0f} s")
        time.sleep(0.2)


def cpu(pid: int) -> float:
    """Return the CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def count_commits(folder: Path) -> int:
    command = ["git", "-C", str(folder / "fleet"), "rev-list", "--count", "fleet-state"]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

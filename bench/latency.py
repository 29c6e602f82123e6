"""
The time from a commit on the specs branch to the agent's process, local.

Runs `reconciler run` on a fleet in a temporary folder, commits one task after
another, and takes the time from the end of `git commit` to the first line of
the task's script.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.rows import Row, row

BEHIND = (
    "Nineteen programs are started one after another on the host, in two calls, at half a millisecond of "
    "CPU for a small one and one to two for perl and each sh that reads our scripts; our commit takes six "
    "syncs."
)
WHO = {
    f"GIT_{role}_{what}": value
    for role in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "Bench"), ("EMAIL", "bench@example.org"))
}


def rows(quick: bool) -> Iterator[Row]:
    times = sorted(delays(3 if quick else 40))
    yield row("commit → agent's process", "ms", times)
    slowest = times[int(len(times) * 0.95) - 1]
    yield row("commit → agent's process, 95th percentile", "ms", [slowest], aim="≤ 60", behind=BEHIND)


def delays(rounds: int) -> list[float]:
    """Return how many milliseconds it took, so many times."""
    with tempfile.TemporaryDirectory() as folder:
        fleet, times = Path(folder, "fleet"), Path(folder, "times")
        (fleet / "specs" / "tasks").mkdir(parents=True)
        times.mkdir()
        env = {**os.environ, **WHO, "RECONCILER_DATA_DIR": f"{folder}/data"}

        def commit(message: str) -> None:
            subprocess.run(["git", "add", "-A"], cwd=fleet, check=True)
            subprocess.run(["git", "commit", "-qm", message], cwd=fleet, check=True, env=env)

        subprocess.run(["git", "init", "-q", "-b", "main"], cwd=fleet, check=True)
        (fleet / "specs" / "fleet.yaml").write_text("max_running: 4\n")
        commit("Begin")
        command = [sys.executable, "-m", "reconciler", "run"]
        process = subprocess.Popen(command, cwd=fleet, env=env, stdout=subprocess.DEVNULL)
        try:
            return [delay(fleet, times, number, commit) for number in range(rounds + 3)][3:]
        finally:
            process.terminate()
            process.wait(30)


def delay(fleet: Path, times: Path, number: int, commit: Callable[[str], None]) -> float:
    """Commit one task; return the milliseconds until its script began."""
    stamp = times / str(number)
    task = fleet / "specs" / "tasks" / f"task{number}.yaml"
    task.write_text(f"goal: Say when.\nscript: date +%s%N > {stamp}.new && mv {stamp}.new {stamp}\n")
    commit(f"Ask for task {number}")
    committed = time.time_ns()
    for _ in range(3000):
        if stamp.exists():
            time.sleep(0.3)
            return (int(stamp.read_text()) - committed) / 1e6
        time.sleep(0.01)
    raise SystemExit(f"task {number} did not start within 30 s")

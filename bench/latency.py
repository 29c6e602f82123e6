"""
Measure the time from a commit on the specs branch to the agent's process.

Runs `reconciler run` on a fleet in a temporary folder, commits one task after
another, and takes the time from the end of `git commit` to the first line of
the task's script. Prints median and 95th percentile in milliseconds.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 40
WHO = {
    f"GIT_{role}_{what}": value
    for role in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "Bench"), ("EMAIL", "bench@example.org"))
}


def main() -> None:
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
            delays = [delay(fleet, times, number, commit) for number in range(ROUNDS + 3)][3:]
        finally:
            process.terminate()
            process.wait(30)
    delays.sort()
    print(f"commit → agent's process, {ROUNDS} tasks one after another")
    print(f"  median {statistics.median(delays):6.0f} ms")
    print(f"  p95    {delays[int(len(delays) * 0.95) - 1]:6.0f} ms")


def delay(fleet: Path, times: Path, number: int, commit) -> float:
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


if __name__ == "__main__":
    main()

"""
Measure how long commands take that look, in a fleet of 100 tasks; beside Python alone.

Nearly all of it is imports. Each is called in turn, again and again, in a fleet
at rest; medians of the wall clock, and of the CPU time with git's own processes.
`python bench/start.py TIMES OTHER` does so for another checkout too, in turn.
"""

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TIMES = int(sys.argv[1]) if len(sys.argv) > 1 else 11
CHECKOUTS = [str(Path(__file__).parents[1]), *sys.argv[2:]]
TASKS = 100
COMMANDS = (
    "version",
    "get",
    "describe hello",
    "logs hello",
    "history",
    "status",
    "explain hello",
    "validate",
    "plan",
)
TASK = "goal: Say hello.\nscript: echo hello\n"


def main() -> None:
    """Print a table."""
    with tempfile.TemporaryDirectory() as name:
        folder, env = fleet(Path(name))
        program = [sys.executable, "-m", "reconciler", "--repo", str(folder), "--data-dir"]
        run = [*program, f"{name}/data0", "run", "--until-idle"]
        subprocess.run(run, cwd=CHECKOUTS[0], env=env, check=True, capture_output=True)
        calls = {("python -c pass", 0): [sys.executable, "-c", "pass"]} | {
            (args, number): [*program, f"{name}/data{number}", *args.split()]
            for args in COMMANDS
            for number in range(len(CHECKOUTS))
        }
        for number in range(1, len(CHECKOUTS)):  # the logs are where it ran
            shutil.copytree(f"{name}/data0", f"{name}/data{number}")
        times = {call: [] for call in calls}
        for _ in range(TIMES + 2):
            for (args, number), call in calls.items():
                times[args, number].append(measured(call, Path(CHECKOUTS[number]), env))
        print(f"{'command':<16}" + "".join(f" {'wall':>8} {'CPU':>8}" for _ in CHECKOUTS))
        for args in dict.fromkeys(args for args, _ in calls):
            cells = (
                medians(times[args, number][2:])
                for number in range(len(CHECKOUTS))
                if (args, number) in times
            )
            print(f"{args:<16}" + "".join(f" {wall:5.0f} ms {cpu:5.0f} ms" for wall, cpu in cells))


def medians(pairs: list[tuple[float, float]]) -> list[float]:
    """Return the medians in milliseconds."""
    return [statistics.median(values) * 1000 for values in zip(*pairs, strict=True)]


def fleet(place: Path) -> tuple[Path, dict[str, str]]:
    """Return a fleet, and the environment for it: compiled modules are kept, as an installation has them."""
    folder, home = place / "fleet", place / "home"
    (folder / "specs/tasks").mkdir(parents=True)
    home.mkdir()
    for task in ["hello", *(f"t{number}" for number in range(1, TASKS))]:
        (folder / f"specs/tasks/{task}.yaml").write_text(TASK)
    (home / ".gitconfig").write_text("[user]\n\tname = Bench\n\temail = bench@example.org\n")
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    env = {**kept, "HOME": str(home), "PYTHONPYCACHEPREFIX": str(place / "compiled")}
    for args in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-q", "-m", "Say hello"]):
        subprocess.run(["git", *args], cwd=folder, env=env, check=True)
    return folder, env


def measured(call: list[str], folder: Path, env: dict[str, str]) -> tuple[float, float]:
    """Return how long a call takes: on the wall clock, and of CPU."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(call, cwd=folder, env=env, check=False, capture_output=True)
    assert done.returncode in {0, 8}, done.stderr  # 8: no reconciler runs
    wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()

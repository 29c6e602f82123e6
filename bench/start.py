"""
Measure how long commands take that look, in a fleet of a few tasks; beside Python alone.

Nearly all of it is imports. Each is called in turn, again and again; the best
of the wall clock, and of the CPU time with git's own processes.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TIMES = int(sys.argv[1]) if len(sys.argv) > 1 else 15
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
        program = [sys.executable, "-m", "reconciler", "--repo", str(folder), "--data-dir", f"{name}/data"]
        subprocess.run([*program, "run", "--until-idle"], env=env, check=True, capture_output=True)
        calls = {"python -c pass": [sys.executable, "-c", "pass"]}
        calls |= {args: [*program, *args.split()] for args in COMMANDS}
        best = dict.fromkeys(calls, (9.0, 9.0))
        for _ in range(TIMES):
            for args, call in calls.items():
                best[args] = tuple(map(min, best[args], measured(call, folder, env)))
        print(f"{'command':<16} {'wall':>8} {'CPU':>8}")
        for args, (wall, cpu) in best.items():
            print(f"{args:<16} {wall * 1000:5.0f} ms {cpu * 1000:5.0f} ms")


def fleet(place: Path) -> tuple[Path, dict[str, str]]:
    """Return a fleet, and the environment for it: compiled modules are kept, as an installation has them."""
    folder, home = place / "fleet", place / "home"
    (folder / "specs/tasks").mkdir(parents=True)
    home.mkdir()
    (folder / "specs/tasks/hello.yaml").write_text(TASK)
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

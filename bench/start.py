"""
Commands that look, in a fleet of 100 tasks at rest, beside Python alone; milliseconds of CPU with git's own.

Nearly all of it is imports. Each is called in turn, again and again.
"""

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.rows import Beside, Row, row

BEHIND = "Nearly all of it is imports, and git's own processes."
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
QUICK = frozenset({"get", "describe", "logs", "history", "status"})
TASKS = 100
UNCOUNTED = 2
"""Calls after a commit that parse what later ones find parsed."""
TASK = "goal: Say hello.\nscript: echo hello\n"


def rows(quick: bool) -> Iterator[Row]:
    cpu = seconds(2 if quick else 15)
    alone = cpu.pop("python -c pass")
    for args, taken in cpu.items():
        aim: Beside = {"aim": "≤ 250", "behind": BEHIND} if args.split()[0] in QUICK else {}
        yield row(f"reconciler {args}", "ms", taken, scale=1000, **aim)
    yield row("python -c pass", "ms", alone, scale=1000)


def seconds(times: int) -> dict[str, list[float]]:
    """Return the CPU seconds of each call, taken in turn."""
    with tempfile.TemporaryDirectory() as name:
        folder, env = fleet(Path(name))
        program = [sys.executable, "-m", "reconciler", "--repo", str(folder), "--data-dir", f"{name}/data"]
        subprocess.run([*program, "run", "--until-idle"], env=env, check=True, capture_output=True)
        calls = {"python -c pass": [sys.executable, "-c", "pass"]}
        calls |= {args: [*program, *args.split()] for args in COMMANDS}
        cpu: dict[str, list[float]] = {args: [] for args in calls}
        for _ in range(times + UNCOUNTED):
            for args, call in calls.items():
                cpu[args].append(measured(call, folder, env))
        return {args: taken[UNCOUNTED:] for args, taken in cpu.items()}


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


def measured(call: list[str], folder: Path, env: dict[str, str]) -> float:
    """Return the CPU seconds of a call."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(call, cwd=folder, env=env, check=False, capture_output=True)
    assert done.returncode in {0, 8}, done.stderr  # 8: no reconciler runs
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

"""
A whole fleet at work on this machine: the first thing a newcomer sees.
"""

import asyncio
import shutil
import subprocess
import sys
import tempfile
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import click

from reconciler.cli.exits import ExitCode
from reconciler.core.errors import NotFound, UsageError

if TYPE_CHECKING:
    from reconciler.git.checkout import Checkout

PROJECT = {
    "calculator.py": '''"""A very small calculator."""


def average(numbers):
    """Return the mean."""
    return sum(numbers) / len(numbers)
''',
    "test_calculator.py": """import unittest

from calculator import average


class Average(unittest.TestCase):
    def test_of_some_numbers(self):
        self.assertEqual(average([1, 2, 6]), 3)

    def test_of_nothing(self):
        self.assertEqual(average([]), 0)


if __name__ == "__main__":
    unittest.main()
""",
    ".gitignore": "__pycache__/\n",
}
"""The code repository: one of its tests fails."""

AUTHOR = {"name": "reconciler demo", "address": "demo@reconciler.invalid"}
TEST = [sys.executable, "-m", "unittest", "-q"]
FIX = "task/calculator/fix-average"


@click.command()
@click.option(
    "--dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where to make it all; a fresh temporary folder if left out.",
)
@click.option(
    "--adapter",
    default="script",
    show_default=True,
    metavar="NAME",
    help="Agent that does the work: claude-code and codex use the real CLI, if it is installed.",
)
def demo(*, folder: Path | None, adapter: str) -> int:
    """
    Run a small fleet on this machine, and show what it does.

    Makes a small project with a failing test and a fleet of three tasks, runs
    them on this host, and shows the branch that makes the test pass.
    """
    if adapter in {"claude-code", "codex"} and shutil.which(adapter.partition("-")[0]) is None:
        raise NotFound(f"{adapter.partition('-')[0]} is not installed; leave out --adapter for a stand-in")
    place = _folder(folder)
    make_project(place / "calculator")
    make_fleet(place / "fleet", adapter)
    click.echo(f"A project with a failing test and a fleet of three tasks, in {place}\n")
    phases = asyncio.run(_run(place))
    _show(place)
    return ExitCode.OK if phases == {"completed"} else ExitCode.ENDED_BADLY


def _folder(wanted: Path | None) -> Path:
    if wanted is None:
        return Path(tempfile.mkdtemp(prefix="reconciler-demo-"))
    if wanted.exists() and any(wanted.iterdir()):
        raise UsageError(f"{wanted} is not empty: choose a folder that is, or a new one")
    wanted.mkdir(parents=True, exist_ok=True)
    return wanted.resolve()


def make_project(folder: Path) -> None:
    """Make the code repository."""
    from reconciler.git.checkout import begin

    for name, text in PROJECT.items():
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    begin(folder, "A calculator, and a test that fails", **AUTHOR)


def make_fleet(folder: Path, adapter: str) -> None:
    """Make the fleet's repository: the example, its tasks given to the adapter."""
    from reconciler.cli.init import schema_files
    from reconciler.git.checkout import begin
    from reconciler.specs.edit import edit

    shutil.copytree(_example(), folder / "specs")
    for name, text in schema_files():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    if adapter != "script":
        for path in (folder / "specs" / "tasks").rglob("*.yaml"):
            changes = {"adapter": adapter, "script": None}
            path.write_text(edit(path.read_text(encoding="utf-8"), changes), encoding="utf-8")
    begin(folder, "Ask for three changes to the calculator", **AUTHOR)


def _example() -> Path:
    """Find the example fleet: inside an installed package, or at the top of a checkout."""
    packaged = Path(str(resources.files("reconciler"))) / "example" / "specs"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "specs"


async def _run(place: Path) -> set[str]:
    from reconciler.cli.progress import line
    from reconciler.cli.streams import LineWriter
    from reconciler.serve import reconcile
    from reconciler.settings import Settings

    settings = Settings(repo=str(place / "fleet"), data_dir=place / "state")
    sys.stdout.flush()
    line_writer = LineWriter()
    try:
        loop = await reconcile(settings, until="idle", on_step=lambda step: line_writer.tell(line(step)))
    finally:
        line_writer.close()
    return {str(status.phase) for status in loop.cache.statuses.values()}


def _show(place: Path) -> None:
    from reconciler.git.checkout import Checkout

    fleet, project = place / "fleet", Checkout(place / "calculator")
    _heading("Nothing is left to do", "reconciler plan")
    args = ("--repo", fleet, "--data-dir", place / "state", "plan")
    plan = subprocess.run(
        [sys.executable, "-m", "reconciler", *args], capture_output=True, text=True, check=False
    )
    _print(plan.stdout + plan.stderr)
    _heading("The branch that makes the test pass", f"git -C calculator diff main {FIX}")
    _print(project.diff("main", FIX))
    for branch in ("main", FIX):
        click.echo(f"  {_test(project, branch):<6}  {' '.join(TEST[1:])}  on {branch}")
    _heading("The record", "git -C fleet log fleet-state")
    _print(Checkout(fleet).log("fleet-state"))
    click.echo(f"\nLook around: cd {fleet}")


def _heading(title: str, command: str) -> None:
    click.echo(f"\n{click.style(title, bold=True)}   $ {command}")


def _print(text: str) -> None:
    for line in filter(str.strip, text.splitlines()):
        click.echo(f"  {line}")


def _test(project: "Checkout", branch: str) -> str:
    """Run the project's tests as they are on a branch, away from anybody's work tree."""
    with tempfile.TemporaryDirectory() as folder:
        project.clone(folder, branch)
        done = subprocess.run(TEST, cwd=folder, capture_output=True, check=False)
    return "passes" if done.returncode == 0 else "fails"

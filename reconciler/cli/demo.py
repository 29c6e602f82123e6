"""
Demo: a small fleet at work on this machine.
"""

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NoReturn
from zipfile import is_zipfile

import click

from reconciler.cli.exits import ExitCode
from reconciler.cli.folders import NamedFolder
from reconciler.cli.help import examples
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

SIGHTS = {
    "tasks/shop/checkout-speed.yaml": """\
goal: |
  Make the checkout page load in under a second.
  What customers see stays as it is.
script: |
  for page in cart address payment summary; do
    for file in $(seq 1 40); do
      printf '\\033[34m%s\\033[0m file %s \\033[32mok\\033[0m\\n' "$page" "$file"; sleep 2
    done
  done
priority: 5
""",
    "tasks/shop/tidy-up.yaml": "goal: Tidy up the module for discounts.\nscript: sleep 300\n",
    "tasks/shop/translate.yaml": "goal: Translate the new texts.\nscript: sleep 200\n",
    "tasks/shop/announce.yaml": """\
goal: Announce the quicker checkout.
script: echo "It is quicker."
depends_on: [shop/checkout-speed]
""",
    "tasks/search/train.yaml": "goal: Train the ranking anew.\nscript: sleep 60\nrequires: [gpu]\n",
    "tasks/search/later.yaml": "goal: Try the other index.\nscript: 'true'\ndesired: suspended\n",
    "tasks/search/coverage.yaml": """\
goal: Raise the coverage of the parser to 90 %.
script: echo "I wrote 12 tests."
validation: ["echo 'coverage is 71 %, wanted are 90 %'; exit 1"]
fix_attempts: 1
retries: 0
priority: 9
""",
    "tasks/search/typo.yaml": "gaol: Find what people mean.\nscript: 'true'\n",
    "hosts/gpu1.yaml": "address: gpu1.example.invalid\nslots: 8\nlabels: [gpu]\n",
}
"""With --serve: specs by path, for tasks in every state that there is to see, and a host that is away."""
YOU = "you"
"""The agent whose token people act with there."""
LISTEN = "127.0.0.1:8420"

AUTHOR = {"name": "reconciler demo", "address": "demo@reconciler.invalid"}
TEST = [sys.executable, "-m", "unittest", "-q"]
FIX = "task/calculator/fix-average"


@click.command(epilog=examples("reconciler demo", "reconciler demo --dir my-demo"))
@click.option(
    "--dir",
    "folder",
    type=NamedFolder(),
    help="Where to create it; a temporary folder if left out.",
)
@click.option(
    "--adapter",
    default="script",
    show_default=True,
    metavar="NAME",
    help="Agent for the tasks: claude-code and codex use the real CLI, if it is installed.",
)
@click.option("--serve", is_flag=True, help="Serve its pages in the browser, with more to look at.")
@click.option("--listen", default=LISTEN, show_default=True, metavar="HOST:PORT", help="With --serve: where.")
def demo(*, folder: Path | None, adapter: str, serve: bool, listen: str) -> int:
    """
    Run a small fleet on this machine, and show what it does.

    Makes a small project with a failing test and a fleet of three tasks, runs
    them on this host, and shows the branch that makes the test pass. With
    --serve the fleet is at work in the browser until Ctrl-C: more tasks, a
    host that is away, and a token to act with.
    """
    if adapter in {"claude-code", "codex"} and shutil.which(adapter.partition("-")[0]) is None:
        raise NotFound(f"{adapter.partition('-')[0]} is not installed; leave out --adapter for a stand-in")
    place = _folder(folder)
    make_project(place / "calculator")
    if serve:
        token, spec = _token()
        make_fleet(place / "fleet", adapter, {**SIGHTS, f"agents/{YOU}.yaml": spec})
        click.echo(f"A fleet at work, in {place}; Ctrl-C ends it.\n")
        click.echo(f"  look   http://{listen}/\n  act    log in there with {token}\n")
        _serve(place, listen)
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


def make_fleet(folder: Path, adapter: str, more: Mapping[str, str] = MappingProxyType({})) -> None:
    """Make the fleet's repository, beside the project: the example given to the adapter, and more specs."""
    from reconciler.cli.init import schema_files
    from reconciler.git.checkout import begin
    from reconciler.specs.edit import edit

    shutil.copytree(_example(), folder / "specs")
    for name, text in schema_files():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    repo = folder / "specs" / "repos" / "calculator.yaml"
    repo.write_text(edit(repo.read_text(encoding="utf-8"), {"url": "../calculator"}), encoding="utf-8")
    if adapter != "script":
        for path in (folder / "specs" / "tasks").rglob("*.yaml"):
            changes = {"adapter": adapter, "script": None}
            path.write_text(edit(path.read_text(encoding="utf-8"), changes), encoding="utf-8")
    for name, text in more.items():
        (folder / "specs" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "specs" / name).write_text(text, encoding="utf-8")
    begin(folder, "Ask for three changes to the calculator" + (", and more" if more else ""), **AUTHOR)


def _example() -> Path:
    """Find the example fleet: inside an installed package, or at the top of a checkout."""
    packaged = Path(str(resources.files("reconciler"))) / "example" / "specs"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "specs"


async def _run(place: Path) -> set[str]:
    from reconciler.cli.progress import line
    from reconciler.cli.streams import LineWriter
    from reconciler.serve.process import reconcile
    from reconciler.settings import Settings

    settings = Settings(repo=str(place / "fleet"), data_dir=place / "state")
    sys.stdout.flush()
    line_writer = LineWriter()
    try:
        loop = await reconcile(settings, until="idle", on_step=lambda step: line_writer.tell(line(step)))
    finally:
        line_writer.close()
    return {str(status.phase) for status in loop.cache.statuses.values()}


# --- In the browser --------------------------------------------------------


def _serve(place: Path, listen: str) -> NoReturn:
    """Serve the fleet until it is interrupted; this process becomes that one."""
    sys.stdout.flush()
    args = ("--repo", place / "fleet", "--data-dir", place / "state", "serve", "--listen", listen)
    os.execv(sys.executable, [*_program(), *map(str, args)])  # noqa: S606 - no shell


def _program() -> tuple[str, ...]:
    """Return how this program is started once more: a zipapp is no module that Python finds."""
    own = (sys.argv[0],) if is_zipfile(sys.argv[0]) else ("-m", "reconciler")
    return sys.executable, *own


def _token() -> tuple[str, str]:
    """Return a new token, and the spec of whose it is."""
    from reconciler import clock
    from reconciler.api.tokens import new_token

    token, digest = new_token(YOU, clock.random_hex)
    return token, f"scopes: [admin]\ntoken_hash: {digest}\n"


def _show(place: Path) -> None:
    from reconciler.git.checkout import Checkout

    fleet, project = place / "fleet", Checkout(place / "calculator")
    _heading("Nothing is left to do", "reconciler plan")
    args = ("--repo", fleet, "--data-dir", place / "state", "plan")
    plan = subprocess.run([*_program(), *args], capture_output=True, text=True, check=False)
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
    """Run the project's tests on a branch, in a clone of its own."""
    with tempfile.TemporaryDirectory() as folder:
        project.clone(folder, branch)
        done = subprocess.run(TEST, cwd=folder, capture_output=True, check=False)
    return "passes" if done.returncode == 0 else "fails"

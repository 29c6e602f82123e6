"""
Break each promise in a copy of the program, and see whether the tests that guard it fail.

`python -m tests.mutants [P1 ...]` prints the table promise, mutant, caught by, and returns 1 if
one was not caught.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.mutants.mutants import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]
_FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)


def copy_tree(place: Path) -> None:
    """Copy the files that git has of the program and its tests."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "reconciler", "tests", "bench", "docs", "specs", "pyproject.toml"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, place / name)


def failures(place: Path, guards: Sequence[str]) -> Sequence[str]:
    """Return which of the tests fail in a copy. Raises RuntimeError if they cannot be run."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-n0",
            "-o",
            "timeout=0",
            "-p",
            "no:cacheprovider",
            *guards,
        ],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(place), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in {0, 1}:
        raise RuntimeError(f"{guards}: pytest ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return _FAILED.findall(done.stdout)


def build(place: Path, mutant: Mutant) -> None:
    """Apply a mutant to a copy."""
    for edit in mutant.edits:
        file = place / edit.path
        text = file.read_text()
        if text.count(edit.old) != 1:
            raise RuntimeError(
                f"{mutant.about}: {edit.path} has this {text.count(edit.old)} times: {edit.old}"
            )
        file.write_text(text.replace(edit.old, edit.new))


def caught_by(mutant: Mutant) -> Sequence[str]:
    """Return the tests that fail with a mutant. Raises RuntimeError if they do without it."""
    with tempfile.TemporaryDirectory() as folder:
        copy_tree(Path(folder))
        if failing := failures(Path(folder), mutant.guards):
            raise RuntimeError(f"{', '.join(failing)}: fails without any mutant")
        build(Path(folder), mutant)
        return failures(Path(folder), mutant.guards)


def main() -> int:
    """Print the table."""
    missed = 0
    for mutant in MUTANTS:
        if sys.argv[1:] and mutant.promise not in sys.argv[1:]:
            continue
        tests = caught_by(mutant)
        missed += not tests
        sys.stdout.write(f"{mutant.promise}  {mutant.about:60}  {', '.join(tests) or 'NOT CAUGHT'}\n")
        sys.stdout.flush()
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

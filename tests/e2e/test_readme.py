"""README says what is true: its commands are run, in a fresh clone, as a newcomer would."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A fresh clone of what is committed, and of what is about to be."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True
    )
    folder = tmp_path / "reconciler"
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())
            (folder / name).chmod((ROOT / name).stat().st_mode)
    return folder


def run(command: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("VIRTUAL_ENV", "PYTEST"))
    }
    return subprocess.run(
        ["sh", "-ec", command], cwd=cwd, env={**clean, **env}, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_two_commands_do_everything_on_a_fresh_clone(clone):
    """With the pip that `python3 -m venv` brings; the second one with the newest."""
    tests = BLOCKS[1].strip()
    reached = run(f"{sys.executable} -m pip download -q --no-deps -d {clone.parent} click", clone)
    if reached.returncode != 0:
        pytest.skip("no package index can be reached, and the first command installs from one")

    first = run(BLOCKS[0], clone, HOME=str(clone.parent))
    runs_without_tests = run(".venv/bin/python -c 'import pytest'", clone)
    newest = run(".venv/bin/pip install -q --upgrade pip", clone, HOME=str(clone.parent))
    install = re.search(r"\.venv/bin/pip install \S+ --no-deps --no-build-isolation -e \.", BLOCKS[0])[0]
    again = run(f"{install} --force-reinstall", clone, HOME=str(clone.parent))
    second = run(f"{tests} tests/core/test_lifecycle.py", clone, HOME=str(clone.parent))

    assert first.returncode == 0, first.stdout + first.stderr
    assert (newest.returncode, again.returncode) == (0, 0), newest.stderr + again.stderr
    assert first.stdout.partition("The record")[0].count("running → completed") == 3
    assert "passes  -m unittest" in first.stdout
    assert "No module named 'pytest'" in runs_without_tests.stderr
    assert second.returncode == 0, second.stdout + second.stderr
    assert " passed" in second.stdout


def test_a_fleet_of_ones_own_is_made_as_the_readme_says(tmp_path):
    steps = BLOCKS[2].replace("&& reconciler run", "&& reconciler run --until-idle")
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\nprintf 'goal: Log in.\\nscript: echo fixed\\n' > \"$1\"\n")
    editor.chmod(0o755)
    identity = {"GIT_AUTHOR_NAME": "Test", "GIT_AUTHOR_EMAIL": "test@example.org"}
    identity |= {name.replace("AUTHOR", "COMMITTER"): value for name, value in identity.items()}

    done = run(
        steps,
        tmp_path,
        HOME=str(tmp_path),
        EDITOR=str(editor),
        PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        **identity,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"fix-login .*running → completed", done.stdout)


def test_every_file_that_the_readme_names_is_there():
    named = re.findall(r"\]\(([^)]+)\)", (ROOT / "README.md").read_text())

    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []

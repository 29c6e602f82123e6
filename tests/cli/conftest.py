"""
A fleet's repository for every test that wants one, and commands called as people call them.
"""

import asyncio
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from reconciler.cli.main import cli
from tests.forking import run
from tests.prepared import prepare

TASK = """\
# Why this task is here: see the meeting of May.
goal: Say hello.   # short
script: echo hello
desired: active    # for now
"""


@dataclass
class Fleet:
    """A fleet's repository and its data folder."""

    folder: Path
    data: Path

    def write(self, path, text):
        """Write a file of the work tree."""
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    def read(self, path):
        """Read a file of the work tree."""
        return (self.folder / path).read_text(encoding="utf-8")

    def git(self, *args):
        """Run git in the work tree and return what it printed."""
        done = subprocess.run(["git", *args], cwd=self.folder, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def commit(self, message="Change the specs"):
        """Commit everything."""
        self.git("add", "--all")
        self.git("commit", "--quiet", f"--message={message}")

    def run(self, *args, stdin=None, env=None):
        """Call `reconciler` in this process, with some variables changed."""
        arguments = ["--repo", str(self.folder), "--data-dir", str(self.data), *args]
        return CliRunner().invoke(
            cli, arguments, prog_name="reconciler", input=stdin, env=env, catch_exceptions=False
        )

    def reconcile(self, until="--until-idle"):
        """
        Let a reconciler do what there is to do, and return what it printed.

        In this process, unless a loop runs in it: to start one costs more than most of what it does.
        """
        if asyncio._get_running_loop():
            command = [*self.command, "run", until]
            return run(command, check=True, capture_output=True, text=True).stdout
        done = self.run("run", until)
        assert done.exit_code == 0, done.stderr
        return done.stdout

    @property
    def command(self):
        """Return the words that call `reconciler` as a process of its own."""
        program = [sys.executable, "-m", "reconciler"]
        return [*program, "--repo", str(self.folder), "--data-dir", str(self.data)]


@pytest.fixture(autouse=True)
def person(tmp_path, monkeypatch):
    """Let nothing of whoever runs the tests matter, and give git somebody to name."""
    for name in [name for name in os.environ if name.startswith(("GIT_", "RECONCILER_"))]:
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text("[user]\n\tname = Test\n\temail = test@example.org\n")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "state"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    return home


@pytest.fixture
def fleet(tmp_path):
    """Return a fleet with one committed task, `hello`."""
    made = Fleet(tmp_path / "fleet", tmp_path / "data")
    prepare(begin, made.folder)
    return made


def begin(folder):
    made = Fleet(folder, folder.parent / "none")
    made.write("specs/tasks/hello.yaml", TASK)
    made.git("init", "--quiet", "--initial-branch=main")
    made.commit("Say hello")

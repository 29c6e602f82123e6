import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from reconciler.cli.main import cli
from tests.e2e.served import Served
from tests.forking import Process, run
from tests.prepared import prepare

IDENTITY = {
    "GIT_AUTHOR_NAME": "Test",
    "GIT_AUTHOR_EMAIL": "test@example.org",
    "GIT_COMMITTER_NAME": "Test",
    "GIT_COMMITTER_EMAIL": "test@example.org",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
}


@dataclass(frozen=True)
class Serving:
    """A running reconciler."""

    process: subprocess.Popen[str]

    def tells(self, *args: str) -> bool:
        """Read what it tells until one line has all of these words; False if it ends before."""
        lines = iter(self.process.stdout.readline, "")
        return any(all(word in line for word in args) for line in lines)


@dataclass(frozen=True)
class Playground:
    """A code repository and a fleet beside it, used as a person would: by commands."""

    root: Path

    @property
    def env(self) -> dict[str, str]:
        places = {"RECONCILER_DATA_DIR": str(self.root / "data"), "XDG_STATE_HOME": str(self.root / "xdg")}
        return {**os.environ, **IDENTITY, **places, "NO_COLOR": "1"}

    @property
    def code(self) -> Path:
        return self.root / "code"

    @property
    def fleet(self) -> Path:
        return self.root / "fleet"

    def sh(self, command: str, cwd: Path | None = None) -> str:
        done = subprocess.run(
            ["sh", "-ec", command],
            cwd=cwd or self.fleet,
            env=self.env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def command(self, *args: str) -> list[str]:
        return [sys.executable, "-m", "reconciler", *args]

    def reconciler(self, *args: str, code: int = 0) -> str:
        """
        Call a command and return what it printed; what reconciles is a process of its own.

        So is what loads plugins of others, whose warnings are no errors of ours, and everything where a
        loop runs in this one.
        """
        if not {"run", "notify"} & {*args} and not asyncio._get_running_loop():
            with contextlib.chdir(self.fleet):
                looked = CliRunner().invoke(
                    cli, args, prog_name="reconciler", env=self.env, catch_exceptions=False
                )
            assert looked.exit_code == code, f"{args}: {looked.exit_code}\n{looked.output}"
            return looked.stdout
        done = run(
            self.command(*args), cwd=self.fleet, env=self.env, capture_output=True, text=True, timeout=200
        )
        assert done.returncode == code, f"{args}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout

    @contextlib.contextmanager
    def serving(self) -> Iterator["Serving"]:
        """Have a reconciler serve the fleet as long as the block lasts; it ends by SIGKILL."""
        with (self.root / "talk").open("ab") as talk:
            process = Process(
                self.command("run"),
                cwd=self.fleet,
                env=self.env,
                stdout=subprocess.PIPE,
                stderr=talk,
                text=True,
            )
        try:
            yield Serving(process)
        finally:
            process.kill()
            process.communicate()

    def served(self) -> Served:
        """Return the API of this fleet; it is not served yet."""
        return Served(self.command, self.fleet, self.env, self.root / "serving")

    @property
    def talk(self) -> str:
        """What those reconcilers said on stderr."""
        return (self.root / "talk").read_text()

    def phases(self) -> Mapping[str, str]:
        """Return where each task stands."""
        tasks = json.loads(self.reconciler("get", "tasks", "-o", "json"))
        return {task["name"]: task["phase"] for task in tasks}

    def write(self, path: str, text: str) -> None:
        file = self.fleet / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def read(self, path: str) -> str:
        return (self.fleet / path).read_text()

    def task(self, name: str, text: str) -> None:
        self.write(f"specs/tasks/{name}.yaml", text)

    def commit(self, message: str = "Change the specs") -> None:
        self.sh(f"git add -A && git commit -qm '{message}'")


def make_playground(root: Path) -> Playground:
    """Make a code repository and a fleet beside it."""
    prepare(begin, root)
    return Playground(root)


def begin(root: Path) -> None:
    place = Playground(root)
    place.code.mkdir()
    place.fleet.mkdir()
    (place.code / "hello.txt").write_text("hello\n")
    place.sh("git init -qb main && git add -A && git commit -qm 'Say hello'", cwd=place.code)
    place.sh("git init -qb main")
    place.write("specs/repos/code.yaml", "url: ../code\n")
    place.write("specs/fleet.yaml", "backoff: 1s\n")


@pytest.fixture
def playground(tmp_path: Path) -> Playground:
    return make_playground(tmp_path)

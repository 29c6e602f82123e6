"""The operator's page says what is true: its commands are run, in its order, on a fleet with a live run."""

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import IDENTITY

PAGE = (Path(__file__).parents[2] / "docs/operations.md").read_text()
BLOCKS = re.findall(r"```sh(?: older)?\n(.*?)```", PAGE, re.DOTALL)
SERVE, STATUS, STOP, BACK_UP, RESTORE, OLDER, MOVE, UPGRADE, SPLIT, UPKEEP = BLOCKS
TASK = "goal: Work.\nadapter: script\nscript: |\n  {}\n"


@pytest.fixture
def operator(tmp_path: Path) -> Callable[..., str]:
    """A shell of somebody who has `reconciler` on the PATH, in an empty folder."""
    programs = tmp_path / "bin"
    programs.mkdir()
    started = f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m reconciler "$@"\n'
    (programs / "reconciler").write_text(started)
    (programs / "reconciler").chmod(0o755)
    env = {
        **os.environ,
        **IDENTITY,
        "HOME": str(tmp_path / "home"),
        "PATH": f"{programs}:{os.environ['PATH']}",
        "NO_COLOR": "1",
    }
    for name in ("XDG_STATE_HOME", "RECONCILER_DATA_DIR", "RECONCILER_REPO"):
        env.pop(name, None)

    def shell(commands: str, code: int = 0) -> str:
        done = subprocess.run(
            ["sh", "-ec", commands.replace("serve >", "serve --listen 127.0.0.1:0 >")],
            cwd=tmp_path,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == code, f"{commands}\n{done.stdout}"
        return done.stdout

    return shell


def until(shell: Callable[..., str], command: str, *wanted: str) -> str:
    deadline = time.monotonic() + 120
    while not all(word in (seen := shell(command)) for word in wanted):
        assert time.monotonic() < deadline, seen
        time.sleep(0.2)
    return seen


def commit_task(folder: Path, name: str, script: str) -> None:
    file = folder / f"specs/tasks/{name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(TASK.format(script))
    for command in (["add", "specs"], ["commit", "-qm", f"Ask for {name}"]):
        subprocess.run(["git", *command], cwd=folder, env={**os.environ, **IDENTITY}, check=True)


@pytest.mark.slow
def test_a_fleet_is_run_stopped_backed_up_restored_moved_and_split_as_the_page_says(operator, tmp_path):
    fleet, gate, starts = tmp_path / "fleet", tmp_path / "gate", tmp_path / "starts"
    operator("reconciler init fleet")
    commit_task(fleet, "long", f"echo started >>{starts}; until [ -e {gate} ]; do sleep 0.1; done")

    operator(SERVE)
    until(operator, f"({STATUS}) || true", "1 running", "pid")
    operator(STOP)
    until(operator, f"({STATUS}) || true", "none runs")
    gate.touch()
    operator("reconciler --repo fleet run --until-idle")
    assert starts.read_text() == "started\n", "the run went on while no reconciler ran, and was taken up"

    operator(BACK_UP)
    operator(RESTORE)
    assert "completed" in operator("reconciler --repo fleet.git get tasks long --no-headers")

    operator("git clone -q fleet.git work && rm -rf backup.git && git clone -q --mirror fleet.git backup.git")
    commit_task(tmp_path / "work", "later", "echo later")
    operator("git -C work push -q origin HEAD:main && reconciler --repo fleet.git run --until-idle")
    refused = operator("rm -rf fleet.git\n" + RESTORE.partition("\n")[2], code=7)
    assert " went back: branch " in refused
    operator(OLDER)
    assert "completed" in operator("reconciler --repo fleet.git get tasks long --no-headers")

    operator(MOVE)
    assert starts.read_text() == "started\n", "nothing was done again anywhere"
    operator(UPGRADE)

    for name in ("web/a", "web/b"):
        commit_task(tmp_path / "moved", name, "echo web")
    operator(SPLIT)
    operator("reconciler --repo other run --until-idle && reconciler --repo moved run --until-idle")
    assert operator("reconciler --repo other get tasks --no-headers").count("completed") == 2
    assert "web/" not in operator("reconciler --repo moved get tasks --no-headers")
    operator(UPKEEP)
    operator("reconciler --repo other verify")

"""
The programs that steps on a host start: each costs more than all that a shell does by itself.
"""

import os
import shutil
from pathlib import Path

import pytest

from reconciler.dispatch.local import LocalTransport
from reconciler.dispatch.protocol import Stage
from reconciler.dispatch.scripts import Scripts
from tests.dispatch.world import make_runs

PROGRAMS = ("cat", "cut", "env", "grep", "head", "ln", "mkdir", "mv", "rm", "sed", "tr", "wc")


class Counted:
    """A host on which each of these programs notes its name before it does what it is for."""

    def __init__(self, folder: Path) -> None:
        self._notes = folder / "notes"
        tools = folder / "tools"
        tools.mkdir()
        for name in PROGRAMS:
            text = f'#!/bin/sh\necho {name} >>{self._notes}\nexec {shutil.which(name)} "$@"\n'
            (tools / name).write_text(text)
            (tools / name).chmod(0o755)
        environ = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"}
        self.transport = LocalTransport(folder / "host", environ)

    def take(self) -> list[str]:
        """Return which programs were started since the last look."""
        names = sorted(self._notes.read_text().split()) if self._notes.exists() else []
        self._notes.unlink(missing_ok=True)
        return names


@pytest.fixture
def counted(tmp_path: Path) -> Counted:
    return Counted(tmp_path)


async def test_scripts_that_are_in_their_place_are_read_and_nothing_else(tmp_path, counted):
    runs = make_runs(tmp_path, counted.transport)
    await runs.install_scripts_then_stat("a.r1")
    counted.take()

    was_changed, state = await runs.install_scripts_then_stat("a.r1")

    assert (was_changed, state.stage) == (False, Stage.ABSENT)
    assert counted.take() == ["cat", "cat"]


async def test_a_workspace_without_a_repo_is_made_by_its_folders_alone(counted):
    scripts = Scripts(counted.transport, host="local", shell="sh", workdir=".")
    stdin = b"script\n\n\n\n\n\n\nwork\n"
    await scripts.call("workspace", "prepare", "./f1", "a.g1.a1", "a.g1.a1.r1", stdin=stdin)
    counted.take()

    answer = await scripts.call("workspace", "prepare", "./f1", "b.g1.a1", "b.g1.a1.r1", stdin=stdin)

    assert answer.startswith(b"S ready\n")
    assert counted.take() == ["mkdir", "mkdir", "rm"]

"""
Steps of workspaces whose caller is gone: one at a time, and none for ever.
"""

import asyncio
import os
from pathlib import Path

import pytest

from reconciler.dispatch.scripts import script_file
from tests import processes
from tests.dispatch.world import until

LINES = b"script\nrepos/code.git\ntask/a\n%b\nmain\n%b\n\n\n" % (b"1" * 40, b"1" * 40)


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    return tmp_path / "fleet"


async def prepare(
    fleet: Path, shell: list[str], key: str = "a.g1.a1", **env: str
) -> asyncio.subprocess.Process:
    """Start a step that waits for its bundle, as if its caller had gone with the connection open."""
    step = await asyncio.create_subprocess_exec(
        *shell,
        str(script_file("workspace")),
        "prepare",
        str(fleet),
        key,
        f"{key}.r1",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | env,
        start_new_session=True,
    )
    assert step.stdin
    step.stdin.write(LINES)
    await until(lambda: reading(fleet, key))
    return step


def reading(fleet: Path, key: str) -> list[int]:
    """Return what waits for the bundle in the name of a step."""
    marked = processes.with_variable("RECONCILER_STEP", f"{fleet}/work/{key}")
    return [pid for pid in marked if (fleet / "scratch" / key / "in").exists() and processes.is_alive(pid)]


@pytest.mark.parametrize("shell", [["dash"], ["bash"], ["busybox", "sh"]])
async def test_a_step_ends_what_an_earlier_one_of_its_workspace_left(fleet, shell):
    first = await prepare(fleet, shell)
    other = await prepare(fleet, shell, "b.g1.a1")
    left = reading(fleet, "a.g1.a1")

    second = await prepare(fleet, shell)

    await until(lambda: not processes.is_alive(first.pid))
    await until(lambda: not any(map(processes.is_alive, left)))
    assert processes.is_alive(second.pid)
    assert processes.is_alive(other.pid)
    for step in (first, second, other):
        await step.communicate(b"")
    assert list((fleet / "steps").iterdir()) == []


async def test_a_step_that_nobody_waits_for_any_more_ends_in_time(fleet):
    step = await prepare(fleet, ["sh"], RECONCILER_STEP_LIMIT="1")

    await until(lambda: not processes.is_alive(step.pid))
    await until(lambda: not reading(fleet, "a.g1.a1"))
    await step.communicate(b"")

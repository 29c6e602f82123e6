import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from reconciler.store.history import read_history
from tests.store.world import BRANCH, git

WRITING = Path(__file__).with_name("writing.py")
KILLS = 30


async def test_what_was_acknowledged_survives_kill_9_at_any_moment(bare, open_state, open_repository):
    moments = random.Random(20260102)  # any moments, the same in every run
    acknowledged: set[int] = set()

    with writing(bare) as process:
        for kill in range(KILLS):
            first = max(acknowledged, default=-1) + 2
            acknowledged |= write_until_killed(process, first, moments.randrange(9), with_git=kill % 2 == 0)

    state = await open_state(bare)
    tasks, _ = await state.load()
    assert tasks.keys() >= {f"t{number}/{part}" for number in acknowledged for part in range(1 + number % 7)}
    assert git(bare, "rev-list", "--min-parents=2", BRANCH) == ""
    assert git(bare, "log", "--format=%s", BRANCH).splitlines()[-1] == "fleet: first start"
    assert len(await read_history(await open_repository(bare), BRANCH)) == len(tasks)
    assert git(bare, "fsck", "--full", "--strict", "--no-dangling") == ""


@contextmanager
def writing(place: Path) -> Iterator[subprocess.Popen[str]]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, str(WRITING), str(place)], stdin=pipe, stdout=pipe, text=True, env=env
    ) as process:
        yield process


def write_until_killed(
    process: subprocess.Popen[str], first: int, batches: int, *, with_git: bool
) -> set[int]:
    """Return the batches that were acknowledged before `kill -9`, which comes in the middle of another."""
    process.stdin.write(f"{first}\n")
    process.stdin.flush()
    writer = int(process.stdout.readline())
    lines = [process.stdout.readline() for _ in range(batches + 1)]
    assert "over\n" not in lines, "it ended by itself; its traceback stands above"
    os.kill(writer, signal.SIGKILL)
    if with_git:
        with suppress(ProcessLookupError):
            os.kill(int(lines[-1].split()[0]), signal.SIGKILL)
    lines += iter(process.stdout.readline, "over\n")
    return {int(line.split()[1]) for line in lines}

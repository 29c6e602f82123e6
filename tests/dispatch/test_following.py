"""
Following runs costs little: of quiet ones is asked seldom, and of a backlog much at a time.
"""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.dispatch.local import LocalTransport
from reconciler.dispatch.logs import LogFolder
from reconciler.dispatch.runs import Bounds, _Follower, _Watch
from tests.dispatch.world import BRISK, QUICK, make_runs, start


class CountingTransport(LocalTransport):
    """The local transport; counts what is read of each file."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.reads = Counter[str]()

    async def read(self, path: str, offset: int, limit: int) -> bytes:
        self.reads["/".join(path.split("/")[-2:])] += 1
        return await super().read(path, offset, limit)


@pytest.fixture
def transport(tmp_path):
    return CountingTransport(tmp_path / "host")


@pytest.fixture
async def runs(tmp_path, transport):
    made = make_runs(tmp_path, transport)
    yield made
    await made.close()


async def copied(tmp_path, runs, transport, *, quiet_after, times):
    """Return how often each of four runs that print nothing was read from, in so many copies."""
    follower = _Follower(
        runs, transport, LogFolder(tmp_path / "logs"), replace(BRISK, quiet_after=quiet_after)
    )
    for number in range(4):
        run_id = f"a{number}.r1"
        follower._watches[run_id] = _Watch(run_id, Bounds(output=100), QUICK, LogFolder(tmp_path / "logs"), 0)
    for copies in range(times):
        await follower._copy_all(str(tmp_path), copies)
    return transport.reads


async def test_of_runs_that_print_nothing_a_part_is_read_from_at_a_time_and_each_in_turn(
    tmp_path, runs, transport
):
    reads = await copied(tmp_path, runs, transport, quiet_after=0, times=20)

    assert reads == {f"a{number}.r1/{stream}": 5 for number in range(4) for stream in ("out", "err")}


async def test_runs_that_may_print_are_read_from_each_time(tmp_path, runs, transport):
    reads = await copied(tmp_path, runs, transport, quiet_after=10**9, times=20)

    assert reads == {
        f"a{number}.r1/{stream}": times for number in range(4) for stream, times in (("out", 20), ("err", 4))
    }


async def test_much_output_is_copied_whole_and_in_few_reads(tmp_path, runs, transport):
    state = await start(runs, "a.r1", "head -c 5000000 /dev/zero; sleep 0.3; echo end >&2")

    await runs.follow("a.r1", state, Bounds(output=10**7), QUICK)

    logs = LogFolder(tmp_path / "logs")
    assert logs.read("a.r1", "out") == bytes(5_000_000)
    assert logs.read("a.r1", "err") == b"end\n"
    assert transport.reads["a.r1/out"] < 5_000_000 / (255 * 1024)

"""
What every scheduler owes its callers, be it of processes or of jobs in a queue; collected by the tests that
bring a fixture `place`.
"""

import asyncio
from dataclasses import dataclass
from datetime import timedelta

import pytest

from reconciler.core.errors import Refused
from reconciler.dispatch.logs import LogFolder
from reconciler.dispatch.protocol import Stage, agent_job
from reconciler.dispatch.runs import Bounds
from reconciler.dispatch.session import HostSession
from tests import processes
from tests.dispatch.world import QUICK, until


@dataclass(frozen=True)
class Place:
    """A host that runs are carried out on; the tests see its files and processes."""

    session: HostSession
    logs: LogFolder

    async def start(self, run_id: str, script: str, stdin: bytes = b"", *, timeout: float = 60):
        job = agent_job(["sh", "-c", script], env={}, folder="/")
        head = self.session.scheduler.job_head((), timedelta(seconds=timeout))
        return await self.session.runs.start(run_id, head + job, stdin, timeout=timeout, ending=QUICK)

    async def finish(self, run_id: str, state, **bounds):
        return await self.session.runs.follow(run_id, state, Bounds(output=2**30, **bounds), QUICK)

    async def run(self, run_id: str, script: str, stdin: bytes = b"", **options):
        return await self.finish(run_id, await self.start(run_id, script, stdin, **options))

    async def stage(self, run_id: str) -> Stage:
        return (await self.session.runs.stat([run_id])).states[run_id].stage

    async def begun(self, run_id: str) -> None:
        while not (await self.stage(run_id)).has_begun:  # noqa: ASYNC110  other processes set no events
            await asyncio.sleep(0.1)


async def test_a_run_gets_its_input_and_brings_back_output_and_exit_code(place: Place):
    state = await place.run("t.g1.a1.r1", "cat; echo oops >&2; exit 7", b"hello\n")

    assert (state.stage, state.exit_code, state.why) == (Stage.DONE, 7, "exit")
    assert place.session.runs.proofs.is_ours("t.g1.a1.r1", state)
    assert place.logs.read("t.g1.a1.r1", "out") == b"hello\n"
    assert place.logs.read("t.g1.a1.r1", "err") == b"oops\n"


async def test_many_starts_of_a_run_are_one(place: Place, tmp_path):
    script = f"echo x >>{tmp_path}/starts"

    states = await asyncio.gather(*(place.start("t.g1.a1.r1", script) for _ in range(4)))
    ends = [await place.finish("t.g1.a1.r1", state) for state in states]
    again = await place.run("t.g1.a1.r1", script)

    assert {end.exit_code for end in (*ends, again)} == {0}
    assert (tmp_path / "starts").read_text() == "x\n"


async def test_a_cancel_ends_what_got_away_from_its_parents_and_its_environment(place: Place, tmp_path):
    script = f"setsid env -i sleep 1007 & echo $! >{tmp_path}/child; sleep 1007"
    state = await place.start("t.g1.a1.r1", script)
    await until(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text())

    ended = await place.session.runs.cancel("t.g1.a1.r1", "cancelled", QUICK)
    followed = await place.finish("t.g1.a1.r1", state)

    assert (ended.stage, ended.why, followed) == (Stage.DONE, "cancelled", ended)
    assert not processes.is_alive(int((tmp_path / "child").read_text()))


async def test_what_was_cancelled_before_its_start_never_starts(place: Place, tmp_path):
    await place.session.runs.cancel("t.g1.a1.r1", "cancelled", QUICK)

    state = await place.run("t.g1.a1.r1", f"echo x >>{tmp_path}/starts")

    assert (state.stage, state.why) == (Stage.DONE, "cancelled")
    assert not (tmp_path / "starts").exists()


async def test_time_is_up_on_the_host_itself(place: Place):
    state = await place.run("t.g1.a1.r1", "sleep 1007", timeout=1)

    assert (state.stage, state.why) == (Stage.DONE, "timeout")


async def test_a_run_that_is_silent_for_too_long_is_ended(place: Place):
    state = await place.finish("t.g1.a1.r1", await place.start("t.g1.a1.r1", "sleep 1007"), silence=1)

    assert (state.stage, state.why) == (Stage.DONE, "stall")


async def test_a_live_run_is_listed_and_stays_and_one_that_is_over_goes_for_good(place: Place, tmp_path):
    await place.start(
        "t.g1.a1.r1", f"echo x >>{tmp_path}/starts; until [ -e {tmp_path}/go ]; do sleep 0.1; done"
    )
    await place.begun("t.g1.a1.r1")

    listed = await place.session.runs.list()
    with pytest.raises(Refused, match="alive"):
        await place.session.runs.remove(["t.g1.a1.r1"])
    (tmp_path / "go").touch()
    await place.finish("t.g1.a1.r1", listed["t.g1.a1.r1"])
    await place.session.runs.remove(["t.g1.a1.r1"])
    again = await place.start("t.g1.a1.r1", f"echo x >>{tmp_path}/starts")

    assert listed["t.g1.a1.r1"].stage.has_begun
    assert again.stage is Stage.PAST
    assert (tmp_path / "starts").read_text() == "x\n"


async def test_nothing_is_known_of_a_run_that_nobody_started(place: Place):
    assert await place.stage("t.g1.a1.r1") is Stage.ABSENT


async def test_a_run_goes_on_while_nobody_follows_it(place: Place, tmp_path):
    state = await place.start("t.g1.a1.r1", f"until [ -e {tmp_path}/go ]; do sleep 0.1; done; exit 5")
    following = asyncio.create_task(place.finish("t.g1.a1.r1", state))
    await place.begun("t.g1.a1.r1")
    following.cancel()
    await asyncio.wait([following])
    (tmp_path / "go").touch()

    ended = await place.finish("t.g1.a1.r1", (await place.session.runs.list())["t.g1.a1.r1"])

    assert (ended.stage, ended.exit_code) == (Stage.DONE, 5)

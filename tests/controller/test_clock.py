"""A clock that somebody sets: what has a term lasts as long as it would have."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

import pytest

from reconciler.core.model.specs import Agent, ExecutionMode, Host
from reconciler.core.model.status import LeaseRequest, Phase
from tests.fakes import make_desired, make_task

DAYS = timedelta(days=2)


@dataclass
class Both:
    """A fleet that is served, with a clock that can be set and one that cannot."""

    stage: object
    loop: object = None
    seconds: float = 0.0

    async def look(self):
        self.loop.inbox.notify()
        for _ in range(50):
            await asyncio.sleep(0)

    async def set_clock(self, by):
        self.stage.clock.time += by
        await self.look()

    async def pass_time(self, duration):
        self.seconds += duration.total_seconds()
        self.stage.clock.time += duration
        await self.look()

    @property
    def phase(self):
        return self.stage.state.statuses["a"].phase


@asynccontextmanager
async def served(stage):
    both = Both(stage)
    both.loop = loop = stage.loop(monotonic=lambda: both.seconds, pause=lambda news, _: news.wait())
    serving = asyncio.create_task(loop.run())
    try:
        yield both
    finally:
        loop.stop()
        await serving


@pytest.mark.parametrize("jump", [DAYS, -DAYS])
async def test_a_pulled_task_is_neither_lost_nor_late_when_the_clock_is_set(stage, jump):
    task = make_task("a", execution_mode=ExecutionMode.HTTP_PULL, timeout="1h", disconnect="fail", retries=0)
    stage.specs.push(make_desired(task, agents={"jeeves": Agent(name="jeeves")}))
    async with served(stage) as both:
        await both.look()
        await both.loop.controllers.leases.acquire(LeaseRequest(agent="jeeves", request_key="1"), timedelta())
        for _ in range(3):
            await both.set_clock(jump)
            assert both.phase is Phase.ASSIGNED
            assert both.loop.controllers.leases.heartbeat("a", "jeeves", 1) is None
        await both.pass_time(timedelta(seconds=50))
        still = both.phase

        await both.pass_time(timedelta(seconds=20))

        assert still is Phase.ASSIGNED
        assert both.phase is Phase.FAILED


@pytest.mark.parametrize("jump", [DAYS, -DAYS])
async def test_a_time_limit_counts_the_time_that_went_by(stage, jump):
    task = make_task("a", execution_mode=ExecutionMode.HTTP_PULL, timeout="1h", retries=0)
    stage.specs.push(make_desired(task, agents={"jeeves": Agent(name="jeeves")}))
    async with served(stage) as both:
        await both.look()
        await both.loop.controllers.leases.acquire(LeaseRequest(agent="jeeves", request_key="1"), timedelta())
        await both.set_clock(jump)
        phases = []
        for _ in range(70):
            if both.phase.is_live:
                both.loop.controllers.leases.heartbeat("a", "jeeves", 1)
            await both.pass_time(timedelta(seconds=55))
            phases.append(both.phase)

        assert phases.index(Phase.FAILED) in range(64, 67)


async def test_a_host_that_just_fell_silent_is_not_lost_when_the_clock_is_set(stage):
    stage.dispatch.hold = True
    stage.specs.push(make_desired(make_task("a", disconnect="fail"), hosts={"local": Host(name="local")}))
    async with served(stage) as both:
        await both.look()
        stage.prober.away = {"local"}
        await both.pass_time(timedelta(minutes=2))
        await both.set_clock(DAYS)
        still = both.phase

        await both.pass_time(timedelta(minutes=31))

        assert still.is_live
        assert not both.phase.is_live

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from reconciler.controller.loop import Loop, StopWhen
from tests.fakes import FakeClock, FakeDispatch, FakeProber, FakeSpecs, FakeState


@dataclass
class Stage:
    """A fleet with fakes all around; every call of `loop` is a controller that was just started."""

    specs: FakeSpecs = field(default_factory=FakeSpecs)
    state: FakeState = field(default_factory=FakeState)
    dispatch: FakeDispatch = field(default_factory=FakeDispatch)
    prober: FakeProber = field(default_factory=FakeProber)
    clock: FakeClock = field(default_factory=FakeClock)

    def loop(self, **settings: Any) -> Loop:
        rooms = (self.specs, self.state, self.dispatch, self.prober, self.clock)
        return Loop(*rooms, pause=self.clock.pause, **settings)

    async def run(self, until: StopWhen = "idle") -> Loop:
        loop = self.loop()
        await loop.run(until)
        return loop


@pytest.fixture
def stage() -> Stage:
    return Stage()


@pytest.fixture
def stages() -> Callable[[], Stage]:
    return Stage

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from reconciler.controller.loop import Loop, StopWhen
from tests.fakes import FakeClock, FakeDispatch, FakeProber, FakeSpecs, FakeState, make_loop


@dataclass
class Stage:
    """A fleet with fakes all around; every call of `loop` is a controller that was just started."""

    specs: FakeSpecs = field(default_factory=FakeSpecs)
    state: FakeState = field(default_factory=FakeState)
    dispatch: FakeDispatch = field(default_factory=FakeDispatch)
    prober: FakeProber = field(default_factory=FakeProber)
    clock: FakeClock = field(default_factory=FakeClock)

    def loop(self, **others: Any) -> Loop:
        return make_loop(self.specs, self.state, self.dispatch, self.clock, prober=self.prober, **others)

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

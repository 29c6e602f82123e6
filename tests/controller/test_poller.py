"""Pollers: every key in its turn, one poll of it at a time, and what fails keeps no other waiting."""

import asyncio
import logging
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from reconciler.controller.poller import LASTING, Latch, Poller
from reconciler.core.errors import Unavailable
from tests.fakes import FakeClock

MINUTE = timedelta(minutes=1)


@dataclass
class Scene:
    """A poller of two subjects; its clock stands still until a test says so."""

    subjects: dict[str, str] = field(default_factory=lambda: {"a": "a1", "b": "b1"})
    clock: FakeClock = field(default_factory=FakeClock)
    polls: list[str] = field(default_factory=list)
    fail: dict[str, Exception] = field(default_factory=dict)
    held: dict[str, asyncio.Event] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.poller = Poller(
            poll=self.poll,
            subjects=lambda: self.subjects,
            interval=lambda: MINUTE,
            clock=self.clock,
            failure="is not reached",
        )

    async def poll(self, subject: str) -> None:
        self.polls.append(subject)
        if subject in self.held:
            await self.held[subject].wait()
        if subject in self.fail:
            raise self.fail[subject]

    async def send(self, after: timedelta = timedelta(0)) -> list[str]:
        """Return what is polled after a time."""
        self.clock.time += after
        self.polls.clear()
        self.poller.poll_due(self.clock())
        for _ in range(5):
            await asyncio.sleep(0)
        return list(self.polls)


@pytest.fixture
def scene() -> Scene:
    return Scene()


async def test_every_subject_is_polled_at_once_and_then_at_the_interval(scene):
    assert await scene.send() == ["a1", "b1"]
    assert await scene.send(MINUTE - timedelta(seconds=1)) == []
    assert timedelta(0) < scene.poller.next() - scene.clock.time <= timedelta(seconds=1)
    assert await scene.send(timedelta(seconds=1)) == ["a1", "b1"]


async def test_a_key_that_is_notified_is_polled_now_and_no_other(scene):
    await scene.send()

    scene.poller.notify(["b", "stranger"])

    assert not scene.poller.is_idle()
    assert await scene.send() == ["b1"]
    assert scene.poller.is_idle()


async def test_a_key_may_be_notified_for_a_time_and_never_later_than_planned(scene):
    await scene.send()

    scene.poller.notify(["a"], at=scene.clock() + timedelta(seconds=5))
    scene.poller.notify(["b"], at=scene.clock() + 9 * MINUTE)

    assert await scene.send(timedelta(seconds=5)) == ["a1"]
    assert await scene.send(timedelta(seconds=55)) == ["b1"]


async def test_a_key_is_polled_once_at_a_time_and_once_more_for_what_came_meanwhile(scene):
    scene.held["a1"] = asyncio.Event()
    await scene.send()
    for _ in range(3):
        scene.poller.notify(["a"])
        assert await scene.send() == []

    scene.held.pop("a1").set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    assert await scene.send() == ["a1"]
    assert await scene.send() == []


async def test_a_subject_that_is_another_is_polled_at_once_and_once(scene):
    await scene.send()
    scene.held["b2"] = asyncio.Event()

    scene.subjects["b"] = "b2"

    assert await scene.send() == ["b2"]
    assert await scene.send() == []
    scene.held.pop("b2").set()
    assert await scene.send() == []


async def test_one_that_fails_keeps_no_other_waiting_and_is_polled_in_its_turn(scene, caplog):
    scene.fail = {"a1": Unavailable("no answer"), "b1": ZeroDivisionError("oddly")}

    assert await scene.send() == ["a1", "b1"]
    assert await scene.send(MINUTE) == ["a1", "b1"]
    failing = scene.poller.failing()
    assert failing["a"] == "no answer"
    assert failing["b"].startswith("a bug of the reconciler (ZeroDivisionError")
    assert [(each.levelno, each.message) for each in caplog.records if "a:" in each.message] == [
        (logging.WARNING, "a: is not reached: no answer")
    ]
    assert "ZeroDivisionError: oddly" in caplog.text


async def test_what_fails_for_long_is_told_in_its_first_words_until_it_works_again(scene):
    scene.fail["a1"] = Unavailable("first")
    await scene.send()
    assert scene.poller.lasting_failures(scene.clock()) == {}
    scene.fail["a1"] = Unavailable("second")
    await scene.send(LASTING)
    assert scene.poller.lasting_failures(scene.clock()) == {"a": "first"}

    scene.fail.clear()
    await scene.send(MINUTE)

    assert scene.poller.lasting_failures(scene.clock()) == {}


async def test_what_is_no_subject_any_more_or_another_one_is_forgotten_as_failing(scene):
    scene.fail = {"a1": Unavailable("no answer"), "b1": Unavailable("no answer")}
    await scene.send()

    scene.subjects = {"b": "b2"}
    await scene.send()

    assert scene.poller.failing() == {}
    assert scene.poller.polled == {"b": "b2"}


async def test_what_failed_may_be_tried_again_sooner_than_at_the_interval(scene):
    scene.poller.retry = lambda: timedelta(seconds=10)
    scene.fail["a1"] = Unavailable("no answer")
    await scene.send()

    assert await scene.send(timedelta(seconds=10)) == ["a1"]


async def test_a_clock_that_is_set_back_keeps_nobody_waiting_for_longer_than_the_interval(scene):
    await scene.send()

    assert await scene.send(timedelta(days=-1)) == []
    assert await scene.send(MINUTE) == ["a1", "b1"]


async def test_closing_cancels_what_is_under_way(scene):
    scene.held["a1"] = asyncio.Event()
    await scene.send()

    await scene.poller.close()

    assert scene.poller.running == {}


async def test_a_latch_is_held_until_its_keys_were_polled_successfully_from_there_on(scene):
    done = []
    scene.held["a1"] = asyncio.Event()
    await scene.send()
    latch = Latch(lambda: done.append(1))
    scene.poller.notify(["a", "b", "stranger"], latch=latch)
    latch.release()
    scene.fail["b1"] = Unavailable("away")

    scene.held.pop("a1").set()  # this poll began before
    await scene.send()
    assert done == []

    await scene.send()
    assert done == []
    scene.fail.clear()
    await scene.send(MINUTE)
    assert done == [1]


async def test_a_latch_is_released_with_the_subject_that_goes(scene):
    done = []
    await scene.send()
    latch = Latch(lambda: done.append(1))
    scene.poller.notify(["b"], latch=latch)
    latch.release()

    del scene.subjects["b"]
    await scene.send()

    assert done == [1]


async def test_polls_that_begin_together_soon_come_apart_and_none_comes_later_for_it(scene):
    scene.poller.spread = 0.25
    scene.subjects = {f"h{number}": f"h{number}" for number in range(200)}
    most, last = [], dict.fromkeys(scene.subjects, scene.clock.time)

    for _ in range(600):
        polled = await scene.send(timedelta(seconds=1))
        assert all(scene.clock.time - last[name] <= MINUTE + timedelta(seconds=2) for name in polled)
        last |= dict.fromkeys(polled, scene.clock.time)
        most.append(len(polled))

    assert most[0] == 200
    assert max(most[300:]) < 50
    assert all(scene.clock.time - time <= MINUTE + timedelta(seconds=2) for time in last.values())

"""Facts that nobody waits for share the commit of others; who waits does so for its own tasks alone."""

import asyncio
from datetime import timedelta

from reconciler.controller.inbox import Inbox
from reconciler.core.events import BranchSeen, RunSeen
from tests.fakes import START

SECOND = timedelta(seconds=1)


def started(task: str, at=START) -> RunSeen:
    return RunSeen(task=task, run=f"{task}.a1", round=1, at=at)


def pushed(task: str) -> BranchSeen:
    return BranchSeen(task=task, branch=f"task/{task}", head="a" * 40, at=START)


def test_a_fact_that_nobody_waits_for_goes_on_record_with_the_next_that_somebody_does():
    inbox = Inbox()
    inbox.linger(SECOND)
    inbox.emit(started("a"))
    inbox.ripen(START + SECOND)
    alone = list(inbox.facts)

    inbox.emit(pushed("b"))

    assert alone == []
    assert inbox.facts == [started("a"), pushed("b")]
    assert (inbox.next(), inbox.is_empty) == (None, False)


def test_it_waits_the_longer_the_longer_a_commit_takes_and_never_for_ever():
    due = {}
    for seconds in (0, 1, 100):
        inbox = Inbox()
        inbox.linger(seconds * SECOND)
        inbox.emit(started("a"))
        inbox.emit(started("b", START + SECOND))
        due[seconds] = inbox.next()
        inbox.ripen(due[seconds])
        assert inbox.facts == [started("a"), started("b", START + SECOND)]

    assert due == {0: START, 1: START + 3 * SECOND, 100: START + 5 * SECOND}


def test_a_clock_that_is_set_back_holds_nothing_up():
    inbox = Inbox()
    inbox.linger(SECOND)
    inbox.emit(started("a"))

    inbox.ripen(START - timedelta(hours=1))

    assert inbox.facts == [started("a")]


async def test_who_waits_for_some_tasks_is_held_up_by_no_other():
    inbox = Inbox()
    some = asyncio.ensure_future(inbox.wait_recorded({"a"}))
    both = asyncio.ensure_future(inbox.wait_recorded({"a", "b"}))
    await asyncio.sleep(0)

    ended = []
    for moved in ({"a", "b"}, {"b"}, set()):
        inbox.release(tuple(inbox.waiters), moved)
        await asyncio.sleep(0)
        ended.append((some.done(), both.done()))

    assert ended == [(False, False), (True, False), (True, True)]


async def test_who_waits_hurries_what_nobody_waited_for():
    inbox = Inbox()
    inbox.linger(SECOND)
    inbox.emit(started("a"))

    waiting = asyncio.ensure_future(inbox.wait_recorded({"a"}))
    await asyncio.sleep(0)

    assert inbox.facts == [started("a")]
    waiting.cancel()

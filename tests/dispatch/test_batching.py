"""What comes while a batch is under way goes together with the next; each hears what came of its own."""

import asyncio

import pytest

from reconciler.dispatch import batching
from reconciler.dispatch.batching import Batches


class Remote:
    """Takes batches when a test lets it."""

    def __init__(self):
        self.batches, self.gate, self.refuses = [], asyncio.Event(), set()

    async def take(self, items):
        self.batches.append(list(items))
        await self.gate.wait()
        if self.refuses & set(items):
            raise OSError("no")
        return len(items)


@pytest.fixture
def remote():
    return Remote()


@pytest.fixture
def batches(remote):
    return Batches(remote.take)


async def begun(batches, *items):
    tasks = [asyncio.create_task(batches.add(item)) for item in items]
    for _ in range(5):
        await asyncio.sleep(0)
    return tasks


async def test_what_comes_meanwhile_goes_together(remote, batches):
    tasks = [*await begun(batches, "a"), *await begun(batches, "b", "c"), *await begun(batches, "d")]
    remote.gate.set()

    assert await asyncio.gather(*tasks) == [1, 3, 3, 3]
    assert remote.batches == [["a"], ["b", "c", "d"]]


async def test_alone_an_item_goes_at_once(remote, batches):
    remote.gate.set()

    assert [await batches.add("a"), await batches.add("b")] == [1, 1]
    assert remote.batches == [["a"], ["b"]]


async def test_a_fault_is_told_to_those_whose_batch_it_was(remote, batches):
    tasks = [*await begun(batches, "a"), *await begun(batches, "b", "c")]
    remote.refuses = {"b"}
    remote.gate.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)

    assert [type(each) for each in outcomes] == [int, OSError, OSError]
    assert await batches.add("d") == 1


@pytest.mark.parametrize("ended", [0, 1, 2])
async def test_who_is_cancelled_leaves_the_others_to_go_without(remote, batches, ended):
    tasks = [*await begun(batches, "a"), *await begun(batches, "b", "c")]
    tasks[ended].cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    remote.gate.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)

    assert [isinstance(each, asyncio.CancelledError) for each in outcomes] == [
        place == ended for place in range(3)
    ]
    left = [name for place, name in enumerate("abc") if place != ended]
    assert {item for batch in remote.batches for item in batch}.issuperset(left)
    assert await asyncio.wait_for(batches.add("d"), 5) == 1


async def test_who_waits_for_a_batch_that_does_not_come_back_goes_alone(remote, batches, monkeypatch):
    monkeypatch.setattr(batching, "PATIENCE", 0.01)
    slow = await begun(batches, "a")
    stuck, remote.gate = remote.gate, asyncio.Event()
    remote.gate.set()

    assert await asyncio.wait_for(asyncio.gather(*await begun(batches, "b", "c")), 5) == [1, 1]
    stuck.set()
    assert await asyncio.gather(*slow) == [1]
    assert remote.batches == [["a"], ["b"], ["c"]]


async def test_what_is_under_way_goes_once_however_long_it_takes(remote, batches, monkeypatch):
    monkeypatch.setattr(batching, "PATIENCE", 0.01)
    tasks, first = await begun(batches, "a"), remote.gate
    tasks += await begun(batches, "b", "c")
    remote.gate = asyncio.Event()
    first.set()
    for _ in range(5):
        await asyncio.sleep(0.01)
    remote.gate.set()

    assert await asyncio.gather(*tasks) == [1, 2, 2]
    assert remote.batches == [["a"], ["b", "c"]]

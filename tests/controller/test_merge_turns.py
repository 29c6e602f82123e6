"""Merges of a repo take turns: in the order in which a forge is ready for them, and never for long."""

from datetime import timedelta

import pytest

from reconciler.controller.merge_turns import MERGE_TURN, MOST_COMPUTING, PAUSE, MergeTurns
from reconciler.core.model.forge import MergeRefusal
from tests.fakes import FakeClock

COMPUTING, REFUSED = MergeRefusal("computing", kind="computing"), MergeRefusal("2 approvals")
LONGEST = timedelta(minutes=1)


class Visits:
    """Visits of a repo, one after another, whose forge answers merges as it is told to."""

    def __init__(self, numbers, time=timedelta(0)):
        self.numbers, self.time, self.clock = dict(numbers), time, FakeClock()
        self.turns = MergeTurns(self.clock, lambda: LONGEST)
        self.answers = {}
        self.pause = timedelta(0)

    async def visit(self):
        """Return the tasks that were asked for, and after which time the next visit is due."""
        asked = []
        self.clock.time += self.pause

        async def merge(name):
            asked.append(name)
            self.clock.time += self.time
            if (refusal := self.answers.get(name)) is None:
                del self.numbers[name]
            return refusal

        again = await self.turns.merge("web", dict(self.numbers), merge, self.clock.time + MERGE_TURN)
        self.pause = again or timedelta(0)
        return asked, again


def many(count):
    return {f"t{number}": number for number in range(1, count + 1)}


async def test_all_are_merged_by_their_numbers_while_the_forge_is_ready():
    visits = Visits({"z": 1, "a": 2, "m": 3})

    assert await visits.visit() == (["z", "a", "m"], None)


async def test_a_visit_ends_after_a_time_and_the_next_one_goes_on_at_once_where_it_was():
    visits = Visits(many(5), time=MERGE_TURN / 2)
    visits.answers["t1"] = REFUSED

    assert await visits.visit() == (["t1", "t2"], timedelta(0))
    assert (await visits.visit())[0] == ["t3", "t4"]
    assert (await visits.visit())[0] == ["t5", "t1"]


async def test_a_forge_that_computes_is_left_alone_for_longer_and_longer_and_each_has_its_turn():
    visits = Visits(many(MOST_COMPUTING + 2))
    visits.answers = dict.fromkeys(visits.numbers, COMPUTING)

    first, second = await visits.visit(), await visits.visit()
    later = [await visits.visit() for _ in range(40)]
    pauses = [again for _, again in later]

    assert first == ([f"t{number}" for number in range(1, MOST_COMPUTING + 1)], PAUSE)
    assert second == first
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST
    assert visits.turns.is_slow("web")
    assert {name for asked, _ in later for name in asked} == set(visits.numbers)


async def test_of_many_the_next_is_merged_soon_by_a_forge_that_computes_what_it_is_asked_for():
    class Lazy(dict):
        def get(self, name):
            self[name] = super().get(name, 0) + 1
            if self[name] <= 2:
                return COMPUTING
            self.clear()  # a merge: all others are computed anew
            return None

    visits, count = Visits(many(5 * MOST_COMPUTING)), 0
    visits.answers = Lazy()

    while visits.numbers:
        await visits.visit()
        count += 1

    assert count <= 3 * 5 * MOST_COMPUTING


async def test_the_one_that_a_forge_is_ready_for_is_merged_whatever_it_computes_for_the_others():
    visits = Visits(many(4))
    visits.answers = dict.fromkeys(["t1", "t2", "t4"], COMPUTING)

    asked, again = await visits.visit()

    assert asked[:3] == ["t1", "t2", "t3"]
    assert set(visits.numbers) == {"t1", "t2", "t4"}
    assert again == PAUSE
    assert not visits.turns.is_slow("web")


async def test_after_a_merge_the_forge_is_asked_again_soon():
    visits = Visits(many(2))
    visits.answers["t1"] = COMPUTING
    for _ in range(20):
        await visits.visit()
    assert visits.pause > PAUSE

    visits.numbers["t3"] = 3

    assert (await visits.visit())[1] == PAUSE


@pytest.mark.parametrize("kind", ["refused", "queued"])
async def test_what_is_refused_or_queued_holds_up_no_other(kind):
    visits = Visits(many(20))
    visits.answers = dict.fromkeys(visits.numbers, MergeRefusal("no", kind=kind))

    asked, again = await visits.visit()

    assert (len(asked), again) == (20, None)

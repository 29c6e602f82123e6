import pytest

from reconciler.controller.hints import MOST_HINTS, Hints
from reconciler.core.errors import Unavailable


def test_of_too_many_hints_the_newest_are_kept_and_the_last_delivery_of_each():
    hints = Hints[int]()
    for number in range(MOST_HINTS + 1):
        hints.add("web", number, f"d{number}")
    hints.add("web", 7, "again")

    with hints.taken("web") as kept:
        assert len(kept) == MOST_HINTS
        assert 0 not in kept
        assert kept[7] == "again"
    assert list(hints.repos) == []


def test_what_was_taken_for_nothing_is_back_beside_what_came_meanwhile():
    hints = Hints[str]()
    hints.add("web", "task/a", "d1")
    hints.add("web", "task/b", "d2")

    def look():
        with hints.taken("web"):
            hints.add("web", "task/b", "d3")
            raise Unavailable("away")

    with pytest.raises(Unavailable):
        look()
    with hints.taken("web") as kept:
        assert kept == {"task/a": "d1", "task/b": "d3"}


def test_a_look_that_finds_no_hints_and_fails_leaves_none():
    hints = Hints[str]()

    def look():
        with hints.taken("web"):
            raise Unavailable("away")

    with pytest.raises(Unavailable):
        look()
    assert list(hints.repos) == []

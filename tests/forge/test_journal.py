"""The journal: what was answered with success is on disk, once."""

from datetime import timedelta
from pathlib import Path

import pytest

from reconciler.core.errors import Unavailable
from reconciler.core.model.forge import Hint
from reconciler.forge import journal as room
from reconciler.forge.journal import WINDOW, Journal
from tests.fakes import FakeClock


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def journal(tmp_path, clock):
    return Journal(tmp_path / "hooks", clock)


def hint(delivery: str, **fields: object) -> Hint:
    return Hint(**{"delivery": delivery, "event": "push", "place": "a/b", "repos": ("b",), **fields})


def test_a_delivery_waits_until_it_is_worked_and_so_after_a_crash(journal, tmp_path, clock):
    journal.add(hint("one"), "d1")
    journal.add(hint("two", pull=7), "d2")
    journal.done("one")

    again = Journal(tmp_path / "hooks", clock)

    assert again.pending() == journal.pending() == [hint("two", pull=7)]
    assert [(each.hint.delivery, each.is_done) for each in again.recent(5)] == [("two", False), ("one", True)]


def test_the_same_delivery_counts_once_and_so_after_a_restart(journal, tmp_path, clock):
    assert journal.add(hint("one"), "d1")
    clock.time += 2 * WINDOW

    assert not journal.add(hint("one"), "other")
    assert not Journal(tmp_path / "hooks", clock).add(hint("one"), "other")


def test_a_body_that_comes_again_under_another_name_counts_once_for_a_while(journal, clock):
    journal.add(hint("one"), "d1")

    soon = journal.add(hint("two"), "d1")
    of_another_event = journal.add(hint("three", event="create"), "d1")
    clock.time += WINDOW + timedelta(seconds=1)
    later = journal.add(hint("four"), "d1")

    assert (soon, of_another_event, later) == (False, True, True)


def test_a_line_torn_by_a_crash_takes_no_other_with_it(journal, tmp_path, clock):
    journal.add(hint("one"), "d1")
    path = tmp_path / "hooks" / "deliveries.jsonl"
    with path.open("ab") as file:
        file.write(b'\n{"at": "2030-01-0')

    again = Journal(tmp_path / "hooks", clock)
    again.add(hint("two"), "d2")

    assert Journal(tmp_path / "hooks", clock).pending() == [hint("one"), hint("two")]


def test_the_file_does_not_grow_for_ever_and_loses_nothing_that_waits(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(room, "_LARGEST", 20_000)
    monkeypatch.setattr(room, "_KEPT", 10)
    journal = Journal(tmp_path, clock)
    journal.add(hint("waits"), "waits")

    for number in range(500):
        journal.add(hint(f"n{number}"), f"d{number}")
        journal.done(f"n{number}")

    again = Journal(tmp_path, clock)
    assert (tmp_path / "deliveries.jsonl").stat().st_size < 30_000
    assert again.pending() == [hint("waits")]
    assert again.recent(1)[0].hint.delivery == "n499"


def test_a_delivery_that_cannot_be_kept_is_not_taken(tmp_path, clock):
    (tmp_path / "file").write_text("in the way")
    journal = Journal(Path(tmp_path / "file" / "hooks"), clock)

    with pytest.raises(Unavailable, match="not kept"):
        journal.add(hint("one"), "d1")

    assert journal.pending() == []

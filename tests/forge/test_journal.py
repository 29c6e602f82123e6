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


def test_what_came_is_kept_newest_first_and_so_after_a_restart(journal, tmp_path, clock):
    journal.add(hint("one"), "d1")
    journal.add(hint("two", pull=7), "d2")
    journal.add(hint("one"), "d1")

    again = Journal(tmp_path / "hooks", clock)

    assert again.recent() == journal.recent()
    assert [(each.hint, each.outcome) for each in again.recent()] == [
        (hint("one"), "duplicate"),
        (hint("two", pull=7), "taken"),
        (hint("one"), "taken"),
    ]


def test_the_same_delivery_counts_once_and_so_after_a_restart(journal, tmp_path, clock):
    assert journal.add(hint("one"), "d1") == "taken"
    clock.time += 2 * WINDOW

    assert journal.add(hint("one"), "other") == "duplicate"
    assert Journal(tmp_path / "hooks", clock).add(hint("one"), "other") == "duplicate"


def test_a_body_that_comes_again_under_another_name_counts_once_for_a_while(journal, clock):
    journal.add(hint("one"), "d1")

    soon = journal.add(hint("two"), "d1")
    of_another_event = journal.add(hint("three", event="create"), "d1")
    clock.time += WINDOW + timedelta(seconds=1)
    later = journal.add(hint("four"), "d1")

    assert (soon, of_another_event, later) == ("duplicate", "taken", "taken")


def test_a_line_torn_by_a_crash_takes_no_other_with_it(journal, tmp_path, clock):
    journal.add(hint("one"), "d1")
    path = tmp_path / "hooks" / "deliveries.jsonl"
    with path.open("ab") as file:
        file.write(b'\n{"at": "2030-01-0')

    again = Journal(tmp_path / "hooks", clock)
    again.add(hint("two"), "d2")

    kept = Journal(tmp_path / "hooks", clock).recent()
    assert [each.hint for each in kept] == [hint("two"), hint("one")]


def test_the_file_does_not_grow_for_ever_and_keeps_what_came_last(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(room, "_LARGEST", 20_000)
    monkeypatch.setattr(room, "_KEPT", 10)
    journal = Journal(tmp_path, clock)

    for number in range(500):
        journal.add(hint(f"n{number}"), f"d{number}")

    kept = Journal(tmp_path, clock).recent()
    assert (tmp_path / "deliveries.jsonl").stat().st_size < 30_000
    assert [each.hint.delivery for each in kept] == [f"n{number}" for number in range(499, 489, -1)]


def test_a_delivery_that_cannot_be_kept_is_not_taken(tmp_path, clock):
    (tmp_path / "file").write_text("in the way")
    journal = Journal(Path(tmp_path / "file" / "hooks"), clock)

    with pytest.raises(Unavailable, match="not kept"):
        journal.add(hint("one"), "d1")

    assert journal.recent() == ()

"""
Words on a terminal.
"""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.cli.terminal import columns_of, did_you_mean, fitted, table, value_block
from reconciler.core.text import harmless, one_line
from reconciler.core.times import ago

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("hostile", "text"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;new title\x07here", "here"),
        ("\x1b]52;c;cm0gLXJmIH4=\x1b\\clipboard", "clipboard"),
        ("\x1b]8;;http://x.example\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bP1$r0m\x1b\\after", "after"),
        ("\x1bcreset", "reset"),
        ("\x9b31mred", "31mred"),
        ("over\rwritten", "overwritten"),
        ("a\x08b\x7f", "ab"),
        ("\u202egnp.exe", "gnp.exe"),
        ("one\n\ttwo\n", "one\n\ttwo\n"),
        ("unfinished \x1b[3", "unfinished 3"),
        ("unfinished \x1b]0;title", "unfinished "),
        ("naïve → ok 🙂", "naïve → ok 🙂"),
    ],
)
def test_what_a_terminal_would_obey_is_taken_out(hostile, text):
    assert harmless(hostile) == text


@given(st.text(st.characters(max_codepoint=0x2070), max_size=200))
def test_nothing_that_a_terminal_obeys_is_left(text):
    left = harmless(text)

    assert not any(ord(char) < 32 and char not in "\n\t" for char in left)
    assert not any(0x7F <= ord(char) < 0xA0 for char in left)


def test_a_cell_is_one_line():
    assert one_line(" two\nlines\t\x1b[1mbold ") == "two lines bold"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0s"), (0, "0s"), (59, "59s"), (60, "1m"), (3599, "59m"), (3600, "1h"), (86400 * 40, "40d")],
)
def test_an_age_is_told_in_its_largest_unit(seconds, text):
    assert ago(NOW - timedelta(seconds=seconds), NOW) == text


def test_a_table_is_aligned_and_has_no_blanks_at_its_ends():
    shown = table(
        ["NAME", "PHASE", "REASON"], [["web/fix-login", "running", ""], ["a", "failed", "agent: no"]]
    )

    assert shown.splitlines() == [
        "NAME           PHASE    REASON",
        "web/fix-login  running",
        "a              failed   agent: no",
    ]


def test_a_block_indents_what_has_several_lines():
    shown = value_block([("name", "a"), ("goal", "one\ntwo\n"), ("empty", "")])

    assert shown.splitlines() == ["name:  a", "goal:  one", "       two", "empty:"]


def test_a_name_that_is_close_is_suggested_and_no_other():
    assert did_you_mean("web/fix-logn", ["web/fix-login", "docs"]) == " (did you mean 'web/fix-login'?)"
    assert did_you_mean("xyz", ["web/fix-login", "docs"]) == ""


# --- Tables on a terminal ------------------------------------------------------

CELLS = st.text(st.characters(codec="utf-8", exclude_categories=["C", "M", "Z"]), max_size=12)
SENTENCES = st.lists(CELLS.filter(bool), max_size=30).map(" ".join)


@given(st.lists(st.tuples(CELLS, CELLS, SENTENCES), min_size=1, max_size=5), st.integers(60, 200))
def test_a_table_is_no_wider_than_the_terminal_and_loses_no_word(rows, width):
    lines = fitted(("ONE", "TWO", "WHY"), rows, width)

    printed = ["  ".join(line).rstrip() for line in lines]
    shown = "".join("".join(printed[1:]).split())
    assert all(columns_of(line) <= width for line in printed)
    assert all(cell in shown for row in rows for cell in row[:2])
    assert len(rows) > 1 or "".join(one_line(rows[0][2]).split()) in shown


def test_a_reason_with_too_little_room_goes_on_lines_of_its_own():
    row = ("4h", "a" * 30, "running → completed", "Ada Lovelace", "the budget is spent; " * 6)

    lines = fitted(("WHEN", "NAME", "CHANGE", "BY", "REASON"), [row], 80)

    printed = ["  ".join(line).rstrip() for line in lines]
    assert all(len(line) <= 80 for line in printed)
    assert len(lines[1]) == 4
    assert [line[:4] for line in printed[2:]] == ["    "] * len(printed[2:])
    assert len(printed[2]) > 60


def test_a_reason_with_room_is_wrapped_where_it_stands():
    lines = fitted(("NAME", "WHY"), [("a", "word " * 30), ("b", "short")], 60)

    printed = ["  ".join(line).rstrip() for line in lines]
    assert printed[0] == "NAME  WHY"
    assert printed[2].startswith("      word")
    assert printed[-1] == "b     short"


def test_where_the_first_columns_alone_are_wider_than_the_terminal_the_widest_give_way():
    value = "a sentence of a spec that is much longer than what a terminal has room for, and goes on"

    lines = [
        "  ".join(line).rstrip()
        for line in fitted(("FIELD", "VALUE", "SOURCE"), [("goal", value, "specs/a.yaml:1")], 60)
    ]

    assert max(map(len, lines)) <= 60
    assert " ".join(" ".join(lines).split()).replace("FIELD VALUE ", "") == f"goal {value} specs/a.yaml:1"

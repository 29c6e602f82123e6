import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.text import harmless, head, one_line, tail, visible


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("a\x1b[1;31mb\x1b[0mc", "abc"),
        ("a\x1b]0;title\x07b\x1b]8;;http://x\x1b\\c", "abc"),
        ("a\x1bPq#0\x1b\\b\x1b(Bc\x1bMd", "abcd"),
        ("a\x00\x08\x7f\x9bb\r\nc\td", "ab\nc\td"),
        ("a\u202eb\u2066c\u200fd\ufeff", "abcd"),
        ("half \ud83d", "half "),
        ("ünï\u2028😀", "ünï\u2028😀"),
    ],
)
def test_nothing_stays_that_a_terminal_would_obey(text, plain):
    assert harmless(text) == plain


@pytest.mark.parametrize(
    "hidden", ["\u200b", "\u00ad", "\u2063", "\ufe0f", "\U000e0061", "\U000e0101", "\x1b[8m"]
)
def test_nothing_stays_that_nobody_sees(hidden):
    assert visible(f"a{hidden}b") == "ab"


@given(st.text(st.characters()), st.integers(1, 50))
def test_a_line_is_one_and_not_too_long(text, limit):
    line = one_line(text, limit)

    assert len(line) <= limit
    assert len(line.splitlines()) <= 1


@given(st.text("ab\n\x1b"), st.integers(1, 5), st.integers(1, 20))
def test_a_tail_is_the_end_and_says_if_something_is_left_out(text, lines, characters):
    whole = harmless(text).strip("\n")

    found = tail(text, lines=lines, characters=characters)

    note, _, end = found.partition("\n") if found != whole else ("", "", found)
    assert whole.endswith(end)
    assert len(end) <= characters
    assert end.count("\n") < lines
    assert note in ("", f"[… {len(whole) - len(end)} characters left out]")


@given(st.text(), st.integers(1, 20))
def test_a_head_is_the_beginning_and_says_if_something_is_left_out(text, characters):
    whole = harmless(text).strip()

    shown = head(text, characters=characters)

    if len(whole) <= characters:
        assert shown == whole
    else:
        assert shown == f"{whole[:characters]}\n[… {len(whole) - characters} characters left out]"


def test_nothing_that_turns_the_direction_of_writing_is_left():
    turning = {"\u061c", "\u200e", "\u200f"} | {
        chr(code)
        for code in range(0x110000)
        if unicodedata.bidirectional(chr(code))
        in {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    }

    assert harmless(f"a{''.join(sorted(turning))}b") == "ab"

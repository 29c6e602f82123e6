import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.patterns import LINE, check_pattern, chosen, lines_of, matches


@pytest.mark.parametrize(
    "pattern",
    [
        r"(a+)+$",
        r"(a|a)*b",
        r"(a|ab)*c",
        r"(?:\w+ )*x",
        r"(x+x+)+y",
        r"(?:a{1,30}){1,30}b",
        r"(?:a?){30}a{30}",
        r"(((a*)*)*)b",
        r"(.*?,){11}P",
        r".*.*.*x",
        r"(\w*)\1x",
        r"(?:(?>a+))+b",
        r"(",
        r"a{99999999999999}",
    ],
)
def test_an_expression_that_may_take_for_ever_on_some_line_is_refused(pattern):
    with pytest.raises(ValueError, match=r"may take too long|not a regular expression"):
        check_pattern(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        r"litellm\.\w+Error: .*",
        r"Attempt (?:[4-9]|\d\d+) failed with status \d+\. Retrying",
        r"Tokens: ([\d.]+k?) sent, ([\d.]+k?) received",
        r"(?i:error|fatal): ",
        r"(?:a|b){1,3}c",
        r".*+x",
    ],
)
def test_an_expression_that_people_write_is_taken(pattern):
    assert check_pattern(pattern) == pattern


@given(st.from_regex(r"[ab.(|)*+?{}12,\\w]{1,14}", fullmatch=True), st.sampled_from("ab1"))
def test_whatever_is_taken_comes_to_an_end_on_the_worst_lines(pattern, letter):
    try:
        check_pattern(pattern)
    except ValueError:
        return

    lines = [letter * LINE, letter * (LINE - 1) + "!", f"{letter} " * (LINE // 2)]

    assert len(list(matches(pattern, lines))) <= len(lines)  # without a bound it would take years


def test_lines_are_harmless_cut_and_matched_at_their_beginning():
    lines = lines_of("\x1b[91mError: \x1b[0mno\r\nnot an Error: this\nError: " + "x" * 9999)

    assert list(matches(r"Error: (.*)", lines)) == [(0, "no"), (2, "x" * (LINE - 7))]
    assert chosen([r"nothing", r"not\b"], lines) == ["not an Error: this"]
    assert re.fullmatch(r"Error: no", lines[0])


@pytest.mark.parametrize("pattern", ["[[a]b]", "[a--b]", "x[a&&b]"])
def test_an_expression_that_will_mean_something_else_one_day_is_refused(pattern):
    with pytest.raises(ValueError, match="not a regular expression: Possible"):
        check_pattern(pattern)

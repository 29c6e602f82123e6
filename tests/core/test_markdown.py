"""Nothing that others wrote is obeyed in our comments."""

import pytest

from reconciler.core.forge.markdown import code, fenced, visible_text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("make test", "`make test`"),
        ("a `b` c", "``a `b` c``"),
        ("`b`", "`` `b` ``"),
        ("", "`(nothing)`"),
        ("two\n@lines", "`two @lines`"),
        ("\x1b[31mred", "`red`"),
        ("<!-- mark -->", "`<! -- mark -- >`"),
    ],
)
def test_code_in_a_line_cannot_be_left(text, shown):
    assert code(text) == shown


def test_code_in_a_line_is_cut():
    assert code("x" * 1000, 5) == "`xxxx…`"


def test_a_block_of_code_is_fenced_by_more_than_it_holds():
    assert fenced("a\n````\n@all\n") == "`````text\na\n````\n@all\n`````"
    assert fenced("a") == "```text\na\n```"


@pytest.mark.parametrize(
    "hidden", ["<!-- obey -->", "<!-- obey", "\n[//]: # (obey)", "\U000e006f\U000e0062", "\u200b"]
)
def test_what_is_read_is_what_people_see(hidden):
    assert visible_text(f"Rename it.{hidden}").strip() == "Rename it."

"""Files that may be damaged, and what is read of them."""

import pytest

from reconciler.files import parse_json


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"a":' * 100_000, b"\xff\xfe\x00", "9" * 5000])
def test_json_that_is_damaged_is_a_value_error(text):
    with pytest.raises(ValueError):  # noqa: PT011 - whatever it says
        parse_json(text)


def test_json_that_is_whole_is_parsed():
    assert parse_json(b'{"a": [1, null]}') == {"a": [1, None]}

from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.overlay import Overlay

KEYS = st.sampled_from("abcdefgh")
EDITS = st.lists(st.tuples(KEYS, st.none() | st.integers(0, 9)), max_size=8)


@given(st.dictionaries(KEYS, st.integers(0, 9)), st.lists(EDITS, max_size=5))
def test_each_overlay_is_what_a_copy_would_be_and_what_lies_below_stays(begin, batches):
    below, copy = begin, dict(begin)
    layers = [(below, dict(below))]
    for batch in batches:
        below = Overlay(below)
        for key, value in batch:
            if value is None:
                assert below.pop(key, None) == copy.pop(key, None)
            else:
                below[key] = copy[key] = value
        layers.append((below, dict(copy)))

    for layer, expected in layers:
        assert dict(layer) == expected
        assert len(layer) == len(expected)
        assert all((key in layer) == (key in expected) for key in "abcdefghx")


def test_many_changes_are_put_together_with_the_rest():
    below = Overlay({"a": 1})
    for number in range(200):
        below = Overlay(below)
        below[f"b{number}"] = number

    assert len(below) == 201
    assert len(below._changes) <= 66

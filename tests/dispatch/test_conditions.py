"""
The literals of a condition leave out no event that meets it, and it is evaluated as jmespath does.
"""

import json
import re

import jmespath
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jmespath.visitor import TreeInterpreter

from reconciler.dispatch.conditions import (
    any_literals,
    compiled,
    gives,
    is_met,
    may_hold,
    path_literals,
    required_literals,
)

NAMES = ("type", "error", "result", "null", "ünï", 'a"b', "a/b")
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(0, 2), st.sampled_from(["", "x", *NAMES]))
EVENTS = st.recursive(
    st.dictionaries(st.sampled_from(NAMES), SCALARS, max_size=4),
    lambda inner: st.dictionaries(
        st.sampled_from(NAMES), st.one_of(SCALARS, inner, st.lists(SCALARS, max_size=2)), max_size=4
    ),
    max_leaves=6,
)


def quoted(name):
    return json.dumps(name, ensure_ascii=False)


FIELDS = st.sampled_from(NAMES).map(quoted)
PATHS = st.lists(FIELDS, min_size=1, max_size=2).map(".".join)
LITERALS = SCALARS.map(lambda value: f"`{json.dumps(value)}`")
ATOMS = st.one_of(
    PATHS,
    LITERALS,
    st.builds("{}{}{}".format, PATHS, st.sampled_from(["==", "!=", "<", ">="]), st.one_of(LITERALS, PATHS)),
    st.builds("{}=={}".format, LITERALS, PATHS),
    st.builds("starts_with({}, 'x')".format, PATHS),
    st.builds("{}.length(@)".format, PATHS),
    st.builds("!{}".format, PATHS),
)
CONDITIONS = st.recursive(
    ATOMS,
    lambda inner: st.builds("({} {} {})".format, inner, st.sampled_from(["&&", "||"]), inner),
    max_leaves=4,
)


def spelled(event, escaped):
    """Return an event as a CLI may print it: with letters by their numbers, too."""
    numbers = {ord(letter): f"\\u{ord(letter):04x}" for letter in escaped}
    return re.sub(
        r'"(?:[^"\\]|\\.)*"', lambda match: match[0].translate(numbers), json.dumps(event, ensure_ascii=False)
    )


@given(CONDITIONS, EVENTS, st.sampled_from(["", "t", "x", "rö"]))
def test_every_event_that_meets_a_condition_has_one_of_its_literals(rule, event, escaped):
    node = jmespath.compile(rule).parsed
    text = spelled(event, escaped)
    assert json.loads(text) == event

    if not may_hold(required_literals(node), text):
        assert not is_met(node)(event)
    if not may_hold(path_literals(node), text):
        assert not gives(node)(event)


@given(CONDITIONS, EVENTS)
def test_a_condition_gives_what_jmespath_gives(rule, event):
    node = jmespath.compile(rule).parsed

    assert outcome(compiled(node), event) == outcome(
        lambda value: TreeInterpreter().visit(node, value), event
    )


def outcome(evaluate, event):
    try:
        return repr(evaluate(event))
    except jmespath.exceptions.JMESPathError as error:
        return str(error)


@pytest.mark.parametrize(
    ("rule", "literals"),
    [
        ("type=='result'", {'"result"'}),
        ("type=='item.completed' && item.status=='declined'", {'"item.completed"'}),
        ("type=='turn.completed' || error.message", {'"turn.completed"', '"message"'}),
        ("is_error==`false`", {'"is_error"'}),
        ("type!='result'", None),
        ("!type", None),
        ("starts_with(type, 're')", None),
        ("type=='a/b'", {'"type"'}),
        ("`false`", set()),
    ],
)
def test_the_literals_of_a_condition_are_what_its_events_must_hold(rule, literals):
    assert required_literals(jmespath.compile(rule).parsed) == literals


def test_what_one_of_several_conditions_may_ask_for_is_unknown_if_it_is_of_one():
    assert any_literals([frozenset({'"a"'}), frozenset({'"b"'})]) == {'"a"', '"b"'}
    assert any_literals([frozenset({'"a"'}), None]) is None

"""Reading YAML: the 1.2 core schema, two parsers that agree, and text that nobody meant to be YAML."""

import math
import subprocess
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from reconciler.core.errors import SpecError
from reconciler.specs import yaml

PARSERS = pytest.mark.parametrize("events", [yaml.c_events, yaml.pure_events], ids=["c", "pure"])

SCALARS = {
    # YAML 1.2.2, section 10.3.2; what 1.1 made of the same text stands beside it.
    "no": "no",  # False
    "on": "on",  # True
    "y": "y",
    "010": 10,  # 8
    "0o10": 8,
    "0x1F": 31,
    "1:30": "1:30",  # 90
    "1_000": "1_000",  # 1000
    "0b11": "0b11",  # 3
    "+12": 12,
    "-0": 0,
    "1e3": 1000.0,
    ".5": 0.5,
    "5.": 5.0,
    "-.inf": -math.inf,
    "1.2.3": "1.2.3",
    "2030-01-31": "2030-01-31",  # a date
    "null": None,
    "~": None,
    "": None,
    "Null": None,
    "nULL": "nULL",
    "True": True,
    "FALSE": False,
    "tRUE": "tRUE",
    "<<": "<<",  # a merge
    "=": "=",
    ".": ".",
    "'12'": "12",
    '"\\u00e9"': "\u00e9",
    "!!str 12": "12",
    "! 12": "12",
    "!!int '12'": 12,
    "!!float 1.5": 1.5,
    "!!null ''": None,
    "!!bool true": True,
}


def value_of(text, events):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yaml, "open_events", events)
        return yaml.load_yaml(text.encode(), "x.yaml")


def outcome(text, events):
    """Return the value of a text, or None for each that is refused."""
    try:
        value, problems = value_of(text, events)
    except SpecError:
        return None
    return None if problems else (repr(value),)


@PARSERS
@pytest.mark.parametrize("text", SCALARS)
def test_scalars_mean_what_the_core_schema_says(text, events):
    value, problems = value_of(f"a: {text}", events)

    assert problems == []
    assert (type(value["a"]), value["a"]) == (type(SCALARS[text]), SCALARS[text])


@PARSERS
def test_nan_is_a_number_that_is_none(events):
    value, _ = value_of("a: .nan", events)

    assert math.isnan(value["a"])


@PARSERS
@pytest.mark.parametrize(
    "tag", ["!!int x", "!!bool 1", "!!null x", "!!float 'x'", "!mine x", "!!binary eA==", "!<tag:x> y"]
)
def test_a_tag_of_another_schema_or_a_value_that_does_not_fit_is_a_mistake(tag, events):
    _, problems = value_of(f"a: {tag}", events)

    assert [(problem.line, problem.column) for problem in problems] == [(1, 4)]


@PARSERS
def test_collections_are_dicts_and_tuples(events):
    value, problems = value_of("a: [1, {b: c}]\nd:\n  - e\n  - []\nf: {}\n", events)

    assert value == {"a": (1, {"b": "c"}), "d": ("e", ()), "f": {}}
    assert problems == []


@PARSERS
def test_an_alias_is_the_value_again(events):
    value, problems = value_of("a: &x {b: [1]}\nc: *x\n? &k d\n: *k\n", events)

    assert value == {"a": {"b": (1,)}, "c": {"b": (1,)}, "d": "d"}
    assert problems == []


@PARSERS
def test_aliases_cannot_nest_deeper_than_brackets(events):
    lines = ["a0: &a0 " + "[" * 30 + "]" * 30, "a1: &a1 " + "[" * 30 + "*a0" + "]" * 30]

    with pytest.raises(SpecError, match="nested deeper than 64 levels"):
        value_of("\n".join([*lines, "a2: " + "[" * 30 + "*a1" + "]" * 30]), events)


@PARSERS
@pytest.mark.parametrize("text", ["", "# a comment\n", "---\n", "---\n...\n", "\ufeff", "\n\n"])
def test_a_file_without_content_is_none(text, events):
    assert value_of(text, events) == (None, [])


@PARSERS
@pytest.mark.parametrize("character", ["\x00", "\x1b", "\x7f", "\x85", "\u2028", "\ufeff", "\ufffe"])
def test_a_character_that_cannot_be_seen_is_refused_where_it_stands(character, events):
    with pytest.raises(SpecError) as caught:
        value_of(f"a: 1\nb: x{character}y\n", events)

    problem = caught.value.problems[0]
    assert (problem.line, problem.column) == (2, 5)


@PARSERS
def test_a_line_that_ends_as_on_windows_counts_once(events):
    _, problems = value_of("a: 1\r\nb: 2\r\na: 3\r\n", events)

    assert [(problem.line, problem.column) for problem in problems] == [(3, 1)]


def test_a_hundred_thousand_brackets_end_no_process():
    program = (
        "from reconciler.specs.yaml import load_yaml\n"
        "for text in (b'[' * 100_000, b'[' * 50_000 + b']' * 50_000, b'{a: ' * 50_000, b'- ' * 50_000):\n"
        "    try: load_yaml(text, 'x')\n"
        "    except Exception as error: print(error)\n"
    )

    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.count("nested deeper than 64 levels") == 4


def test_the_c_parser_is_the_one_in_use():
    assert yaml.open_events is yaml.c_events


YAMLISH = st.text(st.sampled_from("ab:-?,[]{}#&*!|>'\"%@` \n\r\t\\~0.1\u00e9\u2028"), max_size=40)


@PARSERS
@given(text=st.text() | YAMLISH)
@example(text="a: [1")
@example(text='"\\')
@example(text='"\\ud800"')
@example(text='"\\U00110000"')
@example(text="%TAG ! x\n---\n!a b")
def test_any_text_has_a_value_or_problems_that_point_into_it(text, events):
    try:
        value, problems = value_of(text, events)
    except SpecError as error:
        problems = error.problems
        assert problems
    else:
        assert value is None or isinstance(value, str | int | float | bool | dict | tuple)
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for problem in problems:
        assert 1 <= problem.line <= len(lines)
        assert 1 <= problem.column <= max(map(len, text.split("\n"))) + 1


@given(data=st.binary())
def test_any_bytes_have_a_value_or_problems(data):
    try:
        _, problems = yaml.load_yaml(data, "x.yaml")
    except SpecError as error:
        problems = error.problems
        assert problems
    assert all(problem.path == "x.yaml" for problem in problems)


PLAIN = st.text(st.sampled_from("abcXYZ 019.-_/:#'\"é"), max_size=12)
VALUES = st.recursive(
    PLAIN
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.booleans()
    | st.none(),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.dictionaries(PLAIN, inner, max_size=3),
    max_leaves=8,
)


@PARSERS
@given(value=st.dictionaries(PLAIN, VALUES, max_size=4))
def test_what_is_written_in_flow_style_is_read_back(value, events):
    text = "".join(f"{yaml.flow_scalar(key)}: {yaml.flow_scalar(inner)}\n" for key, inner in value.items())

    read, problems = value_of(text, events)

    assert problems == []
    assert yaml.flow_scalar(read or {}) == yaml.flow_scalar(value)


LINES = st.lists(
    st.sampled_from(
        [
            "a: b",
            "c:",
            "  d: 'e'",
            "  - f",
            "- g",
            "h: |",
            "    text",
            "i: >-",
            "j: {k: 1}",
            "l: [m, 2]",
            "# n",
            "o: &p q",
            "r: *p",
            "? s",
            ": t",
            "---",
            "u: v: w",
        ]
    ),
    max_size=8,
)


@given(lines=LINES)
def test_both_parsers_agree_on_what_people_write(lines):
    text = "\n".join(lines) + "\n"

    assert outcome(text, yaml.c_events) == outcome(text, yaml.pure_events)


@given(lines=LINES)
def test_places_know_every_value_and_only_those(lines):
    text = "\n".join(lines) + "\n"
    if outcome(text, yaml.c_events) is None:
        return
    value, _ = yaml.load_yaml(text.encode(), "x")

    places = yaml.key_positions(text)

    assert set(places) - {()} <= set(paths(value)) | {()}
    assert set(paths(value)) - set(places) <= {path for path in paths(value) if "*p" in text}


def paths(value, path=()):
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, tuple) else ()
    for key, inner in items:
        yield (*path, key)
        yield from paths(inner, (*path, key))

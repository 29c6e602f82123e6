"""Every rule of a built-in adapter is held to recordings of the very format and versions that it runs."""

import copy
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import jmespath
import pytest
from jmespath.exceptions import JMESPathError
from jmespath.visitor import TreeInterpreter

from reconciler.core.adapter import RULES
from reconciler.core.patterns import chosen, lines_of, matches
from reconciler.dispatch.output import JOIN, READERS, read_events
from reconciler.specs.layers import resolve_adapter as built_in
from tests.dispatch.test_output import VERDICTS, round_output

ADAPTERS = ("claude-code", "codex", "gemini", "opencode", "qwen")
HELD = [
    (name, field)
    for name in ADAPTERS
    for field in RULES
    if getattr(built_in(name, None).output, field) is not None
]

_JSON = "for who puts `-o json` into the command; recorded in that format"
OTHER_FORMAT = {
    ("gemini", "text"): _JSON,
    ("gemini", "error"): _JSON,
    ("gemini", "terminal"): _JSON,
    ("gemini", "input_tokens"): _JSON,
    ("gemini", "output_tokens"): _JSON,
    ("gemini", "cached_tokens"): _JSON,
}
"""Rules with alternatives for output of another format, which a recording of that one needs; and why."""

UNMET = {
    ("claude-code", "notes"): "made by the reader, and tried on streams written by hand in test_output",
    ("opencode", "cost_usd"): "models on loopback cost nothing",
}
"""Rules that find nothing in any recording; and why they are there all the same."""

UNDECIDED = {
    ("codex", "success"): "a turn that failed must not be overlooked if one that completed stands before it",
    ("opencode", "success"): "an error must not be overlooked if a step that finished stands before it",
    ("codex", "error"): "`error` alone is of runs that were stopped, whose words nobody waits for",
    ("codex", "denials"): "`declined` is in its list of states, and no headless run has shown it",
    ("gemini", "success"): "its limit of turns is such an error, and a setting that nobody sets unasked",
    ("opencode", "error"): "other shapes of an error, told by its users",
}
"""Rules with an alternative that no recording needs; and why it is there all the same."""


class Recorded(NamedTuple):
    """A recording as rules see it."""

    name: str
    exit_code: int
    events: list[dict[str, Any]]
    lines: list[str]
    """Of stdout and stderr."""
    complained: list[str]
    """Of stderr."""
    is_as_run: bool
    """Whether it is of the format and of a version that the built-in adapter runs."""


@cache
def recordings(name: str) -> list[Recorded]:
    return [recorded(row) for row in VERDICTS if row["adapter"] == name]


def recorded(row: dict[str, str]) -> Recorded:
    rules, left = built_in(row["adapter"], None).output, round_output(row)
    transcript = read_events(left.stdout, left.stderr, join=JOIN.get(rules.reader))
    events = READERS[rules.reader](transcript) if rules.reader else list(transcript.events)
    complained = lines_of(left.stderr.decode("utf-8", "replace"))
    lines = [*lines_of(left.stdout.decode("utf-8", "replace")), *complained]
    is_as_run = row["as_run"] == "yes"
    return Recorded(row["recording"], left.exit_code, events, lines, complained, is_as_run)


def answers(name: str, tree: dict[str, Any], *, as_run: bool = True) -> list[Any]:
    """Return what a rule finds in each recording; None where it cannot be asked."""
    return [answer(tree, each.events) for each in recordings(name) if each.is_as_run or not as_run]


def answer(tree: dict[str, Any], events: list[dict[str, Any]]) -> Any:
    try:
        return TreeInterpreter().visit(tree, events)
    except JMESPathError:
        return None


def alternatives(tree: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield each alternative (`a || b`) of a rule but for defaults, and the rule without it."""
    for path in ors(tree):
        for index in (0, 1):
            rest = copy.deepcopy(tree)
            node = at(rest, path)
            left_out, kept = node["children"][index], node["children"][1 - index]
            if left_out["type"] != "literal" and kept["type"] != "literal":
                node.clear()
                node.update(kept)
                yield left_out, rest


def ors(tree: dict[str, Any], path: tuple[int, ...] = ()) -> Iterator[tuple[int, ...]]:
    node = at(tree, path)
    if node["type"] == "or_expression":
        yield path
    for index, child in enumerate(node["children"]):
        if isinstance(child, dict):
            yield from ors(tree, (*path, index))


def at(tree: dict[str, Any], path: tuple[int, ...]) -> dict[str, Any]:
    for index in path:
        tree = tree["children"][index]
    return tree


def idle(name: str, field: str, *, as_run: bool) -> list[dict[str, Any]]:
    """Return the alternatives of a rule that change nothing in any recording."""
    tree = jmespath.compile(getattr(built_in(name, None).output, field)).parsed
    whole = answers(name, tree, as_run=as_run)
    return [piece for piece, rest in alternatives(tree) if answers(name, rest, as_run=as_run) == whole]


@pytest.mark.parametrize(("name", "field"), HELD, ids=[f"{name}-{field}" for name, field in HELD])
def test_a_recording_needs_every_rule_and_every_alternative_of_it(name, field):
    tree = jmespath.compile(getattr(built_in(name, None).output, field)).parsed

    is_met = any(answers(name, tree))
    needless = idle(name, field, as_run=(name, field) not in OTHER_FORMAT)

    assert is_met is ((name, field) not in UNMET), "it finds nothing in any recording of what is run"
    assert bool(needless) is ((name, field) in UNDECIDED), needless


@pytest.mark.parametrize("name", ADAPTERS)
def test_exit_codes_and_places_of_errors_were_met_in_recordings_too(name):
    rules = built_in(name, None).output
    as_run = [each for each in recordings(name) if each.is_as_run]

    codes = {str(each.exit_code) for each in as_run}
    unmet = [code for code in rules.exit_codes if code not in codes and (name, code) not in CODES]
    unseen = [
        line
        for line in rules.error_lines
        if (name, line) not in PLACES
        and not any(chosen([line], each.complained) for each in recordings(name))
    ]

    assert not unmet
    assert not unseen
    assert rules.give_up is None or any(any(matches(rules.give_up, each.lines)) for each in as_run)


PLACES = {("claude-code", "Not logged in"): "it says so on stdout now, and on stderr to some"}
CODES = {("gemini", "53"): "its limit of turns is a setting, which nobody sets unasked"}


def test_every_exception_is_still_needed():
    for name, field in OTHER_FORMAT:
        assert idle(name, field, as_run=True), f"{name} {field} needs no exception any more"

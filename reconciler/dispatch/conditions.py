"""
Conditions: what a rule of an adapter asks of one event, and the literals that a line must have to meet it.

Nearly all of an output is what no rule asks for. That is seen by literals that
are not in it, long before a rule is evaluated.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from jmespath.exceptions import JMESPathError
from jmespath.visitor import TreeInterpreter

from reconciler.core.rule_functions import RULE_OPTIONS

Node = Mapping[str, Any]
"""An expression, parsed by jmespath."""
Evaluate = Callable[[Any], Any]
Literals = frozenset[str] | None
"""Pieces of JSON of which a line has one at least if its event meets a condition; None if that is unknown."""

_INTERPRETER = TreeInterpreter(RULE_OPTIONS)
_EMPTY: Sequence[object] = ("", [], {})
_ESCAPED = re.compile(r"\\u00[2-7]")
"""A letter by its number: a literal may be written with it."""


def may_hold(literals: Literals, text: str) -> bool:
    """Tell whether an event that was read from the text may meet a condition of these literals."""
    if literals is None:
        return True
    return any(literal in text for literal in literals) or (
        "\\u00" in text and _ESCAPED.search(text) is not None
    )


def any_literals(several: Iterable[Literals]) -> Literals:
    """Return literals of which a line has one at least if its event meets any of several conditions."""
    literals = frozenset[str]()
    for each in several:
        if each is None:
            return None
        literals |= each
    return literals


def is_met(node: Node) -> Evaluate:
    """Return what tells whether a condition is met; True if it raises, so that the rule raises too."""
    return partial(_is_true, compiled(node))


def gives(node: Node) -> Evaluate:
    """Return what tells whether an expression gives anything; True if it raises."""
    return partial(_is_anything, compiled(node))


def _is_true(evaluate: Evaluate, event: Any) -> bool:
    try:
        return not _is_false(evaluate(event))
    except (JMESPathError, TypeError, ValueError, RecursionError):
        return True


def _is_anything(evaluate: Evaluate, event: Any) -> bool:
    try:
        return evaluate(event) is not None
    except (JMESPathError, TypeError, ValueError, RecursionError):
        return True


def _is_false(value: object) -> bool:
    return value is None or value is False or value in _EMPTY


# --- Evaluation ------------------------------------------------------------


def compiled(node: Node) -> Evaluate:
    """Return a function that evaluates an expression: the common ones quickly, all others by jmespath."""
    match node:
        case {"type": "field", "value": str(name)}:
            return partial(_field, name)
        case {"type": "subexpression", "children": children}:
            return partial(_chain, [compiled(child) for child in children])
        case {
            "type": "comparator",
            "value": "eq",
            "children": [left, {"type": "literal", "value": str(text)}],
        }:
            return partial(_equals, compiled(left), text)
        case {"type": "and_expression", "children": [left, right]}:
            return partial(_both, compiled(left), compiled(right))
        case {"type": "or_expression", "children": [left, right]}:
            return partial(_either, compiled(left), compiled(right))
        case _:
            return partial(_INTERPRETER.visit, node)


def _field(name: str, value: Any) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def _chain(steps: Sequence[Evaluate], value: Any) -> Any:
    for step in steps:
        value = step(value)
    return value


def _equals(left: Evaluate, text: str, value: Any) -> bool:
    return bool(left(value) == text)


def _both(left: Evaluate, right: Evaluate, value: Any) -> Any:
    result = left(value)
    return result if _is_false(result) else right(value)


def _either(left: Evaluate, right: Evaluate, value: Any) -> Any:
    result = left(value)
    return right(value) if _is_false(result) else result


# --- Literals -----------------------------------------------------------------


def required_literals(node: Node) -> Literals:
    """
    Return literals of which a line has one at least if the expression is met by its event, or raises.

    None if there are none that are certain.
    """
    kind, children = node["type"], node["children"]
    if kind == "literal":
        return frozenset() if _is_false(node["value"]) else None
    if kind == "comparator":
        return _compared(node["value"], *children)
    if kind not in {"and_expression", "or_expression"}:
        return path_literals(node)
    one, other = map(required_literals, children)
    if one is None or (other is None and kind == "or_expression"):
        return None
    # What stands on the right of "and" is not asked where the left is not met: it may be anything.
    return one | (other or one) if kind == "or_expression" else _rarer(one, other)


def path_literals(node: Node) -> Literals:
    """Return literals of which a line has one at least if a path of fields gives anything of its event."""
    if node["type"] == "field":
        return _literal(node["value"])
    several = (
        [path_literals(child) for child in node["children"]] if node["type"] == "subexpression" else [None]
    )
    literals = [each for each in several if each is not None]
    return min(literals, key=_cost) if len(literals) == len(several) else None


def _compared(kind: str, left: Node, right: Node) -> Literals:
    """Return the literals of a comparison: of a field that must be there, and of the text that it must be."""
    fields = [literals for node in (left, right) if (literals := required_literals(node))]
    constants = [node["value"] for node in (left, right) if node["type"] == "literal"]
    if len(fields) != 1 or len(constants) != 1 or kind == "ne" or constants[0] is None:
        return None
    return _rarer(
        fields[0], _literal(constants[0]) if isinstance(constants[0], str) and kind == "eq" else None
    )


def _rarer(one: frozenset[str], other: Literals) -> Literals:
    """Return the better of two sets of literals that are needed both: fewer, then longer ones."""
    return one if other is None else min(one, other, key=_cost)


def _cost(literals: frozenset[str]) -> tuple[int, int]:
    return len(literals), -sum(map(len, literals))


def _literal(text: str) -> Literals:
    """Return a text as JSON has it; None if it could be written in several ways."""
    is_plain = text.isascii() and text.isprintable() and not {'"', "\\", "/"} & set(text)
    return frozenset({json.dumps(text)}) if is_plain else None

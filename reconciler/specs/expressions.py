"""
JMESPath expressions, looked at without any output: what they can find at all.

Each part of an expression is given the kinds of values that it may find, from
the list of all events on. What can find nothing, or the same in every output,
was hardly meant.
"""

from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from itertools import pairwise
from typing import Any, get_args

import jmespath
from jmespath.exceptions import JMESPathError
from jmespath.lexer import Lexer

from reconciler.core.adapter import Meaning
from reconciler.core.rule_functions import RuleFunctions

_TABLE = RuleFunctions.FUNCTION_TABLE

Node = Mapping[str, Any]
Kinds = frozenset[str]

_EVENTS: Kinds = frozenset({"events"})
"""The list of all events, or some of them."""
ONE_EVENT: Kinds = frozenset({"object"})
_NULL: Kinds = frozenset({"null"})
_ARRAYS: Kinds = frozenset({"array", "events"})
_ANY: Kinds = frozenset({"null", "boolean", "number", "string", "object"}) | _ARRAYS


def is_expression(text: str) -> bool:
    """Return whether a text is JMESPath."""
    try:
        jmespath.compile(text)
    except JMESPathError:
        return False
    return True


def check_rule(field: str, text: str) -> None:
    """Raise ValueError unless an expression can find what a rule of an adapter's output is for."""
    check_expression(text)
    node = jmespath.compile(text).parsed
    wanted = _WANTED.get(field, _ANY)
    kinds = _kinds(node, _EVENTS)
    if kinds == _NULL:
        raise ValueError("finds nothing: it is asked of the list of all events, such as `[-1].result`")
    if not kinds & wanted:
        raise ValueError(f"finds {_named(kinds)} where {_named(wanted)} is needed")
    if field in _CONDITIONS and (truth := _truth(node)) is not None:
        raise ValueError(f"is always {str(truth).lower()}, whatever was printed")
    results = list(_results(node))
    if field not in _MAY_BE_CONSTANT and all(result["type"] == "literal" for result in results):
        raise ValueError("is the same whatever was printed; names of fields stand without quotes")
    if field == "error_class":
        for result in results:
            _check_class(result)


_CONDITIONS = frozenset({"terminal", "success"})
_MAY_BE_CONSTANT = frozenset({"session_id", "text", "error", "error_class", "model", *_CONDITIONS})
"""A constant text stands in for what a CLI does not say; the others would say it of every run."""
_NUMBER = frozenset({"number", "string"})
_WANTED: Mapping[str, Kinds] = {
    **dict.fromkeys(("session_id", "text", "error", "error_class", "model"), frozenset({"string"})),
    **dict.fromkeys(("error_status", "input_tokens", "output_tokens", "cached_tokens"), _NUMBER),
    **dict.fromkeys(("cost_usd", "turns"), _NUMBER),
    **dict.fromkeys(("denials", "notes"), _ARRAYS),
}


def _check_class(result: Node) -> None:
    names = get_args(Meaning)
    value = result["value"] if result["type"] == "literal" else None
    if value is not None and value not in names:
        near = get_close_matches(str(value), names, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(names)}"
        raise ValueError(f"there is no failure class {value!r}; {hint}")


def _named(kinds: Kinds) -> str:
    names = {"string": "a text", "array": "a list", "events": "a list", "object": "an object"}
    named = dict.fromkeys(names.get(kind, f"a {kind}") for kind in sorted(kinds - _NULL))
    return " or ".join(named)


# --- In any expression -------------------------------------------------------


def check_expression(text: str, of: Kinds = _EVENTS) -> None:
    """
    Raise ValueError, with what is wrong, unless a text is an expression in which every part has an effect.

    It is asked of the list of all events, or of what is named.
    """
    try:
        parsed = jmespath.compile(text).parsed
        _check_quotes(text)
        for node in _all(parsed):
            _check_node(node)
        _kinds(parsed, of)
    except JMESPathError as error:
        raise ValueError(f"not a JMESPath expression: {error}") from None
    except RecursionError:
        raise ValueError("not a JMESPath expression: nested too deeply") from None


def _all(node: Node) -> Iterator[Node]:
    yield node
    for child in node["children"]:
        if isinstance(child, dict):
            yield from _all(child)


def _check_quotes(text: str) -> None:
    """Raise ValueError for what is compared with the name of a field, where a text was meant."""
    for before, token in pairwise(Lexer().tokenize(text)):
        if before["type"] in {"eq", "ne"} and token["type"] == "quoted_identifier":
            name = token["value"]
            raise ValueError(
                f"\"{name}\" in double quotes is a field; a text stands in single ones: '{name}'"
            )


def _check_node(node: Node) -> None:
    """Raise ValueError for a call that cannot be, and for a part that is the same in every output."""
    kind, parts = node["type"], node["children"]
    if kind == "function_expression":
        _check_call(node["value"], len(parts))
        looked_at = parts
    elif kind in {"comparator", "not_expression"}:
        looked_at = parts
    elif kind in {"or_expression", "and_expression"}:
        looked_at = parts[:1]
    elif kind == "filter_projection":
        looked_at = parts[2:]
    else:
        return
    if all(part["type"] == "literal" for part in looked_at):
        what = f"{node['value']}()" if kind == "function_expression" else _PARTS[kind]
        raise ValueError(f"{what} is given nothing of what was printed; names of fields stand without quotes")
    is_order = kind == "comparator" and node["value"] not in {"eq", "ne"}
    if is_order and any(part["type"] == "literal" and not _is_number(part["value"]) for part in parts):
        raise ValueError("never holds: only numbers can be compared by < and >, such as `3` in backticks")


_PARTS = {
    "comparator": "a comparison",
    "not_expression": "a negation",
    "or_expression": "what stands before ||",
    "and_expression": "what stands before &&",
    "filter_projection": "a filter",
}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_call(name: str, count: int) -> None:
    if name not in _TABLE:
        meant = get_close_matches(name, sorted(_TABLE), 1)
        hint = f"did you mean {meant[0]}()?" if meant else f"known are {', '.join(sorted(_TABLE))}"
        raise ValueError(f"there is no function {name}(); {hint}")
    wanted = _TABLE[name]["signature"]
    is_open = bool(wanted) and wanted[-1].get("variadic", False)
    if count < len(wanted) or (count > len(wanted) and not is_open):
        more = " or more" if is_open else ""
        raise ValueError(
            f"{name}() takes {len(wanted)} argument{'s' * (len(wanted) != 1)}{more}, not {count}"
        )


def _results(node: Node) -> Iterator[Node]:
    """Yield the parts of an expression one of which is what it finds."""
    if node["type"] == "or_expression":
        for part in node["children"]:
            yield from _results(part)
    elif node["type"] in {"and_expression", "pipe"}:
        yield from _results(node["children"][-1])
    else:
        yield node


def _truth(node: Node) -> bool | None:
    """Return whether an expression holds in every output, or in none; None if that depends."""
    kind, parts = node["type"], node["children"]
    if kind == "literal":
        return bool(node["value"]) or _is_number(node["value"])
    if kind == "not_expression":
        inner = _truth(parts[0])
        return None if inner is None else not inner
    if kind in {"or_expression", "and_expression"}:
        decides = kind == "or_expression"
        return decides if decides in map(_truth, parts) else None
    return None


# --- Kinds of values ---------------------------------------------------------


def _kinds(node: Node, given: Kinds) -> Kinds:  # noqa: PLR0911 - a table of cases
    """Return what a part may find in values of the given kinds. Raises ValueError where it never can."""
    parts = node["children"]
    match node["type"]:
        case "identity" | "current":
            return given
        case "literal":
            return _kind_of(node["value"])
        case "field":
            return _ANY if "object" in given else _NULL
        case "index":
            return _element(given) if given & _ARRAYS else _NULL
        case "slice" | "flatten":
            return _sliced(node, given)
        case "subexpression" | "index_expression" | "pipe":
            return _kinds(parts[1], _kinds(parts[0], given))
        case "projection" | "filter_projection" | "value_projection":
            return _projected(node, _kinds(parts[0], given))
        case _:
            return _calculated(node, given)


def _sliced(node: Node, given: Kinds) -> Kinds:
    of = _kinds(node["children"][0], given) if node["type"] == "flatten" else given
    return (of & _ARRAYS) or _NULL


def _projected(node: Node, of: Kinds) -> Kinds:
    is_of_values = node["type"] == "value_projection"
    if not of & ({"object"} if is_of_values else _ARRAYS):
        return _NULL
    each = _ANY if is_of_values else _element(of)
    if node["type"] == "filter_projection":
        _kinds(node["children"][2], each)
    result = _kinds(node["children"][1], each)
    if result == _NULL:
        return _NULL
    return _EVENTS if of == _EVENTS and node["children"][1]["type"] == "identity" else frozenset({"array"})


def _element(of: Kinds) -> Kinds:
    return frozenset({"object", "null"}) if of <= _EVENTS | _NULL else _ANY


def _calculated(node: Node, given: Kinds) -> Kinds:  # noqa: PLR0911 - a table of cases
    parts = node["children"]
    match node["type"]:
        case "or_expression":
            return _kinds(parts[0], given) | _kinds(parts[1], given)
        case "and_expression":
            _kinds(parts[0], given)
            return _kinds(parts[1], given) | _NULL
        case "comparator":
            return _compared(node, given)
        case "function_expression":
            return _called(node, given)
        case "multi_select_list" | "multi_select_dict" | "key_val_pair":
            for part in parts:
                _kinds(part, given)
            return frozenset({"object" if node["type"] == "multi_select_dict" else "array"})
        case "expref":
            return frozenset({"expref"})
        case _:
            return frozenset({"boolean"})


def _compared(node: Node, given: Kinds) -> Kinds:
    left, right = (_kinds(part, given) for part in node["children"])
    if node["value"] == "eq" and not left & right:
        raise ValueError(
            f"a comparison never holds: {_side(left)} is never {_side(right)}; what is compared first "
            "is asked of the list of all events, such as `[-1].type`"
        )
    return frozenset({"boolean", "null"})


def _side(kinds: Kinds) -> str:
    return _named(kinds) or "nothing"


def _called(node: Node, given: Kinds) -> Kinds:
    name = node["value"]
    signature = _TABLE[name]["signature"]
    for at, part in enumerate(node["children"]):
        taken = signature[min(at, len(signature) - 1)]["types"]
        kinds = _kinds(part, given)
        if kinds == _NULL or (taken and not kinds & _accepted(taken)):
            types = " or ".join(taken) or "a value"
            raise ValueError(f"{name}() takes {types}, and is given {_side(kinds)}")
    return _GIVES.get(name, _ANY)


def _accepted(types: list[str]) -> Kinds:
    kinds = {kind.partition("-")[0] for kind in types}
    return frozenset(kinds | (_ARRAYS if "array" in kinds else set()))


def _gives(kind: str, *names: str) -> dict[str, Kinds]:
    return dict.fromkeys(names, frozenset({kind}))


_GIVES: Mapping[str, Kinds] = {
    **_gives("number", "abs", "avg", "ceil", "floor", "length", "subtract", "sum"),
    **_gives("boolean", "contains", "ends_with", "starts_with"),
    **_gives("string", "join", "to_string", "type"),
    **_gives("array", "keys", "values", "map", "sort", "sort_by", "to_array"),
    **_gives("object", "merge"),
    "to_number": frozenset({"number", "null"}),
}
"""What functions find; others find what they are given."""


def _kind_of(value: object) -> Kinds:
    names: list[tuple[str, Callable[[object], bool]]] = [
        ("null", lambda each: each is None),
        ("boolean", lambda each: isinstance(each, bool)),
        ("number", _is_number),
        ("string", lambda each: isinstance(each, str)),
        ("array", lambda each: isinstance(each, list)),
    ]
    return frozenset({next((name for name, holds in names if holds(value)), "object")})

"""
Static check of JMESPath expressions: unknown functions and wrong numbers of arguments.
"""

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

import jmespath
from jmespath.exceptions import JMESPathError
from jmespath.functions import Functions

_TABLE = Functions.FUNCTION_TABLE


def check_expression(text: str) -> None:
    """Raise ValueError, with what is wrong, unless a text is an expression all of whose functions exist."""
    try:
        parsed = jmespath.compile(text).parsed
        for name, count in _calls(parsed):
            _check_call(name, count)
    except JMESPathError as error:
        raise ValueError(f"not a JMESPath expression: {error}") from None
    except RecursionError:
        raise ValueError("not a JMESPath expression: nested too deeply") from None


def _calls(node: Any) -> Iterator[tuple[str, int]]:
    """Yield the name of each function that is called, and how many arguments it is given."""
    if node["type"] == "function_expression":
        yield node["value"], len(node["children"])
    for child in node["children"]:
        if isinstance(child, dict):
            yield from _calls(child)


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

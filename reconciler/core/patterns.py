"""
Regular expressions of people, asked of text of strangers.

They are matched at the beginnings of lines, lines are cut, and an expression
that could take for ever on some line is refused when it is read.
"""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from re import _constants as op  # type: ignore[attr-defined]  # they are not in typeshed
from re import _parser  # type: ignore[attr-defined]  # the only way to see what an expression is made of
from typing import Any

from reconciler.core.text import harmless

LINE = 500
"""Most characters of a line that are looked at."""

_LINES = 5000
"""Most lines of a text, its last ones."""

_MOST_WAYS = LINE**2 * 400
"""Most ways in which an expression may try to fit one line."""

_CLASSES = (op.LITERAL, op.NOT_LITERAL, op.IN, op.ANY, op.CATEGORY, op.RANGE)
_PLAIN = (*_CLASSES, op.AT)
"""What fits in one way or not; references and looking around are not taken."""


def check_pattern(pattern: str) -> str:
    """
    Return the regular expression if it is one, and bounded.

    Raises ValueError for one that backtracks without bound: a repetition of
    what repeats (`(a+)+`), of alternatives (`(a|b)*`), or many in a row.
    """
    try:
        tree = _parser.parse(pattern)
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"not a regular expression: {error}") from error
    if _match_count(list(tree), is_last=True) > _MOST_WAYS:
        raise ValueError(
            "may take too long on some line: repeat single characters and classes only, not groups, and no "
            "more than two of them without end (`.*`, `+`) in a row; `*+` and `++` count little"
        )
    return pattern


def _match_count(items: list[Any], *, is_last: bool = False) -> int:
    """Return in how many ways a sequence may fit a line, at most; what stands last need not go back."""
    ways = 1
    for index, (kind, argument) in enumerate(items):
        ways *= _match_count_of(kind, argument, is_last=is_last and index == len(items) - 1)
        if ways > _MOST_WAYS:
            break
    return ways


def _match_count_of(kind: Any, argument: Any, *, is_last: bool) -> int:
    if kind in {op.MAX_REPEAT, op.MIN_REPEAT}:
        least, most, body = argument
        return _match_count_of_repeat(least, min(most, LINE), list(body), is_last=is_last)
    if kind is op.SUBPATTERN:
        return _match_count(list(argument[-1]), is_last=is_last)
    if kind is op.BRANCH:
        return sum(_match_count(list(branch), is_last=is_last) for branch in argument[1])
    if kind is op.POSSESSIVE_REPEAT and _is_single(list(argument[2])):
        return 2
    if kind is op.ATOMIC_GROUP:
        return max(2, _match_count(list(argument)))
    return 1 if kind in _PLAIN else _MOST_WAYS + 1


def _match_count_of_repeat(least: int, most: int, body: list[Any], *, is_last: bool) -> int:
    if _is_single(body):
        return 1 if is_last else most - least + 1
    inner = _match_count(body)
    times = most if inner > 1 else 1
    return min((inner + 1) ** min(times, 64), _MOST_WAYS + 1) if inner > 1 else most - least + 1


def _is_single(body: list[Any]) -> bool:
    return len(body) == 1 and body[0][0] in _CLASSES


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(check_pattern(pattern))


def lines_of(text: str) -> list[str]:
    """Return the last lines of a text, harmless and cut to what is looked at."""
    lines = re.split(r"\r?\n|\r", text)[-_LINES:]
    return [harmless(line[: 2 * LINE]).strip()[:LINE] for line in lines]


def matches(pattern: str, lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Yield the number of each line that the expression fits, and its first group or all that fits."""
    for number, line in enumerate(lines):
        match = _compiled(pattern).match(line)
        if match:
            yield number, (match[1] or "") if match.re.groups else match[0]


def chosen(patterns: Iterable[str], lines: Iterable[str]) -> list[str]:
    """Return the lines that begin as one of the expressions says."""
    expressions = [_compiled(pattern) for pattern in patterns]
    return [line for line in lines if any(expression.match(line) for expression in expressions)]

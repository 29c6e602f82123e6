"""
Regular expressions of people, asked of text of strangers.

They are matched at the beginnings of lines, lines are cut, and an expression
that could take for ever on some line is refused when it is read.
"""

import re
import warnings
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
        with warnings.catch_warnings(action="error", category=FutureWarning):  # such as of `[[`
            tree = _parser.parse(pattern)
            re.compile(pattern)
    except (re.error, OverflowError, RecursionError, FutureWarning) as error:
        raise ValueError(f"not a regular expression: {error}") from error
    if _match_count(list(tree), is_last=True) > _MOST_WAYS:
        raise ValueError(
            "may take too long on some line: repeat single characters and classes only, not groups, and no "
            "more than two of them without end (`.*`, `+`) in a row; `*+` and `++` count little"
        )
    return pattern


def check_line_pattern(pattern: str, *, anywhere: bool = False) -> None:
    """
    Raise ValueError unless a good regular expression fits some lines, and says something of them.

    It is matched at the beginning of lines without blanks around them, or `anywhere` in them.
    """
    tree = _parser.parse(pattern)
    if re.search(pattern, "") is not None:
        raise ValueError("fits an empty line, so that it fits lines that say nothing of it; ask for more")
    if tree.getwidth()[0] > LINE:
        raise ValueError(f"fits no line: no more than {LINE} characters of one are looked at")
    if any(item in _LINE_ENDS for item in tree):
        raise ValueError("fits no line: each line is looked at by itself, without its end")
    if not anywhere and len(tree) and tree[0] in _BLANKS:
        raise ValueError("fits no line: they are looked at without the blanks that they begin with")
    for at, (kind, place) in enumerate(tree):
        is_late = place in _BEGINS and tree[:at].getwidth()[0] > 0
        if kind is op.AT and (is_late or (place in _ENDS and tree[at:].getwidth()[0] > 0)):
            raise ValueError("fits no line: it asks for more before the beginning of one, or behind its end")


_LINE_ENDS = [(op.LITERAL, ord(each)) for each in "\r\n"]
_BLANKS = [(op.LITERAL, ord(each)) for each in " \t"]
_BEGINS = (op.AT_BEGINNING, op.AT_BEGINNING_STRING)
_ENDS = (op.AT_END, op.AT_END_STRING)


def constant_of(pattern: str) -> str | None:
    """Return the text that an expression, or its first group, always fits; None if that varies."""
    tree = _parser.parse(pattern)
    groups = [argument[-1] for kind, argument in tree if kind is op.SUBPATTERN and argument[0] == 1]
    items = list(groups[0] if groups else tree)
    is_constant = bool(groups or not tree.state.groups - 1) and all(kind is op.LITERAL for kind, _ in items)
    return "".join(chr(code) for _, code in items) if is_constant else None


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


class Streak:
    """Counts the lines that fit an expression, as long as hardly any other stands between two of them."""

    def __init__(self, pattern: str) -> None:
        """Begin to count."""
        self._pattern = pattern
        self._length = self._others = 0

    def add(self, line: str) -> int:
        """Take one more line; return how many there are in a row. An empty one counts for nothing."""
        if line and _compiled(self._pattern).match(line):
            self._length, self._others = self._length + 1, 0
        elif line:
            self._others += 1
            self._length = self._length if self._others <= MOST_BETWEEN else 0
        return self._length


MOST_BETWEEN = 2
"""Other lines that may stand between two of a streak: such as events that a call begins with."""

"""
Text for a terminal: tables, ages, suggestions.
"""

import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from difflib import get_close_matches
from itertools import zip_longest
from shutil import get_terminal_size
from unicodedata import combining, east_asian_width

from reconciler.core.text import harmless, one_line


def terminal_size() -> os.terminal_size:
    """Return how large the terminal is: COLUMNS and LINES, else that of a standard stream, else 80 by 24."""
    for stream in (1, 2, 0):
        with suppress(OSError, ValueError):
            columns, lines = os.get_terminal_size(stream)
            set_columns, set_lines = (os.environ.get(name, "") for name in ("COLUMNS", "LINES"))
            return os.terminal_size(
                (
                    int(set_columns) if set_columns.isdigit() else columns or 80,
                    int(set_lines) if set_lines.isdigit() else lines or 24,
                )
            )
    return get_terminal_size()


def table(head: Sequence[str], rows: Iterable[Sequence[str]], least: Sequence[int] = ()) -> str:
    """Return aligned columns, two spaces apart, the last one as long as it is; `least` are widths to keep."""
    lines = [tuple(head), *(tuple(map(one_line, row)) for row in rows)]
    widths = widths_of(lines, least)
    padded = ("  ".join(map(pad, line, widths)) for line in lines)
    return "\n".join(line.rstrip() for line in padded)


def shown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table as it is part of a text: as wide as the terminal, if stdout is one."""
    if not sys.stdout.isatty():
        return table(head, rows)
    return "\n".join("  ".join(line).rstrip() for line in fitted(head, rows, terminal_size().columns))


def widths_of(lines: Iterable[Sequence[str]], least: Sequence[int] = ()) -> Sequence[int]:
    """Return how wide each column is, at least as wide as it was."""
    widths = [max(map(columns_of, column)) for column in zip(*lines, strict=True)]
    return [max(pair) for pair in zip_longest(widths, least, fillvalue=0)]


LEAST = 40
"""Least width of the last column, which holds sentences; with less room they go on separate lines."""


def fitted(
    head: Sequence[str], rows: Iterable[Sequence[str]], width: int, least: Sequence[int] = ()
) -> list[list[str]]:
    """
    Return a table as lines of padded cells, if possible within the width of the terminal.

    The last column is wrapped where it stands; where too little room is left
    for it, below the others.
    """
    lines = [list(map(one_line, row)) for row in rows]
    *others, last = zip(head, *lines, strict=True)
    widths = narrowed(widths_of(zip(*others, strict=True), least[:-1]), width - 2 * len(others))
    room, longest = width - sum(widths) - 2 * len(widths), max(map(columns_of, last))
    is_folded = room < min(longest, LEAST)
    indent = 4 if is_folded else width - room
    fitted_lines = [*_stacked(head[:-1], widths, [] if is_folded else [head[-1]])]
    for *cells, sentence in lines:
        parts = wrap(sentence, max(width - indent, LEAST // 2))
        fitted_lines += _stacked(cells, widths, [] if is_folded else parts)
        fitted_lines += [[" " * (indent - 2), part] for part in parts if is_folded]
    return fitted_lines


NARROWEST = 12
"""Width down to which a column is narrowed."""


def narrowed(widths: Sequence[int], room: int) -> list[int]:
    """Return widths that together fit into the room, if they can: the widest gives way first."""
    narrow = list(widths)
    for number in sorted(range(len(narrow)), key=lambda each: -narrow[each]):
        excess = max(0, sum(narrow) - room)
        narrow[number] -= min(excess, max(0, narrow[number] - NARROWEST))
    return narrow


def _stacked(cells: Sequence[str], widths: Sequence[int], last: Sequence[str]) -> list[list[str]]:
    """Return a row as lines: cells wider than their column go on below; the last one is given in parts."""
    columns = [wrap(cell, width) or [""] for cell, width in zip(cells, widths, strict=True)]
    height = max(len(column) for column in (*columns, last))
    return [
        [
            *(
                pad(column[at] if at < len(column) else "", width)
                for column, width in zip(columns, widths, strict=True)
            ),
            *last[at : at + 1],
        ]
        for at in range(height)
    ]


def wrap(text: str, width: int) -> list[str]:
    """Return a text as lines of at most so many columns, broken between words where they are not too long."""
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".lstrip()
        if columns_of(joined) <= width:
            lines[-1] = joined
            continue
        lines.append("")
        for character in word:
            if columns_of(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
    return [line for line in lines if line]


def pad(text: str, width: int) -> str:
    """Return a text with spaces up to a width."""
    return text + " " * (width - columns_of(text))


def columns_of(text: str) -> int:
    """Return the width of a text in columns: wide characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(0 if combining(each) else 2 if east_asian_width(each) in "WF" else 1 for each in text)


def value_block(fields: Iterable[tuple[str, str]]) -> str:
    """Return `name: value` lines, the values aligned; a value of several lines is indented below."""
    pairs = [(name, harmless(value).rstrip()) for name, value in fields]
    width = max((len(name) for name, _ in pairs), default=0) + 2
    indent = "\n" + " " * width
    return "\n".join(
        f"{name + ':':<{width}}{indent.join(value.splitlines())}".rstrip() for name, value in pairs
    )


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return a suggestion for an unknown name, as the end of a sentence; empty if nothing is close."""
    close = get_close_matches(name, list(names), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""

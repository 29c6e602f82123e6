"""
Words on a terminal: tables, ages, suggestions.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from difflib import get_close_matches

from reconciler.core.text import harmless, one_line


def ago(since: datetime, now: datetime) -> str:
    """Return how long ago that was, in its largest unit: `40s`, `12m`, `3h`, `5d`."""
    seconds = max(now - since, timedelta()).total_seconds()
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds)}s"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return aligned columns, two spaces apart, the last one as long as it is."""
    lines = [tuple(head), *(tuple(map(one_line, row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ("  ".join(map(str.ljust, line, widths)) for line in lines)
    return "\n".join(line.rstrip() for line in padded)


def block(fields: Iterable[tuple[str, str]]) -> str:
    """Return `name: value` lines, the values aligned; a value of several lines is indented below."""
    pairs = [(name, harmless(value).rstrip()) for name, value in fields]
    width = max((len(name) for name, _ in pairs), default=0) + 2
    indent = "\n" + " " * width
    return "\n".join(
        f"{name + ':':<{width}}{indent.join(value.splitlines())}".rstrip() for name, value in pairs
    )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of a sentence about an unknown name: what it may have meant, if anything is close."""
    close = get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""

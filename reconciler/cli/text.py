"""
Words on a terminal: tables, ages, and text that others wrote made harmless.
"""

import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?"  # OSC, DCS, SOS, PM, APC: titles, clipboards, links
    r"|\x1b[ -/]*[0-~]?"  # the rest
)
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""C0 but for tab and line end, C1, and what changes the direction of writing."""


def harmless(text: str) -> str:
    """Return the text without anything a terminal would obey; line ends and tabs stay."""
    return _CONTROLS.sub("", _ESCAPES.sub("", text))


def one_line(text: str) -> str:
    """Return the text as one harmless line."""
    return " ".join(harmless(text).split())


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

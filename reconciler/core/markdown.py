"""
Text of others in the Markdown of a forge: shown as it is and without effect, and read as people see it.

In code a forge sees neither mentions, nor references, nor words that close an
issue, nor HTML. The hidden marks of our own comments cannot be written either.
"""

import re

from reconciler.core.text import harmless, one_line, visible

_TICKS = re.compile(r"`+")
_HIDDEN = re.compile(
    r"<!--.*?(?:-->|\Z)"
    r"|^ {0,3}\[[^\]\n]*\]:[ \t]*(?:#|<>)[^\n]*$",  # what Markdown has for a comment
    re.DOTALL | re.MULTILINE,
)


def seen(text: str) -> str:
    """Return what a person sees who reads a text on the forge: who approves of it knows no more."""
    return _HIDDEN.sub("", visible(text))


def code(text: str, limit: int = 200) -> str:
    """Return a text as code within a line."""
    line = _unmarked(one_line(text, limit)) or "(nothing)"
    ticks = "`" * (_longest_ticks(line) + 1)
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{ticks}{space}{line}{space}{ticks}"


def fenced(text: str) -> str:
    """Return a text as a block of code, in a fence that it cannot close."""
    body = _unmarked(harmless(text)).strip("\n") or "(nothing)"
    fence = "`" * max(_longest_ticks(body) + 1, 3)
    return f"{fence}text\n{body}\n{fence}"


def _unmarked(text: str) -> str:
    return text.replace("<!--", "<! --").replace("-->", "-- >")


def _longest_ticks(text: str) -> int:
    return max(map(len, _TICKS.findall(text)), default=0)

"""
Untrusted text in the Markdown of a forge: quoted without effect, and read as people see it.

In code a forge finds neither mentions, nor references, nor keywords that close an
issue, nor HTML. The hidden marks of our own comments cannot be written either.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

from reconciler.core.text import harmless, one_line, visible

_TICKS = re.compile(r"`+")
_COMMENT = re.compile(r"<!--(?:-?>|.*?(?:-->|\Z))", re.DOTALL)
_SPAN_OR_COMMENT = re.compile(
    r"(?P<ticks>(?<!`)`+(?!`)).*?(?<!`)(?P=ticks)(?!`)"
    r"|<!--(?:-?>|.*?(?:-->|\Z))"
    r"|^ {0,3}\[[^\]\n]*\]:[ \t]*(?:#|<>)[^\n]*$",  # link definitions that people use as comments
    re.DOTALL | re.MULTILINE,
)


_MOST = 100_000
"""Characters that are read of a text; forges allow somewhat more."""


def blocks(text: str) -> Sequence["Token"]:
    """Return the CommonMark blocks of a text; `map` of each has its lines, first and one past the last."""
    return _parser().parse(text)


@cache
def _parser() -> "MarkdownIt":
    from markdown_it import MarkdownIt  # noqa: PLC0415 - 30 ms, and most commands read no Markdown

    # Inline, only code matters here, and the other rules are slow on hostile text.
    return MarkdownIt("commonmark").disable(
        ["link", "image", "autolink", "html_inline", "emphasis", "entity"]
    )


def visible_text(text: str) -> str:
    """
    Return the text as it is visible on the forge: an approval covers no more than that.

    Comments go, of HTML and those that people make of link definitions, and the
    titles of links' definitions; what stands in code is seen, whatever it is.
    """
    plain = visible(text)[:_MOST]
    if "<!--" not in plain and "]:" not in plain:
        return plain
    lines = plain.split("\n")
    references: dict[str, Any] = {}
    for token in _parser().parse(plain, references):
        if token.map and token.type == "html_block":
            _replace(lines, token.map, _COMMENT.sub("", "\n".join(lines[slice(*token.map)])))
        elif token.map and token.type == "inline":
            _replace(lines, token.map, _SPAN_OR_COMMENT.sub(_kept, "\n".join(lines[slice(*token.map)])))
    for definition in (*references.get("references", {}).values(), *references.get("duplicate_refs", ())):
        _replace(lines, definition["map"], _without_title(lines[definition["map"][0]], definition))
    return "\n".join(lines)


def _kept(match: re.Match[str]) -> str:
    return match[0] if match["ticks"] else ""


def _without_title(line: str, definition: Mapping[str, Any]) -> str:
    """Return a link definition without its invisible parts; one that leads nowhere is a comment."""
    if definition["href"] in {"", "#"}:
        return ""
    if not definition["title"]:
        return line
    label = line[: line.find("]:") + 2]
    return f"{label} <{definition['href']}>"


def _replace(lines: list[str], place: Sequence[int], text: str) -> None:
    """Replace some lines by a text; the number of lines stays, so that later positions hold."""
    begin, end = place
    now = text.split("\n")
    lines[begin:end] = [*now, *[""] * (end - begin - len(now))][: end - begin]


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

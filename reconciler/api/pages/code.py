"""
Code as a page shows it: unified diffs and files, coloured by the rules of their language.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from markupsafe import Markup, escape
from pygments import lex
from pygments.lexer import Lexer
from pygments.lexers import get_lexer_for_filename
from pygments.token import STANDARD_TYPES, Token
from pygments.util import ClassNotFound

from reconciler.api.pages.safe_text import show_hidden

LONGEST_LINE = 2_000
"""Characters of a line that are shown."""
MOST_COLOURED = 60_000
"""Characters of a file, or of a hunk, that are coloured; what is longer is plain."""
_FILE = re.compile(r"^diff --git ", re.MULTILINE)
_NEW_NAME = re.compile(r'^\+\+\+ "?(?:b/)?(?P<path>[^\t\n]+?)"?\t?$', re.MULTILINE)
_OLD_NAME = re.compile(r'^--- "?(?:a/)?(?P<path>[^\t\n]+?)"?\t?$', re.MULTILINE)
_GIT_NAME = re.compile(r'^"?a/.* "?b/(?P<path>[^\n"]+)"?$', re.MULTILINE)
_HUNK = re.compile(r"^@@ -(?P<old>\d+)(?:,\d+)? \+(?P<new>\d+)(?:,\d+)? @@(?P<where>.*)$")


class DiffLine(NamedTuple):
    """One line of a diff."""

    kind: str
    """`add`, `del`, `same`, `hunk` or `note`."""
    old: int | None
    """Its number before."""
    new: int | None
    """Its number after."""
    text: Markup


@dataclass(frozen=True, slots=True)
class DiffFile:
    """What a diff says of one file."""

    path: str
    note: str
    """`new`, `deleted`, `binary`, `renamed`, or nothing."""
    added: int
    deleted: int
    lines: Sequence[DiffLine] = field(repr=False)

    @property
    def size(self) -> int:
        """About how many characters it takes on a page."""
        return sum(len(line.text) + 90 for line in self.lines)


def diff_files(diff: str) -> Iterator[DiffFile]:
    """Yield the files of a unified diff as git prints it, in its order."""
    starts = [match.start() for match in _FILE.finditer(diff)]
    for start, end in zip(starts, [*starts[1:], len(diff)], strict=True):
        yield _file(diff[start:end])


def _file(part: str) -> DiffFile:
    head, _, _ = part.partition("\n@@ ")
    path = _path(head)
    lines = list(_lines(part[len(head) + 1 :], _lexer(path)))
    added = sum(line.kind == "add" for line in lines)
    return DiffFile(path, _note(head), added, sum(line.kind == "del" for line in lines), lines)


def _path(head: str) -> str:
    names = [match["path"] for pattern in (_NEW_NAME, _OLD_NAME) if (match := pattern.search(head))]
    named = next((name for name in names if name != "/dev/null"), None)
    if named is None and (match := _GIT_NAME.search(head.removeprefix("diff --git "))):
        return match["path"]
    return named or "?"


def _note(head: str) -> str:
    notes = {
        "\nnew file mode": "new",
        "\ndeleted file mode": "deleted",
        "\nrename from": "renamed",
        "\nBinary files": "binary",
        "\nGIT binary patch": "binary",
    }
    return next((note for sign, note in notes.items() if sign in head), "")


def _lines(body: str, lexer: Lexer | None) -> Iterator[DiffLine]:
    hunk: list[str] = []
    for line in body.split("\n"):
        if line.startswith("@@ "):
            yield from _hunk(hunk, lexer)
            hunk = []
        hunk.append(line)
    yield from _hunk(hunk, lexer)


def _hunk(lines: Sequence[str], lexer: Lexer | None) -> Iterator[DiffLine]:
    match = _HUNK.match(lines[0]) if lines else None
    if match is None:
        return
    yield DiffLine("hunk", None, None, escape(show_hidden(lines[0][:LONGEST_LINE])))
    body = [line for line in lines[1:] if line]
    old = iter(_coloured([line[1:] for line in body if line[0] in " -"], lexer))
    new = iter(_coloured([line[1:] for line in body if line[0] in " +"], lexer))
    at, to = int(match["old"]), int(match["new"])
    for line in body:
        if line[0] == "+":
            yield DiffLine("add", None, to, next(new))
            to += 1
        elif line[0] == "-":
            yield DiffLine("del", at, None, next(old))
            at += 1
        elif line[0] == " ":
            next(old)
            yield DiffLine("same", at, to, next(new))
            at, to = at + 1, to + 1
        else:
            yield DiffLine("note", None, None, escape(show_hidden(line)))


def code_lines(path: str, text: str) -> Sequence[Markup]:
    """Return a file line by line, coloured by its name."""
    return _coloured(text.removesuffix("\n").split("\n"), _lexer(path))


def _coloured(lines: Sequence[str], lexer: Lexer | None) -> Sequence[Markup]:
    cut = [f"{line[:LONGEST_LINE]}…" if len(line) > LONGEST_LINE else line for line in lines]
    text = "\n".join(cut)
    if lexer is None or len(text) > MOST_COLOURED:
        return [escape(show_hidden(line)) for line in cut]
    made = _lexed(text, lexer)
    return made if len(made) == len(cut) else [escape(show_hidden(line)) for line in cut]


def _lexed(text: str, lexer: Lexer) -> list[Markup]:
    lines: list[list[str]] = [[]]
    for kind, value in lex(text, lexer):
        name = _class_of(kind)
        for number, piece in enumerate(value.split("\n")):
            if number:
                lines.append([])
            if piece:
                markup = escape(show_hidden(piece))
                lines[-1].append(f'<span class="{name}">{markup}</span>' if name else str(markup))
    return [Markup("".join(pieces)) for pieces in lines]  # noqa: S704 - each piece was escaped above


@lru_cache
def _class_of(kind: object) -> str:
    """Return the class of a token, of one letter: all keywords look alike, and all strings."""
    while kind not in STANDARD_TYPES:
        kind = getattr(kind, "parent", Token)
    short = STANDARD_TYPES[kind]
    if short in {"nf", "nc", "nt", "na", "nd"}:
        return f"h-{short}"
    return f"h-{short[0]}" if short and short[0] in "kscmo" else ""


@lru_cache(maxsize=64)
def _lexer(path: str) -> Lexer | None:
    try:
        # Line ends are ours to split at: none is added, none taken away.
        lexer: Lexer = get_lexer_for_filename(path, stripnl=False, ensurenl=False)
    except (ClassNotFound, ValueError):
        return None
    return lexer

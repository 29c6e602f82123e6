"""
Leaks: secrets in the commits of finished work.

What commits add is searched: lines, names of files and messages. The secrets
that the run itself was given are found in every form that masks know; others by
the formats of well-known tokens. A leak names its place and never the secret.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from reconciler.core.masking import Mask
from reconciler.core.model.runs import Check
from reconciler.core.text import harmless, one_line
from reconciler.core.token_formats import find_tokens, hide_tokens

_PIECE = 1 << 20
"""Characters that are searched at once: no search may keep the loop from its work for long."""
_OVERLAP = 1 << 16
"""Characters of a piece that are searched with the next one too."""
_LISTED = 20
"""Most leaks that are listed."""
_REMEDY = (
    "Nothing was delivered. Take it out of every commit of this branch (amend, or rebase them), "
    "not only out of the newest."
)
_COMMIT = re.compile(rb"[0-9a-f]{40,64}")
_HUNK = re.compile(rb"(@@+) .*\+(\d+)(?:,\d+)? @@")


@dataclass(frozen=True, slots=True)
class Passage:
    """A text that a commit adds."""

    commit: str
    path: str
    """File it is in; empty for the commit itself: its message, and who made it."""
    text: str
    lines: Sequence[int] = ()
    """
    Number of each line in its file, 1-based; none for the name of a file, and
    the first one alone for what was unpacked.
    """


@dataclass(frozen=True, slots=True)
class Leak:
    """A secret in the work: where it is, and what gives it away."""

    commit: str
    path: str
    """As in `Passage`; without secrets, should it have any."""
    line: int | None
    """None: it is in the name of the file."""
    what: str
    is_own: bool
    """Whether it is one that the run was given."""

    def __str__(self) -> str:
        at = f"commit {self.commit[:10]}"
        if not self.path:
            place = f"the message of {at}"
        elif self.line is None:
            place = f"the name of {one_line(self.path)!r} ({at})"
        else:
            place = f"{one_line(self.path)}:{self.line} ({at})"
        return f"{place}: {self.what}"


def find_leaks(
    passages: Iterable[Passage],
    mask: Mask,
    *,
    formats: bool,
    is_allowed: Callable[[str], bool],
) -> tuple[Leak, ...]:
    """
    Return the leaks in what commits add, each place once.

    `mask` has the run's own secrets. `formats`: whether tokens of others are
    looked for as well, but in files (by path) for which `is_allowed`.
    """
    seen: dict[tuple[str, int | None, bool], Leak] = {}
    for passage in passages:
        shown = hide_tokens(mask.hide(passage.path))
        others = formats and not (passage.path and is_allowed(passage.path))
        for line, what, is_own in _in_passage(passage, mask, formats=others):
            leak = Leak(passage.commit, shown, line, what, is_own)
            seen.setdefault((passage.path or passage.commit, line, is_own), leak)
    own = {(leak.path, leak.line) for leak in seen.values() if leak.is_own}
    return tuple(leak for leak in seen.values() if leak.is_own or (leak.path, leak.line) not in own)


def leak_check(leaks: Sequence[Leak]) -> Check:
    """Return leaks as a command that failed, for whoever has to remove them."""
    more = [f"and {len(leaks) - _LISTED} more"] if len(leaks) > _LISTED else []
    text = "\n".join(
        (
            *map(str, leaks[:_LISTED]),
            *more,
            _REMEDY,
        )
    )
    return Check(
        command="secret gate", exit_code=1, seconds=0.0, output=text, summary=f"secret gate: {leaks[0]}"
    )


def _in_passage(passage: Passage, mask: Mask, *, formats: bool) -> Iterator[tuple[int | None, str, bool]]:
    """Yield line, kind and whether it is the run's own, for each leak in a passage."""
    for first, piece in _pieces(passage.text):
        for at in _own_lines(piece, mask):
            yield _number(passage, first + at), "a secret that the run was given", True
        for token in find_tokens(piece) if formats else ():
            at = first + piece.count("\n", 0, token.start)
            yield _number(passage, at), f"looks like a {token.name}", False


def _number(passage: Passage, at: int) -> int | None:
    """Return the number of a line of a passage; what was unpacked has only one."""
    return passage.lines[min(at, len(passage.lines) - 1)] if passage.lines else None


def _own_lines(text: str, mask: Mask) -> Iterator[int]:
    """Yield the lines (0-based) of a text in which a mask finds something, each once."""
    lines = set[int]()
    for variant in {
        text,
        text.replace("\x1b", " "),
    }:  # what a terminal obeys may swallow a secret, or split it
        before, after = harmless(variant), mask.hide(variant)
        if after not in {before, variant}:
            pairs = zip(before.split("\n"), after.split("\n"), strict=True)
            lines.update(number for number, (old, new) in enumerate(pairs) if old != new)
    yield from sorted(lines)


def _pieces(text: str) -> Iterator[tuple[int, str]]:
    """Yield a text in pieces that overlap, each with the number of lines before it."""
    line = 0
    for start in range(0, max(len(text) - _OVERLAP, 1), _PIECE - _OVERLAP):
        yield line, text[start : start + _PIECE]
        line += text.count("\n", start, start + _PIECE - _OVERLAP)


# --- What commits add ------------------------------------------------------


def commit_passage(commit: str, content: bytes) -> Passage:
    """Return a commit as git stores it: message, people, and whatever else its header has."""
    text = _decoded(content)
    header = text.partition("\n\n")[0].count("\n") + 2
    return Passage(commit, "", text, range(1 - header, text.count("\n") + 2 - header))


def patch_passages(patch: bytes) -> Iterator[Passage]:
    """
    Yield what the commits of a patch add, file by file: names and lines.

    `patch` is the output of `git diff-tree --stdin -r -p -U0 --text --cc` without
    renames. Of a merge, lines that one of its parents has are left out.
    """
    for commit, head, body in _files(patch.split(b"\n")):
        if not any(row.startswith(b"deleted file") for row in head):
            path = _path(head[0])
            yield Passage(commit, path, path)
            lines = [*_added(body)]
            text = _decoded(b"\n".join(line for _, line in lines))
            yield Passage(commit, path, text, tuple(number for number, _ in lines))


def _files(rows: Iterable[bytes]) -> Iterator[tuple[str, list[bytes], list[bytes]]]:
    """Yield commit, head and hunks of each file: no row of a hunk begins with a letter or a digit."""
    commit, head, body = "", list[bytes](), list[bytes]()
    for row in rows:
        if row.startswith(b"diff ") or _COMMIT.fullmatch(row):
            if head:
                yield commit, head, body
            is_file = row.startswith(b"diff ")
            head, body = [row] if is_file else [], []
            commit = commit if is_file else row.decode()
        elif body or row.startswith(b"@@"):
            body.append(row)
        elif head:
            head.append(row)
    if head:
        yield commit, head, body


def _added(rows: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that hunks add, each with its number in the new file."""
    parents, number = 1, 0
    for row in rows:
        if match := _HUNK.match(row):
            parents, number = len(match[1]) - 1, int(match[2])
        elif row.startswith(b"+" * parents):
            yield number, row[parents:]
            number += 1
        elif row and b"-" not in row[:parents] and not row.startswith(b"\\"):
            number += 1


def _path(row: bytes) -> str:
    """Return the path in the row that begins a file: `diff --git a/X b/X`, or `diff --cc X`."""
    _, option, rest = row.split(b" ", 2)
    quoted = rest.startswith(b'"')
    if option == b"--git":
        rest = rest[: len(rest) // 2]
        rest = rest[:1] + rest[3:] if quoted else rest[2:]
    return _decoded(_unquoted(rest[1:-1]) if quoted else rest)


def _unquoted(text: bytes) -> bytes:
    """Return a path that git quoted as C does."""
    return text.decode("ascii").encode("latin-1").decode("unicode_escape").encode("latin-1")


def _decoded(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")

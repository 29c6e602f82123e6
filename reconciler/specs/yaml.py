"""
YAML 1.2 (core schema) to plain values, with a position for every mistake.

Values are built straight from the parser's events: no tree of nodes, no
resolver, no tags but those of the core schema. libyaml finds the events; where
it is not installed, ruamel's pure Python parser finds the same ones, slower.
Limits keep a hostile file from costing more than a bad one.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import (
    DocumentEndEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)

from reconciler.core.errors import Problem, SpecError
from reconciler.core.text import one_line

try:
    from _ruamel_yaml import CParser
except ImportError:  # pragma: no cover - the wheel is there wherever the tests run
    CParser = None

MAX_BYTES = 256 * 1024
MAX_DEPTH = 64
MAX_NODES = 100_000
MAX_MISTAKES = 50
"""Most mistakes that are reported of one file at a time."""

Position = tuple[int, int]
"""Line and column, both from 1, in characters."""
Path = tuple[str | int, ...]
"""Keys and indexes that lead from the root to a value."""
NextEvent = Callable[[], Any]
"""Gives one event after the other; Any, since what an event has depends on its type."""


def c_events(text: str) -> NextEvent:
    """Return a function that gives libyaml's next event of the text."""
    next_event: NextEvent = CParser(text).get_event
    return next_event


def pure_events(text: str) -> NextEvent:
    """Return a function that gives the next event of the text, without any C."""
    next_event: NextEvent = YAML(typ="safe", pure=True).parse(text).__next__
    return next_event


open_events: Callable[[str], NextEvent] = c_events if CParser is not None else pure_events


def load_yaml(data: bytes, path: str) -> tuple[Any, list[Problem]]:
    """
    Return the value of the one document in a file, and its recoverable mistakes.

    Mappings are dicts with text keys, lists are tuples, an empty file is None.
    Of two duplicate keys, for example, the first one counts, so that
    validation finds the other mistakes of the file too.
    Raises SpecError, with one problem, for what cannot be read to its end.
    """
    text = decode(data, path)
    reader = _Reader(path, open_events(text))
    try:
        return reader.document(), reader.problems
    except MarkedYAMLError as error:
        raise SpecError([_syntax_problem(error, text, path)]) from None
    except ValueError:  # ruamel's own parser, where libyaml has a word for it
        line, column = position(text, max(text.find("\\U"), 0))
        raise SpecError([Problem(path, line, column, "an escape that names no character")]) from None


def to_bytes(text: str) -> bytes:
    """Return the bytes of a text that `to_text` made, or that was an argument of a command."""
    return text.encode(errors="surrogateescape")


def to_text(data: bytes) -> str:
    """Return the text in a file that somebody edits; `decode` tells what is not UTF-8 in it."""
    return data.decode(errors="surrogateescape")


def decode(data: bytes, path: str) -> str:
    """Return the text of a file, or raise SpecError if it is too large, not UTF-8 or not printable."""
    if len(data) > MAX_BYTES:
        raise SpecError([Problem(path, 1, 1, f"larger than {MAX_BYTES // 1024} KiB")])
    try:
        text = data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line, column = position(data[: error.start].decode(), error.start)
        raise SpecError([Problem(path, line, column, "not UTF-8; save it in that encoding")]) from None
    if match := _UNREADABLE.search(text):
        line, column = position(text, match.start())
        code = f"{ord(match[0]):04X}"
        message = f'character U+{code} is not allowed; remove it, or write it as "\\u{code}"'
        raise SpecError([Problem(path, line, column, message)])
    return text


def position(text: str, index: int) -> Position:
    """Return the line and column of a character."""
    before = text[:index]
    return before.count("\n") + 1, len(before) - before.rfind("\n")


def key_positions(text: str) -> Mapping[Path, tuple[Position, Position]]:
    """
    Return the positions of each key and its value, by the path of keys and indexes to them.

    A second reading, made only for files in which `load` found no error of
    syntax but somebody wants to point at a value. An item of a list is its own key.
    """
    positions: dict[Path, tuple[Position, Position]] = {}
    next_event = open_events(text)
    next_event()
    if type(next_event()) is not StreamEndEvent:
        root = next_event()
        _place(root, _start(root), (), next_event, positions)
    return positions


class KeySpan(NamedTuple):
    """Span of one key of the root and its value, as indexes into the text."""

    start: int
    key_end: int
    value: int
    end: int
    """Behind the last character of the value."""


def place_within(text: str, place: Position, within: Position) -> Position | None:
    """Return where a line and column of a value are in its file; None if the value is folded or escaped."""
    (line, column), (inner_line, inner_column) = place, within
    lines = text.split("\n")
    beginning, quote = lines[line - 1][column - 1 :], ""
    if beginning.startswith("|"):
        block = lines[line:]
        indent = next((len(each) - len(each.lstrip(" ")) for each in block if each.strip()), 0)
        return line + inner_line, indent + inner_column
    if beginning.startswith(("'", '"')):
        quote = beginning[0]
    is_as_written = (
        inner_line == 1 and not beginning.startswith((">", "&", "*", "!")) and "\\" not in beginning
    )
    return (line, column + len(quote) + inner_column - 1) if is_as_written else None


def key_spans(text: str) -> Mapping[str, KeySpan] | None:
    """
    Return the spans of the root's keys, for a text that `load_yaml` read without a problem.

    None if they stand in braces and not on lines of their own.
    """
    next_event = open_events(text)
    next_event()
    if type(next_event()) is StreamEndEvent:
        return {}
    root = next_event()
    if not isinstance(root, MappingStartEvent) or root.flow_style:
        return None
    spans = {}
    while not isinstance(key := next_event(), MappingEndEvent):
        value = next_event()
        end = _value_end(value, next_event)
        spans[str(key.value)] = KeySpan(
            key.start_mark.index, key.end_mark.index, value.start_mark.index, max(end, key.end_mark.index + 1)
        )
    return spans


def _value_end(event: Any, next_event: NextEvent) -> int:
    """Read to the end of a value; return the index of its last character."""
    end, depth = event.end_mark.index, 0
    while True:
        depth += isinstance(event, MappingStartEvent | SequenceStartEvent)
        depth -= isinstance(event, MappingEndEvent | SequenceEndEvent)
        # The parser marks the end of a value without brackets where the next token begins.
        if event.start_mark.index < event.end_mark.index:
            end = event.end_mark.index
        if depth == 0:
            return int(end)
        event = next_event()


def flow_scalar(value: Any) -> str:
    """Return a value as YAML on one line: a plain word where that is safe, JSON for all else."""
    if isinstance(value, str):
        return value if _is_plain(value) else _quoted(value)
    if isinstance(value, dict):
        return (
            "{" + ", ".join(f"{flow_scalar(key)}: {flow_scalar(inner)}" for key, inner in value.items()) + "}"
        )
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(flow_scalar, value))}]"
    return json.dumps(value)


def block_scalar(value: Any, indent: str, eol: str) -> str:
    """
    Return a value as a person would write it after a key and its colon; further lines begin with `indent`.

    A text of several lines stands as it is, long items and mappings stand one below
    the other, all else stands on the line of the key.
    """
    if isinstance(value, str) and "\n" in value:
        lines = (f"{indent}{line}" if line else "" for line in value.split("\n"))
        return f" |-{eol}{eol.join(lines)}"
    if isinstance(value, list | tuple) and len(flow_scalar(value)) > _LONG:
        return "".join(f"{eol}{indent}- {flow_scalar(item)}" for item in value)
    if isinstance(value, dict) and len(flow_scalar(value)) > _LONG:
        inner = ((flow_scalar(key), block_scalar(each, indent + "  ", eol)) for key, each in value.items())
        return "".join(f"{eol}{indent}{key}:{each}" for key, each in inner)
    return f" {flow_scalar(value)}"


_LONG = 60
"""Characters above which a list or a mapping is written with an item per line."""

_PLAIN = re.compile(r"[A-Za-z0-9/][A-Za-z0-9_./@+-]*(?: [A-Za-z0-9_./@+-]+)*")


def _is_plain(text: str) -> bool:
    """Tell whether a text without quotes is read as this text."""
    return (
        bool(_PLAIN.fullmatch(text))
        and text not in _PLAIN_VALUES
        and not _INT.match(text)
        and not _FLOAT.match(text)
    )


def _quoted(text: str) -> str:
    return _UNREADABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", json.dumps(text, ensure_ascii=False))


# libyaml takes U+0085, U+2028 and U+2029 for line ends and editors do not: positions would differ.
_UNREADABLE = re.compile(
    "[^\t\n\r\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
)
_NEVER = re.compile("[\x00\ud800-\udfff]")
_INT = re.compile(r"[-+]?[0-9]+\Z|0o[0-7]+\Z|0x[0-9a-fA-F]+\Z")
_FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z|[-+]?\.(inf|Inf|INF)\Z|\.(nan|NaN|NAN)\Z"
)
_NUMERIC = frozenset("0123456789+-.")
_MAX_DIGITS = 40
_PLAIN_VALUES = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True,
    "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_TAG = "tag:yaml.org,2002:"
_TYPES = {
    f"{_TAG}str": str,
    f"{_TAG}int": int,
    f"{_TAG}float": float,
    f"{_TAG}bool": bool,
    f"{_TAG}null": type(None),
}


class _Reader:
    """One pass over the events of one file."""

    __slots__ = ("anchors", "next", "nodes", "path", "problems")

    def __init__(self, path: str, next_event: NextEvent) -> None:
        self.path = path
        self.next = next_event
        self.nodes = 0
        self.anchors: dict[str, Any] = {}
        self.problems: list[Problem] = []

    def document(self) -> Any:
        self.next()
        if type(self.next()) is StreamEndEvent:
            return None
        value = self.value(self.next(), 0)
        event = self.next()
        while type(event) is DocumentEndEvent:
            event = self.next()
        if type(event) is not StreamEndEvent:
            raise self.stop(event, "a second document begins here; a file holds one")
        return value

    def value(self, event: Any, depth: int) -> Any:
        kind = type(event)
        if kind is ScalarEvent:
            value = event.value
            # Most scalars are plain text: only others are examined further.
            if value in _PLAIN_VALUES or value[0] in _NUMERIC or event.style or event.ctag is not None:
                value = self.scalar(event)
        elif kind is MappingStartEvent:
            value = self.mapping(event, depth + 1)
        elif kind is SequenceStartEvent:
            value = self.sequence(event, depth + 1)
        else:
            return self.alias(event, depth)
        if event.anchor is not None:
            self.anchors[event.anchor] = value
        return value

    def scalar(self, event: Any) -> Any:
        text: str = event.value
        if event.ctag is not None:
            return self.tagged(event)
        if not event.implicit[0]:
            return self.quoted(event) if event.style == '"' else text
        return _PLAIN_VALUES[text] if text in _PLAIN_VALUES else self.number(event)

    def mapping(self, event: Any, depth: int) -> dict[str, Any]:
        self.enter(event, depth, "map")
        values: dict[str, Any] = {}
        next_event = self.next
        while type(event := next_event()) is not MappingEndEvent:
            key = self.value(event, depth)
            value = self.value(next_event(), depth)
            if type(key) is not str:
                self.problem(event, "a key must be a text; put it in quotes")
            elif key in values:
                self.problem(event, f"duplicate key {quoted_excerpt(key)}")
            else:
                values[key] = value
        self.count(event, 2 * len(values))
        return values

    def sequence(self, event: Any, depth: int) -> tuple[Any, ...]:
        self.enter(event, depth, "seq")
        values = []
        while type(event := self.next()) is not SequenceEndEvent:
            values.append(self.value(event, depth))
        self.count(event, len(values))
        return tuple(values)

    def alias(self, event: Any, depth: int) -> Any:
        """Return the aliased value; counted as if written out, or a few lines could hold billions."""
        if event.anchor not in self.anchors:
            raise self.stop(event, f"nothing is marked &{event.anchor} before this line")
        value = self.anchors[event.anchor]
        self.repeat(event, value, depth)
        return value

    def repeat(self, event: Any, value: Any, depth: int) -> None:
        self.count(event, 1)
        if isinstance(value, dict | tuple):
            self.enter(event, depth + 1)
            for child in value.values() if isinstance(value, dict) else value:
                self.repeat(event, child, depth + 1)

    def number(self, event: Any) -> Any:
        text = event.value
        if _INT.match(text):
            if len(text) > _MAX_DIGITS:
                self.problem(event, f"number of more than {_MAX_DIGITS} digits")
                return 0
            return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
        if _FLOAT.match(text):
            return float(text.replace(".", "") if text[-1] in "fFnN" else text)
        return text

    def quoted(self, event: Any) -> str:
        text: str = event.value
        if _NEVER.search(text):
            self.problem(event, "a text cannot contain U+0000 or half a surrogate pair")
            return _NEVER.sub("", text)
        return text

    def tagged(self, event: Any) -> Any:
        """Read a scalar with a tag: one of the core schema, and a value that fits it."""
        tag = str(event.tag)
        if tag in {"!", f"{_TAG}str"}:
            return self.quoted(event)
        value = _PLAIN_VALUES[event.value] if event.value in _PLAIN_VALUES else self.number(event)
        if tag not in _TYPES:
            self.problem(event, f"tag {quoted_excerpt(tag)} is not allowed")
        elif not isinstance(value, _TYPES[tag]):
            self.problem(event, f"not a value of {quoted_excerpt(tag)}")
        return value

    def enter(self, event: Any, depth: int, tag: str = "") -> None:
        if depth > MAX_DEPTH:
            raise self.stop(event, f"nested deeper than {MAX_DEPTH} levels")
        if tag and event.ctag is not None and str(event.tag) not in {"!", _TAG + tag}:
            self.problem(event, f"tag {quoted_excerpt(str(event.tag))} is not allowed")

    def count(self, event: Any, nodes: int) -> None:
        self.nodes += nodes
        if self.nodes > MAX_NODES:
            raise self.stop(event, f"more than {MAX_NODES} values, aliases written out")

    def problem(self, event: Any, message: str) -> None:
        if len(self.problems) < MAX_MISTAKES:
            self.problems.append(Problem(self.path, *_start(event), message))

    def stop(self, event: Any, message: str) -> SpecError:
        return SpecError([*self.problems, Problem(self.path, *_start(event), message)])


def quoted_excerpt(text: str) -> str:
    """Return a text in quotes, shortened for a message."""
    return repr(text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…")


_SHOWN = 60


def _start(event: Any) -> Position:
    mark = event.start_mark
    return mark.line + 1, mark.column + 1


_PLAINER = {
    "mapping values are not allowed": "':' is not allowed here; put a text that contains ': ' in quotes",
    "found a tab character": "a tab cannot indent; use spaces",
    "could not find expected ':'": "expected 'key: value'",
}
"""Beginnings of the parsers' messages, and plainer ones."""


def _syntax_problem(error: MarkedYAMLError, text: str, path: str) -> Problem:
    """Turn a parser error into a problem, at a position inside the text."""
    mark = error.problem_mark or error.context_mark
    problem_text = error.problem or "not YAML"
    index = min(mark.index, len(text))
    message = next((plainer for start, plainer in _PLAINER.items() if problem_text.startswith(start)), None)
    if message is None and "cannot start any token" in problem_text:
        message = _bad_start(text[index : index + 1])
    if message is None:
        message = f"{error.context}: {problem_text}" if error.context else problem_text
    lines = text.split("\n")
    line = min(mark.line, len(lines) - 1)
    column = mark.column if line == mark.line else len(lines[line])
    return Problem(path, line + 1, min(column, len(lines[line])) + 1, one_line(message))


def _bad_start(character: str) -> str:
    if character == "\t":
        return "a tab cannot indent; use spaces"
    return f"a text cannot begin with {character!r}; put it in quotes"


def _place(
    event: Any,
    key: Position,
    path: Path,
    next_event: NextEvent,
    positions: dict[Path, tuple[Position, Position]],
) -> None:
    positions.setdefault(path, (key, _start(event)))
    if isinstance(event, MappingStartEvent):
        while not isinstance(name := next_event(), MappingEndEvent):
            if not isinstance(name, ScalarEvent):
                _place(name, key, (*path, ""), next_event, {})
            inner = (*path, name.value if isinstance(name, ScalarEvent) else "")
            # The first of two duplicate keys is the one whose value was taken.
            _place(next_event(), _start(name), inner, next_event, {} if inner in positions else positions)
    elif isinstance(event, SequenceStartEvent):
        index = 0
        while not isinstance(item := next_event(), SequenceEndEvent):
            _place(item, _start(item), (*path, index), next_event, positions)
            index += 1

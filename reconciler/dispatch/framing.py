"""
Framing: finds the events of a CLI in its output.

A CLI writes each event at the beginning of a line, or one value over many
lines. Others print on the same terminal: progress that ends without a line
end, colours, warnings. What stands behind such is *spliced*; whoever reads it
decides whether to believe it. What stands within an event, or within one that
is broken, is never an event.
"""

import codecs
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import SEEK_END, BytesIO
from tempfile import TemporaryFile
from typing import Any, BinaryIO

from reconciler.core.text import harmless

OutputEvent = dict[str, Any]
Printed = bytes | BinaryIO
"""Output, or the file that holds it."""

MOST_EVENT = 8 * 2**20
"""Bytes of an event; a longer one is passed over."""
MOST_BLOCKS = 8
"""Most failed attempts to read a value over many lines."""

_START = re.compile(r"\{(?=\s*(?:[\"}]|$))|\[(?=\s*(?:\{|\]|$))")
"""Possible beginnings of JSON in a line."""
_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"|["{}\[\]]')
_DEPTHS = {"{": 1, "[": 1, "}": -1, "]": -1}
_DECODER = json.JSONDecoder()


def stream_of(printed: Printed) -> BinaryIO:
    """Return what was printed from its beginning."""
    if isinstance(printed, bytes):
        return BytesIO(printed)
    printed.seek(0)
    return printed


def end_of(printed: Printed, limit: int) -> bytes:
    """Return the last bytes of what was printed."""
    stream = stream_of(printed)
    stream.seek(max(0, stream.seek(0, SEEK_END) - limit))
    return stream.read(limit)


@contextmanager
def in_utf8(printed: Printed) -> Iterator[Printed]:
    """Give what was printed in UTF-8, where it was printed in UTF-16 or UTF-32; else as it is."""
    stream = stream_of(printed)
    encoding, start = _wide(stream.read(_LOOK))
    if encoding is None:
        yield printed
        return
    stream.seek(0)
    with TemporaryFile() as copy:
        copy.write(stream.read(start).rstrip(b"\xff\xfe\0"))
        decoder = codecs.getincrementaldecoder(encoding)("replace")
        while data := stream.read(_PIECE):
            copy.write(decoder.decode(data).encode("utf-8", "replace"))
        yield copy


def _wide(begin: bytes) -> tuple[str | None, int]:
    """Return in which encoding of two or four bytes a text is, and from where on; None if it is in none."""
    zero = begin.find(0)
    for line in (0, begin.rfind(b"\n", 0, max(zero, 0)) + 1):
        mark = next((mark for mark in _MARKS if begin.startswith(mark, line)), b"")
        zeros = _zeros(begin[line + len(mark) :])
        if encoding := _ZEROS.get(zeros):
            return encoding, line + len(mark)
    return None, 0


def _zeros(text: bytes) -> tuple[bool, ...]:
    """Return which of each four bytes are zeros in most places, at the beginning as everywhere."""
    return tuple(text[at : at + 1] == b"\0" and text[at::4].count(0) * 8 > len(text) for at in range(4))


_LOOK = 4096
_PIECE = 2**20
_MARKS = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_ZEROS: Mapping[tuple[bool, ...], str] = {
    (False, True, False, True): "utf-16-le",
    (True, False, True, False): "utf-16-be",
    (False, True, True, True): "utf-32-le",
    (True, True, True, False): "utf-32-be",
}
"""Which of four bytes are zeros, in most of the characters of an event."""


class Framer:
    """Takes an output line by line and passes its events on; buffers incomplete ones."""

    def __init__(self, give: Callable[[OutputEvent, bool], None]) -> None:
        """Begin. `give` is called with each event, and whether something else stands before it."""
        self._give = give
        self._block: list[str] = []
        """Lines of a value that goes on."""
        self._depth = self._size = self._blocks = 0
        self._is_spliced = False
        """Whether something stands before the value that goes on."""
        self.events = 0
        self.noise = 0
        """Lines without an event."""
        self.was_cut = False
        """The last line begins like an event, and there is none; or a value has no end."""

    def read(self, printed: Printed) -> None:
        """Take all of an output."""
        stream = stream_of(printed)
        while line := stream.readline(MOST_EVENT):
            if len(line) == MOST_EVENT and not line.endswith(b"\n"):
                self._parse_long_line(line, stream)
            else:
                self._take(line)
        self._end()

    def _parse_long_line(self, begun: bytes, stream: BinaryIO) -> None:
        """Parse a line that is longer than any event: it may contain one, behind progress output."""
        noise, events, is_passed_over = self.noise, self.events, False
        while begun:
            *parts, begun = begun.split(b"\r")
            for part in parts if not is_passed_over else parts[1:]:
                if b"{" in part or self._block:
                    self._take(part)
            is_passed_over = is_passed_over and not parts
            if begun.endswith(b"\n"):
                break
            if len(begun) >= MOST_EVENT:
                is_passed_over, begun = True, begun[:1]
            more = stream.readline(MOST_EVENT)
            if not more:
                break
            begun += more
        self.was_cut = False
        if begun and not is_passed_over:
            self._take(begun)
        self.noise = noise + (self.events == events)

    def _take(self, line: bytes, *, indented: bool = True) -> None:
        if self._block and self._continue_value(_plain(line)):
            return
        parts = [part for part in line.rstrip().split(b"\r") if part and not part.isspace()]
        if not parts:
            return
        has_event = sum(self._parse_part(part, indented=indented) for part in parts) > 0
        self.was_cut = not has_event and not self._block and _begins_json(parts[-1])
        self.noise += not has_event and not self._block

    def _parse_part(self, part: bytes, *, indented: bool) -> bool:
        """Pass on the events of a line, or of a part between two carriage returns."""
        if b"{" not in part or (not indented and part[:1] in b" \t"):
            return False
        if part.lstrip()[:1] in (b"{", b"["):
            try:
                return self._emit_all(json.loads(part), is_spliced=False)
            except (ValueError, RecursionError):
                pass
        return self._scan(_plain(part).strip())

    def _scan(self, text: str) -> bool:
        """Pass on the values of a line, in order, up to the first broken one."""
        at, spliced, has_event = 0, list[Any](), False
        is_spliced = False
        while match := _START.search(text, at):
            is_spliced |= bool(text[at : match.start()].strip())
            try:
                value, at = _DECODER.raw_decode(text, match.start())
            except json.JSONDecodeError as error:
                if error.pos >= len(text) - 1:
                    self._begin(text[match.start() :], is_spliced=is_spliced)
                break
            except (ValueError, RecursionError):  # a number of thousands of digits
                break
            if is_spliced:
                spliced.append(value)
            else:
                has_event |= self._emit_all(value, is_spliced=False)
        if not text[at:].strip():  # nothing may follow a spliced one: it would be a quotation
            has_event |= sum(self._emit_all(value, is_spliced=True) for value in spliced) > 0
        return has_event

    def _emit_all(self, value: Any, *, is_spliced: bool) -> bool:
        """Pass on a value, or those in an array; return whether there are any."""
        events = [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, dict)]
        self.events += len(events)
        for event in events:
            self._give(event, is_spliced)
        return bool(events)

    # --- Values over many lines ---------------------------------------------

    def _begin(self, text: str, *, is_spliced: bool) -> None:
        depth = _depth(text)
        if depth is not None and not self._block and self._blocks < MOST_BLOCKS:
            self._block, self._depth, self._size = [text], depth, len(text)
            self._is_spliced = is_spliced

    def _continue_value(self, text: str) -> bool:
        """Add a line to the unfinished value; return whether it belongs to it."""
        depth = _depth(text)
        self._size += len(text)
        is_other = text.startswith("{") and self._block[0].startswith("{")
        if depth is None or is_other or self._size > MOST_EVENT:
            self._give_up()
            return False
        self._block.append(text)
        self._depth += depth
        if self._depth <= 0:
            self._close()
        return True

    def _close(self) -> None:
        try:
            # One of an array whose beginning stands on a line of its own is followed by a comma.
            value = _DECODER.decode("\n".join(self._block).rstrip().removesuffix(","))
        except (ValueError, RecursionError):
            self._give_up()
            return
        self._block, self.was_cut = [], False
        self._emit_all(value, is_spliced=self._is_spliced)

    def _give_up(self) -> None:
        """Count the first line of a failed value as noise, and parse the others again."""
        self._blocks += 1
        self.noise += 1
        lines, self._block = self._block[1:], []
        self.was_cut = True
        for line in lines:
            self._take(line.encode(), indented=False)

    def _end(self) -> None:
        while self._block:
            self._give_up()


def _depth(text: str) -> int | None:
    """Return how many values a line opens and does not close; None if a text in it has no end."""
    depth = 0
    for match in _TOKENS.finditer(text):
        if match[0] == '"':
            return None
        depth += _DEPTHS.get(match[0], 0)
    return depth


def last_object(text: bytes) -> list[OutputEvent]:
    """Return the JSON object that a text ends with, of one line or many; none if there is none."""
    end = f"\n{_plain(text).rstrip()}"
    start = len(end)
    for _ in range(MOST_BLOCKS):
        start = end.rfind("\n{", 0, start)
        if start < 0:
            return []
        try:
            value = json.loads(end[start:])
        except (ValueError, RecursionError):
            continue
        return [value]
    return []


def _begins_json(text: bytes) -> bool:
    """Tell whether a text begins like an object or an array, behind what a terminal would swallow."""
    return _plain(text[:1024]).lstrip().startswith(("{", "["))


def _plain(text: bytes) -> str:
    return harmless(text.decode("utf-8", "replace")).rstrip("\n")

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
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import SEEK_END, BytesIO
from tempfile import TemporaryFile
from typing import Any, BinaryIO, Protocol

from reconciler.core.text import harmless, is_harmless

OutputEvent = dict[str, Any]
Printed = bytes | BinaryIO
"""Output, or the file that holds it."""

MOST_EVENT = 8 * 2**20
"""Bytes of an event; a longer one is passed over."""
MOST_BLOCKS = 8
"""Most failed attempts to read a value over many lines."""
MOST_NOISE = 10_000
"""Lines without an event that are counted; of more, only those are parsed that a rule may ask for."""
MOST_BATCH = 4096
"""Most lines that are parsed at once."""
_LINES = 256 * 1024
"""Bytes that are read at once."""
_LIGHT, _HEAVY = 512 * 1024, 32 * 2**20
"""Characters of JSON that never take much memory, and bytes that a parsed value may take."""
_DOUBT = 16
_BETWEEN_ELEMENTS = 16
"""More characters than stand between two elements of an array."""
_LINE = 64
"""Overhead of a line that is kept, in bytes."""

_START = re.compile(r"\{(?=\s*(?:[\"}]|$))|\[(?=\s*(?:\{|\]|$))")
"""Possible beginnings of JSON in a line."""
_CLOSE = re.compile(rb"[\]}][^\]}\[{\"]*\Z")
"""The end of a value, and perhaps of a colour."""
_ARRAY = re.compile(rb"\s*\[\s*\{")
_ELEMENT = re.compile(r"\s*,\s*(?=\{)")
_PARTS = re.compile(rb"[^\r]+")
"""What stands between two carriage returns."""
_LEXICAL = re.compile(r'(?:[^"A-Za-z]|"(?:[^"\\]|\\.)*+"|true|false|null|NaN|Infinity)*+')
"""Text that may be JSON."""
_BARE = re.compile(rb"[\[{](?:[^0-9A-Za-z\x1b}]|\x1b\[[0-?]*[ -/]*[@-~])*+(?:\}|\x1b|.?\s*$)", re.DOTALL)
"""An object without a name in it, or one that goes on."""
_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"|["{}\[\]]')
_AROUND = " \t\n"
_SPACE = " \t\n\r\x0b\x0c"
_BLANK_LINE = re.compile(rf"\n[{_SPACE}]*\n")
_LINE_ENDS = re.compile(rf"\n[{_SPACE}]*+")
_NO_OBJECT = r"[^{\n]*\n"
_NO_WHOLE_OBJECT = r"(?:[^{\n]*|[^}\n]*)\n"
_OBJECT = r"[ \t]*\{[^\n]*\}[ \t]*,?[ \t]*\n"
_CLOSED = r"[^\n]*[^,:\[{\s][^\S\n]*+\n"
_RUNS = {
    (without_blocks, in_noise): re.compile(
        rf"(?P<noise>(?>{_NO_WHOLE_OBJECT if without_blocks else _NO_OBJECT})++)|(?P<events>(?>{_OBJECT})++)"
        + (rf"|(?P<prose>(?>{_CLOSED})++)" if in_noise else "")
    )
    for without_blocks in (False, True)
    for in_noise in (False, True)
}
"""Lines that hold no event, that look like one each, and in much noise those with which none begins."""
_NOISE_OR_LINE = re.compile(rb"(?P<noise>(?>[^{\n]*\n)++)|[^\n]*\n|[^\n]+")
_DEPTHS = {"{": 1, "[": 1, "}": -1, "]": -1}
_DECODER = json.JSONDecoder()
_MARK = int.from_bytes(os.urandom(7), "big") + 2**56
_BETWEEN = f",{_MARK},"
"""Stands between lines that are parsed as one array, so that none is taken for a part of another."""
_TEXTS = re.compile(r'"(?:[^"\\]|\\.)*+"')


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


class Give(Protocol):
    """Takes events as they are found."""

    def __call__(
        self, events: Sequence[OutputEvent], lines: Sequence[str] | None = None, *, is_spliced: bool = False
    ) -> None:
        """Take events in their order; `lines` are their texts, one each, if these are known."""


class Framer:
    """Takes an output piece by piece and passes its events on; buffers incomplete ones."""

    def __init__(self, give: Give, is_wanted: Callable[[str], bool] = lambda _: True) -> None:
        """Begin. `give` is called with all events; `is_wanted` tells of a line whether its event matters."""
        self._give = give
        self._is_wanted = is_wanted
        self._found: list[OutputEvent] = []
        self._texts: list[str] = []
        """Events that were not passed on yet, and their texts."""
        self._rest = ""
        """What begins like a value that goes on in the next piece."""
        self._batch = MOST_BATCH
        """Lines that are parsed at once: few where some of them fail."""
        self._doubt = 0
        """How many values over several lines are to be read before the next is believed to be one."""
        self._block: list[str] = []
        """Lines of a value that goes on, as far as it is read line by line."""
        self._depth = self._size = self._blocks = 0
        self._is_spliced = False
        """Whether something stands before the value that goes on."""
        self.events = 0
        self.noise = 0
        """Lines without an event; counted up to `MOST_NOISE`."""
        self.was_cut = False
        """The last line begins like an event, and there is none; or a value has no end."""

    def read(self, printed: Printed) -> None:
        """Take all of an output."""
        stream = stream_of(printed)
        while piece := stream.read(min(max(_LINES, len(self._rest)), MOST_EVENT)):
            whole, newline, begun = piece.rpartition(b"\n")
            begun += stream.readline(MOST_EVENT - len(begun)) if begun else b""
            if len(begun) <= min(_LIGHT, MOST_EVENT - 1):
                self._take_lines(whole + newline + begun)
                continue
            self._take_lines(whole + newline)
            self._end_rest()
            is_whole = len(begun) < MOST_EVENT or begun.endswith(b"\n")
            if not self._block and (_is_array(begun) if is_whole else _ARRAY.match(begun)):
                self._read_array(begun, BytesIO() if is_whole else stream)
            elif is_whole:
                self._take(begun)
            else:
                self._parse_long_line(begun, stream)
        self._end_rest()
        self._end()

    def _read_array(self, begun: bytes, stream: BinaryIO) -> None:
        """Pass on the events of an array on one line that takes much memory as a whole, one by one."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        text, events, more = decoder.decode(begun), self.events, begun
        at = text.index("{")
        while True:
            try:
                value, end = _DECODER.raw_decode(text, at)
            except (ValueError, RecursionError):  # or it goes on in what follows
                more = b"" if more.endswith(b"\n") else stream.readline(max(_LINES, len(text) - at))
                if not more or len(text) - at >= MOST_EVENT:
                    end = len(text)
                    break
                text, at = text[at:] + decoder.decode(more), 0
                continue
            self._emit_all(value, is_spliced=False, text=text[at:end])
            if len(self._found) >= MOST_BATCH:
                self._pass_on()
            while len(text) - end < _BETWEEN_ELEMENTS and more and not more.endswith(b"\n"):
                more = stream.readline(_LINES)
                text, end = text[end:] + decoder.decode(more), 0
            if not (match := _ELEMENT.match(text, end)):
                break
            at = match.end()
        self._pass_on()
        self.was_cut = not text[end:].lstrip().startswith("]")
        self._count_noise(self.events == events)
        while more and not more.endswith(b"\n"):
            more = stream.readline(MOST_EVENT)

    def _parse_long_line(self, begun: bytes, stream: BinaryIO) -> None:
        """Parse a line that is longer than any event: it may contain one, behind progress output."""
        noise, events, is_passed_over = self.noise, self.events, False
        while begun:
            end = begun.rfind(b"\r") + 1
            begin = begun.find(b"\r") + 1 if is_passed_over else 0
            for part in _PARTS.finditer(begun, begin, end):
                if b"{" in part[0] or self._block:
                    self._take(part[0])
            is_passed_over = is_passed_over and not end
            begun = begun[end:]
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

    # --- Many lines at once ---------------------------------------------------

    def _take_lines(self, piece: bytes) -> None:
        """Take whole lines: many at once where nothing is to be taken out of them first."""
        text = _clear_text(piece)
        if text is not None and not _is_heavy(self._rest + text):
            self._take_text(self._rest + text)
            return
        self._end_rest()
        if self.is_mostly_noise and not self._block and not self._is_wanted(piece.decode("utf-8", "replace")):
            piece = piece[piece.rfind(b"\n", 0, -1) + 1 :]  # the last line tells whether the output was cut
        for match in _NOISE_OR_LINE.finditer(piece):
            if match.lastgroup == "noise" and not self._block:
                self._pass_over(match[0].decode("utf-8", "replace"))
            else:
                for line in BytesIO(match[0]):
                    self._take(line)

    def _take_text(self, text: str) -> None:
        """Take whole lines of plain text; one value that goes on in the next piece is left for then."""
        self._rest, at = "", 0
        while at < len(text) and not self._rest:
            if self._block:
                at = self._take_line(text, at)
                continue
            run = self._runs.match(text, at)
            if run is None:
                at = self._take_value(text, at)
            elif run.lastgroup == "noise":
                self._pass_over(run[0])
                at = run.end()
            elif run.lastgroup == "prose" or (self.is_mostly_noise and not self._is_wanted(run[0])):
                at += self._take_prose(run[0])
            else:
                at += self._take_events(run[0])
        self._pass_on()

    @property
    def _runs(self) -> re.Pattern[str]:
        return _RUNS[self._blocks >= MOST_BLOCKS, self.is_mostly_noise]

    @property
    def is_mostly_noise(self) -> bool:
        """Whether so much is noise that only those lines are parsed that a rule may ask for."""
        return self.noise >= MOST_NOISE

    def _take_line(self, text: str, at: int) -> int:
        end = _line_end(text, at)
        self._take(text[at:end].encode())
        return end

    def _pass_over(self, lines: str) -> None:
        """Count lines that hold no event."""
        text = lines.strip(_SPACE)
        if not text:
            return
        has_blank = _BLANK_LINE.search(text) is not None
        self._count_noise(1 + (len(_LINE_ENDS.findall(text)) if has_blank else text.count("\n")))
        last = text[text.rfind("\n") + 1 :].rpartition("\r")[2]
        self.was_cut = harmless(last[:1024]).lstrip().startswith(("{", "["))

    def _count_noise(self, lines: int = 1) -> None:
        self.noise = min(self.noise + lines, MOST_NOISE)

    def _take_prose(self, run: str) -> int:
        """Take those lines that a rule may ask for; return how many characters were taken."""
        lines, done = run[:-1].split("\n"), 0
        is_any_wanted = self._is_wanted(run)
        for number, line in enumerate(lines, 1):
            # The last one tells whether the output was cut; and what is quoted is no event.
            is_open = line.rstrip()[-1:] in "]}" or line.lstrip()[:1] in "[{"
            if number == len(lines) or (is_any_wanted and is_open and self._is_wanted(line)):
                self._take(line.encode())
            done += len(line) + 1
            if self._block:
                break
        return done

    def _take_events(self, run: str) -> int:
        """Take lines that look like an object each; return how many characters were taken."""
        lines, at, done = run[:-1].split("\n"), 0, 0
        while at < len(lines) and not self._block:
            batch = lines[at : at + self._batch]
            if self._batch == 1:
                self._take_doubtful(batch[0])
            elif not self._parse_batch(batch):
                self._batch = max(1, len(batch) // 16)
                continue
            else:
                self._batch = min(2 * self._batch, MOST_BATCH)
            at += len(batch)
            done += sum(map(len, batch)) + len(batch)
        return done

    def _parse_batch(self, lines: Sequence[str]) -> bool:
        """Pass on the events of lines, if each of them is one."""
        lines = [line.rstrip().removesuffix(",").strip(_AROUND) for line in lines]
        try:
            values = json.loads(f"[{_BETWEEN.join(lines)}]")
        except (ValueError, RecursionError):
            return False
        events = values[::2]
        if len(values) != 2 * len(lines) - 1 or values[1::2] != [_MARK] * (len(lines) - 1):
            return False  # a value over several lines, or several on one
        self.was_cut = False
        self.events += len(events)
        self._pass_on()
        self._give(events, lines)
        return True

    def _take_doubtful(self, line: str) -> None:
        """Take a line between others that look like an object and are none."""
        if _is_broken(line):
            self.was_cut = True
            self._count_noise()
            return
        events = self.events
        self._take(line.encode())
        if self.events > events and not self._block:
            self._batch = 4

    def _take_value(self, text: str, at: int) -> int:
        """Take one line, or the lines of one value; return where the next one begins."""
        end = _line_end(text, at)
        start = end - len(text[at:end].lstrip())
        if self._blocks >= MOST_BLOCKS or not text.startswith(("{", "["), start):
            return self._take_line(text, at)
        # An error in a long text takes longer than one in a line: after one, the line is tried first.
        after = self._take_line(text, at) if self._doubt else 0
        if after and not self._block:
            self._blocks += self.is_mostly_noise
            return after
        read_to = self._parse_value(text, at, start)
        self._doubt = max(0, self._doubt - 1) if read_to else _DOUBT
        if read_to:
            self._block = []
        else:
            self._blocks += self.is_mostly_noise
        return read_to or after or self._take_line(text, at)

    def _parse_value(self, text: str, at: int, start: int) -> int:
        """Pass on the value that begins here; return where the next line begins, 0 if there is none."""
        try:
            value, end = _DECODER.raw_decode(text, start)
        except json.JSONDecodeError as error:
            goes_on = error.pos >= len(text) - 1 and len(text) - at < MOST_EVENT
            self._rest = text[at:] if goes_on else ""
            return len(text) if goes_on else 0
        except (ValueError, RecursionError):
            return 0
        after = _line_end(text, end)
        is_other = text[start] == "{" and text.find("\n{", start, end) >= 0
        behind = text[end:after].rstrip().removesuffix(",").rstrip(_AROUND)
        if is_other or behind or end - start > MOST_EVENT:
            return 0
        self.was_cut = False
        self._emit_all(value, is_spliced=False, text=text[start:end])
        return after

    def _end_rest(self) -> None:
        """Take what was left for the next piece line by line."""
        lines, self._rest = BytesIO(self._rest.encode()), ""
        for line in lines:
            self._take(line)

    # --- Line by line -----------------------------------------------------------

    def _take(self, line: bytes, *, indented: bool = True) -> None:
        if self._block and self._continue_value(_plain(line)):
            return
        if _is_heavy(line):
            self.was_cut = False
            self._count_noise()
            return
        last, has_event = b"", False
        for part in _PARTS.finditer(line.rstrip()):
            if not part[0].isspace():
                last = part[0]
                has_event |= self._parse_part(last, indented=indented)
        if not last:
            return
        self.was_cut = not has_event and not self._block and _begins_json(last)
        self._count_noise(not has_event and not self._block)

    def _parse_part(self, part: bytes, *, indented: bool) -> bool:
        """Pass on the events of a line, or of a part between two carriage returns."""
        if b"{" not in part or (not indented and part[:1] in b" \t"):
            return False
        if b'"' not in part and not _BARE.search(part):
            return False
        if b"}" not in part and self._blocks >= MOST_BLOCKS:
            return False
        if _is_closed(part):  # a value of the line as it was printed
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

    def _emit_all(self, value: Any, *, is_spliced: bool, text: str = "") -> bool:
        """Pass on a value, read from `text`, or those in an array; return whether there are any."""
        events = [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, dict)]
        self.events += len(events)
        if text and len(events) == 1 and not is_spliced:
            self._found += events
            self._texts.append(text)
        elif events:
            self._pass_on()
            self._give(events, is_spliced=is_spliced)
        return bool(events)

    def _pass_on(self) -> None:
        """Pass on the events that were found one by one."""
        events, texts = self._found, self._texts
        self._found, self._texts = [], []
        if events:
            self._give(events, texts)

    # --- Values over many lines ---------------------------------------------

    def _begin(self, text: str, *, is_spliced: bool) -> None:
        depth = _depth(text)
        if depth is not None and not self._block and self._blocks < MOST_BLOCKS:
            self._block, self._depth, self._size = [text], depth, len(text)
            self._is_spliced = is_spliced

    def _continue_value(self, text: str) -> bool:
        """Add a line to the unfinished value; return whether it belongs to it."""
        depth = _depth(text)
        self._size += len(text) + _LINE
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
            value = _decode("\n".join(self._block).rstrip().removesuffix(","))
        except (ValueError, RecursionError):
            self._give_up()
            return
        self._block, self.was_cut = [], False
        self._emit_all(value, is_spliced=self._is_spliced)

    def _give_up(self) -> None:
        """Count the first line of a failed value as noise, and parse the others again."""
        self._blocks += 1
        self._count_noise()
        lines, self._block = self._block[1:], []
        self.was_cut = True
        for line in lines:
            self._take(line.encode(), indented=False)

    def _end(self) -> None:
        while self._block:
            self._give_up()


def _is_closed(part: bytes) -> bool:
    """Tell whether a line begins and ends like a value; of a plain short object that need not be known."""
    text = part.strip()
    if text[:1] not in (b"{", b"[") or not (text.endswith((b"}", b"]")) or _CLOSE.search(text)):
        return False
    return text[:1] == b"[" or len(text) > _LIGHT or not _is_plain(text)


def _is_plain(text: bytes) -> bool:
    try:
        return is_harmless(text)
    except UnicodeDecodeError:
        return False


def _is_broken(line: str) -> bool:
    """Tell whether a line begins with an object that is certainly broken; quicker than to parse it."""
    last = _LEXICAL.match(line)
    end = last.end() if last else 0
    return line.lstrip().startswith('{"') and end < len(line) - 1 and line.find("}", 0, end) < 0


def _depth(text: str) -> int | None:
    """Return how many values a line opens and does not close; None if a text in it has no end."""
    depth = 0
    for match in _TOKENS.finditer(text):
        if match[0] == '"':
            return None
        depth += _DEPTHS.get(match[0], 0)
    return depth


def _clear_text(piece: bytes) -> str | None:
    """Return lines as text; None if something is in them that a terminal would obey, or that is no text."""
    lines = piece.replace(b"\r\n", b"\n")
    try:
        if not is_harmless(lines):
            return None
    except UnicodeDecodeError:
        return None
    text = lines.decode()
    return text if text.endswith("\n") else f"{text}\n"


def _is_heavy(text: str | bytes) -> bool:
    """Tell whether JSON of many small values would take far more memory than its text."""
    if len(text) <= _LIGHT:
        return False
    outside = _TEXTS.sub("", text.decode("utf-8", "replace") if isinstance(text, bytes) else text)
    return sum(map(outside.count, ",[{")) * _VALUE > _HEAVY


_VALUE = 80
"""Bytes that a small value takes, about."""


def _is_array(line: bytes) -> bool:
    """Tell whether a line is an array of objects from its beginning to its end."""
    begin = _ARRAY.match(line)
    if not begin:
        return False
    text, at = line.decode("utf-8", "replace"), begin.end() - 1
    try:
        while True:
            _, end = _DECODER.raw_decode(text, at)
            if not (match := _ELEMENT.match(text, end)):
                return text[end:].strip() == "]"
            at = match.end()
    except (ValueError, RecursionError):
        return False


def _line_end(text: str, at: int) -> int:
    """Return where the next line begins."""
    return text.find("\n", at) + 1 or len(text)


def _decode(text: str) -> Any:
    """Return the value of JSON. Raises ValueError and RecursionError."""
    if _is_heavy(text):
        raise ValueError("too many values")
    return _DECODER.decode(text)


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

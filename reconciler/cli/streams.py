"""
Output streams: the only place where output leaves the process.

Nothing that a terminal would obey gets through but our own colours; what an
encoding does not have is escaped; and whether anybody reads it is no matter of
life for what reconciles.
"""

import codecs
import errno
import io
import logging
import os
import queue
import re
import select
import sys
import threading
import time
from contextlib import suppress
from typing import TextIO

from reconciler.core.text import harmless

_COLOUR = re.compile(r"(\x1b\[[0-9;]*m)")
_ESCAPED = "escaped"
"""Name of our error handler for characters that an encoding lacks."""
_MOST_LINES = 10_000
"""Lines that are buffered for a slow reader; further ones are dropped."""
_LAST_LINES = 1.0
"""Seconds for writing buffered lines at the end."""


class OutputLost(Exception):
    """Output cannot be written any more: the reader is gone, or the disk is full."""

    def __init__(self, error: OSError) -> None:
        """Store the cause."""
        self.is_unread = error.errno == errno.EPIPE
        super().__init__(f"the output cannot be written: {error.strerror}")


def guard() -> None:
    """Wrap stdout and stderr of the process."""
    for number in (0, 1, 2):
        _reopen(number)
    codecs.register_error(_ESCAPED, _escape)
    sys.stdout = SafeText.over(sys.stdout, 1, is_needed=True)
    sys.stderr = SafeText.over(sys.stderr, 2, is_needed=False)


def mute() -> None:
    """Discard further output on stdout, with its buffer, which could not be written either."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def is_unread(number: int = 1) -> bool:
    """Return whether a stream is a pipe that nobody reads any more."""
    poll = select.poll()
    try:
        poll.register(number, 0)
        return any(events & (select.POLLERR | select.POLLNVAL) for _, events in poll.poll(0))
    except OSError:
        return False


def can_write(text: str, stream: TextIO) -> bool:
    """Return whether a stream's encoding has all characters of a text."""
    try:
        text.encode(stream.encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


class SafeText(io.TextIOWrapper):
    """Text that goes to a terminal, a file or a pipe."""

    is_needed = True
    """Whether a command that cannot write here has failed."""

    @classmethod
    def over(cls, stream: TextIO | None, number: int, *, is_needed: bool) -> "SafeText":
        """Return a safe stream in place of another one, or of a closed one."""
        encoding = (stream.encoding if stream else None) or "utf-8"
        binary = stream.detach() if isinstance(stream, io.TextIOWrapper) else open(number, "wb")  # noqa: SIM115
        if codecs.lookup(encoding).name == "ascii":  # as on a machine without a locale
            encoding = "utf-8"
        is_by_line = binary.isatty() or not is_needed
        made = cls(binary, encoding=encoding, errors=_ESCAPED, line_buffering=is_by_line)
        made.is_needed = is_needed
        return made

    def write(self, text: str) -> int:
        """Write the sanitized text. Raises OutputLost."""
        try:
            super().write(clean(text, keeps_colours=self.isatty()))
        except OSError as error:
            self._fail(error)
        return len(text)

    def flush(self) -> None:
        """Flush the buffer. Raises OutputLost."""
        try:
            super().flush()
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        if self.is_needed:
            raise OutputLost(error) from None


class LineWriter:
    """
    Asynchronous line writer: never blocks on a slow reader.

    Lines are written by a thread of their own, past all buffers. Those that
    cannot be written are lost, and nothing else is.
    """

    def __init__(self) -> None:
        """Begin."""
        self._lines: queue.Queue[tuple[int, bytes] | None] = queue.Queue(_MOST_LINES)
        self._lost = 0
        self._gone: set[int] = set()
        self._thread = threading.Thread(target=self._write_on, name="output", daemon=True)
        self._thread.start()

    def tell(self, text: str, *, err: bool = False) -> None:
        """Queue a line."""
        stream = sys.stderr if err else sys.stdout
        try:
            number = stream.fileno()
        except (AttributeError, OSError, ValueError):  # in a test, or closed
            with suppress(OSError, ValueError, AttributeError):
                stream.write(f"{harmless(text)}\n")
            return
        with suppress(queue.Full):
            if self._lost:
                message = f"[{self._lost} lines were lost: nobody read them]\n"
                self._lines.put_nowait((number, message.encode()))
                self._lost = 0
            self._lines.put_nowait((number, _encoded(f"{harmless(text)}\n", stream)))
            return
        self._lost += 1

    def close(self) -> None:
        """Write queued lines, with a time limit."""
        with suppress(queue.Full):
            self._lines.put_nowait(None)
        self._thread.join(_LAST_LINES)

    def _write_on(self) -> None:
        while (line := self._lines.get()) is not None:
            number, data = line
            if number not in self._gone:
                self._write(number, data)

    def _write(self, number: int, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(number, data) :]
            except BlockingIOError:
                select.select([], [number], [])
            except OSError as error:
                if error.errno != errno.ENOSPC:  # a disk may have room again
                    self._gone.add(number)
                return


class LogHandler(logging.Handler):
    """Log handler that writes through a `LineWriter`, with date and zone if nothing else is asked for."""

    def __init__(self, line_writer: LineWriter, formatter: logging.Formatter | None = None) -> None:
        """Write to the given line writer."""
        super().__init__()
        self._line_writer = line_writer
        plain = logging.Formatter("%(asctime)s  %(levelname)s  %(message)s", "%Y-%m-%dT%H:%M:%SZ")
        plain.converter = time.gmtime
        self.setFormatter(formatter or plain)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        self._line_writer.tell(self.format(record), err=True)


def _reopen(number: int) -> None:
    """Open a standard stream that was closed, so that no file of ours gets its number."""
    try:
        os.fstat(number)
    except OSError:
        opened = os.open(os.devnull, os.O_RDWR)
        if opened != number:
            os.dup2(opened, number)
            os.close(opened)


def clean(text: str, *, keeps_colours: bool) -> str:
    """Return a text without what a terminal would obey, but for colours."""
    if not keeps_colours:
        return harmless(text)
    return "".join(part if number % 2 else harmless(part) for number, part in enumerate(_COLOUR.split(text)))


def _encoded(text: str, stream: TextIO) -> bytes:
    try:
        return text.encode(stream.encoding or "utf-8", stream.errors or "backslashreplace")
    except (UnicodeEncodeError, LookupError):
        return text.encode("utf-8", "backslashreplace")


def _escape(error: UnicodeError) -> tuple[str, int]:
    r"""Escape what an encoding lacks as JSON does, `\u2192`: in JSON it means the same still."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    message = (f"\\u{units[at] << 8 | units[at + 1]:04x}" for at in range(0, len(units), 2))
    return "".join(message), error.end

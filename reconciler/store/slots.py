"""
Slot files: a small value that is replaced durably again and again, by one sync of its content each time.

To put a file in the place of another takes two syncs, of its content and its name, and the disk writes its
journal for both. Here two slots of one file, a line each, are written in turn: what a loss of power tears is
the one, and the other has the value from before.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from reconciler.files import replace_durably

SLOT = 4096
"""Bytes of a slot: a block of the disk."""
_LINE = re.compile(rb"([0-9]{1,18}) ([0-9a-f]{32}) (.*?) *\n", re.DOTALL)
_sync = getattr(os, "fdatasync", os.fsync)  # macOS has no such


class _Slot(NamedTuple):
    number: int
    """The larger, the newer."""
    at: int
    value: bytes


def read_slots(content: bytes) -> bytes | None:
    """Return the value in the content of a slot file; None if it is none, or no slot of it is whole."""
    newest = max(_whole(content), default=None)
    return newest.value if newest else None


def write_slot(path: Path, value: bytes, *, is_synced: bool) -> None:
    """
    Replace the value of a slot file durably; it is made if there is none.

    What the file says may be in memory only, after a sync that failed or a writer that was killed
    before it: the slot from before is then all that the disk has. So it is written over only if
    the caller knows the value to be on the disk (`is_synced`); else a new file takes its place.
    A value is a line without spaces at its end. Raises OSError, and ValueError for one that is too long.
    """
    content = path.read_bytes() if path.is_file() else b""
    newest = max(_whole(content), default=None)
    if not is_synced or newest is None or len(content) != 2 * SLOT or path.is_symlink():
        replace_durably(path, _line(newest.number + 1 if newest else 1, value) + b" " * SLOT)
        return
    line = _line(newest.number + 1, value)
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if os.pwrite(descriptor, line, SLOT - newest.at) < SLOT:
            raise OSError(0, "was not written whole", str(path))
        _sync(descriptor)
    finally:
        os.close(descriptor)


def _whole(content: bytes) -> Iterator[_Slot]:
    for at in (0, SLOT):
        match = _LINE.fullmatch(content[at : at + SLOT])
        if match and match[2] == _sum(int(match[1]), match[3]):
            yield _Slot(int(match[1]), at, match[3])


def _line(number: int, value: bytes) -> bytes:
    line = b"%d %s %s" % (number, _sum(number, value), value)
    if len(line) >= SLOT:
        raise ValueError(f"{len(value)} bytes are too many for a slot")
    return line.ljust(SLOT - 1) + b"\n"


def _sum(number: int, value: bytes) -> bytes:
    return hashlib.sha256(b"%d %s" % (number, value)).hexdigest()[:32].encode()

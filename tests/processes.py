"""What runs on this machine, read from `/proc`.

Any process may be gone between two steps of reading it, and every step then
fails in a way of its own: `FileNotFoundError` from opening a file,
`ProcessLookupError` from reading or only from looking for one. Who is gone is
nobody here.
"""

import contextlib
import os
import time
from pathlib import Path

_PROC = Path("/proc")
_DYING = 30.0
"""Seconds after which a process was not killed."""


def with_word(word: str) -> list[int]:
    """Return the processes, other than this one, whose command line holds a word."""
    found = [pid for pid in _pids() if word.encode() in _read(pid, "cmdline") and is_alive(pid)]
    return [pid for pid in found if pid != os.getpid()]


def left_with_word(word: str) -> list[int]:
    """
    Return the processes with a word that are there to stay.

    Who was killed may live until the kernel comes to it, after whoever killed it went on.
    """
    until = time.monotonic() + _DYING
    while (there := with_word(word)) and time.monotonic() < until:
        time.sleep(0.01)
    return there


def with_variable(name: str, value: str) -> list[int]:
    """Return the processes that were begun with a variable of that value."""
    return [pid for pid in _pids() if f"{name}={value}".encode() in _read(pid, "environ").split(b"\0")]


def is_alive(pid: int) -> bool:
    """Tell whether a process has not ended, waited for or not."""
    return _read(pid, "stat").rpartition(b") ")[2][:1] not in (b"", b"Z")


def is_sshd(pid: int) -> bool:
    """Tell whether a process serves a connection of SSH, and is nothing that was started over it."""
    return _read(pid, "cmdline").startswith(b"sshd: ")


def children(pid: int) -> list[int]:
    """Return the processes that the first thread of a process began."""
    return [int(child) for child in _read(pid, f"task/{pid}/children").split()]


def _pids() -> list[int]:
    return [int(folder.name) for folder in _PROC.iterdir() if folder.name.isdigit()]


def _read(pid: int, file: str) -> bytes:
    with contextlib.suppress(OSError):
        return (_PROC / str(pid) / file).read_bytes()
    return b""

"""
Secrets from the environment of this process, hidden from the processes that it starts.

Whoever runs as the same user can read `/proc/<pid>/environ`: the memory that
held the environment at the start, whatever was taken out of it since. So a
secret is wiped there, and other processes inherit none of it; and the rest of
our memory is closed to them.
"""

import ctypes
import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

_taken: dict[str, str] = {}
_PR_SET_DUMPABLE = 4
_NEEDED = frozenset({"PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "CREDENTIALS_DIRECTORY"})
"""Never treated as secrets: nothing works without them."""
_ENV_START, _ENV_END = 47, 48
"""Fields of /proc/<pid>/stat behind the name of the program: 50 and 51 of proc_pid_stat(5)."""


def value(name: str) -> str | None:
    """Return a variable that was taken out of the environment, or is still in it; None if there is none."""
    return os.environ.get(name, _taken.get(name))


def take(names: Iterable[str]) -> Mapping[str, str]:
    """Take variables out of the environment, so that only `value` has them; return those that were set."""
    wanted = [name for name in names if name in os.environ and name not in _NEEDED]
    values = {name: os.environ.pop(name) for name in wanted}
    _taken.update(values)
    if values:
        _wipe(values)
    return values


def close_memory() -> None:
    """
    Forbid other processes of our user to read our memory, where the system supports it (Linux).

    Child processes are not affected: the flag is reset by exec.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _wipe(values: Iterable[str]) -> None:
    """Overwrite values in the memory that the kernel shows as our initial environment."""
    if sys.platform != "linux":
        return
    with suppress(OSError, ValueError, IndexError):
        stat = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace")
        fields = stat.rpartition(")")[2].split()
        start, end = int(fields[_ENV_START]), int(fields[_ENV_END])
        if not 0 < start < end:
            return
        memory = ctypes.string_at(start, end - start)
        at = 0
        for entry in memory.split(b"\0"):
            name, equals, text = entry.partition(b"=")
            if equals and os.fsdecode(name) in values:
                ctypes.memset(start + at + len(name) + 1, 0, len(text))
            at += len(entry) + 1

"""
Writer lock: one process at a time writes a branch, and others can see which.
"""

import asyncio
import fcntl
import os
from contextlib import suppress
from pathlib import Path

from reconciler.core.errors import UsageError

_PATIENCE = 0.05
_TRIES = 100
"""Seconds between two looks at a lock, and how many looks it gets: a killed writer's git ends within that."""


async def acquire(path: Path, branch: str) -> int:
    """Return a descriptor that holds the lock file, once no other process does."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    for _ in range(_TRIES):
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.pwrite(lock, b"%-20d\n" % os.getpid(), 0)
            return lock
        if _is_alive(_holder(lock)):
            break
        await asyncio.sleep(_PATIENCE)
    holder = _holder(lock)
    os.close(lock)
    raise UsageError(
        f"another reconciler (pid {holder}) writes to {branch} of this repository; "
        f"leave it to that one, or end it first (`kill {holder}`)"
    )


def lock_file(git_dir: Path, branch: str) -> Path:
    """Return the file that the writer of a branch holds locked."""
    return git_dir / f"reconciler-{branch.replace('/', '%')}.pid"


def lock_holder(path: Path) -> int | None:
    """Return the process that holds a writer's lock (0: not known which); None if nobody does."""
    try:
        lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _holder(lock)
    finally:
        os.close(lock)
    return None


def _holder(lock: int) -> int:
    written = os.pread(lock, 20, 0).strip()
    return int(written) if written.isdigit() else 0


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid != 0

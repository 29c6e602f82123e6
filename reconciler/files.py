"""
Files that are never half written, and outlast a loss of power: what is said to be there is on the disk.
"""

import os
from pathlib import Path
from typing import BinaryIO


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on disk: who syncs a file syncs what is in it, and not that it is there."""
    _sync(folder, os.O_DIRECTORY)


def sync_file(path: Path) -> None:
    """Have the content of a file on disk, whoever wrote it. Raises OSError."""
    _sync(path, 0)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush(file: BinaryIO) -> None:
    """Sync by the descriptor that was written to: it is told of what failed to be written."""
    file.flush()
    os.fsync(file.fileno())


def write_synced(path: Path, content: bytes) -> None:
    """Write a file and sync its content; its name is on disk after `sync_folder`. Raises OSError."""
    with path.open("wb") as file:
        file.write(content)
        _flush(file)


def replace_atomically(path: Path, content: bytes, *, mode: int = 0o666, durable: bool = False) -> None:
    """
    Replace a file as a whole or not at all: who reads meanwhile finds what was there, or this.

    `mode` is of the new file, within the umask. If it is `durable`, it is on
    disk when this returns. Raises OSError.
    """
    fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
    fresh.unlink(missing_ok=True)  # of a process that died, and had the same number
    try:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            if durable:
                _flush(file)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
    if durable:
        sync_folder(path.parent)


def replace_durably(path: Path, content: bytes) -> None:
    """Replace a file as a whole or not at all, on disk when this returns. Raises OSError."""
    replace_atomically(path, content, durable=True)

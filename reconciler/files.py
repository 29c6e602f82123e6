"""
Durable files: atomic writes that survive a loss of power, and reads that survive damage.
"""

import asyncio
import json
import os
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from threading import Thread
from typing import Any, BinaryIO, TypeVar

T = TypeVar("T")


def parse_json(text: str | bytes) -> Any:
    """Parse JSON that may be damaged. Raises ValueError, also for what is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


async def read_in_time(read: Callable[[], T], name: str, seconds: float) -> T:
    """
    Read a file that a spec names, by a function that blocks, in a thread of its own.

    A file that never answers, such as a named pipe without a writer or a mount
    that is gone, then holds none of the threads that all share, nor the end of
    the process. Raises what the function does, and OSError after `seconds`.
    """
    content = Future[T]()
    content.set_running_or_notify_cancel()  # so that its thread may settle it whenever it comes back
    Thread(target=_settle, args=(content, read), daemon=True).start()
    try:
        async with asyncio.timeout(seconds):
            return await asyncio.wrap_future(content)
    except TimeoutError:
        raise OSError(0, f"did not answer within {seconds:g} s", name) from None


def _settle(content: Future[T], read: Callable[[], T]) -> None:
    try:
        content.set_result(read())
    except Exception as error:  # noqa: BLE001 - whatever it is, whoever waits for it gets it
        content.set_exception(error)


def make_folder(folder: Path) -> None:
    """
    Make a folder, for its owner alone, and those above it; the names of new ones are on disk then.

    Raises OSError.
    """
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Sync a folder's entries to disk: syncing a file covers its content, but not its name."""
    _sync(folder, os.O_DIRECTORY)


def sync_file(path: Path) -> None:
    """Sync the content of a file to disk, whoever wrote it. Raises OSError."""
    _sync(path, 0)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush(file: BinaryIO) -> None:
    """Sync through the descriptor that was written to, which reports write errors."""
    file.flush()
    os.fsync(file.fileno())


def write_synced(path: Path, content: bytes) -> None:
    """Write a file and sync its content; its name is on disk after `sync_folder`. Raises OSError."""
    with path.open("wb") as file:
        file.write(content)
        _flush(file)


def replace_atomically(path: Path, content: bytes, *, mode: int = 0o666, durable: bool = False) -> None:
    """
    Replace a file atomically: readers find either the old content or the new.

    `mode` is of the new file, within the umask. If it is `durable`, it is on
    disk when this returns. Raises OSError.
    """
    fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
    fresh.unlink(missing_ok=True)  # left by a dead process with the same pid
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
    """Replace a file atomically and durably. Raises OSError."""
    replace_atomically(path, content, durable=True)

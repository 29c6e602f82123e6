"""
Changes in folders as Linux tells of them (inotify): at once, and nothing wakes where there are none.
"""

import asyncio
import ctypes
import os
import struct
import sys
from collections.abc import AsyncGenerator, Iterable, Iterator
from pathlib import Path

_MASK = 0x008 | 0x040 | 0x080 | 0x100 | 0x200
"""IN_CLOSE_WRITE, IN_MOVED_FROM, IN_MOVED_TO, IN_CREATE and IN_DELETE."""
_OVERFLOW = 0x4000
_EVENT = struct.Struct("iIII")
"""Watch, mask, cookie, length of the name that follows."""
_ROOM = 1 << 16


def has_inotify() -> bool:
    """Return whether the kernel tells of every change; that of WSL does not of files that Windows has."""
    return sys.platform == "linux" and "microsoft" not in os.uname().release.lower()


async def folder_changes(folders: Iterable[Path]) -> AsyncGenerator[frozenset[str], None]:
    """
    Yield the paths that were made, written, moved or removed in these folders, not below them.

    An empty set says that there were more than the kernel could keep. Raises OSError.
    """
    descriptor, watches = _watch(folders)
    loop, news = asyncio.get_running_loop(), asyncio.Event()
    unread: list[str | None] = []

    def read() -> None:
        unread.extend(_events(os.read(descriptor, _ROOM), watches))
        news.set()

    try:
        loop.add_reader(descriptor, read)
        while True:
            await news.wait()
            news.clear()
            paths = frozenset(unread)
            unread.clear()
            yield frozenset() if None in paths else frozenset(filter(None, paths))
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def _watch(folders: Iterable[Path]) -> tuple[int, dict[int, Path]]:
    """Return a descriptor to read events from, and the folders by the numbers that are in them."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = _checked(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
    watches = dict[int, Path]()
    try:
        for folder in folders:
            number = libc.inotify_add_watch(descriptor, os.fsencode(folder), _MASK)
            watches[_checked(number, folder)] = folder
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, watches


def _checked(number: int, folder: Path | None = None) -> int:
    if number < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), folder and str(folder))
    return number


def _events(data: bytes, watches: dict[int, Path]) -> Iterator[str | None]:
    """Yield the path of each event; None for those that were lost."""
    at = 0
    while at < len(data):
        watch, mask, _, length = _EVENT.unpack_from(data, at)
        name = data[at + _EVENT.size : at + _EVENT.size + length].rstrip(b"\0")
        at += _EVENT.size + length
        if mask & _OVERFLOW:
            yield None
        elif watch in watches:
            yield str(watches[watch] / os.fsdecode(name))

"""
Changes in folders as Linux tells of them (inotify): at once, and nothing wakes where there are none.
"""

import os
import sys
from collections.abc import AsyncGenerator, Callable, Collection
from pathlib import Path


def has_inotify() -> bool:
    """Return whether the kernel tells of every change; that of WSL does not of files that Windows has."""
    return sys.platform == "linux" and "microsoft" not in os.uname().release.lower()


async def folder_changes(folders: Callable[[], Collection[Path]]) -> AsyncGenerator[str | None, None]:
    """
    Yield each path that was made, written, moved or removed in these folders, not below them.

    `folders` tells which those are now: asked after each change, as a folder may go, and come again
    as another. None says that there was more than is told. Raises OSError.
    """
    from asyncinotify import Inotify, Mask  # noqa: PLC0415  only Linux has it

    written = Mask.CREATE | Mask.CLOSE_WRITE | Mask.MOVE | Mask.DELETE
    with Inotify() as inotify:
        watched = set[Path]()
        for folder in folders():
            inotify.add_watch(folder, written)
            watched.add(folder)
        async for event in inotify:
            if Mask.Q_OVERFLOW in event.mask:
                yield None
            elif event.path is not None:
                yield str(event.path)
            if Mask.IGNORED in event.mask:  # the folder is gone
                watched -= {event.path}
            for folder in set(folders()) - watched:
                inotify.add_watch(folder, written)
                watched.add(folder)
                yield None  # what happened in it before

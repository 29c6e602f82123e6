"""
Changes in folders as Linux tells of them (inotify): at once, and nothing wakes where there are none.
"""

import os
import sys
from collections.abc import AsyncGenerator, Iterable
from pathlib import Path


def has_inotify() -> bool:
    """Return whether the kernel tells of every change; that of WSL does not of files that Windows has."""
    return sys.platform == "linux" and "microsoft" not in os.uname().release.lower()


async def folder_changes(folders: Iterable[Path]) -> AsyncGenerator[str | None, None]:
    """
    Yield each path that was made, written, moved or removed in these folders, not below them.

    None says that there were more than the kernel could keep. Raises OSError.
    """
    from asyncinotify import Inotify, Mask  # noqa: PLC0415  only Linux has it

    written = Mask.CREATE | Mask.CLOSE_WRITE | Mask.MOVE | Mask.DELETE
    with Inotify() as told:
        for folder in folders:
            told.add_watch(folder, written)
        async for event in told:
            if Mask.Q_OVERFLOW in event.mask:
                yield None
            elif event.path is not None:
                yield str(event.path)
